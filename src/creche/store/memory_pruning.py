"""What a memory store lets go of: outcomes over the retention, and then ids."""

from __future__ import annotations

from itertools import islice

from creche.model.ids import made_at
from creche.model.job import Fate
from creche.store.base import Pruned, Retention
from creche.store.memory_dead import DeadJobs
from creche.store.memory_jobs import Jobs
from creche.store.memory_keys import UniqueKeys

PRUNE_ROWS = 2000
"""Outcomes (and tombstones) that one call of `prune` lets go of: about a millisecond's work."""

MAX_TOMBSTONES = 100_000
"""Ids known beyond their outcomes, some hundred bytes each; the oldest go first."""


class Pruning:
    """Decides what is over, and lets go of it."""

    def __init__(self, jobs: Jobs, dead: DeadJobs, keys: UniqueKeys) -> None:
        self._jobs = jobs
        self._dead = dead
        self._keys = keys

    def is_over(self, now: float, retention: Retention) -> bool:
        """See `LedgerStore.is_over`."""
        oldest = next(iter(self._jobs.forgotten.values()), None)
        return bool(
            self._dead.over(now, retention, 1) or self._pick(now, retention, frozenset(), 1)
        ) or (
            oldest is not None
            and oldest.forgotten_at is not None
            and (
                oldest.forgotten_at <= now - retention.tombstone_s
                or len(self._jobs.forgotten) > MAX_TOMBSTONES
            )
        )

    def prune(self, now: float, retention: Retention, keep: frozenset[int]) -> Pruned:
        """See `LedgerStore.prune`."""
        trimmed = self._dead.trim(now, retention)
        picked = self._pick(now, retention, keep, PRUNE_ROWS)
        for seq in picked:
            self._jobs.forget(seq, now)
            self._dead.forget(seq)
        tombstones, unknown_until = self._remove_tombstones(now - retention.tombstone_s)
        return Pruned(len(picked), tombstones, unknown_until, trimmed)

    def _pick(self, now: float, retention: Retention, keep: frozenset[int], most: int) -> list[int]:
        over_count = over_bytes = 0
        dead = self._dead.in_set()
        if retention.max_count is not None:
            over_count = len(self._jobs.ended) - len(dead) - retention.max_count
        if retention.max_bytes is not None:
            dead_bytes = sum(one.size for one in dead)
            over_bytes = self._jobs.kept_bytes - dead_bytes - retention.max_bytes
        too_old_at = None if retention.max_age_s is None else now - retention.max_age_s
        picked: list[int] = []
        for seq, ended in self._jobs.ended.items():
            if len(picked) == most:
                break
            if seq in keep or self._dead.fate(seq) is Fate.DEAD:
                continue
            is_old = too_old_at is not None and ended.end.ended_at <= too_old_at
            if over_count <= 0 and over_bytes <= 0 and not is_old:
                break
            picked.append(seq)
            over_count -= 1
            over_bytes -= self._jobs.size(seq, ended.end)
        return picked

    def _remove_tombstones(self, forgotten_until: float) -> tuple[int, float]:
        over = len(self._jobs.forgotten) - MAX_TOMBSTONES
        picked: list[int] = []
        unknown_until = 0.0
        for seq, tombstone in islice(self._jobs.forgotten.items(), PRUNE_ROWS):
            assert tombstone.forgotten_at is not None
            if tombstone.forgotten_at > forgotten_until:
                if len(picked) >= over:
                    break
                unknown_until = max(unknown_until, made_at(self._jobs.rows[seq].id))
            picked.append(seq)
        for seq in picked:
            self._jobs.remove(seq)
            self._keys.forget(seq)
        return len(picked), unknown_until
