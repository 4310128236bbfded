"""Which results and tries a store lets go of, and when.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from creche.model.job import JobState
from creche.store.base import MAX_TRIES, Batch, Pruned, Retention, Store
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import (
    KEEP_ALL,
    KEEP_NONE,
    NOW,
    change,
    end,
    job_id,
    made,
    new_job,
    prune_all,
)


class Pruning(StoreCase):
    """The tests."""

    # --- pruning ----------------------------------------------------------------------------------

    async def ended(self, store: Store, *seqs: int) -> None:
        """Let these jobs end, in this order, each with 10 bytes of payload and 10 of outcome."""
        await store.commit(Batch(jobs=[new_job(seq, payload=b"p" * 10) for seq in sorted(seqs)]))
        for seq in seqs:
            await store.commit(Batch(ends=[end(seq, outcome=b"o" * 10)]))

    async def kept(self, store: Store, *seqs: int) -> list[int]:
        """Return which of these jobs have their outcome still."""
        found = await store.outcomes([job_id(seq) for seq in seqs])
        assert {row.outcome is None for row in found.values()} <= {False} | {
            row.state == JobState.FORGOTTEN for row in found.values()
        }
        return sorted(row.seq for row in found.values() if row.state != JobState.FORGOTTEN)

    async def test_without_limits_nothing_is_forgotten(self, store: Store) -> None:
        await self.ended(store, 1, 2)
        assert await store.prune(NOW + 1e9, KEEP_ALL, ()) == Pruned(0, 0)
        assert await self.kept(store, 1, 2) == [1, 2]

    async def test_the_oldest_ends_over_the_count_are_forgotten(self, store: Store) -> None:
        await self.ended(store, 5, 3, 1, 2, 4)
        assert await prune_all(store, NOW, Retention(2, None, None)) == Pruned(3, 0)
        assert await self.kept(store, 1, 2, 3, 4, 5) == [2, 4]
        assert await prune_all(store, NOW, Retention(2, None, None)) == Pruned(0, 0)

    async def test_the_oldest_ends_over_the_bytes_are_forgotten(self, store: Store) -> None:
        await self.ended(store, 5, 3, 1, 2, 4)
        assert await prune_all(store, NOW, Retention(None, 100, None)) == Pruned(0, 0)
        assert await prune_all(store, NOW, Retention(None, 41, None)) == Pruned(3, 0)
        assert await self.kept(store, 1, 2, 3, 4, 5) == [2, 4]

    async def test_ends_over_the_age_are_forgotten(self, store: Store) -> None:
        await self.ended(store, 1, 2, 3)
        at = end(2).ended_at + 60
        assert await prune_all(store, at, Retention(None, None, 60.0)) == Pruned(2, 0)
        assert await self.kept(store, 1, 2, 3) == [3]

    async def test_the_first_limit_that_is_met_counts(self, store: Store) -> None:
        await self.ended(store, 1, 2, 3, 4)
        assert await prune_all(store, NOW, Retention(3, 40, 1e9)) == Pruned(2, 0)
        assert await self.kept(store, 1, 2, 3, 4) == [3, 4]

    async def test_what_is_kept_on_purpose_stays_and_counts(self, store: Store) -> None:
        await self.ended(store, 1, 2, 3, 4)
        assert await prune_all(store, NOW, Retention(2, None, None), {1, 3, 99}) == Pruned(2, 0)
        assert await self.kept(store, 1, 2, 3, 4) == [1, 3]
        assert await prune_all(store, NOW, Retention(0, None, None), [1, 3]) == Pruned(0, 0)
        assert await prune_all(store, NOW, Retention(0, None, None), [3]) == Pruned(1, 0)

    async def test_a_store_says_beforehand_whether_anything_is_over(self, store: Store) -> None:
        assert not await store.is_over(NOW + 1e9, Retention(0, 0, 0.0, 0.0))
        await self.ended(store, 1, 2, 3)
        at = end(1).ended_at + 60
        for moment, retention in [
            (NOW, Retention(2, None, None)),
            (NOW, Retention(None, 41, None)),
            (at, Retention(None, None, 60.0)),
        ]:
            assert await store.is_over(moment, retention)
        for moment, retention in [
            (NOW + 1e9, KEEP_ALL),
            (NOW, Retention(3, 100, None)),
            (at - 1, Retention(None, None, 60.0)),
        ]:
            assert not await store.is_over(moment, retention)
        retention = Retention(2, None, None, tombstone_s=60.0)
        await prune_all(store, NOW, retention)
        assert not await store.is_over(NOW + 59, retention)
        assert await store.is_over(NOW + 60, retention)
        await prune_all(store, NOW + 60, retention)
        assert not await store.is_over(NOW + 1e9, retention)

    async def test_unfinished_jobs_are_not_pruned(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1), new_job(2, stored=True)], changes=[change(1)]))
        assert await prune_all(store, NOW + 1e9, Retention(0, 0, 0.0, 0.0)) == Pruned(0, 0)
        assert len(await store.find([job_id(1), job_id(2)])) == 2

    async def test_a_tombstone_ends_its_time_after_the_forgetting(self, store: Store) -> None:
        await self.ended(store, 1, 2)
        retention = Retention(0, None, None, tombstone_s=60.0)
        assert await store.prune(NOW, retention, {2}) == Pruned(1, 0)
        assert await store.prune(NOW + 30, retention, ()) == Pruned(1, 0)
        assert await store.prune(NOW + 59, retention, ()) == Pruned(0, 0)
        assert await store.prune(NOW + 60, retention, ()) == Pruned(0, 1)
        assert list(await store.outcomes([job_id(1), job_id(2)])) == [job_id(2)]
        assert await store.prune(NOW + 90, retention, ()) == Pruned(0, 1)
        assert dict(await store.counts()) == {}

    async def test_one_call_of_prune_is_bounded_and_many_get_through(self, store: Store) -> None:
        many = 12_000
        for first in range(1, many + 1, 4000):
            seqs = range(first, first + 4000)
            await store.commit(Batch(jobs=[new_job(n) for n in seqs], ends=[*map(end, seqs)]))
        retention = Retention(1000, None, None, tombstone_s=0.0)
        pruned = await store.prune(NOW, retention, ())
        assert 0 < pruned.outcomes < many - 1000
        rest = await prune_all(store, NOW, retention, ())
        assert pruned.outcomes + rest.outcomes == many - 1000
        assert pruned.tombstones + rest.tombstones == many - 1000
        assert dict(await store.counts()) == {JobState.SUCCEEDED: 1000}

    # --- tries ------------------------------------------------------------------------------------

    async def test_tries_before_the_last_are_kept_with_the_job(self, store: Store) -> None:
        tries = [made(1, 1), made(1, 3, state=JobState.LOST, outcome=None, started_at=None)]
        await store.commit(Batch(jobs=[new_job(1)], tries=tries[:1]))
        await store.commit(Batch(changes=[change(1, failures=1)], tries=tries[1:]))
        record = await store.job(job_id(1))
        assert record is not None
        assert (record.failures, tuple(record.tries)) == (1, tuple(tries))
        await store.commit(Batch(tries=[made(1, 4)], ends=[end(1, attempt=5, failures=2)]))
        record = await store.job(job_id(1))
        assert record is not None
        assert (record.failures, tuple(record.tries)) == (2, (*tries, made(1, 4)))
        assert [(row.failures, row.tries) for row in (await store.jobs()).records] == [(2, ())]
        await store.prune(NOW, KEEP_NONE, ())
        record = await store.job(job_id(1))
        assert record is not None
        assert (record.failures, record.tries) == (2, ())

    async def test_the_newest_tries_are_kept(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1), new_job(2)], tries=[made(2, 1)]))
        for attempt in range(1, MAX_TRIES + 4):
            await store.commit(Batch(tries=[made(1, attempt)]))
        one, other = await store.job(job_id(1)), await store.job(job_id(2))
        assert one is not None
        assert other is not None
        assert [row.attempt for row in one.tries] == list(range(4, MAX_TRIES + 4))
        assert tuple(other.tries) == (made(2, 1),)

    async def test_tries_count_towards_the_bytes_that_are_kept(self, store: Store) -> None:
        jobs = [new_job(n, payload=b"") for n in (1, 2)]
        tries = [made(1, 1, outcome=b"x" * 600), made(2, 1, outcome=b"x" * 300)]
        await store.commit(Batch(jobs=jobs, tries=tries))
        await store.commit(Batch(tries=[made(1, 2, outcome=b"y" * 50)]))
        await store.commit(Batch(ends=[end(1, outcome=None), end(2, outcome=None)]))
        assert not await store.is_over(NOW, Retention(None, 950, None))
        pruned = await store.prune(NOW, Retention(None, 949, None), ())
        assert pruned.outcomes == 1
        assert not await store.is_over(NOW, Retention(None, 300, None))
        assert await store.is_over(NOW, Retention(None, 299, None))
