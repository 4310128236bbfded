"""Bodies on a real asyncio loop, beside those on Trio and in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest
import trio

from creche import JobCancelled, JobFailed, JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.worker.context import current_job

pytestmark = pytest.mark.trio

seen: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_is_seen() -> None:
    seen.clear()


@task(registry=Registry(), executor="asyncio")
async def fetch(value: int) -> tuple[int, str]:
    async with asyncio.timeout(5):
        await asyncio.sleep(0.001)
    assert asyncio.current_task() is not None
    return value, threading.current_thread().name


@task(registry=Registry())
async def anywhere() -> int:
    return await asyncio.sleep(0.001, 5)


@task(registry=Registry(), executor="asyncio")
async def long() -> None:
    seen.append("began")
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(0.01)
        seen.append("tidied up")


@task(registry=Registry(), executor="asyncio", timeout=0.05)
async def limited(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "in time"


@task(registry=Registry(), executor="asyncio", retries=1, backoff=0)
async def breaks(how: str) -> int:
    attempt = current_job().attempt
    if attempt > 1:
        return attempt
    if how == "exits":
        raise SystemExit(3)
    if how == "cancels itself":
        raise asyncio.CancelledError
    if how == "uses the other loop":
        assert current_job().client
    if how == "blocks":
        current_job().blocking.delay("x")
    raise ConnectionError(how)


async def has_begun() -> None:
    while "began" not in seen:
        await trio.sleep(0.005)


async def test_bodies_share_one_loop_and_each_has_its_own_answer():
    async with open_cluster([fetch], concurrency=50) as cluster, cluster.client() as client:
        handles = await client.submit_many(fetch, [(i,) for i in range(500)])
        results = [await handle.result() for handle in handles]
        assert [value for value, _ in results] == list(range(500))
        assert {name for _, name in results} == {"creche-asyncio"}


async def test_one_that_is_cancelled_cleans_up_and_frees_its_slot():
    async with open_cluster([long, fetch], concurrency=1) as cluster, cluster.client() as client:
        job = await client.submit(long)
        await has_begun()
        assert await job.cancel("enough") is JobState.CANCELLING
        with pytest.raises(JobCancelled, match="enough") as caught:
            await job.result()
        assert caught.value.__notes__ == ["its asyncio task was cancelled"]
        assert seen == ["began", "tidied up"]
        assert (await (await client.submit(fetch, 1)).result())[0] == 1


async def test_a_time_limit_cancels_its_task_and_never_the_next():
    async with open_cluster([limited], concurrency=1) as cluster, cluster.client() as client:
        for _ in range(5):
            with pytest.raises(JobFailed, match="JobTimedOut"):
                await (await client.submit(limited, 100)).result()
            assert await (await client.submit(limited, 0.0)).result() == "in time"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exits", "SystemExit"),
        ("cancels itself", "CancelledError"),
    ],
)
async def test_what_a_body_raises_to_end_everything_ends_its_job_alone(how, said):
    async with open_cluster([breaks, fetch]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match=said):
            await (await client.submit(breaks, how)).result()
        assert (await (await client.submit(fetch, 1)).result())[0] == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("uses the other loop", "is on the worker's Trio loop: use `async with Client()"),
        ("blocks", "would block the asyncio loop"),
        ("fails", "fails"),
    ],
)
async def test_what_cannot_be_done_there_says_what_to_do(how, said):
    async with open_cluster([breaks]) as cluster, cluster.client() as client:
        job = await client.submit(breaks, how)
        assert await job.result() == 2
        record = await client.ask("job", {"id": job.id_bytes})
        assert said in record["attempts"][0]["error"]["message"]


async def test_one_that_needs_asyncio_and_runs_on_trio_is_told_so():
    async with open_cluster([anywhere]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match="no running event loop") as caught:
            await (await client.submit(anywhere)).result()
        assert "executor='asyncio'" in caught.value.__notes__[0]


async def test_a_worker_may_run_every_async_def_on_asyncio():
    async with open_cluster([anywhere], workers=0) as cluster, cluster.client() as client:
        await cluster.add_worker(async_executor="asyncio")
        assert await (await client.submit(anywhere)).result() == 5


async def test_a_worker_that_leaves_waits_for_them_and_then_cancels_them():
    async with open_cluster([long], workers=0) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("leaving")
        job = await client.submit(long)
        await has_begun()
        worker.begin_drain("enough")
        worker.begin_drain("at once")
        await worker.has_left.wait()
        assert "tidied up" in seen
        assert await job.status() in (JobState.QUEUED, JobState.PARKED)
