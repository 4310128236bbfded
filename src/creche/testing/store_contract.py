"""`creche.store.base` as tests: what the engine counts on in any store.

A store of your own passes them by a subclass that says how it is made::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def connect(self, tmp_path):
            return lambda: MyStore(tmp_path / "jobs")

Each call of `connect` returns a store that is not open yet, on the same ledger; the tests open one
at a time. They need pytest and pytest-trio, and are marked so that they run under Trio whatever its
mode. No call may take longer than `CALL_S` (in `creche.testing.store_rows`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import chain
from typing import Any

import pytest
import trio

from creche.errors import StoreError, StoreUnavailable
from creche.model.filter import Filter
from creche.model.job import Fate, JobState
from creche.store.base import (
    MAX_TRIES,
    Batch,
    Durability,
    LaneCount,
    LaneRow,
    OutcomeRow,
    Pruned,
    QueueRow,
    Retention,
    ScheduleRow,
    Store,
    TaskRow,
    Verdict,
)
from creche.testing.store_keys import KeysContract
from creche.testing.store_rows import (
    KEEP_ALL,
    KEEP_NONE,
    NOW,
    Connect,
    as_head,
    as_row,
    bounded,
    change,
    end,
    job_id,
    made,
    new_job,
    prune_all,
)
from creche.wire.payload import encode_value

TERMS: Sequence[tuple[str, Sequence[int]]] = (
    ("task:mail.*", [5, 4, 3, 2]),
    ("task:m*l.?end", [4, 2]),
    ("task:mail.[ab]", [5]),
    ("-task:mail.*", [6, 1]),
    ("task:resize,*.send", [6, 4, 2, 1]),
    ("priority:critical", [5, 3]),
    ("-priority:critical,low", [6, 4, 2, 1]),
    ("worker:box/1", [4]),
    ("worker:box*", [4, 3]),
    ("worker:*", [6, 5, 4, 3, 2, 1]),
    ("-worker:?*", [6, 5, 2, 1]),
    ('error:"No Route"', [3]),
    ("error:timeout,route", [4, 3]),
    ("-error:route", [6, 5, 4, 2, 1]),
    ("attempt:2..3", [4, 2]),
    ("attempt:0", [6, 5, 1]),
    ("attempt:..1", [6, 5, 3, 1]),
    ("losses:1..", [4]),
    ("submitted:2027-01-15T08:00:03Z..", [6, 5, 4, 3]),
    ("submitted:2027-01-15T08:00:02Z..2027-01-15T08:00:04Z", [3, 2]),
    ("submitted:2027-01-15", [6, 5, 4, 3, 2, 1]),
    ("submitted:2027-01-16", []),
    ("ended:..2027-01-15T09:00:00Z", [4, 3]),
    ("-ended:..2027-01-15T09:00:00Z", [6, 5, 2, 1]),
    ("started:2027-01-15T08:01:40Z..", [4, 3, 2]),
    (f"id:{job_id(4).hex()}", [4]),
    (f"id:{job_id(4).hex()[:12]}", [4]),
    (f"id:{job_id(4).hex()[:5]}", [6, 5, 4, 3, 2, 1]),
    (f"-id:{job_id(4).hex()}", [6, 5, 3, 2, 1]),
    (f"id:{job_id(4).hex()},{job_id(2).hex()[:15]} state:running", [2]),
)
"""Filters, and which of six jobs each means."""


class StoreContract(KeysContract):
    """The tests. A subclass supplies `connect`; what it adds beside is its own."""

    pytestmark = pytest.mark.trio

    @pytest.fixture
    def connect(self) -> Connect:
        """Return the way to make a store, not open yet, on the one ledger of this test."""
        raise NotImplementedError("a store says how it is made by its own `connect` fixture")

    @pytest.fixture
    async def store(self, connect: Connect) -> AsyncIterator[Store]:
        """A store on an empty ledger, open in its first epoch."""
        store = bounded(connect())
        await store.open(NOW)
        yield store
        await store.aclose()

    # --- opening --------------------------------------------------------------------------------

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

    # --- committing -----------------------------------------------------------------------------

    async def test_an_empty_batch_changes_nothing(self, store: Store) -> None:
        assert list(await store.commit(Batch())) == []
        assert dict(await store.counts()) == {}

    async def test_every_field_of_a_job_comes_back_as_it_went_in(self, store: Store) -> None:
        jobs = [
            new_job(1, payload=b"", options=b"\xa0", state=JobState.DELAYED),
            new_job(2, payload=bytes(range(256)) * 2, task="Übung", submitted_at=NOW + 1 / 3),
            new_job(4, expires_at=NOW + 1 / 7),
            new_job(3, payload=b"\0" * 300_000, lane=2**31, state=JobState.PARKED),
            new_job(2**40, id=b"\xff" * 16),
        ]
        await store.commit(Batch(jobs=jobs))
        found = await store.find([job.id for job in jobs])
        assert [found[job.id] for job in jobs] == [as_head(job) for job in jobs]
        records = [await store.job(job.id) for job in jobs]
        assert [record and record.payload for record in records] == [job.payload for job in jobs]
        assert {type(row.state) for row in found.values()} == {JobState}

    async def test_a_change_replaces_all_that_can_change(self, store: Store) -> None:
        job = new_job(1, options=b"\xa0", stored=True)
        await store.commit(Batch(jobs=[job]))
        changes = [
            change(1),
            change(1, state=JobState.CANCELLING, attempt=2, losses=1, epoch=7, holder="w2"),
            change(1, state=JobState.DELAYED, lane=4, holder=None, leased_at=None, stored=True),
            change(1, state=JobState.QUEUED, lane=5, holder=None, leased_at=None, failures=3),
            change(1, state=JobState.PARKED, lane=5, holder=None, expires_at=NOW + 1 / 9),
        ]
        for now in changes:
            await store.commit(Batch(changes=[now]))
            assert dict(await store.find([job.id])) == {job.id: as_head(job, now)}

    async def test_changes_that_differ_are_each_applied(self, store: Store) -> None:
        jobs = [new_job(n) for n in range(1, 601)]
        await store.commit(Batch(jobs=jobs))
        changes = [
            change(n, lane=n % 3, holder=f"w{n % 5}", attempt=n % 2, leased_at=NOW + n % 7)
            for n in range(1, 601)
        ]
        await store.commit(Batch(changes=changes))
        found = await store.find([job.id for job in jobs])
        assert [found[job.id] for job in jobs] == [
            as_head(job, now) for job, now in zip(jobs, changes, strict=True)
        ]

    async def test_a_job_may_arrive_and_change_in_one_batch(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1)], changes=[change(1)]))
        assert (await store.find([job_id(1)]))[job_id(1)] == as_head(new_job(1), change(1))

    async def test_a_job_may_arrive_and_end_in_one_batch(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1, stored=True)], ends=[end(1)]))
        found = await store.outcomes([job_id(1)])
        assert found == {job_id(1): OutcomeRow(1, job_id(1), JobState.SUCCEEDED, b"outcome of 1")}
        assert list(await store.read_lane(1, 0, 10, 1000)) == []

    async def test_every_end_is_recorded_with_its_state(self, store: Store) -> None:
        states = [state for state in JobState if state.has_ended and state != JobState.FORGOTTEN]
        jobs = [new_job(n) for n, _ in enumerate(states, 1)]
        ends = [end(n, state=s, outcome=b"x" * n or None) for n, s in enumerate(states, 1)]
        await store.commit(Batch(jobs=jobs, ends=ends))
        found = await store.outcomes([job.id for job in jobs])
        assert [found[job.id].state for job in jobs] == states
        assert [found[job.id].outcome for job in jobs] == [e.outcome for e in ends]

    async def test_an_end_without_outcome_has_none(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1), new_job(2)]))
        await store.commit(
            Batch(ends=[end(1, outcome=None, state=JobState.CANCELLED), end(2, outcome=b"")])
        )
        found = await store.outcomes([job_id(1), job_id(2)])
        assert found[job_id(1)].outcome is None
        assert found[job_id(2)].outcome == b""

    async def test_a_lane_or_task_said_again_is_replaced(self, connect: Connect) -> None:
        store = bounded(connect())
        await store.open(NOW)
        await store.commit(Batch(lanes=[LaneRow(1, None, None, "")], tasks=[TaskRow("t", b"1", 1)]))
        await store.commit(Batch(lanes=[LaneRow(1, "q", 0, "p")], tasks=[TaskRow("t", b"2", 2)]))
        await store.aclose()
        store = bounded(connect())
        found = await store.open(NOW)
        assert list(found.lanes) == [LaneRow(1, "q", 0, "p")]
        assert list(found.tasks) == [TaskRow("t", b"2", 2)]
        await store.aclose()

    async def test_what_is_said_of_queues_is_kept_until_it_is_taken_back(
        self, connect: Connect
    ) -> None:
        store = bounded(connect())
        assert list((await store.open(NOW)).queues) == []
        await store.commit(Batch(queues=[QueueRow("mail", b"1"), QueueRow("slow", b"2")]))
        await store.commit(Batch(queues=[QueueRow("slow", b"3"), QueueRow("other", b"4")]))
        await store.commit(Batch(queues=[QueueRow("mail", None), QueueRow("unknown", None)]))
        await store.aclose()
        store = bounded(connect())
        found = await store.open(NOW)
        assert sorted(found.queues) == [QueueRow("other", b"4"), QueueRow("slow", b"3")]
        await store.aclose()

    async def test_schedules_are_there_when_it_is_opened_again(self, connect: Connect) -> None:
        """As they were said last, by name, however many and large they are."""
        store = bounded(connect())
        assert list((await store.open(NOW)).schedules) == []
        many = [ScheduleRow(f"every-{n:04}", b"x" * n * 50) for n in range(2500)]
        await store.commit(Batch(schedules=[*reversed(many), ScheduleRow("nightly", b"1")]))
        again = [ScheduleRow("nightly", b"2"), ScheduleRow("every-0007", None)]
        await store.commit(Batch(jobs=[new_job(1)], schedules=again))
        await store.commit(Batch(schedules=[ScheduleRow("never was", None)]))
        await store.aclose()
        store = bounded(connect())
        found = await store.open(NOW)
        assert list(found.schedules) == [*many[:7], *many[8:], ScheduleRow("nightly", b"2")]
        assert found.next_seq == 2
        await store.aclose()

    async def test_a_schedule_of_a_batch_that_is_refused_stands_as_before(
        self, connect: Connect
    ) -> None:
        store = bounded(connect())
        await store.open(NOW)
        await store.commit(Batch(jobs=[new_job(1)], schedules=[ScheduleRow("nightly", b"1")]))
        wrong = Batch(changes=[change(77)], schedules=[ScheduleRow("nightly", b"2")])
        with pytest.raises(StoreError):
            await store.commit(wrong)
        await store.aclose()
        store = bounded(connect())
        assert list((await store.open(NOW)).schedules) == [ScheduleRow("nightly", b"1")]
        await store.aclose()

    @pytest.mark.parametrize(
        "wrong",
        [
            Batch(jobs=[new_job(1, id=b"n" * 16)]),
            Batch(changes=[change(77)]),
            Batch(changes=[change(2)]),
            Batch(ends=[end(77)]),
            Batch(ends=[end(2)]),
            Batch(jobs=[new_job(50), new_job(50, id=b"m" * 16)]),
            Batch(tries=[made(77, 1)]),
            Batch(tries=[made(2, 1)]),
        ],
        ids=[
            "seq taken",
            "change of nobody",
            "change of ended",
            "end of nobody",
            "end of ended",
            "seq twice",
            "try of nobody",
            "try of ended",
        ],
    )
    async def test_a_batch_that_contradicts_the_store_is_refused_whole(
        self, store: Store, wrong: Batch
    ) -> None:
        await store.commit(Batch(jobs=[new_job(1), new_job(2)], ends=[end(2)]))
        before = (await store.jobs(), await store.counts())
        wrong.lanes.append(LaneRow(9, "never", 1, ""))
        wrong.jobs.insert(0, new_job(9))
        with pytest.raises(StoreError) as caught:
            await store.commit(wrong)
        assert type(caught.value) is StoreError
        assert (await store.jobs(), await store.counts()) == before
        wrong.lanes.clear()
        del wrong.jobs[0]
        await store.commit(Batch(jobs=[new_job(9)], changes=[change(1)]))

    # --- the same id again ----------------------------------------------------------------------

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

    # --- stored jobs ----------------------------------------------------------------------------

    async def test_a_lane_is_read_back_by_seq(self, store: Store) -> None:
        jobs = [new_job(n, lane=1 + n % 2, stored=n > 4) for n in range(1, 21)]
        await store.commit(Batch(jobs=jobs))
        rows = await store.read_lane(1, 6, 4, 10_000)
        assert list(rows) == [as_row(jobs[seq - 1]) for seq in (8, 10, 12, 14)]
        assert [row.seq for row in await store.read_lane(1, 14, 100, 10_000)] == [16, 18, 20]
        assert list(await store.read_lane(1, 20, 100, 10_000)) == []
        assert list(await store.read_lane(77, 0, 100, 10_000)) == []

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

    # --- looking up -----------------------------------------------------------------------------

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

    # --- pruning --------------------------------------------------------------------------------

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

    # --- time -----------------------------------------------------------------------------------

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

    # --- tries ----------------------------------------------------------------------------------

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

    # --- the dead -------------------------------------------------------------------------------

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
        assert await listed("is:dead") == [5, 4, 2]
        verdicts = [
            Verdict(2, Fate.RETRIED, NOW + 9, job_id(99)),
            Verdict(3, Fate.RETRIED, NOW + 9, job_id(98)),
            Verdict(5, Fate.DISCARDED, NOW + 9),
            Verdict(6, Fate.DISCARDED, NOW + 9),
            Verdict(77, Fate.DISCARDED, NOW + 9),
        ]
        await store.commit(Batch(verdicts=verdicts))
        assert await listed("is:dead") == [4]
        assert await listed("is:retried") == [3, 2]
        assert await listed("is:discarded") == [5]
        assert await listed("-is:dead,retried task:resize") == [6, 5, 1]
        record = await store.job(job_id(2))
        assert record is not None
        assert (record.fate, record.retried_as) == (Fate.RETRIED, job_id(99))
        assert record.error == "builtins.OSError: no route to 2"
        (first,) = (await store.jobs(Filter.parse("state:succeeded"))).records
        assert (first.fate, first.error) == (None, None)
        await store.commit(Batch(verdicts=[Verdict(5, Fate.RETRIED, NOW + 10, job_id(97))]))
        assert await listed("is:retried") == [5, 3, 2]

    async def test_a_job_may_be_judged_in_the_batch_in_which_it_ends(self, store: Store) -> None:
        failed = end(1, state=JobState.FAILED)
        verdict = Verdict(1, Fate.DISCARDED, NOW)
        await store.commit(Batch(jobs=[new_job(1)], ends=[failed], verdicts=[verdict]))
        assert not (await store.jobs(Filter.parse("is:dead"))).records

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
        assert [r.seq for r in (await store.jobs(Filter.parse("is:dead"))).records] == [7, 3]

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
            before = {r.seq for r in (await store.jobs(Filter.parse("is:dead"))).records}
            pruned = await store.prune(NOW + 60, Retention(None, None, None, **bounds), ())
            after = {r.seq for r in (await store.jobs(Filter.parse("is:dead"))).records}
            assert (sorted(before - after), pruned.dead) == (gone, len(gone))
        assert dict(await store.counts()) == {JobState.LOST: 3}

    # --- cancelling -----------------------------------------------------------------------------

    async def test_a_cancelled_commit_is_whole_or_not_there(self, store: Store) -> None:
        size = 200
        for attempt in range(5):
            seqs = range(1 + attempt * size, 1 + (attempt + 1) * size)
            jobs = [new_job(n, payload=b"x" * 2000) for n in seqs]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.commit, Batch(jobs=jobs))
                for _ in range(attempt):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert len(await store.find([job.id for job in jobs])) in (0, size)

    async def test_a_cancelled_call_does_not_answer_the_next_one(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1)]))
        for steps in range(4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.outcomes, [job_id(1)])
                nursery.start_soon(store.counts)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert list(await store.read_lane(1, 0, 9, 999)) == []
            assert dict(await store.counts()) == {JobState.QUEUED: 1}
            assert list(await store.find([job_id(1)])) == [job_id(1)]

    # --- questions ------------------------------------------------------------------------------

    async def test_jobs_are_listed_newest_first_and_page_by_page(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(n) for n in range(1, 120)]))
        pages: list[list[int]] = []
        before: int | None = None
        while not pages or before is not None:
            page = await store.jobs(before_seq=before, limit=50)
            pages.append([record.seq for record in page.records])
            before = page.before_seq
        assert [len(page) for page in pages] == [50, 50, 19]
        assert list(chain(*pages)) == list(range(119, 0, -1))
        assert len((await store.jobs()).records) == 50

    async def test_jobs_are_listed_by_every_filter_given(self, store: Store) -> None:
        lanes = [
            LaneRow(1, "default", 2, ""),
            LaneRow(2, "mail", 0, "paused"),
            LaneRow(3, "mail", 1, ""),
        ]
        jobs = [
            new_job(n, lane=1 + n % 3, task=("resize", "send")[n % 2], stored=n % 4 == 0)
            for n in range(1, 25)
        ]
        ends = [end(n, state=JobState.FAILED) for n in (3, 4, 5)]
        await store.commit(Batch(lanes=lanes, jobs=jobs, changes=[change(8, lane=3)], ends=ends))

        async def listed(text: str, **more: Any) -> list[int]:
            return [record.seq for record in (await store.jobs(Filter.parse(text), **more)).records]

        every = range(24, 0, -1)
        assert await listed("task:send") == [n for n in every if n % 2]
        assert await listed("queue:mail") == [n for n in every if n % 3]
        assert await listed("queue:nobody's") == []
        assert await listed("task:nobody's") == []
        assert await listed("state:running") == [8]
        assert await listed("state:failed") == [5, 4, 3]
        assert await listed("state:queued") == [n for n in every if n not in (3, 4, 5, 8)]
        assert await listed("state:failed,running") == [8, 5, 4, 3]
        assert await listed("state:failed task:send queue:mail") == [5]
        assert await listed("state:queued", before_seq=7, limit=2) == [6, 2]
        assert await listed("state:failed -state:failed") == []
        assert await listed("state:failed", limit=2) == [5, 4]

    async def test_each_term_of_a_filter_is_answered(self, store: Store) -> None:
        lost = {"type": "builtins.OSError", "message": "no route to host"}
        late = {"type": "builtins.TimeoutError", "message": "it took too long"}
        tasks = ("resize", "mail.send", "mail.sort", "mail.send", "mail.[ab]", "resize")
        jobs = [new_job(n, task=tasks[n - 1], lane=(1, 1, 2, 1, 2, 9)[n - 1]) for n in range(1, 7)]
        ends = [
            end(3, state=JobState.FAILED, holder="box/0/aa", outcome=encode_value(lost)),
            end(
                4,
                state=JobState.LOST,
                attempt=3,
                losses=1,
                holder="box/1/bb",
                outcome=encode_value(late),
            ),
        ]
        lanes = [LaneRow(1, "default", 2, ""), LaneRow(2, "mail", 0, "")]
        changes = [change(2, attempt=2)]
        await store.commit(Batch(lanes=lanes, jobs=jobs, changes=changes, ends=ends))
        for text, seqs in TERMS:
            page = await store.jobs(Filter.parse(text))
            assert [record.seq for record in page.records] == seqs, text
            assert page.before_seq is None

    async def test_an_outcome_that_is_no_failure_has_no_error(self, store: Store) -> None:
        jobs = [new_job(n) for n in (1, 2, 3)]
        odd = end(1, state=JobState.FAILED, outcome=b"\xffodd")
        result = end(2, outcome=encode_value({"type": "odd", "message": "odd"}))
        await store.commit(Batch(jobs=jobs, ends=[odd, result]))
        assert not (await store.jobs(Filter.parse("error:odd"))).records

    async def test_a_record_says_all_about_a_job(self, store: Store) -> None:
        await store.commit(Batch(lanes=[LaneRow(1, "mail", 3, "paused")], jobs=[new_job(1)]))
        waiting = await store.job(job_id(1))
        assert waiting is not None
        facts = (1, job_id(1), "resize", "mail", 3, "paused", JobState.QUEUED, 0, 0, None)
        rest = (12, None, b"payload of 1", None, 0, *(None,) * 6, ())
        assert tuple(waiting) == (*facts, NOW + 1, None, None, *rest)
        await store.commit(Batch(changes=[change(1, attempt=2, losses=1)]))
        running = await store.job(job_id(1))
        assert running == waiting._replace(
            state=JobState.RUNNING, attempt=2, losses=1, holder="w1", started_at=NOW + 100.5
        )
        await store.commit(Batch(ends=[end(1, attempt=3, losses=2, started_at=NOW + 150)]))
        ended = await store.job(job_id(1))
        assert ended is not None
        assert ended == waiting._replace(
            state=JobState.SUCCEEDED,
            attempt=3,
            losses=2,
            holder="w1",
            started_at=NOW + 150,
            ended_at=NOW + 201,
            outcome_bytes=12,
            outcome=b"outcome of 1",
        )
        assert list((await store.jobs()).records) == [ended._replace(payload=None, outcome=None)]
        await store.prune(NOW, KEEP_NONE, ())
        assert await store.job(job_id(1)) == ended._replace(
            state=JobState.FORGOTTEN,
            payload_bytes=0,
            outcome_bytes=None,
            payload=None,
            outcome=None,
        )

    async def test_a_job_in_a_lane_nobody_described_is_listed(self, store: Store) -> None:
        await store.commit(Batch(jobs=[new_job(1, lane=7)]))
        (record,) = (await store.jobs()).records
        assert (record.queue, record.priority, record.park) == (None, None, "")

    async def test_an_unknown_job_is_none(self, store: Store) -> None:
        assert await store.job(job_id(1)) is None

    async def test_counts_follow_every_move(self, store: Store) -> None:
        async def counted() -> dict[JobState, int]:
            return dict(await store.counts())

        await store.commit(Batch(jobs=[new_job(n, stored=n > 5) for n in range(1, 11)]))
        assert await counted() == {JobState.QUEUED: 10}
        await store.commit(
            Batch(
                jobs=[new_job(11), new_job(12), new_job(13, id=job_id(1))],
                changes=[change(1), change(2), change(11, state=JobState.PARKED)],
                ends=[end(3), end(12, state=JobState.EXPIRED)],
            )
        )
        assert await counted() == {
            JobState.QUEUED: 7,
            JobState.RUNNING: 2,
            JobState.PARKED: 1,
            JobState.SUCCEEDED: 1,
            JobState.EXPIRED: 1,
        }
        await store.prune(NOW, KEEP_NONE, ())
        assert (await counted())[JobState.FORGOTTEN] == 2
        assert sum((await counted()).values()) == 12

    async def test_info_names_the_kind_and_the_epoch(self, store: Store) -> None:
        facts = await store.info()
        assert isinstance(facts["kind"], str)
        assert facts["durability"] == store.durability.value
        assert (facts["ledger"], facts["epoch"]) == ("main", 1)


async def states_of(store: Store) -> str:
    """Return how jobs stand in order: S, F and so on, or in small letters if forgotten."""
    records = (await store.jobs(limit=1000)).records
    return "".join(
        "f" if record.state is JobState.FORGOTTEN else record.state.word[0].upper()
        for record in reversed(records)
    )
