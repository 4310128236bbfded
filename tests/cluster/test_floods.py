"""A peer that floods the plane is slowed down, bounded, or cut; the jobs of others go on as if it
were not there."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_bad_peers import LISTENING, still_works

from creche.engine import conversation, turns, under_way
from creche.engine.settings import PlaneSettings
from creche.errors import ChannelBroken
from creche.wire import codec
from creche.wire import messages as m

pytestmark = pytest.mark.trio

NOTHING = bytes(16)
FLOODS: dict[str, list[m.Message]] = {
    "pings": [m.Ping(1)] * 3000,
    "receipts of nothing": [m.Received([NOTHING] * 50)] * 500,
    "not waiting for nothing": [m.Unwatch([NOTHING])] * 3000,
    "waiting for nothing": [m.Watch([NOTHING]), m.Unwatch([NOTHING])] * 1500,
    "cancelling nothing": [m.Cancel(1, [NOTHING] * 1000, "")] * 40,
    "questions": [m.Ask(1, "overview", {})] * 40,
    "questions that are none": [m.Ask(1, "weather", {"a": [{}] * 1000})] * 30,
    "topics": [m.Subscribe(1, "overview", 10.0), m.Unsubscribe(1)] * 50,
    "empty frames": [],
}


async def flood(peer: Peer, messages: list[m.Message], said: list[int]) -> None:
    """Say the same for ever, and read what comes back."""

    async def read() -> None:
        while True:
            await peer._listen()
            peer.heard.clear()

    async with peer.connected(), trio.open_nursery() as nursery:
        nursery.start_soon(read)
        while True:
            await peer.say(*messages)
            said[0] += 1


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_is_slowed_down_and_the_jobs_of_others_take_no_longer(
    autojump_clock, caplog, what
):
    said = [0]
    async with open_house(capacity=4) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker, trio.open_nursery() as nursery:
            await worker.ready("echo")
            for _ in range(3):
                nursery.start_soon(flood, house.client("flood"), FLOODS[what], said)
            await trio.sleep(1)
            began, before = trio.current_time(), said[0]
            for number in range(5):
                await still_works(house, client, worker, number)
            # Not a moment of virtual time: nobody waits but who floods.
            assert trio.current_time() - began == 0
            while said[0] == before or trio.current_time() < began + 2:
                await trio.sleep(1)
            cost_s = turns.cost_of_frame(codec.encode_frame(FLOODS[what]), len(FLOODS[what]), 0, 0)
            assert (said[0] - before) * cost_s < 0.6 * (trio.current_time() - began) + 0.5
            nursery.cancel_scope.cancel()
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_who_works_never_stands_in_line_however_much_it_does(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=5000)
            began = trio.current_time()
            for start in range(0, 20_000, 5000):
                jobs = [client.submit(n, flags=m.WATCH) for n in range(start, start + 5000)]
                await client.say(*jobs)
                reports = []
                for n in range(5000):
                    offer = await worker.hear(m.Offer)
                    token = (offer.seq, offer.epoch, offer.attempt)
                    reports.append(m.Finished(start + n + 1, *token, 10, None, 5))
                await worker.say(*reports)
                for _ in range(5000):
                    await client.hear(m.Ended)
                await client.say(client.received(5000))
            # A lease may wait for its write; a turn in line would be much longer.
            assert trio.current_time() - began < 2


async def test_large_messages_in_pieces_never_stand_in_line(autojump_clock):
    settings = PlaneSettings(windows_bytes=1 << 30, window_bytes=1 << 29)
    async with open_house(settings) as house, house.client().connected() as client:
        began = trio.current_time()
        for number in range(6):
            large = client.submit(number, payload=bytes(8_000_000))
            for piece in codec.cut(1, codec.encode_message(large), 64 * codec.KIB):
                await client.say(piece)
            assert (await client.hear(m.Accepted)).ns == [large.n]
        assert trio.current_time() - began < 0.1


async def test_questions_of_loud_peers_that_come_and_go_do_not_pile_up(autojump_clock, monkeypatch):
    monkeypatch.setattr(turns, "MAX_IN_LINE", 40)
    async with open_house(PlaneSettings(sessions=5)) as house, house.client().connected() as client:
        for _ in range(30):
            async with house.client("loud").connected() as loud:
                await loud.say(*(m.Ask(n, "overview", {}) for n in range(32)))
                await trio.sleep(0.01)
                assert house.running is not None
                assert trio.lowlevel.current_statistics().tasks_living < 200
        assert await client.ask("health")
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            await still_works(house, client, worker, 1)


# --- sessions -------------------------------------------------------------------------------------


async def test_peers_that_went_away_make_room_for_those_that_come(autojump_clock):
    settings = PlaneSettings(sessions=10)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            for _ in range(1000):
                async with house.client("passing").connected():
                    assert len(house.core.sessions) <= 10
            await still_works(house, client, worker, 1)
            assert len(house.core.sessions) == 10


async def test_a_worker_that_is_away_keeps_its_place_and_what_it_runs(autojump_clock):
    settings = PlaneSettings(sessions=3)
    async with open_house(settings) as house, house.client().connected() as client:
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            await client.submitted(1)
            offer = await worker.hear(m.Offer)
        for _ in range(5):
            async with house.client("passing").connected():
                pass
        held = [[offer.seq, offer.epoch, offer.attempt]]
        async with worker.connected(**LISTENING, held=held):
            assert worker.welcome is not None
            assert worker.welcome.is_resumed


async def test_with_all_places_taken_by_peers_that_are_there_a_new_one_is_told_so(autojump_clock):
    settings = PlaneSettings(sessions=1)
    async with open_house(settings) as house, house.client().connected() as client:
        assert (await house.client("late").is_refused()).code == "full"
        assert await client.ask("health")


async def test_clients_that_take_all_places_keep_out_no_worker(autojump_clock):
    settings = PlaneSettings(sessions=32)
    async with open_house(settings) as house, AsyncExitStack() as stack:
        client = await stack.enter_async_context(house.client().connected())
        for _ in range(29):
            await stack.enter_async_context(house.client("stays").connected())
        assert (await house.client("late").is_refused()).code == "full"
        for name in ("a", "b"):
            worker = house.worker(name)
            await stack.enter_async_context(worker.connected(**LISTENING))
        assert (await house.worker("c").is_refused(**LISTENING)).code == "full"
        await worker.ready("echo")
        await still_works(house, client, worker, 1)


async def test_a_session_that_resumes_again_and_again_is_one_session(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        restless = house.client("restless")
        for _ in range(500):
            async with restless.connected():
                await restless.say(m.Watch([NOTHING]))
        assert len(house.core.sessions) == 2
        await client.submitted(1)


# --- pieces ---------------------------------------------------------------------------------------


async def begin_pieces(house: House, peer: Peer, streams: int) -> None:
    for stream in range(streams):
        await peer.say(m.Piece(stream, False, bytes(60_000)))
    await trio.sleep(0.1)


async def test_pieces_of_all_peers_together_are_bounded_and_the_stalest_goes(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(under_way.UnderWay.__init__, "__defaults__", (300_000,))
    async with open_house() as house, house.client().connected() as client:
        first, second = house.client("first"), house.client("second")
        async with first.connected(), second.connected():
            await begin_pieces(house, first, 3)
            await begin_pieces(house, second, 3)
            await first.hears_the_end()
            large = client.submit(1, payload=bytes(200_000))
            for piece in codec.cut(1, codec.encode_message(large), 60_000):
                await client.say(piece)
            assert (await client.hear(m.Accepted)).ns == [large.n]
        async with first.connected():
            assert first.welcome is not None
            assert first.welcome.is_resumed


async def test_one_peer_alone_may_have_under_way_what_its_limits_say(autojump_clock, monkeypatch):
    monkeypatch.setattr(under_way.UnderWay.__init__, "__defaults__", (1000,))
    async with open_house() as house, house.client().connected() as client:
        large = client.submit(1, payload=bytes(200_000))
        for piece in codec.cut(1, codec.encode_message(large), 60_000):
            await client.say(piece)
        assert (await client.hear(m.Accepted)).ns == [large.n]


async def test_one_piece_too_many_at_a_time_is_refused(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.client("bad").connected() as bad:
            with pytest.raises(ChannelBroken):
                for stream in range(10):
                    await bad.say(m.Piece(stream, False, b"x"))
                    await trio.sleep(0.1)
            assert (await bad.hear(m.Refusal)).code == "protocol"
        assert await client.ask("health")


async def test_a_frame_of_too_many_values_is_refused_and_one_of_many_is_not(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.client("bad").connected() as bad:
            empty: list[dict[str, int]] = [{}]
            await bad.say(m.Ask(1, "weather", {"a": empty * (conversation.MAX_ITEMS - 100)}))
            assert (await bad.hear(m.AskFailed)).code == "unknown-question"
            await bad.say(m.Ask(1, "weather", {"a": empty * conversation.MAX_ITEMS}))
            assert "200,000 values" in (await bad.hear(m.Refusal)).why
        assert await client.ask("health")


# --- look-ups -------------------------------------------------------------------------------------


async def test_waiting_for_jobs_that_there_are_not_is_charged_by_the_job(autojump_clock):
    said = [0]

    async def wait_for_nothing(peer: Peer) -> None:
        async def read() -> None:
            while True:
                await peer._listen()
                peer.heard.clear()

        async with peer.connected(), trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while True:
                base = said[0] * 5000
                await peer.say(m.Watch([(base + n).to_bytes(16, "big") for n in range(5000)]))
                said[0] += 1

    async with open_house(capacity=4) as house, house.client().connected() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait_for_nothing, house.client("flood"))
            await trio.sleep(1)
            began, before = trio.current_time(), said[0]
            await client.say(m.Watch([NOTHING]))
            assert (await client.hear(m.Missing)).id == NOTHING
            await trio.sleep(20)
            spent_s = (said[0] - before) * 5000 * turns.LOOK_UP_S
            assert spent_s < 0.3 * (trio.current_time() - began) + 0.5
            nursery.cancel_scope.cancel()


async def test_who_waits_for_many_jobs_that_there_are_never_stands_in_line(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=5000)
            jobs = [client.submit(n) for n in range(5000)]
            await client.say(*jobs)
            for number in range(1, 5001):
                offer = await worker.hear(m.Offer)
                token = (offer.seq, offer.epoch, offer.attempt)
                await worker.say(m.Finished(number, *token, 10, None, 5))
            async with house.client("waits").connected() as waiting:
                began = trio.current_time()
                for start in range(0, 25_000, 1000):
                    some = [job.id for job in jobs[start % 5000 : start % 5000 + 1000]]
                    await waiting.say(m.Watch(some))
                    for _ in range(1000):
                        await waiting.hear(m.Ended)
                assert trio.current_time() - began < 0.1
