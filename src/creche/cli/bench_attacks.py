"""What `creche bench --hostile` has peers do that are none: a process of its own, as plain sockets.

Each attack goes on until it is ended, as fast as the other side lets it."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from urllib.parse import urlsplit

import trio

from creche.channel.handshake import SUBPROTOCOL
from creche.wire import codec
from creche.wire import messages as m

NICENESS = 19
"""Attackers give way to the processes that are measured: they are to use up the plane's time, not
that of a small machine."""

REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
).encode()

AGAIN_S = 0.01
"""How long an attacker waits that was cut before it comes again."""

_numbers = count(1)


class Attacker:
    """One connection of somebody who keeps to no rule but those it needs."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def shake(self) -> None:
        """Become a WebSocket."""
        await self.stream.send_all(REQUEST)
        got = b""
        while b"\r\n\r\n" not in got:
            got += await self._receive()
        if not got.startswith(b"HTTP/1.1 101"):
            raise AssertionError(f"the plane does not let an attacker in: {got!r:.200}")

    async def introduce(self) -> None:
        """Become a client."""
        await self.shake()
        name = f"attacker-{os.getpid()}-{next(_numbers)}"
        peer = os.urandom(16)
        await self.say(m.Hello([1], "client", peer, name, peer, [], {}))
        await self._receive()

    async def say(self, *messages: m.Message) -> None:
        """Send a frame of these."""
        await self.send(codec.encode_frame(messages))

    async def send(self, data: bytes) -> None:
        """Send a frame of these bytes."""
        await self.stream.send_all(websocket_frame(data))

    async def read_on(self) -> None:
        """Read whatever comes, and forget it."""
        while await self._receive():
            pass

    async def _receive(self) -> bytes:
        got = bytes(await self.stream.receive_some(1 << 16))
        if not got:
            raise trio.BrokenResourceError
        return got


def websocket_frame(data: bytes, opcode: int = 2, *, is_last: bool = True) -> bytes:
    """Return a WebSocket frame, with the mask that changes nothing."""
    first = (0x80 if is_last else 0) | opcode
    if len(data) < 126:
        return bytes((first, 0x80 | len(data))) + bytes(4) + data
    if len(data) < 1 << 16:
        return bytes((first, 0xFE)) + struct.pack(">H", len(data)) + bytes(4) + data
    return bytes((first, 0xFF)) + struct.pack(">Q", len(data)) + bytes(4) + data


SEARCHES = [m.Ask(n, "jobs", {"filter": "error:nothing-like-it", "limit": 1000}) for n in range(32)]

Target = tuple[str, int]


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[Attacker]:
    async with await trio.open_tcp_stream(*target) as stream:
        yield Attacker(stream)


# --- attacks --------------------------------------------------------------------------------------
# Each is one connection's part; it is begun again when it was cut.


async def slow_handshake(target: Target) -> None:
    """A handshake, a byte at a time."""
    async with _connected(target) as attacker:
        for byte in REQUEST[:-1]:
            await attacker.stream.send_all(bytes([byte]))
            await trio.sleep(0.002)
        await attacker.read_on()


async def stalled_handshake(target: Target) -> None:
    """A connection that says nothing."""
    async with _connected(target) as attacker:
        await attacker.read_on()


async def no_hello(target: Target) -> None:
    """A WebSocket that does not introduce itself."""
    async with _connected(target) as attacker:
        await attacker.shake()
        await attacker.read_on()


async def come_and_go(target: Target) -> None:
    """A session that is left as soon as it is there."""
    async with _connected(target) as attacker:
        await attacker.introduce()


async def garbage(target: Target) -> None:
    """A frame that is none."""
    async with _connected(target) as attacker:
        await attacker.introduce()
        await attacker.send(b"\xff" * 100)
        await attacker.read_on()


async def huge_lengths(target: Target) -> None:
    """Lengths of which nothing comes, in a frame and of one."""
    async with _connected(target) as attacker:
        await attacker.introduce()
        await attacker.send(b"\x81\x84\x14\x01\x61x\xa1\x61a\x9b" + b"\x7f" * 8)
    async with _connected(target) as attacker:
        await attacker.introduce()
        await attacker.stream.send_all(b"\x82\xff" + struct.pack(">Q", 2**62) + bytes(4))
        while True:
            await attacker.stream.send_all(bytes(1 << 16))


async def never_reads(target: Target) -> None:
    """Questions whose answers are not read."""
    async with _connected(target) as attacker:
        await attacker.introduce()
        while True:
            await attacker.say(*(m.Ask(n, "overview", {}) for n in range(30)))


async def small_messages(target: Target) -> None:
    """Messages that mean nothing here, by the thousand."""
    three: list[m.Message] = [m.Ping(1), m.Unwatch([bytes(16)]), m.Received([bytes(16)])]
    await _repeat(target, websocket_frame(codec.encode_frame(three * 1000)))


async def websocket_pings(target: Target) -> None:
    """Pings of the WebSocket, by the thousand, each of which is answered."""
    await _repeat(target, websocket_frame(b"", 9) * 10_000)


async def websocket_pongs(target: Target) -> None:
    """Pongs that answer nothing, by the thousand."""
    await _repeat(target, websocket_frame(b"", 10) * 10_000)


