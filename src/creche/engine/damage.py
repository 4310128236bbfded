"""Damaged rows: what the store has of a job, and cannot be read any more.

Such a job is set aside by itself, as FAILED with a reason that says what is wrong, so that it is
among the dead jobs: it would run without what its submission said of it (a deadline, that it runs
at most once). Everything else goes on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from creche.engine.job import Job
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.wire.payload import encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")


class Damage:
    """The damaged jobs that were read back, until they are set aside."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._found: list[tuple[Job, str]] = []

    def note(self, job: Job, why: str) -> None:
        """A job was read back, of which not everything could be read. `set_aside` is called when it
        is where it would be otherwise, before anything may take it from there."""
        self._found.append((job, why))

    def set_aside(self) -> None:
        """End what was found. No checkpoint."""
        found, self._found = self._found, []
        for job, why in found:
            if job.state.has_ended:
                continue  # it was cancelled, or had expired: that is why it was read back
            logger.error("job %s is set aside as failed: %s", id_to_text(job.id), why)
            outcome = encode_value(Failure("creche.JobDamaged", f"set aside: {why}").as_data())
            if job.state.is_waiting:
                self._core.end_waiting(job, JobState.FAILED, outcome)
            else:
                self._core.leases.forget_orphan(job)
                self._core.end(job, JobState.FAILED, outcome, job.leased_at)
        if found:
            self._core.journal.wake()
