"""Results: pushed to whoever waits for them, when they are on disk, and never polled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from creche.engine.job import Job
from creche.engine.sessions import Session
from creche.model.job import JobState
from creche.store.base import OutcomeRow
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core


class Outcomes:
    """Who waits for which job."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watchers: dict[int, list[Session]] = {}
        self._looking: dict[bytes, list[Session]] = {}
        """Ids that are being looked up: a job that ends meanwhile is pushed all the same."""

    @property
    def pinned(self) -> set[int]:
        """Seqs whose outcomes are not pruned: somebody waits, or has not said it received them."""
        pinned = set(self._watchers)
        for session in self._core.sessions:
            pinned.update(session.unreceived)
        return pinned

    def watch_job(self, session: Session, job: Job) -> None:
        """Push the end of a job that is in memory and has not ended."""
        self._add(session, job.seq)

    def watch(self, session: Session, ids: Sequence[bytes]) -> None:
        """Push the ends of these jobs; at once where a job has ended."""
        unknown = []
        for job_id in ids:
            job = self._core.by_id.get(job_id)
            if job is not None:
                self._add(session, job.seq)
            else:
                unknown.append(job_id)
                self._looking.setdefault(job_id, []).append(session)
        if unknown:
            self._core.spawn(self._look_up, unknown)

    def unwatch(self, session: Session, ids: Sequence[bytes]) -> None:
        """Stop waiting for jobs that are in memory; of others, the push is ignored."""
        for job_id in ids:
            job = self._core.by_id.get(job_id)
            if job is not None:
                self._drop(session, job.seq)

    def received(self, session: Session, number: int) -> None:
        """The peer has so many more of the results that were pushed to it."""
        for _ in range(min(number, len(session.unreceived))):
            session.unreceived.popleft()

    def forget(self, session: Session) -> None:
        """The session is over, or begins a new connection by naming what it waits for."""
        for seq in list(session.watching):
            self._drop(session, seq)
        session.unreceived.clear()

    def push(self, job: Job, state: JobState, outcome: bytes | None) -> None:
        """A job's end is on disk: tell those who wait."""
        watchers = self._watchers.pop(job.seq, None)
        if watchers is not None:
            for session in watchers:
                session.watching.discard(job.seq)
                self._send(session, job.seq, job.id, state, outcome)
        if self._looking:
            for session in self._looking.pop(job.id, ()):
                self._send(session, job.seq, job.id, state, outcome)

    def _send(
        self, session: Session, seq: int, job_id: bytes, state: JobState, outcome: bytes | None
    ) -> None:
        if session.outbox is not None:
            session.unreceived.append(seq)
            session.post(m.Ended(job_id, int(state), outcome))

    def _add(self, session: Session, seq: int) -> None:
        if seq in session.watching:
            return
        session.watching.add(seq)
        self._watchers.setdefault(seq, []).append(session)

    def _drop(self, session: Session, seq: int) -> None:
        session.watching.discard(seq)
        watchers = self._watchers.get(seq)
        if watchers is not None and session in watchers:
            watchers.remove(session)
            if not watchers:
                del self._watchers[seq]

    async def _look_up(self, ids: Collection[bytes]) -> None:
        rows = await self._core.store.outcomes(ids)
        for job_id in ids:
            sessions = self._looking.pop(job_id, None)
            if sessions is None:
                continue
            row: OutcomeRow | None = rows.get(job_id)
            for session in sessions:
                if row is None:
                    session.post(m.Missing(job_id, False))
                elif row.state is JobState.FORGOTTEN:
                    session.post(m.Missing(job_id, True))
                elif row.state.has_ended:
                    self._send(session, row.seq, job_id, row.state, row.outcome)
                else:
                    self._add(session, row.seq)
