"""The core: everything that a plane knows in one epoch, and what it does when a batch is on disk.

All decisions are made here in memory, synchronously; the journal makes them durable and calls back.
A core whose store is lost is thrown away whole, and another one is made from what is on disk."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any

import trio

from creche.engine.announcing import Announcements
from creche.engine.catalog import Catalog
from creche.engine.damage import Damage
from creche.engine.delays import Delays
from creche.engine.dispatch import Dispatch
from creche.engine.expiries import Expiries, make_expired
from creche.engine.happenings import Happenings
from creche.engine.job import Job
from creche.engine.journal import Arrival, Entries, Journal
from creche.engine.lane import Lane
from creche.engine.lane_shares import OF_SOME_QUEUES
from creche.engine.lanes import Lanes
from creche.engine.leases import Leases, make_end
from creche.engine.limits import Limits
from creche.engine.options import AT_MOST_ONCE, restore_options, stored_options
from creche.engine.outboxes import Outboxes
from creche.engine.outcomes import Outcomes, make_cancelled
from creche.engine.reader import Reader
from creche.engine.schedules import Schedules
from creche.engine.sessions import Session, Sessions
from creche.engine.settings import DISK_RETENTION, MEMORY_RETENTION, PlaneSettings
from creche.engine.space import Space
from creche.engine.submissions import Submissions
from creche.engine.tails import Tails
from creche.engine.timers import Timers
from creche.errors import StoreError, StoreUnavailable
from creche.events import Hub, StoreFailing, StoreRefuses, StoreWorks
from creche.model.job import JobState, check_move
from creche.model.retry import NEVER, RetryPolicy
from creche.store.base import Duplicate, Durability, JobRow, OutcomeRow, Recovery, Store
from creche.wire import messages as m

logger = logging.getLogger("creche.plane")

CANCEL_AT_A_TIME = 1000
"""Jobs that are cancelled in one step of the plane; other work goes on between."""

PRUNE_EVERY_S = 30.0
PRUNE_EVERY_ENDS = 2000


class Reach(IntEnum):
    """How far a cancel goes: each with what is before it."""

    ARRIVING = 1
    """What was not accepted."""
    WAITING = 2
    """What waits, accepted or not."""
    ALL = 3
    """What runs as well."""


class Core:
    """One epoch of a plane.

    Args:
        store: not yet opened.
        clock: UTC seconds.
        draw: random numbers in [0, 1), for the delays between tries.
        events: is told what happens.
    """

    def __init__(
        self,
        store: Store,
        settings: PlaneSettings,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
        events: Hub,
    ) -> None:
        self.store = store
        self.settings = settings
        self.plane = ""
        """The id of the ledger, which is the plane's for its peers: known when it is open."""
        self.now = clock
        self.draw = draw
        self.events = events
        self.spills = store.durability is Durability.DISK
        """Whether what is beyond a lane's window waits in the store, or its submitter waits."""
        self.retention = settings.retention or (DISK_RETENTION if self.spills else MEMORY_RETENTION)
        self.started_at = clock()
        self.epoch = 0
        self.next_seq = 0
        self.is_stopping = False
        self.is_ready = False
        self.revision = 0
        """Grows whenever something happens that a view may show."""
        self._something = trio.Event()
        self.by_id: dict[bytes, Job] = {}
        self.by_seq: dict[int, Job] = {}
        self.sessions = Sessions()
        self.outboxes = Outboxes()
        self.timers = Timers()
        self.reader = Reader(self.timers)
        self.lanes = Lanes(
            settings.window,
            settings.window_bytes,
            Space(settings.windows_bytes, spills=self.spills),
            settings.fairness,
            self._on_new_lane,
        )
        self.journal = Journal(
            store,
            on_committed=self._on_committed,
            on_declined=self._on_declined,
            on_unlent=self._on_unlent,
            on_health=self._on_health,
            probe=self._probe,
        )
        self.catalog = Catalog(())
        self.announcements = Announcements(self)
        self.leases = Leases(self)
        self.dispatch = Dispatch(self)
        self.submissions = Submissions(self)
        self.unique = self.submissions.unique
        self.outcomes = Outcomes(self)
        self.tails = Tails(self)
        self.delays = Delays(self)
        self.expiries = Expiries(self)
        self.damage = Damage(self)
        self.limits = Limits(self)
        self.schedules = Schedules(self)
        self.happenings: Happenings | None = None
        """What is told of each batch, while somebody follows what happens."""
        self._reads: list[dict[int, JobState]] = []
        """For each read of jobs that is under way, those that have left memory since it began, and
        how they stood then, by seq: what it says of them may be out of date."""
        self._knows_ends = False
        """Whether there were results when the store was opened."""
        self._unknown_until = 0.0
        self._ends_since_prune = 0
        self._prune_soon = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def unknown_until(self) -> float:
        """The moment (UTC seconds) up to which an id can have been made that was known, and is not
        any more."""
        return max(self.now() - self.retention.tombstone_s, self._unknown_until)

    @property
    def is_serving(self) -> bool:
        """Whether there is a nursery to spawn in: not while it recovers, nor when it ends."""
        return self._nursery is not None

    def spawn(self, run: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run something beside the caller, in the core's own nursery; it ends with the core."""
        if self._nursery is not None:
            self._nursery.start_soon(run, *args)

    async def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until *is_so* holds; it is asked again whenever something has happened."""
        while not is_so():
            await self._something.wait()

    async def wait_for_workers(self, number: int) -> None:
        """Wait until so many workers have announced tasks, or the plane stops."""
        await self.wait_until(
            lambda: (
                self.is_stopping or sum(bool(w.tasks) for w in self.sessions.workers()) >= number
            )
        )

    def note(self) -> None:
        """Something has happened that a view may show or somebody may wait for."""
        self.revision += 1
        self._something.set()
        self._something = trio.Event()

    # --- start ----------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Open the store and take back into memory what belongs there."""
        recovery: Recovery = await self.store.open(self.now())
        self.plane = recovery.id
        self._knows_ends = recovery.ended > 0
        self.epoch = recovery.epoch
        self.next_seq = recovery.next_seq - 1
        self.catalog = Catalog(recovery.tasks, self.settings.routes or ())
        self.limits.restore(recovery.queues)
        self.unique.said.announced(declaration["name"] for declaration in self.catalog)
        self.unique.replaced.restore(recovery.ousted)
        in_use = {
            *(row.lane for row in recovery.held),
            *(count.lane for count in recovery.stored),
            *(count.lane for count in recovery.delayed),
        }
        rows = self.damage.readable(recovery.lanes)
        # Of those that nobody uses no more than anyone may make up: who knows them may use them.
        most = self.settings.lanes // OF_SOME_QUEUES
        self.lanes.restore(rows, in_use, most, self.catalog.place_of_lane)
        lanes = self.lanes.by_number
        unknown = in_use - lanes.keys()
        self.tails.restore(count for count in recovery.stored if count.lane in lanes)
        delayed = [count for count in recovery.delayed if count.lane in lanes]
        for lane, stored in delayed:
            lanes[lane].delayed = stored
        self.delays.restore(sum(count.stored for count in delayed), recovery.next_due_at)
        self.expiries.restore(recovery.next_expiry_at)
        self.schedules.restore(recovery.schedules)
        for what in recovery.damaged:
            logger.error("%s", what)
        lost = await self.store.read_lanes(unknown) if unknown else ()
        for row in (*recovery.astray, *lost):
            self._take_in_astray(row)
        for row in recovery.held:
            if row.damage is not None and not row.id:
                self.damage.leave(row)
                continue
            job = self.revive(row)
            if row.state in (JobState.RUNNING, JobState.CANCELLING):
                self.leases.orphan(job)
            elif row.state is JobState.DELAYED:
                if job.due_at is not None and job.due_at <= self.now() and job.lane.has_room:
                    # It may have been leased, and its worker come back with it.
                    self.delays.end_delay(job)
                    job.lane.put_back(job)
                    self.journal.change_soon(job)
                else:
                    self.delays.enter(job, is_held=True)
                    self.delays.wait(job)
            else:
                job.lane.reserve(len(job.payload))
                job.lane.put(job)
        self.damage.set_aside()
        self.unique.replaced.cancel_revived()
        await self.tails.read_all()
        for job in self.by_seq.values():
            parent = None if job.parent is None else self.by_seq.get(job.parent)
            if parent is not None:
                parent.children += 1
        self.timers.call_later(self.settings.grace_s, self.leases.end_of_grace)

    def _take_in_astray(self, row: JobRow) -> None:
        """Take back a job that is where nobody would look for it, only to be set aside."""
        if not row.id:
            self.damage.leave(row)
        elif row.seq not in self.by_seq:
            job = self.revive(row._replace(state=JobState.QUEUED, payload=b""))
            job.lane.reserve(0)
            job.lane.put(job)

    async def run_services(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run journal, timers and upkeep until cancelled; ready when they are."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.journal.run)
            await nursery.start(self.timers.run)
            self.delays.begin()
            self.expiries.begin()
            self.schedules.begin()
            self.unique.replaced.begin()
            nursery.start_soon(self._prune)
            nursery.start_soon(self._close_in_time)
            task_status.started()

    async def _close_in_time(self) -> None:
        """When the services end, by cancelling or as one of them has failed, peers are still being
        served: nothing is spawned from then on. The nursery takes no one in before that is known
        everywhere."""
        try:
            await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- what happens to jobs -------------------------------------------------------------------

    def end(
        self,
        job: Job,
        state: JobState,
        outcome: bytes | None,
        started_at: float | None,
        session: Session | None = None,
        n: int = 0,
        *,
        number: int | None = None,
    ) -> None:
        """A job has ended: note it, and put it on its way to the disk. *number* is that of its last
        attempt, where it has been counted already. No checkpoint."""
        job.state = check_move(job.state, state)
        self.limits.free(job)
        if number is None:
            number = job.number
        end = make_end(job, number, state, outcome, started_at, self.now())
        self.journal.end(job, end, session, n)

    def end_waiting(self, job: Job, state: JobState, outcome: bytes | None) -> None:
        """End a job that no worker has. No checkpoint."""
        check_move(job.state, state)
        if job.state is JobState.DELAYED:
            self.delays.leave(job)
        elif not job.is_returning:
            self.withdraw(job)
        # What is left of it in its lane is an entry to be skipped.
        job.payload = b""
        self.end(job, state, outcome, None)

    def withdraw(self, job: Job) -> None:
        """Take a waiting job out of its lane, or out of the lane's tail."""
        if job.is_stored:
            job.is_stored = False
            job.lane.stored -= 1
        else:
            job.lane.withdraw(job)

    async def cancel(self, session: Session, message: m.Cancel) -> None:
        """Cancel what waits, and have what runs stopped; if it is a withdrawal, only what was not
        accepted. Answer with the state of each job when that is on disk."""
        states: list[int | None] = []
        for start in range(0, len(message.ids), CANCEL_AT_A_TIME):
            ids = message.ids[start : start + CANCEL_AT_A_TIME]
            whys = dict.fromkeys(ids, message.why)
            reach = Reach.ARRIVING if message.is_withdrawal else Reach.ALL
            states += await self._cancel_some(ids, whys, reach)
        self.journal.reply(session, m.Answer(message.ref, states))
        self.journal.wake()

    async def cancel_these(self, whys: Mapping[bytes, str], is_running_too: bool = True) -> None:
        """Cancel as `cancel` does, each job for a reason of its own, with nobody to answer to; what
        runs goes on unless *is_running_too*."""
        await self._cancel_some(list(whys), whys, Reach.ALL if is_running_too else Reach.WAITING)
        self.journal.wake()

    async def _cancel_some(
        self, ids: Sequence[bytes], whys: Mapping[bytes, str], reach: Reach
    ) -> list[int | None]:
        states: list[int | None] = []
        withdrawn: set[bytes] = set()
        while True:
            if any(self._is_arriving(job_id) for job_id in ids):
                # On their way to the disk: whether they are new is only known then.
                await self.journal.wait_drained()
            unknown = {job_id for job_id in ids if job_id not in self.by_id}
            await self.submissions.wait_for_resent(unknown)
            withdrawn |= self.submissions.withdraw(unknown.difference(self.by_id))
            rows, ended = await self.find([i for i in ids if i not in withdrawn])
            # Submitted again meanwhile: which job has that id is not known yet.
            if not any(self._is_arriving(job_id) for job_id in ids):
                break
        # No checkpoint below: what is decided for each job is noted at once.
        for job_id in ids:
            if reach is Reach.ARRIVING and job_id in rows:
                # It is left where it is, in the store.
                states.append(int(rows[job_id].state))
                continue
            job = self._unfinished(job_id, rows)
            if job is not None:
                if job.is_committed and job.state.is_waiting and reach >= Reach.WAITING:
                    self.end_waiting(job, JobState.CANCELLED, make_cancelled(whys[job_id]))
                elif job.state is JobState.RUNNING and reach is Reach.ALL:
                    self.leases.cancel(job, whys[job_id])
                states.append(int(job.state))
            elif job_id in ended:
                states.append(int(ended[job_id].state))
            else:
                states.append(int(JobState.CANCELLED) if job_id in withdrawn else None)
        return states

    async def expire(self, ids: Sequence[bytes]) -> None:
        """End those of these jobs that wait, and whose time is up."""
        found, _ = await self.find(ids)
        # No checkpoint below. What is not ended stays where it is, in the store: the clock may have
        # been set back since it was said to have expired.
        now = self.now()
        rows = {i: row for i, row in found.items() if row.expires_at and row.expires_at <= now}
        for job_id in ids:
            job = self._unfinished(job_id, rows)
            if (
                job is not None
                and job.is_committed
                and job.state.is_waiting
                and self.expiries.has_passed(job)
            ):
                self.end_waiting(job, JobState.EXPIRED, make_expired(job))
        self.journal.wake()

    async def unfinished(self, ids: Collection[bytes]) -> set[bytes]:
        """Return which of these jobs have not ended. Still true when it returns."""
        rows, _ = await self.find(list(ids))
        return {
            job_id
            for job_id in ids
            if job_id in rows
            or ((job := self.by_id.get(job_id)) is not None and not job.state.has_ended)
        }

    def _unfinished(self, job_id: bytes, rows: Mapping[bytes, JobRow]) -> Job | None:
        """Return the unfinished job of an id: from memory, or made of what `find` has found."""
        job = self.by_id.get(job_id)
        if job is None and job_id in rows:
            job = self.revive(rows[job_id])
            job.is_stored = True
        return job

    def _is_arriving(self, job_id: bytes) -> bool:
        job = self.by_id.get(job_id)
        return job is not None and not job.is_committed

    async def find(
        self, ids: Sequence[bytes]
    ) -> tuple[Mapping[bytes, JobRow], Mapping[bytes, OutcomeRow]]:
        """Return what the store has of the jobs that are not in memory: of unfinished ones, and of
        those that have ended. Still true when it returns."""
        while True:
            absent = {job_id for job_id in ids if job_id not in self.by_id}
            with self.reading() as gone:
                rows = await self.store.find(absent) if absent else {}
                left = [job_id for job_id in absent if job_id not in rows]
                ended = await self.store.outcomes(left, max_bytes=0) if left else {}
                # What left memory while the store was asked, whether it was there before or came
                # meanwhile (between the two questions, too), is not in the answer as it is now:
                # ask anew.
                if not any(
                    i not in absent
                    or (i in rows and rows[i].seq in gone)
                    or (i in ended and not ended[i].state.has_ended)
                    for i in ids
                    if i not in self.by_id
                ):
                    return rows, ended

    def is_ending(self, seq: int) -> bool:
        """Whether the job's end is on its way to the disk."""
        job = self.by_seq.get(seq)
        return job is not None and job.state.has_ended

    def forget(self, job: Job) -> None:
        """Let a job leave memory: it has ended, or waits in the store."""
        if self.by_id.get(job.id) is job:
            del self.by_id[job.id]
        self.by_seq.pop(job.seq, None)

    # --- what is known of tasks -----------------------------------------------------------------

    def announce(self, session: Session, declarations: list[m.Facts]) -> None:
        """A worker says which tasks it can run."""
        rows = self.announcements.take(session, declarations)
        session.tasks = frozenset(str(d["name"]) for d in declarations)
        self.workers_changed()
        self.schedules.announce(declarations, self.now() - trio.current_time() + session.began)
        for row in rows:
            self.journal.task(row)
        if rows:
            news = {row.name for row in rows}
            self.limits.announced(news)
            self.unique.said.announced(news)
            self.expiries.announced(news)
            for lane in list(self.lanes.by_key.values()):
                if lane.task in news and None in lane.key[:2]:
                    self.lanes.move(lane, *self.catalog.place_of_lane(lane.key))
        self.journal.wake()

    def workers_changed(self) -> None:
        """Workers came, went, or know other tasks now."""
        self.submissions.workers_changed()
        self.note()

    def is_known_everywhere(self, task: str, queue: str) -> bool:
        """Whether every worker that listens on *queue* can run *task*; with nobody listening,
        whether anyone ever could."""
        listening = self.sessions.listening(queue)
        return task in self.catalog and all(task in worker.tasks for worker in listening)

    def is_at_most_once(self, job: Job) -> bool:
        """Whether a job may not be run again when its worker is lost."""
        return (job.delivery or self.catalog.defaults(job.task).delivery) == AT_MOST_ONCE

    def retry_policy(self, task: str, options: bytes | None) -> RetryPolicy:
        """Return when a job of *task* is tried again: what its submission's *options* say goes
        before what its task does. Of damaged options nothing counts."""
        policy = self.catalog.defaults(task).retry or {}
        if options is not None:
            with suppress(ValueError):
                policy = {**policy, **(stored_options(options).get("retry") or {})}
        return RetryPolicy.from_data(policy) if policy else NEVER

    # --- when a batch is on disk ----------------------------------------------------------------

    def _on_committed(self, entries: Entries, duplicates: Sequence[Duplicate]) -> None:
        """Do what had to wait for the disk. No checkpoint."""
        existing = {duplicate.seq: duplicate.existing for duplicate in duplicates}
        accepted: dict[Session, list[int]] = {}
        for arrival in entries.arrivals:
            if arrival.session is not None:
                accepted.setdefault(arrival.session, []).append(arrival.n)
                arrival.session.unaccepted.remove(len(arrival.job.payload))
            if existing and arrival.job.seq in existing:
                self._on_duplicate(arrival, existing[arrival.job.seq])
            else:
                self._on_arrived(arrival)
            for session, n in self.submissions.claims.accepted(arrival.job.id):
                accepted.setdefault(session, []).append(n)
        for session, ns in accepted.items():
            session.post(m.Accepted(ns))
        if entries.lent:
            self.unique.lent(entries.lent)
        self._on_ended(entries)
        for job in entries.requeued:
            job.is_returning = False
            self.expiries.note(job)
            if job.state is JobState.DELAYED:
                self.delays.wait(job)
                if job.is_stored:
                    self.leave_memory(job)
            elif job.state.is_waiting:
                job.lane.put_back(job)
        for job in entries.spilled:
            self._on_spilled(job)
        for session, job, payload_bytes in entries.offers:
            session.coming_bytes -= payload_bytes
            if session.leased.get(job.seq) is job:
                if job.state is JobState.RUNNING and not self.expiries.has_passed(job):
                    self.dispatch.offer(session, job)
                else:
                    self.leases.withdraw(session, job)
        for session, message in entries.replies:
            session.post(message)
        if self.happenings is not None:
            self.happenings.committed(entries)
        self.note()
        self.dispatch.run()
        self.journal.wake()

    def _on_arrived(self, arrival: Arrival) -> None:
        job = arrival.job
        job.is_committed = True
        self.expiries.note(job)
        if job.due_at is not None:
            self.by_seq[job.seq] = job
            self.delays.wait(job)
            if arrival.stored:
                self.leave_memory(job)
        elif arrival.stored:
            job.lane.arriving -= 1
            del self.by_id[job.id]
        else:
            self.by_seq[job.seq] = job
            job.lane.put(job)
        if self.unique.takings:
            self.unique.committed(job)

    def _on_duplicate(self, arrival: Arrival, existing: int) -> None:
        """The id was there: job *existing* is the one, and this one never was."""
        job = arrival.job
        self._give_place_back(arrival)
        del self.by_id[job.id]
        self._child_ended(job)
        self.outcomes.look_again(job.id)
        if self.unique.takings:
            self.unique.was_there(job.id, existing)

    def _give_place_back(self, arrival: Arrival) -> None:
        lane = arrival.job.lane
        if arrival.job.due_at is not None:
            self.delays.leave(arrival.job)
        elif arrival.stored:
            lane.stored -= 1
            lane.arriving -= 1
        else:
            lane.release(len(arrival.job.payload))

    def _on_spilled(self, job: Job) -> None:
        job.lane.spilling -= 1
        if job.is_stored and not job.state.has_ended:
            self.leave_memory(job)

    def leave_memory(self, job: Job) -> None:
        """A job is in the store now, and here no more."""
        self.forget(job)
        for gone in self._reads:
            gone[job.seq] = job.state

    def _on_ended(self, entries: Entries) -> None:
        settled: dict[Session, list[int]] = {}
        for job, end, session, n in entries.endings.values():
            self.forget(job)
            self.outcomes.push(job, end.state, end.outcome)
            if job.parent is not None:
                self._child_ended(job)
            if session is not None:
                settled.setdefault(session, []).append(n)
        for session, n in entries.settled:
            settled.setdefault(session, []).append(n)
        for session, ns in settled.items():
            session.post(m.Settled(ns))
        if self.schedules.waiting:
            self.schedules.ended(ending.job for ending in entries.endings.values())
        if self._reads:
            left = {seq: ending.end.state for seq, ending in entries.endings.items()}
            for gone in self._reads:
                gone.update(left)
        self._ends_since_prune += len(entries.endings)
        if self._ends_since_prune >= PRUNE_EVERY_ENDS:
            self._prune_soon.set()

    def _child_ended(self, job: Job) -> None:
        parent = None if job.parent is None else self.by_seq.get(job.parent)
        if parent is not None and parent.children:
            # Not all are known: a parent or a child that was in the store came back uncounted.
            parent.children -= 1

    def _on_declined(self, arrivals: Sequence[Arrival], why: str) -> None:
        for arrival in arrivals:
            job, session, n, _ = arrival
            self._give_place_back(arrival)
            self.by_id.pop(job.id, None)
            self._child_ended(job)
            refusal = ("store-full", f"the plane's store takes nothing: {why}")
            if session is not None:
                session.unaccepted.remove(len(job.payload))
                session.decline(n, *refusal)
            for other, other_n in self.submissions.claims.declined(job.id):
                other.decline(other_n, *refusal)
            self.unique.released(job.id)

    def _on_unlent(self, submission_ids: Sequence[bytes]) -> None:
        self.unique.unlent(submission_ids)

    def _on_health(self) -> None:
        self.note()
        journal = self.journal
        if journal.failing is not None:
            self.events.emit(StoreFailing(journal.failing))
        elif journal.refusing is not None:
            self.events.emit(StoreRefuses(journal.refusing))
        else:
            self.events.emit(StoreWorks())

    def _probe(self) -> Lane | None:
        """Return a lane, whose row can be written again at any time; without any there is no job
        either."""
        return next(iter(self.lanes.by_number.values()), None)

    def _on_new_lane(self, lane: Lane) -> None:
        self.journal.lane(lane)

    # --- reading from the store ------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[dict[int, JobState]]:
        """While the store is asked for jobs, and its answer is looked at: a commit that was made
        later may be answered first."""
        gone: dict[int, JobState] = {}
        self._reads.append(gone)
        try:
            yield gone
        finally:
            # By identity: two empty ones are equal.
            self._reads = [other for other in self._reads if other is not gone]

    def revive(self, row: JobRow) -> Job:
        """Make the job of a row, in memory again. What cannot be read is noted in `damage`."""
        lane = self.lanes.by_number.get(row.lane)
        damage = row.damage
        if lane is None:
            lane = self.damage.lane_of(row)
            damage = damage or f"row {row.seq} of job is damaged: lane is {row.lane}, which is none"
        job = Job(
            row.seq, row.id, row.task, lane, row.state, row.payload, row.options, row.submitted_at
        )
        job.is_committed = True
        job.attempt = row.attempt
        job.losses = row.losses
        job.failures = row.failures
        job.due_at = row.due_at
        job.expires_at = row.expires_at
        job.epoch = row.epoch
        job.holder = row.holder
        job.leased_at = row.leased_at
        if damage is not None:
            self.damage.note(job, damage)
        try:
            restore_options(job)
        except ValueError as error:
            self.damage.note(job, str(error))
        job.is_at_most_once = self.is_at_most_once(job)
        self.by_id[row.id] = job
        self.by_seq[row.seq] = job
        self.expiries.shorten(job)
        if self.unique.replaced.absent:
            self.unique.replaced.revived(job)
        return job

    # --- upkeep ---------------------------------------------------------------------------------

    async def _prune(self) -> None:
        """Let go of results over the retention, now and then, a bounded piece at a time."""
        if self._knows_ends:
            # Peers of the last epoch have yet to say what they wait for.
            await trio.sleep(self.settings.grace_s)
        while True:
            with trio.move_on_after(PRUNE_EVERY_S):
                await self._prune_soon.wait()
            self._prune_soon = trio.Event()
            self._ends_since_prune = 0
            try:
                while await self.store.is_over(self.now(), self.retention):
                    pruned = await self.store.prune(
                        self.now(), self.retention, self.outcomes.pinned
                    )
                    self._unknown_until = max(self._unknown_until, pruned.unknown_until)
                    if not any(pruned):
                        break
                    self.journal.made_room()
            except StoreUnavailable:
                raise
            except StoreError as error:
                logger.warning("results cannot be pruned: %s", error)
