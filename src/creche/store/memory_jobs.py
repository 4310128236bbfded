"""The jobs of a memory store: how each stands, and where it is found beside its own row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from creche.errors import StoreError
from creche.model.job import JobState
from creche.store.base import MAX_TRIES, Batch, Change, End, NewJob, NewOptions, TryRow
from creche.store.memory_order import Moments, Tail

Standing: TypeAlias = NewJob | Change
"""How an unfinished job stands: as it came, or as it was changed last."""


class Ended(NamedTuple):
    """A job's end, and where it stood before. `forgotten_at` is None while its outcome is kept."""

    standing: Standing
    end: End
    forgotten_at: float | None


class Jobs:
    """All jobs that are known, by seq."""

    def __init__(self) -> None:
        self.next_seq = 1
        self.are_in_order = True
        """Whether `rows` is in the order of the seqs."""
        self.ids: dict[bytes, int] = {}
        self.rows: dict[int, NewJob] = {}
        # A job's seq is in exactly one of these three. The last two are in the order of the moves.
        self.unfinished: dict[int, Standing] = {}
        self.ended: dict[int, Ended] = {}
        self.forgotten: dict[int, Ended] = {}
        self.tails: dict[int, Tail] = {}
        self.due = Moments()
        """Stored delayed jobs: these are in no tail."""
        self.delayed: Counter[int] = Counter()
        """How many of them each lane has."""
        self.expiring = Moments()
        """Unfinished jobs that expire."""
        self.tries: dict[int, list[TryRow]] = {}
        self.kept_bytes = 0
        """What ended jobs take up."""
        # A list by state and not a dictionary: an enum's hash is a Python call, its index is not.
        self.counts = [0] * (max(JobState) + 1)

    # --- what a batch says ----------------------------------------------------------------------

    def check(self, batch: Batch) -> tuple[dict[int, int], Iterable[Change], Iterable[End]]:
        """Refuse an impossible batch before anything is applied; return the duplicates' seqs with
        those they repeat, and the changes and ends that are left without them."""
        ids, jobs = self.ids, self.rows
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
        unfinished = self.unfinished
        tries = [row for row in batch.tries if row.seq not in refused]
        for moves in (changes, tries, ends):
            for move in moves:
                if move.seq not in unfinished and move.seq not in fresh:
                    raise StoreError(f"job {move.seq} is not there, or has ended already")
        return refused, changes, ends

    def insert(self, new: Iterable[NewJob], refused: Mapping[int, int]) -> None:
        """Take in what is new."""
        ids, jobs, unfinished, counts = self.ids, self.rows, self.unfinished, self.counts
        for job in new:
            seq = job.seq
            if seq in refused:
                continue
            ids[job.id] = seq
            jobs[seq] = job
            unfinished[seq] = job
            counts[job.state] += 1
            self._enter(seq, job)
            if seq >= self.next_seq:
                self.next_seq = seq + 1
            else:
                self.are_in_order = False

    def change(self, changes: Iterable[Change]) -> None:
        """Note how unfinished jobs stand now."""
        unfinished, counts = self.unfinished, self.counts
        for change in changes:
            seq = change.seq
            before = unfinished[seq]
            counts[before.state] -= 1
            counts[change.state] += 1
            self._leave(seq, before)
            self._enter(seq, change)
            unfinished[seq] = change

    def keep_tries(self, tries: Iterable[TryRow]) -> None:
        """Keep what became of attempts that were not the last: `MAX_TRIES` of each job."""
        for row in tries:
            kept = {other.attempt: other for other in self.tries.get(row.seq, ())}
            kept[row.attempt] = row
            self.tries[row.seq] = [kept[n] for n in sorted(kept)[-MAX_TRIES:]]

    def end(self, ends: Iterable[End]) -> None:
        """Note that jobs have ended."""
        unfinished, ended, counts = self.unfinished, self.ended, self.counts
        for end in ends:
            seq = end.seq
            before = unfinished.pop(seq)
            counts[before.state] -= 1
            counts[end.state] += 1
            self._leave(seq, before)
            ended[seq] = Ended(before, end, None)
            self.kept_bytes += self.size(seq, end)

    def set_options(self, options: Iterable[NewOptions]) -> None:
        """Keep other options of those jobs that are there."""
        for seq, new in options:
            if seq in self.rows:
                self.rows[seq] = self.rows[seq]._replace(options=new)

    # --- what is let go of ----------------------------------------------------------------------

    def forget(self, seq: int, now: float) -> None:
        """An ended job keeps its id alone from now on."""
        standing, end, _ = self.ended.pop(seq)
        self.kept_bytes -= self.size(seq, end)
        self.tries.pop(seq, None)
        self.rows[seq] = self.rows[seq]._replace(payload=b"", options=None)
        self.forgotten[seq] = Ended(standing, end._replace(outcome=None), now)
        self.counts[end.state] -= 1
        self.counts[JobState.FORGOTTEN] += 1

    def remove(self, seq: int) -> None:
        """A forgotten job is unknown again."""
        del self.forgotten[seq]
        del self.ids[self.rows.pop(seq).id]
        self.counts[JobState.FORGOTTEN] -= 1

    # --- one job --------------------------------------------------------------------------------

    def state(self, seq: int) -> JobState:
        """Return the state of a job that is known."""
        standing = self.unfinished.get(seq)
        if standing is not None:
            return standing.state
        ended = self.ended.get(seq)
        return JobState.FORGOTTEN if ended is None else ended.end.state

    def attempt(self, seq: int) -> int:
        """Return the last attempt of an unfinished job; 0: it was never leased."""
        standing = self.unfinished[seq]
        return standing.attempt if isinstance(standing, Change) else 0

    def lane(self, seq: int) -> int:
        """Return the number of a job's lane, its last one if it has ended."""
        standing: Standing | None = self.unfinished.get(seq)
        if standing is None:
            standing = (self.ended.get(seq) or self.forgotten[seq]).standing
        return standing.lane

    def size(self, seq: int, end: End) -> int:
        """Return what an ended job takes up."""
        tries = sum(len(row.outcome or b"") for row in self.tries.get(seq, ()))
        return len(self.rows[seq].payload) + len(end.outcome or b"") + tries

    def _enter(self, seq: int, standing: Standing) -> None:
        """Note where an unfinished job is found beside its own row."""
        if standing.stored:
            if standing.state is JobState.DELAYED:
                self.due.add(_due_at(standing), seq)
                self.delayed[standing.lane] += 1
            else:
                self._tail(standing.lane).add(seq)
        if standing.expires_at is not None:
            self.expiring.add(standing.expires_at, seq)

    def _leave(self, seq: int, standing: Standing) -> None:
        if standing.stored:
            if standing.state is JobState.DELAYED:
                self.due.remove(_due_at(standing), seq)
                self.delayed[standing.lane] -= 1
            else:
                self.tails[standing.lane].remove(seq)
        if standing.expires_at is not None:
            self.expiring.remove(standing.expires_at, seq)

    def _tail(self, lane: int) -> Tail:
        tail = self.tails.get(lane)
        if tail is None:
            tail = self.tails[lane] = Tail()
        return tail


def _due_at(standing: Standing) -> float:
    if standing.due_at is None:
        raise StoreError(f"job {standing.seq} is delayed, and nobody said until when")
    return standing.due_at
