"""What every channel promises, whichever end it is and whatever carries it.

The same tests run over the linked pair in memory, both ends of trio-websocket, and the anyio client
against the plane's listener on Trio and on asyncio. On asyncio the listener lives in a thread of
its own, and the far end is driven from here through it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import anyio
import anyio.to_thread
import pytest
import trio
import trio.from_thread

from creche.channel import anyio_ws, handshake, trio_ws
from creche.channel.base import Channel
from creche.channel.memory import MemoryListener, linked_pair
from creche.errors import ChannelBroken, ChannelClosed, CrecheError
from creche.wire.codec import MIB, Limits

pytestmark = pytest.mark.anyio

PATIENCE_S = 30
LIMITS = Limits()

Ends: TypeAlias = tuple[Channel, Channel]


class Kind(NamedTuple):
    """A way to get two linked ends: the one under test first."""

    backend: str
    open: Callable[[], AbstractAsyncContextManager[Ends]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Ends]:
    near, far = linked_pair()
    yield near, far
    await near.aclose()
    await far.aclose()


@asynccontextmanager
async def on_trio(dial: Any, *, near_is_server: bool = False) -> AsyncIterator[Ends]:
    put, take = trio.open_memory_channel[Channel](1)

    async def hand_out(channel: Channel) -> None:
        await put.send(channel)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, hand_out, host="127.0.0.1", port=0)
        (url,) = await nursery.start(serve)
        async with dial(url) as client:
            server = await take.receive()
            yield (server, client) if near_is_server else (client, server)
        nursery.cancel_scope.cancel()


class Elsewhere:
    """A channel in another thread's Trio run."""

    def __init__(self, channel: Channel, token: trio.lowlevel.TrioToken) -> None:
        self._channel = channel
        self._token = token

    @property
    def peer(self) -> str:
        return self._channel.peer

    async def send(self, frame: bytes) -> None:
        await self._there(self._channel.send, frame)

    async def receive(self) -> bytes:
        frame = await self._there(self._channel.receive)
        assert isinstance(frame, bytes)
        return frame

    async def aclose(self) -> None:
        await self._there(self._channel.aclose)

    async def _there(self, do: Callable[..., Any], *args: Any) -> Any:
        call = partial(trio.from_thread.run, do, *args, trio_token=self._token)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)


@asynccontextmanager
async def across_threads() -> AsyncIterator[Ends]:
    ready = threading.Event()
    accepted = threading.Event()
    facts: dict[str, Any] = {}

    async def hand_out(channel: Channel) -> None:
        facts["channel"] = channel
        accepted.set()
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            serve = partial(trio_ws.serve, hand_out, host="127.0.0.1", port=0)
            (facts["url"],) = await nursery.start(serve)
            facts["token"] = trio.lowlevel.current_trio_token()
            facts["stop"] = nursery.cancel_scope.cancel
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    await anyio.to_thread.run_sync(ready.wait)
    try:
        async with anyio_ws.dial(facts["url"]) as near:
            await anyio.to_thread.run_sync(accepted.wait)
            yield near, Elsewhere(facts["channel"], facts["token"])
    finally:
        facts["token"].run_sync_soon(facts["stop"])
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(thread.join)


KINDS = {
    "memory": Kind("trio", in_memory),
    "trio dials": Kind("trio", partial(on_trio, trio_ws.dial)),
    "trio listens": Kind("trio", partial(on_trio, trio_ws.dial, near_is_server=True)),
    "anyio dials on trio": Kind("trio", partial(on_trio, anyio_ws.dial)),
    "anyio dials on asyncio": Kind("asyncio", across_threads),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def anyio_backend(kind: Kind) -> str:
    return kind.backend


async def drain(channel: Channel) -> list[bytes]:
    """Receive until the other side or the network has ended the channel."""
    frames = []
    with pytest.raises(ChannelBroken):
        while True:
            frames.append(await channel.receive())
    return frames


async def send_all(channel: Channel, frames: list[bytes]) -> None:
    for frame in frames:
        await channel.send(frame)


async def fails_with(channel: Channel, *, closed: bool) -> None:
    """Check what this end raises once it is over."""
    error: type[CrecheError] = ChannelClosed if closed else ChannelBroken
    with pytest.raises(error):
        await channel.send(b"late")
    with pytest.raises(error):
        await channel.receive()


async def test_frames_of_every_size_arrive_whole_and_in_order_both_ways(kind: Kind) -> None:
    # Around the edges of WebSocket's three length forms, an empty one, and the largest.
    sizes = [0, 1, 125, 126, 0, 65535, 65536, LIMITS.frame_bytes, 3]
    frames = [bytes([n]) * size for n, size in enumerate(sizes)]
    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            for one, other in [(near, far), (far, near)]:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send_all, one, frames)
                    for frame in frames:
                        assert await other.receive() == frame


async def test_large_frames_cross_in_both_directions_at_once(kind: Kind) -> None:
    frames = [bytes([n]) * MIB for n in range(8)]

    async def take(channel: Channel) -> None:
        for frame in frames:
            assert await channel.receive() == frame

    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            async with anyio.create_task_group() as tasks:
                for channel in (near, far):
                    tasks.start_soon(send_all, channel, frames)
                    tasks.start_soon(take, channel)


