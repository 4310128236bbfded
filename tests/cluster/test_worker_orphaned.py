"""A plane is killed and started again: what its own worker, which must go with it, hands over."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import Cluster, open_cluster

pytestmark = pytest.mark.trio

GRACE_S = 15.0
BEGUN: Counter[str] = Counter()


@task(registry=Registry())
async def hold(word: str, seconds: float) -> str:
    BEGUN[word] += 1
    await trio.sleep(seconds)
    return word


def leased(cluster: Cluster) -> int:
    """How many attempts the plane thinks are with workers."""
    assert cluster.running is not None
    return sum(len(s.leased) for s in cluster.running.core.sessions.workers())


async def test_what_runs_is_handed_in_and_what_waits_goes_to_others_at_once(autojump_clock):
    BEGUN.clear()
    async with open_cluster([hold], workers=0) as cluster, cluster.client() as client:
        orphan = await cluster.add_worker("orphan", concurrency=2)
        for number in range(20):
            await (await client.submit(hold, f"warm {number}", 0.0)).result()
        long = await client.submit(hold, "long", 60)
        short = await client.submit(hold, "short", 2)
        waiting = [await client.submit(hold, f"waiting {n}", 0.0) for n in range(3)]
        while leased(cluster) < 5:
            await trio.lowlevel.checkpoint()
        # Before the look-ahead that is late is handed back, and after the leases are written.
        await trio.sleep(0.04)
        assert leased(cluster) == 5
        await cluster.kill_plane()
        orphan.plane_ended(GRACE_S)
        await trio.sleep(5)
        assert not orphan.has_left.is_set()
        began_at = trio.current_time()
        await cluster.start_plane()
        await cluster.add_worker("heir")
        assert await short.result() == "short"
        assert [await job.result() for job in waiting] == [f"waiting {n}" for n in range(3)]
        # Nobody has waited for the end of the grace.
        assert trio.current_time() - began_at < 5
        assert await long.result() == "long"
        with trio.fail_after(1):
            await orphan.has_left.wait()
        assert set(BEGUN.values()) == {1}
        assert leased(cluster) == 0


async def test_a_plane_that_comes_too_late_runs_it_again(autojump_clock):
    BEGUN.clear()
    async with open_cluster([hold], workers=0) as cluster, cluster.client() as client:
        orphan = await cluster.add_worker("orphan")
        job = await client.submit(hold, "long", 60)
        await trio.sleep(1)
        await cluster.kill_plane()
        orphan.plane_ended(GRACE_S)
        with trio.fail_after(GRACE_S + 1):
            await orphan.has_left.wait()
        await cluster.start_plane()
        await cluster.add_worker("heir")
        assert await job.result() == "long"
        assert BEGUN["long"] == 2
