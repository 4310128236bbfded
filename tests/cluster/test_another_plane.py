"""A worker meets another plane where its own one was: one whose store is new, or another copy. The
same numbers mean other jobs there."""

from __future__ import annotations

import logging

import pytest
import trio

from creche.errors import UnknownJob
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.worker.context import current_job

pytestmark = pytest.mark.trio


@task(registry=Registry())
async def say(word: str, seconds: float) -> str:
    await trio.sleep(seconds)
    return word


@task(registry=Registry())
async def say_deaf(word: str, seconds: float) -> str:
    """Does not hear that it is told to leave, as a thread does not."""
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    return word


@pytest.mark.parametrize("body", [say, say_deaf])
async def test_what_runs_for_a_plane_that_is_gone_for_good_is_not_taken_for_another_job(
    autojump_clock, caplog, body
):
    async with open_cluster([say, say_deaf], workers=0, make_store=MemoryStore) as cluster:
        worker = await cluster.add_worker("worker", concurrency=2)
        async with cluster.client(name="before") as client:
            await client.submit(body, "of the first plane", 10.0)
            await trio.sleep(1)
            assert worker.running == 1
            await cluster.kill_plane()
            await cluster.start_plane()
            async with cluster.client(name="after") as other:
                job = await other.submit(say, "of the second plane", 20.0)
                await trio.sleep(1)
                assert worker.running == 1 + (body is say_deaf)
                # The slot of a body that cannot be stopped is its own until it has left.
                assert worker.capacity == (2 - (body is say_deaf), 0)
                assert await job.result(timeout=100) == "of the second plane"
                assert worker.capacity == (2, 0)
    assert "another plane" in caplog.text
    assert [r.levelno for r in caplog.records if "another plane" in r.message] == [logging.WARNING]


async def test_a_report_for_a_plane_that_is_gone_for_good_is_dropped(autojump_clock):
    async with open_cluster([say], workers=0, make_store=MemoryStore) as cluster:
        worker = await cluster.add_worker("worker", concurrency=2)
        async with cluster.client(name="before") as client:
            await client.submit(say, "of the first plane", 2.0)
            await trio.sleep(1)
            await cluster.kill_plane()
            await trio.sleep(2)
            assert len(worker._reports) == 1
            await cluster.start_plane()
            async with cluster.client(name="after") as other:
                job = await other.submit(say, "of the second plane", 1.0)
                assert await job.result(timeout=100) == "of the second plane"
                await trio.sleep(1)
                assert len(worker._reports) == 0


async def test_a_body_outlives_the_plane_and_is_still_the_parent_of_its_jobs(autojump_clock):
    registry = Registry()

    @task(registry=registry)
    async def child() -> str:
        return "child"

    @task(registry=registry)
    async def parent() -> str:
        await trio.sleep(5)
        return await (await current_job().client.submit(child)).result()

    async with open_cluster([parent, child], workers=0) as cluster:
        # One slot: the parent must lend it, which it does for its own plane's jobs only.
        await cluster.add_worker("worker", concurrency=1)
        async with cluster.client() as client:
            job = await client.submit(parent)
            await trio.sleep(1)
            await cluster.kill_plane()
            await cluster.start_plane()
            assert await job.result(timeout=100) == "child"


async def test_a_client_hears_that_another_plane_does_not_know_its_job(autojump_clock):
    async with open_cluster([say], make_store=MemoryStore) as cluster, cluster.client() as client:
        job = await client.submit(say, "of the first plane", 10.0)
        await trio.sleep(1)
        await cluster.kill_plane()
        await cluster.start_plane()
        with pytest.raises(UnknownJob):
            await job.result(timeout=100)
