"""Unique keys: which job has which.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from dataclasses import replace

from creche.model.job import JobState
from creche.store.base import Batch, KeyHolder, KeyRow, LaneRow, Ousted, OustRow, Store
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import (
    KEEP_NONE,
    NOW,
    Connect,
    bounded,
    change,
    end,
    job_id,
    new_job,
    prune_all,
)

_AT_ONCE = replace(KEEP_NONE, tombstone_s=0.0)
_LANE = LaneRow(1, "default", 2, "")


def _holder(name: bytes, seq: int, state: JobState, since: float = NOW) -> KeyHolder:
    return KeyHolder(name, since, seq, job_id(seq), state, NOW + seq)


class Keys(StoreCase):
    """The tests."""

    async def test_a_job_has_a_key_from_its_first_commit_on(self, store: Store) -> None:
        await store.commit(
            Batch(lanes=[_LANE], jobs=[new_job(1), new_job(2)], keys=[KeyRow(b"a", 2, NOW)])
        )
        assert await store.keys([b"a", b"b"]) == {b"a": _holder(b"a", 2, JobState.QUEUED)}
        await store.commit(Batch(ends=[end(2)]))
        assert await store.keys([b"a"]) == {b"a": _holder(b"a", 2, JobState.SUCCEEDED)}
        assert await store.keys([]) == {}

    async def test_who_had_a_key_last_has_it(self, store: Store) -> None:
        keys = [KeyRow(b"a", 1, NOW), KeyRow(b"b", 1, NOW)]
        await store.commit(Batch(lanes=[_LANE], jobs=[new_job(1)], keys=keys))
        keys = [KeyRow(b"a", 2, NOW), KeyRow(b"a", 3, NOW + 0.5)]
        await store.commit(Batch(jobs=[new_job(2), new_job(3)], keys=keys))
        assert await store.keys([b"a", b"b"]) == {
            b"a": _holder(b"a", 3, JobState.QUEUED, NOW + 0.5),
            b"b": _holder(b"b", 1, JobState.QUEUED),
        }

    async def test_the_keys_of_a_job_that_was_there_before_are_dropped_with_it(
        self, store: Store
    ) -> None:
        await store.commit(Batch(lanes=[_LANE], jobs=[new_job(1)], keys=[KeyRow(b"a", 1, NOW)]))
        again = new_job(2, id=job_id(1))
        await store.commit(
            Batch(jobs=[again], keys=[KeyRow(b"a", 2, NOW + 1), KeyRow(b"b", 2, NOW + 1)])
        )
        assert await store.keys([b"a", b"b"]) == {b"a": _holder(b"a", 1, JobState.QUEUED)}

    async def test_a_key_is_known_as_long_as_the_id_of_its_job(self, store: Store) -> None:
        keys = [KeyRow(b"a", 1, NOW), KeyRow(b"b", 1, NOW)]
        await store.commit(Batch(lanes=[_LANE], jobs=[new_job(1)], keys=keys))
        await store.commit(Batch(ends=[end(1)]))
        # Another one takes over one of its keys.
        await store.commit(Batch(jobs=[new_job(2)], keys=[KeyRow(b"b", 2, NOW)]))
        await prune_all(store, NOW + 1000, KEEP_NONE)
        assert await store.keys([b"a", b"b"]) == {
            b"a": _holder(b"a", 1, JobState.FORGOTTEN),
            b"b": _holder(b"b", 2, JobState.QUEUED),
        }
        await prune_all(store, NOW + 1000, _AT_ONCE)
        assert await store.keys([b"a", b"b"]) == {b"b": _holder(b"b", 2, JobState.QUEUED)}
        await store.commit(Batch(ends=[end(2)]))
        await prune_all(store, NOW + 1000, _AT_ONCE)
        assert await store.keys([b"a", b"b"]) == {}

    async def test_what_is_replaced_is_known_until_it_has_ended(self, connect: Connect) -> None:
        store = bounded(connect())
        assert (await store.open(NOW)).ousted == []
        await store.commit(
            Batch(
                lanes=[_LANE],
                jobs=[new_job(seq) for seq in range(1, 10)],
                # The second is replaced as it comes, and each of them before it is on disk alone.
                ousts=[
                    OustRow(job_id(3), 4, True),
                    OustRow(job_id(1), 2, False),
                    OustRow(job_id(2), 4, False),
                    OustRow(job_id(5), 6, False),
                    OustRow(job_id(7), 8, False),
                    OustRow(job_id(77), 8, True),
                ],
            )
        )
        # Others have all their keys since, and that is another matter.
        await store.commit(Batch(keys=[KeyRow(b"a", 9, NOW)]))
        await store.commit(Batch(ends=[end(5, state=JobState.CANCELLED, outcome=None)]))
        # Both began: one of them is let go on.
        await store.commit(Batch(changes=[change(3), change(7)]))
        await store.aclose()
        known = [Ousted(job_id(1), False), Ousted(job_id(2), False), Ousted(job_id(3), True)]
        assert (await store.open(NOW + 1)).ousted == known
        await store.commit(Batch(changes=[change(7, state=JobState.DELAYED, due_at=NOW)]))
        await store.commit(Batch(ends=[end(1), end(3)]))
        await prune_all(store, NOW + 1000, _AT_ONCE)
        await store.aclose()
        assert (await store.open(NOW + 2)).ousted == known[1:2]
        await store.commit(Batch(ends=[end(2), end(7)]))
        await store.aclose()
        assert (await store.open(NOW + 3)).ousted == []
        await store.aclose()

    async def test_what_is_replaced_is_let_go_on_once_it_begins_another_attempt(
        self, connect: Connect
    ) -> None:
        store = bounded(connect())
        await store.open(NOW)
        waiting = change(1, state=JobState.QUEUED, attempt=3)
        jobs = [new_job(seq) for seq in (1, 2, 3, 4)]
        await store.commit(Batch(lanes=[_LANE], jobs=jobs, changes=[change(2)]))
        # As they stand once this batch is there: one waits for its fourth attempt.
        ousts = [OustRow(job_id(seq), 4, False) for seq in (1, 2)]
        await store.commit(Batch(changes=[waiting], ousts=ousts))
        await store.aclose()
        assert (await store.open(NOW + 1)).ousted == [Ousted(job_id(1), False)]
        # The other one ran, and waits now.
        await store.commit(Batch(changes=[change(2, state=JobState.QUEUED)]))
        await store.aclose()
        assert (await store.open(NOW + 2)).ousted == [Ousted(job_id(1), False)]
        await store.commit(Batch(changes=[change(1, state=JobState.QUEUED, attempt=4)]))
        await store.aclose()
        assert (await store.open(NOW + 3)).ousted == []
        await store.aclose()

    async def test_a_job_that_was_there_before_replaces_nothing(self, connect: Connect) -> None:
        store = bounded(connect())
        await store.open(NOW)
        await store.commit(Batch(lanes=[_LANE], jobs=[new_job(1), new_job(2)]))
        again = new_job(3, id=job_id(2))
        await store.commit(Batch(jobs=[again], ousts=[OustRow(job_id(1), 3, True)]))
        ended = [end(2)]
        await store.commit(
            Batch(jobs=[new_job(4)], ends=ended, ousts=[OustRow(job_id(2), 4, True)])
        )
        await store.aclose()
        assert (await store.open(NOW + 1)).ousted == []
        await store.aclose()

    async def test_a_job_may_be_given_a_key_later(self, store: Store) -> None:
        await store.commit(Batch(lanes=[_LANE], keys=[KeyRow(b"a", 1, NOW)]))
        assert await store.keys([b"a"]) == {}
        await store.commit(Batch(jobs=[new_job(1)]))
        await store.commit(Batch(keys=[KeyRow(b"a", 1, NOW), KeyRow(b"b", 77, NOW)]))
        assert await store.keys([b"a", b"b"]) == {b"a": _holder(b"a", 1, JobState.QUEUED)}
        await store.commit(Batch(ends=[end(1)]))
        await store.commit(Batch(keys=[KeyRow(b"c", 1, NOW + 5)]))
        held = _holder(b"c", 1, JobState.SUCCEEDED, NOW + 5)
        assert await store.keys([b"c"]) == {b"c": held}

    async def test_very_many_keys_are_asked_for_at_once(self, store: Store) -> None:
        names = [b"key %d" % seq for seq in range(1, 1001)]
        keys = [KeyRow(name, seq, NOW) for seq, name in enumerate(names, 1)]
        jobs = [new_job(seq) for seq in range(1, 1001)]
        await store.commit(Batch(lanes=[_LANE], jobs=jobs, keys=keys))
        found = await store.keys(names)
        assert {name: held.seq for name, held in found.items()} == {
            name: seq for seq, name in enumerate(names, 1)
        }
