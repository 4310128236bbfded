"""What the engine counts on in a store: the contract, by role.

A store is a journal with look-ups. The engine decides everything in memory and then hands over a
`Batch`: what is new, what has changed, what has ended. A batch is committed whole or not at all, in
the order it was given, and nothing in it is conditional but one thing: a job whose id is
already there is not inserted, and the answer says which job has that id.

A **ledger** is the part of a store that one plane owns at a time; opening it starts a new
**epoch**.

A **lane** is a number here: the engine says what it stands for (`LaneRow`) before it is used. A job
is **held** while the plane has it in memory (in a lane's window or leased), or **stored** while it
waits beyond the window and is read back by `read_lane`. A leased job is held. A stored job that is
DELAYED waits for its time, and is read back by `read_due`.

A job that has ended keeps its payload and outcome until `prune` forgets it; then its id stays as a
**tombstone** until that ends too, and the id is unknown again.

A job that ends FAILED, LOST or EXPIRED is **dead**, until a `Verdict` says what becomes of it.

A **key** tells a job apart from others, by its name, some bytes; a job has any number of them. Who
had a key last has it, until its id is unknown again.

`creche.testing.store_contract` is this page as tests; every store passes the same ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from creche.model.filter import ANY, Filter
from creche.model.job import Fate, JobState


class Durability(Enum):
    """What "accepted" means with this store; said to every session in its welcome."""

    MEMORY = "memory"
    """Kept until the plane ends."""
    DISK = "disk"
    """Written and synced to disk before it is accepted: survives `kill -9` and power loss."""


# --- what is written ----------------------------------------------------------------------------


class LaneRow(NamedTuple):
    """What a lane number stands for. `queue` and `priority` are None where the submission left them
    open and nobody has announced the task yet; `park` is "" or why its jobs are parked."""

    lane: int
    queue: str | None
    priority: int | None
    park: str


DAMAGED_LANE = "damaged-lane-"
"""Of a lane of which it cannot be read any more what it stands for, the queue is this and its
number: its jobs wait there for a worker that is told to listen to it."""


def attempt_number(state: JobState, failures: int, losses: int) -> int:
    """Return which attempt an unfinished job is at, as people count them: those that have come to
    nothing, and the one that runs. What was given back uncounted is none."""
    return failures + losses + (state in LEASED)


LEASED = frozenset({JobState.RUNNING, JobState.CANCELLING})
"""The states of jobs that a worker has."""


class NewJob(NamedTuple):
    """A job as it arrives, unfinished: attempt 0, without a holder. `seq` is new and greater than
    0; `options` is CBOR or None; `submitted_at` and all moments are UTC seconds."""

    seq: int
    id: bytes
    task: str
    lane: int
    state: JobState
    stored: bool
    payload: bytes
    options: bytes | None
    submitted_at: float
    due_at: float | None = None
    """When the time of a delayed job comes; a DELAYED one has it."""
    expires_at: float | None = None
    """The moment by which it must have begun."""


class Change(NamedTuple):
    """All that can change in an unfinished job, as it is now. `holder` names the worker process
    that has the lease (None when nobody has), `epoch` the one in which it was given, and `attempt`
    its number: it grows with every lease, counted or not."""

    seq: int
    state: JobState
    lane: int
    stored: bool
    attempt: int
    losses: int
    epoch: int
    holder: str | None
    leased_at: float | None
    failures: int = 0
    due_at: float | None = None
    expires_at: float | None = None


class End(NamedTuple):
    """An unfinished job has ended. `outcome` is its encoded result or failure, None for neither;
    `attempt` which attempt was its last, as people count them, 0 if there was none."""

    seq: int
    state: JobState
    attempt: int
    losses: int
    holder: str | None
    started_at: float | None
    ended_at: float
    outcome: bytes | None
    failures: int = 0


class TryRow(NamedTuple):
    """An attempt that was not a job's last: it FAILED and the job is tried again, or it was LOST.
    `attempt` is its number, as people count them. Of one job, `MAX_TRIES` are kept, the newest."""

    seq: int
    attempt: int
    state: JobState
    holder: str | None
    started_at: float | None
    ended_at: float
    outcome: bytes | None


MAX_TRIES = 20
"""Rows of `TryRow` kept of one job."""


class Verdict(NamedTuple):
    """What becomes of a job that has ended without a result. `retried_as` is the id of the job that
    it was submitted again as."""

    seq: int
    fate: Fate
    judged_at: float
    retried_as: bytes | None = None


class KeyRow(NamedTuple):
    """A job has a key from now on, whoever had it before.

    `since` is when the first of the jobs came of which each has replaced the one before.
    """

    name: bytes
    seq: int
    since: float


class OustRow(NamedTuple):
    """The job of an id, which is cancelled now that job `by` is stored, as that one replaces it: if
    it waits, or, with `oust_running`, also if it runs.

    It is kept until that job has ended, with the attempt that it had last: one that does not wait,
    or begins another attempt, is let go on unless `oust_running`.
    """

    id: bytes
    by: int
    oust_running: bool


class NewOptions(NamedTuple):
    """What is kept as `NewJob.options` of a job from now on."""

    seq: int
    options: bytes


class TaskRow(NamedTuple):
    """The newest announcement of a task: its declaration as CBOR (None: forgotten), and the moment
    it was made."""

    name: str
    declaration: bytes | None
    announced_at: float


class QueueRow(NamedTuple):
    """What an operator has said of a queue, as CBOR; None: nothing any more."""

    name: str
    settings: bytes | None


class ScheduleRow(NamedTuple):
    """A schedule as it stands, as CBOR that the store carries unread; None removes it."""

    name: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long outcomes are kept: whichever limit is met first, oldest end first. None: no limit.

    `max_bytes` counts what ended jobs still take up: payloads, outcomes and those of their tries.
    `max_age_s` is in seconds since the end; `tombstone_s` is how long the id is kept after the
    outcome was forgotten.

    The dead jobs that nobody has looked after yet have limits of their own, and neither count for
    the others nor are forgotten by them. What is over these leaves the set of dead jobs, oldest end
    first, and is from then on an ended job like any other.
    """

    max_count: int | None
    max_bytes: int | None
    max_age_s: float | None
    tombstone_s: float = 24 * 3600.0
    dead_max_count: int | None = 10_000
    dead_max_bytes: int | None = 256 * 1024 * 1024
    dead_max_age_s: float | None = 30 * 24 * 3600.0


