"""How jobs that wait in the store are read back: by their place and by their moment.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from creche.model.job import JobState
from creche.store.base import Batch, Store
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import (
    NOW,
    Connect,
    as_head,
    as_row,
    bounded,
    change,
    end,
    job_id,
    new_job,
)


class Reading(StoreCase):
    """The tests."""

    # --- stored jobs ------------------------------------------------------------------------------

    async def test_a_lane_is_read_back_by_seq(self, store: Store) -> None:
        jobs = [new_job(n, lane=1 + n % 2, stored=n > 4) for n in range(1, 21)]
        await store.commit(Batch(jobs=jobs))
        rows = await store.read_lane(1, 6, 4, 10_000)
        assert list(rows) == [as_row(jobs[seq - 1]) for seq in (8, 10, 12, 14)]
        assert [row.seq for row in await store.read_lane(1, 14, 100, 10_000)] == [16, 18, 20]
        assert list(await store.read_lane(1, 20, 100, 10_000)) == []
        assert list(await store.read_lane(77, 0, 100, 10_000)) == []

    async def test_all_of_some_lanes_is_read_whatever_it_waits_for(self, store: Store) -> None:
        later: dict[str, Any] = {"state": JobState.DELAYED, "due_at": NOW + 5, "stored": True}
        jobs = [
            *(new_job(n, lane=1 + n % 3, stored=True) for n in range(1, 7)),
            new_job(7, lane=2, **later),
            new_job(8, lane=1, **later),
            new_job(9, lane=2),
        ]
        await store.commit(Batch(jobs=jobs))
        rows = await store.read_lanes([2])
        assert list(rows) == [as_head(jobs[seq - 1]) for seq in (1, 4, 7)]
        assert {row.seq for row in await store.read_lanes({1, 2})} == {1, 3, 4, 6, 7, 8}
        assert list(await store.read_lanes([77])) == []

    async def test_jobs_that_were_read_stay_stored(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1, stored=True)]))
        for _ in range(2):
            assert [row.seq for row in await store.read_lane(1, 0, 9, 9999)] == [1]

    async def test_reading_stops_once_it_is_over_the_bytes(self, store: Store) -> None:
        await store.commit(
            Batch(jobs=[new_job(n, stored=True, payload=b"x" * 100) for n in range(1, 9)])
        )

        async def read(max_bytes: int) -> Sequence[int]:
            return [row.seq for row in await store.read_lane(1, 0, 100, max_bytes)]

        assert await read(0) == [1]
        assert await read(99) == [1]
        assert await read(100) == [1, 2]
        assert await read(299) == [1, 2, 3]
        assert await read(800) == [*range(1, 9)]

    async def test_a_job_that_moves_is_read_where_it_is(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(n, stored=n != 3) for n in range(1, 6)]))
        waits: dict[str, Any] = {"state": JobState.PARKED, "holder": None, "leased_at": None}
        await store.commit(
            Batch(
                changes=[
                    change(1),
                    change(2, lane=2, stored=True, **waits),
                    change(3, lane=1, stored=True, **waits),
                ],
                ends=[end(4, state=JobState.CANCELLED)],
            )
        )
        assert [row.seq for row in await store.read_lane(1, 0, 9, 9999)] == [3, 5]
        assert [row.seq for row in await store.read_lane(2, 0, 9, 9999)] == [2]

    async def test_jobs_that_move_together_are_read_where_they_are(self, store: Store) -> None:
        """Many that become equal, of which some were there before."""
        jobs = [new_job(n, lane=1 + n % 2, stored=n % 3 == 0) for n in range(1, 61)]
        await store.commit(Batch(jobs=jobs))

        async def read() -> list[list[int]]:
            return [
                [row.seq for row in await store.read_lane(lane, 0, 99, 99_999)] for lane in (1, 2)
            ]

        waits: dict[str, Any] = {"state": JobState.QUEUED, "holder": None, "leased_at": None}
        every = [*range(1, 61)]
        await store.commit(Batch(changes=[change(n, stored=True, **waits) for n in every]))
        assert await read() == [every, []]
        await store.commit(Batch(changes=[change(n, lane=2, stored=True, **waits) for n in every]))
        assert await read() == [[], every]
        await store.commit(Batch(changes=[change(n, lane=2) for n in every[:30]]))
        assert await read() == [[], every[30:]]
        await store.commit(Batch(changes=[change(n, lane=1 + n % 2) for n in every]))
        assert await read() == [[], []]

    async def test_a_read_sees_every_commit_made_before_it(self, store: Store) -> None:
        """The calls wait at the same time; each must see what was asked for before it."""
        seen: list[list[int]] = []

        async def commit(seq: int) -> None:
            await store.commit(Batch(jobs=[new_job(seq, stored=True)]))

        async def read() -> None:
            seen.append([row.seq for row in await store.read_lane(1, 0, 99, 9999)])

        def first_step(coroutine: Any, nursery: trio.Nursery) -> None:
            nursery.start_soon(lambda: coroutine)

        # Trio shuffles tasks that start together: one at a time makes the order of calls known.
        async with trio.open_nursery() as nursery:
            for seq in range(1, 6):
                first_step(commit(seq), nursery)
                await trio.lowlevel.checkpoint()
                first_step(read(), nursery)
                await trio.lowlevel.checkpoint()
        assert seen == [[*range(1, n + 1)] for n in range(1, 6)]

    # --- time -------------------------------------------------------------------------------------

    async def test_delayed_jobs_are_read_by_the_moment_at_which_they_are_due(
        self, store: Store
    ) -> None:
        jobs = [
            new_job(n, state=JobState.DELAYED, stored=n != 3, lane=1 + n % 2, due_at=NOW + 50 - n)
            for n in range(1, 9)
        ]
        await store.commit(Batch(jobs=[*jobs, new_job(9, stored=True)]))
        rows = await store.read_due((0.0, 0), NOW + 46, 100, 10_000)
        assert list(rows) == [as_row(jobs[seq - 1]) for seq in (8, 7, 6, 5, 4)]
        rows = await store.read_due((NOW + 43, 7), NOW + 99, 3, 10_000)
        assert [row.seq for row in rows] == [6, 5, 4]
        assert [row.seq for row in await store.read_due((0.0, 0), NOW + 99, 9, 13)] == [8, 7]
        # They are in no lane's tail, and one whose time has come is.
        assert [row.seq for row in await store.read_lane(1, 0, 100, 10_000)] == [9]
        await store.commit(Batch(changes=[change(8, state=JobState.QUEUED, stored=True)]))
        assert [row.seq for row in await store.read_lane(1, 0, 100, 10_000)] == [8, 9]
        assert [row.seq for row in await store.read_due((0.0, 0), NOW + 44, 9, 999)] == [7, 6]

    async def test_jobs_due_at_the_same_moment_are_read_by_seq(self, store: Store) -> None:
        jobs = [new_job(n, state=JobState.DELAYED, stored=True) for n in range(1, 30)]
        await store.commit(Batch(jobs=jobs))
        rows = await store.read_due((NOW + 1000, 20), NOW + 1000, 5, 10_000)
        assert [row.seq for row in rows] == [21, 22, 23, 24, 25]

    async def test_a_job_may_be_delayed_again_to_the_same_moment(self, store: Store) -> None:
        delayed = change(1, state=JobState.DELAYED, stored=True, holder=None, leased_at=None)
        await store.commit(Batch(jobs=[new_job(1)]))
        for _ in range(3):
            await store.commit(Batch(changes=[delayed]))
            assert [row.seq for row in await store.read_due((0.0, 0), NOW + 1000, 9, 99)] == [1]
            await store.commit(Batch(changes=[change(1)]))
            assert list(await store.read_due((0.0, 0), NOW + 1000, 9, 99)) == []

    async def test_what_is_delayed_and_what_expires_is_told_when_opened(
        self, connect: Connect
    ) -> None:
        store = bounded(connect())
        found = await store.open(NOW)
        assert (list(found.delayed), found.next_due_at, found.next_expiry_at) == ([], None, None)
        delayed = [
            new_job(n, state=JobState.DELAYED, stored=True, lane=n % 2, due_at=NOW + 40 - n)
            for n in range(1, 6)
        ]
        held = new_job(6, state=JobState.DELAYED, due_at=NOW + 1)
        expiring = new_job(7, stored=True, expires_at=NOW + 9)
        await store.commit(Batch(jobs=[*delayed, held, expiring, new_job(8, expires_at=NOW + 8)]))
        await store.commit(Batch(ends=[end(5), end(8)]))
        await store.aclose()
        store = bounded(connect())
        found = await store.open(NOW)
        assert sorted(found.delayed) == [(0, 2), (1, 2)]
        assert (found.next_due_at, found.next_expiry_at) == (NOW + 36, NOW + 9)
        assert [row for row in found.held if row.seq == 6] == [as_row(held)]
        await store.aclose()

    async def test_waiting_jobs_expire_in_the_order_of_their_moments(self, store: Store) -> None:
        jobs = [
            new_job(1, expires_at=NOW + 4),
            new_job(2, expires_at=NOW + 3, stored=True),
            new_job(3, expires_at=NOW + 2, state=JobState.PARKED),
            new_job(4, expires_at=NOW + 1, state=JobState.DELAYED, stored=True),
            new_job(5, expires_at=NOW + 1),
            new_job(6),
            new_job(7, expires_at=NOW + 60),
        ]
        await store.commit(Batch(jobs=jobs))
        # Who runs is not cut short by this, and who has ended cannot expire.
        await store.commit(Batch(changes=[change(5, expires_at=NOW + 1)]))
        ids, next_at = await store.expired(NOW + 4, 10)
        assert (list(ids), next_at) == ([job_id(n) for n in (4, 3, 2, 1)], NOW + 60)
        ids, next_at = await store.expired(NOW + 2.5, 1)
        assert (list(ids), next_at) == ([job_id(4)], NOW + 3)
        await store.commit(Batch(ends=[end(n, state=JobState.EXPIRED) for n in (1, 2, 3, 4)]))
        assert (await store.expired(NOW + 4, 10)) == ([], NOW + 60)
        await store.commit(Batch(changes=[change(7, state=JobState.QUEUED)]))
        assert (await store.expired(NOW + 99, 10)) == ([], None)
