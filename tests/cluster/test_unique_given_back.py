"""Keys that somebody took over and gave back: who had them before has them again, on its way to the
disk or on it already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_memory_room import full_house
from tests.cluster.test_unique_races import EXISTING, REPLACE, Slow, knows_nothing_more, unique
from tests.cluster.test_windows import number

from creche.errors import StoreFull, StoreOverLimit
from creche.model.job import Fate
from creche.model.priority import Priority
from creche.store.base import Batch, Verdict
from creche.store.memory import MemoryStore
from creche.wire import messages as m

pytestmark = pytest.mark.trio
LONG_US = 60_000_000


async def finish_and_hear(worker: Peer, offer: m.Offer) -> m.Offer:
    await worker.finish(offer, run_us=LONG_US)
    return await worker.hear(m.Offer)


async def hear_accepted(client: Peer, job: m.Submit) -> None:
    while job.n not in (await client.hear(m.Accepted)).ns:
        pass


async def ran_since(worker: Peer, offer: m.Offer) -> list[int]:
    """Finish what is offered until nothing is; return the numbers of what came after *offer*."""
    ran: list[int] = []
    try:
        while True:
            await worker.finish(offer, run_us=LONG_US)
            ran.append(number(offer := await worker.hear(m.Offer, 10)))
    except trio.TooSlowError:
        return ran


@pytest.mark.parametrize("way", ["cancelled", "gone"])
async def test_a_key_is_its_jobs_again_when_who_took_it_over_is_withdrawn(
    autojump_clock: object, way: str
) -> None:
    async with full_house() as (house, first, worker, offer):
        async with house.client("c").connected() as c:
            async with house.client("b").connected() as b:
                await first.say(older := unique(first, 3, REPLACE))
                await trio.sleep(1)
                await b.say(newer := unique(b, 4, REPLACE))
                await trio.sleep(1)
                offer = await finish_and_hear(worker, offer)
                await hear_accepted(first, older)
                await trio.sleep(1)
                if way == "cancelled":
                    await b.say(m.Cancel(77, [newer.id], "withdrawn"))
                    assert (await b.hear(m.Declined)).n == newer.n
                else:
                    await b.say(m.Goodbye("that was it"))
                    await b.hears_the_end()
            await trio.sleep(1)
            assert knows_nothing_more(house)
            await c.say(again := unique(c, 5, EXISTING))
            assert await c.hear(m.Existing) == m.Existing(again.n, older.id, False)
            assert await ran_since(worker, offer) == [3]


async def test_a_key_that_is_given_back_in_the_middle_is_given_back_once_more(
    autojump_clock: object,
) -> None:
    async with full_house() as (house, first, worker, offer):
        async with house.client("b").connected() as b, house.client("c").connected() as c:
            await first.say(older := unique(first, 3, REPLACE))
            await trio.sleep(1)
            await b.say(newer := unique(b, 4, REPLACE))
            await trio.sleep(1)
            await c.say(newest := unique(c, 5, REPLACE))
            await trio.sleep(1)
            offer = await finish_and_hear(worker, offer)
            await hear_accepted(first, older)
            for peer, job in ((b, newer), (c, newest)):
                await peer.say(m.Cancel(77, [job.id], "withdrawn"))
                await peer.hear(m.Declined)
            await c.say(again := unique(c, 6, EXISTING))
            assert await c.hear(m.Existing) == m.Existing(again.n, older.id, False)
            assert await ran_since(worker, offer) == [3]
            assert knows_nothing_more(house)


@pytest.mark.parametrize("states", [["waiting"], ["waiting", "running", "succeeded"]])
async def test_a_key_that_is_given_back_when_its_job_has_ended_counts_as_it_ended(
    autojump_clock: object, states: list[str]
) -> None:
    async with full_house() as (house, first, worker, offer):
        async with house.client("b").connected() as b:
            await first.say(first.submit(70, priority=Priority.LOW))
            await first.say(older := unique(first, 3, REPLACE))
            await trio.sleep(1)
            await b.say(newer := unique(b, 4, REPLACE, priority=Priority.LOW))
            await trio.sleep(1)
            offer = await finish_and_hear(worker, offer)
            await hear_accepted(first, older)
            offer = await finish_and_hear(worker, offer)
            assert number(offer) == 3
            await first.submitted(91)
            offer = await finish_and_hear(worker, offer)
            await b.say(m.Cancel(77, [newer.id], "withdrawn"))
            assert (await b.hear(m.Declined)).n == newer.n
            await trio.sleep(1)
            assert knows_nothing_more(house)
            await b.say(again := unique(b, 5, {"key": "k", "states": states}))
            if "succeeded" in states:
                assert await b.hear(m.Existing) == m.Existing(again.n, older.id, False)
                assert await ran_since(worker, offer) == [70]
            else:
                assert sorted(await ran_since(worker, offer)) == [5, 70]


class SlowKeys(MemoryStore):
    """Takes keys of jobs that are there when it is told to, or has no room for them at first."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = b""
        self.may_write = trio.Event()
        self.may_write.set()
        self.has_no_room = False
        self.may_tell = trio.Event()
        """Who has a key: as it was when that was asked."""
        self.may_tell.set()

    async def keys(self, names: Any) -> Any:
        found = await super().keys(names)
        await self.may_tell.wait()
        return found

    async def commit(self, batch: Batch) -> Any:
        if any(job.id == self.refused for job in batch.jobs):
            await trio.lowlevel.checkpoint()
            raise StoreOverLimit("too much")
        if batch.keys and not batch.jobs:
            await self.may_write.wait()
            if self.has_no_room:
                self.has_no_room = False
                raise StoreFull("disk full")
        return await super().commit(batch)


