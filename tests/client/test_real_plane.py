"""The client with a real plane and a real worker, over a real WebSocket, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator

import anyio
import pytest
import trio
from tests.client.real_plane import RealPlane, real_plane

from creche import (
    BadFilter,
    Client,
    DuplicateJob,
    JobFailed,
    JobNotDead,
    JobState,
    PlaneUnreachable,
    ResultTimeout,
    TaskDefinitionError,
    TooLarge,
    Unique,
    task,
)
from creche.engine.settings import PlaneSettings
from creche.tasks.registry import Registry

pytestmark = pytest.mark.anyio

registry = Registry()
gate = threading.Event()
runs: Counter[int] = Counter()


@task(registry=registry)
def echo(value: int) -> int:
    runs[value] += 1
    return value


@task(registry=registry)
async def nap(value: float) -> float:
    await trio.sleep(value)
    return value


@task(registry=registry)
def wait_for_gate(value: int) -> int:
    assert gate.wait(20)
    return value


@task(registry=registry, unique="value")
def wait_for_gate_once(value: int, note: str = "") -> int:
    assert gate.wait(20)
    runs[value] += 1
    return value


@task(registry=registry)
def fail(text: str) -> None:
    raise ValueError(text)


@pytest.fixture(scope="module")
def plane() -> Iterator[RealPlane]:
    settings = PlaneSettings(payload_bytes=1024 * 1024)
    with real_plane(registry, settings) as running:
        yield running


async def test_a_job_runs_and_its_result_comes_back(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            handle = await client.submit(echo, 7)
            assert await handle.result() == 7
            assert await handle.status() is JobState.SUCCEEDED
            assert await client.status(str(handle)) is JobState.SUCCEEDED
            assert await client.result(str(handle)) == 7
            assert (await client.ask("health"))["ready"] is True
            with pytest.raises(JobFailed, match="ValueError: no") as error:
                await (await client.delay("fail", "no")).result()
            assert "raise ValueError(text)" in error.value.traceback


async def test_every_caller_gets_its_own_answer(plane: RealPlane) -> None:
    async with Client(plane.url) as client:
        for start in range(0, 1000, 200):
            runs.clear()
            answers: dict[int, int] = {}

            async def caller(value: int, answers: dict[int, int] = answers) -> None:
                handle = await client.delay("echo", value)
                answers[value] = await handle.result()

            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for value in range(start, start + 200):
                        tasks.start_soon(caller, value)
            assert answers == {value: value for value in range(start, start + 200)}
            assert set(runs.values()) == {1}


async def test_many_jobs_go_through_bulk_and_map(plane: RealPlane) -> None:
    with anyio.fail_after(60):
        async with Client(plane.url) as client:
            handles = await client.submit_many(echo, [(i,) for i in range(2000)])
            assert [await handle.result() for handle in handles] == list(range(2000))
            assert [v async for v in client.map(echo, range(500))] == list(range(500))
            unordered = [v async for v in client.map(echo, range(500), ordered=False)]
            assert sorted(unordered) == list(range(500))


async def test_a_wait_may_run_out_and_the_job_goes_on(plane: RealPlane) -> None:
    gate.clear()
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            handle = await client.delay(wait_for_gate, 5)
            with pytest.raises(ResultTimeout):
                await handle.result(timeout=0.05)
            gate.set()
            assert await handle.result(timeout=10) == 5


async def test_submissions_that_count_as_one_have_one_job_and_one_result(plane: RealPlane) -> None:
    gate.clear()
    runs.clear()
    with anyio.fail_after(30):
        async with Client(plane.url) as client:
            first = await client.submit(wait_for_gate_once, 71, "a")
            with pytest.raises(ResultTimeout):
                await first.result(timeout=0.05)
            handles = await client.submit_many(wait_for_gate_once, [(71, "b"), (72, "c")])
            handles.append(await client.delay("wait_for_gate_once", 71))
            assert [handle.is_existing for handle in handles] == [True, False, True]
            assert handles[0] == handles[2] == first
            await anyio.to_thread.run_sync(plane.cut_clients)
            handles.append(await client.submit(wait_for_gate_once, 71))
            refusing = wait_for_gate_once.with_options(
                unique=Unique("value", on_duplicate="reject")
            )
            with pytest.raises(DuplicateJob) as error:
                await client.submit(refusing, 71)
            assert error.value.job_id == first
            gate.set()
            assert [await handle.result() for handle in handles] == [71, 72, 71, 71]
            assert await first.result() == 71
            done = client.as_completed([first, *handles])
            assert sorted([await handle.result() async for handle in done]) == [71, 71, 71, 71, 72]
            assert runs == {71: 1, 72: 1}


async def test_an_idempotency_key_is_one_job_from_any_client(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client, Client(plane.url) as other:
            key = f"at {time.time_ns()}"
            first = await client.submit(echo.with_options(idempotency_key=key), 81)
            again = await other.send("echo", (82,), idempotency_key=key)
            assert (again, again.is_existing, first.is_existing) == (first, True, False)
            assert await again.result() == 81
            with pytest.raises(TaskDefinitionError, match="idempotency_key is a text"):
                await other.send("echo", (82,), idempotency_key="")


async def test_results_outlive_a_lost_connection(plane: RealPlane) -> None:
    gate.clear()
    with anyio.fail_after(30):
        async with Client(plane.url, name="cut") as client:
            handles = await client.submit_many(wait_for_gate, [(i,) for i in range(5)])
            await anyio.to_thread.run_sync(plane.cut_clients)
            gate.set()
            assert [await handle.result() for handle in handles] == list(range(5))
            assert plane.clients() == ["cut"]


async def test_a_job_that_nobody_has_announced_can_be_cancelled(plane: RealPlane) -> None:
    warnings: list[str] = []
    with anyio.fail_after(20):
        async with Client(plane.url, on_warning=warnings.append) as client:
            handle = await client.delay("ecko", 1)
            assert await handle.status() is JobState.PARKED
            assert await handle.cancel() is JobState.CANCELLED
    assert "did you mean 'echo'" in warnings[0]


async def test_large_arguments_and_results_travel_and_too_large_ones_are_refused(
    plane: RealPlane,
) -> None:
    with anyio.fail_after(30):
        async with Client(plane.url) as client:
            data = b"x" * 900_000
            assert await (await client.delay("echo", data)).result() == data
            with pytest.raises(TooLarge):
                await client.delay("echo", b"x" * 1_100_000)
            assert await (await client.delay("echo", 1)).result() == 1


async def test_the_plane_forgets_a_client_that_left(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url, name="short"):
            assert plane.clients() == ["short"]
        while plane.sessions():
            await anyio.sleep(0.01)


async def test_nobody_there_is_one_error_within_the_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(PlaneUnreachable, match="refused") as error:
        async with Client("ws://127.0.0.1:9", timeout=0.3):
            pytest.fail("nobody is there")
    assert time.monotonic() - started < 5
    assert "creche control-plane" in str(error.value)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_wait_for_and_gather_work_as_with_any_coroutine(plane: RealPlane) -> None:
    client = Client(plane.url)
    await client.start()
    try:
        gate.clear()
        handle = await client.delay(wait_for_gate, 3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.result(), 0.05)
        gate.set()
        assert await asyncio.wait_for(handle.result(), 10) == 3
        handles = await asyncio.gather(*(client.delay("echo", i) for i in range(50)))
        assert await asyncio.gather(*(h.result() for h in handles)) == list(range(50))
    finally:
        client.stop()


async def test_dead_jobs_are_listed_retried_and_discarded(plane: RealPlane) -> None:
    with anyio.fail_after(30):
        async with Client(plane.url) as client:
            jobs = await client.submit_many(fail, [("mars",), ("venus",), ("pluto",)])
            for job in jobs:
                with pytest.raises(JobFailed):
                    await job.result()
            dead = await client.dead_jobs("error:mars,venus,pluto", limit=3)
            assert [job["id"] for job in dead] == [job.id for job in jobs[::-1]]
            again = await client.retry(jobs[0], args=["jupiter"])
            with pytest.raises(JobFailed, match="jupiter"):
                await again.result()
            assert (await client.retry(jobs[0], args=["jupiter"])).id == again.id
            with pytest.raises(JobNotDead):
                await client.retry(jobs[0])
            assert await client.retry_dead("error:venus", rate=1000) == 1
            await client.discard(jobs[2])
            with pytest.raises(BadFilter):
                await client.dead_jobs("planet:mars")
            assert await client.discard_dead() >= 1
            assert (await client.jobs(f"id:{jobs[2].id}"))[0]["fate"] == "discarded"


async def test_a_submission_by_name_says_all_that_one_may_say(plane: RealPlane) -> None:
    with anyio.fail_after(30):
        async with Client(plane.url) as client:
            name = fail.name
            job = await client.send(name, ["x"], retries=1, backoff=0, timeout=9)
            with pytest.raises(JobFailed):
                await job.result()
            (record,) = await client.jobs(f"id:{job.id}")
            assert record["attempt"] == 2
            with pytest.raises(TaskDefinitionError, match="send: "):
                await client.send(name, ["x"], timeout=1, soft_timeout=2)
            await client.discard_dead()
