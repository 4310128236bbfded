"""Unique jobs where something goes wrong or comes in an odd order: told by peers that say exactly
what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.cluster.scripted import House, Peer, job_id, open_house
from tests.cluster.test_windows import LISTENING, DiskLike

from creche.engine.settings import PlaneSettings
from creche.errors import StoreFull, StoreOverLimit
from creche.model.job import JobState
from creche.store.base import Batch
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m

pytestmark = pytest.mark.trio

EXISTING = {"key": "k"}
REPLACE = {"key": "k", "on_duplicate": "replace"}
CANCEL = {"key": "k", "on_duplicate": "cancel"}


def unique(client: Peer, number: int, rule: dict[str, Any], **changes: Any) -> m.Submit:
    return client.submit(number, **{"options": {"unique": rule}} | changes)


def knows_nothing_more(house: House) -> bool:
    """Whether all that is known of keys is in the store."""
    keys = house.core.unique
    holders, replaced = keys.holders, keys.replaced
    return not (
        holders.takings or holders._newest or keys._followers or replaced.absent
        or replaced._revived
    )  # fmt: skip


class Slow(DiskLike):
    """Answers when it is told to; what is asked takes effect at once."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_asked = trio.Event()
        self.may_answer_keys = trio.Event()
        self.may_answer_keys.set()
        self.may_commit = trio.Event()
        self.may_commit.set()
        self.error: Exception | None = None
        self.is_dead = False

    async def commit(self, batch: Batch) -> Any:
        await self.may_commit.wait()
        if self.error is not None and batch.jobs:
            await trio.lowlevel.checkpoint()
            raise self.error
        if self.is_dead:
            await trio.sleep_forever()
        return await super().commit(batch)

    async def keys(self, names: Any) -> Any:
        found = await super().keys(names)
        self.keys_asked.set()
        await self.may_answer_keys.wait()
        return found


async def test_what_was_sent_before_is_the_job_that_it_was(autojump_clock: object) -> None:
    async with open_house(make_store=DiskLike) as house:
        peer = house.client()
        async with peer.connected() as client:
            first = unique(client, 1, EXISTING)
            second = unique(client, 2, EXISTING)
            await client.say(first, second)
            assert (await client.hear(m.Accepted)).ns == [first.n]
            assert await client.hear(m.Existing) == m.Existing(second.n, first.id, False)
        async with peer.connected() as client:
            # Neither answer has arrived there.
            resent = [each._replace(flags=m.RESENT | m.WATCH) for each in (first, second)]
            await client.say(*resent)
            assert (await client.hear(m.Accepted)).ns == [first.n]
            assert await client.hear(m.Existing) == m.Existing(second.n, first.id, False)
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                await worker.finish(await worker.hear(m.Offer), 1)
                assert (await client.hear(m.Ended)).id == first.id
                await worker.hears_nothing(m.Offer, 5)
        assert knows_nothing_more(house)


