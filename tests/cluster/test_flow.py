"""Limits, rates, priorities and paused queues, with real workers and clients."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from creche.engine.settings import PlaneSettings, Route
from creche.errors import InvalidArguments, Refused, SubmissionRefused
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster

pytestmark = pytest.mark.trio


class Seen:
    """What runs, and what ran at most at a time, by key."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []

    async def run(self, key: str, seconds: float) -> None:
        self.order.append(key)
        self.running[key] += 1
        self.most[key] = max(self.most[key], self.running[key])
        try:
            await trio.sleep(seconds)
        finally:
            self.running[key] -= 1


def tasks_of(seen: Seen, **options):
    @task("work", registry=Registry(), **options)
    async def work(key: str, seconds: float = 1.0) -> None:
        await seen.run(key, seconds)

    return work


async def test_a_limit_by_key_holds_over_all_workers_and_over_a_restart_of_the_plane(
    autojump_clock,
):
    seen = Seen()
    work = tasks_of(seen, limit=2, key="key")
    async with open_cluster([work], workers=3) as cluster, cluster.client() as client:
        handles = await client.submit_many(work, [(key,) for key in "abcab" * 12])
        await trio.sleep(3.5)
        await cluster.kill_plane()
        await cluster.start_plane()
        for n, key in enumerate("abc" * 4):
            # By name the plane tells the key from the arguments.
            handles.append(await client.delay("work", key, seconds=0.5 + n / 10))
        with trio.fail_after(1000):
            for handle in handles:
                await handle.result()
        assert seen.most == Counter(a=2, b=2, c=2)
        assert Counter(seen.order) == Counter(a=28, b=28, c=16)


async def test_a_key_of_code_needs_the_task_and_an_odd_one_is_refused(autojump_clock):
    seen = Seen()
    work = tasks_of(seen, limit=1, key=lambda key, seconds=1.0: key.upper())
    async with open_cluster([work], workers=2) as cluster, cluster.client() as client:
        with pytest.raises(SubmissionRefused, match="computes its key in code"):
            await client.delay("work", "a")
        with pytest.raises(InvalidArguments, match="its key cannot be told: AttributeError"):
            await client.submit(work, 7)  # type: ignore[arg-type]
        for handle in await client.submit_many(work, [("a",), ("A",), ("b",)]):
            await handle.result()
        assert sorted(seen.order[:2]) == ["a", "b"]


@pytest.mark.parametrize(("fairness", "passes"), [(None, 1000), (10, 11)])
async def test_the_urgent_starts_next_and_with_fairness_the_others_have_their_turn(
    autojump_clock, fairness, passes
):
    seen = Seen()
    work = tasks_of(seen)
    settings = PlaneSettings(fairness=fairness)
    async with open_cluster([work], concurrency=1, settings=settings) as cluster:
        async with cluster.client() as client:
            low, critical = (work.with_options(priority=word) for word in ("low", "critical"))
            await client.submit_many(low, [("low",)] * 1000, watch=False)
            await trio.sleep(10.5)
            await client.submit(critical, "critical")
            await trio.sleep(1)
            began = len(seen.order)
            assert seen.order[-1] == "critical"
            await client.submit_many(critical, [("critical",)] * 100, watch=False)
            await trio.sleep(40)
            since = seen.order[began:]
            first_low = since.index("low") if "low" in since else 1000
            assert first_low <= passes
            if fairness is not None:
                assert since.count("low") >= 3


async def test_a_client_pauses_resumes_and_limits_a_queue(autojump_clock):
    seen = Seen()
    work = tasks_of(seen)
    async with open_cluster([work], concurrency=10) as cluster, cluster.client() as client:
        await client.pause_queue("default")
        await client.submit_many(work, [("a",)] * 20, watch=False)
        await trio.sleep(5)
        assert seen.order == []
        await client.limit_queue("default", limit=3)
        await client.resume_queue("default")
        await trio.sleep(4.5)
        assert seen.most["a"] == 3
        await client.limit_queue("default", rate="1/10s")
        await trio.sleep(30)
        assert 2 <= seen.running["a"] + len(seen.order) - 15 <= 4
        await client.limit_queue("default")
        await trio.sleep(5)
        assert len(seen.order) == 20
        with pytest.raises(Refused, match="there is no queue 'defualt': did you mean 'default'"):
            await client.pause_queue("defualt")
        with pytest.raises(InvalidArguments, match="to let none run, pause the queue"):
            await client.limit_queue("default", limit=0)
        with pytest.raises(InvalidArguments, match="is no rate"):
            await client.limit_queue("default", rate="often")


async def test_tasks_are_routed_by_name_unless_a_submission_says_otherwise(autojump_clock):
    routes = [Route("work*", "first"), Route("*", "second")]
    seen = Seen()
    work = tasks_of(seen)
    settings = PlaneSettings(routes=routes)
    async with open_cluster([], workers=0, settings=settings) as cluster:
        async with cluster.client() as client:
            early = await client.delay("work", "early")
            await cluster.add_worker(queues=["first"], tasks=[work])
            await early.result()
            await (await client.submit(work, "routed")).result()
            other = await client.submit(work.with_options(queue="own"), "own")
            unknown = await client.delay("other")
            jobs = {row["id"]: row["queue"] for row in (await client.ask("jobs"))["jobs"]}
            assert jobs[str(other)] == "own"
            assert jobs[str(unknown)] == "second"
            assert seen.order == ["early", "routed"]
            assert jobs[str(early)] == "first"
