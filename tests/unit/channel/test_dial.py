"""Dialling what is no plane, with each of the two diallers, on asyncio and on Trio.

The strangers are raw sockets and run beside the test, on its own event loop.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import trio
from anyio.abc import SocketAttribute, SocketStream
from wsproto.utilities import generate_accept_token

from creche.channel import anyio_ws, handshake, trio_ws
from creche.errors import ChannelBroken, NotAPlane, PlaneUnreachable, SettingsError
from creche.wire.codec import Limits

pytestmark = pytest.mark.anyio

Talk = Callable[[SocketStream], Awaitable[None]]


class Dialler(NamedTuple):
    backend: str
    dial: Any


DIALLERS = {
    "trio": Dialler("trio", trio_ws.dial),
    "anyio on trio": Dialler("trio", anyio_ws.dial),
    "anyio on asyncio": Dialler("asyncio", anyio_ws.dial),
}


@pytest.fixture(params=DIALLERS.values(), ids=DIALLERS.keys())
def dialler(request: pytest.FixtureRequest) -> Dialler:
    chosen: Dialler = request.param
    return chosen


@pytest.fixture
def anyio_backend(dialler: Dialler) -> str:
    return dialler.backend


@asynccontextmanager
async def stranger(talk: Talk) -> AsyncIterator[str]:
    """Serve *talk* and yield the URL that would be a plane's."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await talk(stream)

    with anyio.fail_after(30):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, handle)
                yield f"ws://127.0.0.1:{port}"
                tasks.cancel_scope.cancel()


async def request_of(stream: SocketStream) -> bytes:
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        got += await stream.receive()
    return got


