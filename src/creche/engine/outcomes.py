"""Results: pushed to whoever waits for them, when they are on disk, and never polled.

A session waits for a job by its id, from the moment it says so to the moment the outcome is sent.
Until the peer has said that it received it, and while its connection is away or new, the outcome is
**pinned**: it is not pruned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import trio

from creche.engine.damage import make_damaged
from creche.engine.job import Job
from creche.engine.sessions import NOT_KNOWN, Session
from creche.errors import Refused, StoreError, StoreUnavailable
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.store.base import OutcomeRow
from creche.wire import messages as m
from creche.wire.payload import encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

LOOK_UP = 1000
"""Ids that are looked up in the store at a time."""

LOOK_UP_BYTES = 4 * 1024 * 1024
"""How much of their outcomes is read at a time; one larger than that is read alone."""

MAX_REASON = 1000
"""Characters kept of why a job was cancelled."""


class Outcomes:
    """Who waits for which job."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watchers: dict[bytes, list[Session]] = {}
        self._unknown: dict[bytes, None] = {}
        """Ids that are not in memory, and are to be looked up, in order."""
        self._is_looking = False

    @property
    def pinned(self) -> set[int]:
        """Seqs whose outcomes are not pruned: somebody waits, has not said it received them, or has
        yet to name again what it waited for."""
        now = trio.current_time()
        pinned: set[int] = set()
        for session in self._core.sessions:
            kept = session.kept
            while kept and kept[0][0] <= now:
                kept.popleft()
            pinned.update(session.watching.values(), session.unreceived.values())
            pinned.update(seq for _, seq in kept)
        return pinned

    def has_room(self, session: Session, ids: Sequence[bytes]) -> bool:
        """Whether the session may wait for these jobs too."""
        watching, limit = session.watching, self._core.settings.watches
        if len(watching) + len(ids) <= limit:
            return True
        return len(watching) + len({job_id for job_id in ids if job_id not in watching}) <= limit

    def watch_job(self, session: Session, job: Job) -> None:
        """Push the end of a job that is in memory and has not ended."""
        self._add(session, job.id, job.seq)

    def watch(self, session: Session, ids: Sequence[bytes]) -> int:
        """Push the ends of these jobs; at once where a job has ended. Returns how many of them
        have to be looked up."""
        unknown = 0
        for job_id in ids:
            job = self._core.by_id.get(job_id)
            if job is not None:
                self._add(session, job_id, job.seq)
            else:
                unknown += 1
                self._add(session, job_id, NOT_KNOWN)
                self._unknown[job_id] = None
        self._begin_to_look()
        return unknown

    def look_again(self, job_id: bytes) -> None:
        """A submission that some wait for repeats a job that was there before, or was not taken:
        they wait for what the store has under that id."""
        watchers = self._watchers.get(job_id)
        if watchers is not None:
            for session in watchers:
                session.watching[job_id] = NOT_KNOWN
            self._unknown[job_id] = None
            self._begin_to_look()

    def unwatch(self, session: Session, ids: Sequence[bytes]) -> None:
        """Stop waiting for these jobs."""
        for job_id in ids:
            self._drop(session, job_id)

    def received(self, session: Session, ids: Sequence[bytes]) -> None:
        """The peer has these of the results that were pushed to it."""
        for job_id in ids:
            session.unreceived.pop(job_id, None)

    def resume(self, session: Session) -> None:
        """The session begins a new connection by naming what it waits for: nothing is pushed of
        what it waited for before, and it has its time to say so."""
        for seq in session.watching.values():
            self._keep(session, seq)
        for seq in session.unreceived.values():
            self._keep(session, seq)
        self._forget_watches(session)

    def forget(self, session: Session) -> None:
        """The session is over."""
        self._forget_watches(session)
        session.kept.clear()

    def push(self, job: Job, state: JobState, outcome: bytes | None) -> None:
        """A job's end is on disk: tell those who wait."""
        watchers = self._watchers.pop(job.id, None)
        if watchers is not None:
            for session in watchers:
                self._send(session, job.seq, job.id, state, outcome)

    def go_on(self, session: Session) -> None:
        """The peer has taken in enough of what it was sent: push more of what was held back."""
        for job_id in list(islice(session.owed, LOOK_UP)):
            del session.owed[job_id]
            self._unknown[job_id] = None
        # These are sent, or held back again; the rest of them goes on when they are sent.
        session.is_held_up = bool(session.owed)
        self._begin_to_look()

    # --- inside ---------------------------------------------------------------------------------

    def _send(
        self, session: Session, seq: int, job_id: bytes, state: JobState, outcome: bytes | None
    ) -> None:
        session.watching.pop(job_id, None)
        if session.outbox is None:
            self._keep(session, seq)
        elif session.is_congested:
            # Still waited for, so that it stays pinned, and looked up again: what is held back
            # takes no memory.
            self._add(session, job_id, seq)
            self._hold_back(session, job_id)
        else:
            session.unreceived[job_id] = seq
            if len(session.unreceived) > self._core.settings.watches:
                session.unreceived.popitem(last=False)
            session.post(m.Ended(job_id, int(state), outcome))

    def _miss(self, session: Session, job_id: bytes, *, is_forgotten: bool) -> None:
        session.watching.pop(job_id, None)
        session.post(m.Missing(job_id, is_forgotten))

    def _keep(self, session: Session, seq: int) -> None:
        """Pin an outcome for as long as the peer may take to come back, and that long again to name
        it."""
        until = trio.current_time() + 2 * self._core.settings.grace_s
        session.kept.append((until, seq))

    def _hold_back(self, session: Session, job_id: bytes) -> None:
        session.owed[job_id] = None
        session.is_held_up = True

    def _add(self, session: Session, job_id: bytes, seq: int) -> None:
        if session.is_over:
            return
        if job_id not in session.watching:
            self._watchers.setdefault(job_id, []).append(session)
        session.watching[job_id] = seq

    def _drop(self, session: Session, job_id: bytes) -> None:
        if session.watching.pop(job_id, None) is not None:
            session.owed.pop(job_id, None)
            watchers = self._watchers[job_id]
            watchers.remove(session)
            if not watchers:
                del self._watchers[job_id]
                self._unknown.pop(job_id, None)

    def _forget_watches(self, session: Session) -> None:
        for job_id in list(session.watching):
            self._drop(session, job_id)
        session.unreceived.clear()

    # --- what is not in memory ------------------------------------------------------------------

    def _begin_to_look(self) -> None:
        if self._unknown and not self._is_looking:
            self._is_looking = True
            self._core.spawn(self._look_up)

    async def _look_up(self) -> None:
        """Look up what is to be, and what comes up meanwhile, one bounded piece after another."""
        try:
            while self._unknown:
                ids = list(islice(self._unknown, LOOK_UP))
                for job_id in ids:
                    del self._unknown[job_id]
                ids = [job_id for job_id in ids if self._may_be_sent(job_id)]
                if ids:
                    await self._look_up_piece(ids)
                else:
                    await trio.lowlevel.checkpoint()
        finally:
            self._is_looking = False

    def _may_be_sent(self, job_id: bytes) -> bool:
        """Whether somebody who waits for this job could take in its result now; where not, it is
        held back unread."""
        watchers = self._watchers.get(job_id, ())
        # What was never looked up is, to be pinned.
        if any(not s.is_congested or s.watching[job_id] == NOT_KNOWN for s in watchers):
            return True
        for session in watchers:
            self._hold_back(session, job_id)
        return False

    async def _look_up_piece(self, ids: Sequence[bytes]) -> None:
        try:
            rows = await self._core.store.outcomes(ids, LOOK_UP_BYTES)
        except StoreUnavailable:
            raise
        except StoreError as error:
            await self._look_up_singly(ids, error)
        else:
            for job_id in ids:
                self._found(job_id, rows.get(job_id))

    async def _look_up_singly(self, ids: Sequence[bytes], error: StoreError) -> None:
        """The store cannot read one of these: only who waits for that one has to know."""
        if len(ids) > 1:
            for job_id in ids:
                await self._look_up_piece([job_id])
            return
        (job_id,) = ids
        logger.warning("job %s cannot be looked up: %s", id_to_text(job_id), error)
        refusal = Refused("store", f"job {id_to_text(job_id)} cannot be looked up: {error}")
        for session in self._watchers.pop(job_id, ()):
            del session.watching[job_id]
            if session.cut is not None:
                session.cut(refusal)

    def _found(self, job_id: bytes, row: OutcomeRow | None) -> None:
        """Tell those who wait what the store knew of a job, unless it has ended meanwhile."""
        watchers = self._watchers.get(job_id)
        if watchers is None:
            return
        if row is None:
            self._not_found(job_id, watchers)
            return
        for session in watchers:
            session.found += 1
        if row.state is JobState.FORGOTTEN:
            for session in self._watchers.pop(job_id):
                self._miss(session, job_id, is_forgotten=True)
        elif row.is_left:
            for session in watchers:
                session.watching[job_id] = row.seq
            self._unknown[job_id] = None
        elif row.state.has_ended:
            outcome = row.outcome if row.damage is None else make_damaged(row.damage)
            for session in self._watchers.pop(job_id):
                self._send(session, row.seq, job_id, row.state, outcome)
        else:
            for session in watchers:
                session.watching[job_id] = row.seq

    def _not_found(self, job_id: bytes, watchers: Sequence[Session]) -> None:
        """The store did not know the job when it was asked; it may have been submitted since."""
        if job_id in self._unknown:
            return  # Asked for again since, and looked up again in a moment.
        seq = max(session.watching[job_id] for session in watchers)
        if seq == NOT_KNOWN:
            for session in self._watchers.pop(job_id):
                self._miss(session, job_id, is_forgotten=False)
        else:
            for session in watchers:
                session.watching[job_id] = seq


def make_cancelled(why: str) -> bytes | None:
    """Return the outcome of jobs that were cancelled, with the reason; None if none was given."""
    if not why:
        return None
    return encode_value(Failure("creche.Cancelled", why[:MAX_REASON]).as_data())
