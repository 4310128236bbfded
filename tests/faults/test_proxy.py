"""The proxy that cuts and slows: it loses nothing but what its rules say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.faults.proxy import Frames, Proxy, Rules

pytestmark = pytest.mark.trio

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


async def _echo(stream: trio.SocketStream) -> None:
    async for piece in stream:
        await stream.send_all(piece)
    await stream.send_eof()


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Proxy, trio.SocketStream]]:
    """A proxy before something that sends back what it gets, and a connection through it."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, _echo, [listener])
            proxy = Proxy(listener.socket.getsockname()[1])
            port = await nursery.start(proxy.run)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                yield proxy, stream
            nursery.cancel_scope.cancel()


async def read(stream: trio.SocketStream, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = await stream.receive_some(size - len(found))
        if not piece:
            break
        found += piece
    return found


async def test_without_rules_everything_passes_and_so_does_the_end() -> None:
    sent = bytes(range(256)) * 1000
    async with echoing() as (_, stream), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, sent)
        assert await read(stream, len(sent)) == sent
        await stream.send_eof()
        assert await stream.receive_some() == b""


@pytest.mark.parametrize("name", ["up", "down"])
async def test_what_is_held_arrives_later_in_order_and_nobody_is_told(name: str) -> None:
    async with echoing() as (proxy, stream):
        proxy.set(**{name: Rules(is_held=True)})
        await stream.send_all(b"first")
        with trio.move_on_after(0.05) as patience:
            await stream.receive_some()
        assert patience.cancelled_caught
        await stream.send_all(b"second")
        proxy.set()
        assert await read(stream, 11) == b"firstsecond"


async def test_a_connection_is_reset_after_so_many_bytes() -> None:
    async with echoing() as (proxy, stream):
        proxy.set(down=Rules(cut_after_bytes=3))
        await stream.send_all(b"abcdef")
        found = b""
        with pytest.raises(BROKEN):
            while piece := await stream.receive_some():
                found += piece
            raise trio.BrokenResourceError  # its end is as good
        assert found in (b"abc", b"")  # a reset may overtake what was on its way


async def test_a_half_closed_connection_still_brings_what_comes_back() -> None:
    async with echoing() as (proxy, stream):
        await stream.send_all(b"abc")
        assert await read(stream, 3) == b"abc"
        await proxy.half_close()
        assert await stream.receive_some() == b""  # who echoes had its end, and said its own


async def test_frames_are_found_wherever_the_pieces_are_cut() -> None:
    short, longer = b"\x82\x05hello", b"\x82\xfe\x01\x00mask" + bytes(256)
    stream = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n" + short + longer + b"\x89\x00"
    whole = Frames()
    http = stream.index(b"\r\n\r\n") + 4
    ends = whole.take(stream)
    assert ends == [http + 7, http + 7 + 264, http + 7 + 264 + 2]
    byte_by_byte = Frames()
    assert [n for n in range(len(stream)) if byte_by_byte.take(stream[n : n + 1])] == [
        end - 1 for end in ends
    ]
