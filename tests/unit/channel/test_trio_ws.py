"""The plane's listener among strangers: whatever comes in ends one connection, and nothing else."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket
from hypothesis import given
from hypothesis import strategies as st

from creche.channel import handshake, trio_ws
from creche.channel.base import Channel
from creche.channel.gate import LOOPBACK_NAMES, Gate
from creche.errors import ChannelBroken, ListenError
from creche.wire.codec import Limits

pytestmark = pytest.mark.trio

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: plane\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CRECHE = b"Sec-WebSocket-Protocol: creche.v1\r\n"


async def echo(channel: Channel) -> None:
    try:
        while True:
            await channel.send(await channel.receive())
    except ChannelBroken:
        pass


class Server:
    """A listener, and what its handlers saw."""

    def __init__(self, url: str, nursery: trio.Nursery) -> None:
        self.url = url
        self.nursery = nursery
        self.port = handshake.parse_url(url).port

    async def answers(self) -> None:
        """Check that it serves a peer."""
        async with trio_ws.dial(self.url) as channel:
            await channel.send(b"there?")
            assert await channel.receive() == b"there?"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def is_quiet(self) -> None:
        """Wait until no connection is left."""
        while self.nursery.child_tasks:
            await trio.sleep(0.001)


@asynccontextmanager
async def serving(
    handler: Callable[[Channel], Any] = echo, **options: Any
) -> AsyncIterator[Server]:
    with trio.fail_after(30):
        async with trio.open_nursery() as intake, trio.open_nursery() as handlers:
            (url,) = await intake.start(
                partial(
                    trio_ws.serve,
                    handler,
                    host="127.0.0.1",
                    port=0,
                    handler_nursery=handlers,
                    **options,
                )
            )
            server = Server(url, handlers)
            yield server
            await server.is_quiet()
            intake.cancel_scope.cancel()


async def read_all(stream: trio.SocketStream) -> bytes:
    """What comes until the connection ends, one way or the other."""
    got = b""
    try:
        while data := await stream.receive_some():
            got += data
    except trio.BrokenResourceError:
        pass
    return got


async def end_sending(stream: trio.SocketStream) -> None:
    """Send nothing more. The plane may have hung up before us."""
    with suppress(trio.BrokenResourceError):
        await stream.send_eof()


@pytest.fixture(autouse=True)
def no_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG, "creche")
    yield
    assert not [r for r in caplog.records if r.levelno > logging.INFO or r.exc_info]


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # someone tries TLS
        b"\x00" * 1000,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: plane\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: plane\r\nContent-Length: 2\r\n\r\nhi",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
        UPGRADE.replace(b"Key: dGhl", b"Key: \xff\xfe") + CRECHE + b"\r\n",
        UPGRADE + b"Sec-WebSocket-Protocol: \xff\xff\r\n\r\n",
        UPGRADE + b"Host: twice\r\n" + CRECHE + b"\r\n",
        UPGRADE.replace(b"13", b"8") + CRECHE + b"\r\n",
        UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    ],
)
async def test_garbage_ends_its_own_connection_only(junk: bytes) -> None:
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(junk)
        await end_sending(stream)
        answer = await read_all(stream)
        await stream.aclose()
        # The library does not look at the key; whether it says so is a race with our end.
        accepted = (b"HTTP/1.1 101 ",) if b"Key: \xff\xfe" in junk else ()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", *accepted))
        await server.is_quiet()
        await server.answers()


async def test_a_plain_http_request_is_answered_with_a_client_error_at_once() -> None:
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: plane\r\n\r\n")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 400 ")
        await stream.aclose()


@given(head=st.binary(max_size=60), is_after_handshake=st.booleans())
async def test_random_bytes_never_end_the_listener(head: bytes, is_after_handshake: bool) -> None:
    async with serving() as server:
        stream = await server.connect()
        if is_after_handshake:
            await stream.send_all(UPGRADE + CRECHE + b"\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        await stream.send_all(head)
        await end_sending(stream)
        await read_all(stream)
        await stream.aclose()
        await server.is_quiet()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", UPGRADE])
async def test_a_stalled_handshake_is_given_up(sent: bytes) -> None:
    async with serving(handshake_s=0.05) as server:
        stream = await server.connect()
        await stream.send_all(sent)
        await read_all(stream)
        await stream.aclose()
        await server.is_quiet()


async def test_a_stalled_handshake_holds_nobody_up() -> None:
    async with serving() as server:
        stalled = await server.connect()
        await stalled.send_all(UPGRADE)
        await server.answers()
        await stalled.aclose()


async def test_a_connection_reset_in_the_handshake_is_forgotten() -> None:
    async with serving() as server:
        for sent in [b"", UPGRADE, UPGRADE + CRECHE + b"\r\n"]:
            stream = await server.connect()
            await stream.send_all(sent)
            # Closing with linger 0 sends a reset.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
        await server.answers()


@pytest.mark.parametrize(
    ("offer", "named"),
    [
        (b"", b"none was named"),
        (b"Sec-WebSocket-Protocol: creche.v2\r\n", b"not creche.v2"),
        (b"Sec-WebSocket-Protocol: chat, Creche.V1\r\n", b"not chat, Creche.V1"),
    ],
)
async def test_another_subprotocol_is_refused_in_words(offer: bytes, named: bytes) -> None:
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(UPGRADE + offer + b"\r\n")
        head, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
        await stream.aclose()
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"this is a Creche plane: it speaks the subprotocol creche.v1" in body
        assert named in body


async def test_any_path_and_further_subprotocols_are_fine() -> None:
    async with serving() as server:
        async with trio_websocket.open_websocket(
            "127.0.0.1", server.port, "/x?y", use_ssl=False, subprotocols=["new", "creche.v1"]
        ) as websocket:
            assert websocket.subprotocol == "creche.v1"
            await websocket.send_message(b"1")
            assert await websocket.get_message() == b"1"


async def test_nothing_is_compressed() -> None:
    async with serving() as server:
        stream = await server.connect()
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        await stream.send_all(UPGRADE + CRECHE + offer + b"\r\n")
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"xtension" not in answer
        await stream.aclose()


@asynccontextmanager
async def stranger(server: Server) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A WebSocket client that can say what a channel would not."""
    # The library's own way leaves the socket open when the server closes first.
    async with await server.connect() as stream, trio.open_nursery() as nursery:
        yield await trio_websocket.wrap_client_stream(
            nursery, stream, "plane", "/", subprotocols=["creche.v1"]
        )
        nursery.cancel_scope.cancel()