async def test_submissions_of_one_session_keep_their_order(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        store.may_answer_keys = trio.Event()
        await client.say(unique(client, 1, EXISTING), client.submit(2), client.submit(3))
        await store.keys_asked.wait()
        await client.hears_nothing(m.Accepted, 5)
        store.may_answer_keys.set()
        rows: list[Any] = []
        while len(rows) < 3:
            await trio.sleep(1)
            rows = (await client.ask("jobs"))["jobs"]
        assert [row["id"][-4:] for row in rows] == [job_id(n).hex()[-4:] for n in (3, 2, 1)]


@pytest.mark.parametrize("rule", [EXISTING, {"key": "k", "on_duplicate": "reject"}])
async def test_who_is_one_with_a_job_that_is_not_stored_after_all_takes_its_place(
    autojump_clock: object, rule: dict[str, Any]
) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house:
        async with (
            house.client("a").connected() as a,
            house.client("b").connected() as b,
        ):
            store.may_commit, store.error = trio.Event(), StoreOverLimit("too much")
            first = unique(a, 1, rule)
            await a.say(first)
            await trio.sleep(1)
            second = unique(b, 2, rule)
            await b.say(second)
            await trio.sleep(1)
            await b.hears_nothing(m.Existing, 1)
            store.may_commit.set()
            assert (await a.hear(m.Declined)).code == "store-full"
            assert (await b.hear(m.Declined)).code == "store-full"
            store.error = None
            third = unique(b, 3, rule)
            await b.say(third)
            assert (await b.hear(m.Accepted)).ns == [third.n]
            is_refused = "on_duplicate" in rule
            await a.say(fourth := unique(a, 4, rule))
            assert await a.hear(m.Existing) == m.Existing(fourth.n, third.id, is_refused)
        assert knows_nothing_more(house)


async def test_nothing_is_replaced_by_what_finds_no_room(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        for rule in (REPLACE, CANCEL):
            first = unique(client, 1, rule, id=job_id(house.core.next_seq))
            await client.say(first)
            await client.hear(m.Accepted)
            store.error = StoreFull("no space left")
            await client.say(unique(client, 2, rule))
            assert (await client.hear(m.Declined)).code == "store-full"
            store.error = None
            await trio.sleep(5)
            (row,) = (await client.ask("jobs", limit=1))["jobs"]
            assert (row["id"].replace("-", ""), row["state"]) == (first.id.hex(), "parked")
            third = unique(client, 3, rule, id=job_id(100 + house.core.next_seq))
            await client.say(third)
            await client.hear(m.Accepted)
            rows = (await client.ask("jobs", limit=2))["jobs"]
            assert [row["state"] for row in rows] == ["parked", "cancelled"]
        assert knows_nothing_more(house)


async def test_a_plane_that_dies_before_it_cancels_what_is_replaced_does_it_when_it_is_back(
    autojump_clock: object,
) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        first, second = unique(client, 1, REPLACE), unique(client, 2, REPLACE)
        await client.say(first)
        await client.hear(m.Accepted)
        await client.say(second)
        await client.hear(m.Accepted)
        # Of what it says now nothing is kept.
        store.is_dead = True
    await store.aclose()
    store.is_dead = False
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await trio.sleep(1)
        rows = (await client.ask("jobs"))["jobs"]
        assert [row["state"] for row in rows] == ["parked", "cancelled"]
        assert [row["id"].replace("-", "") for row in rows] == [second.id.hex(), first.id.hex()]
        assert knows_nothing_more(house)


async def test_what_is_decided_while_the_store_is_asked_counts(autojump_clock: object) -> None:
    store = Slow()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client("a").connected() as a,
        house.client("b").connected() as b,
    ):
        first = unique(a, 1, EXISTING)
        await a.say(first)
        await a.hear(m.Accepted)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            offer = await worker.hear(m.Offer)
            store.keys_asked, store.may_answer_keys = trio.Event(), trio.Event()
            second = unique(b, 2, EXISTING)
            await b.say(second)
            await store.keys_asked.wait()
            # The store has answered that it runs; it ends before that is looked at.
            await worker.finish(offer, 1)
            await trio.sleep(1)
            store.may_answer_keys.set()
            assert (await b.hear(m.Accepted)).ns == [second.n]
    assert knows_nothing_more(house)


async def test_what_waits_for_room_has_its_key(autojump_clock: object) -> None:
    settings = PlaneSettings(window=1)
    async with (
        open_house(settings, MemoryStore) as house,
        house.client("a").connected() as a,
        house.client("b").connected() as b,
    ):
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await a.submitted(1)
            await a.submitted(2)
            waits = unique(a, 3, EXISTING)
            await a.say(waits)
            follows = unique(b, 4, EXISTING, flags=m.WATCH)
            await b.say(follows)
            await trio.sleep(1)
            withdrawn = unique(a, 5, {"key": "other"})
            after = unique(b, 6, {"key": "other"})
            await a.say(withdrawn)
            await trio.sleep(1)
            await b.say(after)
            await trio.sleep(1)
            await a.say(m.Cancel(77, [withdrawn.id], "not now"))
            assert (await a.hear(m.Declined)).n == withdrawn.n
            for _ in range(4):
                await worker.finish(await worker.hear(m.Offer), 1)
            assert await b.hear(m.Existing) == m.Existing(follows.n, waits.id, False)
            assert (await b.hear(m.Ended)).id == waits.id
            assert (await b.hear(m.Accepted)).ns == [after.n]
            await worker.hears_nothing(m.Offer, 5)
        assert knows_nothing_more(house)


async def test_who_waits_for_room_and_leaves_gives_its_key_back(autojump_clock: object) -> None:
    settings = PlaneSettings(window=1)
    async with open_house(settings, MemoryStore) as house, house.client("b").connected() as b:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await b.submitted(1)
            await b.submitted(2)
            async with house.client("a").connected() as a:
                await a.say(unique(a, 3, REPLACE))
                await trio.sleep(1)
                follows = unique(b, 4, EXISTING)
                await b.say(follows)
                await trio.sleep(1)
            await trio.sleep(40)
            for _ in range(3):
                await worker.finish(await worker.hear(m.Offer), 1)
            assert (await b.hear(m.Accepted)).ns == [follows.n]
            await worker.hears_nothing(m.Offer, 5)
        assert knows_nothing_more(house)


async def test_a_session_that_ends_is_told_nothing_more(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house:
        async with house.client("a").connected() as a:
            store.may_commit = trio.Event()
            await a.say(unique(a, 1, EXISTING))
            await trio.sleep(1)
            gone = house.client("b")
            async with gone.connected() as b:
                await b.say(follower := unique(b, 2, EXISTING))
                await trio.sleep(1)
            async with gone.connected() as b:
                await b.say(follower._replace(flags=m.RESENT))
                await trio.sleep(1)
            await trio.sleep(30)
            store.may_commit.set()
            await a.hear(m.Accepted)
        assert knows_nothing_more(house)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"unique": 7}, "unique has a key"),
        ({"unique": {"key": "a\0"}}, "printable characters"),
        ({"unique": {"key": "a", "states": ["asleep"]}}, "states are some of waiting"),
        ({"unique": {"key": "a", "states": []}}, "states are some of waiting"),
        ({"unique": {"key": "a", "period_s": -1}}, "period is a number of seconds"),
        ({"unique": {"key": "a", "on_duplicate": "laugh"}}, "on_duplicate is one of existing"),
        ({"unique": {"key": "a", "colour": "red"}}, "has no 'colour'"),
        ({"unique": {"key": "a", "by": []}}, "has no 'by'"),
        ({"unique": {"key": "a", "states": "waiting"}}, "states is a list"),
        ({"unique": {"key": "a", "states": [[]]}}, "made of texts and numbers"),
        ({"unique": {"key": "a", "period_s": {}}}, "made of texts and numbers"),
        (
            {"unique": {"key": "a", "delay_s": 5.0}, "limits": {"expires_s": 4.0}},
            "would expire after 4 s: it could never run",
        ),
        ({"unique": {"key": "a", "delay_s": 5.0}, "delay_s": 5.0}, "cannot be delayed too"),
        ({"idempotency_key": ""}, "an idempotency key is a text"),
        ({"idempotency_key": "x" * 201}, "1 to 200 printable"),
        ({"idempotency_key": 7}, "an idempotency key is a text"),
    ],
)
async def test_keys_that_are_none_are_declined(
    autojump_clock: object, options: dict[str, Any], why: str
) -> None:
    async with open_house() as house, house.client().connected() as client:
        await client.say(client.submit(1, options=options))
        declined = await client.hear(m.Declined)
        assert declined.code == "bad-key"
        assert why in declined.why
        await client.submitted(2)


