"""One lane: ready jobs that wait for the same thing, in the order in which they are taken.

A Trio memory channel, whose capacity is the **window**, and a small **front** for what comes back
out of order (handed back, lost, nested). Both are taken from by seq. What is beyond the window
waits in the store and is read back by seq; as long as there is such a tail, arrivals join it.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from creche.engine.job import Job
from creche.engine.parks import DEFAULT_QUEUE, LaneKey, parts_of_park
from creche.engine.space import JOB_BYTES, Space
from creche.model.priority import Priority
from creche.store.base import LaneRow

if TYPE_CHECKING:
    from creche.engine.level import Level
    from creche.engine.sessions import Session
    from creche.wire import messages as m

READ_AGAIN_S = 5.0
"""How long to wait before stored jobs that could not be read are tried again."""


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
