"""A proxy on loopback between peers and their plane, which cuts, slows and swallows.

It carries bytes as a network does: what it holds back arrives later and in order, or never, with
the end of its connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

CHUNK_BYTES = 16 * 1024
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass(slots=True)
class Rules:
    """What happens to bytes that go in one direction."""

    delay_s: float = 0.0
    """How long each piece is on its way."""
    bytes_per_s: float | None = None
    cut_after_bytes: int | None = None
    """So many more bytes of a connection pass, and then it is reset."""
    cut_after_frames: int | None = None
    """So many more frames of a connection pass, and then it is reset."""
    is_held: bool = False
    """Nothing arrives, and nobody is told."""


class Proxy:
    """Carries connections to a port of this machine, by rules that may change at any time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pairs: set[tuple[trio.SocketStream, trio.SocketStream]] = set()
        self._shut: set[trio.SocketStream] = set()
        """Half-closed ones: what peers still send there is dropped."""
        self._change = trio.Event()
        self.up = Rules()
        """To the plane."""
        self.down = Rules()
        """From the plane."""
        self.connections = 0
        """How many there have been."""

    async def run(self, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; report the port."""
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._carry, [listener])
            task_status.started(listener.socket.getsockname()[1])

    def set(self, *, up: Rules | None = None, down: Rules | None = None) -> None:
        """Have other rules from now on; None: it carries as it should."""
        self.up, self.down = up or Rules(), down or Rules()
        self._change.set()
        self._change = trio.Event()

    async def reset_all(self) -> None:
        """Reset the connections that there are."""
        for pair in list(self._pairs):
            await _reset(pair)

    async def half_close(self) -> None:
        """Tell the plane that its peers send nothing more, which they do not know."""
        for _, to_plane in list(self._pairs):
            self._shut.add(to_plane)
            with suppress(OSError):
                # Under whoever sends to it just now.
                to_plane.socket.shutdown(trio.socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    async def _carry(self, from_peer: trio.SocketStream) -> None:
        self.connections += 1
        try:
            to_plane = await trio.open_tcp_stream("127.0.0.1", self._port)
        except OSError:
            return  # the peer's connection ends, as if nobody listened
        pair = (from_peer, to_plane)
        self._pairs.add(pair)
        try:
            async with from_peer, to_plane, trio.open_nursery() as nursery:

                async def one_way(
                    source: trio.SocketStream, sink: trio.SocketStream, rules: Callable[[], Rules]
                ) -> None:
                    if await self._pass_on(source, sink, rules):
                        await _reset(pair)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(one_way, from_peer, to_plane, lambda: self.up)
                nursery.start_soon(one_way, to_plane, from_peer, lambda: self.down)
        finally:
            self._pairs.discard(pair)
            self._shut.discard(to_plane)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, rules: Callable[[], Rules]
    ) -> bool:
        """Carry bytes until their end; return whether the connection is to be reset."""
        counted, frames = 0, Frames()
        last = rules()
        try:
            while piece := await source.receive_some(CHUNK_BYTES):
                while rules().is_held:
                    await self._change.wait()
                now = rules()
                if now is not last:
                    counted, frames.ended, last = 0, 0, now
                await self._wait(now, len(piece))
                ends = frames.take(piece)
                counted += len(piece)
                if now.cut_after_bytes is not None and counted > now.cut_after_bytes:
                    await sink.send_all(piece[: len(piece) - (counted - now.cut_after_bytes)])
                    return True
                if now.cut_after_frames is not None and frames.ended >= now.cut_after_frames:
                    await sink.send_all(piece[: ends[-1]] if ends else piece)
                    return True
                if sink not in self._shut:
                    await self._send(sink, piece)
            if sink not in self._shut:
                await sink.send_eof()
        except (*GONE, OSError):
            return True
        return False

    async def _send(self, sink: trio.SocketStream, piece: bytes) -> None:
        try:
            await sink.send_all(piece)
        except trio.BrokenResourceError:
            if sink not in self._shut:
                raise

    async def _wait(self, rules: Rules, size_bytes: int) -> None:
        if rules.delay_s:
            await trio.sleep(rules.delay_s)
        if rules.bytes_per_s is not None:
            await trio.sleep(size_bytes / rules.bytes_per_s)


async def _reset(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    for stream in pair:
        with suppress(OSError, ValueError):
            # A linger of no time: what is on its way is dropped, and the other side sees a reset.
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _NO_LINGER)
        await trio.aclose_forcefully(stream)


_NO_LINGER = b"\x01\x00\x00\x00\x00\x00\x00\x00"


class Frames:
    """Finds where WebSocket frames end in what is carried, after the HTTP of the handshake."""

    def __init__(self) -> None:
        self.ended = 0
        """Frames that have passed as a whole."""
        self._head = bytearray()
        self._is_http = True
        self._left = 0

    def take(self, piece: bytes) -> list[int]:
        """Return where in *piece* frames end."""
        ends: list[int] = []
        at = 0
        while at < len(piece):
            if self._left:
                step = min(self._left, len(piece) - at)
                self._left -= step
                at += step
                if not self._left:
                    self._end(ends, at)
                continue
            self._head.append(piece[at])
            at += 1
            if self._is_http:
                if self._head.endswith(b"\r\n\r\n"):
                    self._is_http = False
                    self._head.clear()
                continue
            length = _frame_length(self._head)
            if length is not None:
                self._head.clear()
                self._left = length
                if not length:
                    self._end(ends, at)
        return ends

    def _end(self, ends: list[int], at: int) -> None:
        self.ended += 1
        ends.append(at)


def _frame_length(head: bytearray) -> int | None:
    """Return how many bytes follow the head of a frame (RFC 6455, 5.2); None: it is not whole."""
    if len(head) < 2:
        return None
    mask = 4 if head[1] & 0x80 else 0
    short = head[1] & 0x7F
    more = {126: 2, 127: 8}.get(short, 0)
    if len(head) < 2 + more + mask:
        return None
    return int.from_bytes(head[2 : 2 + more]) if more else short
