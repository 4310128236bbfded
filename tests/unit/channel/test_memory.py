"""The linked pair: what its fault hooks do to a frame, and the listener that hands out pairs."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from creche.channel.base import Channel
from creche.channel.memory import Fate, Faults, MemoryChannel, MemoryListener, linked_pair
from creche.errors import ChannelBroken, ChannelClosed, ListenError, PlaneUnreachable
from creche.wire.codec import Limits

pytestmark = pytest.mark.trio


async def drain(channel: MemoryChannel) -> list[bytes]:
    """Receive until the channel breaks."""
    frames = []
    with trio.fail_after(60), pytest.raises(ChannelBroken):
        while True:
            frames.append(await channel.receive())
    return frames


async def send_numbers(channel: MemoryChannel, upto: int) -> int:
    """Send 1, 2, ... until it breaks; return how many sends returned."""
    for sent in range(upto):
        try:
            await channel.send(b"%d" % (sent + 1))
        except ChannelBroken:
            return sent
    return upto


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize(
    ("fate", "sent", "arrived"),
    [
        (Fate.CUT_BEFORE, -1, -1),
        (Fate.LOSE_AND_CUT, 0, -1),
        (Fate.CUT_AFTER, 0, 0),
    ],
)
async def test_a_cut_at_a_chosen_frame_falls_exactly_there(
    at: int, fate: Fate, sent: int, arrived: int
) -> None:
    client, plane = linked_pair(a_to_b=Faults({at: fate}))
    assert await send_numbers(client, 10) == at + sent
    assert len(await drain(plane)) == at + arrived
    with pytest.raises(ChannelBroken, match="cut"):
        await plane.send(b"")
    with pytest.raises(ChannelBroken, match="cut"):
        await client.receive()


async def test_a_cut_may_lose_what_was_on_its_way() -> None:
    client, plane = linked_pair(a_to_b=Faults({4: Fate.CUT_BEFORE}, deliver_in_flight=False))
    assert await send_numbers(client, 10) == 3
    assert await drain(plane) == []


async def test_a_dropped_frame_is_missed_by_nobody_and_a_duplicate_comes_twice() -> None:
    client, plane = linked_pair(a_to_b=Faults({2: Fate.DROP, 3: Fate.DUPLICATE}))
    await send_numbers(client, 4)
    await client.aclose()
    assert await drain(plane) == [b"1", b"3", b"3", b"4"]


async def test_a_hook_sees_number_and_bytes_and_one_object_counts_both_directions() -> None:
    seen = []

    def hook(number: int, frame: bytes) -> Fate:
        seen.append((number, frame))
        return Fate.DELIVER

    faults = Faults(hook=hook)
    client, plane = linked_pair(a_to_b=faults, b_to_a=faults)
    await client.send(b"ask")
    await plane.send(b"answer")
    await client.send(b"thanks")
    assert seen == [(1, b"ask"), (2, b"answer"), (3, b"thanks")]
    assert faults.frames == 3


async def test_a_delay_is_a_latency_and_not_a_bottleneck(autojump_clock: MockClock) -> None:
    client, plane = linked_pair(a_to_b=Faults(delay_s=2.0))
    began_at = trio.current_time()
    assert await send_numbers(client, 10) == 10
    assert trio.current_time() == began_at
    assert [await plane.receive() for _ in range(10)] == [b"%d" % (n + 1) for n in range(10)]
    assert trio.current_time() == began_at + 2.0


async def test_a_receive_cancelled_while_its_frame_travels_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    client, plane = linked_pair(a_to_b=Faults(delay_s=2.0))
    await client.send(b"slow")
    with trio.move_on_after(1) as scope:
        await plane.receive()
    assert scope.cancelled_caught
    with trio.fail_after(5):
        assert await plane.receive() == b"slow"


@pytest.mark.parametrize("deliver", [True, False])
async def test_a_cut_while_a_frame_travels_wakes_the_receiver(
    deliver: bool, autojump_clock: MockClock
) -> None:
    client, plane = linked_pair(a_to_b=Faults(delay_s=5.0))
    got = []

    async def receive() -> None:
        got.extend(await drain(plane))

    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        await client.send(b"slow")
        nursery.start_soon(receive)
        await trio.sleep(1)
        client.cut(deliver_in_flight=deliver)
    assert got == ([b"slow"] if deliver else [])
    assert trio.current_time() == began_at + (5 if deliver else 1)


async def test_a_full_pipe_makes_the_sender_wait_and_a_cut_wakes_it(
    autojump_clock: MockClock,
) -> None:
    client, _plane = linked_pair(capacity=3)
    sent = []

    async def send() -> None:
        sent.append(await send_numbers(client, 10))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert sent == []
            client.cut()
    assert sent == [3]


async def test_a_frame_over_the_limit_breaks_both_ends_and_says_so() -> None:
    client, plane = linked_pair(limits=Limits(frame_bytes=10))
    await client.send(b"x" * 11)
    with pytest.raises(ChannelBroken, match="11 bytes, over the limit of 10"):
        await plane.receive()
    with pytest.raises(ChannelBroken, match="over the limit"):
        await client.send(b"")


async def echo(channel: Channel) -> None:
    try:
        while True:
            await channel.send(await channel.receive())
    except (ChannelBroken, ChannelClosed):
        pass


async def test_a_listener_runs_its_handler_for_each_dial(nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    assert await nursery.start(listener.serve, echo) == ("memory:plane",)
    async with listener.dial("w1") as one, listener.dial("w2") as two:
        assert (one.name, one.peer) == ("w1", "plane")
        await one.send(b"1")
        await two.send(b"2")
        with trio.fail_after(5):
            assert [await one.receive(), await two.receive()] == [b"1", b"2"]
        assert listener.connections == [one, two]
    assert listener.connections == []
    with pytest.raises(ChannelClosed):
        await one.send(b"late")


async def test_when_the_handler_returns_its_connection_is_closed(nursery: trio.Nursery) -> None:
    async def say_one_thing(channel: Channel) -> None:
        await channel.send(b"hello and goodbye")

    listener = MemoryListener()
    await nursery.start(listener.serve, say_one_thing)
    async with listener.dial() as channel:
        assert await drain(channel) == [b"hello and goodbye"]


async def test_nobody_listening_or_refusing_is_a_plane_out_of_reach(nursery: trio.Nursery) -> None:
    listener = MemoryListener("far")
    with pytest.raises(PlaneUnreachable, match="memory:far"):
        async with listener.dial():
            raise AssertionError("nobody listens")
    await nursery.start(listener.serve, echo)
    listener.refuse = True
    with pytest.raises(PlaneUnreachable, match="refused"):
        async with listener.dial():
            raise AssertionError("it refuses")
    listener.refuse = False
    async with listener.dial() as channel:
        assert channel.is_open


async def test_a_second_server_on_one_listener_is_refused(nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    await nursery.start(listener.serve, echo)
    with pytest.raises(ListenError, match="memory:plane"):
        await listener.serve(echo)


async def test_faults_count_on_over_the_connections_of_a_listener(nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    listener.to_plane = listener.to_peer = faults = Faults({3: Fate.LOSE_AND_CUT})
    await nursery.start(listener.serve, echo)
    async with listener.dial() as first:
        await first.send(b"one")
        assert await first.receive() == b"one"
        await first.send(b"lost")
        assert await drain(first) == []
    async with listener.dial() as second:
        await second.send(b"two")
        assert await second.receive() == b"two"
    assert faults.frames == 5


async def test_every_open_connection_can_be_cut_at_once(nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    await nursery.start(listener.serve, echo)
    async with listener.dial() as one, listener.dial() as two:
        await two.aclose()
        assert listener.cut_all() == 1
        with pytest.raises(ChannelBroken):
            await one.receive()


async def test_a_stopped_listener_leaves_handlers_in_a_nursery_of_their_own_alone(
    nursery: trio.Nursery,
) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as intake:
        await intake.start(partial(listener.serve, echo, handler_nursery=nursery))
        async with listener.dial() as channel:
            intake.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(5):
                await channel.send(b"still here")
                assert await channel.receive() == b"still here"