async def test_text_is_refused_and_both_sides_learn_why() -> None:
    reasons = []

    async def listen(channel: Channel) -> None:
        assert await channel.receive() == b"before"
        with pytest.raises(ChannelBroken, match="sent text") as caught:
            await channel.receive()
        reasons.append(caught.value)
        with pytest.raises(ChannelBroken, match="sent text"):
            await channel.send(b"after")

    async with serving(listen) as server:
        async with stranger(server) as websocket:
            await websocket.send_message(b"before")
            await websocket.send_message("hello")
            with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                await websocket.get_message()
            assert caught.value.reason is not None
            assert caught.value.reason.code == 1003
            assert caught.value.reason.reason == "frames are binary"
    assert len(reasons) == 1


async def test_bytes_that_are_no_websocket_frame_break_the_channel() -> None:
    reasons = []

    async def listen(channel: Channel) -> None:
        with pytest.raises(ChannelBroken, match="protocol error") as caught:
            await channel.receive()
        reasons.append(caught.value)

    async with serving(listen) as server:
        stream = await server.connect()
        await stream.send_all(UPGRADE + CRECHE + b"\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        await stream.send_all(b"\xff" * 100)
        await read_all(stream)
        await stream.aclose()
    assert len(reasons) == 1


async def test_a_websocket_ping_is_answered_also_while_the_channel_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "CLOSE_S", 0.1)
    async with serving() as server:
        async with stranger(server) as websocket:
            await websocket.ping(b"there?")
        # A ping that crosses our close frame makes the library raise.
        finished = trio.Event()

        async def close_at_once(channel: Channel) -> None:
            await channel.aclose()
            finished.set()

        async with serving(close_at_once) as closing:
            stream = await closing.connect()
            await stream.send_all(UPGRADE + CRECHE + b"\r\n")
            got = b""
            while not got.endswith(b"\x88\x02\x03\xe8"):
                got += await stream.receive_some()
            await stream.send_all(b"\x89\x80\0\0\0\0")
            await finished.wait()
            await stream.aclose()
        await server.answers()


