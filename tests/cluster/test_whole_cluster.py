"""Client, plane and worker together, in one Trio run."""

from __future__ import annotations

import pytest
import trio

from creche import JobFailed, JobState
from creche.engine.settings import PlaneSettings
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.worker.context import current_job

pytestmark = pytest.mark.trio


@task(registry=Registry())
async def echo(value: int) -> int:
    await trio.lowlevel.checkpoint()
    return value


@task(registry=Registry())
async def fail(text: str) -> None:
    raise ValueError(text)


@task(registry=Registry())
async def countdown(depth: int) -> int:
    """Submit oneself and wait, down to zero."""
    if depth == 0:
        return 0
    job = await current_job().client.submit(countdown, depth - 1)
    return 1 + await job.result()


@task(registry=Registry())
async def slow(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


async def test_every_caller_gets_its_own_answer(autojump_clock):
    async with open_cluster([echo], workers=2) as cluster, cluster.client() as client:
        answers: dict[int, int] = {}

        async def ask(value: int) -> None:
            job = await client.delay("echo", value)
            answers[value] = await job.result()

        async with trio.open_nursery() as nursery:
            for value in range(500):
                nursery.start_soon(ask, value)
        assert answers == {value: value for value in range(500)}


async def test_a_failure_carries_the_remote_type_message_and_traceback(autojump_clock):
    async with open_cluster([fail]) as cluster, cluster.client() as client:
        job = await client.submit(fail, "no such thing")
        with pytest.raises(JobFailed, match="no such thing") as caught:
            await job.result()
        assert caught.value.type == "ValueError"
        assert "raise ValueError(text)" in caught.value.traceback
        assert await job.status() is JobState.FAILED


async def test_one_slot_and_a_window_of_ten_run_a_recursion_of_fifty(autojump_clock):
    settings = PlaneSettings(window=10)
    async with open_cluster([countdown], concurrency=1, settings=settings) as cluster:
        async with cluster.client() as client:
            with trio.fail_after(1000):
                assert await (await client.submit(countdown, 50)).result() == 50


async def test_a_result_outlives_the_plane_that_accepted_the_job(autojump_clock):
    async with open_cluster([slow]) as cluster, cluster.client() as client:
        job = await client.submit(slow, 20)
        await trio.sleep(1)
        await cluster.kill_plane()
        await trio.sleep(3)
        await cluster.start_plane()
        assert await job.result() == "done"
        record = await client.ask("job", {"id": job.id_bytes})
        assert (record["attempt"], record["losses"]) == (1, 0)


async def test_a_map_keeps_the_order_of_its_values_and_as_completed_that_of_the_ends(
    autojump_clock,
):
    async with open_cluster([slow, echo]) as cluster, cluster.client() as client:
        assert [n async for n in client.map(echo, range(20))] == list(range(20))
        handles = [await client.submit(slow, seconds) for seconds in (3, 1, 2)]
        ended = [handle async for handle in client.as_completed(handles)]
        assert ended == [handles[1], handles[2], handles[0]]


async def test_a_drained_worker_finishes_what_runs_and_gives_back_the_rest(autojump_clock):
    async with open_cluster([slow], concurrency=1) as cluster, cluster.client() as client:
        first = await client.submit(slow, 5)
        second = await client.submit(slow, 5)
        leaving = await cluster.add_worker("leaving", concurrency=1)
        await trio.sleep(1)
        leaving.begin_drain("enough")
        await leaving.has_left.wait()
        assert await first.result() == "done"
        assert await second.result() == "done"
        for job in (first, second):
            assert (await client.ask("job", {"id": job.id_bytes}))["losses"] == 0


async def test_no_trio_task_stays_when_a_peer_is_gone_as_the_plane_tells(autojump_clock):
    async def trio_tasks() -> int:
        return (await client.ask("health"))["trio_tasks"]

    async with open_cluster([echo]) as cluster, cluster.client() as client:
        before = await trio_tasks()
        for n in range(5):
            async with cluster.client(name=f"guest {n}") as guest:
                assert await (await guest.delay("echo", n)).result() == n
                assert await trio_tasks() > before
        await trio.sleep(60)
        assert await trio_tasks() == before