@dataclass(slots=True)
class Batch:
    """What is committed together, applied in the order of the fields.

    Within a batch a job appears once in `jobs` at most, and once in `changes` or `ends` at most
    (the journal folds); it may appear in `jobs` and in one of the others. `jobs` are ordered by
    seq. Lanes, tasks, queues and schedules that are there already are replaced.
    """

    lanes: list[LaneRow] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    jobs: list[NewJob] = field(default_factory=list)
    keys: list[KeyRow] = field(default_factory=list)
    """Of jobs that are new with this batch, or there already. What is not there by now is passed
    over."""
    changes: list[Change] = field(default_factory=list)
    tries: list[TryRow] = field(default_factory=list)
    """Of jobs that are unfinished or end with this batch."""
    ends: list[End] = field(default_factory=list)
    queues: list[QueueRow] = field(default_factory=list)
    schedules: list[ScheduleRow] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    """Of jobs that have ended. What is not there, or forgotten by now, is passed over."""
    options: list[NewOptions] = field(default_factory=list)
    """Of jobs that are there; others are passed over."""
    ousts: list[OustRow] = field(default_factory=list)
    """By jobs that are new with this batch. What is not there, has ended, or runs and may go on is
    passed over, and so is what a job that was there before would have replaced."""


class Duplicate(NamedTuple):
    """A job of the batch was not inserted: its id belongs to job `existing` (stored before, or
    earlier in the batch), which is in `state` now that the batch is committed."""

    seq: int
    existing: int
    state: JobState


# --- what is read -------------------------------------------------------------------------------


class JobRow(NamedTuple):
    """An unfinished job as the engine takes it back into memory."""

    seq: int
    id: bytes
    task: str
    lane: int
    state: JobState
    attempt: int
    losses: int
    epoch: int
    holder: str | None
    payload: bytes
    options: bytes | None
    submitted_at: float
    leased_at: float | None
    failures: int = 0
    due_at: float | None = None
    expires_at: float | None = None
    damage: str | None = None
    """What of its row in the store cannot be read, if anything: which columns, and what is there.
    These are as if nothing had been said. If not even its id can be read, or it has ended and is
    yet said to wait, it is to be left alone, and `id` is empty."""


class KeyHolder(NamedTuple):
    """The job that has a key, as it stands; `since` as in `KeyRow`."""

    name: bytes
    since: float
    seq: int
    id: bytes
    state: JobState
    submitted_at: float


class Ousted(NamedTuple):
    """An unfinished job that another one replaces, as `OustRow` says."""

    id: bytes
    oust_running: bool