ENDED_TOO = {"key": "k", "states": ["waiting", "running", "succeeded"]}


class Ended(NamedTuple):
    """A job has ended, whose key another one has taken over that waits for room."""

    house: House
    b: Peer
    """Who submitted that one."""
    c: Peer
    worker: Peer
    offer: m.Offer
    older: m.Submit
    newer: m.Submit


@asynccontextmanager
async def taken_over_from_an_ended_job(store: MemoryStore) -> AsyncIterator[Ended]:
    async with (
        full_house(make_store=lambda: store) as (house, first, worker, offer),
        house.client("b").connected() as b,
        house.client("c").connected() as c,
    ):
        await first.say(first.submit(70, priority=Priority.LOW))
        await first.say(older := unique(first, 3, REPLACE))
        await trio.sleep(1)
        await b.say(newer := unique(b, 4, REPLACE, priority=Priority.LOW))
        await trio.sleep(1)
        offer = await finish_and_hear(worker, offer)
        await hear_accepted(first, older)
        offer = await finish_and_hear(worker, offer)
        await first.submitted(91)
        offer = await finish_and_hear(worker, offer)
        yield Ended(house, b, c, worker, offer, older, newer)


@pytest.mark.parametrize("way", ["behind it", "beside it", "before it"])
async def test_who_meets_a_key_just_as_an_ended_job_is_given_it_back_is_one_with_that_job(
    autojump_clock: object, way: str
) -> None:
    async with taken_over_from_an_ended_job(MemoryStore()) as (house, b, c, worker, offer, *jobs):
        older, newer = jobs
        who = b if way == "behind it" else c
        again, cancel = unique(who, 5, ENDED_TOO), m.Cancel(77, [newer.id], "withdrawn")
        if way == "behind it":
            await b.say(cancel, again)
        elif way == "beside it":
            await b.say(cancel)
            await c.say(again)
        else:
            await c.say(again)
            await trio.sleep(1)
            await b.say(cancel)
        assert await who.hear(m.Existing) == m.Existing(again.n, older.id, False)
        assert await ran_since(worker, offer) == [70]
        assert knows_nothing_more(house)


async def test_a_store_that_was_asked_before_a_key_was_given_back_is_asked_again(
    autojump_clock: object,
) -> None:
    store = SlowKeys()
    async with taken_over_from_an_ended_job(store) as (house, b, c, worker, offer, *jobs):
        older, newer = jobs
        store.may_tell = trio.Event()
        await c.say(again := unique(c, 5, ENDED_TOO))
        await trio.sleep(1)
        await b.say(m.Cancel(77, [newer.id], "withdrawn"))
        await b.hear(m.Declined)
        store.may_tell.set()
        assert await c.hear(m.Existing) == m.Existing(again.n, older.id, False)
        assert await ran_since(worker, offer) == [70]
        assert knows_nothing_more(house)


