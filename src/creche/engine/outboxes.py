"""What waits to be sent, to all peers together.

One peer may have much waiting for it, and that times all peers is more than any memory. Over the
limit one of those is cut that have more than half an even share of it: the one that has taken
nothing for the longest. It keeps its session: it dials again, and asks anew. Who reads what it is
sent is not cut for those who do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from creche.engine.sessions import Session

MAX_BYTES = 256 * 1024 * 1024
"""What may wait for all peers together; for one alone what its own limit says."""

STEP_BYTES = 16 * 1024
"""An outbox is counted when it has grown by this: what comes a job at a time pays nothing."""

K = TypeVar("K")


class Outboxes:
    """Bytes that wait, by session; the one that took something last is the last."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most = most
        self._sizes: dict[Session, int] = {}
        self.bytes = 0

    def grew(self, session: Session, size: int) -> None:
        """So many bytes wait for a session now; others are cut if that is too much."""
        self.bytes += size - self._sizes.get(session, 0)
        self._sizes[session] = size  # in its old place: that more waits for it is no merit
        while self.bytes > self._most and len(self._sizes) > 1:
            one_to_cut(self._sizes).give_up("too much waits to be sent, and it took none of it")

    def sent(self, session: Session, size: int) -> None:
        """A session has taken something, and so much waits for it still."""
        self.forget(session)
        if size >= STEP_BYTES:
            self._sizes[session] = size
            self.bytes += size

    def forget(self, session: Session) -> None:
        """Nothing waits for a session."""
        self.bytes -= self._sizes.pop(session, 0)


def one_to_cut(sizes: Mapping[K, int]) -> K:
    """Return the first that has more than half an even share of all that waits."""
    share = sum(sizes.values()) / len(sizes)
    return next(key for key, size in sizes.items() if size > share / 2)
