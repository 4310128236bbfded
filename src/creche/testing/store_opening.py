"""What a store's ledger is when it is opened, closed, and opened again.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

import pytest

from creche.errors import StoreUnavailable
from creche.store.base import Batch, Durability, LaneCount, LaneRow, Retention, Store, TaskRow
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import (
    NOW,
    Connect,
    as_row,
    bounded,
    change,
    end,
    job_id,
    new_job,
    prune_all,
)


class Opening(StoreCase):
    """The tests."""

    async def test_a_new_ledger_is_empty_and_in_its_first_epoch(self, connect: Connect) -> None:
        store = bounded(connect())
        found = await store.open(NOW)
        assert (found.ledger, found.epoch, found.next_seq, found.ended) == ("main", 1, 1, 0)
        assert not any((found.lanes, found.stored, found.held, found.tasks))
        await store.aclose()

    async def test_every_opening_is_a_new_epoch_of_the_same_ledger(self, connect: Connect) -> None:
        epochs, ids = [], set()
        for _ in range(3):
            store = bounded(connect())
            found = await store.open(NOW)
            epochs.append(found.epoch)
            ids.add(found.id)
            await store.aclose()
        assert epochs == [1, 2, 3]
        (ledger_id,) = ids
        assert len(ledger_id) >= 16

    async def test_a_store_says_how_durable_it_is(self, store: Store) -> None:
        assert isinstance(store.durability, Durability)

    async def test_a_store_that_is_not_open_says_so(self, connect: Connect) -> None:
        store = bounded(connect())
        with pytest.raises(StoreUnavailable):
            await store.commit(Batch())
        await store.open(NOW)
        await store.aclose()
        with pytest.raises(StoreUnavailable):
            await store.commit(Batch())
        with pytest.raises(StoreUnavailable):
            await store.counts()

    async def test_closing_again_does_nothing(self, connect: Connect) -> None:
        store = bounded(connect())
        await store.open(NOW)
        await store.commit(Batch(lanes=[LaneRow(1, "default", 2, "")], jobs=[new_job(1)]))
        await store.aclose()
        await store.aclose()
        store = bounded(connect())
        assert [row.seq for row in (await store.open(NOW)).held] == [1]
        await store.aclose()

    async def test_closing_before_opening_does_nothing(self, connect: Connect) -> None:
        await bounded(connect()).aclose()
        store = bounded(connect())
        assert (await store.open(NOW)).epoch == 1
        await store.aclose()

    async def test_what_was_committed_is_there_after_closing(self, connect: Connect) -> None:
        store = bounded(connect())
        await store.open(NOW)
        lanes = [LaneRow(1, "default", 2, ""), LaneRow(2, None, None, "unknown task resize")]
        tasks = [TaskRow("resize", b"declared", NOW), TaskRow("send", b"", NOW + 1)]
        held = [new_job(n) for n in (1, 2, 3)]
        stored = [new_job(n, lane=2 - n % 2, stored=True) for n in range(4, 9)]
        await store.commit(Batch(lanes=lanes, tasks=tasks, jobs=held + stored))
        leased = change(2, losses=3, epoch=1)
        await store.commit(Batch(changes=[leased], ends=[end(3)]))
        await store.aclose()

        store = bounded(connect())
        found = await store.open(NOW)
        assert found.next_seq == 9
        assert sorted(found.lanes) == lanes
        assert sorted(found.tasks) == tasks
        assert list(found.held) == [as_row(held[0]), as_row(held[1], leased)]
        assert sorted(found.stored) == [LaneCount(1, 2, 5), LaneCount(2, 3, 4)]
        assert found.ended == 1
        assert (await store.outcomes([job_id(3)]))[job_id(3)].outcome == b"outcome of 3"
        await store.aclose()

    async def test_a_seq_is_never_given_again(self, connect: Connect) -> None:
        store = bounded(connect())
        await store.open(NOW)
        await store.commit(Batch(jobs=[new_job(41)], ends=[end(41)]))
        await prune_all(store, NOW, Retention(0, None, None, tombstone_s=0.0))
        assert await store.job(job_id(41)) is None
        await store.aclose()
        store = bounded(connect())
        assert (await store.open(NOW)).next_seq == 42
        await store.aclose()