class Outlives(MemoryStore):
    """Takes new jobs when it is told to, dies when it has the one that it is told of, and is there
    when the next plane starts."""

    def __init__(self) -> None:
        super().__init__()
        self.may_arrive = trio.Event()
        self.may_arrive.set()
        self.last = b""
        self.refused = b""
        self.is_dead = False

    async def commit(self, batch: Batch) -> Any:
        if batch.jobs:
            await self.may_arrive.wait()
        if self.is_dead:
            await trio.sleep_forever()
        if any(job.id == self.refused for job in batch.jobs):
            await trio.lowlevel.checkpoint()
            raise StoreOverLimit("too much")
        duplicates = await super().commit(batch)
        self.is_dead = any(job.id == self.last for job in batch.jobs)
        return duplicates


async def has_its_key_after_the_kill(store: Outlives, older: m.Submit) -> bool:
    """Whether the next plane takes who says the key for that job."""
    await store.aclose()
    store.is_dead = False
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.say(again := unique(client, 5, EXISTING))
        return await client.hear(m.Existing) == m.Existing(again.n, older.id, False)


async def test_who_is_accepted_has_its_key_though_one_that_waits_for_room_has_taken_it_over(
    autojump_clock: object,
) -> None:
    store = Outlives()
    async with full_house(make_store=lambda: store) as (_, first, worker, offer):
        await first.say(older := unique(first, 3, REPLACE))
        await trio.sleep(1)
        await first.say(unique(first, 4, REPLACE))
        await trio.sleep(1)
        store.last = older.id
        await worker.finish(offer, run_us=LONG_US)
        await hear_accepted(first, older)
    assert await has_its_key_after_the_kill(store, older)


async def test_who_is_given_a_key_back_on_its_way_to_the_disk_has_it_there_with_its_job(
    autojump_clock: object,
) -> None:
    store = Outlives()
    async with full_house(make_store=lambda: store) as (house, first, worker, offer):
        async with house.client("b").connected() as b:
            await first.say(older := unique(first, 3, REPLACE))
            await trio.sleep(1)
            await b.say(newer := unique(b, 4, REPLACE))
            await trio.sleep(1)
            store.may_arrive, store.last = trio.Event(), older.id
            await worker.finish(offer, run_us=LONG_US)
            await trio.sleep(1)
            await b.say(m.Cancel(77, [newer.id], "withdrawn"))
            await trio.sleep(1)
            assert not house.core.by_id[older.id].is_committed
            store.may_arrive.set()
            await hear_accepted(first, older)
    assert await has_its_key_after_the_kill(store, older)


async def test_who_has_taken_a_key_over_and_found_no_room_leaves_it_to_the_batch_behind_it(
    autojump_clock: object,
) -> None:
    """Who was to replace another came by its priority to the disk first."""
    store = Outlives()
    async with full_house(make_store=lambda: store) as (house, first, worker, offer):
        async with house.client("b").connected() as b:
            await first.say(older := unique(first, 3, REPLACE))
            await trio.sleep(1)
            await b.say(newer := unique(b, 4, REPLACE, priority=Priority.LOW))
            store.may_arrive, store.refused, store.last = trio.Event(), newer.id, older.id
            await trio.sleep(1)
            await worker.finish(offer, run_us=LONG_US)
            await trio.sleep(1)
            store.may_arrive.set()
            assert (await b.hear(m.Declined)).code == "store-full"
            await hear_accepted(first, older)
    assert await has_its_key_after_the_kill(store, older)


async def test_who_replaces_one_that_waits_to_replace_another_replaces_both(
    autojump_clock: object,
) -> None:
    async with full_house() as (house, first, worker, offer):
        async with house.client("c").connected() as c:
            await first.say(first.submit(70, priority=Priority.LOW))
            await trio.sleep(1)
            older = unique(first, 3, REPLACE)
            newer = unique(first, 4, REPLACE, priority=Priority.LOW)
            await first.say(older, newer)
            await trio.sleep(1)
            await c.say(unique(c, 5, REPLACE, priority=Priority.HIGH))
            await c.hear(m.Accepted)
            assert await ran_since(worker, offer) == [5, 2, 70]
            assert knows_nothing_more(house)


