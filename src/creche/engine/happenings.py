"""What happens, for people who follow it: the events of the plane, and what becomes of jobs.

It is gathered only while somebody follows, into a ring of the newest ones: each view has all of
them, numbered, so that a reader that misses a view misses nothing, as long as it is not too slow.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from creche.engine.journal import Entries
from creche.events import Event
from creche.model.ids import id_to_text
from creche.store.filters import error_of
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

T = TypeVar("T")

MOST = 500
"""Events in a view; older ones are left out, which their numbers tell."""


class Happenings:
    """Gathers what happens, from the first follower to the last."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ring: deque[dict[str, Any]] = deque()
        self._number = 0
        self._unsubscribe: Callable[[], None] | None = None

    def begin(self) -> None:
        """Somebody follows."""
        if self._unsubscribe is None:
            self._unsubscribe = self._core.events.subscribe(self._on_event)
            self._core.happenings = self

    def end(self) -> None:
        """Nobody does any more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            self._core.happenings = None
            self._ring.clear()

    async def view(self, params: m.Facts) -> dict[str, Any]:
        """Return the newest events, oldest first, and how many there were in this epoch."""
        return {"epoch": self._core.epoch, "number": self._number, "events": list(self._ring)}

    def committed(self, entries: Entries) -> None:
        """A batch is on disk. No checkpoint."""
        for arrival in self._newest(entries.arrivals):
            job = arrival.job
            self._add("submitted", job=id_to_text(job.id), task=job.task, queue=job.lane.queue)
        for row, tried in self._newest(list(zip(entries.tries, entries.tried, strict=True))):
            self._add(
                "tried",
                job=id_to_text(tried.id),
                task=tried.task,
                attempt=row.attempt,
                why=error_of(row.state, row.outcome),
            )
        for job, end, _, _ in self._newest(list(entries.endings.values())):
            self._add(
                end.state.word,
                job=id_to_text(job.id),
                task=job.task,
                attempt=end.attempt,
                why=error_of(end.state, end.outcome),
            )

    def _newest(self, all_of_them: Sequence[T]) -> Sequence[T]:
        """Return as many as a view has room for, and count the others."""
        self._number += max(0, len(all_of_them) - MOST)
        return all_of_them[-MOST:]

    def _on_event(self, event: Event) -> None:
        level = logging.getLevelName(event.level).lower()
        self._add("plane", level=level, why=str(event))
        self._core.note()

    def _add(self, kind: str, **facts: Any) -> None:
        self._number += 1
        self._ring.append({"n": self._number, "at": self._core.now(), "kind": kind, **facts})
        if len(self._ring) > MOST:
            self._ring.popleft()
