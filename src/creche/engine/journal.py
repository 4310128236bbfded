"""The journal: what happens is gathered into a batch, and batches are committed one after another.

Group commit: a batch is all that was gathered while the last commit ran, so that the disk sets the
size of batches and not the number of jobs. What happens to one job within a batch is folded into
one write. Whatever must not be seen before it is on disk (an acceptance, a result, a second
dispatch) is done after the commit, in `on_committed`, which is synchronous.

A full or failing disk does not end the plane: submissions of the batch are declined, everything
else is kept and tried again until there is room."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import trio

from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.sessions import Session
from creche.errors import StoreFull, StoreOverLimit
from creche.model.job import JobState
from creche.store.base import (
    Batch,
    Duplicate,
    End,
    KeyRow,
    LedgerStore,
    NewJob,
    NewOptions,
    OustRow,
    QueueRow,
    ScheduleRow,
    TaskRow,
    TryRow,
    Verdict,
)
from creche.wire import messages as m

LEASE_S = 0.02
"""How long a lease may wait to be written, and that the time of a job has come. A plane that is
killed meanwhile finds the job free: its worker keeps it if it is back first, else it is run again,
as at-least-once says."""

RETRY_S = 1.0
"""How long to wait before a failing disk is tried again."""


BATCH_BYTES = 64 * 1024 * 1024
"""A batch is closed when it holds so many bytes of payloads and outcomes: the store is given it in
one piece. What comes then is the next batch."""


class Arrival(NamedTuple):
    """A submission on its way to the disk, and who asked for it; None: the plane itself."""

    job: Job
    session: Session | None
    n: int
    stored: bool


class Ending(NamedTuple):
    """A job's end on its way to the disk; *session* and *n* are the worker's report, if one is."""

    job: Job
    end: End
    session: Session | None
    n: int


class Reply(NamedTuple):
    """A message that may be sent when everything before it is on disk."""

    session: Session
    message: m.Message


class Entries:
    """One batch, with what is to be done when it is on disk."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.tasks: dict[str, TaskRow] = {}
        self.queues: dict[str, QueueRow] = {}
        self.arrivals: list[Arrival] = []
        self.keys: list[KeyRow] = []
        """Of the jobs of these."""
        self.ousts: list[OustRow] = []
        """Whom the jobs of these replace."""
        self.lent: dict[bytes, list[KeyRow]] = {}
        """Of other jobs, that somebody's submission is one with: by the id of that."""
        self.changed: dict[int, Job] = {}
        self.tries: list[TryRow] = []
        self.tried: list[Job] = []
        """The jobs of these."""
        self.endings: dict[int, Ending] = {}
        self.schedules: dict[str, ScheduleRow] = {}
        self.unfired: dict[str, Callable[[], ScheduleRow]] = {}
        """What is to be written of these schedules if the jobs of the batch are taken out: it
        depends on what has become of the batches before."""
        self.verdicts: list[Verdict] = []
        self.options: dict[int, NewOptions] = {}
        self.settled: list[tuple[Session, int]] = []
        self.requeued: list[Job] = []
        self.spilled: list[Job] = []
        self.offers: list[tuple[Session, Job, int]] = []
        self.replies: list[Reply] = []
        self.waiters: list[trio.Event] = []
        self.size_bytes = 0
        """Payloads and outcomes in it."""
        self._batch: Batch | None = None

    def __bool__(self) -> bool:
        return bool(
            self.writes or self.settled or self.replies or self.requeued or self.spilled
            or self.offers or self.waiters
        )  # fmt: skip

    @property
    def writes(self) -> bool:
        """Whether anything of it goes to disk."""
        return bool(
            self.arrivals or self.endings or self.changed or self.tries or self.lanes or self.tasks
            or self.queues or self.schedules or self.verdicts or self.keys or self.lent
            or self.options
        )  # fmt: skip

    def as_batch(self) -> Batch:
        """Return what the store is given. It is made once: jobs go on changing in memory, and what
        they become then belongs to the next batch."""
        if self._batch is None:
            self._batch = self._make_batch()
        return self._batch

    def take_out_arrivals(self) -> Sequence[Arrival]:
        """Remove and return the submissions. Nothing else is said of their jobs: before its first
        commit a job is neither cancelled nor dispatched."""
        taken, self.arrivals = self.arrivals, []
        seqs = {arrival.job.seq for arrival in taken}
        self.keys = [row for row in self.keys if row.seq not in seqs]
        self.ousts = []
        self.schedules.update({name: row() for name, row in self.unfired.items()})
        # What was to become of a job that has ended goes with the new one that it was to run as.
        ids = {arrival.job.id for arrival in taken}
        self.verdicts = [verdict for verdict in self.verdicts if verdict.retried_as not in ids]
        if self._batch is not None:
            self._batch.jobs = []
            self._batch.ousts = self.ousts
            self._batch.schedules = list(self.schedules.values())
            self._batch.verdicts = self.verdicts
        return taken

    def take_out_lent(self) -> Sequence[bytes]:
        """Remove what keys are lent to jobs; return whose submissions had them."""
        taken, self.lent = list(self.lent), {}
        return taken

    def all_keys(self) -> list[KeyRow]:
        """Return what the store is told of keys: it grows where others find no room."""
        # Those of jobs that arrive come last: they may have taken over what was to be lent.
        return [*(row for rows in self.lent.values() for row in rows), *self.keys]

    def add_probe(self, lane: Lane) -> None:
        """Have a lane's row written once more, of which nothing changes."""
        self.lanes.append(lane)
        if self._batch is not None:
            self._batch.lanes.append(lane.row)

    def _make_batch(self) -> Batch:
        return Batch(
            lanes=[lane.row for lane in self.lanes],
            tasks=list(self.tasks.values()),
            jobs=[
                NewJob(
                    job.seq, job.id, job.task, job.lane.number, _arrived(job),
                    stored, job.payload, job.options, job.submitted_at, job.due_at,
                    job.expires_at,
                )
                for job, _, _, stored in self.arrivals
            ],
            keys=self.all_keys(),
            changes=[job.as_change() for job in self.changed.values()],
            tries=self.tries,
            ends=[ending.end for ending in self.endings.values()],
            queues=list(self.queues.values()),
            schedules=list(self.schedules.values()),
            verdicts=self.verdicts,
            options=list(self.options.values()),
            ousts=self.ousts,
        )  # fmt: skip


