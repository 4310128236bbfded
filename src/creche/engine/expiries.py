"""Expiries: jobs that must have begun by a moment, or be over by one, and are let go of when it has
passed.

The store knows when every unfinished job expires, the stored ones among them; here is only when the
next one does. A job that runs is not cut short from here: its worker is told how long it may take.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from creche.engine.job import Job
from creche.engine.lane import READ_AGAIN_S
from creche.engine.timers import Alarm
from creche.errors import StoreError, StoreUnavailable
from creche.model.failure import Failure
from creche.wire.payload import encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

EVERY_S = 0.1
"""How often it is looked at the most. What has expired since is not offered all the same."""

PIECE = 1000
"""Jobs that expire in one step of the plane; other work goes on between."""


class Expiries:
    """Ends waiting jobs whose time is up, as EXPIRED."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._next_at = math.inf
        """No job expires before this moment (UTC seconds)."""
        self._is_looking = False
        self._has_begun = False
        self._is_unwritten = False
        """Whether jobs expire sooner than the store knows yet."""
        self._alarm = Alarm(core.timers, lambda: core.now(), self._look)

    def restore(self, next_at: float | None) -> None:
        """Learn what the store knows, when it is opened."""
        self._next_at = math.inf if next_at is None else next_at

    def begin(self) -> None:
        """Let go of what expires from now on."""
        self._has_begun = True
        self._arm()

    def note(self, job: Job) -> None:
        """A job that may expire has come, or waits again."""
        if job.expires_at is not None and job.expires_at < self._next_at:
            self._next_at = job.expires_at
            self._arm()

    def announced(self, tasks: Collection[str]) -> None:
        """Tasks were announced: what was accepted before may have to begin in time now. No
        checkpoint."""
        defaults = self._core.catalog.defaults
        limited = {task for task in tasks if defaults(task).expires_s is not None}
        if not limited:
            return
        jobs = [job for job in self._core.by_id.values() if job.task in limited]
        for job in jobs:
            self.shorten(job)
        if not all(job.is_committed for job in jobs):
            self._core.spawn(self._look_at_arrivals, limited)

    async def _look_at_arrivals(self, tasks: Collection[str]) -> None:
        """What was on its way to the disk when *tasks* were announced is there now."""
        await self._core.journal.wait_drained()
        for job in self._core.by_seq.values():
            if job.task in tasks:
                self.shorten(job)
        self._core.journal.wake()

    def shorten(self, job: Job) -> None:
        """Have a job that waits expire as its task's announcement says, if that is sooner than was
        known when it was accepted. What was given to a worker before has begun, or may have."""
        announced_s = self._core.catalog.defaults(job.task).expires_s
        if announced_s is None or job.attempt or not job.state.is_waiting:
            return
        if job.limits is not None and job.limits.expires_s is not None:
            return
        # One on its way to the disk, or from memory to the store, is looked at when it is there.
        if not job.is_committed or job.is_stored:
            return
        at = job.submitted_at + announced_s
        if job.expires_at is None or at < job.expires_at:
            job.expires_at = at
            self._is_unwritten = True
            self._core.journal.change(job)
            self.note(job)

    def has_passed(self, job: Job) -> bool:
        """Whether the time of a waiting job is up."""
        return job.expires_at is not None and job.expires_at <= self._core.now()

    def _arm(self) -> None:
        if self._has_begun and not self._is_looking:
            self._alarm.set(self._next_at)

    def _look(self) -> None:
        if self._next_at <= self._core.now():
            self._is_looking = True
            self._core.spawn(self._expire)
        else:
            self._arm()

    async def _expire(self) -> None:
        """End what has expired, piece after piece. What cannot be read is tried again."""
        core = self._core
        try:
            while self._next_at <= core.now():
                if self._is_unwritten:
                    self._is_unwritten = False
                    await core.journal.wait_drained()
                # What comes meanwhile is noted, and not forgotten by the answer.
                self._next_at = math.inf
                ids, next_at = await core.store.expired(core.now(), PIECE)
                self._next_at = min(self._next_at, math.inf if next_at is None else next_at)
                if ids:
                    await core.expire(ids)
                    # Until what was decided is on disk, the store would name these again.
                    await core.journal.wait_drained()
                if len(ids) == PIECE:
                    self._next_at = min(self._next_at, core.now())
            self._next_at = max(self._next_at, core.now() + EVERY_S)
        except StoreUnavailable:
            raise
        except StoreError as error:
            logger.error("jobs that have expired cannot be looked up: %s", error)
            self._next_at = core.now() + READ_AGAIN_S
        finally:
            self._is_looking = False
        self._arm()


def make_expired(job: Job) -> bytes:
    """Return the outcome of a job whose time was up before it had begun, or was tried again."""
    deadline_at = None if job.limits is None else job.limits.deadline_at
    if job.tries:
        why = "its deadline passed before it could be tried again"
    elif job.expires_at is not None and job.expires_at != deadline_at:
        why = f"it had not begun within {job.expires_at - job.submitted_at:g} s"
    else:
        why = "its deadline passed before it had begun"
    return encode_value(Failure("creche.Expired", why).as_data())
