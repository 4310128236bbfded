"""The store of a plane that keeps nothing on disk, and the plainest reading of the contract.

All is dictionaries, and every call does its work at once and then checkpoints, so that calls are
served in the order they were made and cancelling one loses nothing but its answer.

What it holds lives as long as the object: opened again after `aclose`, it starts the next epoch
over the same jobs. A plane does not do that, but a simulated restart does.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import trio

from creche.errors import StoreError, StoreUnavailable
from creche.model.filter import ANY, Filter
from creche.model.ids import made_at
from creche.model.job import Fate, JobState
from creche.store.base import (
    MAX_TRIES,
    Batch,
    Change,
    DelayCount,
    Duplicate,
    Durability,
    End,
    Expired,
    JobPage,
    JobRecord,
    JobRow,
    KeyHolder,
    KeyRow,
    LaneCount,
    LaneRow,
    NewJob,
    Ousted,
    OutcomeRow,
    Pruned,
    QueueRow,
    Recovery,
    Retention,
    ScheduleRow,
    TaskRow,
    TryRow,
    Verdict,
)
from creche.store.filters import ended_with, error_of

PRUNE_ROWS = 2000
"""Outcomes (and tombstones) that one call of `prune` lets go of: about a millisecond's work."""

MAX_TOMBSTONES = 100_000
"""Ids known beyond their outcomes, some hundred bytes each; the oldest go first."""

SCAN_ROWS = 2000
"""Jobs that a question looks at between two checkpoints: well below a millisecond."""

TRIM_ROWS = 2000
"""Dead jobs that leave their set in one call of `prune`."""

Standing: TypeAlias = NewJob | Change
"""How an unfinished job stands: as it came, or as it was changed last."""


class _Ended(NamedTuple):
    """A job's end, and where it stood before. `forgotten_at` is None while its outcome is kept."""

    standing: Standing
    end: End
    forgotten_at: float | None


class _Dead(NamedTuple):
    """One of the dead: what it takes up, and what became of it."""

    ended_at: float
    size: int
    fate: Fate
    retried_as: bytes | None = None


class _Tail:
    """The seqs of one lane's stored jobs, in order.

    Jobs mostly come at the end and go from the front. What goes is dropped from the set at once
    and from the list when half of the list is gone, so that both cost next to nothing a job.
    """

    __slots__ = ("_live", "_seqs")

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._live: set[int] = set()

    def __len__(self) -> int:
        return len(self._live)

    def add(self, seq: int) -> None:
        seqs = self._seqs
        if not seqs or seq > seqs[-1]:
            seqs.append(seq)
        else:
            place = bisect_left(seqs, seq)
            if seqs[place] != seq:
                seqs.insert(place, seq)
        self._live.add(seq)

    def remove(self, seq: int) -> None:
        self._live.remove(seq)
        if len(self._seqs) > 2 * len(self._live) + 64:
            self._seqs = sorted(self._live)

    def after(self, seq: int) -> Iterator[int]:
        seqs = self._seqs
        for place in range(bisect_right(seqs, seq), len(seqs)):
            if seqs[place] in self._live:
                yield seqs[place]


class _Moments:
    """Jobs by (moment, seq), in order. What goes is dropped from the set at once, and from the list
    when half of it is gone."""

    __slots__ = ("_listed", "_live")

    def __init__(self) -> None:
        self._listed: list[tuple[float, int]] = []
        self._live: set[tuple[float, int]] = set()

    def add(self, moment: float, seq: int) -> None:
        entry = (moment, seq)
        place = bisect_left(self._listed, entry)
        # It may be there still from the last time that this job was here.
        if self._listed[place : place + 1] != [entry]:
            self._listed.insert(place, entry)
        self._live.add(entry)

    def remove(self, moment: float, seq: int) -> None:
        self._live.remove((moment, seq))
        if len(self._listed) > 2 * len(self._live) + 64:
            self._listed = sorted(self._live)

    def between(self, after: tuple[float, int], until: float) -> Iterator[int]:
        for place in range(bisect_right(self._listed, after), len(self._listed)):
            entry = self._listed[place]
            if entry[0] > until:
                break
            if entry in self._live:
                yield entry[1]

    def first_after(self, moment: float) -> float | None:
        for place in range(bisect_right(self._listed, (moment, math.inf)), len(self._listed)):
            if self._listed[place] in self._live:
                return self._listed[place][0]
        return None