async def test_a_message_in_fragments_is_one_frame() -> None:
    async with serving(limits=Limits(frame_bytes=10)) as server:
        stream = await server.connect()
        await stream.send_all(UPGRADE + CRECHE + b"\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        for header, data in [(b"\x02", b"abc"), (b"\x00", b""), (b"\x80", b"def")]:
            await stream.send_all(header + bytes([0x80 | len(data)]) + b"\0\0\0\0" + data)
        assert await stream.receive_some() == b"\x82\x06abcdef"
        # Fragments are summed against the limit before they are all there.
        for _ in range(4):
            await stream.send_all(b"\x02"[:1] if _ == 0 else b"\x00")
            await stream.send_all(b"\x83\0\0\0\0abc")
        assert b"maximum message size" in await read_all(stream)
        await stream.aclose()


async def test_two_listeners_on_one_port_is_a_listen_error_with_a_hint() -> None:
    async with serving() as server:
        with pytest.raises(ListenError) as caught:
            await trio_ws.serve(echo, host="127.0.0.1", port=server.port)
        assert f"127.0.0.1:{server.port}" in str(caught.value)
        assert "in use" in str(caught.value)
        await server.answers()


@pytest.mark.parametrize(
    ("host", "port", "hint"),
    [
        ("192.0.2.1", 0, "no such address"),
        ("no-such-host.invalid", 0, "host name is unknown"),
        ("a" * 70, 0, ""),
        ("127.0.0.1", 70000, "ports are"),
    ],
)
async def test_a_place_that_cannot_be_listened_on_is_a_listen_error(
    host: str, port: int, hint: str
) -> None:
    with trio.fail_after(30), pytest.raises(ListenError) as caught:
        await trio_ws.serve(echo, host=host, port=port)
    assert f"cannot listen on {host}:{port}: " in str(caught.value)
    assert hint in str(caught.value)


async def test_what_a_handler_lets_out_reaches_whoever_runs_the_server() -> None:
    async def bug(channel: Channel) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with serving(bug) as server:
            async with trio_ws.dial(server.url) as channel:
                with pytest.raises(ChannelBroken):
                    await channel.receive()
                await trio.sleep_forever()


async def test_when_the_handler_returns_its_connection_is_closed() -> None:
    async def say_one_thing(channel: Channel) -> None:
        await channel.send(b"hello and goodbye")

    async with serving(say_one_thing) as server:
        async with trio_ws.dial(server.url) as channel:
            assert await channel.receive() == b"hello and goodbye"
            with pytest.raises(ChannelBroken, match="closed the connection"):
                await channel.receive()


async def test_two_hundred_connections_leave_no_task_and_no_descriptor_behind() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    async with serving() as server:
        await server.answers()
        await server.is_quiet()
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        open_before = descriptors()
        gate = trio.CapacityLimiter(50)

        async def visit(n: int) -> None:
            async with gate:
                if n % 4 == 0:
                    stream = await server.connect()
                    await stream.send_all(b"junk\r\n\r\n" if n % 8 else UPGRADE)
                    await stream.aclose()
                    return
                async with trio_ws.dial(server.url) as channel:
                    await channel.send(b"%d" % n)
                    assert await channel.receive() == b"%d" % n
                    if n % 4 == 1:
                        with trio.CancelScope() as scope:
                            scope.cancel()
                            await channel.send(b"cut")

        async with trio.open_nursery() as visitors:
            for n in range(200):
                visitors.start_soon(visit, n)
        await server.is_quiet()
        assert trio.lowlevel.current_statistics().tasks_living == tasks_before
        assert descriptors() == open_before


async def test_ipv6_works_and_its_url_has_brackets(nursery: trio.Nursery) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    (url,) = await nursery.start(partial(trio_ws.serve, echo, host="::1", port=0))
    assert url.startswith("ws://[::1]:")
    with trio.fail_after(30):
        async with trio_ws.dial(url) as channel:
            assert channel.peer == url.removeprefix("ws://")
            await channel.send(b"6")
            assert await channel.receive() == b"6"


@pytest.mark.parametrize(
    ("more", "options", "status", "why"),
    [
        (b"Origin: https://evil.example\r\n", {}, b"403", "this comes from one at 'https://evil"),
        (b"", {"gate": Gate(hosts=LOOPBACK_NAMES)}, b"403", "it is not called 'plane'"),
        (b"", {"gate": Gate(hosts={"plane"})}, b"101", ""),
        (b"Origin: https://a\r\n", {"gate": Gate({"https://a"})}, b"101", ""),
    ],
)
async def test_a_web_page_is_refused_with_403_and_disturbs_nobody(
    more: bytes, options: dict[str, Any], status: bytes, why: str
) -> None:
    async with serving(**options) as server:
        stream = await server.connect()
        await stream.send_all(UPGRADE + CRECHE + more + b"\r\n")
        got = b""
        while b"\r\n\r\n" not in got or (why and b"\n" not in got.partition(b"\r\n\r\n")[2]):
            got += await stream.receive_some()
        assert got.startswith(b"HTTP/1.1 " + status)
        assert why in got.decode()
        await stream.aclose()
        if not options:
            await server.answers()