async def test_a_store_that_cannot_tell_declines_what_is_unique_and_nothing_else(
    autojump_clock: object,
) -> None:
    from creche.errors import StoreError

    class Damaged(DiskLike):
        async def keys(self, names: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise StoreError("damaged")

    make_store: Callable[[], Any] = Damaged
    async with open_house(make_store=make_store) as house, house.client().connected() as client:
        bad = unique(client, 1, EXISTING)
        good = client.submit(2)
        await client.say(bad, good)
        assert (await client.hear(m.Declined)).n == bad.n
        assert (await client.hear(m.Accepted)).ns == [good.n]
        assert knows_nothing_more(house)


async def test_what_is_cancelled_while_it_is_looked_up_is_withdrawn(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        store.may_answer_keys = trio.Event()
        looked_up, behind = unique(client, 1, EXISTING), client.submit(2)
        await client.say(looked_up, behind)
        await store.keys_asked.wait()
        await client.say(m.Cancel(77, [looked_up.id, behind.id], "not now"))
        declined = [await client.hear(m.Declined) for _ in range(2)]
        assert [(each.n, each.code) for each in declined] == [
            (looked_up.n, "cancelled"), (behind.n, "cancelled"),
        ]  # fmt: skip
        assert (await client.hear(m.Answer)).body == [12, 12]
        store.may_answer_keys.set()
        await trio.sleep(1)
        assert (await client.ask("jobs"))["jobs"] == []
        assert knows_nothing_more(house)


async def test_who_is_one_with_what_is_on_its_way_can_be_withdrawn(autojump_clock: object) -> None:
    store = Slow()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client("a").connected() as a,
        house.client("b").connected() as b,
    ):
        store.may_commit = trio.Event()
        await a.say(first := unique(a, 1, EXISTING))
        await trio.sleep(1)
        await b.say(second := unique(b, 2, EXISTING))
        await trio.sleep(1)
        await b.say(m.Cancel(77, [second.id], "not now"))
        assert (await b.hear(m.Declined)).n == second.n
        store.may_commit.set()
        assert (await a.hear(m.Accepted)).ns == [first.n]
        await b.hears_nothing(m.Existing, 5)
        assert knows_nothing_more(house)


@pytest.mark.parametrize("window", [1, 100])
async def test_what_was_accepted_is_so_whatever_its_task_announces_since(
    autojump_clock: object, window: int
) -> None:
    async with open_house(PlaneSettings(window=window), DiskLike) as house:
        peer = house.client()
        async with peer.connected() as client:
            await client.submitted(0)
            old = await client.submitted(1)
        async with house.worker().connected(queues=["other"]) as worker:
            rule = {"by": [{"is_code": True}]}
            await worker.say(m.Announce([{"name": "echo", "unique": rule}]))
            async with peer.connected() as client:
                new = client.submit(2)
                await client.say(old._replace(flags=m.RESENT), new._replace(flags=m.RESENT))
                assert (await client.hear(m.Accepted)).ns == [old.n]
                declined = await client.hear(m.Declined)
                assert (declined.n, declined.code) == (new.n, "bad-key")


async def test_who_is_replaced_while_it_waits_for_room_leaves_the_key_to_its_successor(
    autojump_clock: object,
) -> None:
    settings = PlaneSettings(window=1)
    async with open_house(settings, MemoryStore) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.submitted(1)
            await client.submitted(2)
            older = unique(client, 3, REPLACE)
            newer = unique(client, 4, REPLACE, priority=3)
            await client.say(older, newer)
            assert (await client.hear(m.Accepted)).ns == [newer.n]
            after = unique(client, 5, EXISTING)
            await client.say(after)
            assert await client.hear(m.Existing) == m.Existing(after.n, newer.id, False)
            for _ in range(3):
                await worker.finish(await worker.hear(m.Offer), 1)
            await worker.hears_nothing(m.Offer, 5)
        assert knows_nothing_more(house)


async def test_what_went_on_is_not_cancelled_by_a_restart(autojump_clock: object) -> None:
    store = DiskLike()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            retry = {"retries": 1, "backoff": 1000.0}
            older = client.submit(1, options={"unique": REPLACE, "retry": retry})
            await client.say(older)
            await client.hear(m.Accepted)
            offer = await worker.hear(m.Offer)
            await client.say(unique(client, 2, REPLACE))
            await client.hear(m.Accepted)
            await worker.try_again(offer)
            await worker.hear(m.Settled)
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await trio.sleep(1)
        rows = (await client.ask("jobs"))["jobs"]
        assert rows[1]["state"] == "delayed"


async def test_no_more_results_are_waited_for_than_may_be(autojump_clock: object) -> None:
    """Also by who learns that a submission is one with a job that is there."""

    async def sleep(what: int) -> int:
        await trio.sleep(100)
        return what

    one = task("one", registry=Registry(), unique=True)(sleep)
    plain = task("plain", registry=Registry())(sleep)
    store, settings = Slow(), PlaneSettings(watches=2)
    async with (
        open_cluster([one, plain], settings=settings, make_store=lambda: store) as cluster,
        cluster.client(name="a") as a,
        cluster.client(name="b") as b,
    ):
        there, foreign = await b.submit(one, 7), await b.submit(plain, 1)
        mine = await a.submit(plain, 2)
        store.may_answer_keys = trio.Event()
        results: dict[str, int] = {}

        async def submit() -> None:
            results["met"] = await (await a.submit(one, 7)).result()

        async def wait() -> None:
            results["foreign"] = await a.result(foreign.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            await trio.sleep(1)
            nursery.start_soon(wait)
            await trio.sleep(1)
            store.may_answer_keys.set()
        assert results == {"met": 7, "foreign": 1}
        assert [await mine.result(), await there.result()] == [2, 7]


async def test_what_runs_and_was_to_be_cancelled_is_after_a_crash(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house:
        worker = house.worker()
        async with worker.connected(**LISTENING), house.client().connected() as client:
            await worker.ready("echo", slots=1)
            await client.say(older := unique(client, 1, CANCEL))
            await client.hear(m.Accepted)
            offer = await worker.hear(m.Offer)
            await trio.sleep(1)
            await client.say(unique(client, 2, CANCEL))
            await client.hear(m.Accepted)
            # Of what it says now nothing is kept.
            store.is_dead = True
    await store.aclose()
    store.is_dead = False
    store._jobs.unfinished[offer.seq] = store._jobs.unfinished[offer.seq]._replace(
        state=JobState.RUNNING
    )
    async with open_house(make_store=lambda: store) as house:
        worker.listener = house.listener
        held = [[offer.seq, offer.epoch, offer.attempt]]
        async with worker.connected(**LISTENING, held=held):
            stop = await worker.hear(m.Stop)
            assert (stop.seq, stop.attempt, stop.why) == (offer.seq, offer.attempt, "replaced")
        assert older.id in house.core.by_id
