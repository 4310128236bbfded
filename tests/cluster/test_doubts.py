"""What was sent before is looked up before anybody says that nothing of it is stored."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_windows import DiskLike

from creche.engine import doubts
from creche.engine.settings import PlaneSettings
from creche.errors import StoreError, StoreFull
from creche.model.job import JobState
from creche.wire import messages as m
from creche.wire.payload import encode_call

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}


class Troubled(DiskLike):
    """A store that is full, or cannot be read, when a test says so."""

    is_full = is_unreadable = False

    async def commit(self, batch):
        if self.is_full:
            await trio.lowlevel.checkpoint()
            raise StoreFull("no space left on device")
        return await super().commit(batch)

    async def outcomes(self, ids, max_bytes=None):
        if self.is_unreadable:
            await trio.lowlevel.checkpoint()
            raise StoreError("disk I/O error")
        return await super().outcomes(ids, max_bytes)


def again(message: m.Submit) -> m.Submit:
    return message._replace(flags=message.flags | m.RESENT | m.WATCH)


async def run_one(client: Peer, worker: Peer, number: int) -> m.Submit:
    """Have a job submitted, run and ended."""
    message = client.submit(number, flags=m.WATCH)
    await client.say(message)
    await worker.finish(await worker.hear(m.Offer), number)
    await client.hear(m.Ended)
    return message


async def hears_that_it_ended(client: Peer, message: m.Submit) -> None:
    await client.say(again(message))
    assert (await client.hear(m.Accepted)).ns == [message.n]
    ended = await client.hear(m.Ended)
    assert (ended.id, ended.state) == (message.id, JobState.SUCCEEDED)
    assert not any(isinstance(heard, m.Declined) for heard in client.heard)


async def test_a_plane_that_stops_says_of_what_ended_that_it_was_accepted(autojump_clock):
    async with open_house(make_store=DiskLike) as house:
        client = house.client()
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            async with client.connected():
                done = await run_one(client, worker, 1)
                await client.submitted(2)
                offer = await worker.hear(m.Offer)
            async with client.connected():
                house.stop.set()
                await trio.sleep(1)
                new = client.submit(3)
                await client.say(again(new))
                assert (await client.hear(m.Declined)).code == "stopping"
                await hears_that_it_ended(client, done)
                await worker.finish(offer)


async def test_a_full_disk_does_not_deny_what_it_holds(autojump_clock):
    store = Troubled()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            done = await run_one(client, worker, 1)
            store.is_full = True
            await client.say(client.submit(2))
            assert (await client.hear(m.Declined)).code == "store-full"
            await hears_that_it_ended(client, done)
            store.is_full = False


async def test_a_lane_s_tail_is_known_too(autojump_clock):
    settings = PlaneSettings(window=2)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        jobs = [await client.submitted(number) for number in range(6)]
        house.core.is_stopping = True
        for job in jobs:
            await client.say(again(job))
            assert (await client.hear(m.Accepted)).ns == [job.n]
        house.core.is_stopping = False


async def test_a_job_that_nobody_knows_is_run_and_keeps_its_place(autojump_clock, monkeypatch):
    monkeypatch.setattr(doubts, "PIECE", 2)
    async with open_house(make_store=DiskLike) as house, house.client().connected() as client:
        said = [client.submit(number) for number in range(9)]
        flagged = [again(message) if i in (0, 1, 5) else message for i, message in enumerate(said)]
        await client.say(*flagged[:4])
        await client.say(*flagged[4:])
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            for number in range(9):
                offer = await worker.hear(m.Offer)
                assert offer.payload == encode_call([number], {})
        await client.hears_nothing(m.Declined, 5)
        assert sum(len(heard.ns) for heard in client.heard if isinstance(heard, m.Accepted)) == 9


async def test_a_store_that_cannot_be_asked_leaves_it_uncertain(autojump_clock):
    store = Troubled()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        done = await client.submitted(1)
        del house.core.by_id[done.id]
        store.is_unreadable = True
        new = client.submit(2)
        await client.say(again(done), new)
        declined = await client.hear(m.Declined)
        assert (declined.n, declined.code) == (done.n, "uncertain")
        assert "disk I/O error" in declined.why
        assert (await client.hear(m.Accepted)).ns == [new.n]


async def test_more_than_may_be_unanswered_is_not_looked_up(autojump_clock):
    settings = PlaneSettings(unaccepted=3)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        await client.say(*(again(client.submit(number)) for number in range(9)))
        declined = [await client.hear(m.Declined) for _ in range(5)]
        assert {message.code for message in declined} == {"uncertain"}
        async with house.client("other").connected() as other:
            await other.submitted(100)


async def test_who_leaves_meanwhile_is_forgotten(autojump_clock):
    class Slow(DiskLike):
        async def outcomes(self, ids, max_bytes=None):
            await trio.sleep(1)
            return await super().outcomes(ids, max_bytes)

    async with open_house(make_store=Slow) as house, house.client().connected() as client:
        async with house.client("leaving").connected() as leaving:
            await leaving.say(again(leaving.submit(1)), leaving.submit(2), m.Goodbye(""))
            await client.say(again(client.submit(3)))
            await leaving.hears_the_end()
        assert (await client.hear(m.Accepted)).ns == [1]
        assert [job.payload for job in house.core.by_seq.values()] == [encode_call([3], {})]


class Gated(DiskLike):
    """Commits, and answers when it is asked, as a test lets it; nothing holds it up at first."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[trio.Event] = []
        """What the next questions wait for, before they are answered."""
        self.may_commit = trio.Event()
        self.may_commit.set()

    async def outcomes(self, ids, max_bytes=None):
        found = await super().outcomes(ids, max_bytes)
        if self.answers:
            await self.answers.pop(0).wait()
        return found

    async def commit(self, batch):
        await self.may_commit.wait()
        return await super().commit(batch)


async def test_what_is_sent_again_over_one_connection_after_the_other_is_answered_once(
    autojump_clock,
):
    """Who is told that nothing of it was stored submits it anew, or never; no copy may be left."""
    store = Gated()
    async with open_house(make_store=lambda: store) as house:
        client = house.client()
        async with client.connected(connection=1):
            lost = client.submit(1)
            store.answers = [first := trio.Event(), second := trio.Event()]
            await client.say(again(lost))
            await trio.sleep(1)
        async with client.connected(connection=2):
            await client.say(again(lost))
            await trio.sleep(1)
            store.is_full = True
            first.set()
            await client.hears_nothing(m.Declined, 1)
            second.set()
            assert (await client.hear(m.Declined)).code == "store-full"
            store.is_full = False
            await client.hears_nothing(m.Accepted, 30)
            assert (await client.ask("health"))["jobs"] == {}


async def test_what_is_declined_while_it_is_sent_again_is_not_taken(autojump_clock):
    store = Gated()
    async with open_house(make_store=lambda: store) as house:
        client = house.client()
        async with client.connected():
            lost = client.submit(1)
            store.may_commit = trio.Event()
            await client.say(lost)
            await trio.sleep(1)
        async with client.connected():
            store.is_full = True
            store.may_commit.set()
            assert (await client.hear(m.Declined)).n == lost.n
            store.is_full = False
            await trio.sleep(10)
            await client.say(again(lost))
            await client.hears_nothing(m.Accepted, 30)
            assert (await client.ask("health"))["jobs"] == {}
            await client.submitted(2)
