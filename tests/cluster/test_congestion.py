"""More than a peer may have waiting for it at a time is sent all the same, piece by piece, and over
one connection."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import open_house

from creche.engine import outcomes
from creche.engine.settings import PlaneSettings
from creche.store.sqlite import SqliteStore
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import encode_call

pytestmark = pytest.mark.trio

SIZE = 60_000
COUNT = 40
SMALL = PlaneSettings(
    payload_bytes=64 * 1024,
    outbox_bytes=256 * 1024,
    window_bytes=128 * 1024,
    unaccepted_bytes=200 * 1024,
)
LEVELS = ("critical", "high", "normal", "low")


@task
async def large(n: int) -> bytes:
    await trio.sleep(0.5)
    return bytes(SIZE) + bytes([n])


@task
async def size_of(data: bytes) -> int:
    return len(data)


@task(delivery="at-most-once")
async def size_of_once(data: bytes) -> int:
    return len(data)


async def wait_for_all(client, ids: list[str]) -> list[bytes]:
    results: dict[str, bytes] = {}

    async def wait_for(job_id: str) -> None:
        results[job_id] = await client.result(job_id)

    async with trio.open_nursery() as nursery:
        for job_id in ids:
            nursery.start_soon(wait_for, job_id)
    return [results[job_id] for job_id in ids]


async def test_results_of_any_size_together_reach_who_asks_for_them_by_id(autojump_clock):
    async with open_cluster([large], settings=SMALL) as cluster:
        async with cluster.client() as first:
            handles = await first.submit_many(large, [(i,) for i in range(COUNT)], watch=False)
            ids = [str(handle) for handle in handles]
            while (await first.ask("health"))["jobs"].get("succeeded", 0) < COUNT:
                await trio.sleep(1)
        async with cluster.client(name="second") as client:
            with trio.fail_after(60):
                results = await wait_for_all(client, ids)
        assert [result[-1] for result in results] == list(range(COUNT))


async def test_results_that_come_all_at_once_reach_who_waits_for_them(autojump_clock):
    async with open_cluster([large], settings=SMALL, concurrency=COUNT) as cluster:
        async with cluster.client() as client:
            handles = await client.submit_many(large, [(i,) for i in range(COUNT)])
            with trio.fail_after(60):
                assert [(await h.result())[-1] for h in handles] == list(range(COUNT))
            for session in cluster.running.core.sessions:
                assert not session.owed
                assert not session.watching


async def test_results_are_read_from_disk_a_bounded_piece_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "LOOK_UP_BYTES", 2 * SIZE)

    async with open_cluster(
        [large],
        settings=SMALL,
        concurrency=COUNT,
        make_store=lambda: SqliteStore(tmp_path / "creche.db"),
    ) as cluster:
        async with cluster.client() as first:
            handles = await first.submit_many(large, [(i,) for i in range(COUNT)], watch=False)
            ids = [str(handle) for handle in handles]
            while (await first.ask("health"))["jobs"].get("succeeded", 0) < COUNT:
                await trio.sleep(0.05)
        async with cluster.client(name="second") as client:
            with trio.fail_after(60):
                results = await wait_for_all(client, ids)
        assert [result[-1] for result in results] == list(range(COUNT))


@pytest.mark.parametrize("sized", [size_of, size_of_once], ids=["at-least-once", "at-most-once"])
async def test_jobs_with_large_arguments_are_each_offered_once(autojump_clock, sized):
    async with open_cluster([size_of, size_of_once], workers=0, settings=SMALL) as cluster:
        async with cluster.client() as client:
            handles = []
            with trio.move_on_after(20):
                for level in LEVELS:
                    calls = [(bytes(SIZE),)] * 2
                    handles += await client.submit_many(sized.with_options(priority=level), calls)
            assert len(handles) == 8
            await cluster.add_worker("w", concurrency=10)
            with trio.fail_after(60):
                assert [await handle.result() for handle in handles] == [SIZE] * 8
            rows = (await client.ask("jobs"))["jobs"]
            assert [row["attempt"] for row in rows] == [1] * 8


async def test_a_long_line_of_large_arguments_is_worked_off(autojump_clock):
    async with open_cluster([size_of], settings=SMALL) as cluster, cluster.client() as client:
        handles = await client.submit_many(size_of, [(bytes(SIZE),)] * COUNT)
        with trio.fail_after(60):
            assert [await handle.result() for handle in handles] == [SIZE] * COUNT


async def test_results_wait_for_a_peer_that_does_not_read_and_it_is_not_cut(autojump_clock):
    async with open_house(SMALL, capacity=2) as house, house.client().connected():
        deaf = house.client("deaf")
        async with house.worker().connected(queues=["default"]) as worker, deaf.connected():
            await worker.ready("echo")
            for number in range(COUNT):
                await deaf.say(deaf.submit(number, flags=m.WATCH))
            for _ in range(COUNT):
                await worker.finish(await worker.hear(m.Offer), bytes(SIZE))
            await trio.sleep(1)
            (session,) = [s for s in house.core.sessions if s.name == "deaf"]
            assert session.outbox.size_bytes < SMALL.outbox_bytes // 2
            assert len(session.owed) > COUNT // 2
            for _ in range(COUNT):
                await deaf.hear(m.Ended)
            assert not session.owed
            assert not session.watching


async def test_what_waits_for_room_is_bounded_in_bytes_too(autojump_clock):
    async with open_cluster([size_of], workers=0, settings=SMALL) as cluster:
        async with cluster.client() as client, trio.open_nursery() as nursery:
            results: list[int] = []

            async def submit() -> None:
                for handle in await client.submit_many(size_of, [(bytes(SIZE),)] * COUNT):
                    results.append(await handle.result())

            nursery.start_soon(submit)
            await trio.sleep(10)
            (session,) = cluster.running.core.sessions
            assert SIZE < session.unaccepted.bytes <= SMALL.unaccepted_bytes
            await cluster.add_worker("w")
            with trio.fail_after(60):
                while len(results) < COUNT:
                    await trio.sleep(1)
            assert session.unaccepted.number == session.unaccepted.bytes == 0


async def test_who_has_more_bytes_unaccepted_than_it_may_is_declined(autojump_clock):
    def submit(number: int, size: int) -> m.Submit:
        return client.submit(number, payload=encode_call([bytes(size)], {}))

    settings = PlaneSettings(unaccepted_bytes=1000)
    async with open_house(settings) as house, house.client().connected() as client:
        await client.say(submit(1, 600), submit(2, 600), submit(3, 300))
        declined = await client.hear(m.Declined)
        assert (declined.n, declined.code) == (2, "credit")
        assert (await client.hear(m.Accepted)).ns == [1, 3]
        # One alone is taken, whatever its size; together with another it is not.
        await client.say(submit(4, 5000), submit(5, 10))
        assert (await client.hear(m.Declined)).n == 5
        assert (await client.hear(m.Accepted)).ns == [4]


async def test_a_small_submission_does_not_pass_a_large_one_that_waits_for_room(autojump_clock):
    async with open_cluster([size_of], workers=0, settings=SMALL) as cluster:
        async with cluster.client() as client, trio.open_nursery() as nursery:
            order: list[int] = []
            sizes = [*range(SIZE, SIZE + 7), 10]

            async def submit(size: int) -> None:
                handle = await client.submit(size_of, bytes(size))
                order.append(size)
                await handle.result()

            for size in sizes:
                nursery.start_soon(submit, size)
                await trio.sleep(0.1)
            assert sorted(order) == sizes[:3]
            (session,) = cluster.running.core.sessions
            assert session.unaccepted.number == 3
            await cluster.add_worker("w")
        assert sorted(order) == sorted(sizes)