class LaneCount(NamedTuple):
    """How many jobs of a lane are stored beyond its window, and the first one's seq."""

    lane: int
    stored: int
    first_seq: int


class DelayCount(NamedTuple):
    """How many delayed jobs of a lane are stored."""

    lane: int
    stored: int


class Expired(NamedTuple):
    """Ids of jobs that have expired, the earliest first, and when the next one will."""

    ids: Sequence[bytes]
    next_at: float | None


MAX_ERROR = 200
"""Characters of `JobRecord.error`."""


class OutcomeRow(NamedTuple):
    """How a job stands: `outcome` is there when it has ended and its outcome is still kept.

    With `is_left` there may be one that was not read: enough had been read already."""

    seq: int
    id: bytes
    state: JobState
    outcome: bytes | None
    is_left: bool = False
    damage: str | None = None
    """What cannot be read of a job that has ended, which is then FAILED here, without outcome."""


class JobRecord(NamedTuple):
    """A job as people look at it. Payload and outcome are left out unless asked for.

    `queue`, `priority` and `park` are those of the job's lane, its last one if it has ended. While
    it is unfinished, `started_at` is the moment of its lease. A forgotten job has no payload.
    `attempt` is the number of its current or last attempt, as `attempt_number` has it.
    """

    seq: int
    id: bytes
    task: str
    queue: str | None
    priority: int | None
    park: str
    state: JobState
    attempt: int
    losses: int
    holder: str | None
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    payload_bytes: int
    outcome_bytes: int | None
    payload: bytes | None
    outcome: bytes | None
    failures: int = 0
    due_at: float | None = None
    expires_at: float | None = None
    options: bytes | None = None
    error: str | None = None
    """What it ended with where that is no result: the beginning of `Failure.line`."""
    fate: Fate | None = None
    """What became of it if it is one of the dead; None for all others, and of old ones."""
    retried_as: bytes | None = None
    """The id of the job that it was submitted again as."""
    tries: Sequence[TryRow] = ()
    """The tries before the last, in order; left out of lists."""
    damage: str | None = None
    """What of it cannot be read: which columns, and what is there. These are as if nothing had been
    said."""


