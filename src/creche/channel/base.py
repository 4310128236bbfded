"""What a channel is: a two-way stream of frames to one peer.

A channel carries whole frames (byte strings) and keeps their order. It knows nothing of messages.
At any time at most one task (of Trio or asyncio) sends and at most one receives; `aclose` may be
called by anyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    # Clients on asyncio use this module too, and need no Trio for it.
    import trio


class Channel(Protocol):
    """One connection, seen from one end."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for logs: ``127.0.0.1:40312`` or a name given at birth."""
        ...

    def let_in(self) -> None:
        """The peer has introduced itself: the connection is no stranger's any more, of which a
        listener keeps so many and no more."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send *frame* whole.

        Returning says that the frame has left, not that it arrived. If cancelled, half of it may
        have left: the connection is unusable from then on and is ended.

        Raises:
            ChannelClosed: this side has closed the channel.
            ChannelBroken: the other side or the network ended it, or a send was cancelled.
        """
        ...

    async def receive(self) -> bytes:
        """Wait for the next frame and return it. Cancelling loses nothing.

        What had arrived before the other side ended the connection is returned first, as far as
        no `send` has found it broken meanwhile.

        Raises:
            ChannelClosed: this side has closed the channel; what had arrived is dropped.
            ChannelBroken: the other side or the network ended it, or it broke the WebSocket
                protocol, sent text, or sent a frame over the limit.
        """
        ...

    async def aclose(self) -> None:
        """End the channel; both `send` and `receive` raise from then on.

        The closing handshake is bounded to a second and shielded, and whoever still waits in `send`
        or `receive` is woken by its end; calling again does nothing. The other side's `receive`
        returns what was sent before, then raises `ChannelBroken`.
        """
        ...


Dial: TypeAlias = Callable[[], AbstractAsyncContextManager[Channel]]
"""Connects to the plane: ``async with dial() as channel:``; leaving the block closes the channel.

Entering raises `PlaneUnreachable` if nobody answers, or somebody who is no plane; cancelling leaves
nothing behind. What the block raises comes out as it is, never in a group.
"""

Handler: TypeAlias = Callable[[Channel], Awaitable[None]]
"""What a listener runs for each connection; when it returns, the connection is closed."""


class Listen(Protocol):
    """Listens for peers until cancelled, and runs the handler for each connection."""

    async def __call__(
        self,
        handler: Handler,
        /,
        *,
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = ...,
    ) -> None:
        """Report the URLs that can be dialled through *task_status* once they can be.

        Handlers run in *handler_nursery*, which may outlive the listener, or in one of its own. A
        bad handshake ends its connection and nothing else; an error that the handler lets out is
        a bug, and ends the nursery.

        Raises:
            ListenError: it cannot listen there; nothing was begun.
        """
        ...