def retry_of(house: House, client: Peer, number: int) -> m.Submit:
    """Have the plane itself submit a job that has the key K."""
    message = client.submit(number, options={"idempotency_key": "K"})
    verdict = Verdict(10**6, Fate.RETRIED, house.core.now(), message.id)
    assert house.core.submissions.put(message, verdict) is None
    return message


class Picky(Slow):
    """Has no room for one of the jobs."""

    refused = b""

    async def commit(self, batch: Batch) -> Any:
        if any(job.id == self.refused for job in batch.jobs):
            await trio.lowlevel.checkpoint()
            raise StoreOverLimit("too much")
        return await super().commit(batch)


async def test_a_key_that_is_lent_is_lent_again_when_who_took_it_over_finds_no_room(
    autojump_clock: object,
) -> None:
    store = Picky()
    async with open_house(make_store=lambda: store) as house, house.client("b").connected() as b:
        async with house.client("a").connected() as a, house.client("c").connected() as c:
            store.may_commit = trio.Event()
            await c.say(first := unique(c, 1, EXISTING))
            await trio.sleep(0.1)
            await a.say(a.submit(2, options={"unique": EXISTING, "idempotency_key": "K"}))
            await trio.sleep(0.1)
            store.refused = retry_of(house, c, 3).id
            store.may_commit.set()
            await c.hear(m.Accepted)
            assert (await a.hear(m.Existing)).id == first.id
            await trio.sleep(1)
            await b.say(b.submit(4, options={"idempotency_key": "K"}))
            assert (await b.hear(m.Existing)).id == first.id
            assert knows_nothing_more(house)


class SlowToLend(Slow, SlowKeys):
    """Is both, one after the other."""


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_key_that_is_lent_again_is_on_disk_before_its_submitter_is_answered(
    autojump_clock: object, is_full: bool
) -> None:
    store = SlowToLend()
    async with open_house(make_store=lambda: store) as house, house.client("b").connected() as b:
        async with house.client("a").connected() as a, house.client("c").connected() as c:
            store.may_commit = trio.Event()
            await c.say(first := unique(c, 1, EXISTING))
            await trio.sleep(0.1)
            lends = a.submit(2, options={"unique": EXISTING, "idempotency_key": "K"})
            await a.say(lends)
            await trio.sleep(0.1)
            store.refused = retry_of(house, c, 3).id
            store.may_write, store.has_no_room = trio.Event(), is_full
            store.may_commit.set()
            await c.hear(m.Accepted)
            await a.hears_nothing(m.Existing, 1)
            assert len(store._keys._keys) == 1
            store.may_write.set()
            if is_full:
                assert (await a.hear(m.Declined)).code == "store-full"
                await trio.sleep(5)
                await a.say(lends)
            assert await a.hear(m.Existing) == m.Existing(lends.n, first.id, False)
            assert len(store._keys._keys) == 2
            await b.say(b.submit(4, options={"idempotency_key": "K"}))
            assert (await b.hear(m.Existing)).id == first.id
            assert knows_nothing_more(house)


async def test_who_takes_over_a_key_that_is_just_being_lent_has_it(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client("b").connected() as b:
        async with house.client("a").connected() as a:
            await b.say(unique(b, 1, EXISTING))
            await b.hear(m.Accepted)
            store.may_commit = trio.Event()
            await b.say(b.submit(9))
            await trio.sleep(0.1)
            await a.say(a.submit(2, options={"unique": EXISTING, "idempotency_key": "K"}))
            await trio.sleep(0.1)
            taken = retry_of(house, b, 3)
            store.may_commit.set()
            await a.hear(m.Existing)
            await b.hear(m.Accepted)
            await b.say(b.submit(4, options={"idempotency_key": "K"}))
            assert (await b.hear(m.Existing)).id == taken.id
            assert knows_nothing_more(house)