async def test_closing_delivers_what_was_sent_and_ends_both_ends(kind: Kind) -> None:
    frames = [b"%d" % n for n in range(10)]
    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            await send_all(near, frames)
            await near.aclose()
            await fails_with(near, closed=True)
            assert await drain(far) == frames
            await fails_with(far, closed=False)


async def test_the_other_side_closing_delivers_what_it_sent_and_breaks_this_end(
    kind: Kind,
) -> None:
    frames = [b"%d" % n for n in range(10)]
    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            await send_all(far, frames)
            async with anyio.create_task_group() as tasks:
                # An end that closes waits for a moment for the other one to agree.
                tasks.start_soon(far.aclose)
                assert await drain(near) == frames
            await fails_with(near, closed=False)
            await near.aclose()
            await fails_with(near, closed=True)


async def test_closing_wakes_whoever_waits_to_receive_at_either_end(kind: Kind) -> None:
    woken: list[type[BaseException]] = []

    async def wait(channel: Channel) -> None:
        try:
            await channel.receive()
        except CrecheError as error:
            woken.append(type(error))

    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, near)
                tasks.start_soon(wait, far)
                await anyio.wait_all_tasks_blocked()
                await near.aclose()
                await near.aclose()
    assert sorted(woken, key=str) == [ChannelBroken, ChannelClosed]


async def fill(channel: Channel, progress: list[int]) -> None:
    """Send without end; nobody receives."""
    for n in itertools.count():
        await channel.send(bytes(256 * 1024))
        progress[:] = [n]


async def is_stuck(progress: list[int]) -> None:
    """Wait until nothing more goes out. Nothing depends on being right about that."""
    seen: list[int] | None = None
    while seen != progress:
        seen = list(progress)
        await anyio.sleep(0.05)


async def test_closing_wakes_a_sender_whom_nobody_listens_to(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "CLOSE_S", 0.1)
    progress: list[int] = []

    async def send_until_closed(channel: Channel) -> None:
        with pytest.raises(ChannelClosed):
            await fill(channel, progress)

    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, _far):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_until_closed, near)
                await is_stuck(progress)
                await near.aclose()


async def test_a_cancelled_receive_loses_nothing(kind: Kind) -> None:
    frames = [b"%d" % n * 1000 for n in range(300)]
    got: list[bytes] = []
    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_all, far, frames)
                for n in itertools.count():
                    # Cancelled before it begins, soon after, and in the midst of things.
                    with anyio.move_on_after([-1, 0, 0.0002, 0.001][n % 4]):
                        got.append(await near.receive())
                    if len(got) == len(frames):
                        break
    assert got == frames


@pytest.mark.parametrize("when", ["before it began", "when it was stuck"])
async def test_a_cancelled_send_breaks_the_connection(
    kind: Kind, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "CLOSE_S", 0.1)
    progress: list[int] = []
    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            if when == "before it began":
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await near.send(b"half")
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fill, near, progress)
                    await is_stuck(progress)
                    tasks.cancel_scope.cancel()
            with pytest.raises(ChannelBroken, match="cancel"):
                await near.send(b"more")
            with pytest.raises(ChannelBroken):
                await near.receive()
            # Never half a frame.
            assert all(frame == bytes(256 * 1024) for frame in await drain(far))


@pytest.mark.parametrize("over", [1, 5 * MIB])
async def test_a_frame_over_the_limit_ends_the_connection_and_both_learn_why(
    kind: Kind, over: int
) -> None:
    async def offend(channel: Channel) -> None:
        with contextlib.suppress(ChannelBroken):
            await channel.send(bytes(LIMITS.frame_bytes + over))
        with pytest.raises(ChannelBroken, match=r"limit|too big"):
            await channel.receive()
        await channel.aclose()

    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(offend, far)
                with pytest.raises(ChannelBroken, match=r"limit|too big"):
                    await near.receive()
                with pytest.raises(ChannelBroken, match=r"limit|too big"):
                    await near.send(b"")
                await near.aclose()


async def test_a_channel_names_its_other_end(kind: Kind) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with kind.open() as (near, far):
            assert near.peer == "plane" or near.peer.startswith("127.0.0.1:")
            assert far.peer == "client" or far.peer.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    "dial", [None, trio_ws.dial, anyio_ws.dial], ids=["memory", "trio", "anyio"]
)
@pytest.mark.parametrize("kind", [KINDS["memory"]], ids=["trio"])
async def test_what_the_block_of_a_dial_raises_comes_out_as_it_is(kind: Kind, dial: Any) -> None:
    async def converse(channel: Channel) -> None:
        await drain(channel)

    with anyio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            if dial is None:
                listener = MemoryListener()
                await nursery.start(listener.serve, converse)
                connect: Any = listener.dial
            else:
                (url,) = await nursery.start(
                    partial(trio_ws.serve, converse, host="127.0.0.1", port=0)
                )
                connect = partial(dial, url)
            with pytest.raises(ZeroDivisionError):
                async with connect():
                    raise ZeroDivisionError
            with anyio.CancelScope() as scope:
                async with connect():
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()
