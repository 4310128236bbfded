"""What a store answers to people: lists, records and counts.

A part of `creche.testing.store_contract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from creche.model.filter import Filter
from creche.model.job import JobState
from creche.store.base import Batch, LaneRow, Store
from creche.testing.store_case import StoreCase
from creche.testing.store_rows import KEEP_NONE, NOW, change, end, job_id, new_job
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


class History(StoreCase):
    """The tests."""

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
        # The lease's own number counts for nothing.
        changes = [change(2, attempt=7, failures=1)]
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
        rest = (12, None, b"payload of 1", None, 0, *(None,) * 6, (), None)
        assert tuple(waiting) == (*facts, NOW + 1, None, None, *rest)
        await store.commit(Batch(changes=[change(1, attempt=5, losses=1)]))
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

    async def test_tasks_are_in_use_as_long_as_a_job_of_theirs_is_unfinished(
        self, store: Store
    ) -> None:
        assert set(await store.tasks_in_use()) == set()
        jobs = [
            new_job(1, task="queued"),
            new_job(2, task="stored", stored=True),
            new_job(3, task="delayed", stored=True, state=JobState.DELAYED, due_at=NOW + 9),
            new_job(4, task="runs"),
            new_job(5, task="runs"),
            new_job(6, task="over"),
        ]
        await store.commit(Batch(jobs=jobs, changes=[change(4)], ends=[end(5), end(6)]))
        assert set(await store.tasks_in_use()) == {"queued", "stored", "delayed", "runs"}
        await store.commit(Batch(ends=[end(4), end(2)]))
        assert set(await store.tasks_in_use()) == {"queued", "delayed"}

    async def test_info_names_the_kind_and_the_epoch(self, store: Store) -> None:
        facts = await store.info()
        assert isinstance(facts["kind"], str)
        assert facts["durability"] == store.durability.value
        assert (facts["ledger"], facts["epoch"]) == ("main", 1)