class JobPage(NamedTuple):
    """Jobs that were asked for, newest first. `before_seq` asks for the next ones; None: there are
    no more. A page may have fewer jobs than were asked for and yet not be the last."""

    records: Sequence[JobRecord]
    before_seq: int | None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a ledger held when it was opened.

    `held` are the jobs that were not stored beyond a window: queued or parked in one, or leased;
    ordered by seq. There are about as many as the windows and slots of the last epoch had room for.
    """

    ledger: str
    id: str
    """Random, made with the ledger: what others know by its numbers is of this ledger only."""
    epoch: int
    next_seq: int
    lanes: Sequence[LaneRow]
    stored: Sequence[LaneCount]
    held: Sequence[JobRow]
    tasks: Sequence[TaskRow]
    ended: int
    """How many ended jobs have an outcome that is still kept."""
    delayed: Sequence[DelayCount] = ()
    next_due_at: float | None = None
    """When the time of the first stored delayed job comes."""
    next_expiry_at: float | None = None
    """When the first unfinished job expires."""
    queues: Sequence[QueueRow] = ()
    """Those of which something is said."""
    schedules: Sequence[ScheduleRow] = ()
    """By name."""
    astray: Sequence[JobRow] = ()
    """Jobs whose rows are so damaged that no read finds them where they wait."""
    damaged: Sequence[str] = ()
    """What else cannot be read, in sentences: what is not of jobs."""
    ousted: Sequence[Ousted] = ()
    """What was to be cancelled when the last epoch ended, in the order of the seqs: of those that
    are not to be when they run, the ones that have begun no attempt since."""


class Pruned(NamedTuple):
    """What one call of `prune` let go of: outcomes forgotten, tombstones removed.

    Of tombstones that had to go before their time, `unknown_until` is the latest moment (UTC
    seconds) at which an id of them was made: an older one that is unknown may have been known.
    """

    outcomes: int
    tombstones: int
    unknown_until: float = 0.0
    dead: int = 0
    """How many have left the set of dead jobs."""


class LedgerStore(Protocol):
    """The store as the engine sees it: one ledger, opened once, used by one plane.

    Every call may raise `StoreUnavailable` (its process is gone, or it is not open: the core starts
    again, as after a crash), and `StoreError` itself when it is asked for the impossible or finds
    its file damaged. Calls are served in the order they were made: a read sees every commit made
    before it. A call that is cancelled has its whole effect or none, and its answer is lost.
    """

    durability: Durability

    async def open(self, now: float) -> Recovery:
        """Open the ledger and start a new epoch, durably. Called once, first.

        Raises:
            StoreUnusable: see its subclasses; the file is untouched.
        """
        ...

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        """Make *batch* durable, whole or not at all; say which new jobs were there already.

        A duplicate's own row is not inserted, and what the batch says of its keys, its change or
        its end is dropped with it; later batches never name it.

        Raises:
            StoreFull: nothing of the batch was kept; the store goes on and may be tried again.
            StoreOverLimit: likewise, for its new jobs alone: without them it is taken.
            StoreError: the batch contradicts what is stored (a new job's seq is taken, a change or
                an end names a job that is not unfinished): a bug of the caller. Nothing was kept.
        """
        ...

    async def read_lane(
        self, lane: int, after_seq: int, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """Return the next stored jobs of *lane* by seq: at most *max_jobs*, and no further one once
        their payloads are over *max_bytes* (at least one, if there is one). They stay stored."""
        ...

    async def read_lanes(self, lanes: Collection[int]) -> Sequence[JobRow]:
        """Return all stored jobs of these lanes, delayed ones too, by seq within each, without
        their payloads. They stay stored. It is asked for lanes of which nobody knows any more what
        they stood for."""
        ...

    async def read_due(
        self, after: tuple[float, int], until: float, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """Return the next stored delayed jobs by (due_at, seq), those after *after* whose time
        comes by *until*: as many as `read_lane` would. They stay stored."""
        ...

    async def expired(self, now: float, most: int) -> Expired:
        """Return which waiting jobs (queued, parked or delayed) have expired by *now*, *most* of
        them, and when the next one does."""
        ...

    async def outcomes(
        self, ids: Collection[bytes], max_bytes: int | None = None
    ) -> Mapping[bytes, OutcomeRow]:
        """Return how these jobs stand; an unknown id is left out. Once the outcomes read are over
        *max_bytes* no further one is (one is always, if there is one)."""
        ...

    async def find(self, ids: Collection[bytes]) -> Mapping[bytes, JobRow]:
        """Return these jobs if they are unfinished, without their payloads, which may be any number
        of bytes together: they are empty here. Others are left out."""
        ...

    async def keys(self, names: Collection[bytes]) -> Mapping[bytes, KeyHolder]:
        """Return which jobs have these keys, by name; a key that no known job has is left out."""
        ...

    async def is_over(self, now: float, retention: Retention) -> bool:
        """Whether a `prune` that keeps nothing on purpose would find anything. It is cheap, where
        telling what to keep is not."""
        ...

    async def prune(self, now: float, retention: Retention, keep: Collection[int]) -> Pruned:
        """Forget outcomes over *retention*, oldest end first, but not of the seqs in *keep*: state
        becomes FORGOTTEN, payload and outcome go, the id stays until its tombstone ends. Then
        remove the tombstones that have ended. Ends are as old as the order they were committed in.

        What is kept counts towards the limits. One call is bounded work (some thousand rows); it
        is called again while it finds something.

        Raises:
            StoreFull: nothing was let go of; the store goes on and may be tried again.
        """
        ...

    async def aclose(self) -> None:
        """Close the store; what was committed stays. Bounded; calling again does nothing."""
        ...


class HistoryStore(Protocol):
    """The store as people see it: questions that never hold up a commit, bounded in time and rows.

    A question sees every commit that was answered before it was asked. It raises `StoreError` when
    it takes too long: the sentence says how to narrow it.
    """

    async def jobs(
        self, filter: Filter = ANY, *, before_seq: int | None = None, limit: int = 50
    ) -> JobPage:
        """Return jobs that are meant by *filter*, newest first, *limit* at the most; page on with
        *before_seq*. What takes long to look through is answered in pages that may be short."""
        ...

    async def job(self, job_id: bytes) -> JobRecord | None:
        """Return one job with its payload and outcome, or None."""
        ...

    async def counts(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state (stored ones included); others are left out."""
        ...

    async def tasks_in_use(self) -> Collection[str]:
        """Return the names of the tasks that unfinished jobs have."""
        ...

    async def info(self) -> dict[str, Any]:
        """Return facts about the store: kind, path, sizes in bytes, versions, settings."""
        ...


class Store(LedgerStore, HistoryStore, Protocol):
    """Both roles together: what a plane is given."""
