"""Floods and slow ones at the listener's own port: others connect and are served meanwhile."""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from tests.unit.channel.test_trio_ws import CRECHE, UPGRADE, Server, echo, serving

from creche.channel import gauge, handshake, lobby, trio_ws
from creche.channel.base import Channel
from creche.cli.bench_attacks import websocket_frame
from creche.errors import ChannelBroken

pytestmark = pytest.mark.trio


@pytest.fixture(autouse=True)
def no_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG, "creche")
    yield
    assert not [r for r in caplog.records if r.levelno > logging.INFO or r.exc_info]


async def let_in_and_echo(channel: Channel) -> None:
    """What a plane does: a peer that has said something is no stranger."""
    with suppress(ChannelBroken):
        await channel.send(await channel.receive())
        channel.let_in()
        await echo(channel)


@asynccontextmanager
async def websocket(server: Server) -> AsyncIterator[trio.SocketStream]:
    async with await server.connect() as stream:
        await stream.send_all(UPGRADE + CRECHE + b"\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        yield stream


async def read_on(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some():
            pass


@pytest.mark.parametrize(
    "said", [b"", UPGRADE, UPGRADE + CRECHE + b"\r\n"], ids=["nothing", "some", "all"]
)
async def test_of_connections_that_say_nothing_the_oldest_go_and_a_peer_is_served(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(lobby.Lobby.__init__, "__defaults__", (20,))
    async with serving(let_in_and_echo, handshake_s=1000.0) as server:
        async with trio_ws.dial(server.url) as peer, trio.open_nursery() as nursery:
            await peer.send(b"I am here")
            assert await peer.receive() == b"I am here"
            streams = []
            for _ in range(100):
                stream = await server.connect()
                streams.append(stream)
                await stream.send_all(said)
                nursery.start_soon(read_on, stream)
            await server.answers()
            while len(server.nursery.child_tasks) > 21:
                await trio.sleep(0.01)
            # Who was let in is not given up for strangers.
            await peer.send(b"still")
            assert await peer.receive() == b"still"
            for stream in streams:
                await stream.aclose()


async def test_a_handshake_byte_by_byte_is_read_slowly_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    naps = []
    sleep = trio.sleep

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await sleep(0)

    async with serving() as server:
        slow = await server.connect()
        monkeypatch.setattr(trio, "sleep", nap)
        for byte in UPGRADE:
            await slow.send_all(bytes([byte]))
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        monkeypatch.undo()
        await server.answers()
        assert handshake.HANDSHAKE_READ_S in naps
        await slow.aclose()


@pytest.mark.parametrize("opcode", [9, 10], ids=["pings", "pongs"])
async def test_pings_by_the_thousand_are_read_slowly_and_others_are_served(opcode: int) -> None:
    async with serving() as server, websocket(server) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(read_on, stream)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await stream.send_all(websocket_frame(b"", opcode) * 10_000)
                sent += 10_000

        nursery.start_soon(send)
        for _ in range(20):
            await server.answers()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("content", [b"", b"x"], ids=["empty", "a byte"])
async def test_a_message_in_parts_without_end_ends_and_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(gauge, "SMALL_FRAME_S", 0.0)
    async with serving() as server, websocket(server) as stream:
        parts = websocket_frame(content, 0, is_last=False) * 1000
        tracemalloc.start()
        try:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(websocket_frame(content, 2, is_last=False))
                for _ in range(1 + gauge.MAX_PARTS // 1000):
                    await stream.send_all(parts)
                await read_on(stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5_000_000
        await server.answers()


async def test_a_frame_that_only_says_how_long_it_is_takes_no_memory() -> None:
    async with serving() as server, websocket(server) as stream:
        tracemalloc.start()
        try:
            await stream.send_all(b"\x82\xff\x3f" + b"\xff" * 7 + bytes(4) + b"abc")
            await server.answers()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5_000_000


async def test_messages_of_any_size_come_through_whole() -> None:
    async with serving() as server, trio_ws.dial(server.url) as channel:
        for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
            data = os.urandom(size)
            await channel.send(data)
            assert await channel.receive() == data
