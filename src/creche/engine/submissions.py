"""Submissions: from a message to a job on its way to the disk."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from creche.engine.asks import Ask, BadKey
from creche.engine.claims import Claims
from creche.engine.doubts import Doubts
from creche.engine.hints import Hints
from creche.engine.holders import NOTHING_KNOWN, Known
from creche.engine.job import Job
from creche.engine.journal import Arrival
from creche.engine.lane import Lane
from creche.engine.options import check_options, due_at, limits_of
from creche.engine.places import Places
from creche.engine.refusals import STOPPING, parent_refusal, refusal, watches_refusal
from creche.engine.sessions import Session
from creche.engine.unique import UniqueKeys
from creche.model.job import JobState
from creche.model.limits import TimeLimits
from creche.store.base import OustRow, Verdict
from creche.wire import messages as m
from creche.wire.payload import encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core


class Submissions:
    """Takes what clients and running jobs submit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.places = Places(core)
        self.claims = Claims(core)
        """Who submitted an id while its first submission waited for room, or was on its way to the
        disk."""
        self._hints = Hints(core)
        self._doubts = Doubts(core, self._take)
        self.unique = UniqueKeys(core, self._doubts.add)
        self._waiting: dict[bytes, Lane] = {}
        """Ids that wait for room in a lane, where there is no disk to put them on."""
        self._full: set[Lane] = set()
        """The lanes they wait for."""

    def workers_changed(self) -> None:
        """Workers came, went, or know other tasks now: jobs may have to wait elsewhere."""
        self.places.forget()
        self._hints.forget()

    def submit(self, session: Session, message: m.Submit) -> None:
        """Take a submission: decline it, put it on its way, or look it up first if it was sent
        before, or has a unique key. No checkpoint."""
        asks: Sequence[Ask] = ()
        # What else it says is looked at first: keys may depend on it. If that is wrong, it is
        # declined as any other.
        if self.unique.said.concerns(message) and check_options(message.options or {}) is None:
            try:
                asks = self.unique.said.of(message)
            except BadKey as error:
                # It may have been accepted, before its task was announced like this.
                if message.id not in self._core.by_id:
                    if message.flags & m.RESENT:
                        self._doubts.add(session, message, problem=str(error))
                    else:
                        session.decline(message.n, "bad-key", str(error))
                    return
        if (
            message.flags & m.RESENT or session.doubts.number or asks
        ) and message.id not in self._core.by_id:
            self._doubts.add(session, message, asks)
        else:
            self._take(session, message)

    def _take(
        self,
        session: Session,
        message: m.Submit,
        asks: Sequence[Ask] = (),
        known: Known = NOTHING_KNOWN,
    ) -> None:
        core = self._core
        if message.flags & m.RESENT and message.n in session.declined:
            return  # It was sent again before that answer arrived.
        if self._waiting and message.id in self._waiting:
            # It may be the same one, sent again: then what it waits for will answer both.
            self._wait(session, message, self._waiting[message.id])
            return
        if (
            message.flags & m.WATCH
            and len(session.watching) >= core.settings.watches
            and not core.outcomes.has_room(session, (message.id,))
        ):
            session.post(m.Declined(message.n, *watches_refusal(core.settings)))
            return
        job = core.by_id.get(message.id)
        if job is not None:
            self._submitted_before(session, message, job)
            return
        why = refusal(core, session, message)
        if why is None and core.limits.any:
            why = core.limits.refusal(message)
        if why is not None:
            session.post(m.Declined(message.n, *why))
            return
        parent: Job | None = None
        if message.options is not None and message.is_nested:
            parent = core.leases.held_by(*message.options["parent"])
            why = parent_refusal(core.settings, parent)
            if why is not None:
                session.post(m.Declined(message.n, *why))
                return
        lane = self.places.find(message, session.access)
        if isinstance(lane, tuple):
            session.post(m.Declined(message.n, *lane))
            return
        if asks and self.unique.meets(session, message, asks, known):
            return
        self._hints.give(session, message, lane)
        if not core.spills and parent is None and (lane.waiting or not lane.has_room):
            self._wait(session, message, lane)
        else:
            self._arrive(session, message, lane, parent)

    def put(self, message: m.Submit, verdict: Verdict) -> tuple[str, str] | None:
        """Take a job that the plane itself submits, and which waits for no room, with what becomes
        of the one that it is retried for; return why it cannot, None if both are on their way to
        the disk. No checkpoint."""
        core = self._core
        if message.id in core.by_id:
            core.journal.judge(verdict)
            return None
        if core.is_stopping:
            return STOPPING
        if core.journal.failing is not None:
            return "store-full", f"the plane's store takes nothing: {core.journal.failing}"
        why = core.limits.refusal(message)
        if why is not None:
            return why
        lane = self.places.find(message)
        if isinstance(lane, tuple):
            return lane
        self.unique.take_over(message)
        # Before the job, which may be the last of its batch.
        core.journal.judge(verdict)
        self._arrive(None, message, lane, None)
        return None

    # --- waiting for room -----------------------------------------------------------------------

    def admit_waiting(self) -> None:
        """Let in what waits for room, in order, wherever there is some again."""
        for lane in list(self._full):
            while lane.waiting and lane.has_room:
                _, (session, message) = lane.waiting.popitem(last=False)
                del self._waiting[message.id]
                session.unaccepted.remove(len(message.payload))
                self._admit(session, message)
            if not lane.waiting:
                self._full.discard(lane)

    def withdraw(self, ids: Collection[bytes]) -> set[bytes]:
        """Decline those submissions that wait, for room or to be looked up, as somebody has
        cancelled them; return which were."""
        withdrawn = {job_id for job_id in ids if self._withdraw_waiting(job_id)}
        return withdrawn | self._doubts.withdraw(ids) | self.unique.withdraw(ids)

    async def wait_for_resent(self, ids: Collection[bytes]) -> None:
        """Wait until it is known whether those of these ids that were sent before are jobs."""
        await self._doubts.wait_for_resent(ids)

    def admit_now(self, job_id: bytes) -> None:
        """Let a submission in that waits for room, whether there is some or not."""
        lane = self._waiting.pop(job_id, None)
        if lane is not None:
            session, message = lane.waiting.pop(job_id)
            session.unaccepted.remove(len(message.payload))
            self._admit(session, message)

    def _withdraw_waiting(self, job_id: bytes) -> bool:
        lane = self._waiting.pop(job_id, None)
        if lane is None:
            return False
        session, message = lane.waiting.pop(job_id)
        session.unaccepted.remove(len(message.payload))
        why = "it was cancelled while it waited for room"
        for submitter, n in ((session, message.n), *self.claims.take_out(job_id)):
            submitter.decline(n, "cancelled", why)
        self.unique.released(job_id)
        return True

    def resume(self, session: Session) -> None:
        """The session begins a new connection by submitting again whatever was not answered."""
        self._doubts.drop(session)
        self.unique.forget(session)
        session.declined.clear()

    def forget(self, session: Session) -> None:
        """The session is over: what it waited to submit was never accepted. Who submitted the same
        waits on in its place."""
        self._doubts.drop(session)
        self.unique.forget(session)
        self.claims.forget(session)
        for lane in self._full:
            for job_id in [i for i, (other, _) in lane.waiting.items() if other is session]:
                self._hand_on(lane, job_id)

    def _wait(self, session: Session, message: m.Submit, lane: Lane) -> None:
        """The memory store's window is the whole lane: the submitter waits, until its deadline."""
        taken = self._waiting.get(message.id)
        if taken is None:
            self._waiting[message.id] = lane
            self._full.add(lane)
            session.unaccepted.add(len(message.payload))
            lane.waiting[message.id] = (session, message)
            return
        first, said = taken.waiting[message.id]
        if (first, said.n) != (session, message.n):
            self.claims.add(session, message)

    def _admit(self, session: Session, message: m.Submit) -> None:
        job = self._core.by_id.get(message.id)
        if job is not None:
            # The same id came another way meanwhile: one id is one job.
            self._submitted_before(session, message, job)
            return
        lane = self.places.find(message, session.access)
        if not isinstance(lane, tuple):
            self._arrive(session, message, lane, None)
            return
        for submitter, n in ((session, message.n), *self.claims.take_out(message.id)):
            submitter.decline(n, *lane)
        self.unique.released(message.id)

    def _hand_on(self, lane: Lane, job_id: bytes) -> None:
        """Give the place of a submission that waits to the next who submitted the same id."""
        heir = self.claims.next_of(job_id)
        if heir is None:
            del self._waiting[job_id], lane.waiting[job_id]
            self.unique.released(job_id)
            return
        session, message = lane.waiting[job_id] = heir
        session.unaccepted.add(len(message.payload))

    def _submitted_before(self, session: Session, message: m.Submit, job: Job) -> None:
        if not job.is_committed:
            self.claims.add(session, message)
            return
        session.post(m.Accepted([message.n]))
        if message.flags & m.WATCH:
            self._core.outcomes.watch_job(session, job)

    # --- from schedules -------------------------------------------------------------------------

    def lane_with_room(self, message: m.Submit) -> Lane | None:
        """Return where a job would wait, None if there is no room for it now."""
        lane = self.places.find(message)
        if isinstance(lane, tuple):
            return None
        if not self._core.spills and (lane.waiting or not lane.has_room):
            return None
        return lane

    def arrive(
        self, session: Session, message: m.Submit, lane: Lane, replaces: Collection[bytes] = ()
    ) -> None:
        """Put a job of the plane's own on its way: *session* is told when it is on disk. So is, by
        whoever opens the store next, what it *replaces*, if that is not cancelled before."""
        self.unique.take_over(message)
        if replaces:
            by = self._core.next_seq + 1
            self._core.journal.oust([OustRow(job_id, by, True) for job_id in replaces])
        self._arrive(session, message, lane, None)

    # --- on the way -----------------------------------------------------------------------------

    def _arrive(
        self, session: Session | None, message: m.Submit, lane: Lane, parent: Job | None
    ) -> None:
        core = self._core
        core.next_seq = seq = core.next_seq + 1
        size = len(message.payload)
        state = JobState.PARKED if lane.park else JobState.QUEUED
        now = core.now()
        options = None if message.options is None else encode_value(message.options)
        job = Job(seq, message.id, message.task, lane, state, message.payload, options, now)
        taking = self.unique.takings.get(message.id) if self.unique.takings else None
        if message.options is not None:
            job.delivery = message.options.get("delivery")
            job.due_at = due_at(message.options, now)
            job.limits = limits_of(message.options)
            job.headers = message.options.get("headers")
        if taking is not None and taking.due_at is not None:
            job.due_at = taking.due_at
        job.expires_at = self.expires_at(job)
        if core.limits.any:
            job.keys = core.limits.keys_of(message)
        if parent is not None:
            parent.children += 1
            job.parent = parent.seq
        stored = core.spills and (lane.stored > 0 or not lane.has_room)
        if job.due_at is not None:
            job.state = JobState.DELAYED
            core.delays.enter(job)
            stored = job.is_stored
        elif stored:
            core.tails.deepen(lane)
        else:
            lane.reserve(size)
        core.by_id[message.id] = job
        if session is not None:
            session.unaccepted.add(size)
            if message.flags & m.WATCH:
                core.outcomes.watch_job(session, job)
        if taking is not None:
            self.unique.holders.arrives(taking, seq)
        core.journal.arrive(Arrival(job, session, message.n, stored))

    def expires_at(self, job: Job) -> float | None:
        """Return by when a job must have begun: by what its submission says, or its task."""
        announced = self._core.catalog.defaults(job.task).expires_s
        limits = job.limits
        if announced is not None and (limits is None or limits.expires_s is None):
            limits = replace(limits or TimeLimits(), expires_s=announced)
        return None if limits is None else limits.expires_at(job.submitted_at)
