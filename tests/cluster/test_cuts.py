"""The connection is lost at each frame of a job's way, in each manner: nothing is lost, and within
the grace nothing is run again."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from creche.channel.memory import Fate, Faults
from creche.engine.settings import PlaneSettings
from creche.store.base import Durability
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import Cluster, open_cluster
from creche.worker.context import current_job

pytestmark = pytest.mark.trio
CUTS = (Fate.CUT_BEFORE, Fate.LOSE_AND_CUT, Fate.CUT_AFTER)
runs: Counter[int] = Counter()


@task(registry=Registry())
async def double(value: int) -> int:
    runs[value] += 1
    await trio.sleep(0.5)
    return value * 2


@task(registry=Registry())
async def nested(value: int) -> int:
    runs[value] += 1
    job = await current_job().client.submit(double, value + 100)
    return await job.result()


@task(registry=Registry())
async def large(value: int) -> str:
    runs[value] += 1
    return "x" * 200_000


class DiskLike(MemoryStore):
    """Spills what is beyond the window, as a store on disk does."""

    durability = Durability.DISK


async def a_jobs_way(cluster: Cluster) -> None:
    """Submit, wait, ask, cancel: everything a client and a worker say to a plane."""
    runs.clear()
    with trio.fail_after(1000):
        async with cluster.client() as client:
            job = await client.submit(double, 1)
            assert await job.result() == 2
            handles = await client.submit_many(double, [(n,) for n in range(2, 8)])
            assert [await handle.result() for handle in handles] == [4, 6, 8, 10, 12, 14]
            assert await (await client.submit(nested, 50)).result() == 300
            assert len(await (await client.delay("large", 60)).result()) == 200_000
            later = await client.delay("nobody knows", 1)
            assert (await later.cancel()).word == "cancelled"
            assert (await job.status()).word == "succeeded"
            jobs = (await client.ask("jobs", {"limit": 100}))["jobs"]
    assert len(jobs) == 11
    assert {job["losses"] for job in jobs} == {0}
    assert runs == dict.fromkeys([*range(1, 8), 50, 150, 60], 1)


async def frames_of(direction: str) -> int:
    """Return how many frames the way takes in one direction when nothing goes wrong."""
    faults = Faults()
    async with open_cluster(
        [double, nested, large], concurrency=2, faults=lambda c: place(c, direction, faults)
    ) as cluster:
        await a_jobs_way(cluster)
    assert faults.frames > 5
    return faults.frames


def place(cluster: Cluster, direction: str, faults: Faults) -> None:
    """Put *faults* into one direction of the connections of one role."""
    role, _, way = direction.partition(" ")
    pair = (faults, None) if way == "to plane" else (None, faults)
    if role == "client":
        cluster.client_faults = pair
    else:
        cluster.worker_faults = pair


@pytest.mark.parametrize(
    "direction",
    ["client to plane", "client from plane", "worker to plane", "worker from plane"],
)
@pytest.mark.slow
@pytest.mark.parametrize("deliver_in_flight", [True, False], ids=["in flight", "nothing"])
async def test_a_cut_at_any_frame_loses_nothing_and_runs_nothing_again(
    autojump_clock, direction, deliver_in_flight
):
    for number in range(1, await frames_of(direction) + 1):
        for fate in CUTS:
            faults = Faults({number: fate}, deliver_in_flight=deliver_in_flight)
            async with open_cluster(
                [double, nested, large],
                concurrency=2,
                settings=PlaneSettings(window=3),
                make_store=DiskLike,
                faults=lambda c, faults=faults: place(c, direction, faults),
            ) as cluster:
                try:
                    await a_jobs_way(cluster)
                except BaseException as error:
                    error.add_note(f"{direction}, frame {number}, {fate}")
                    raise


@pytest.mark.parametrize("role", ["client", "worker"])
async def test_many_cuts_on_one_way_lose_nothing(autojump_clock, role):
    for every in (9, 11, 14, 20):  # enough for an introduction and a few pieces
        faults = Faults(
            hook=lambda number, frame, every=every: (
                CUTS[number // every % 3] if number % every == 0 else Fate.DELIVER
            )
        )

        def both(cluster: Cluster, faults: Faults = faults) -> None:
            if role == "client":
                cluster.client_faults = (faults, faults)
            else:
                cluster.worker_faults = (faults, faults)

        async with open_cluster([double, nested, large], concurrency=2, faults=both) as cluster:
            await a_jobs_way(cluster)
