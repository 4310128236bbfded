"""Unique keys: which job has which.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from dataclasses import replace

from creche.model.job import JobState
from creche.store.base import Batch, KeyHolder, KeyRow, LaneRow, Ousted, Store
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
        keys = [KeyRow(b"a", 2, NOW), KeyRow(b"a", 3, NOW + 0.5, 2)]
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

    async def test_what_is_replaced_and_unfinished_is_known_when_the_ledger_is_opened(
        self, connect: Connect
    ) -> None:
        store = bounded(connect())
        assert (await store.open(NOW)).ousted == []
        await store.commit(
            Batch(
                lanes=[_LANE],
                jobs=[new_job(seq) for seq in range(1, 9)],
                keys=[
                    KeyRow(b"a", 2, NOW, 1),
                    KeyRow(b"b", 4, NOW, 3, True),
                    KeyRow(b"c", 6, NOW, 5),
                    KeyRow(b"d", 8, NOW, 7),
                ],
            )
        )
        # It began, so that it was let go on.
        await store.commit(Batch(changes=[change(7, state=JobState.DELAYED)]))
        await store.commit(Batch(ends=[end(5, state=JobState.CANCELLED, outcome=None)]))
        await store.aclose()
        recovery = await store.open(NOW + 1)
        assert recovery.ousted == [Ousted(job_id(1), False), Ousted(job_id(3), True)]
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
