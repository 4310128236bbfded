"""The outbox of a session: everything that waits for its one sender.

Putting never waits, so that whoever receives is never held up by a slow reader; what bounds an
outbox is `size_bytes`, and the owner cuts a peer whose outbox is over its limit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import anyio

from creche.channel.base import Channel
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.session import Grammar

FRAME_TARGET_BYTES = 256 * codec.KIB
"""A frame is closed when it has grown to this. Large enough that its fixed cost does not count,
small enough that a ping or a cancel behind it does not wait long."""


PATIENCE_S = 0.02
"""How long a message that nobody waits for may wait to be sent along with another one."""

_PATIENT = (m.Received, m.Settled)
"""They let the other side forget something. A frame of their own would cost as much as a job's."""


class Outbox:
    """Messages in the order they were put, except that large ones travel in pieces beside the
    others, so that small messages pass them by. A `Goodbye` leaves after everything else, and what
    is put after it is dropped: it is the last word."""

    def __init__(self, limits: codec.Limits = codec.DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._small: deque[tuple[m.Message, int]] = deque()
        self._large: deque[Iterator[m.Piece]] = deque()
        self._streams = 0
        self._last_word: m.Goodbye | None = None
        self._is_pressing = False
        """Whether anything of it is not to wait for others."""
        self._wake: anyio.Event | None = None
        self._wait: anyio.CancelScope | None = None
        self.size_bytes = 0
        self.is_finished = False
        """Whether the last word was taken: nothing follows."""

    def __bool__(self) -> bool:
        if self._small or self._large:
            return True
        return self._last_word is not None and not self.is_finished

    def put(self, message: m.Message) -> None:
        """Add *message*; the sender takes it with everything else that is there by then.

        Raises:
            LocalProtocolError: it is a large one, and holds what CBOR cannot carry.
            MessageTooLarge: no peer would take it in; nothing was added.
        """
        if self._last_word is not None:
            return
        size = codec.size_hint(message)
        if type(message) is m.Goodbye:
            self._last_word = message
        elif size > self._limits.piece_bytes:
            data = codec.encode_message(message)
            self._streams += 1
            self._large.append(codec.cut(self._streams, data, self._limits.piece_bytes))
            size = len(data)
        else:
            self._small.append((message, size))
        self.size_bytes += size
        if self._is_pressing:
            return
        if type(message) not in _PATIENT:
            self._is_pressing = True
            if self._wake is not None:
                self._wake.set()
                self._wake = None
        elif self._wait is not None and self._wait.deadline == math.inf:
            # Without waking the sender, which most likely has a reason to wake before that.
            self._wait.deadline = anyio.current_time() + PATIENCE_S

    def put_all(self, messages: Iterable[m.Message]) -> None:
        """Add several messages."""
        for message in messages:
            self.put(message)

    def clear(self) -> None:
        """Forget everything: a new connection begins with facts, not with what was left over."""
        self._small.clear()
        self._large.clear()
        self._last_word = None
        self._is_pressing = False
        self.size_bytes = 0
        self.is_finished = False

    def take(self) -> list[m.Message]:
        """Remove and return what fits one frame; empty when nothing waits."""
        frame: list[m.Message] = []
        room = FRAME_TARGET_BYTES
        small, most = self._small, self._limits.messages - 2
        while small and room > 0 and len(frame) < most:
            message, size = small.popleft()
            frame.append(message)
            room -= size
        taken = FRAME_TARGET_BYTES - room
        if self._large:
            # One piece a frame, of each large message in turn.
            pieces = self._large.popleft()
            piece = next(pieces)
            frame.append(piece)
            taken += len(piece.data)
            if not piece.is_last:
                # Only the first so many take turns: the other side puts no more together at a time.
                self._large.insert(min(len(self._large), self._limits.streams - 1), pieces)
        if self._last_word is not None and not (small or self._large or self.is_finished):
            frame.append(self._last_word)
            self.is_finished = True
        if self:
            self.size_bytes = max(0, self.size_bytes - taken)
        else:
            self.size_bytes = 0
            self._is_pressing = False
        return frame

    async def wait(self) -> None:
        """Wait until there is something to send; what nobody waits for is given a while."""
        while not self._is_pressing:
            self._wake = anyio.Event()
            deadline = anyio.current_time() + PATIENCE_S if self else math.inf
            try:
                with anyio.CancelScope(deadline=deadline) as self._wait:
                    await self._wake.wait()
            finally:
                self._wake = self._wait = None
            if self:
                return


async def send_from(
    outbox: Outbox,
    channel: Channel,
    grammar: Grammar,
    on_sent: Callable[[], None] = lambda: None,
) -> None:
    """Send whatever *outbox* holds over *channel*, a frame at a time, until its last word; call
    *on_sent* after each frame.

    Only this task sends on the channel. A send that is cancelled ends the connection.

    Raises:
        ChannelClosed, ChannelBroken: there is no connection any more.
    """
    while not outbox.is_finished:
        await outbox.wait()
        while frame := outbox.take():
            await channel.send(grammar.send(frame))
            on_sent()
