"""Jobs whose place others have taken: each is cancelled when the one that replaces it is on disk.

Not before: a store that has no room takes nothing away. That it is to be is on disk with that one,
until it has ended: who is killed between the two does it at its next start."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import trio

from creche.engine.holders import Oust, Taking
from creche.engine.job import Job
from creche.engine.lane import READ_AGAIN_S
from creche.engine.outcomes import make_cancelled
from creche.errors import StoreError, StoreUnavailable
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.store.base import Ousted

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

OUST_AT_A_TIME = 1000
"""Jobs that are looked up in the store together to be cancelled, as others have replaced them."""


class Replaced:
    """Cancels what is replaced.

    Args:
        takings: the submissions with keys that the store does not know yet, by their ids.
    """

    def __init__(self, core: Core, takings: Mapping[bytes, Taking]) -> None:
        self._core = core
        self._takings = takings
        self.absent: dict[bytes, tuple[str, bool]] = {}
        """What is to be cancelled and is not in memory: in the store, or ended by now. Why, and
        whether also if it runs."""
        self._revived: list[Job] = []
        """Those of them that have been read back meanwhile."""
        self._is_ousting = False
        self._has_more_to_oust = trio.Event()

    def restore(self, ousted: Sequence[Ousted]) -> None:
        """Learn what was to be cancelled when the last epoch ended."""
        self.absent |= {oust.id: ("replaced", oust.oust_running) for oust in ousted}

    def begin(self) -> None:
        """Cancel that."""
        if self.absent and not self._is_ousting:
            self._is_ousting = True
            self._core.spawn(self._oust_absent)
        self._has_more_to_oust.set()

    def oust(self, by: bytes, ousts: list[Oust]) -> None:
        """Job *by* is on disk: cancel those that it replaces."""
        why = f"replaced by job {id_to_text(by)}"
        for job_id, seq, is_running_too in ousts:
            job = self._core.by_seq.get(seq)
            waits = None if job is not None else self._takings.get(job_id)
            if waits is not None:
                # What it would replace yet, who replaces it does.
                ousts += waits.ousts
            self._cancel(job_id, job, why, is_running_too)
        ousts.clear()

    def cancel(self, ids: Iterable[bytes], why: str) -> None:
        """Cancel jobs in whose place another one is on disk, whether they wait or run. No
        checkpoint."""
        for job_id in ids:
            job = self._core.by_id.get(job_id)
            is_there = job is not None and job.is_committed
            self._cancel(job_id, job if is_there else None, why, is_running_too=True)

    def _cancel(self, job_id: bytes, job: Job | None, why: str, is_running_too: bool) -> None:
        if job is None:
            self.absent[job_id] = (why, is_running_too)
            self.begin()
        elif job.state.is_waiting:
            self._core.end_waiting(job, JobState.CANCELLED, make_cancelled(why))
        elif job.state is JobState.RUNNING and is_running_too:
            self._core.leases.cancel(job, why)

    def revived(self, job: Job) -> None:
        """A job was read back, while some are to be cancelled. `cancel_revived` is called before
        anything may take it from where it is then."""
        if job.id in self.absent:
            self._revived.append(job)

    def cancel_revived(self) -> None:
        """Cancel those that were read back. No checkpoint."""
        jobs, self._revived = self._revived, []
        for job in jobs:
            # What runs stays among the absent: it is stopped when there is somebody to be told.
            if job.state.is_waiting and job.id in self.absent:
                why, _ = self.absent.pop(job.id)
                self._core.end_waiting(job, JobState.CANCELLED, make_cancelled(why))
        if jobs:
            self._core.journal.wake()

    async def _oust_absent(self) -> None:
        """Cancel them piece by piece; other work goes on between. What the store cannot read is
        tried again now and then, and keeps none of the others."""
        unread: set[bytes] = set()
        try:
            while self.absent:
                left = (job_id for job_id in self.absent if job_id not in unread)
                some = list(islice(left, OUST_AT_A_TIME))
                if not some:
                    unread.clear()
                    continue
                failed = await self._oust_some(some)
                unread |= failed
                if len(failed) == len(some):
                    self._has_more_to_oust = trio.Event()
                    with trio.move_on_after(READ_AGAIN_S):
                        await self._has_more_to_oust.wait()
        finally:
            self._is_ousting = False

    async def _oust_some(self, ids: Sequence[bytes]) -> set[bytes]:
        """Cancel these; return which the store cannot read."""
        failed: set[bytes] = set()
        why: StoreError | None = None
        for is_running_too in (False, True):
            pieces = [[i for i in ids if i in self.absent and self.absent[i][1] is is_running_too]]
            while pieces:
                piece = pieces.pop()
                try:
                    await self._oust_piece(piece, is_running_too)
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    why = error
                    if len(piece) == 1:
                        failed.update(piece)
                    else:
                        pieces = [[job_id] for job_id in piece]
        if why is not None:
            logger.warning("%d jobs that were replaced are not cancelled yet: %s", len(failed), why)
        self._revived = [job for job in self._revived if job.id in self.absent]
        return failed

    async def _oust_piece(self, ids: Sequence[bytes], is_running_too: bool) -> None:
        whys = {job_id: self.absent[job_id][0] for job_id in ids if job_id in self.absent}
        if whys:
            await self._core.cancel_these(whys, is_running_too)
        for job_id in whys:
            self.absent.pop(job_id, None)
