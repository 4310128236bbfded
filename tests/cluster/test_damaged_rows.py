"""Rows of the store that cannot be read any more: each is set aside by itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_delays import arrivals, patient
from tests.cluster.test_windows import LISTENING, DiskLike

from creche import JobFailed
from creche.errors import SubmissionRefused
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.store.base import QueueRow, ScheduleRow, TaskRow
from creche.store.sqlite import SqliteStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_value

pytestmark = pytest.mark.trio

DAMAGED = {
    "no CBOR": b"\xff\x00",
    "no map": encode_value([1, 2]),
    "limits": encode_value({"limits": {"timeout_s": "soon"}}),
    "retry": encode_value({"retry": {"retries": -1}}),
    "delivery": encode_value({"delivery": 7}),
    "parent": encode_value({"parent": "nobody"}),
    "headers": encode_value({"headers": 5}),
    "keys": encode_value({"keys": ["one"]}),
}

anything: Any = pytest.mark.parametrize("options", DAMAGED.values(), ids=DAMAGED.keys())


def damage(store: DiskLike, job: m.Submit, **what: bytes) -> None:
    """Have the store hold something else of *job*."""
    seq = store._jobs.ids[job.id]
    store._jobs.rows[seq] = store._jobs.rows[seq]._replace(**what)


async def message_of(client: Any, job: m.Submit) -> str:
    """What is said of a job that has failed."""
    await client.say(m.Watch([job.id]))
    ended = await client.hear(m.Ended)
    assert (ended.id, ended.state) == (job.id, JobState.FAILED)
    failure = Failure.from_data(decode_value(ended.outcome))
    assert failure.type == "creche.JobDamaged"
    return failure.message


@anything
async def test_a_damaged_row_is_set_aside_by_itself_wherever_its_job_waits(
    autojump_clock, options, caplog
):
    store, settings = DiskLike(), patient(window=3, delays=1)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        jobs = [await client.submitted(i) for i in range(8)]
        later = [await client.submitted(20 + i, options={"delay_s": 90.0}) for i in range(3)]
    for job in (jobs[1], jobs[6], later[1]):  # in the window, beyond it, and later
        damage(store, job, options=options)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        came = [n for n, _ in await arrivals(worker, 8)]
        assert came == [0, 2, 3, 4, 5, 7, 20, 22]
        for job in (jobs[1], jobs[6], later[1]):
            assert "what it was submitted with is damaged: " in await message_of(client, job)
            told = [
                record.message for record in caplog.records if id_to_text(job.id) in record.message
            ]
            assert len(told) == 1
        assert not house.core.by_id
        assert house.core.delays.held == house.core.delays.stored == 0
        assert house.core.lanes.space.held_bytes == 0
        dead = await client.ask("jobs", filter="fate:dead")
        assert len(dead["jobs"]) == 3


async def test_a_damaged_row_of_a_running_job_frees_its_worker(autojump_clock):
    store, worker = DiskLike(), None
    async with open_house(patient(), lambda: store) as house:
        worker = house.worker()
        async with house.client().connected() as client, worker.connected(**LISTENING):
            await worker.ready("echo", slots=1)
            job = await client.submitted(1)
            offer = await worker.hear(m.Offer)
            await trio.sleep(1)
    damage(store, job, options=b"\xff")
    async with open_house(patient(), lambda: store) as house:
        worker.listener = house.listener
        held = [[offer.seq, offer.epoch, offer.attempt]]
        async with (
            house.client().connected() as client,
            worker.connected(**LISTENING, held=held),
        ):
            await worker.ready("echo", slots=1)
            await worker.hear(m.Stop)
            assert "is damaged" in await message_of(client, job)
            await client.submitted(2)
            assert [n for n, _ in await arrivals(worker, 1)] == [2]


async def test_a_damaged_job_can_be_cancelled_and_is_not_retried(autojump_clock):
    store, settings = DiskLike(), patient(window=1)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        jobs = [await client.submitted(i, task="nobody") for i in range(3)]
    damage(store, jobs[2], options=b"\xff")
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        await client.say(m.Cancel(7, [jobs[2].id], "not any more"))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED]
        assert (await client.ask("job", id=jobs[2].id))["state"] == "cancelled"
        answers = await client.ask("retry", ids=[jobs[0].id, jobs[2].id])
        assert [answer["why"] for answer in answers["jobs"]] == ["unfinished", "damaged"]


@task(registry=Registry())
async def echo(value: int) -> int:
    return value


async def test_a_client_is_told_that_a_job_cannot_be_retried_as_it_is_damaged(autojump_clock):
    store = DiskLike()
    async with open_cluster([echo], workers=0, make_store=lambda: store) as cluster:
        async with cluster.client() as client:
            job = await client.delay("echo", 1)
        await cluster.kill_plane()
        (seq,) = store._jobs.rows
        store._jobs.rows[seq] = store._jobs.rows[seq]._replace(options=b"\xff")
        await cluster.start_plane()
        async with cluster.client() as client:
            again = client.job(job.id)
            with pytest.raises(JobFailed, match="is damaged"):
                await again.result()
            with pytest.raises(SubmissionRefused, match="submit it anew, or discard it"):
                await client.retry(job.id)


async def test_arguments_that_are_damaged_fail_their_job_alone(autojump_clock):
    store = DiskLike()
    async with open_cluster([echo], workers=0, make_store=lambda: store) as cluster:
        async with cluster.client() as client:
            jobs = [await client.delay("echo", n) for n in range(3)]
            await cluster.kill_plane()
            store._jobs.rows[2] = store._jobs.rows[2]._replace(payload=b"\xff")
            await cluster.start_plane()
            await cluster.add_worker()
            with pytest.raises(JobFailed, match="not a payload"):
                await jobs[1].result()
            assert [await jobs[n].result() for n in (0, 2)] == [0, 2]


@pytest.mark.parametrize(
    "declaration",
    [
        b"\xff",
        encode_value(5),
        encode_value({"name": "another"}),
        encode_value({"name": "echo", "flow": {"limit": -1}}),
        encode_value({"name": "echo", "limits": 5}),
    ],
    ids=["no CBOR", "no map", "name", "flow", "limits"],
)
async def test_a_damaged_announcement_holds_up_nothing_and_is_made_again(
    autojump_clock, declaration, caplog
):
    store = DiskLike()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
    store._tasks["echo"] = TaskRow("echo", declaration, 0.0)
    for _ in range(2):
        async with (
            open_house(patient(), lambda: store) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            await client.submitted(2)
            await worker.ready("echo", slots=2)
            assert len(await arrivals(worker, 1)) == 1
    assert caplog.text.count("what the store has of task 'echo' cannot be read") == 1


@pytest.mark.parametrize(
    "settings", [b"\xff", encode_value(5), encode_value({"limit": 0})], ids=repr
)
async def test_a_queue_whose_settings_are_damaged_is_paused_until_it_is_resumed(
    autojump_clock, settings, caplog
):
    store = DiskLike()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
    store._queues["default"] = QueueRow("default", settings)
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        assert "queue 'default' cannot be read" in caplog.text
        await worker.ready("echo", slots=1)
        await worker.hears_nothing(m.Offer, 10)
        await client.ask("set-queue", queue="default", paused=False)
        assert len(await arrivals(worker, 1)) == 1


async def test_a_damaged_schedule_holds_up_nothing(autojump_clock, caplog):
    store = DiskLike()
    store._schedules["news"] = ScheduleRow("news", b"\xff")
    store._schedules["more"] = ScheduleRow("more", encode_value([1]))
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
        states = {s["name"]: s["state"] for s in (await client.ask("schedules"))["schedules"]}
        assert states == {"news": "broken", "more": "broken"}
        assert caplog.text.count("does not fire") == 2


async def test_a_damaged_file_is_read_back_but_for_what_is_damaged(tmp_path: Path):
    path = tmp_path / "creche.db"
    settings = patient(window=2)
    with trio.fail_after(60):
        async with (
            open_house(settings, lambda: SqliteStore(path)) as house,
            house.client().connected() as client,
        ):
            jobs = [await client.submitted(i) for i in range(6)]
        with sqlite3.connect(path) as file:
            file.executemany(
                "UPDATE job SET options = x'ff' WHERE id = ?", [(jobs[n].id,) for n in (0, 4)]
            )
        file.close()
        async with (
            open_house(settings, lambda: SqliteStore(path)) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            await worker.ready("echo", slots=1)
            assert [n for n, _ in await arrivals(worker, 4)] == [1, 2, 3, 5]
            for n in (0, 4):
                assert "is damaged" in await message_of(client, jobs[n])