def _arrived(job: Job) -> JobState:
    """Return the state in which a job came: it may have been cancelled since."""
    if job.due_at is not None:
        return JobState.DELAYED
    return JobState.PARKED if job.lane.park else JobState.QUEUED


class Journal:
    """Gathers, commits, and calls back.

    Args:
        store: the ledger.
        on_committed: called with each batch that is on disk, and the duplicates it held.
        on_declined: called with the arrivals of a batch that the disk had no room for.
        on_unlent: called with the submissions for whose keys it had none.
        on_health: called when `failing` or `refusing` has become or ceased to be so.
        probe: a lane that a failing disk is tried with when there is nothing else to write.
    """

    def __init__(
        self,
        store: LedgerStore,
        *,
        on_committed: Callable[[Entries, Sequence[Duplicate]], None],
        on_declined: Callable[[Sequence[Arrival], str], None],
        on_unlent: Callable[[Sequence[bytes]], None],
        on_health: Callable[[], None],
        probe: Callable[[], Lane | None],
    ) -> None:
        self._store = store
        self._on_committed = on_committed
        self._on_declined = on_declined
        self._on_unlent = on_unlent
        self._on_health = on_health
        self._probe = probe
        self._open = Entries()
        self._closed: deque[Entries] = deque()
        """Batches that are large enough and have yet to be committed, in order."""
        self._young: dict[int, Job] = {}
        self._old: dict[int, Job] = {}
        """What may yet be folded into a job's end: of this while, and of the last."""
        self._young_since = 0.0
        self._is_whole = False
        self._is_flushing = False
        self._is_asleep = False
        self._wake = trio.Event()
        self.commits = 0
        self.failing: str | None = None
        """Why the disk takes nothing at the moment."""
        self.refusing: str | None = None
        """Why the store took no new jobs the last time that there were any, though the disk
        works."""

    # Each of these only gathers; `wake` is called once a frame, not once a job.

    def lane(self, lane: Lane) -> None:
        """A lane number was given out."""
        self._open.lanes.append(lane)

    def task(self, row: TaskRow) -> None:
        """A task was announced."""
        self._open.tasks[row.name] = row

    def queue(self, row: QueueRow) -> None:
        """Something was said of a queue."""
        self._open.queues[row.name] = row

    def schedule(self, row: ScheduleRow, unfired: Callable[[], ScheduleRow]) -> None:
        """A schedule stands otherwise. Where it has fired, this comes before its job; *unfired*
        returns what holds if the store takes no jobs."""
        self._open.schedules[row.name] = row
        self._open.unfired[row.name] = unfired

    def arrive(self, arrival: Arrival) -> None:
        """A job was submitted."""
        self._open.arrivals.append(arrival)
        self._grow(len(arrival.job.payload))

    def keys(self, rows: Sequence[KeyRow]) -> list[KeyRow]:
        """A job that arrives next has keys. Return where these are said of its batch, for those
        that others turn out to leave it before that is tried."""
        self._open.keys += rows
        return self._open.keys

    def lend(self, submission_id: bytes, rows: list[KeyRow]) -> list[KeyRow]:
        """A job that is there has keys that somebody's submission lends it. Return where these are
        said, as `keys` does."""
        self._open.lent[submission_id] = rows
        return rows

    def oust(self, rows: Sequence[OustRow]) -> list[OustRow]:
        """A job that arrives next replaces others. Return where it is said of its batch, for those
        that it turns out to replace as well before that is tried."""
        self._open.ousts += rows
        return self._open.ousts

    def change_soon(self, job: Job) -> None:
        """A job was leased, or its time has come. Nobody waits for that to be on disk, and most
        jobs end within `LEASE_S`: then one write says it all."""
        if not (self._young or self._old):
            self._young_since = trio.current_time()
            if self._is_asleep:
                self._wake.set()
        self._young[job.seq] = job

    def change(self, job: Job) -> None:
        """A job was parked or freed: what it is like when the batch is taken counts."""
        self._forget_lease(job)
        self._open.changed[job.seq] = job

    def say_anew(self, job: Job, options: bytes) -> None:
        """What is kept of what was said of a job is this from now on."""
        job.options = options
        self._open.options[job.seq] = NewOptions(job.seq, options)

    def tried(self, job: Job, row: TryRow) -> None:
        """An attempt has come to nothing, and its job goes on, which is said as well."""
        self._open.tries.append(row)
        self._open.tried.append(job)
        self._grow(len(row.outcome or b""))

    def requeue(self, job: Job) -> None:
        """A job's lease has ended: it is dispatched, or waits for its time, only when that is on
        disk."""
        self.change(job)
        self._open.requeued.append(job)

    def spill(self, job: Job) -> None:
        """A job moves from memory to its lane's stored tail."""
        self.change(job)
        self._open.spilled.append(job)

    def offer_when_committed(self, session: Session, job: Job) -> None:
        """An at-most-once job was leased: it is sent only when that is on disk."""
        self.change(job)
        self._open.offers.append((session, job, len(job.payload)))

    def end(self, job: Job, end: End, session: Session | None = None, n: int = 0) -> None:
        """A job has ended; folds whatever else this batch had to say of it."""
        self._forget_lease(job)
        self._open.changed.pop(job.seq, None)
        self._open.endings[job.seq] = Ending(job, end, session, n)
        self._grow(len(end.outcome or b""))

    def judge(self, verdict: Verdict) -> None:
        """Something becomes of a job that has ended. What it is retried as comes after: a job may
        close its batch, and then both are in the same one."""
        self._open.verdicts.append(verdict)

    def settle(self, session: Session, n: int) -> None:
        """A report changes nothing, but those before it may be on their way."""
        self._open.settled.append((session, n))

    def reply(self, session: Session, message: m.Message) -> None:
        """Send *message* when everything gathered so far is on disk."""
        self._open.replies.append(Reply(session, message))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have all that is gathered within be one batch, or part of one, however large it is."""
        self._is_whole = True
        try:
            yield
        finally:
            self._is_whole = False
            self._grow(0)

    def _grow(self, size: int) -> None:
        self._open.size_bytes += size
        if self._open.size_bytes >= BATCH_BYTES and not self._is_whole:
            self._open.as_batch()
            self._closed.append(self._open)
            self._open = Entries()

    def _forget_lease(self, job: Job) -> None:
        self._young.pop(job.seq, None)
        self._old.pop(job.seq, None)

    def wake(self) -> None:
        """Commit what was gathered, now or as soon as the running commit is done."""
        if self._open or self._closed:
            self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit batches until cancelled.

        Raises:
            StoreUnavailable: the store's process is gone; what was gathered dies with the core.
        """
        task_status.started()
        while True:
            # With leases at hand it looks after them in time, else it sleeps until it is woken.
            self._is_asleep = not (self._young or self._old)
            with trio.move_on_after(math.inf if self._is_asleep else LEASE_S / 2):
                await self._wake.wait()
            self._is_asleep = False
            self._wake = trio.Event()
            entries = self._take()
            if entries:
                await self._commit(entries)
            self.wake()

    def _take(self) -> Entries:
        """Return what is to be committed now, and begin the next batch."""
        if self._closed:
            # Leases are looked after when it is the last one's turn: soon.
            return self._closed.popleft()
        entries, self._open = self._open, Entries()
        now = trio.current_time()
        if self._is_flushing or now >= self._young_since + LEASE_S / 2:
            entries.changed.update(self._old)
            self._old, self._young, self._young_since = self._young, {}, now
            if self._is_flushing:
                entries.changed.update(self._old)
                self._old = {}
        self._is_flushing = False
        return entries

    def made_room(self) -> None:
        """Something was let go of: a store that was over its limit may take new jobs again, and the
        next one tries it."""
        if self.refusing is not None:
            self._turn(failing=self.failing, refusing=None)

    async def wait_drained(self) -> None:
        """Wait until everything gathered so far is on disk."""
        on_disk = trio.Event()
        self._open.waiters.append(on_disk)
        self._is_flushing = True
        self._wake.set()
        await on_disk.wait()

    @property
    def _has_more_to_write(self) -> bool:
        return any(later.writes for later in (*self._closed, self._open))

    async def _commit(self, entries: Entries) -> None:
        batch = entries.as_batch()
        duplicates: Sequence[Duplicate] = ()
        while entries.writes:
            batch.keys = entries.all_keys()
            try:
                duplicates = await self._store.commit(batch)
                break
            except StoreFull as error:
                if isinstance(error, StoreOverLimit) and entries.arrivals:
                    # The disk works: what is new is refused, and the rest is committed at once.
                    self._turn(failing=self.failing, refusing=str(error))
                    self._decline_arrivals([entries], str(error))
                    continue
                # Those too that came while it was tried: nobody is to wait for as long as it fails.
                self._turn(failing=str(error), refusing=self.refusing)
                batches = [entries, *self._closed, self._open]
                self._decline_arrivals(batches, str(error))
                self._on_unlent([i for batch in batches for i in batch.take_out_lent()])
                if not entries.writes and (lane := self._probe()) is not None:
                    # Nothing is dispatched before the disk has taken something.
                    entries.add_probe(lane)
                await trio.sleep(RETRY_S)
        self.commits += 1
        if self.failing is not None and (entries.writes or not self._has_more_to_write):
            # It took the batch, or there is no job to be dispatched, and the next submission tries
            # it.
            self._turn(failing=None, refusing=self.refusing)
        if self.refusing is not None and entries.arrivals:
            self._turn(failing=self.failing, refusing=None)
        # No checkpoint from the commit to the end of this call.
        self._on_committed(entries, duplicates)
        for on_disk in entries.waiters:
            on_disk.set()

    def _turn(self, *, failing: str | None, refusing: str | None) -> None:
        """Note what the store takes now, and tell when that is another thing than before."""
        before = (self.failing is None, self.refusing is None)
        self.failing, self.refusing = failing, refusing
        if before != (failing is None, refusing is None):
            self._on_health()

    def _decline_arrivals(self, batches: Sequence[Entries], why: str) -> None:
        for entries in batches:
            declined = entries.take_out_arrivals()
            if declined:
                self._on_declined(declined, why)