async def fragments(target: Target) -> None:
    """A message in parts of a byte, without end."""
    begin = websocket_frame(b"x", 2, is_last=False)
    await _repeat(target, websocket_frame(b"x", 0, is_last=False) * 10_000, begin)


async def many_values(target: Target) -> None:
    """Frames that hold as many values as they may."""
    maps = b"\x9a" + struct.pack(">I", 199_980) + b"\xa0" * 199_980
    await _repeat(target, websocket_frame(b"\x81\x84\x14\x01\x61x\xa1\x61a" + maps))


async def unfinished_pieces(target: Target) -> None:
    """Large messages in pieces, of which the last one never comes."""
    async with _connected(target) as attacker:
        await attacker.introduce()
        for n in range(4 * 255):
            await attacker.say(m.Piece(n % 4, False, bytes(1 << 16)))
        await attacker.read_on()


async def no_credit(target: Target) -> None:
    """Submissions, whatever was granted."""
    template = m.Submit(0, b"", "bench.nobody", "attack", 3, b"\x81\x80" + bytes(2000), 0, None)

    async def submit(attacker: Attacker) -> None:
        while True:
            ids = (os.urandom(16) for _ in range(200))
            await attacker.say(*(template._replace(n=n, id=i) for n, i in enumerate(ids)))

    async with _connected(target) as attacker:
        await attacker.introduce()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attacker.read_on)
            nursery.start_soon(submit, attacker)


async def questions(target: Target) -> None:
    """As many questions as may be open, and some more."""
    asks = [m.Ask(n, "overview", {}) for n in range(40)]
    await _repeat(target, websocket_frame(codec.encode_frame(asks)))


async def searches(target: Target) -> None:
    """Questions for which the store has to look at all there is."""
    await _repeat(target, websocket_frame(codec.encode_frame(SEARCHES)))


async def search_and_go(target: Target) -> None:
    """The same, once; nobody waits for the answers."""
    async with _connected(target) as attacker:
        await attacker.introduce()
        await attacker.say(*SEARCHES)


async def watches(target: Target) -> None:
    """Waiting for thousands of jobs that are not there."""
    watch = m.Watch([os.urandom(16) for _ in range(5000)])
    await _repeat(target, websocket_frame(codec.encode_frame([watch])))


async def cancels(target: Target) -> None:
    """Cancelling thousands of jobs that are not there."""
    cancel = m.Cancel(1, [os.urandom(16) for _ in range(2000)], "")
    await _repeat(target, websocket_frame(codec.encode_frame([cancel])))


async def topics(target: Target) -> None:
    """Following topics, and not any more, and again."""
    told = [
        message
        for ref in range(50)
        for message in (m.Subscribe(ref, "overview", 10.0), m.Unsubscribe(ref))
    ]
    await _repeat(target, websocket_frame(codec.encode_frame(told)))


async def _repeat(target: Target, data: bytes, begin: bytes = b"") -> None:
    """Say the same over and over, and read what comes back."""

    async def send(attacker: Attacker) -> None:
        if begin:
            await attacker.stream.send_all(begin)
        while True:
            await attacker.stream.send_all(data)

    async with _connected(target) as attacker:
        await attacker.introduce()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attacker.read_on)
            nursery.start_soon(send, attacker)


Attack = Callable[[Target], Awaitable[None]]

ATTACKS: Mapping[str, tuple[Attack, int]] = {
    "slow-handshakes": (slow_handshake, 400),
    "stalled-handshakes": (stalled_handshake, 600),
    "no-hello": (no_hello, 400),
    "come-and-go": (come_and_go, 20),
    "garbage": (garbage, 20),
    "huge-lengths": (huge_lengths, 20),
    "never-reads": (never_reads, 10),
    "small-messages": (small_messages, 20),
    "websocket-pings": (websocket_pings, 20),
    "websocket-pongs": (websocket_pongs, 20),
    "fragments": (fragments, 20),
    "many-values": (many_values, 10),
    "unfinished-pieces": (unfinished_pieces, 20),
    "no-credit": (no_credit, 4),
    "questions": (questions, 10),
    "searches": (searches, 20),
    "search-and-go": (search_and_go, 20),
    "watches": (watches, 20),
    "cancels": (cancels, 10),
    "topics": (topics, 10),
}
"""Each attack by its name, and how many connections carry it out at a time."""


async def attack(name: str, url: str) -> None:
    """Carry out one attack until cancelled."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    one, connections = ATTACKS[name]
    target = parts.hostname, parts.port
    async with trio.open_nursery() as nursery:
        async with _connected(target):
            print("here", flush=True)
        for _ in range(connections):
            nursery.start_soon(_again_and_again, partial(one, target))


async def _again_and_again(one: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await one()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        await trio.sleep(AGAIN_S)


async def _until_told(name: str, url: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attack, name, url)
        async with trio.lowlevel.FdStream(os.dup(0)) as told:
            while await told.receive_some():
                pass
        nursery.cancel_scope.cancel()


def main() -> None:
    """Attack the plane at a URL until the standard input ends."""
    name, url = sys.argv[1:]
    os.nice(NICENESS)
    trio.run(partial(_until_told, name, url))


if __name__ == "__main__":
    main()
