"""A worker names the attempts it has: it is believed only where it can be right, and what it names
in vain harms nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.cluster.scripted import open_house

from creche.engine.leases import MAX_UNWRITTEN
from creche.errors import ChannelBroken
from creche.store.memory import MemoryStore
from creche.store.sqlite import SqliteStore
from creche.wire import codec
from creche.wire import messages as m

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}
LARGEST = 2**63 - 1


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_number_that_no_store_can_hold_is_refused_before_anything_is_done_with_it(
    tmp_path: Path, number, place
):
    token = [1, 1, 1]
    token[place] = number
    async with open_house(make_store=lambda: SqliteStore(tmp_path / "a.db")) as house:
        async with house.client().connected() as client:
            await client.submitted(1)
            hello = house.worker("bad").hello(**LISTENING, held=[token])
            with trio.fail_after(30):
                async with house.listener.dial("bad") as channel:
                    await channel.send(codec.encode_frame([hello]))
                    (refusal,) = codec.decode_frame(await channel.receive())
                    assert isinstance(refusal, m.Refusal)
                    with pytest.raises(ChannelBroken):
                        await channel.receive()
            await client.submitted(2)


@pytest.mark.parametrize("attempt", [0, MAX_UNWRITTEN + 1, LARGEST])
async def test_an_attempt_that_cannot_be_is_stopped_and_does_not_spoil_its_job(
    autojump_clock, attempt
):
    """The job would have had no further attempt, or one that the store cannot count."""
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        job = await client.submitted(1)
    async with open_house(make_store=lambda: store) as house:
        async with house.worker("bad").connected(**LISTENING, held=[[1, 1, attempt]]) as bad:
            assert (await bad.hear(m.Stop)).attempt == attempt
            await bad.say(m.HandBack([[1, 1, attempt]]))
            await trio.sleep(1)
        async with house.worker("good").connected(**LISTENING) as good:
            await good.ready("echo")
            offer = await good.hear(m.Offer)
            assert (offer.id, offer.attempt) == (job.id, 1)


async def test_a_job_whose_worker_comes_back_with_another_attempt_is_given_to_others(
    autojump_clock,
):
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        job = await client.submitted(1)
        worker = house.worker("confused")
        async with worker.connected(**LISTENING):
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            await trio.sleep(1)
    async with open_house(make_store=lambda: store) as house:
        worker.listener = house.listener
        held = [[offer.seq, offer.epoch, offer.attempt + 1]]
        async with worker.connected(**LISTENING, held=held):
            await worker.hear(m.Stop)
            async with house.worker("good").connected(**LISTENING) as good:
                await good.ready("echo")
                assert (await good.hear(m.Offer)).id == job.id


@pytest.mark.parametrize("epoch", [0, 2, 3, LARGEST])
async def test_only_an_attempt_of_an_earlier_epoch_is_adopted(autojump_clock, epoch):
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
    async with open_house(make_store=lambda: store) as house:
        assert house.core.epoch == 2
        async with house.worker("bad").connected(**LISTENING, held=[[1, epoch, 1]]) as bad:
            await bad.hear(m.Stop)


async def test_an_attempt_is_not_adopted_from_an_epoch_before_the_jobs_last_one(autojump_clock):
    """Tokens only grow: an older plane's attempt is over when a newer one's was written."""
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
    async with open_house(make_store=lambda: store) as house:
        async with house.worker("w").connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            await worker.say(
                m.Capacity(0, 0), m.HandBack([[offer.seq, offer.epoch, offer.attempt]])
            )
            await trio.sleep(1)
    async with open_house(make_store=lambda: store) as house:
        late = house.worker("late")
        async with late.connected(**LISTENING, held=[[1, 1, offer.attempt + 1]]):
            await late.hear(m.Stop)


async def test_an_attempt_is_not_adopted_by_a_worker_that_does_not_listen_on_its_queue(
    autojump_clock,
):
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
    async with open_house(make_store=lambda: store) as house:
        elsewhere = house.worker("elsewhere")
        async with elsewhere.connected(queues=["other"], held=[[1, 1, 1]]):
            await elsewhere.hear(m.Stop)
            async with house.worker("good").connected(**LISTENING) as good:
                await good.ready("echo")
                assert (await good.hear(m.Offer)).attempt == 1


async def test_what_a_worker_held_is_not_lost_when_one_comes_whose_name_begins_alike(
    autojump_clock,
):
    """`host` is not a new process of `host/gpu`."""
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        job = await client.submitted(1)
        worker = house.worker("host/gpu")
        async with worker.connected(**LISTENING):
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            await trio.sleep(1)
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        other = house.worker("host")
        async with other.connected(**LISTENING):
            await other.ready("echo", slots=1)
            await other.hears_nothing(m.Offer, 3)
            worker.listener = house.listener
            held = [[offer.seq, offer.epoch, offer.attempt]]
            async with worker.connected(**LISTENING, held=held):
                await worker.ready("echo", slots=1)
                await client.say(m.Watch([job.id]))
                await worker.finish(offer, "kept")
                await client.hear(m.Ended)
                assert (await client.ask("job", id=job.id))["losses"] == 0
