"""What becomes of jobs that ended without a result.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from typing import Any

from creche.model.filter import Filter
from creche.model.job import Fate, JobState
from creche.store.base import Batch, Retention, Store, Verdict
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import NOW, end, job_id, new_job, prune_all
from creche.wire.payload import encode_value


class Dead(StoreCase):
    """The tests."""

    async def test_what_ends_without_a_result_is_dead_until_somebody_says_what_becomes_of_it(
        self, store: Store
    ) -> None:
        def error(n: int) -> bytes:
            return encode_value({"type": "builtins.OSError", "message": f"no route to {n}"})

        states = [state for state in JobState if state.has_ended][:5]
        jobs = [new_job(n) for n in range(1, 7)]
        ends = [end(n, state=state, outcome=error(n)) for n, state in enumerate(states, 1)]
        await store.commit(Batch(jobs=jobs, ends=ends))

        async def listed(text: str) -> list[int]:
            return [record.seq for record in (await store.jobs(Filter.parse(text))).records]

        assert [s.word for s in states] == ["succeeded", "failed", "cancelled", "lost", "expired"]
        assert await listed("fate:dead") == [5, 4, 2]
        verdicts = [
            Verdict(2, Fate.RETRIED, NOW + 9, job_id(99)),
            Verdict(3, Fate.RETRIED, NOW + 9, job_id(98)),
            Verdict(5, Fate.DISCARDED, NOW + 9),
            Verdict(6, Fate.DISCARDED, NOW + 9),
            Verdict(77, Fate.DISCARDED, NOW + 9),
        ]
        await store.commit(Batch(verdicts=verdicts))
        assert await listed("fate:dead") == [4]
        assert await listed("fate:retried") == [3, 2]
        assert await listed("fate:discarded") == [5]
        assert await listed("-fate:dead,retried task:resize") == [6, 5, 1]
        record = await store.job(job_id(2))
        assert record is not None
        assert (record.fate, record.retried_as) == (Fate.RETRIED, job_id(99))
        assert record.error == "builtins.OSError: no route to 2"
        (first,) = (await store.jobs(Filter.parse("state:succeeded"))).records
        assert (first.fate, first.error) == (None, None)
        await store.commit(Batch(verdicts=[Verdict(5, Fate.RETRIED, NOW + 10, job_id(97))]))
        assert await listed("fate:retried") == [5, 3, 2]

    async def test_a_job_may_be_judged_in_the_batch_in_which_it_ends(self, store: Store) -> None:
        failed = end(1, state=JobState.FAILED)
        verdict = Verdict(1, Fate.DISCARDED, NOW)
        await store.commit(Batch(jobs=[new_job(1)], ends=[failed], verdicts=[verdict]))
        assert not (await store.jobs(Filter.parse("fate:dead"))).records

    async def test_the_dead_are_kept_apart_from_results(self, store: Store) -> None:
        """Results do not push them out, nor they results."""
        jobs = [new_job(n) for n in range(1, 9)]
        ends = [end(n, state=JobState.FAILED if n % 2 else JobState.SUCCEEDED) for n in range(1, 9)]
        await store.commit(Batch(jobs=jobs, ends=ends))
        kept = Retention(3, None, None, dead_max_count=4)
        assert (await prune_all(store, NOW, kept)).outcomes == 1
        assert await states_of(store) == "FfFSFSFS"
        assert not await store.is_over(NOW, kept)
        # One leaves the set, and is the oldest of the others.
        fewer = Retention(3, None, None, dead_max_count=3)
        assert await store.is_over(NOW, fewer)
        pruned = await store.prune(NOW, fewer, ())
        assert (pruned.outcomes, pruned.dead) == (1, 1)
        assert await states_of(store) == "ffFSFSFS"
        await store.commit(Batch(verdicts=[Verdict(5, Fate.RETRIED, NOW, job_id(50))]))
        assert (await store.prune(NOW, fewer, ())).outcomes == 1
        assert await states_of(store) == "ffFfFSFS" or await states_of(store) == "ffFSfSFS"
        assert [r.seq for r in (await store.jobs(Filter.parse("fate:dead"))).records] == [7, 3]

    async def test_the_dead_have_limits_of_bytes_and_of_age(self, store: Store) -> None:
        jobs = [new_job(n, payload=b"x" * 100) for n in (1, 2, 3)]
        ends = [
            end(n, state=JobState.LOST, ended_at=NOW + (50, 20, 30)[n - 1], outcome=b"y" * 10)
            for n in (1, 2, 3)
        ]
        await store.commit(Batch(jobs=jobs, ends=ends))
        limits: list[tuple[dict[str, Any], list[int]]] = [
            ({"dead_max_bytes": 330}, []),
            ({"dead_max_bytes": 329}, [2]),
            ({"dead_max_age_s": 30.0}, [3]),
            ({"dead_max_count": 0}, [1]),
        ]
        for bounds, gone in limits:
            before = {r.seq for r in (await store.jobs(Filter.parse("fate:dead"))).records}
            pruned = await store.prune(NOW + 60, Retention(None, None, None, **bounds), ())
            after = {r.seq for r in (await store.jobs(Filter.parse("fate:dead"))).records}
            assert (sorted(before - after), pruned.dead) == (gone, len(gone))
        assert dict(await store.counts()) == {JobState.LOST: 3}


async def states_of(store: Store) -> str:
    """Return how jobs stand in order: S, F and so on, or in small letters if forgotten."""
    records = (await store.jobs(limit=1000)).records
    return "".join(
        "f" if record.state is JobState.FORGOTTEN else record.state.word[0].upper()
        for record in reversed(records)
    )
