"""Lanes: the ready jobs, in the order in which they are taken.

Each queue has a lane a priority, made when first used: a Trio memory channel, whose capacity is the
**window**, and a small **front** for what comes back out of order (handed back, lost, nested). Both
are taken from by seq. What is beyond the window waits in the store and is read back by seq; as long
as there is such a tail, arrivals join it.

A job that cannot run now must not block its lane. Jobs of a task that not every worker of the
queue knows wait in a lane of their own beside it (**parked**), and are taken, by seq among the
others, for the workers that know it. So do those that wait for the same limits: their lane is
**shut**, and not looked into, as long as these have no room."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import trio

from creche.engine.job import Job
from creche.model.priority import Priority
from creche.store.base import LaneRow

if TYPE_CHECKING:
    from creche.engine.sessions import Session
    from creche.wire import messages as m

DEFAULT_QUEUE = "default"

PARKED_BY_TASK = "task:"
"""Why jobs are parked: not every worker of the queue, or none at all, knows their task."""

PARKED_BY_LIMIT = "limit:"
"""Why jobs are parked: as many run as their task says, or as have begun in a time."""

_BETWEEN = "\x1f"
"""Stands between a task and its keys in what names a lane: no key has it, as none is printed with
it."""

LaneKey = tuple[str | None, int | None, str]
"""(queue, priority, park): queue and priority are None where the submission left them open and the
task was never announced; park is "", ``task:NAME``, or what `park_by_limit` makes."""

LISTED = 100
"""Parked lanes of one task and level that are looked into for one job; others have their turn when
one of these has run empty, or is shut."""


READ_AGAIN_S = 5.0
"""How long to wait before stored jobs that could not be read are tried again."""

JOB_BYTES = 600
"""About what a job takes in memory beside its payload."""


def park_by_limit(task: str, keys: tuple[str, str]) -> str:
    """Return the `park` of the lane where jobs of *task* with these keys wait for its limits."""
    return _BETWEEN.join((PARKED_BY_LIMIT + task, *keys))


def parts_of_park(park: str) -> tuple[str, tuple[str, str]]:
    """Return the task and the keys that a `park` tells of."""
    if park.startswith(PARKED_BY_LIMIT):
        task, key, rate_key = park.removeprefix(PARKED_BY_LIMIT).rsplit(_BETWEEN, 2)
        return task, (key, rate_key)
    return park.removeprefix(PARKED_BY_TASK), ("", "")


def park_text(park: str) -> str:
    """Return a `park` as people read it."""
    if not park.startswith(PARKED_BY_LIMIT):
        return park
    task, keys = parts_of_park(park)
    said = " / ".join(key for key in keys if key)
    return f"{PARKED_BY_LIMIT}{task}" + (f" ({said})" if said else "")


class Space:
    """What the windows of all lanes may hold together, so that many lanes are no way round the
    bound of one.

    Args:
        most_bytes: payloads in memory, and `JOB_BYTES` for each job.
        spills: whether what finds no room waits in the store; if not, its submitter waits, and an
            empty lane takes one job all the same, or a lane that nobody empties would hold up
            everyone.
    """

    __slots__ = ("held_bytes", "most_bytes", "spills")

    def __init__(self, most_bytes: int, *, spills: bool) -> None:
        self.most_bytes = most_bytes
        self.spills = spills
        self.held_bytes = 0

    @property
    def left_bytes(self) -> int:
        """How much more the windows may hold; 0 or below when they are full."""
        return self.most_bytes - self.held_bytes

    @property
    def is_full(self) -> bool:
        """Whether no lane should take more than it needs to go on."""
        return self.left_bytes <= 0

    @property
    def is_tight(self) -> bool:
        """Whether reading something back is not worth it yet: each job that is taken frees a
        little, and a read for each would find the same jobs again and again."""
        return self.left_bytes <= self.most_bytes // 8

    def add(self, payload_bytes: int) -> None:
        """Count a job in."""
        self.held_bytes += payload_bytes + JOB_BYTES

    def remove(self, payload_bytes: int) -> None:
        """Count a job out."""
        self.held_bytes -= payload_bytes + JOB_BYTES


class Lane:
    """Ready jobs that wait for the same thing."""

    def __init__(self, row: LaneRow, window: int, window_bytes: int, space: Space) -> None:
        self.number = row.lane
        self.key: LaneKey = (row.queue, row.priority, row.park)
        self.queue = row.queue or DEFAULT_QUEUE
        self.priority = Priority.NORMAL if row.priority is None else row.priority
        """Where it is taken from: the key, and what announcements fill in."""
        self.park = row.park
        self.task = parts_of_park(row.park)[0]
        """The task whose jobs are parked here; "" for a main lane."""
        self._window = window
        self._window_bytes = window_bytes
        self._space = space
        self._inlet, self._outlet = trio.open_memory_channel[Job](window)
        self._next: Job | None = None
        """Taken out of the channel to see its seq, and not yet taken by anyone."""
        self._front: list[tuple[int, Job]] = []
        self._last_seq = 0
        """Seq of the last job that went into the channel."""
        self._stale = 0
        """Entries of withdrawn jobs that still lie in the channel or the front."""
        self.level: Level | None = None
        self.is_listed = False
        """Whether `level` looks here for jobs; a parked lane that is empty costs nobody a look."""
        self.is_shut = False
        """Whether nobody is to look here, as its jobs wait for a limit."""
        self.held = 0
        """Jobs in memory: waiting here, or on their way here through a commit."""
        self.held_bytes = 0
        self.stored = 0
        """Jobs beyond the window, in the store or on their way there."""
        self.delayed = 0
        """Jobs that will come here when their time has come."""
        self.delayed_bytes = 0
        """The payloads of those of them that are in memory."""
        self.arriving = 0
        """Those of them that were submitted just now, and whose commit is under way."""
        self.spilling = 0
        """Those of them that were in memory, and whose commit is under way. Their seqs may be lower
        than those of jobs that are in the store: nothing is read back before they are there."""
        self.read_to = 0
        """There is no stored job up to this seq that is not in memory too."""
        self.is_reading = False
        self.is_unreadable = False
        """Whether the last try to read stored jobs back has failed: nobody waits for these."""
        self.is_read_later = False
        """Whether it will be tried again after a while, and not before."""
        self.waiting: OrderedDict[bytes, tuple[Session, m.Submit]] = OrderedDict()
        """Submissions that wait for room, by id, where there is no disk to put them on."""

    @property
    def row(self) -> LaneRow:
        """What the store is told about this lane's number."""
        return LaneRow(self.number, *self.key)

    @property
    def ready(self) -> int:
        """How many jobs wait here, in memory and in the store."""
        return self.held + self.stored

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here, is read back, or waits for room."""
        return not (
            self.held
            or self.stored
            or self.delayed
            or self.waiting
            or self.is_reading
            or self.is_read_later
        )

    @property
    def has_room(self) -> bool:
        """Whether the window takes one more job."""
        held, held_bytes = self.held, self.held_bytes
        if not self._space.spills:
            # What is delayed is all in memory too.
            held, held_bytes = held + self.delayed, held_bytes + self.delayed_bytes
        if held >= self._window or held_bytes >= self._window_bytes:
            return False
        return not self._space.is_full or not (held or self._space.spills)

    @property
    def is_thirsty(self) -> bool:
        """Whether stored jobs should be read back now."""
        return (
            self.stored > self.arriving
            and not self.spilling
            and not (self.is_reading or self.is_read_later)
            and self.held * 2 <= self._window
            and self.held_bytes * 2 <= self._window_bytes
        )

    @property
    def room(self) -> tuple[int, int]:
        """How many jobs and bytes the window has room for."""
        left_bytes = max(0, self._space.left_bytes)
        jobs = min(self._window - self.held, left_bytes // JOB_BYTES)
        return max(1, jobs), max(1, min(self._window_bytes - self.held_bytes, left_bytes))

    def reserve(self, size_bytes: int) -> None:
        """Count a job that will be `put` here when it is committed."""
        self.held += 1
        self.held_bytes += size_bytes
        self._space.add(size_bytes)
        if not self.is_listed:
            self._list()

    def release(self, size_bytes: int) -> None:
        """Take `reserve` back: the job was not inserted, or left without being taken."""
        self.held -= 1
        self.held_bytes -= size_bytes
        self._space.remove(size_bytes)

    def deepen(self, jobs: int = 1) -> None:
        """Count *jobs* that join the stored tail."""
        self.stored += jobs
        if not self.is_listed:
            self._list()

    def delay(self) -> None:
        """Count a job that will come here when its time has come."""
        self.delayed += 1
        if not self.is_listed:
            self._list()

    def put(self, job: Job) -> None:
        """Add a reserved job; most come in order of their seq."""
        if job.seq > self._last_seq:
            try:
                self._inlet.send_nowait(job)
            except trio.WouldBlock:
                # Nested submissions do not wait for room, and entries left behind take some.
                pass
            else:
                self._last_seq = job.seq
                return
        heapq.heappush(self._front, (job.seq, job))

    def put_back(self, job: Job) -> None:
        """Add a job out of order: it was handed back, lost, or has changed lanes."""
        self.reserve(len(job.payload))
        heapq.heappush(self._front, (job.seq, job))

    def peek_seq(self) -> float:
        """Return the seq of the job that `take` would give, infinity when there is none."""
        job = self._head()
        return math.inf if job is None else job.seq

    def take(self) -> Job | None:
        """Remove and return the oldest job in memory."""
        job = self._head()
        if job is None:
            return None
        if job is self._next:
            self._next = None
        else:
            heapq.heappop(self._front)
        self.release(len(job.payload))
        return job

    def withdraw(self, job: Job) -> None:
        """Count a waiting job out; its entry is skipped when its turn comes, or swept out with
        others."""
        job.stale_entries += 1
        self._stale += 1
        self.release(len(job.payload))
        if self._stale > self.held:
            self._sweep()

    def shut(self) -> None:
        """Have nobody look here: the jobs of this parked lane wait for a limit."""
        if not self.is_shut:
            self.is_shut = True
            if self.level is not None:
                if self.is_listed:
                    self.level.unlist(self)
                self.level.shut.add(self)
            self.is_listed = False

    def open(self) -> None:
        """Let it be looked into again."""
        if self.is_shut:
            self.is_shut = False
            if self.level is not None:
                self.level.shut.discard(self)
            if self.ready or self.delayed:
                self._list()

    def statistics(self) -> dict[str, Any]:
        """Return what `creche queues ls --json` shows of the channel, and what is beside it."""
        stats = self._inlet.statistics()
        return {
            "channel": {
                "current_buffer_used": stats.current_buffer_used,
                "max_buffer_size": int(stats.max_buffer_size),
                "open_send_channels": stats.open_send_channels,
                "open_receive_channels": stats.open_receive_channels,
                "tasks_waiting_send": stats.tasks_waiting_send,
                "tasks_waiting_receive": stats.tasks_waiting_receive,
            },
            "front": len(self._front) + (self._next is not None),
            "stale": self._stale,
            "window": self._window,
            "held": self.held,
            "held_bytes": self.held_bytes,
            "stored": self.stored,
            "delayed": self.delayed,
            "waiting": len(self.waiting),
        }

    def _head(self) -> Job | None:
        front = self._front
        while True:
            if self._next is None:
                try:
                    self._next = self._outlet.receive_nowait()
                except trio.WouldBlock:
                    if not front:
                        return None
            following = self._next
            if front and (following is None or front[0][0] < following.seq):
                job = front[0][1]
                if not job.stale_entries:
                    return job
                heapq.heappop(front)
            else:
                assert following is not None
                if not following.stale_entries:
                    return following
                job, self._next = following, None
            self._skip(job)

    def _skip(self, job: Job) -> None:
        job.stale_entries -= 1
        self._stale -= 1

    def _sweep(self) -> None:
        """Drop the entries of withdrawn jobs: as much work as so many withdrawals were."""
        following, self._next = self._next, None
        entries: list[Job] = []
        with suppress(trio.WouldBlock):
            while True:
                entries.append(self._outlet.receive_nowait())
        if following is not None:
            # It keeps its place beside the channel, which may be full without it.
            if following.stale_entries:
                self._skip(following)
            else:
                self._next = following
        for job in entries:
            if job.stale_entries:
                self._skip(job)
            else:
                self._inlet.send_nowait(job)
        front, self._front = self._front, []
        for entry in front:
            if entry[1].stale_entries:
                self._skip(entry[1])
            else:
                self._front.append(entry)
        heapq.heapify(self._front)

    def _list(self) -> None:
        if self.is_shut:
            return
        self.is_listed = True
        if self.level is not None:
            self.level.list_parked(self)


class Turnstile(Protocol):
    """Who decides whether a job that was taken may run, and parks it if not."""

    @property
    def is_tired(self) -> bool:
        """Whether it has parked so many that others should have their turn: there may be more."""
        ...

    def lets_pass(self, job: Job, tasks: Collection[str]) -> bool:
        """Whether *job* may run on a worker that knows *tasks*."""
        ...


class Level:
    """One priority of one queue: the lane that every worker may take from, and the parked ones."""

    __slots__ = ("coming", "main", "overtaken", "parked", "shut")

    def __init__(self) -> None:
        self.main: Lane | None = None
        self.parked: dict[str, list[Lane]] = {}
        """By task, those that have jobs; submissions of one task that left different things open
        meet here."""
        self.coming: dict[str, OrderedDict[Lane, None]] = {}
        """Likewise, those beyond `LISTED`."""
        self.shut: set[Lane] = set()
        """Parked lanes that nobody is to look into."""
        self.overtaken = 0
        """Jobs of higher levels that were taken while one of this level waited."""

    def list_parked(self, lane: Lane) -> None:
        """Look into a parked *lane* from now on: it has a job."""
        lanes = self.parked.setdefault(lane.task, [])
        if len(lanes) < LISTED:
            lanes.append(lane)
        else:
            self.coming.setdefault(lane.task, OrderedDict())[lane] = None

    def unlist(self, lane: Lane) -> None:
        """Look into a parked *lane* no more."""
        lanes, coming = self.parked[lane.task], self.coming.get(lane.task)
        if coming is not None and lane in coming:
            del coming[lane]
        else:
            lanes.remove(lane)
            if coming:
                lanes.append(coming.popitem(last=False)[0])
        if not coming:
            self.coming.pop(lane.task, None)
        if not lanes:
            del self.parked[lane.task]

    def take(self, tasks: Collection[str], turnstile: Turnstile) -> Job | None:
        """Return the oldest job of one of *tasks* that may run; others are parked meanwhile."""
        while True:
            lane = self.main
            best: Lane | None = lane
            if self.parked:
                least = math.inf if lane is None else lane.peek_seq()
                for beside in self._parked_for(tasks):
                    if (seq := beside.peek_seq()) < least:
                        best, least = beside, seq
            if best is None:
                return None
            job = best.take()
            if job is None or turnstile.lets_pass(job, tasks):
                return job
            if turnstile.is_tired:
                return None

    def _parked_for(self, tasks: Collection[str]) -> list[Lane]:
        """Return the parked lanes of *tasks*; those that have run empty are not looked into again
        before they have a job."""
        parked = self.parked
        # Whichever are fewer: anyone may submit names that no worker knows.
        known = (
            [task for task in parked if task in tasks]
            if len(parked) < len(tasks)
            else [task for task in tasks if task in parked]
        )
        lanes = [lane for task in known for lane in parked[task]]
        for lane in lanes:
            if not (lane.ready or lane.delayed):
                lane.is_listed = False
                self.unlist(lane)
        return lanes

    def lanes(self) -> Iterator[Lane]:
        """Return the lanes of this level that have jobs, and the main one first."""
        if self.main is not None:
            yield self.main
        for lanes in self.parked.values():
            yield from lanes
        for coming in self.coming.values():
            yield from coming
        yield from self.shut

    def has_job_for(self, tasks: Collection[str]) -> bool:
        """Whether a job in memory waits here that may be of one of *tasks*."""
        return any(lane.held for lane in self._lanes_for(tasks))

    def is_being_read_for(self, tasks: Collection[str]) -> bool:
        """Whether jobs that may be of one of *tasks* are stored and have to be read back first."""
        return any(lane.stored and not lane.is_unreadable for lane in self._lanes_for(tasks))

    def _lanes_for(self, tasks: Collection[str]) -> Iterator[Lane]:
        if self.main is not None:
            yield self.main
        if self.parked:
            yield from self._parked_for(tasks)


class Lanes:
    """All lanes of a plane, by queue and priority.

    Args:
        window, window_bytes: of each lane.
        space: of all of them together.
        fairness: after so many overtakes a lower level passes once; None for strict order.
        on_new: called with each lane made, so that the store learns its number.
    """

    def __init__(
        self,
        window: int,
        window_bytes: int,
        space: Space,
        fairness: int | None,
        on_new: Callable[[Lane], None],
    ) -> None:
        self._window = window
        self._window_bytes = window_bytes
        self.space = space
        self._fairness = fairness
        self._on_new = on_new
        self._next_number = 1
        self.by_key: dict[LaneKey, Lane] = {}
        self.by_number: dict[int, Lane] = {}
        self.queues: dict[str, list[Level | None]] = {}
        self.shut_queues: set[str] = set()
        """Those that nothing is taken from: they are paused, or a limit of theirs has no room."""

    def restore(
        self,
        rows: Collection[LaneRow],
        in_use: Collection[int],
        most: int,
        place: Callable[[LaneKey], tuple[str, int]],
    ) -> None:
        """Make the lanes that the store knows, in order: *most*, and those *in_use*. *place* fills
        in what their keys leave open."""
        spare = len(rows) - most
        for row in rows:
            self._next_number = max(self._next_number, row.lane + 1)
            if spare > 0 and row.lane not in in_use:
                spare -= 1
            else:
                lane = self._make(row)
                self._keep(lane, *place(lane.key))

    def get(self, key: LaneKey, place: tuple[str, int]) -> Lane:
        """Return the lane of *key*, made now if need be; *place* is where it is taken from."""
        lane = self.by_key.get(key)
        if lane is None:
            lane = self._make(LaneRow(self._next_number, *key))
            self._next_number += 1
            self._keep(lane, *place)
            self._on_new(lane)
        return lane

    def retire(self, in_use: Collection[Lane]) -> None:
        """Let go of the lanes where nothing waits; *in_use* are those whose jobs are elsewhere in
        memory, and may come back. A key that is used again gets a new lane and number."""
        # In place: it may be called in the middle of a look into the levels, which goes on.
        for lane in [lane for lane in self.by_number.values() if lane.is_idle]:
            if lane not in in_use:
                del self.by_number[lane.number]
                self._leave_level(lane)
        # A key that was used again has two lanes after a restart: whichever is left has it now.
        self.by_key = {lane.key: lane for lane in self.by_number.values()}
        for lane in self.by_number.values():
            if not lane.park:
                level = self._level(lane.queue, lane.priority)
                level.main = level.main or lane
        used = {lane.queue for lane in self.by_number.values()}
        for queue in [queue for queue in self.queues if queue not in used]:
            del self.queues[queue]

    def _leave_level(self, lane: Lane) -> None:
        level = self._level(lane.queue, lane.priority)
        if not lane.park:
            level.main = None if level.main is lane else level.main
            return
        if lane.is_listed:
            level.unlist(lane)
        level.shut.discard(lane)

    def move(self, lane: Lane, queue: str, priority: int) -> None:
        """Take a parked *lane* from another queue and priority from now on."""
        if lane.is_listed and lane.level is not None:
            lane.level.unlist(lane)
        self._place(lane, queue, priority)

    def take(self, session: Session, turnstile: Turnstile) -> Job | None:
        """Remove and return the next job for a worker: by its order of queues, then priority, then
        seq. No checkpoint."""
        for queue in session.queues:
            levels = self.queues.get(queue)
            if levels is None or queue in self.shut_queues:
                continue
            if self._fairness is not None:
                job = self._take_overtaken(levels, session, turnstile)
                if job is not None:
                    return job
            for priority, level in enumerate(levels):
                if level is None:
                    continue
                job = level.take(session.tasks, turnstile)
                if job is not None:
                    if self._fairness is not None:
                        self._count_overtakes(levels, priority, session)
                    return job
                if turnstile.is_tired or level.is_being_read_for(session.tasks):
                    # What comes from the store in a moment is more urgent than what is below.
                    return None
        return None

    def ready_for(self, session: Session, *, is_now: bool = False) -> int:
        """Return how many jobs wait in lanes that a worker may take from, or, unless only what it
        may take now is asked for, will when a limit has room again."""
        return sum(
            lane.ready
            for queue in session.queues
            if queue not in self.shut_queues
            for level in self.queues.get(queue, ())
            if level is not None
            for lane in level.lanes()
            if (not lane.park or lane.task in session.tasks) and not (is_now and lane.is_shut)
        )

    def take_above(self, session: Session, below: int, turnstile: Turnstile) -> Job | None:
        """Remove and return a job for a worker that is more urgent than priority *below*."""
        for queue in session.queues:
            levels = self.queues.get(queue)
            if levels is None or queue in self.shut_queues:
                continue
            for level in levels[:below]:
                if level is not None:
                    job = level.take(session.tasks, turnstile)
                    if job is not None:
                        return job
                    if turnstile.is_tired:
                        return None
        return None

    def _take_overtaken(
        self, levels: list[Level | None], session: Session, turnstile: Turnstile
    ) -> Job | None:
        assert self._fairness is not None
        for level in levels:
            if level is not None and level.overtaken >= self._fairness:
                level.overtaken = 0
                job = level.take(session.tasks, turnstile)
                if job is not None:
                    # Where it is run it must not be overtaken again.
                    job.let_pass = True
                    return job
        return None

    def _count_overtakes(self, levels: list[Level | None], taken: int, session: Session) -> None:
        levels[taken].overtaken = 0  # type: ignore[union-attr]
        for level in levels[taken + 1 :]:
            if level is not None and level.has_job_for(session.tasks):
                level.overtaken += 1

    def _make(self, row: LaneRow) -> Lane:
        return Lane(row, self._window, self._window_bytes, self.space)

    def _keep(self, lane: Lane, queue: str, priority: int) -> None:
        self.by_key[lane.key] = lane
        self.by_number[lane.number] = lane
        self._place(lane, queue, priority)

    def _place(self, lane: Lane, queue: str, priority: int) -> None:
        lane.queue, lane.priority = queue, priority
        level = self._level(queue, priority)
        if not lane.park:
            level.main, lane.is_listed = lane, True
            return
        lane.level = level
        if lane.is_shut:
            level.shut.add(lane)
        elif lane.is_listed:
            level.list_parked(lane)

    def _level(self, queue: str, priority: int) -> Level:
        levels = self.queues.get(queue)
        if levels is None:
            levels = self.queues[queue] = [None] * len(Priority)
        level = levels[priority]
        if level is None:
            level = levels[priority] = Level()
        return level
