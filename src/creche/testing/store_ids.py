"""What a store knows of ids: a job submitted again, and those that are asked for.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from creche.model.job import JobState
from creche.store.base import Batch, OutcomeRow, Store
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import KEEP_NONE, NOW, as_head, change, end, job_id, new_job


class Ids(StoreCase):
    """The tests."""

    # --- the same id again ------------------------------------------------------------------------

    async def test_an_id_that_is_there_is_not_inserted_again(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(n) for n in range(1, 6)]))
        again = [new_job(n + 10, id=job_id(n), payload=b"other") for n in (2, 4)]
        found = await store.commit(Batch(jobs=[new_job(9), *again, new_job(20)]))
        assert sorted(found) == [(12, 2, JobState.QUEUED), (14, 4, JobState.QUEUED)]
        assert (await store.find([job_id(2)]))[job_id(2)] == as_head(new_job(2))
        record = await store.job(job_id(2))
        assert record is not None
        assert record.payload == new_job(2).payload
        assert (await store.counts())[JobState.QUEUED] == 7

    async def test_an_id_twice_in_one_batch_is_inserted_once(self, store: Store) -> None:
        jobs = [new_job(1), new_job(2, id=job_id(1)), new_job(3)]
        assert list(await store.commit(Batch(jobs=jobs))) == [(2, 1, JobState.QUEUED)]
        assert [record.seq for record in (await store.jobs()).records] == [3, 1]

    async def test_an_id_that_has_ended_is_known(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1)], ends=[end(1, state=JobState.FAILED)]))
        found = await store.commit(Batch(jobs=[new_job(2, id=job_id(1))]))
        assert list(found) == [(2, 1, JobState.FAILED)]

    async def test_an_id_that_was_forgotten_is_known_until_its_tombstone_ends(
        self, store: Store
    ) -> None:
        await store.commit(Batch(jobs=[new_job(1)], ends=[end(1)]))
        await store.prune(NOW, KEEP_NONE, ())
        found = await store.commit(Batch(jobs=[new_job(2, id=job_id(1))]))
        assert list(found) == [(2, 1, JobState.FORGOTTEN)]
        await store.prune(NOW + KEEP_NONE.tombstone_s, KEEP_NONE, ())
        assert list(await store.commit(Batch(jobs=[new_job(3, id=job_id(1))]))) == []

    async def test_a_duplicate_is_answered_with_the_state_after_the_batch(
        self, store: Store
    ) -> None:
        await store.commit(Batch(jobs=[new_job(1)]))
        found = await store.commit(Batch(jobs=[new_job(2, id=job_id(1))], ends=[end(1)]))
        assert list(found) == [(2, 1, JobState.SUCCEEDED)]

    async def test_what_a_batch_says_of_a_duplicate_is_dropped_with_it(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1)]))
        batch = Batch(
            jobs=[new_job(n, id=job_id(1)) for n in (2, 3)], changes=[change(2)], ends=[end(3)]
        )
        assert len(await store.commit(batch)) == 2
        assert (await store.find([job_id(1)]))[job_id(1)] == as_head(new_job(1))
        record = await store.job(job_id(1))
        assert record is not None
        assert record.payload == new_job(1).payload
        assert dict(await store.counts()) == {JobState.QUEUED: 1}

    async def test_many_duplicates_among_many_are_each_named(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(n) for n in range(1, 1201)]))
        again = [
            new_job(n, id=job_id(n - 2000) if n % 3 == 0 and n <= 3200 else job_id(n))
            for n in range(2001, 3401)
        ]
        found = await store.commit(Batch(jobs=again))
        assert sorted(found) == [
            (n, n - 2000, JobState.QUEUED) for n in range(2001, 3201) if n % 3 == 0
        ]

    # --- looking up -------------------------------------------------------------------------------

    async def test_outcomes_tell_unknown_unfinished_ended_and_forgotten_apart(
        self, store: Store
    ) -> None:
        await store.commit(Batch(jobs=[new_job(n) for n in (1, 2, 3)], changes=[change(2)]))
        await store.commit(Batch(ends=[end(3)]))
        await store.prune(NOW, KEEP_NONE, ())
        await store.commit(Batch(jobs=[new_job(4)], ends=[end(4)]))
        found = await store.outcomes({job_id(n) for n in range(1, 9)})
        assert dict(found) == {
            job_id(1): OutcomeRow(1, job_id(1), JobState.QUEUED, None),
            job_id(2): OutcomeRow(2, job_id(2), JobState.RUNNING, None),
            job_id(3): OutcomeRow(3, job_id(3), JobState.FORGOTTEN, None),
            job_id(4): OutcomeRow(4, job_id(4), JobState.SUCCEEDED, b"outcome of 4"),
        }
        assert {type(row.state) for row in found.values()} == {JobState}

    async def test_only_unfinished_jobs_are_found(self, store: Store) -> None:
        await store.commit(
            Batch(jobs=[new_job(1), new_job(2, stored=True), new_job(3), new_job(4)])
        )
        await store.commit(Batch(changes=[change(1)], ends=[end(3)]))
        await store.prune(NOW, KEEP_NONE, ())
        await store.commit(Batch(ends=[end(4)]))
        assert dict(await store.find([job_id(n) for n in range(1, 9)])) == {
            job_id(1): as_head(new_job(1), change(1)),
            job_id(2): as_head(new_job(2)),
        }

    async def test_any_number_of_ids_may_be_asked_for(self, store: Store) -> None:
        jobs = [new_job(n) for n in range(1, 1301)]
        await store.commit(Batch(jobs=jobs, ends=[end(n) for n in range(1, 1301, 2)]))
        ids = [job_id(n) for n in range(1, 2000)]
        assert len(await store.outcomes(ids)) == 1300
        assert len(await store.find(ids)) == 650
        assert dict(await store.outcomes([])) == {}
        assert dict(await store.find([])) == {}
