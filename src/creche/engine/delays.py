"""Delays: jobs whose time has not come, whether they were submitted so or wait to be tried again.

The next ones are in memory, in one heap of all lanes; what finds no room there waits in the store
and is read back shortly before its time. Moments are UTC, as users give them.

Where there is no disk all of them are in memory, and take up room in the windows of their lanes."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from creche.engine.job import Job
from creche.engine.lane import READ_AGAIN_S
from creche.engine.space import JOB_BYTES
from creche.engine.timers import Alarm
from creche.errors import StoreError, StoreUnavailable
from creche.model.job import JobState, check_move
from creche.store.base import JobRow

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

HOLD_S = 60.0
"""What is due later than this waits in the store, whatever room there is: it would take the room
from what is due sooner."""

SHARE = 4
"""Delayed jobs hold at most one part in so many of the space that there is for all lanes."""

AHEAD_S = 1.0
"""How long before their time stored jobs are read into memory."""

EVERY_S = 0.05
"""How often stored jobs are read when there is no room to read ahead: each is read once then."""

LET_GO_S = 0.005
LET_GO_TIMES = 8
"""Within so long due jobs are let go of so many times, and then all that have become due meanwhile
at once: of very many with a moment each, a frame and a commit for each would be more than there is
time for."""

PIECE_JOBS, PIECE_BYTES = 1000, 8 * 1024 * 1024
"""How much is read from the store at a time."""

_LATEST = (math.inf, 0)


class Delays:
    """The delayed jobs of a plane, DELAYED until their time comes."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._heap: list[tuple[float, int, Job]] = []
        self.held = 0
        """Those in memory, or on their way here through a commit."""
        self.held_bytes = 0
        self.stored = 0
        """Those in the store, or on their way there."""
        self._read_to = (-math.inf, 0)
        """(due_at, seq): no stored one up to here is not in memory too."""
        self._read_at = math.inf
        """When stored ones are to be read next: none is due before that."""
        self._is_reading = False
        self._lowered = _LATEST
        """The least that `_read_to` was lowered to since the store was asked last: what came to the
        store meanwhile is not in its answer."""
        self._has_begun = False
        self._let_go_since = -math.inf
        """When `LET_GO_S` began (Trio's clock: the other one may be set back)."""
        self._let_go_times = 0
        self._alarm = Alarm(core.timers, lambda: core.now(), self._look)

    # --- coming and going -----------------------------------------------------------------------

    def restore(self, stored: int, next_due_at: float | None) -> None:
        """Learn what the store holds, when it is opened."""
        self.stored = stored
        self._read_at = math.inf if next_due_at is None else next_due_at - AHEAD_S

    def begin(self) -> None:
        """Let go of what is due from now on."""
        self._has_begun = True
        self._arm()

    def enter(self, job: Job, *, is_held: bool = False) -> None:
        """A job is to wait for its `due_at`: count it, and decide where it waits (`is_stored`).
        `wait` is called when that is on disk. No checkpoint."""
        job.lane.delay()
        is_far = job.due_at is not None and job.due_at > self._core.now() + HOLD_S
        job.is_stored = self._core.spills and not is_held and (is_far or not self._has_room)
        if job.is_stored:
            self.stored += 1
        else:
            self._hold(job)

    @property
    def _has_room(self) -> bool:
        settings, space = self._core.settings, self._core.lanes.space
        share_bytes = settings.windows_bytes // SHARE
        return self.held < settings.delays and self.held_bytes < share_bytes and not space.is_full

    def wait(self, job: Job) -> None:
        """It is on disk that *job* is delayed: it waits here, or leaves memory."""
        due_at = _due_at(job)
        if job.is_stored:
            before = (due_at, job.seq - 1)
            self._lowered = min(self._lowered, before)
            self._read_to = min(self._read_to, before)
            self._read_at = min(self._read_at, due_at - AHEAD_S)
        else:
            heapq.heappush(self._heap, (due_at, job.seq, job))
        self._arm()

    def leave(self, job: Job) -> None:
        """A job is delayed no more: count it out. Its entry is skipped when its turn comes, or
        swept out with others."""
        job.lane.delayed -= 1
        if job.is_stored:
            job.is_stored = False
            self.stored -= 1
        else:
            size = len(job.payload)
            self.held -= 1
            self.held_bytes -= size + JOB_BYTES
            job.lane.delayed_bytes -= size
            self._core.lanes.space.remove(size)
            if len(self._heap) > 2 * self.held + 64:
                self._heap = [entry for entry in self._heap if _is_live(*entry)]
                heapq.heapify(self._heap)

    def _hold(self, job: Job) -> None:
        size = len(job.payload)
        self.held += 1
        self.held_bytes += size + JOB_BYTES
        job.lane.delayed_bytes += size
        self._core.lanes.space.add(size)

    # --- when time comes ------------------------------------------------------------------------

    def _arm(self) -> None:
        """Wake up for whatever comes first."""
        first = self._heap[0][0] if self._heap else math.inf
        if not self._is_reading:
            first = min(first, self._read_at)
        if self._has_begun:
            pause_s = self._pause_s()
            self._alarm.set(max(first, self._core.now() + pause_s) if pause_s else first)

    def _look(self) -> None:
        """Let go of what is due, and have read what will be soon."""
        now = self._core.now()
        is_due = False
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if _is_live(*entry):
                self._release(entry[2])
                is_due = True
        if self._read_at <= now and not self._is_reading:
            self._is_reading = True
            self._core.spawn(self._read)
        if is_due:
            self._count()
            self._core.dispatch.run()
        self._core.journal.wake()
        self._arm()

    def _count(self) -> None:
        """Somebody was let go of."""
        now = trio.current_time()
        if now >= self._let_go_since + LET_GO_S:
            self._let_go_since, self._let_go_times = now, 0
        self._let_go_times += 1

    def _pause_s(self) -> float:
        """Return how long nobody is to be let go of."""
        if self._let_go_times < LET_GO_TIMES:
            return 0.0
        return max(0.0, self._let_go_since + LET_GO_S - trio.current_time())

    def _release(self, job: Job) -> None:
        """The time of a job has come: it goes to its lane. That need not be on disk before: a plane
        that starts again sees by the clock that it is due."""
        core, lane = self._core, job.lane
        self.leave(job)
        self.end_delay(job)
        if core.spills and not lane.has_room and not lane.is_reading:
            core.tails.spill(job)
        else:
            lane.put_back(job)
            core.journal.change_soon(job)

    @staticmethod
    def end_delay(job: Job) -> None:
        """A job waits for its turn, and for no moment any more."""
        job.due_at = None
        job.state = check_move(job.state, JobState.PARKED if job.lane.park else JobState.QUEUED)

    async def _read(self) -> None:
        """Read stored jobs whose time comes soon, piece after piece. What cannot be read is tried
        again: it is late then, and so are the stored ones that are due after it."""
        try:
            while self._read_at <= self._core.now():
                if not await self._read_piece():
                    self._read_at = await self._next_read_at()
                # So that lanes have counted these before it is decided where the next ones wait.
                await self._core.journal.wait_drained()
        except StoreUnavailable:
            raise
        except StoreError as error:
            logger.error("delayed jobs cannot be read back: %s", error)
            self._read_at = self._core.now() + READ_AGAIN_S
        finally:
            self._is_reading = False
        self._arm()

    async def _read_piece(self) -> bool:
        """Take the next stored jobs into memory; return whether there may be more that are due
        soon."""
        core = self._core
        until = core.now() + (AHEAD_S if self._has_room else 0.0)
        self._lowered = _LATEST
        with core.reading() as gone:
            rows = await core.store.read_due(self._read_to, until, PIECE_JOBS, PIECE_BYTES)
            return self._take_in(rows, gone)

    def _take_in(self, rows: Sequence[JobRow], gone: Mapping[int, JobState]) -> bool:
        """Take those rows into memory that belong there; return whether there may be more of them.
        No checkpoint."""
        core, now = self._core, self._core.now()
        read_to, read_at = self._read_to, self._read_at
        for row in rows:
            assert row.due_at is not None
            if row.due_at > now and not self._has_room:
                # It has to be read at its time, and not before.
                read_at = row.due_at
                break
            other = core.by_id.get(row.id)
            if other is not None and not other.is_committed:
                # Its commit is done and not answered yet, or its id was submitted again: that comes
                # first.
                break
            read_to = (row.due_at, row.seq)
            if row.damage is not None and not row.id:
                if core.damage.leave(row):
                    self.stored -= 1
                    core.lanes.by_number[row.lane].delayed -= 1
                continue
            # In memory since it was read before, or gone from there since the store was asked.
            if other is not None or row.seq in gone:
                continue
            job = core.revive(row)
            self.stored -= 1
            self._hold(job)
            if row.due_at <= now:
                self._release(job)
            else:
                heapq.heappush(self._heap, (row.due_at, row.seq, job))
        core.damage.set_aside()
        core.unique.replaced.cancel_revived()
        # Not past what came to the store meanwhile.
        self._read_to = min(read_to, self._lowered)
        self._read_at = min(read_at, self._lowered[0] - AHEAD_S)
        core.journal.wake()
        return bool(rows)

    async def _next_read_at(self) -> float:
        """Return when the next stored job that is not in memory has to be read."""
        self._lowered = _LATEST
        rows = await self._core.store.read_due(self._read_to, math.inf, 1, 1)
        next_at = rows[0].due_at if rows and rows[0].due_at is not None else math.inf
        next_at = min(next_at, self._lowered[0])
        if self._has_room:
            return next_at - AHEAD_S
        return max(next_at, self._core.now() + EVERY_S)


def _due_at(job: Job) -> float:
    assert job.due_at is not None, "a delayed job says until when"
    return job.due_at


def _is_live(due_at: float, seq: int, job: Job) -> bool:
    """Whether an entry of the heap is of a job that still waits for this moment."""
    return job.state is JobState.DELAYED and not job.is_stored and job.due_at == due_at
