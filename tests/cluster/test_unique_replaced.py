"""What becomes of jobs that others replace, however many do at once and whenever the plane is
killed: told by peers that say exactly what a test wants."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_unique_races import CANCEL, REPLACE, Slow, knows_nothing_more, unique
from tests.cluster.test_windows import LISTENING, DiskLike

from creche.engine.settings import PlaneSettings
from creche.errors import StoreError, StoreOverLimit
from creche.model.job import JobState
from creche.store.base import Batch, JobRow
from creche.wire import messages as m

pytestmark = pytest.mark.trio

DEBOUNCE = {"key": "k", "on_duplicate": "replace", "states": ["waiting"], "delay_s": 30.0}


class DiesAfter(Slow):
    """Takes nothing more once it has the job of a certain id."""

    def __init__(self) -> None:
        super().__init__()
        self.last = b""

    async def commit(self, batch: Batch) -> Any:
        found = await super().commit(batch)
        self.is_dead = self.is_dead or any(job.id == self.last for job in batch.jobs)
        return found


@asynccontextmanager
async def after_the_kill(store: DiesAfter) -> AsyncIterator[tuple[House, Peer]]:
    """The next plane on what the last one has left."""
    await store.aclose()
    store.is_dead, store.last = False, b""
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await trio.sleep(10)
        yield house, client


async def states(client: Peer, *jobs: m.Submit) -> list[str]:
    rows = (await client.ask("jobs"))["jobs"]
    said = {row["id"].replace("-", ""): row["state"] for row in rows}
    return [said.get(job.id.hex(), "unknown") for job in jobs]


async def accepted(client: Peer, *jobs: m.Submit) -> None:
    heard: set[int] = set()
    while not heard >= {job.n for job in jobs}:
        heard |= set((await client.hear(m.Accepted)).ns)


@pytest.mark.parametrize("rule", [REPLACE, CANCEL, DEBOUNCE], ids=["replace", "cancel", "debounce"])
async def test_all_that_is_replaced_within_one_batch_is_cancelled_after_a_kill(
    autojump_clock: object, rule: dict[str, Any]
) -> None:
    store = DiesAfter()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        jobs = [unique(client, n, rule) for n in range(1, 5)]
        first, *others = jobs
        await client.say(first)
        await accepted(client, first)
        store.may_commit = trio.Event()
        await client.say(client.submit(9))
        await trio.sleep(1)
        store.last = others[-1].id
        await client.say(*others)
        await trio.sleep(1)
        store.may_commit.set()
        await accepted(client, *others)
    async with after_the_kill(store) as (house, client):
        assert await states(client, *jobs[:-1]) == ["cancelled"] * 3
        assert await states(client, jobs[-1]) == ["delayed" if rule is DEBOUNCE else "parked"]
        assert knows_nothing_more(house)


async def test_what_was_to_be_replaced_by_a_declined_job_is_by_the_next_one_after_a_kill(
    autojump_clock: object,
) -> None:
    store = DiesAfter()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        first, second, third, fourth = (unique(client, n, REPLACE) for n in range(1, 5))
        await client.say(first)
        await accepted(client, first)
        store.may_commit = trio.Event()
        await client.say(second, third)
        await trio.sleep(1)
        # On its way behind the batch of those, which is declined.
        await client.say(fourth)
        await trio.sleep(1)
        store.error, store.last = StoreOverLimit("too much"), fourth.id

        taken = store.may_commit
        store.may_commit = trio.Event()
        taken.set()
        for _ in range(2):
            assert (await client.hear(m.Declined)).code == "store-full"
        store.error = None
        store.may_commit.set()
        await accepted(client, fourth)
    async with after_the_kill(store) as (_, client):
        assert await states(client, first, second, third, fourth) == [
            "cancelled", "unknown", "unknown", "parked",
        ]  # fmt: skip


async def test_a_job_that_waits_for_its_next_attempt_is_replaced_over_a_kill(
    autojump_clock: object,
) -> None:
    store = DiesAfter()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        options = {"unique": REPLACE, "retry": {"retries": 3, "backoff": 50.0}}
        first, second = client.submit(1, options=options), unique(client, 2, REPLACE)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.say(first)
            await worker.try_again(await worker.hear(m.Offer))
            await worker.hear(m.Settled)
            await worker.say(m.Capacity(0, 0))
        await trio.sleep(1)
        store.last = second.id
        await client.say(second)
        await accepted(client, first, second)
    async with after_the_kill(store) as (_, client):
        assert await states(client, first, second) == ["cancelled", "queued"]


async def test_a_job_that_was_handed_back_is_replaced_over_a_kill(autojump_clock: object) -> None:
    store = DiesAfter()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        first, second = (unique(client, n, REPLACE) for n in (1, 2))
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.say(first)
            offer = await worker.hear(m.Offer)
            await trio.sleep(1)
            token = [offer.seq, offer.epoch, offer.attempt]
            await worker.say(m.Capacity(0, 0), m.HandBack([token]))
            await trio.sleep(1)
            store.last = second.id
            await client.say(second)
            await accepted(client, first, second)
    async with after_the_kill(store) as (_, client):
        assert await states(client, first, second) == ["cancelled", "queued"]


async def test_what_ran_when_it_was_to_be_replaced_goes_on_over_a_kill(
    autojump_clock: object,
) -> None:
    store = DiesAfter()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        options = {"unique": REPLACE, "retry": {"retries": 3, "backoff": 50.0}}
        first, second = client.submit(1, options=options), unique(client, 2, REPLACE)
        async with house.worker().connected(**LISTENING) as worker:
            await client.say(first)
            await accepted(client, first)
            store.may_commit = trio.Event()
            await client.say(second)
            await trio.sleep(1)
            # It begins while who replaces it is on the way to the disk.
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            store.may_commit.set()
            await accepted(client, second)
            await worker.try_again(offer)
            await worker.hear(m.Settled)
            await worker.say(m.Capacity(0, 0))
        await trio.sleep(1)
        store.is_dead = True
    async with after_the_kill(store) as (_, client):
        assert (await states(client, first))[0] == "delayed"


async def test_nothing_stays_in_memory_of_what_is_replaced_in_the_store(
    autojump_clock: object,
) -> None:
    settings = PlaneSettings(window=10)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        for number in range(30):
            await client.submitted(number)
        for number in range(50):
            await client.submitted(100 + number, options={"unique": REPLACE})
        await trio.sleep(5)
        assert (await house.core.store.counts())[JobState.CANCELLED] == 49
        assert knows_nothing_more(house)


@pytest.mark.parametrize("rule", [REPLACE, DEBOUNCE], ids=["replace", "debounce"])
async def test_a_chain_of_replacements_that_is_declined_costs_as_much_as_it_is_long(
    autojump_clock: object, rule: dict[str, Any]
) -> None:
    def steps_of(call: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def counted(job_id: bytes) -> None:
            before = sys.getprofile()
            sys.setprofile(lambda *_: steps.append(1))
            try:
                call(job_id)
            finally:
                sys.setprofile(before)

        return counted

    steps: list[int] = []
    taken: list[int] = []
    for length in (100, 400):
        store = Slow()
        async with (
            open_house(make_store=lambda store=store: store) as house,
            house.client().connected() as client,
        ):
            keys = house.core.unique
            keys.released = steps_of(keys.released)  # type: ignore[method-assign]
            first = unique(client, 1000, rule)
            await client.say(first)
            await accepted(client, first)
            store.may_commit = trio.Event()
            await client.say(client.submit(0))
            await trio.sleep(1)
            for number in range(1, length):
                await client.say(unique(client, number, rule))
            await trio.sleep(1)
            steps.clear()
            store.error = StoreOverLimit("too much")
            store.may_commit.set()
            for _ in range(length):
                assert (await client.hear(m.Declined)).code == "store-full"
            taken.append(len(steps))
            assert await states(client, first) == ["delayed" if rule is DEBOUNCE else "parked"]
            assert knows_nothing_more(house)
    assert taken[1] < 5 * taken[0]


class Damaged(DiskLike):
    """Cannot read one of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged = b""
        self.asked = 0

    async def find(self, ids: Collection[bytes]) -> Mapping[bytes, JobRow]:
        self.asked += 1
        if self.damaged in ids:
            await trio.lowlevel.checkpoint()
            raise StoreError("it cannot be read")
        return await super().find(ids)


async def test_a_job_that_cannot_be_read_keeps_none_of_the_others_from_being_replaced(
    autojump_clock: object,
) -> None:
    def options(key: str) -> dict[str, Any]:
        return {"unique": {**DEBOUNCE, "key": key, "delay_s": 300.0}}

    store = Damaged()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        jobs = [await client.submitted(n, options=options(f"{n}")) for n in range(5)]
        store.damaged = jobs[0].id
        for number in range(5):
            await client.submitted(10 + number, options=options(f"{number}"))
        await trio.sleep(1)
        assert await states(client, *jobs) == ["delayed", *["cancelled"] * 4]
        store.asked = 0
        await client.submitted(20, options=options("1"))
        await trio.sleep(15)
        assert store.asked < 10
        store.damaged = b""
        await trio.sleep(10)
        assert await states(client, jobs[0]) == ["cancelled"]
        assert knows_nothing_more(house)
