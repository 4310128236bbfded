"""The store of a plane that keeps nothing on disk, and the plainest reading of the contract.

All is dictionaries, and every call does its work at once and then checkpoints, so that calls are
served in the order they were made and cancelling one loses nothing but its answer. What there is of
jobs is in `memory_jobs`; beside it are their keys, the dead among them, and what is let go of.

What it holds lives as long as the object: opened again after `aclose`, it starts the next epoch
over the same jobs. A plane does not do that, but a simulated restart does.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import trio

from creche.errors import StoreError, StoreUnavailable
from creche.model.filter import ANY, Filter
from creche.model.job import JobState
from creche.store.base import (
    Batch,
    DelayCount,
    Duplicate,
    Durability,
    Expired,
    JobPage,
    JobRecord,
    JobRow,
    KeyHolder,
    LaneCount,
    LaneRow,
    OutcomeRow,
    Pruned,
    QueueRow,
    Recovery,
    Retention,
    ScheduleRow,
    TaskRow,
)
from creche.store.filters import ended_with
from creche.store.memory_dead import DeadJobs
from creche.store.memory_jobs import Jobs
from creche.store.memory_keys import UniqueKeys
from creche.store.memory_pruning import Pruning
from creche.store.memory_rows import job_row, record

SCAN_ROWS = 2000
"""Jobs that a question looks at between two checkpoints: well below a millisecond."""


class MemoryStore:
    """A `Store` that ends with its process.

    The calls raise `StoreUnavailable` before `open` and after `aclose`.
    """

    durability = Durability.MEMORY

    def __init__(self) -> None:
        self._is_open = False
        self._id = os.urandom(8).hex()
        self._epoch = 0
        self._lanes: dict[int, LaneRow] = {}
        self._tasks: dict[str, TaskRow] = {}
        self._queues: dict[str, QueueRow] = {}
        self._schedules: dict[str, ScheduleRow] = {}
        self._jobs = Jobs()
        self._keys = UniqueKeys(self._jobs)
        self._dead = DeadJobs(self._jobs)
        self._pruning = Pruning(self._jobs, self._dead, self._keys)

    # --- the ledger -----------------------------------------------------------------------------

    async def open(self, now: float) -> Recovery:
        """See `LedgerStore.open`. It cannot fail."""
        if self._is_open:
            raise StoreError("the memory store is open already")
        self._is_open = True
        self._epoch += 1
        jobs = self._jobs
        recovery = Recovery(
            ledger="main",
            id=self._id,
            epoch=self._epoch,
            next_seq=jobs.next_seq,
            lanes=[self._lanes[lane] for lane in sorted(self._lanes)],
            stored=[
                LaneCount(lane, len(tail), next(tail.after(-1)))
                for lane, tail in sorted(jobs.tails.items())
                if len(tail)
            ],
            held=[
                job_row(jobs, seq)
                for seq, standing in sorted(jobs.unfinished.items())
                if not standing.stored
            ],
            tasks=[self._tasks[name] for name in sorted(self._tasks)],
            ended=len(jobs.ended),
            delayed=[DelayCount(*count) for count in sorted(jobs.delayed.items()) if count[1]],
            next_due_at=jobs.due.first_after(-math.inf),
            next_expiry_at=jobs.expiring.first_after(-math.inf),
            queues=[self._queues[name] for name in sorted(self._queues)],
            schedules=[self._schedules[name] for name in sorted(self._schedules)],
            ousted=self._keys.ousted(),
        )
        await trio.lowlevel.checkpoint()
        return recovery

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        """See `LedgerStore.commit`. It never raises `StoreFull`."""
        self._check_open()
        jobs = self._jobs
        refused, changes, ends = jobs.check(batch)
        for lane in batch.lanes:
            self._lanes[lane.lane] = lane
        for task in batch.tasks:
            if task.declaration is None:
                self._tasks.pop(task.name, None)
            else:
                self._tasks[task.name] = task
        for queue in batch.queues:
            if queue.settings is None:
                self._queues.pop(queue.name, None)
            else:
                self._queues[queue.name] = queue
        jobs.insert(batch.jobs, refused)
        self._keys.take(row for row in batch.keys if row.seq not in refused)
        jobs.change(changes)
        jobs.keep_tries(row for row in batch.tries if row.seq not in refused)
        jobs.end(ends)
        self._keys.end(ends)
        self._dead.add(ends)
        for schedule in batch.schedules:
            if schedule.data is None:
                self._schedules.pop(schedule.name, None)
            else:
                self._schedules[schedule.name] = schedule
        self._dead.judge(batch.verdicts)
        jobs.set_options(batch.options)
        self._keys.oust(row for row in batch.ousts if row.by not in refused)
        duplicates = [
            Duplicate(seq, existing, jobs.state(existing)) for seq, existing in refused.items()
        ]
        await trio.lowlevel.checkpoint()
        return duplicates

    async def read_lane(
        self, lane: int, after_seq: int, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """See `LedgerStore.read_lane`."""
        self._check_open()
        tail = self._jobs.tails.get(lane)
        seqs = () if tail is None else islice(tail.after(after_seq), max_jobs)
        rows = self._read(seqs, max_bytes)
        await trio.lowlevel.checkpoint()
        return rows

    async def read_lanes(self, lanes: Collection[int]) -> Sequence[JobRow]:
        """See `LedgerStore.read_lanes`. It looks at every unfinished job."""
        self._check_open()
        rows = [
            job_row(self._jobs, seq)._replace(payload=b"")
            for lane in lanes
            for seq, standing in sorted(self._jobs.unfinished.items())
            if standing.stored and standing.lane == lane
        ]
        await trio.lowlevel.checkpoint()
        return rows

    async def read_due(
        self, after: tuple[float, int], until: float, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """See `LedgerStore.read_due`."""
        self._check_open()
        rows = self._read(islice(self._jobs.due.between(after, until), max_jobs), max_bytes)
        await trio.lowlevel.checkpoint()
        return rows

    def _read(self, seqs: Iterable[int], max_bytes: int) -> list[JobRow]:
        """Return rows as long as their payloads are not over *max_bytes*, and one more."""
        rows: list[JobRow] = []
        size = 0
        for seq in seqs:
            row = job_row(self._jobs, seq)
            rows.append(row)
            size += len(row.payload)
            if size > max_bytes:
                break
        return rows

    async def expired(self, now: float, most: int) -> Expired:
        """See `LedgerStore.expired`."""
        self._check_open()
        jobs = self._jobs
        over = (
            seq
            for seq in jobs.expiring.between((-math.inf, 0), now)
            if jobs.unfinished[seq].state.is_waiting
        )
        ids = [jobs.rows[seq].id for seq in islice(over, most)]
        next_at = jobs.expiring.first_after(now)
        await trio.lowlevel.checkpoint()
        return Expired(ids, next_at)

    async def outcomes(
        self, ids: Collection[bytes], max_bytes: int | None = None
    ) -> Mapping[bytes, OutcomeRow]:
        """See `LedgerStore.outcomes`."""
        self._check_open()
        jobs = self._jobs
        found: dict[bytes, OutcomeRow] = {}
        room = math.inf if max_bytes is None else max_bytes
        for job_id in ids:
            seq = jobs.ids.get(job_id)
            if seq is None:
                continue
            ended = jobs.ended.get(seq)
            is_left = ended is not None and room < 0
            outcome = None if ended is None or is_left else ended.end.outcome
            room -= len(outcome or b"")
            found[job_id] = OutcomeRow(seq, job_id, jobs.state(seq), outcome, is_left)
        await trio.lowlevel.checkpoint()
        return found

    async def find(self, ids: Collection[bytes]) -> Mapping[bytes, JobRow]:
        """See `LedgerStore.find`."""
        self._check_open()
        found: dict[bytes, JobRow] = {}
        for job_id in ids:
            seq = self._jobs.ids.get(job_id)
            if seq is not None and seq in self._jobs.unfinished:
                found[job_id] = job_row(self._jobs, seq)._replace(payload=b"")
        await trio.lowlevel.checkpoint()
        return found

    async def keys(self, names: Collection[bytes]) -> Mapping[bytes, KeyHolder]:
        """See `LedgerStore.keys`."""
        self._check_open()
        found = self._keys.holders(names)
        await trio.lowlevel.checkpoint()
        return found

    async def is_over(self, now: float, retention: Retention) -> bool:
        """See `LedgerStore.is_over`."""
        self._check_open()
        is_over = self._pruning.is_over(now, retention)
        await trio.lowlevel.checkpoint()
        return is_over

    async def prune(self, now: float, retention: Retention, keep: Collection[int]) -> Pruned:
        """See `LedgerStore.prune`."""
        self._check_open()
        pruned = self._pruning.prune(now, retention, frozenset(keep))
        await trio.lowlevel.checkpoint()
        return pruned

    async def aclose(self) -> None:
        """See `LedgerStore.aclose`."""
        self._is_open = False
        await trio.lowlevel.checkpoint()

    # --- questions ------------------------------------------------------------------------------

    async def jobs(
        self, filter: Filter = ANY, *, before_seq: int | None = None, limit: int = 50
    ) -> JobPage:
        """See `HistoryStore.jobs`. Other work goes on between the jobs it looks at."""
        self._check_open()
        jobs, wanted = self._jobs, filter.states
        # A copy: jobs come and go at the checkpoints below.
        seqs = list(jobs.rows) if jobs.are_in_order else sorted(jobs.rows)
        if before_seq is not None:
            del seqs[bisect_left(seqs, before_seq) :]
        found: list[JobRecord] = []
        for looked_at, seq in enumerate(reversed(seqs), 1):
            if looked_at % SCAN_ROWS == 0:
                await trio.lowlevel.checkpoint()
            if seq not in jobs.rows or jobs.state(seq) not in wanted:
                continue
            seen = self._record(seq)
            if filter.matches(seen, partial(self._error, seq)):
                found.append(seen)
                if len(found) == limit:
                    break
        await trio.lowlevel.checkpoint()
        return JobPage(found, found[-1].seq if len(found) == limit else None)

    def _record(self, seq: int) -> JobRecord:
        number = self._jobs.lane(seq)
        lane = self._lanes.get(number) or LaneRow(number, None, None, "")
        return record(self._jobs, self._dead, lane, seq)

    def _error(self, seq: int) -> str:
        """Return what a job ended with, as filters look at it."""
        ended = self._jobs.ended.get(seq)
        return "" if ended is None else ended_with(ended.end.state, ended.end.outcome)

    async def job(self, job_id: bytes) -> JobRecord | None:
        """See `HistoryStore.job`."""
        self._check_open()
        jobs = self._jobs
        seq = jobs.ids.get(job_id)
        found = None
        if seq is not None:
            ended = jobs.ended.get(seq)
            found = self._record(seq)._replace(
                payload=jobs.rows[seq].payload if seq not in jobs.forgotten else None,
                outcome=ended.end.outcome if ended is not None else None,
                tries=tuple(jobs.tries.get(seq, ())),
            )
        await trio.lowlevel.checkpoint()
        return found

    async def counts(self) -> Mapping[JobState, int]:
        """See `HistoryStore.counts`."""
        self._check_open()
        counted = self._jobs.counts
        counts = {state: counted[state] for state in JobState if counted[state]}
        await trio.lowlevel.checkpoint()
        return counts

    async def tasks_in_use(self) -> Collection[str]:
        """See `HistoryStore.tasks_in_use`."""
        self._check_open()
        rows = self._jobs.rows
        tasks = {rows[seq].task for seq in self._jobs.unfinished}
        await trio.lowlevel.checkpoint()
        return tasks

    async def info(self) -> dict[str, Any]:
        """See `HistoryStore.info`."""
        self._check_open()
        facts = {
            "kind": "memory",
            "durability": self.durability.value,
            "ledger": "main",
            "epoch": self._epoch,
            "jobs": len(self._jobs.rows),
            "unfinished": len(self._jobs.unfinished),
            "ended": len(self._jobs.ended),
            "tombstones": len(self._jobs.forgotten),
            "kept_bytes": self._jobs.kept_bytes,
        }
        await trio.lowlevel.checkpoint()
        return facts

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the memory store is not open")
