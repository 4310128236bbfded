"""What a channel is: a two-way stream of frames to one peer.

A channel carries whole frames (byte strings) and keeps their order. It knows nothing of messages. Exactly one
Trio (or asyncio) task sends and exactly one receives; `aclose` may be called by anyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias


class Channel(Protocol):
    """One connection, seen from one end."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for logs: ``127.0.0.1:40312`` or a name given at birth."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send *frame* whole.

        If cancelled, half of the frame may have left: the connection is unusable from then on and
        is ended.

        Raises:
            ChannelClosed: this side has closed the channel.
            ChannelBroken: the other side or the network ended it.
        """
        ...

    async def receive(self) -> bytes:
        """Wait for the next frame and return it. Cancelling loses nothing.

        Raises:
            ChannelClosed: this side has closed the channel.
            ChannelBroken: the other side or the network ended it, or it broke the WebSocket
                protocol, sent text, or sent a frame over the limit.
        """
        ...

    async def aclose(self) -> None:
        """End the channel; both `send` and `receive` raise from then on, wherever they wait.

        The closing handshake is bounded to about a second and shielded; calling again does nothing.
        """
        ...


Dial: TypeAlias = Callable[[], Awaitable[Channel]]
"""Connects to the plane. Raises `PlaneUnreachable` if nobody answers; cancelling leaves nothing behind."""

Handler: TypeAlias = Callable[[Channel], Awaitable[None]]
"""What a listener runs for each connection; when it returns, the connection is closed."""
