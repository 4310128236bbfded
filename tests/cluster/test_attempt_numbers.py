"""Which attempt it is has one answer, whoever is asked: a body, a record, filters and events."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from creche import Snooze, current_job, task
from creche.errors import JobFailed
from creche.tasks.registry import Registry
from creche.testing.cluster import open_cluster

pytestmark = pytest.mark.trio

bodies: list[int] = []


@pytest.fixture(autouse=True)
def forget_bodies() -> None:
    bodies.clear()


@task(retries=2, backoff=5, jitter=0, registry=Registry())
async def snoozes_fails_and(ends_well: bool) -> int:
    """Snoozes twice, which is no attempt, and then fails, which is one."""
    bodies.append(current_job().attempt)
    if len(bodies) <= 2:
        raise Snooze(10)
    if len(bodies) == 3 or not ends_well:
        raise ValueError("no")
    return current_job().attempt


@task(registry=Registry())
async def lasts() -> None:
    bodies.append(current_job().attempt)
    if len(bodies) == 1:
        raise Snooze(10)
    await trio.sleep_forever()


async def shown(client: Any, job: Any) -> tuple[int, list[int], list[int]]:
    """Return the number that the record has, and the list, and those of the attempts before."""
    record = await client.ask("job", {"id": job.id_bytes})
    (listed,) = await client.jobs(f"attempt:{record['attempt']}")
    assert await client.jobs(f"attempt:{record['attempt'] + 1}..") == []
    return record["attempt"], [listed["attempt"]], [one["attempt"] for one in record["attempts"]]


async def test_a_snooze_is_no_attempt_to_anybody(autojump_clock: object) -> None:
    async with open_cluster([snoozes_fails_and]) as cluster, cluster.client() as client:
        job = await client.submit(snoozes_fails_and, True)
        await trio.sleep(5)
        assert await shown(client, job) == (0, [0], [])
        assert await job.result(60) == 2
        assert bodies == [1, 1, 1, 2]
        assert await shown(client, job) == (2, [2], [1])


async def test_what_has_failed_for_good_shows_its_last_attempt(autojump_clock: object) -> None:
    async with open_cluster([snoozes_fails_and]) as cluster, cluster.client() as client:
        job = await client.submit(snoozes_fails_and, False)
        with pytest.raises(JobFailed):
            await job.result(120)
        assert bodies == [1, 1, 1, 2, 3]
        assert await shown(client, job) == (3, [3], [1, 2])


async def test_what_runs_or_is_cancelled_shows_the_attempt_that_its_body_sees(
    autojump_clock: object,
) -> None:
    async with open_cluster([lasts]) as cluster, cluster.client() as client:
        job = await client.submit(lasts)
        await trio.sleep(20)
        assert bodies == [1, 1]
        assert await shown(client, job) == (1, [1], [])
        await job.cancel()
        await trio.sleep(5)
        assert (await client.ask("job", {"id": job.id_bytes}))["state"] == "cancelled"
        assert await shown(client, job) == (1, [1], [])


async def test_events_name_the_same_attempts(autojump_clock: object) -> None:
    async with open_cluster([snoozes_fails_and]) as cluster, cluster.client() as client:
        seen: list[tuple[str, int]] = []

        async def follow() -> None:
            async for view in client.watch_topic("events"):
                seen[:] = [(e["kind"], e["attempt"]) for e in view["events"] if "attempt" in e]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(1)
            job = await client.submit(snoozes_fails_and, True)
            await job.result(60)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert seen == [("tried", 1), ("succeeded", 2)]