def accept(request: bytes, extra: bytes = b"Sec-WebSocket-Protocol: creche.v1\r\n") -> bytes:
    """The answer of a WebSocket server to *request*."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n" + extra + b"\r\n"
    )


async def talk_http_200(stream: SocketStream) -> None:
    await request_of(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n<html></html>"[:-1])


async def talk_http_404(stream: SocketStream) -> None:
    await request_of(stream)
    await stream.send(b"HTTP/1.0 404 Not Found\r\nContent-Length: 8\r\n\r\nnot here")


async def talk_http_503(stream: SocketStream) -> None:
    await request_of(stream)
    await stream.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater")


async def talk_half_an_answer(stream: SocketStream) -> None:
    await request_of(stream)
    await stream.send(b"HTTP/1.1 101 Swit")


async def talk_endlessly(stream: SocketStream) -> None:
    await request_of(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send(b"x" * 65536)


async def talk_smtp(stream: SocketStream) -> None:
    await stream.send(b"220 mail.example ESMTP\r\n")
    await stream.receive()


async def talk_bytes(stream: SocketStream) -> None:
    await request_of(stream)
    await stream.send(b"\xff\x00\r\n\r\n" * 10)


async def talk_other_websocket(stream: SocketStream) -> None:
    await stream.send(accept(await request_of(stream), b""))
    await stream.receive()


async def talk_other_subprotocol(stream: SocketStream) -> None:
    await stream.send(accept(await request_of(stream), b"Sec-WebSocket-Protocol: chat\r\n"))
    await stream.receive()


async def talk_wrong_token(stream: SocketStream) -> None:
    await stream.send(accept(b"Sec-WebSocket-Key: other\r\n"))
    await stream.receive()


async def hang_up(stream: SocketStream) -> None:
    pass


@pytest.mark.parametrize(
    ("talk", "why", "is_stranger"),
    [
        (talk_http_200, "it is not a Creche plane: HTTP 200", True),
        (talk_http_404, "it is not a Creche plane: HTTP 404", True),
        (talk_http_503, "it refused: HTTP 503: later", False),
        (talk_half_an_answer, "handshake", False),
        (talk_endlessly, "", None),
        (talk_smtp, "ended the connection", False),
        (talk_bytes, "it does not speak WebSocket", True),
        (talk_other_websocket, "it is not a Creche plane: a WebSocket server", True),
        (talk_other_subprotocol, "it does not speak WebSocket", True),
        (talk_wrong_token, "it does not speak WebSocket", True),
        (hang_up, "", False),
    ],
)
async def test_a_stranger_is_a_plane_out_of_reach_with_a_reason(
    dialler: Dialler, talk: Talk, why: str, is_stranger: bool | None
) -> None:
    async with stranger(talk) as url:
        with pytest.raises(PlaneUnreachable) as caught:
            async with dialler.dial(url):
                raise AssertionError("it is no plane")
    assert caught.value.url == url
    assert why in caught.value.why
    assert "no plane answers at ws://127.0.0.1:" in str(caught.value)
    # Both read as much of an endless answer, and only one has seen by then what it is.
    if is_stranger is not None:
        assert isinstance(caught.value, NotAPlane) == is_stranger


async def test_silence_is_a_plane_out_of_reach_after_the_time_given(dialler: Dialler) -> None:
    async with stranger(lambda stream: anyio.sleep_forever()) as url:
        with pytest.raises(PlaneUnreachable, match=r"(answer|handshake) within 0\.05 s"):
            async with dialler.dial(url, timeout_s=0.05):
                raise AssertionError("it said nothing")


async def test_a_closed_port_is_refused(dialler: Dialler) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else gets it
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with anyio.fail_after(30), pytest.raises(PlaneUnreachable, match="connection refused"):
            async with dialler.dial(f"ws://127.0.0.1:{port}"):
                raise AssertionError("nobody listens")


async def test_an_unknown_host_is_named_as_such(dialler: Dialler) -> None:
    with anyio.fail_after(30), pytest.raises(PlaneUnreachable, match="host name is unknown"):
        async with dialler.dial("ws://no-such-host.invalid:5570"):
            raise AssertionError("there is no such host")


async def test_what_is_no_url_fails_before_anything_is_dialled(dialler: Dialler) -> None:
    with pytest.raises(SettingsError, match="http://h"):
        dialler.dial("http://h")


async def test_cancelled_and_failed_dials_leave_no_descriptor_behind(dialler: Dialler) -> None:
    async def talk(stream: SocketStream) -> None:
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                await stream.receive()

    async with stranger(talk) as url:
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for n in range(20):
            if n % 2:
                with pytest.raises(PlaneUnreachable):
                    async with dialler.dial(url, timeout_s=0.01):
                        raise AssertionError("it said nothing")
            else:
                with anyio.move_on_after(0.001 * n):
                    async with dialler.dial(url):
                        raise AssertionError("it said nothing")
        while len(os.listdir("/proc/self/fd")) > before:
            await anyio.sleep(0.01)


# --- once there is a channel --------------------------------------------------------------------


async def test_what_a_plane_says_together_with_its_handshake_is_not_missed(
    dialler: Dialler,
) -> None:
    async def talk(stream: SocketStream) -> None:
        await stream.send(accept(await request_of(stream)) + b"\x82\x02hi\x82\x00\x82\x01!")
        await stream.receive()

    async with stranger(talk) as url, dialler.dial(url) as channel:
        assert [await channel.receive() for _ in range(3)] == [b"hi", b"", b"!"]


async def test_pings_are_answered_while_receiving_and_fragments_are_put_together(
    dialler: Dialler,
) -> None:
    pongs = []

    async def talk(stream: SocketStream) -> None:
        await stream.send(accept(await request_of(stream)))
        await stream.send(b"\x02\x03abc\x89\x02hi\x00\x00")
        pong = b""
        while len(pong) < 8:
            pong += await stream.receive()
        mask, data = pong[2:6], pong[6:]
        pongs.append(bytes(a ^ b for a, b in zip(data, mask, strict=False)))
        await stream.send(b"\x80\x03def")
        await stream.receive()

    async with stranger(talk) as url, dialler.dial(url) as channel:
        assert await channel.receive() == b"abcdef"
    assert pongs == [b"hi"]


@pytest.mark.parametrize(
    ("said", "why", "code"),
    [
        (b"\x81\x02hi", "text|binary", 1003),
        (b"\x82\x7e\x00\xff" + b"x" * 255, "limit|too big", 1009),
        (b"\x02\x64" + b"x" * 100 + b"\x80\x1d" + b"x" * 29, "limit|too big", 1009),
        (b"\xf2\x01x", "protocol error", 1002),
        (b"\x82\x81\0\0\0\0x", "protocol error", 1002),
        (b"\x88\x02\x03\xe8", "closed the connection", 1000),
        (b"\x88\x05\x03\xf3bye", "internal error.*bye", 1011),
        (b"", "lost", None),
    ],
)
async def test_what_a_plane_must_not_say_breaks_the_channel_and_it_is_told(
    dialler: Dialler,
    said: bytes,
    why: str,
    code: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "CLOSE_S", 0.1)
    answer = b""
    taken, answered = anyio.Event(), anyio.Event()

    async def talk(stream: SocketStream) -> None:
        nonlocal answer
        await stream.send(accept(await request_of(stream)) + b"\x82\x02ok")
        # trio-websocket refuses at once, and drops what nobody has taken by then.
        await taken.wait()
        await stream.send(said)
        if said:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while len(answer) < 8:
                    answer += await stream.receive()
                answered.set()

    async with stranger(talk) as url:
        async with dialler.dial(url, limits=Limits(frame_bytes=128)) as channel:
            assert await channel.receive() == b"ok"
            taken.set()
            with pytest.raises(ChannelBroken, match=why):
                await channel.receive()
            with pytest.raises(ChannelBroken, match=why):
                await channel.send(b"more")
        # trio-websocket hangs up on what is no WebSocket, and does not say so.
        if code is None or (code == 1002 and dialler.dial is trio_ws.dial):
            return
        await answered.wait()
    assert answer[0] == 0x88  # a close frame
    unmasked = bytes(a ^ b for a, b in zip(answer[6:8], answer[2:4], strict=True))
    assert int.from_bytes(unmasked, "big") == code


async def test_a_ping_just_before_a_close_does_not_spoil_it(dialler: Dialler) -> None:
    answers = []

    async def talk(stream: SocketStream) -> None:
        await stream.send(accept(await request_of(stream)))
        await stream.send(b"\x82\x02ok\x89\x00\x88\x02\x03\xe8")
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                answers.append(await stream.receive())
        done.set()

    done = anyio.Event()
    async with stranger(talk) as url:
        async with dialler.dial(url) as channel:
            assert await channel.receive() == b"ok"
            with pytest.raises(ChannelBroken, match="closed the connection"):
                await channel.receive()
        await done.wait()
    assert b"".join(answers)[-8] == 0x88  # the answer to the close frame


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "plane.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=plane", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def tls_plane(certificate: Path) -> Iterator[str]:
    """The URL of a listener with TLS that echoes, in a thread of its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    ready = threading.Event()
    facts: dict[str, Any] = {}

    async def echo(channel: Any) -> None:
        with contextlib.suppress(ChannelBroken):
            while True:
                await channel.send(await channel.receive())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            (facts["url"],) = await nursery.start(
                partial(trio_ws.serve, echo, host="127.0.0.1", port=0, ssl_context=context)
            )
            token = trio.lowlevel.current_trio_token()
            facts["stop"] = partial(token.run_sync_soon, nursery.cancel_scope.cancel)
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    ready.wait(30)
    yield facts["url"]
    facts["stop"]()
    thread.join(30)


async def test_frames_travel_over_tls(dialler: Dialler, tls_plane: str, certificate: Path) -> None:
    assert tls_plane.startswith("wss://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    with anyio.fail_after(30):
        async with dialler.dial(tls_plane, ssl_context=trusting) as channel:
            for frame in [b"", b"secret", bytes(1024 * 1024)]:
                await channel.send(frame)
                assert await channel.receive() == frame


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    dialler: Dialler, tls_plane: str
) -> None:
    with anyio.fail_after(30), pytest.raises(PlaneUnreachable, match="certificate"):
        async with dialler.dial(tls_plane):
            raise AssertionError("it is not to be trusted")


async def test_a_plane_without_tls_does_not_answer_wss(dialler: Dialler) -> None:
    async def talk(stream: SocketStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with stranger(talk) as url:
        with pytest.raises(PlaneUnreachable, match="does not speak TLS"):
            async with dialler.dial(url.replace("ws:", "wss:")):
                raise AssertionError("there is no TLS")
