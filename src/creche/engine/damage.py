"""Damaged rows: what the store has of a job, and cannot be read any more.

Such a job is set aside by itself, as FAILED with a reason that says what is wrong, so that it is
among the dead jobs: it would run without what its submission said of it (a deadline, that it runs
at most once), or what was counted of it. One that could not be found again by anyone, as not even
its id can be read, is left in the file as it is. Everything else goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.parks import DEFAULT_QUEUE, is_park
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.store.base import DAMAGED_LANE, JobRow, LaneRow
from creche.wire.payload import encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")


class Damage:
    """The damaged jobs that were read back, until they are set aside."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._found: list[tuple[Job, str]] = []
        self._left: set[int] = set()
        """Seqs of the rows that are left alone: each is told once."""

    def note(self, job: Job, why: str) -> None:
        """A job was read back, of which not everything could be read. `set_aside` is called when it
        is where it would be otherwise, before anything may take it from there."""
        self._found.append((job, why))

    def leave(self, row: JobRow) -> bool:
        """A row has no id: it stays in the file as it is. Return whether it was met just now, so
        that whoever has counted it counts it out."""
        if row.seq in self._left:
            return False
        self._left.add(row.seq)
        logger.error("a job is left alone in the store: %s", row.damage)
        return True

    @staticmethod
    def readable(lanes: Iterable[LaneRow]) -> list[LaneRow]:
        """Return what lanes stand for. Those whose jobs are parked for nothing that there is have a
        queue of their own."""
        rows = []
        for row in lanes:
            if not is_park(row.park):
                queue = f"{DAMAGED_LANE}{row.lane}"
                logger.error(
                    "row %d of lane is damaged: park is %r; its jobs wait in queue %s for a worker "
                    "that listens there",
                    *(row.lane, row.park, queue),
                )
                rows.append(LaneRow(row.lane, queue, int(Priority.NORMAL), ""))
            else:
                rows.append(row)
        return rows

    def lane_of(self, row: JobRow) -> Lane:
        """Return a lane for a job whose own is none that there is."""
        key = (DEFAULT_QUEUE, int(Priority.NORMAL), "")
        return self._core.lanes.get(key, (DEFAULT_QUEUE, Priority.NORMAL))

    def set_aside(self) -> None:
        """End what was found. No checkpoint."""
        found, self._found = self._found, []
        for job, why in found:
            if job.state.has_ended:
                continue  # it was cancelled, or had expired: that is why it was read back
            logger.error("job %s is set aside as failed: %s", id_to_text(job.id), why)
            outcome = make_damaged(f"set aside: {why}")
            if job.state.is_waiting:
                self._core.end_waiting(job, JobState.FAILED, outcome)
            else:
                self._core.leases.forget_orphan(job)
                self._core.end(job, JobState.FAILED, outcome, job.leased_at)
        if found:
            self._core.journal.wake()


def make_damaged(why: str) -> bytes:
    """Return the outcome of a job of which not everything can be read any more."""
    return encode_value(Failure("creche.JobDamaged", why).as_data())
