"""What waits for peers that do not read is bounded over all of them, and costs those that do read
nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_bad_peers import LISTENING, still_works

from creche.engine import outboxes
from creche.errors import ChannelBroken
from creche.wire import codec
from creche.wire import messages as m

pytestmark = pytest.mark.trio

SIZE = 400_000
MOST = 3_000_000


@pytest.fixture(autouse=True)
def few_bytes(monkeypatch):
    monkeypatch.setattr(outboxes.Outboxes.__init__, "__defaults__", (MOST,))


async def submit_large(client: Peer) -> bytes:
    large = client.submit(1, payload=bytes(SIZE), queue="nobody")
    for piece in codec.cut(1, codec.encode_message(large), 60_000):
        await client.say(piece)
    assert (await client.hear(m.Accepted)).ns == [large.n]
    return large.id


def waits_bytes(house: House) -> int:
    boxes = [session.outbox for session in house.core.sessions]
    return sum(outbox.size_bytes for outbox in boxes if outbox is not None)


async def has_gone(peer: Peer) -> bool:
    try:
        await peer.say(m.Ping(1))
    except ChannelBroken:
        return True
    return False


async def test_peers_that_never_read_hold_no_more_than_the_limit_however_many_they_are(
    autojump_clock,
):
    async with open_house(capacity=2) as house, house.client().connected() as client:
        job_id = await submit_large(client)
        deaf = [house.client(f"deaf{n}") for n in range(10)]
        async with AsyncExitStack() as stack:
            for peer in deaf:
                await stack.enter_async_context(peer.connected())
                # They ping, so that they are not silent.
                whole = [m.Ask(n, "job", {"id": job_id, "whole": True}) for n in range(3)]
                await peer.say(*whole)
                await trio.sleep(1)
                assert waits_bytes(house) <= MOST
                assert house.core.outboxes.bytes <= MOST
            assert [await has_gone(peer) for peer in deaf] == [True] * 8 + [False] * 2
            # Who reads has its answer all the same.
            answer = await client.ask("job", id=job_id, whole=True)
            assert len(answer["payload"]) == SIZE
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                await still_works(house, client, worker, 2)
        async with deaf[0].connected():
            assert deaf[0].welcome is not None
            assert deaf[0].welcome.is_resumed
        assert house.core.outboxes.bytes == 0


async def test_who_reads_slowly_is_not_cut_for_those_who_do_not_read(autojump_clock):
    async with open_house(capacity=2) as house, house.client().connected() as client:
        job_id = await submit_large(client)
        whole = [m.Ask(n, "job", {"id": job_id, "whole": True}) for n in range(3)]
        slow = house.client("slow")

        async def read_slowly() -> None:
            while True:
                await trio.sleep(0.5)
                await slow._listen()

        async with slow.connected(), trio.open_nursery() as nursery, AsyncExitStack() as stack:
            await slow.say(*whole)
            nursery.start_soon(read_slowly)
            deaf = [house.client(f"deaf{n}") for n in range(8)]
            for peer in deaf:
                await stack.enter_async_context(peer.connected())
                await peer.say(*whole)
                await trio.sleep(1)
            assert await has_gone(deaf[0])  # there was too much, and somebody had to be cut
            with trio.fail_after(60):
                while len([a for a in slow.heard if isinstance(a, m.Answer)]) < 3:
                    await trio.sleep(1)
            nursery.cancel_scope.cancel()


async def test_one_peer_alone_may_have_waiting_for_it_what_its_own_limit_says(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(outboxes.Outboxes.__init__, "__defaults__", (1000,))
    async with open_house(capacity=2) as house, house.client().connected() as client:
        job_id = await submit_large(client)
        await client.say(*(m.Ask(n, "job", {"id": job_id, "whole": True}) for n in range(3)))
        await trio.sleep(1)
        for _ in range(3):
            assert len((await client.hear(m.Answer)).body["payload"]) == SIZE
