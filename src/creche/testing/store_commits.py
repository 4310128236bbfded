"""What a batch makes of a ledger, whole or not at all.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

import pytest
import trio

from creche.errors import StoreError
from creche.model.job import JobState
from creche.store.base import (
    Batch,
    LaneRow,
    NewOptions,
    OutcomeRow,
    QueueRow,
    ScheduleRow,
    Store,
    TaskRow,
)
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import (
    NOW,
    Connect,
    as_head,
    bounded,
    change,
    end,
    job_id,
    made,
    new_job,
)


class Commits(StoreCase):
    """The tests."""

    # --- committing -------------------------------------------------------------------------------

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

    async def test_a_task_that_is_forgotten_is_not_there_any_more(self, connect: Connect) -> None:
        store = bounded(connect())
        await store.open(NOW)
        tasks = [TaskRow("t", b"1", 1), TaskRow("u", b"1", 1), TaskRow("v", b"1", 1)]
        await store.commit(Batch(tasks=tasks))
        tasks = [TaskRow("t", None, 2), TaskRow("unknown", None, 2), TaskRow("u", b"2", 2)]
        await store.commit(Batch(tasks=tasks))
        await store.aclose()
        store = bounded(connect())
        found = await store.open(NOW)
        assert sorted(found.tasks) == [TaskRow("u", b"2", 2), TaskRow("v", b"1", 1)]
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

    async def test_what_a_job_was_submitted_with_may_be_said_anew(self, store: Store) -> None:
        jobs = [new_job(n, options=options) for n, options in ((1, b"old"), (2, None), (3, b"c"))]
        await store.commit(Batch(jobs=jobs, options=[NewOptions(3, b"at once")]))
        await store.commit(
            Batch(
                changes=[change(1, state=JobState.CANCELLING)],
                options=[
                    NewOptions(1, b"new"),
                    NewOptions(2, b"some"),
                    NewOptions(77, b"nobody's"),
                ],
            )
        )
        rows = await store.find([job_id(n) for n in (1, 2, 3)])
        assert [rows[job_id(n)].options for n in (1, 2, 3)] == [b"new", b"some", b"at once"]
        record = await store.job(job_id(1))
        assert record is not None
        assert (record.options, record.state) == (b"new", JobState.CANCELLING)

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

    # --- cancelling -------------------------------------------------------------------------------

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
