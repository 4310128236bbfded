"""The set of dead jobs of a memory store: what ended without a result, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from creche.model.job import Fate
from creche.store.base import End, Retention, Verdict
from creche.store.memory_jobs import Jobs

TRIM_ROWS = 2000
"""Dead jobs that leave their set in one call."""


class _Dead(NamedTuple):
    """One of the dead: what it takes up, and what became of it."""

    ended_at: float
    size: int
    fate: Fate
    retried_as: bytes | None = None


class _InSet(NamedTuple):
    """One of those that nobody has looked after yet, oldest end first."""

    ended_at: float
    seq: int
    size: int


class DeadJobs:
    """What became of the dead among *jobs*."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._dead: dict[int, _Dead] = {}

    def add(self, ends: Iterable[End]) -> None:
        """Take in those jobs that have just ended dead."""
        for end in ends:
            if end.state.is_dead:
                size = self._jobs.size(end.seq, end)
                self._dead[end.seq] = _Dead(end.ended_at, size, Fate.DEAD)

    def judge(self, verdicts: Iterable[Verdict]) -> None:
        """Note what becomes of ended jobs; those that are not there are passed over."""
        for seq, fate, _, retried_as in verdicts:
            ended = self._jobs.ended.get(seq)
            if ended is not None:
                size = self._jobs.size(seq, ended.end)
                self._dead[seq] = _Dead(ended.end.ended_at, size, fate, retried_as)

    def forget(self, seq: int) -> None:
        """A job is forgotten, and may have been one of them."""
        self._dead.pop(seq, None)

    def fate(self, seq: int) -> Fate | None:
        """Return what became of a job; None if it is not one of them."""
        dead = self._dead.get(seq)
        return None if dead is None else dead.fate

    def retried_as(self, seq: int) -> bytes | None:
        """Return the id of the job that a job was submitted again as."""
        dead = self._dead.get(seq)
        return None if dead is None else dead.retried_as

    def in_set(self) -> Sequence[_InSet]:
        """Return those that nobody has looked after yet, oldest end first."""
        return sorted(
            _InSet(dead.ended_at, seq, dead.size)
            for seq, dead in self._dead.items()
            if dead.fate is Fate.DEAD
        )

    def trim(self, now: float, retention: Retention) -> int:
        """Let the oldest leave the set while it is over its limits; return how many did."""
        over = self.over(now, retention, TRIM_ROWS)
        for seq in over:
            del self._dead[seq]
        return len(over)

    def over(self, now: float, retention: Retention, most: int) -> list[int]:
        """Return the seqs of those that are over the limits, *most* of them, oldest end first."""
        found = self.in_set()
        over_count = over_bytes = 0
        if retention.dead_max_count is not None:
            over_count = len(found) - retention.dead_max_count
        if retention.dead_max_bytes is not None:
            over_bytes = sum(dead.size for dead in found) - retention.dead_max_bytes
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
