"""`delivery="at-most-once"`: once a body has begun, no worker ever begins it again, and once nobody
runs it any more its job has an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from creche.errors import JobLost
from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import Cluster, open_cluster
from creche.worker.runner import Worker

pytestmark = pytest.mark.trio

BEGUN: Counter[str] = Counter()


@task(registry=Registry(), delivery="at-most-once")
async def once(word: str, seconds: float) -> str:
    BEGUN[word] += 1
    await trio.sleep(seconds)
    return word


@task(registry=Registry(), delivery="at-most-once")
async def once_deaf(word: str, seconds: float) -> str:
    """Does not hear that it is told to leave, as a thread does not."""
    BEGUN[word] += 1
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    return word


@task(registry=Registry())
async def again(word: str, seconds: float) -> str:
    BEGUN[word] += 1
    await trio.sleep(seconds if BEGUN[word] == 1 else 0)
    return f"{word}: run {BEGUN[word]}"


class House:
    """A cluster with one worker of one slot, a client, and the worker's job."""

    def __init__(self, cluster: Cluster, worker: Worker, client: Any) -> None:
        self.cluster = cluster
        self.worker = worker
        self.client = client

    async def run(self, body: Any, word: str, seconds: float) -> Any:
        """Submit a job, and return its handle when its body has begun."""
        job = await self.client.submit(body, word, seconds)
        with trio.fail_after(10):
            while not BEGUN[word]:
                await trio.sleep(0.01)
        return job

    def leased(self) -> int:
        """How many attempts the plane thinks are with workers."""
        assert self.cluster.running is not None
        return sum(len(s.leased) for s in self.cluster.running.core.sessions.workers())


@asynccontextmanager
async def open_house() -> AsyncIterator[House]:
    BEGUN.clear()
    tasks = [once, once_deaf, again]
    async with open_cluster(tasks, workers=0) as cluster, cluster.client() as client:
        yield House(cluster, await cluster.add_worker("first", concurrency=1), client)


async def hurry(worker: Worker) -> None:
    """Have a worker leave without waiting for bodies, as a second Ctrl-C does."""
    worker.begin_drain("it was told to stop")
    await trio.sleep(0.5)
    worker.begin_drain("it was told to stop")


@pytest.mark.parametrize("body", [once, once_deaf])
async def test_a_body_that_a_leaving_worker_stops_is_not_begun_again(autojump_clock, body):
    async with open_house() as house:
        job = await house.run(body, "stopped", 100)
        await house.cluster.add_worker("second")
        await hurry(house.worker)
        with pytest.raises(JobLost, match="it may have run"):
            await job.result(timeout=20)
        await trio.sleep(200)
        assert await job.status() is JobState.LOST
        assert BEGUN["stopped"] == 1
        assert house.leased() == 0


async def test_what_a_leaving_worker_has_not_begun_is_run_elsewhere(autojump_clock):
    async with open_house() as house:
        running = await house.run(once, "running", 5)
        # Longer than an attempt may wait for a slot; the plane has it leased or not.
        waiting = [await house.client.submit(once, f"waiting {n}", 0.0) for n in range(3)]
        house.worker.begin_drain("it was told to stop")
        await house.cluster.add_worker("second")
        assert await running.result(timeout=100) == "running"
        for n, job in enumerate(waiting):
            assert await job.result(timeout=100) == f"waiting {n}"
        assert set(BEGUN.values()) == {1}


async def test_a_body_that_lost_its_lease_is_not_begun_again(autojump_clock):
    """The worker thinks that its lease is over, and the plane that it holds it."""
    async with open_house() as house:
        job = await house.run(once, "seemed lost", 100)
        house.worker._give_up("the plane has not heard it in time")
        with pytest.raises(JobLost):
            await job.result(timeout=10)
        assert BEGUN["seemed lost"] == 1


async def test_a_body_that_lost_its_lease_and_its_connection_is_not_begun_again(autojump_clock):
    async with open_house() as house:
        job = await house.run(once_deaf, "deaf", 20)
        lost = await house.client.submit(once, "not begun", 0.0)
        house.worker._give_up("the plane has not heard it in time")
        house.cluster.listener.cut_all()
        # It could not be stopped, nobody else has it, and it has a result.
        assert await job.result(timeout=100) == "deaf"
        assert await lost.result(timeout=100) == "not begun"
        assert set(BEGUN.values()) == {1}


async def test_others_are_run_again_when_a_worker_that_is_there_has_given_them_up(autojump_clock):
    async with open_house() as house:
        job = await house.run(again, "seemed lost", 100)
        house.worker._give_up("the plane has not heard it in time")
        assert await job.result(timeout=10) == "seemed lost: run 2"
        assert house.leased() == 0
