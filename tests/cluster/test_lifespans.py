"""Lifespans around a worker's jobs: when they are entered and left, and what tasks get of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from creche import LifespanFailed, Resource
from creche.errors import TaskDefinitionError
from creche.tasks.lifespan import lifespan
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.worker.settings import WorkerSettings

pytestmark = pytest.mark.trio

seen: list[str] = []
registry = Registry()


@pytest.fixture(autouse=True)
def _nothing_is_seen() -> None:
    seen.clear()


class Database:
    """A resource, which knows whether it is open."""

    is_open = False


class Cache(dict[str, int]):
    """Another one."""


@lifespan(registry=registry)
async def database() -> AsyncIterator[Database]:
    await trio.lowlevel.checkpoint()
    made = Database()
    made.is_open = True
    seen.append("database")
    yield made
    await trio.sleep(0.1)
    made.is_open = False
    seen.append("no database")


@lifespan(registry=registry)
def cache() -> Iterator[Cache]:
    seen.append("cache")
    yield Cache(a=1)
    seen.append("no cache")


@task(registry=registry)
async def read(db: Database, key: str, cached: Cache, default: int = 0) -> list[object]:
    return [db.is_open, cached.get(key, default)]


@task(registry=registry)
async def lingers(db: Resource[Database]) -> None:
    seen.append("began")
    try:
        await trio.sleep(10)
    finally:
        seen.append(f"left, {db.is_open}")


@task(registry=registry)
def in_a_thread(cached: Cache) -> int:
    return id(cached)


@task(registry=registry, executor="asyncio")
async def on_asyncio(cached: Cache) -> int:
    return id(cached)


async def test_tasks_get_what_lifespans_yield_and_the_rest_is_submitted(autojump_clock):
    async with open_cluster(registry) as cluster, cluster.client() as client:
        assert await (await client.submit(read, "a")).result() == [True, 1]  # type: ignore[call-arg]
        assert await (await client.delay("read", "b", default=7)).result() == [True, 7]
        assert seen == ["database", "cache"]


async def test_threads_and_asyncio_get_the_same_object():
    async with open_cluster(registry) as cluster, cluster.client() as client:
        first = await (await client.delay("in_a_thread")).result()
        assert await (await client.delay("on_asyncio")).result() == first


async def test_they_are_left_after_the_last_body_the_last_one_first(autojump_clock):
    async with open_cluster(registry, workers=0) as cluster, cluster.client() as client:
        worker = await cluster.add_worker("leaving")
        await client.delay("lingers")
        with trio.fail_after(60):
            while "began" not in seen:
                await trio.sleep(0.01)
            worker.begin_drain("enough")
            while "no database" not in seen:
                await trio.sleep(0.01)
        assert seen == ["database", "cache", "began", "left, True", "no cache", "no database"]


async def test_a_worker_that_is_cancelled_leaves_them_all_the_same(autojump_clock):
    async with open_cluster(registry) as cluster, cluster.client() as client:
        await client.delay("lingers")
        await trio.sleep(1)
    assert seen[-3:] == ["left, True", "no cache", "no database"]


def of(*functions: object) -> Registry:
    made = Registry()
    for function in functions:
        lifespan(registry=made)(function)  # type: ignore[type-var]
    return made


async def fails_to_open() -> AsyncIterator[None]:
    raise ConnectionError("the database is down")
    yield


async def fails_to_close() -> AsyncIterator[None]:
    yield
    raise ConnectionError("the database is gone")


async def takes_for_ever_to_close() -> AsyncIterator[None]:
    yield
    await trio.sleep_forever()


async def test_one_that_cannot_be_entered_ends_the_worker_and_those_before_it_are_left(
    autojump_clock,
):
    says = "fails_to_open .* could not be entered: ConnectionError: the database is down"
    wanted = pytest.RaisesExc(LifespanFailed, match=says)
    with pytest.RaisesGroup(wanted, flatten_subgroups=True):
        async with open_cluster(of(database, fails_to_open)):
            pass
    assert seen == ["database", "no database"]


async def test_one_that_fails_when_it_is_left_is_told_of_and_the_others_are_left(
    autojump_clock, caplog
):
    async with open_cluster(of(database, fails_to_close), workers=0) as cluster:
        worker = await cluster.add_worker()
        worker.begin_drain("enough")
        await trio.sleep(1)
    assert seen == ["database", "no database"]
    assert "lifespan fails_to_close failed when it was left" in caplog.text


async def test_leaving_them_is_bounded(autojump_clock, caplog):
    caplog.set_level(logging.ERROR)
    async with open_cluster(of(database, takes_for_ever_to_close), workers=0) as cluster:
        worker = await cluster.add_worker(worker_settings=WorkerSettings(leave_lifespans_s=3))
        worker.begin_drain("enough")
        await trio.sleep(5)
    assert "lifespans were not left within 3 s" in caplog.text


async def test_a_task_that_wants_what_nobody_provides_is_refused_when_the_worker_is_made(
    autojump_clock,
):
    async with open_cluster(of(cache), workers=0) as cluster:
        task(registry=cluster.registry)(lingers.function)
        with pytest.raises(TaskDefinitionError, match=r"write a @creche.lifespan that yields it"):
            await cluster.add_worker()
