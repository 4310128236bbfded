"""What a peer does with the WebSocket frames below our own: they are followed, without a look into
them, so that nobody can hold up the plane, or fill its memory, with the smallest ones.

An empty frame is six bytes, and a thousand of them come with one read. The library handles all
frames of a read in one go, keeps each part of a message until the last has come, and answers each
ping. So it is given a few frames at a time, and a message has so many parts.

No I/O: `take` says what may be passed on, and how long to wait before that.
"""

from __future__ import annotations

MAX_PARTS = 10_000
"""Parts that one message may come in: WebSocket frames, and reads of an unfinished one. The largest
message at a hundred bytes a packet is about as many."""

AT_A_TIME = 64
"""WebSocket frames that are handled before others have their turn."""

SMALL_FRAMES = 1_000
"""Frames and reads that say nothing (pings, pongs, parts of messages), beyond those that messages
are made up for with, before a peer is slowed down."""

SMALL_FRAME_S = 0.0005
"""How long a peer that has sent so many waits for each further one; one such peer after the other
does, so that they are never more of them together."""

MESSAGE_EARNS = 32
"""Parts and pings that a whole message makes up for."""


class TooManyParts(Exception):
    """A message came in more than `MAX_PARTS` parts."""


class Gauge:
    """Follows the frames of one connection, as they come from a client (masked)."""

    def __init__(self) -> None:
        self._skip = 0
        """Bytes of a frame's content that are yet to come."""
        self._head = b""
        """The beginning of a frame's head, of which the rest is yet to come."""
        self._ends_message = False
        self._parts = 0
        self._idle = 0

    @property
    def wait_s(self) -> float:
        """How long to wait before what was taken is passed on; 0 for all but the worst."""
        over = self._idle - SMALL_FRAMES
        return SMALL_FRAME_S * min(over, AT_A_TIME) if over > 0 else 0.0

    def take(self, data: bytes | bytearray | memoryview) -> int:
        """Return how much of *data* may be passed on now.

        Raises:
            TooManyParts: the connection is to end.
        """
        size = len(data)
        if self._skip >= size and not self._head:
            # In the middle of a large frame.
            self._skip -= size
            if self._skip:
                self._count_part()
            else:
                self._frame_ended()
            return size
        at = frames = 0
        if self._skip:
            at, self._skip = self._skip, 0
            self._frame_ended()
        while at < size and frames < AT_A_TIME:
            head = self._head + bytes(data[at : at + 14 - len(self._head)])
            length = _head_length(head)
            if length > len(head):
                self._head = head
                self._count_part()
                return size
            at += length - len(self._head)
            self._head = b""
            frames += 1
            self._begin(head)
            content = _content_length(head)
            if at + content > size:
                self._skip = at + content - size
                self._count_part()
                return size
            at += content
            self._frame_ended()
        return at

    def _begin(self, head: bytes) -> None:
        opcode = head[0] & 0x0F
        self._ends_message = opcode < 8 and bool(head[0] & 0x80)

    def _frame_ended(self) -> None:
        if self._ends_message:
            self._parts = 0
            self._idle = max(0, self._idle - MESSAGE_EARNS)
        else:
            self._count_part()

    def _count_part(self) -> None:
        self._idle += 1
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise TooManyParts


def _head_length(head: bytes) -> int:
    """How long a frame's head is; more than is there as long as that does not tell."""
    if len(head) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def _content_length(head: bytes) -> int:
    said = head[1] & 0x7F
    if said < 126:
        return said
    return int.from_bytes(head[2 : 4 if said == 126 else 10], "big")
