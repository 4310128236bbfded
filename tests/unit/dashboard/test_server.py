"""The page over real sockets: what browsers, scanners and dead peers do to a server."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from hypercorn.utils import wrap_app
from tests.cluster.scripted import open_house

from creche.channel.memory import MemoryListener
from creche.dashboard.app import make_app
from creche.dashboard.live import Live
from creche.dashboard.server import MAX_CONNECTIONS, Server, is_loopback, run_gui
from creche.errors import ListenError, SettingsError

pytestmark = pytest.mark.trio

GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {}\r\n"

NONSENSE = {
    "no-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "bad-h2c": GET.format("/", UPGRADE.format("h2c") + "HTTP2-Settings: !!!!\r\n").encode(),
    "h2c-no-settings": GET.format("/", UPGRADE.format("h2c")).encode(),
    "h2c-then-garbage": GET.format(
        "/", UPGRADE.format("h2c") + "HTTP2-Settings: AAMAAABk\r\n"
    ).encode()
    + b"\xff" * 400,
    "prior-knowledge-garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 400,
    "bad-websocket": GET.format("/", UPGRADE.format("websocket")).encode(),
    "websocket-with-trailing-data": GET.format(
        "/",
        UPGRADE.format("websocket")
        + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    ).encode()
    + b"\x81\x05hello" * 50,
    "path-not-ascii": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "huge-header": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
    "half-a-body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc",
}


class Browser:
    """A raw connection to the page."""

    def __init__(self, port: int) -> None:
        self._port = port

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[trio.SocketStream]:
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            yield stream

    async def get(self, path: str, more: str = "") -> bytes:
        """Return the whole answer."""
        async with self.connected() as stream:
            await stream.send_all(GET.format(path, f"Connection: close\r\n{more}").encode())
            return b"".join([chunk async for chunk in stream])


async def receive_until(stream: trio.SocketStream, text: bytes) -> bytes:
    received = b""
    while text not in received:
        chunk = await stream.receive_some()
        assert chunk, f"ended after {received!r}"
        received += chunk
    return received


@asynccontextmanager
async def open_gui(stop: trio.Event | None = None, **options: Any) -> AsyncIterator[Browser]:
    """The page of a plane in memory, on a free port."""
    with trio.fail_after(20):
        async with open_house() as house, trio.open_nursery() as nursery:
            run = partial(
                run_gui, "memory:plane", "127.0.0.1", 0, dial=house.listener.dial, stop=stop
            )
            address: str = await nursery.start(partial(run, **options))
            yield Browser(int(address.rpartition(":")[2]))
            nursery.cancel_scope.cancel()


class Served:
    """A server in the hands of a test, with what run_gui keeps to itself."""

    def __init__(self, port: int, live: Live, server: Server, stop: trio.Event) -> None:
        self.browser = Browser(port)
        self.live = live
        self.server = server
        self.stop = stop

    async def everyone_has_left(self) -> None:
        while self.live.streams or self.server.connections:
            await trio.sleep(0.01)


@asynccontextmanager
async def open_server(
    beat_s: float = 15.0, *, grace_s: float = 0.3, **options: Any
) -> AsyncIterator[Served]:
    with trio.fail_after(20):
        live = Live("memory:plane", dial=MemoryListener().dial)
        app = make_app(live, hosts=None, beat_s=beat_s)
        server = Server(wrap_app(app, 0, "asgi"), grace_s, **options)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.run)
            run = partial(server.run, stop=stop, say_goodbye=live.close)
            nursery.start_soon(run, listeners)
            yield Served(listeners[0].socket.getsockname()[1], live, server, stop)
            nursery.cancel_scope.cancel()


async def test_the_page_and_its_stream_are_served_over_a_socket() -> None:
    async with open_gui() as browser:
        assert b"200" in (await browser.get("/livez")).split(b"\r\n")[0]
        assert b"<h1>" in await browser.get("/")
        async with browser.connected() as stream:
            await stream.send_all(GET.format("/api/v1/stream", "").encode())
            answer = await receive_until(stream, b'"reachable":true')
            assert b"text/event-stream" in answer
            assert b"event: snapshot" in answer


async def test_a_browser_that_leaves_ends_its_stream() -> None:
    async with open_server() as served:
        async with served.browser.connected() as stream:
            await stream.send_all(GET.format("/api/v1/stream", "").encode())
            await receive_until(stream, b"snapshot")
            assert served.live.streams == 1
        await served.everyone_has_left()


async def test_a_browser_that_said_too_much_and_leaves_ends_its_stream_by_the_next_beat() -> None:
    # With a second request waiting behind the stream, Hypercorn reads no more and sees no end.
    async with open_server(beat_s=0.05) as served:
        async with served.browser.connected() as stream:
            request = GET.format("/api/v1/stream", "").encode()
            await stream.send_all(request + request)
            await receive_until(stream, b"snapshot")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await served.everyone_has_left()


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_ends_its_own_connection_only(said: bytes) -> None:
    async with open_gui() as browser, browser.connected() as looking:
        await looking.send_all(GET.format("/api/v1/stream", "").encode())
        await receive_until(looking, b'"reachable":true')
        async with browser.connected() as stream:
            try:
                await stream.send_all(said)
                await stream.send_eof()
                async for _ in stream:
                    pass
            except trio.BrokenResourceError:
                pass
        assert b"200" in (await browser.get("/livez")).split(b"\r\n")[0]
        # The one who looks has not been cut.
        with trio.move_on_after(0.05):
            assert await looking.receive_some() != b""


async def test_stopping_says_goodbye_and_ends_by_itself() -> None:
    stop = trio.Event()
    with trio.fail_after(30):
        async with open_house() as house, trio.open_nursery() as nursery:
            gui = partial(run_gui, "memory:", "127.0.0.1", 0, dial=house.listener.dial, stop=stop)
            address = await nursery.start(gui)
            browser = Browser(int(address.rpartition(":")[2]))
            async with browser.connected() as stream:
                await stream.send_all(GET.format("/api/v1/stream", "").encode())
                await receive_until(stream, b'"reachable":true')
                stop.set()
                await receive_until(stream, b"event: bye")
        with pytest.raises(OSError, match=r"connect"):
            await browser.get("/livez")


async def test_stopping_does_not_wait_for_a_reader_that_reads_nothing() -> None:
    async with open_server() as served:
        async with served.browser.connected() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await stream.send_all(GET.format("/api/v1/stream", "").encode())
            await receive_until(stream, b"snapshot")
            (looking,) = served.live._streams
            # More than all buffers between hold, so that a send waits, shielded.
            looking.offer(b": " + b"x" * 32_000_000 + b"\n\n")
            await trio.testing.wait_all_tasks_blocked(0.05)
            served.stop.set()
            await served.everyone_has_left()


async def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}: .*in use: .*--gui-port"):
            await run_gui("ws://127.0.0.1:1", "127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_a_page_without_authentication_is_not_opened_to_others_by_accident(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingsError, match="loopback only"):
        await run_gui("ws://127.0.0.1:1", host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
async def test_loopback_is_known_by_all_its_names(host: str) -> None:
    assert is_loopback(host)


async def test_an_insecure_page_is_opened_when_asked_for() -> None:
    async with open_house() as house, trio.open_nursery() as nursery:
        gui = partial(run_gui, "memory:", "0.0.0.0", 0, insecure=True, dial=house.listener.dial)
        address: str = await nursery.start(gui)
        browser = Browser(int(address.rpartition(":")[2]))
        answer = await browser.get("/livez")
        assert b"200" in answer.split(b"\r\n")[0]
        nursery.cancel_scope.cancel()


# --- over TLS -----------------------------------------------------------------------------------


class Papers:
    """What the page shows, and what a browser shows that it lets in."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.of_page = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.of_page.verify_mode = ssl.CERT_REQUIRED
        self.of_browser = ssl.create_default_context()
        self.of_stranger = ssl.create_default_context()
        for context in (self.of_page, self.of_browser, self.of_stranger):
            authority.configure_trust(context)
        authority.issue_cert("127.0.0.1").configure_cert(self.of_page)
        authority.issue_cert("browser").configure_cert(self.of_browser)

    async def status(self, stream: trio.abc.Stream, tls: ssl.SSLContext) -> bytes:
        """Return the first line of what the page answers; b"" if it ends without."""
        safe = trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True)
        try:
            await safe.send_all(GET.format("/livez", "Connection: close\r\n").encode())
            return bytes(await safe.receive_some()).split(b"\r\n")[0]
        except trio.BrokenResourceError:
            return b""


async def test_handshakes_that_are_never_finished_keep_nobody_from_the_page() -> None:
    """Nobody has shown a certificate before a handshake is done."""
    papers = Papers()
    async with open_gui(page_tls=papers.of_page) as browser, AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 10):
            await stack.enter_async_context(browser.connected())
        for _ in range(3):
            async with browser.connected() as stream:
                assert await papers.status(stream, papers.of_browser) == b"HTTP/1.1 200 "
        async with browser.connected() as stream:
            assert await papers.status(stream, papers.of_stranger) == b""


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a little"])
async def test_a_handshake_that_takes_too_long_is_given_up(said: bytes) -> None:
    async with open_server(tls=Papers().of_page, handshake_s=0.05) as served:
        async with served.browser.connected() as stream:
            await stream.send_all(said)
            assert not await stream.receive_some()
        assert not served.server.connections


async def test_a_stop_does_not_wait_for_handshakes() -> None:
    async with open_server(tls=Papers().of_page, grace_s=math.inf) as served:
        async with served.browser.connected() as stream:
            served.stop.set()
            assert not await stream.receive_some()
