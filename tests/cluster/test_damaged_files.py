"""Whatever is wrong with a row of the store's file costs that row alone: the plane starts, serves
everything else, and says what is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_damaged_rows import message_of
from tests.cluster.test_delays import arrivals, patient
from tests.cluster.test_schedules import create
from tests.cluster.test_windows import LISTENING

from creche.errors import StoreUnusable
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.store.base import Retention
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_tools import verify
from creche.testing.simulate.disk import InlineSqliteStore
from creche.wire import messages as m
from creche.wire.payload import decode_value

pytestmark = pytest.mark.trio

NO_TEXT = "CAST(x'ff41' AS TEXT)"
"""A text in no encoding."""

HUGE = "9223372036854775807"
"""The largest number that SQLite has for whole ones: one more is none."""

NEAR = [2**51 + 3, 2**52 - 1, 2**52, 2**52 + 3, 2**53 - 1, 2**53]
"""Numbers on both sides of those from which a plane could not go on."""

OUT_OF_REACH = [str(2**52 + 1), str(2**53 - 1), str(2**53)]

OF_JOBS = {
    "task": ["x'ff'", NO_TEXT],
    "lane": ["'nowhere'", "999", "-1", "1.5", HUGE],
    "state": ["'soon'", "99", "x'00'", "10", "11", "20"],
    "stored": ["7", "-1", "'here'", "0.5", "NULL"],
    "attempt": ["'first'", "-1", "1.5", HUGE],
    "losses": ["'none'", "x'00'", HUGE],
    "epoch": ["'now'", HUGE],
    "failures": ["'none'", HUGE],
    "holder": ["x'ff'", NO_TEXT],
    "payload": ["NULL", "5", "'text'", NO_TEXT],
    "options": ["'text'", "5", NO_TEXT],
    "submitted_at": ["'today'", "x'00'"],
    "leased_at": ["'today'"],
    "expires_at": ["'today'", "x'00'"],
    "ending": ["1", "999", "'that'"],
}
ANY_JOB = [(column, value) for column, values in OF_JOBS.items() for value in values]
IDS = ["'nobody {}'", "x'0{}'", "{}", "CAST(x'ff4{}' AS TEXT)"]


def edit(path: Path, *statements: str) -> None:
    """Have *statements* done to a store that nobody has open."""
    with closing(sqlite3.connect(path)) as file, file:
        for statement in statements:
            assert file.execute(statement).rowcount == 1, statement


def set_of(job: m.Submit, column: str, value: str) -> str:
    return f"UPDATE job SET {column} = {value} WHERE id = x'{job.id.hex()}'"


def opening(path: Path) -> Callable[[], InlineSqliteStore]:
    return lambda: InlineSqliteStore(path)


async def ends_damaged(client: Peer, job: m.Submit, column: str) -> None:
    """Job has failed, of a damaged *column*, for whoever asks in whatever way."""
    assert f"{column} is " in await message_of(client, job)
    shown = await client.ask("job", id=job.id)
    assert shown["state"] == "failed"


@pytest.mark.parametrize(("column", "value"), ANY_JOB)
async def test_a_damaged_row_of_a_job_costs_that_job_wherever_it_waits(
    autojump_clock, tmp_path, caplog, column, value
):
    path, settings = tmp_path / "creche.db", patient(window=3, delays=1)
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        jobs = [await client.submitted(i) for i in range(8)]
        later = [await client.submitted(20 + i, options={"delay_s": 90.0}) for i in range(3)]
    victims = [jobs[1], jobs[6], later[1]]  # in the window, beyond it, and later
    edit(path, *(set_of(job, column, value) for job in victims))
    async with (
        open_house(settings, opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await client.ask("jobs", limit=100)
        await worker.ready("echo", slots=1)
        came = [n for n, _ in await arrivals(worker, 8)]
        assert came == [0, 2, 3, 4, 5, 7, 20, 22]
        for job in victims:
            await ends_damaged(client, job, column)
            told = [r.message for r in caplog.records if id_to_text(job.id) in r.message]
            assert len(told) == 1
        assert not house.core.by_id
        assert house.core.delays.held == house.core.delays.stored == 0
        assert house.core.lanes.space.held_bytes == 0
        assert len((await client.ask("jobs", filter="fate:dead"))["jobs"]) == 3
        assert len((await client.ask("jobs", limit=100))["jobs"]) == 11
        health = await client.ask("health")
        assert health["jobs"] == {"succeeded": 8, "failed": 3}
    # What was damaged is so still, and a plane starts all the same.
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        for job in victims:
            await client.say(m.Watch([job.id]))
            assert (await client.hear(m.Ended)).state == JobState.FAILED
        assert (await client.ask("health"))["jobs"] == {"succeeded": 8, "failed": 3}


@pytest.mark.parametrize("value", ["'soon'", "NULL", "x'00'"])
async def test_a_delayed_job_whose_moment_is_damaged_fails_alone(autojump_clock, tmp_path, value):
    path, settings = tmp_path / "creche.db", patient(delays=1)
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        later = [await client.submitted(i, options={"delay_s": 90.0}) for i in range(4)]
    edit(path, *(set_of(later[n], "due_at", value) for n in (0, 2)))  # in memory, and in the store
    async with (
        open_house(settings, opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        assert [n for n, _ in await arrivals(worker, 2)] == [1, 3]
        for n in (0, 2):
            await ends_damaged(client, later[n], "due_at")
        assert house.core.delays.held == house.core.delays.stored == 0


@pytest.mark.parametrize(
    ("column", "value", "is_again"),
    [("task", "x'ff'", False), ("payload", "NULL", False), ("options", "'text'", False),
     ("attempt", "'first'", True), ("state", "99", True), ("stored", "NULL", True)],
)  # fmt: skip
async def test_a_damaged_job_is_submitted_again_if_all_that_was_submitted_can_be_read(
    autojump_clock, tmp_path, column, value, is_again
):
    path = tmp_path / "creche.db"
    async with open_house(patient(), opening(path)) as house, house.client().connected() as client:
        job = await client.submitted(1)
    edit(path, set_of(job, column, value))
    async with (
        open_house(patient(), opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await ends_damaged(client, job, column)
        (answer,) = (await client.ask("retry", ids=[job.id]))["jobs"]
        if is_again:
            assert answer["is_new"]
            await worker.ready("echo", slots=1)
            assert [n for n, _ in await arrivals(worker, 1)] == [1]
        else:
            assert answer == {"why": "damaged"}
            assert (await client.ask("discard", ids=[job.id]))["jobs"] == ["discarded"]


@pytest.mark.parametrize("value", IDS)
async def test_a_job_whose_id_is_damaged_is_left_alone_and_told_once(
    autojump_clock, tmp_path, caplog, value
):
    path, settings = tmp_path / "creche.db", patient(window=3, delays=1)
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        jobs = [await client.submitted(i) for i in range(8)]
        later = [await client.submitted(20 + i, options={"delay_s": 90.0}) for i in range(3)]
    for n, job in enumerate((jobs[1], jobs[6], later[1])):
        edit(path, set_of(job, "id", value.format(n)))
    for epoch in range(2):
        caplog.clear()
        async with (
            open_house(settings, opening(path)) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            await worker.ready("echo", slots=1)
            if not epoch:
                assert [n for n, _ in await arrivals(worker, 8)] == [0, 2, 3, 4, 5, 7, 20, 22]
            await trio.sleep(200)
            assert len((await client.ask("jobs", limit=100))["jobs"]) == 8
            told = [r.message for r in caplog.records if "left alone" in r.message]
            assert len(told) == 3
            assert all("id is " in message for message in told)
            assert house.core.delays.stored == 0
            assert all(lane.is_idle for lane in house.core.lanes.by_number.values())
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM job WHERE stored IS NOT NULL").fetchone() == (3,)
    assert any("`id`" in problem and problem.startswith("3 ") for problem in verify(path))


async def test_a_damaged_row_of_a_running_job_frees_its_worker(autojump_clock, tmp_path):
    for n, (column, value) in enumerate(ANY_JOB):
        path = tmp_path / f"{n}.db"
        async with open_house(patient(), opening(path)) as house:
            worker = house.worker()
            async with house.client().connected() as client, worker.connected(**LISTENING):
                await worker.ready("echo", slots=1)
                job = await client.submitted(1)
                offer = await worker.hear(m.Offer)
                await trio.sleep(1)
        edit(path, set_of(job, column, value))
        async with open_house(patient(), opening(path)) as house:
            worker.listener = house.listener
            held = [[offer.seq, offer.epoch, offer.attempt]]
            async with (
                house.client().connected() as client,
                worker.connected(**LISTENING, held=held),
            ):
                await worker.ready("echo", slots=1)
                await worker.hear(m.Stop)
                assert f"{column} is " in await message_of(client, job)
                await client.submitted(2)
                assert [n for n, _ in await arrivals(worker, 1)] == [2]


@pytest.mark.parametrize(("column", "value"), ANY_JOB)
async def test_a_damaged_job_can_be_cancelled_and_expires(autojump_clock, tmp_path, column, value):
    path, settings = tmp_path / "creche.db", patient(window=1)
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        limits = {"limits": {"expires_s": 50.0}}
        jobs = [await client.submitted(i, task="nobody", options=limits) for i in range(5)]
    edit(path, *(set_of(jobs[n], column, value) for n in (2, 3)))
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        await client.say(m.Cancel(7, [jobs[2].id], "not any more"))
        (state,) = (await client.hear(m.Answer)).body
        assert state in (JobState.CANCELLED, JobState.FAILED)
        await trio.sleep(100)
        states = {(await client.ask("job", id=jobs[n].id))["state"] for n in (0, 1, 4)}
        assert states == {"expired"}


OF_ENDED = [
    *(("job", column, value) for column in ("task", "lane", "submitted_at", "options", "payload")
      for value in OF_JOBS[column]),
    ("job", "state", "'soon'"), ("job", "state", "99"), ("job", "state", "1"),
    ("job", "stored", "0"), ("job", "stored", "1"), ("job", "stored", "2"), ("job", "stored", "9"),
    ("job", "ending", "NULL"), ("job", "ending", "'that'"), ("job", "ending", "999"),
    ("job", "payload_bytes", "'many'"), ("job", "tries_bytes", "'many'"),
    ("job", "payload_bytes", HUGE), ("job", "tries_bytes", HUGE), ("job", "payload_bytes", "9e999"),
    *(("ending", column, HUGE) for column in (
        "n", "attempt", "losses", "failures", "outcome_bytes")),
    *(("ending", "n", str(number)) for number in NEAR),
    ("dead", "size", HUGE), ("dead", "size", "-9e999"),
    ("job", "due_at", "'soon'"), ("job", "expires_at", "'soon'"),
    *(("ending", column, "'damaged'") for column in (
        "seq", "attempt", "losses", "started_at", "ended_at", "failures", "outcome_bytes",
        "outcome")),
    ("ending", "holder", NO_TEXT), ("ending", "outcome", "5"), ("ending", "outcome", NO_TEXT),
    *(("dead", column, "'damaged'") for column in (
        "ended_at", "size", "fate", "judged_at", "retried_as")),
    ("dead", "fate", "9"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column", "value"), OF_ENDED)
async def test_a_damaged_row_of_an_ended_job_keeps_nothing_from_being_told_or_let_go_of(
    autojump_clock, tmp_path, table, column, value
):
    path = tmp_path / "creche.db"
    settings = patient(retention=Retention(2, 10_000, 3600.0, 7200.0, dead_max_count=2))
    failure = Failure("ValueError", "no").as_data()
    async with (
        open_house(settings, opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        jobs = []
        for n in range(4):
            jobs.append(await client.submitted(n))
            state = JobState.FAILED if n % 2 else JobState.SUCCEEDED
            await worker.finish(await worker.hear(m.Offer), failure if n % 2 else n, state=state)
        await trio.sleep(1)
    seq = 2 if table == "dead" else 1
    edit(path, f"UPDATE {table} SET {column} = {value} WHERE seq = {seq}")
    async with (
        open_house(settings, opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        assert len((await client.ask("jobs", limit=100))["jobs"]) == 4
        for query in ("fate:dead", "worker:w*", "error:no", "state:failed", "queue:default"):
            await client.ask("jobs", filter=query)
        await client.ask("job", id=jobs[seq - 1].id, whole=True)
        for n, job in enumerate(jobs):
            await client.say(m.Watch([job.id]))
            ended = await client.hear(m.Ended)
            if n != seq - 1:
                assert ended.state == (JobState.FAILED if n % 2 else JobState.SUCCEEDED)
        await client.ask("retry", ids=[job.id for job in jobs])
        await client.ask("discard", ids=[job.id for job in jobs])
        await worker.ready("echo", slots=1)
        for n in range(10, 15):
            await client.submitted(n)
        await arrivals(worker, 5)
        await client.say(client.received(4))
        for _ in range(4):
            await trio.sleep(9_000)
            await worker.say(m.Ping(1))
            await client.say(m.Ping(1))
        # The damaged one is left, and what has to be looked after.
        assert (await client.ask("store"))["ended"] <= 3
        await client.submitted(30)
        await arrivals(worker, 1)
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        await client.ask("jobs", limit=100)


@pytest.mark.parametrize("number", [*NEAR, 2**52 - 2**40 - 1, 2**52 - 2**40 - 3])
async def test_whatever_number_an_end_has_jobs_end_from_then_on(autojump_clock, tmp_path, number):
    path = tmp_path / "creche.db"
    for epoch in range(4):
        async with (
            open_house(patient(), opening(path)) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            await worker.ready("echo", slots=1)
            jobs = [await client.submitted(10 * epoch + n) for n in range(3)]
            await arrivals(worker, 3)
            for job in jobs:
                await client.say(m.Watch([job.id]))
                assert (await client.hear(m.Ended)).state == JobState.SUCCEEDED
        if not epoch:
            edit(path, f"UPDATE ending SET n = {number} WHERE seq = 2")


@pytest.mark.parametrize(
    ("column", "value"),
    [("queue", "x'ff'"), ("queue", NO_TEXT), ("priority", "'high'"), ("priority", "9"),
     ("priority", "-1"), ("park", "x'ff'"), ("park", NO_TEXT), ("park", "'limit:echo'"),
     ("park", "'rain'")],
)  # fmt: skip
async def test_the_jobs_of_a_lane_that_is_damaged_wait_until_a_worker_listens_for_them(
    autojump_clock, tmp_path, caplog, column, value
):
    path, settings = tmp_path / "creche.db", patient(window=2)
    async with open_house(settings, opening(path)) as house, house.client().connected() as client:
        for n in range(5):
            await client.submitted(n)
        for n in range(5, 8):
            await client.submitted(n, queue="other")
    edit(path, f"UPDATE lane SET {column} = {value} WHERE queue = 'other'")
    for epoch in range(2):
        caplog.clear()
        async with (
            open_house(settings, opening(path)) as house,
            house.client().connected() as client,
            house.worker().connected(queues=["default"]) as worker,
        ):
            if not epoch:
                await worker.ready("echo", slots=1)
                assert [n for n, _ in await arrivals(worker, 5)] == [0, 1, 2, 3, 4]
                await trio.sleep(1)
            (told,) = [r.message for r in caplog.records if "of lane is damaged" in r.message]
            queue = next(word for word in told.split() if word.startswith("damaged-lane-"))
            shown = (await client.ask("jobs", filter="state:queued,parked"))["jobs"]
            assert len(shown) == 3
    async with (
        open_house(settings, opening(path)) as house,
        house.worker().connected(queues=[queue]) as worker,
    ):
        await worker.ready("echo", slots=1)
        assert [n for n, _ in await arrivals(worker, 3)] == [5, 6, 7]


OTHERS = [
    *(("task", column, value) for column, value in (
        ("name", "x'ff'"), ("name", NO_TEXT), ("declaration", "'text'"), ("declaration", "5"),
        ("declaration", NO_TEXT), ("announced_at", "'today'"))),
    *(("queue", column, value) for column, value in (
        ("name", "x'ff'"), ("name", NO_TEXT), ("settings", "'text'"), ("settings", "5"))),
    *(("schedule", column, value) for column, value in (
        ("name", "x'ff'"), ("name", NO_TEXT), ("data", "'text'"), ("data", "5"),
        ("data", NO_TEXT))),
    *(("unique_key", column, value) for column, value in (
        ("name", "'text'"), ("name", "5"), ("since", "'today'"), ("seq", "999"))),
    *(("ousted", column, value) for column, value in (
        ("attempt", "'first'"), ("running", "'yes'"), ("seq", "999"))),
    ("ledger", "counts", "'{'"), ("ledger", "counts", "x'ff'"), ("ledger", "kept_bytes", "'many'"),
    ("ledger", "kept_bytes", HUGE), ("ledger", "kept_bytes", "-1"),
    *(("ledger", "counts", f"'{{\"1\": {jobs}}}'") for jobs in (HUGE, "1e999", "-1")),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column", "value"), OTHERS)
async def test_a_damaged_row_that_is_of_no_job_keeps_no_job_from_running(
    autojump_clock, tmp_path, caplog, table, column, value
):
    path = tmp_path / "creche.db"
    async with (
        open_house(patient(), opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        await client.ask("set-queue", queue="other", paused=True, is_new=True)
        await create(client, "news", every=10_000)
        await client.submitted(1, options={"unique": {"key": "k"}})
    if table == "ousted":
        edit(path, "INSERT INTO ousted VALUES (1, 7, 0)")
    edit(path, f"UPDATE {table} SET {column} = {value}")
    for n in range(2):
        async with (
            open_house(patient(), opening(path)) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            for question in ("schedules", "queues", "tasks", "store", "health", "jobs"):
                await client.ask(question)
            await client.submitted(2 + n)
            await worker.ready("echo", slots=2)
            came = [n for n, _ in await arrivals(worker, 2 - n)]
            assert came == ([1, 2] if not n else [3])
            await trio.sleep(1)
    if column == "name" and table != "unique_key":
        assert f"a row of {table} is damaged, and left alone: name is " in caplog.text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("epoch", value) for value in ("'many'", HUGE, "-1", NO_TEXT, *OUT_OF_REACH)),
        *(("next_seq", value) for value in ("'many'", HUGE, "-1", NO_TEXT, *OUT_OF_REACH)),
        ("id", "x'ff'"),
        ("id", NO_TEXT),
    ],
)
async def test_a_ledger_that_cannot_be_read_is_told_in_one_sentence(tmp_path, column, value):
    path = tmp_path / "creche.db"
    store = SqliteStore(path)
    with trio.fail_after(30):
        await store.open(0.0)
        await store.aclose()
        edit(path, f"UPDATE ledger SET {column} = {value}")
        with pytest.raises(StoreUnusable, match=f"{column} of its ledger.*restore a backup"):
            await SqliteStore(path).open(0.0)
        assert any(column in problem for problem in verify(path))


@pytest.mark.parametrize("column", ["epoch", "next_seq"])
async def test_a_plane_goes_on_from_the_numbers_that_it_takes_from_a_ledger(
    autojump_clock, tmp_path, column
):
    path = tmp_path / "creche.db"
    async with open_house(patient(), opening(path)) as house, house.client().connected() as client:
        await client.submitted(0)
    edit(path, f"UPDATE ledger SET {column} = {NEAR[0]}")
    for epoch in range(1, 4):
        async with (
            open_house(patient(), opening(path)) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            await client.submitted(epoch)
            await worker.ready("echo", slots=1)
            due = [0, 1] if epoch == 1 else [epoch]
            assert [n for n, _ in await arrivals(worker, len(due))] == due
    assert not verify(path)


async def test_a_try_that_is_damaged_is_shown_as_far_as_it_can_be_read(autojump_clock, tmp_path):
    path = tmp_path / "creche.db"
    options = {"retry": {"retries": 5, "backoff": 1.0}}
    async with (
        open_house(patient(), opening(path)) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        job = await client.submitted(1, options=options)
        await worker.try_again(await worker.hear(m.Offer))
        await trio.sleep(1)
    edit(path, "UPDATE try SET state = 'soon', outcome = 'none', started_at = 'x', ended_at = 'x'")
    async with open_house(patient(), opening(path)) as house, house.client().connected() as client:
        shown = await client.ask("job", id=job.id, whole=True)
        assert [attempt["attempt"] for attempt in shown["attempts"]] == [1]
        assert decode_value(shown["payload"])


async def test_the_stores_own_process_bears_what_it_reads(tmp_path):
    path = tmp_path / "creche.db"
    with trio.fail_after(60):
        async with (
            open_house(patient(window=3), lambda: SqliteStore(path)) as house,
            house.client().connected() as client,
        ):
            jobs = [await client.submitted(i) for i in range(10)]
        for n, (column, value) in enumerate(
            [("payload", "NULL"), ("task", NO_TEXT), ("state", "'x'"), ("lane", "x'00'"),
             ("payload", "5"), ("attempt", "'x'"), ("stored", "9")]
        ):  # fmt: skip
            edit(path, set_of(jobs[n], column, value))
        async with (
            open_house(patient(window=3), lambda: SqliteStore(path)) as house,
            house.client().connected() as client,
            house.worker().connected(**LISTENING) as worker,
        ):
            await worker.ready("echo", slots=1)
            assert [n for n, _ in await arrivals(worker, 3)] == [7, 8, 9]
            assert len((await client.ask("jobs", filter="fate:dead"))["jobs"]) == 7