class MemoryStore:
    """A `Store` that ends with its process.

    The calls raise `StoreUnavailable` before `open` and after `aclose`.
    """

    durability = Durability.MEMORY

    def __init__(self) -> None:
        self._is_open = False
        self._id = os.urandom(8).hex()
        self._epoch = 0
        self._next_seq = 1
        self._in_order = True
        self._lanes: dict[int, LaneRow] = {}
        self._tasks: dict[str, TaskRow] = {}
        self._queues: dict[str, QueueRow] = {}
        self._schedules: dict[str, ScheduleRow] = {}
        self._ids: dict[bytes, int] = {}
        self._jobs: dict[int, NewJob] = {}
        # A job's seq is in exactly one of these three. The last two are in the order of the moves.
        self._unfinished: dict[int, Standing] = {}
        self._ended: dict[int, _Ended] = {}
        self._forgotten: dict[int, _Ended] = {}
        self._tails: dict[int, _Tail] = {}
        self._due = _Moments()
        """Stored delayed jobs: these are in no tail."""
        self._delayed: Counter[int] = Counter()
        """How many of them each lane has."""
        self._expiring = _Moments()
        """Unfinished jobs that expire."""
        self._tries: dict[int, list[TryRow]] = {}
        self._keys: dict[bytes, KeyRow] = {}
        self._keys_of: dict[int, list[bytes]] = {}
        """Names of the keys that a job was given; others may have them since."""
        self._kept_bytes = 0
        self._dead: dict[int, _Dead] = {}
        # Lists by state and not dictionaries: an enum's hash is a Python call, its index is not.
        self._counts = [0] * (max(JobState) + 1)

    # --- the ledger -----------------------------------------------------------------------------

    async def open(self, now: float) -> Recovery:
        """See `LedgerStore.open`. It cannot fail."""
        if self._is_open:
            raise StoreError("the memory store is open already")
        self._is_open = True
        self._epoch += 1
        recovery = Recovery(
            ledger="main",
            id=self._id,
            epoch=self._epoch,
            next_seq=self._next_seq,
            lanes=[self._lanes[lane] for lane in sorted(self._lanes)],
            stored=[
                LaneCount(lane, len(tail), next(tail.after(-1)))
                for lane, tail in sorted(self._tails.items())
                if len(tail)
            ],
            held=[
                self._job_row(seq)
                for seq, standing in sorted(self._unfinished.items())
                if not standing.stored
            ],
            tasks=[self._tasks[name] for name in sorted(self._tasks)],
            ended=len(self._ended),
            delayed=[DelayCount(*count) for count in sorted(self._delayed.items()) if count[1]],
            next_due_at=self._due.first_after(-math.inf),
            next_expiry_at=self._expiring.first_after(-math.inf),
            queues=[self._queues[name] for name in sorted(self._queues)],
            schedules=[self._schedules[name] for name in sorted(self._schedules)],
            ousted=[
                Ousted(self._jobs[row.ousts].id, row.oust_running)
                for row in self._keys.values()
                if row.ousts is not None and self._may_be_ousted(row.ousts, row.oust_running)
            ],
        )
        await trio.lowlevel.checkpoint()
        return recovery

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        """See `LedgerStore.commit`. It never raises `StoreFull`."""
        self._check_open()
        refused, changes, ends = self._check(batch)
        for lane in batch.lanes:
            self._lanes[lane.lane] = lane
        for task in batch.tasks:
            self._tasks[task.name] = task
        for queue in batch.queues:
            if queue.settings is None:
                self._queues.pop(queue.name, None)
            else:
                self._queues[queue.name] = queue
        self._insert(batch.jobs, refused)
        self._take_keys(row for row in batch.keys if row.seq not in refused)
        self._change(changes)
        self._try(row for row in batch.tries if row.seq not in refused)
        self._end(ends)
        for schedule in batch.schedules:
            if schedule.data is None:
                self._schedules.pop(schedule.name, None)
            else:
                self._schedules[schedule.name] = schedule
        self._judge(batch.verdicts)
        for seq, options in batch.options:
            if seq in self._jobs:
                self._jobs[seq] = self._jobs[seq]._replace(options=options)
        duplicates = [
            Duplicate(seq, existing, self._state(existing)) for seq, existing in refused.items()
        ]
        await trio.lowlevel.checkpoint()
        return duplicates

    def _check(self, batch: Batch) -> tuple[dict[int, int], Iterable[Change], Iterable[End]]:
        """Refuse an impossible batch before anything is applied; return the duplicates' seqs with
        those they repeat, and the changes and ends that are left without them."""
        ids, jobs = self._ids, self._jobs
        new = {job.id: job.seq for job in batch.jobs}
        if len(new) == len(batch.jobs) and ids.keys().isdisjoint(new):
            refused: dict[int, int] = {}
        else:
            refused = {}
            new = {}
            for job in batch.jobs:
                existing = ids.get(job.id, new.get(job.id))
                if existing is None:
                    new[job.id] = job.seq
                else:
                    refused[job.seq] = existing
        fresh = set(new.values())
        if len(fresh) != len(new) or not jobs.keys().isdisjoint(fresh):
            raise StoreError("a new job has the seq of another one")
        changes: Iterable[Change] = batch.changes
        ends: Iterable[End] = batch.ends
        if refused:
            changes = [change for change in changes if change.seq not in refused]
            ends = [end for end in ends if end.seq not in refused]
        unfinished = self._unfinished
        tries = [row for row in batch.tries if row.seq not in refused]
        for moves in (changes, tries, ends):
            for move in moves:
                if move.seq not in unfinished and move.seq not in fresh:
                    raise StoreError(f"job {move.seq} is not there, or has ended already")
        return refused, changes, ends

    def _insert(self, new: Iterable[NewJob], refused: Mapping[int, int]) -> None:
        ids, jobs, unfinished, counts = self._ids, self._jobs, self._unfinished, self._counts
        for job in new:
            seq = job.seq
            if seq in refused:
                continue
            ids[job.id] = seq
            jobs[seq] = job
            unfinished[seq] = job
            counts[job.state] += 1
            self._enter(seq, job)
            if seq >= self._next_seq:
                self._next_seq = seq + 1
            else:
                self._in_order = False

    def _may_be_ousted(self, seq: int, is_running_too: bool) -> bool:
        standing = self._unfinished.get(seq)
        return standing is not None and (is_running_too or not getattr(standing, "attempt", 0))

    def _take_keys(self, keys: Iterable[KeyRow]) -> None:
        for row in keys:
            if row.seq not in self._jobs:
                continue
            self._keys[row.name] = row
            self._keys_of.setdefault(row.seq, []).append(row.name)

    def _change(self, changes: Iterable[Change]) -> None:
        unfinished, counts = self._unfinished, self._counts
        for change in changes:
            seq = change.seq
            before = unfinished[seq]
            counts[before.state] -= 1
            counts[change.state] += 1
            self._leave(seq, before)
            self._enter(seq, change)
            unfinished[seq] = change

    def _enter(self, seq: int, standing: Standing) -> None:
        """Note where an unfinished job is found beside its own row."""
        if standing.stored:
            if standing.state is JobState.DELAYED:
                self._due.add(_due_at(standing), seq)
                self._delayed[standing.lane] += 1
            else:
                self._tail(standing.lane).add(seq)
        if standing.expires_at is not None:
            self._expiring.add(standing.expires_at, seq)

    def _leave(self, seq: int, standing: Standing) -> None:
        if standing.stored:
            if standing.state is JobState.DELAYED:
                self._due.remove(_due_at(standing), seq)
                self._delayed[standing.lane] -= 1
            else:
                self._tails[standing.lane].remove(seq)
        if standing.expires_at is not None:
            self._expiring.remove(standing.expires_at, seq)

    def _try(self, tries: Iterable[TryRow]) -> None:
        for row in tries:
            kept = {other.attempt: other for other in self._tries.get(row.seq, ())}
            kept[row.attempt] = row
            self._tries[row.seq] = [kept[n] for n in sorted(kept)[-MAX_TRIES:]]

    def _end(self, ends: Iterable[End]) -> None:
        unfinished, ended, counts = self._unfinished, self._ended, self._counts
        for end in ends:
            seq = end.seq
            before = unfinished.pop(seq)
            counts[before.state] -= 1
            counts[end.state] += 1
            self._leave(seq, before)
            ended[seq] = _Ended(before, end, None)
            self._kept_bytes += self._size(seq, end)
            if end.state.is_dead:
                self._dead[seq] = _Dead(end.ended_at, self._size(seq, end), Fate.DEAD)

    def _judge(self, verdicts: Iterable[Verdict]) -> None:
        for seq, fate, _, retried_as in verdicts:
            ended = self._ended.get(seq)
            if ended is not None:
                size = self._size(seq, ended.end)
                self._dead[seq] = _Dead(ended.end.ended_at, size, fate, retried_as)

    def _size(self, seq: int, end: End) -> int:
        """Return what an ended job takes up."""
        tries = sum(len(row.outcome or b"") for row in self._tries.get(seq, ()))
        return len(self._jobs[seq].payload) + len(end.outcome or b"") + tries

    async def read_lane(
        self, lane: int, after_seq: int, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """See `LedgerStore.read_lane`."""
        self._check_open()
        rows: list[JobRow] = []
        size = 0
        tail = self._tails.get(lane)
        if tail is not None:
            for seq in islice(tail.after(after_seq), max_jobs):
                row = self._job_row(seq)
                rows.append(row)
                size += len(row.payload)
                if size > max_bytes:
                    break
        await trio.lowlevel.checkpoint()
        return rows

    async def read_due(
        self, after: tuple[float, int], until: float, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """See `LedgerStore.read_due`."""
        self._check_open()
        rows: list[JobRow] = []
        size = 0
        for seq in islice(self._due.between(after, until), max_jobs):
            row = self._job_row(seq)
            rows.append(row)
            size += len(row.payload)
            if size > max_bytes:
                break
        await trio.lowlevel.checkpoint()
        return rows

    async def expired(self, now: float, most: int) -> Expired:
        """See `LedgerStore.expired`."""
        self._check_open()
        over = (
            seq
            for seq in self._expiring.between((-math.inf, 0), now)
            if self._unfinished[seq].state.is_waiting
        )
        ids = [self._jobs[seq].id for seq in islice(over, most)]
        next_at = self._expiring.first_after(now)
        await trio.lowlevel.checkpoint()
        return Expired(ids, next_at)

    async def outcomes(
        self, ids: Collection[bytes], max_bytes: int | None = None
    ) -> Mapping[bytes, OutcomeRow]:
        """See `LedgerStore.outcomes`."""
        self._check_open()
        found: dict[bytes, OutcomeRow] = {}
        room = math.inf if max_bytes is None else max_bytes
        for job_id in ids:
            seq = self._ids.get(job_id)
            if seq is None:
                continue
            ended = self._ended.get(seq)
            is_left = ended is not None and room < 0
            outcome = None if ended is None or is_left else ended.end.outcome
            room -= len(outcome or b"")
            found[job_id] = OutcomeRow(seq, job_id, self._state(seq), outcome, is_left)
        await trio.lowlevel.checkpoint()
        return found

    async def find(self, ids: Collection[bytes]) -> Mapping[bytes, JobRow]:
        """See `LedgerStore.find`."""
        self._check_open()
        found: dict[bytes, JobRow] = {}
        for job_id in ids:
            seq = self._ids.get(job_id)
            if seq is not None and seq in self._unfinished:
                found[job_id] = self._job_row(seq)._replace(payload=b"")
        await trio.lowlevel.checkpoint()
        return found

    async def keys(self, names: Collection[bytes]) -> Mapping[bytes, KeyHolder]:
        """See `LedgerStore.keys`."""
        self._check_open()
        found: dict[bytes, KeyHolder] = {}
        for row in filter(None, map(self._keys.get, names)):
            job = self._jobs[row.seq]
            found[row.name] = KeyHolder(
                row.name, row.since, row.seq, job.id, self._state(row.seq), job.submitted_at
            )
        await trio.lowlevel.checkpoint()
        return found

    async def is_over(self, now: float, retention: Retention) -> bool:
        """See `LedgerStore.is_over`."""
        self._check_open()
        oldest = next(iter(self._forgotten.values()), None)
        is_over = bool(
            self._dead_over(now, retention, 1) or self._pick(now, retention, frozenset(), 1)
        ) or (
            oldest is not None
            and oldest.forgotten_at is not None
            and (
                oldest.forgotten_at <= now - retention.tombstone_s
                or len(self._forgotten) > MAX_TOMBSTONES
            )
        )
        await trio.lowlevel.checkpoint()
        return is_over

    async def prune(self, now: float, retention: Retention, keep: Collection[int]) -> Pruned:
        """See `LedgerStore.prune`."""
        self._check_open()
        trimmed = self._dead_over(now, retention, TRIM_ROWS)
        for seq in trimmed:
            del self._dead[seq]
        outcomes = self._forget(now, retention, frozenset(keep))
        tombstones, unknown_until = self._remove_tombstones(now - retention.tombstone_s)
        await trio.lowlevel.checkpoint()
        return Pruned(outcomes, tombstones, unknown_until, len(trimmed))

    def _dead_set(self) -> list[tuple[float, int, int]]:
        """Return the dead that nobody has looked after yet as (ended_at, seq, size)."""
        return sorted(
            (dead.ended_at, seq, dead.size)
            for seq, dead in self._dead.items()
            if dead.fate is Fate.DEAD
        )

    def _dead_over(self, now: float, retention: Retention, most: int) -> list[int]:
        """Return those of them that are over their limits, oldest end first."""
        found = self._dead_set()
        over_count = over_bytes = 0
        if retention.dead_max_count is not None:
            over_count = len(found) - retention.dead_max_count
        if retention.dead_max_bytes is not None:
            over_bytes = sum(size for *_, size in found) - retention.dead_max_bytes
        max_age_s = retention.dead_max_age_s
        too_old_at = -1.0 if max_age_s is None else now - max_age_s
        over: list[int] = []
        for ended_at, seq, size in found[:most]:
            if over_count <= 0 and over_bytes <= 0 and ended_at > too_old_at:
                break
            over.append(seq)
            over_count -= 1
            over_bytes -= size
        return over

    def _pick(self, now: float, retention: Retention, keep: frozenset[int], most: int) -> list[int]:
        over_count = over_bytes = 0
        dead = self._dead_set()
        if retention.max_count is not None:
            over_count = len(self._ended) - len(dead) - retention.max_count
        if retention.max_bytes is not None:
            dead_bytes = sum(size for *_, size in dead)
            over_bytes = self._kept_bytes - dead_bytes - retention.max_bytes
        too_old_at = None if retention.max_age_s is None else now - retention.max_age_s
        picked: list[int] = []
        for seq, ended in self._ended.items():
            if len(picked) == most:
                break
            if seq in keep or self._fate(seq) is Fate.DEAD:
                continue
            is_old = too_old_at is not None and ended.end.ended_at <= too_old_at
            if over_count <= 0 and over_bytes <= 0 and not is_old:
                break
            picked.append(seq)
            over_count -= 1
            over_bytes -= self._size(seq, ended.end)
        return picked

    def _forget(self, now: float, retention: Retention, keep: frozenset[int]) -> int:
        picked = self._pick(now, retention, keep, PRUNE_ROWS)
        for seq in picked:
            standing, end, _ = self._ended.pop(seq)
            job = self._jobs[seq]
            self._kept_bytes -= self._size(seq, end)
            self._tries.pop(seq, None)
            self._dead.pop(seq, None)
            self._jobs[seq] = job._replace(payload=b"", options=None)
            self._forgotten[seq] = _Ended(standing, end._replace(outcome=None), now)
            self._counts[end.state] -= 1
        self._counts[JobState.FORGOTTEN] += len(picked)
        return len(picked)

    def _remove_tombstones(self, forgotten_until: float) -> tuple[int, float]:
        over = len(self._forgotten) - MAX_TOMBSTONES
        picked: list[int] = []
        unknown_until = 0.0
        for seq, tombstone in islice(self._forgotten.items(), PRUNE_ROWS):
            assert tombstone.forgotten_at is not None
            if tombstone.forgotten_at > forgotten_until:
                if len(picked) >= over:
                    break
                unknown_until = max(unknown_until, made_at(self._jobs[seq].id))
            picked.append(seq)
        for seq in picked:
            del self._forgotten[seq]
            del self._ids[self._jobs.pop(seq).id]
            for name in self._keys_of.pop(seq, ()):
                row = self._keys.get(name)
                if row is not None and row.seq == seq:
                    del self._keys[name]
        self._counts[JobState.FORGOTTEN] -= len(picked)
        return len(picked), unknown_until

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
        wanted = filter.states
        # A copy: jobs come and go at the checkpoints below.
        seqs = list(self._jobs) if self._in_order else sorted(self._jobs)
        if before_seq is not None:
            del seqs[bisect_left(seqs, before_seq) :]
        found: list[JobRecord] = []
        for looked_at, seq in enumerate(reversed(seqs), 1):
            if looked_at % SCAN_ROWS == 0:
                await trio.lowlevel.checkpoint()
            if seq not in self._jobs or self._state(seq) not in wanted:
                continue
            record = self._record(seq)
            if filter.matches(record, partial(self._error, seq)):
                found.append(record)
                if len(found) == limit:
                    break
        await trio.lowlevel.checkpoint()
        return JobPage(found, found[-1].seq if len(found) == limit else None)

    def _error(self, seq: int) -> str:
        """Return what a job ended with, as filters look at it."""
        ended = self._ended.get(seq)
        return "" if ended is None else ended_with(ended.end.state, ended.end.outcome)

    async def job(self, job_id: bytes) -> JobRecord | None:
        """See `HistoryStore.job`."""
        self._check_open()
        seq = self._ids.get(job_id)
        record = None
        if seq is not None:
            ended = self._ended.get(seq)
            record = self._record(seq)._replace(
                payload=self._jobs[seq].payload if seq not in self._forgotten else None,
                outcome=ended.end.outcome if ended is not None else None,
                tries=tuple(self._tries.get(seq, ())),
            )
        await trio.lowlevel.checkpoint()
        return record

    async def counts(self) -> Mapping[JobState, int]:
        """See `HistoryStore.counts`."""
        self._check_open()
        counts = {state: self._counts[state] for state in JobState if self._counts[state]}
        await trio.lowlevel.checkpoint()
        return counts

    async def info(self) -> dict[str, Any]:
        """See `HistoryStore.info`."""
        self._check_open()
        facts = {
            "kind": "memory",
            "durability": self.durability.value,
            "ledger": "main",
            "epoch": self._epoch,
            "jobs": len(self._jobs),
            "unfinished": len(self._unfinished),
            "ended": len(self._ended),
            "tombstones": len(self._forgotten),
            "kept_bytes": self._kept_bytes,
        }
        await trio.lowlevel.checkpoint()
        return facts

    # --- one job --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the memory store is not open")

    def _tail(self, lane: int) -> _Tail:
        tail = self._tails.get(lane)
        if tail is None:
            tail = self._tails[lane] = _Tail()
        return tail

    def _state(self, seq: int) -> JobState:
        standing = self._unfinished.get(seq)
        if standing is not None:
            return standing.state
        ended = self._ended.get(seq)
        return JobState.FORGOTTEN if ended is None else ended.end.state

    def _fate(self, seq: int) -> Fate | None:
        dead = self._dead.get(seq)
        return None if dead is None else dead.fate

    def _lane_of(self, seq: int) -> LaneRow:
        standing: Standing | None = self._unfinished.get(seq)
        if standing is None:
            standing = (self._ended.get(seq) or self._forgotten[seq]).standing
        return self._lanes.get(standing.lane) or LaneRow(standing.lane, None, None, "")

    def _job_row(self, seq: int) -> JobRow:
        job, standing = self._jobs[seq], self._unfinished[seq]
        if isinstance(standing, NewJob):
            nobody = (0, 0, 0, None, None, 0)
            standing = Change(
                *(seq, job.state, job.lane, job.stored, *nobody), job.due_at, job.expires_at
            )
        return JobRow(
            seq=seq,
            id=job.id,
            task=job.task,
            lane=standing.lane,
            state=standing.state,
            attempt=standing.attempt,
            losses=standing.losses,
            epoch=standing.epoch,
            holder=standing.holder,
            payload=job.payload,
            options=job.options,
            submitted_at=job.submitted_at,
            leased_at=standing.leased_at,
            failures=standing.failures,
            due_at=standing.due_at,
            expires_at=standing.expires_at,
        )

    def _record(self, seq: int) -> JobRecord:
        job, lane = self._jobs[seq], self._lane_of(seq)
        if seq in self._unfinished:
            row = self._job_row(seq)
            attempt, losses, holder, failures = row.attempt, row.losses, row.holder, row.failures
            due_at, expires_at = row.due_at, row.expires_at
            started_at, ended_at, outcome = row.leased_at, None, None
        else:
            standing, end, _ = self._ended.get(seq) or self._forgotten[seq]
            attempt, losses, holder, failures = end.attempt, end.losses, end.holder, end.failures
            due_at, expires_at = standing.due_at, standing.expires_at
            started_at, ended_at, outcome = end.started_at, end.ended_at, end.outcome
        dead = self._dead.get(seq)
        return JobRecord(
            seq=seq,
            id=job.id,
            task=job.task,
            queue=lane.queue,
            priority=lane.priority,
            park=lane.park,
            state=self._state(seq),
            attempt=attempt,
            losses=losses,
            holder=holder,
            submitted_at=job.submitted_at,
            started_at=started_at,
            ended_at=ended_at,
            payload_bytes=len(job.payload),
            outcome_bytes=None if outcome is None else len(outcome),
            payload=None,
            outcome=None,
            failures=failures,
            due_at=due_at,
            expires_at=expires_at,
            options=job.options,
            error=error_of(self._state(seq), outcome),
            fate=self._fate(seq),
            retried_as=None if dead is None else dead.retried_as,
        )


def _due_at(standing: Standing) -> float:
    if standing.due_at is None:
        raise StoreError(f"job {standing.seq} is delayed, and nobody said until when")
    return standing.due_at
