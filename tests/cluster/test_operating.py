"""An operator drains, resizes and stops workers; a worker that leaves when nothing is left."""

from __future__ import annotations

import pytest
import trio

from creche.channel.memory import Fate, Faults
from creche.cli.queues import lane_rows
from creche.engine.children import Child
from creche.engine.scaling import Load, Pool, Scale
from creche.errors import Refused
from creche.store.base import QueueRow
from creche.store.memory import MemoryStore
from creche.tasks.options import SubmitOptions
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import Cluster, open_cluster
from creche.wire.payload import encode_value

pytestmark = pytest.mark.trio


@task(registry=Registry())
async def nap(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def states(client) -> dict[str, tuple[str, int, int]]:
    rows = (await client.ask("workers"))["workers"]
    return {row["name"]: (row["state"], row["slots"], row["running"]) for row in rows}


async def test_a_drained_worker_takes_nothing_new_and_stays_until_it_is_resumed(autojump_clock):
    async with open_cluster([nap], workers=0) as cluster, cluster.client() as client:
        await cluster.add_worker("a", concurrency=2)
        running = await client.submit_many(nap, [(10,), (10,)])
        await trio.sleep(1)
        await client.ask("set-worker", {"worker": "a", "slots": 0})
        await trio.sleep(1)
        assert await states(client) == {"a": ("draining", 0, 2)}
        waiting = await client.submit(nap, 1)
        for handle in running:
            assert await handle.result() == 10
        await trio.sleep(50)
        assert await states(client) == {"a": ("drained", 0, 0)}
        await cluster.kill_plane()
        await cluster.start_plane()
        await trio.sleep(50)
        assert await states(client) == {"a": ("drained", 0, 0)}
        await client.ask("set-worker", {"worker": "a", "slots": None})
        assert await waiting.result() == 1
        assert await states(client) == {"a": ("connected", 2, 0)}


async def test_what_a_drained_worker_has_not_begun_is_run_by_another(autojump_clock):
    async with open_cluster([nap], workers=0) as cluster, cluster.client() as client:
        await cluster.add_worker("a", concurrency=1)
        # What is done in no time is looked ahead to; then it takes long.
        for handle in await client.submit_many(nap, [(0,)] * 50):
            await handle.result()
        handles = await client.submit_many(nap, [(30,)] * 5)
        await trio.sleep(0.01)
        await client.ask("set-worker", {"worker": "a", "slots": 0})
        await cluster.add_worker("b", concurrency=5)
        with trio.fail_after(35):
            for handle in handles:
                await handle.result()


async def test_a_worker_is_resized_while_it_runs(autojump_clock):
    async with open_cluster([nap], workers=0) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("a", concurrency=2)
        handles = await client.submit_many(nap, [(10,)] * 12)
        await trio.sleep(1)
        assert worker.running == 2
        await client.ask("set-worker", {"worker": "a", "slots": 6})
        await trio.sleep(1)
        assert worker.running == 6
        await client.ask("set-worker", {"worker": "a", "slots": 1})
        await trio.sleep(12)
        assert worker.running == 1
        with trio.fail_after(100):
            for handle in handles:
                await handle.result()


async def test_a_stopped_worker_leaves_when_its_jobs_are_done(autojump_clock):
    async with open_cluster([nap], workers=0) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("a")
        handle = await client.submit(nap, 10)
        await trio.sleep(1)
        await client.ask("set-worker", {"worker": "a", "leave": True})
        assert (await states(client))["a"][0] == "leaving"
        assert await handle.result() == 10
        with trio.fail_after(5):
            await worker.has_left.wait()
        assert await states(client) == {}
        with pytest.raises(Refused, match="there is no worker 'a': there is none yet"):
            await client.ask("set-worker", {"worker": "a", "leave": True})


@pytest.mark.parametrize("what", [{"leave": True}, {"slots": 0}])
async def test_what_a_worker_is_told_as_its_connection_breaks_it_is_told_again(
    autojump_clock, what
):
    lost = Faults()

    def place(cluster: Cluster) -> None:
        cluster.worker_faults = (None, lost)

    async with open_cluster([nap], workers=0, faults=place) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("a")
        handle = await client.submit(nap, 20)
        await trio.sleep(1)
        lost.at = {lost.frames + 1: Fate.LOSE_AND_CUT}
        await client.ask("set-worker", {"worker": "a", **what})
        await trio.sleep(10)
        expected = "leaving" if "leave" in what else "draining"
        assert (await states(client))["a"][0] == expected
        with trio.fail_after(15):
            assert await handle.result() == 20
            if "leave" in what:
                await worker.has_left.wait()
            else:
                await trio.sleep(4)
                assert await states(client) == {"a": ("drained", 0, 0)}


@pytest.mark.parametrize("wrong", [-1, 10**6, "many", 1.5])
async def test_a_number_of_slots_that_is_none_is_refused(autojump_clock, wrong):
    async with open_cluster([nap]) as cluster, cluster.client() as client:
        (name,) = await states(client)
        with pytest.raises(
            Refused, match="slots is a whole number from 0 to 100,000; left out: as it"
        ):
            await client.ask("set-worker", {"worker": name, "slots": wrong})
        with pytest.raises(Refused, match=f"did you mean {name!r}"):
            await client.ask("set-worker", {"worker": f"{name}x", "slots": 1})


async def test_a_burst_worker_runs_what_waits_and_leaves(autojump_clock):
    async with open_cluster([nap], workers=0) as cluster, cluster.client() as client:
        handles = await client.submit_many(nap, [(2,)] * 30)
        later = await client.submit(nap.with_options(countdown=1000), 1)
        worker = await cluster.add_worker("burst", concurrency=5, is_burst=True)
        with trio.fail_after(20):
            await worker.has_left.wait()
            for handle in handles:
                assert await handle.result() == 2
        assert (await later.status()).word == "delayed"


@task(registry=Registry(), delivery="at-most-once")
async def once(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def test_a_worker_too_many_ends_its_jobs_however_long_they_take(autojump_clock):
    async with open_cluster([once], workers=0) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("local-2", concurrency=2)
        handle = await client.submit(once, 200)
        await trio.sleep(1)
        await cluster.add_worker("local-1", concurrency=2)
        children = [Child(name, lambda pipe: ()) for name in ("local-1", "local-2")]
        pool = Pool(children, Scale(1, 2))
        pool._wanted, pool._running = 2, {0, 1}
        core = cluster.running.core
        while pool._wanted == 2:
            await trio.sleep(1)
            pool._wanted = pool._scale.decide(pool._load(core), trio.current_time())
        # One is leaving, and the other is all there is: that is no reason not to grow.
        assert pool._load(core) == Load(1, True, 0, 0, 2)
        with trio.fail_after(400):
            while not worker.has_left.is_set():
                pool._dismiss(core)
                await trio.sleep(1)
        assert await handle.result() == 200
        # One that was told to take nothing new is wanted again.
        resting = await cluster.add_worker("local-2", concurrency=2)
        handle = await client.submit(once, 50)
        handles = [await client.submit(once, 50) for _ in range(3)]
        await trio.sleep(1)
        pool._dismiss(core)
        await trio.sleep(1)
        assert resting.capacity[0] == 0
        pool._wanted = 2
        pool._dismiss(core)
        await trio.sleep(1)
        assert resting.capacity[0] == 2
        for one in (handle, *handles):
            assert await one.result() == 50


async def test_a_client_drains_resizes_resumes_and_stops_a_worker(autojump_clock):
    async with open_cluster([nap], workers=0) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("a", concurrency=2)

        async def state() -> tuple[str, int]:
            await trio.sleep(1)
            (row,) = await client.workers()
            return row["state"], row["slots"]

        await client.drain_worker("a")
        assert await state() == ("drained", 0)
        await client.resize_worker("a", 5)
        assert await state() == ("connected", 5)
        await client.resume_worker("a")
        assert await state() == ("connected", 2)
        with pytest.raises(Refused, match="slots is a whole number"):
            await client.resize_worker("a", -1)
        with pytest.raises(Refused, match="there is no worker 'b'") as caught:
            await client.drain_worker("b")
        assert caught.value.code == "unknown-worker"
        await client.stop_worker("a")
        with trio.fail_after(5):
            await worker.has_left.wait()
        assert await client.workers() == []


@pytest.mark.parametrize("queue", ["a b", "a,b", "a\x1b[2Jb", ""])
async def test_a_new_queue_is_named_as_one_can_be(autojump_clock, queue):
    async with open_cluster([nap]) as cluster, cluster.client() as client:
        for more in ({"paused": True}, {"limit": 5}):
            with pytest.raises(Refused) as refused:
                await client.ask("set-queue", {"queue": queue, "is_new": True, **more})
            assert refused.value.code == ("bad-queue" if queue else "bad-question")
        view = await client.ask("queues")
        assert queue not in [each["queue"] for each in view["queues"]]


async def test_a_queue_of_an_older_store_works_whatever_its_name(autojump_clock):
    store = MemoryStore()
    async with open_cluster([nap], workers=0, make_store=lambda: store) as cluster:
        # As a plane took it that did not look at names.
        await cluster.kill_plane()
        store._queues["two words"] = QueueRow("two words", encode_value({"paused": True}))
        await cluster.start_plane()
        await cluster.add_worker("a", queues=("two words",))
        async with cluster.client() as client:
            job = await client._open()._submit(
                "nap", (1,), {}, SubmitOptions(queue="two words"), watch=True, facts={}
            )
            await client.resume_queue("two words")
            assert await job.result() == 1


async def test_of_very_many_queues_those_come_first_where_something_is_to_be_seen(autojump_clock):
    async with open_cluster([nap]) as cluster, cluster.client() as client:

        async def seen() -> list[str]:
            return [queue["queue"] for queue in (await client.ask("overview"))["queues"]]

        few = [f"q{n:02}" for n in range(50)]
        for name in few:
            await client.ask("set-queue", {"queue": name, "is_new": True, "limit": 5})
        assert await seen() == few
        for name in few:
            await client.limit_queue(name)
        waits = await client.delay("nap", 1, queue="waits")
        for name in few:
            job = await client.delay("nap", 1, queue=name, countdown=1e6)
            await job.cancel()
        await client.ask("set-queue", {"queue": "zz", "is_new": True, "paused": True})
        names = await seen()
        assert names[:2] == ["zz", "waits"]
        assert [each["queue"] for each in (await client.ask("queues"))["queues"]] == sorted(names)
        await waits.cancel()


async def test_a_queue_at_its_own_limit_is_shut_until_there_is_room(autojump_clock):
    async with open_cluster([nap]) as cluster, cluster.client() as client:

        async def shut() -> bool:
            (queue,) = (await client.ask("queues"))["queues"]
            return queue["shut"]

        first = await client.submit(nap, 10)
        await client.limit_queue("default", limit=1)
        await trio.sleep(1)
        assert await shut()
        assert "limited, 1 at a time" in [
            row["state"] for row in lane_rows((await client.ask("queues"))["queues"])
        ]
        await first.result()
        await trio.sleep(1)
        assert not await shut()
