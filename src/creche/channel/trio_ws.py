"""Channels over trio-websocket: the plane's listener, and the dialling end for peers on Trio.

The library needs a nursery for the task that reads the socket. Each connection has its own, apart
from the nursery that the user of the channel lives in: whatever garbage makes the library raise
ends one connection, with a reason, and nothing else. Two things are added to it: it is told when
the bytes end during the handshake (it would wait on), and the socket is closed in any case.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

import trio
import trio_websocket as tws
import wsproto.utilities

from creche.channel import handshake as hs
from creche.channel.ending import Ending
from creche.channel.gate import Gate
from creche.channel.gauge import Gauge, TooManyParts
from creche.channel.lobby import Lobby, PacedListener, Place, host_of
from creche.errors import ListenError, PlaneUnreachable
from creche.wire.codec import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from creche.channel.base import Handler

logger = logging.getLogger("creche.channel")

# The library's reader stops reading while its queue is full. The receive task takes frames at once,
# so a few are enough; each may be as large as the limit, so there must not be many.
QUEUE_FRAMES = 4

NO_PAGES = Gate()

_Opened: TypeAlias = tws.WebSocketConnection
_Shake: TypeAlias = Callable[[trio.Nursery, trio.abc.Stream], Awaitable[_Opened]]


_END_OF_REQUEST = re.compile(rb"\n\r?\n")


class _Wire(trio.abc.Stream):
    """The bytes below the library. Cancels `opening` when they end while the handshake runs. With a
    *place*, that is for a listener, what follows the peer's request goes through a gauge."""

    def __init__(self, stream: trio.abc.Stream, place: Place | None = None) -> None:
        self.opening: trio.CancelScope | None = trio.CancelScope()
        self.fault: str | None = None
        """What the peer did that ended the connection, if the library does not know of it."""
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._gauge = None if place is None else Gauge()
        self._line = None if place is None else place.line
        self._allowance = hs.HANDSHAKE_BYTES
        self.trouble: trio.BrokenResourceError | None = None
        """What broke the bytes while the handshake ran; the library only sees that they ended."""
        self._reads = 0
        self._request: bytes | None = b""
        """The last of the peer's request, as long as that goes on."""
        self._rest: bytes | bytearray = b""
        """What was read and not passed on yet."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._request is None:
            return await self._receive_gauged(max_bytes)
        if self.opening is None:
            return await self._stream.receive_some(max_bytes)
        data: bytes | bytearray = b""
        try:
            self._reads += 1
            if self._reads > hs.HANDSHAKE_READS:
                await trio.sleep(hs.HANDSHAKE_READ_S)
            data = await self._stream.receive_some(max_bytes)
            self._allowance -= len(data)
        except trio.BrokenResourceError as broken:
            self.trouble = broken
            raise
        finally:
            if not data or self._allowance < 0:
                self._stop_opening()
        return data if self._gauge is None else self._of_request(data)

    def _of_request(self, data: bytes | bytearray) -> bytes | bytearray:
        """Keep back what comes behind the request: that is not the handshake's."""
        assert self._request is not None
        before = len(self._request)
        end = _END_OF_REQUEST.search(self._request + data)
        if end is None:
            self._request = (self._request + data)[-2:]
            return data
        self._request = None
        self._rest = data[end.end() - before :]
        return data[: end.end() - before]

    async def _receive_gauged(self, max_bytes: int | None) -> bytes | bytearray:
        assert self._gauge is not None
        assert self._line is not None
        data = self._rest
        if data:
            await trio.lowlevel.checkpoint()
        else:
            data = await self._stream.receive_some(max_bytes)
        try:
            taken = self._gauge.take(data)
        except TooManyParts:
            self.fault = "sent a message in too many parts"
            raise trio.BrokenResourceError(self.fault) from None
        if (wait_s := self._gauge.wait_s) > 0:
            async with self._line:
                await trio.sleep(wait_s)
        self._rest = data[taken:]
        return data if taken == len(data) else data[:taken]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        data = self._send_now(data)
        if not data:
            return
        try:
            await self._stream.send_all(data)
        except BaseException:
            self._stop_opening()
            raise

    def _send_now(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """Send what the socket takes at once, mostly all, and return the rest: a trip through the
        scheduler would cost as much as everything else about a small frame. The library takes its
        lock before each call, and that is a checkpoint."""
        if self._socket is None:
            return data
        try:
            sent = os.write(self._socket.fileno(), data)
        except OSError:
            return data  # it is full, or broken: the stream waits, or says so
        return b"" if sent == len(data) else memoryview(data)[sent:]

    async def begin(self) -> None:
        """Shake hands over TLS. The library would wait on when that fails."""
        if isinstance(self._stream, trio.SSLStream):
            try:
                await self._stream.do_handshake()
            except trio.BrokenResourceError as broken:
                if isinstance(broken.__cause__, ssl.SSLError):
                    await _say_why(self._stream, broken.__cause__)
                raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Let the other side know that nothing more comes; TLS has no such thing."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        self._stop_opening()
        await self._stream.aclose()

    def _stop_opening(self) -> None:
        if self.opening is not None:
            self.opening.cancel()


class _Reader:
    """Owns the nursery of the library's reader, and keeps its failures to this one connection."""

    def __init__(self, wire: _Wire) -> None:
        self.failure = hs.ended()
        self._wire = wire
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(
        self,
        shake: _Shake,
        began_at: float,
        handshake_s: float,
        task_status: trio.TaskStatus[_Opened | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Report the connection when its handshake is done, or None and leave `failure`."""
        connection: _Opened | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    connection = await self._open(nursery, shake, began_at + handshake_s)
                    if connection is None:
                        if self._wire.trouble is not None:
                            self.failure = _failure_of(self._wire.trouble)
                        elif trio.current_time() >= began_at + handshake_s:
                            why = f"it did not finish the handshake within {handshake_s:g} s"
                            self.failure = hs.HandshakeFailed(why)
                        nursery.cancel_scope.cancel()
                    else:
                        # The closing handshake needs the reader; who closes the channel stops it.
                        self._scope.shield = True
                        task_status.started(connection)
        # Only the library runs in this nursery. Hostile bytes make it raise much more than it
        # documents (a ping during the closing handshake, a header that is not ASCII, ...).
        except* Exception as group:
            self.failure = _failure_in(group)
            logger.debug("a connection failed: %s", self.failure.why)
        finally:
            self._ended.set()
        if connection is None:
            task_status.started(None)

    async def _open(self, nursery: trio.Nursery, shake: _Shake, deadline: float) -> _Opened | None:
        wire = self._wire
        assert wire.opening is not None
        with trio.move_on_at(deadline), wire.opening:
            await wire.begin()
            connection = await shake(nursery, wire)
            wire.opening = None
            return connection
        return None

    async def stop(self) -> None:
        """End the library's task, and wait until it has."""
        self._scope.cancel()
        await self._ended.wait()


def _failure_in(group: ExceptionGroup[Exception]) -> hs.HandshakeFailed:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, hs.HandshakeFailed):
        return error
    if isinstance(error, tws.ConnectionRejected):
        return hs.rejected(error.status_code, error.body)
    return _failure_of(error)


async def _say_why(stream: trio.SSLStream[trio.SocketStream], error: ssl.SSLError) -> None:
    """Tell the other side why there is no TLS with it: by the alert that OpenSSL has written for
    it and Trio leaves unsent, or in plain text to who speaks that. Bounded."""
    below = stream.transport_stream
    said = hs.TLS_ANSWER if hs.is_plain_http(error) else stream._outgoing.read()
    with trio.move_on_after(hs.CLOSE_S), suppress(trio.BrokenResourceError):
        await below.send_all(said)
        await below.send_eof()
        # Closing a socket with unread bytes resets it, and what was said would be lost.
        while await below.receive_some(hs.READ_BYTES):
            pass


def _failure_of(error: Exception) -> hs.HandshakeFailed:
    if isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, ssl.SSLError):
        return hs.tls_failure(error.__cause__)
    if isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        return hs.HandshakeFailed(hs.why_not_connected(error.__cause__))
    if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | OSError):
        return hs.ended()
    return hs.no_websocket(error)


class TrioChannel(Ending):
    """A channel over one WebSocket. Made by `serve` and `dial` only."""

    def __init__(
        self,
        connection: _Opened,
        wire: _Wire,
        reader: _Reader,
        peer: str,
        place: Place | None = None,
    ) -> None:
        super().__init__(peer)
        self._place = place
        self._connection = connection
        self._wire = wire
        self._reader = reader

    def let_in(self) -> None:
        """See `Channel.let_in`."""
        if self._place is not None:
            self._place.leave()

    async def send(self, frame: bytes) -> None:
        """See `Channel.send`."""
        if self._end is not None:
            self._raise_end()
        try:
            await self._connection.send_message(frame)
        except tws.ConnectionClosed as closed:
            self._raise_broken(closed.reason)
        except wsproto.utilities.LocalProtocolError:
            self._raise_broken(self._connection.closed)
        except trio.Cancelled:
            self._give_up_send()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._wire)
            raise

    async def receive(self) -> bytes:
        """See `Channel.receive`."""
        if self._end is not None and self._is_closed:
            self._raise_end()
        try:
            frame = await self._connection.get_message()
        except tws.ConnectionClosed as closed:
            self._raise_broken(closed.reason)
        if type(frame) is bytes:
            return frame
        self._break(f"{self._peer} sent text: frames are binary")
        await self._finish(hs.UNSUPPORTED_DATA, "frames are binary")
        self._raise_end()

    async def aclose(self) -> None:
        """See `Channel.aclose`."""
        if not self._is_closed:
            self._close()
            await self._finish(hs.NORMAL_CLOSURE, None)

    async def _finish(self, code: int, reason: str | None) -> None:
        with trio.CancelScope(shield=True):
            try:
                with trio.move_on_after(hs.CLOSE_S):
                    with suppress(wsproto.utilities.LocalProtocolError):
                        await self._connection.aclose(code, reason)
                    await self._reader.stop()
                    await self._read_off()
            finally:
                await self._reader.stop()
                await trio.aclose_forcefully(self._wire)

    async def _read_off(self) -> None:
        # When we refused a frame, the rest of it is still coming. Closing a socket with unread
        # bytes resets it, and the close frame that says why would be lost.
        try:
            await self._wire.send_eof()
            while await self._wire.receive_some(hs.READ_BYTES):
                pass
        except (trio.ClosedResourceError, trio.BrokenResourceError, trio.BusyResourceError):
            pass  # mostly because the closing handshake has closed the socket

    def _raise_broken(self, reason: tws.CloseReason | None) -> NoReturn:
        if self._wire.fault is not None:
            self._break(f"{self._peer} {self._wire.fault}")
        elif reason is None:
            self._lose()
        else:
            self._break(hs.why_closed(self._peer, reason.code, reason.reason))
        self._raise_end()


@asynccontextmanager
async def _open_channel(
    stream: trio.abc.Stream,
    shake: _Shake,
    *,
    began_at: float,
    handshake_s: float,
    peer: str,
    place: Place | None = None,
) -> AsyncIterator[TrioChannel]:
    """Make a channel of *stream*, and close that in the end. One that was taken in by a listener
    has a *place* in its lobby.

    What the block raises comes out as it is.

    Raises:
        HandshakeFailed: and says why.
    """
    error: BaseException | None = None
    wire = _Wire(stream, place)
    reader = _Reader(wire)
    try:
        async with trio.open_nursery() as nursery:
            connection = await nursery.start(reader.run, shake, began_at, handshake_s)
            if connection is None:
                error = reader.failure
            else:
                channel = TrioChannel(connection, wire, reader, peer, place)
                try:
                    yield channel
                except BaseException as raised:
                    error = raised  # raised below, so that the nursery does not make a group of it
                finally:
                    await channel.aclose()
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        if error is not None:
            raise error


# --- listening ----------------------------------------------------------------------------------


async def serve(
    handler: Handler,
    /,
    *,
    host: str,
    port: int,
    limits: Limits = DEFAULT_LIMITS,
    ssl_context: ssl.SSLContext | None = None,
    gate: Gate = NO_PAGES,
    handshake_s: float = hs.HANDSHAKE_S,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen for peers until cancelled; the path they ask for does not matter.

    With all but *handler* given by `partial` this is a `creche.channel.base.Listen`, which says
    what becomes of the handler, of *handler_nursery* and of errors. *gate* keeps web pages out.
    Reports the bound URLs: one, or several where *host* has several addresses (with port 0 each of
    them has a port of its own).

    Raises:
        ListenError: the port is in use, or cannot be bound for another reason.
    """
    try:
        if not 0 <= port <= 65535:
            raise OSError("ports are 1 to 65535, or 0 for any free one")  # the C library wraps them
        listeners = await trio.open_tcp_listeners(port, host=host)
    except (OSError, UnicodeError) as error:
        raise ListenError(hs.why_not_listening(host, port, error)) from None

    lobby = Lobby()

    async def handle(stream: trio.SocketStream) -> None:
        with lobby.place(host_of(stream)) as place, place.scope:
            await serve_one(stream, place)
        if place.was_given_up:
            logger.debug("a connection was given up for another: too many say nothing")

    async def serve_one(stream: trio.SocketStream, place: Place) -> None:
        began_at = trio.current_time()
        peer = _name_of(stream)
        bytes_below: trio.abc.Stream = stream
        if ssl_context is not None:
            bytes_below = trio.SSLStream(
                stream, ssl_context, server_side=True, https_compatible=True
            )
        shake = partial(_accept, limits=limits, gate=gate)
        try:
            async with _open_channel(
                bytes_below,
                shake,
                began_at=began_at,
                handshake_s=handshake_s,
                peer=peer,
                place=place,
            ) as channel:
                await handler(channel)
        except hs.HandshakeFailed as failed:
            logger.info("%s did not become a peer: %s", peer, failed.why)

    scheme = "ws" if ssl_context is None else "wss"
    # They listen already: who dials from here on waits in the kernel's queue.
    task_status.started(
        tuple(
            f"{scheme}://{hs.authority(*listener.socket.getsockname()[:2])}"
            for listener in listeners
        )
    )
    paced = [PacedListener(listener) for listener in listeners]
    await trio.serve_listeners(handle, paced, handler_nursery=handler_nursery)


async def _accept(
    nursery: trio.Nursery, stream: trio.abc.Stream, limits: Limits, gate: Gate
) -> _Opened:
    request = await tws.wrap_server_stream(
        nursery,
        stream,
        message_queue_size=QUEUE_FRAMES,
        max_message_size=limits.frame_bytes,
        receive_buffer_size=hs.READ_BYTES,
    )
    # The library hands on all headers but this one.
    why_shut = gate.why_shut(request.headers, request._event.host)
    if why_shut is not None:
        await _reject(request, 403, f"{hs.A_PLANE}: {why_shut}")
    offered = request.proposed_subprotocols
    if hs.SUBPROTOCOL not in offered:
        words = f"not {', '.join(offered)[:100]}" if offered else "and none was named"
        why = f"{hs.A_PLANE}: it speaks the subprotocol {hs.SUBPROTOCOL}, {words}"
        await _reject(request, 400, why)
    return await request.accept(subprotocol=hs.SUBPROTOCOL)


async def _reject(request: tws.WebSocketRequest, status: int, why: str) -> NoReturn:
    await request.reject(
        status,
        extra_headers=[(b"Content-Type", b"text/plain; charset=utf-8")],
        body=f"{why}\n".encode(),
    )
    raise hs.HandshakeFailed(f"it was refused: {why}")


def _name_of(stream: trio.SocketStream) -> str:
    try:
        return hs.authority(*stream.socket.getpeername()[:2])
    except OSError:  # it has gone again
        return "a peer that has gone"


# --- dialling -----------------------------------------------------------------------------------


def dial(
    url: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    timeout_s: float = hs.HANDSHAKE_S,
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager[TrioChannel]:
    """Connect to the plane at *url*; a `partial` of it is a `creche.channel.base.Dial`.

    *timeout_s* bounds connecting and handshake together. Certificates are checked by *ssl_context*,
    by default against the system's authorities.

    Raises:
        SettingsError: at once, when *url* is no ``ws://`` or ``wss://`` URL.
        PlaneUnreachable: on entering, and says why.
    """
    return _dial(url, hs.parse_url(url), limits, timeout_s, ssl_context)


@asynccontextmanager
async def _dial(
    url: str,
    target: hs.Target,
    limits: Limits,
    timeout_s: float,
    ssl_context: ssl.SSLContext | None,
) -> AsyncIterator[TrioChannel]:
    began_at = trio.current_time()
    stream: trio.abc.Stream | None = None
    with trio.move_on_after(timeout_s):
        try:
            stream = await trio.open_tcp_stream(target.host, target.port)
        except OSError as error:
            raise PlaneUnreachable(url, hs.why_not_connected(error)) from None
    if stream is None:
        raise PlaneUnreachable(url, f"it did not answer within {timeout_s:g} s")
    if target.is_tls:
        context = ssl_context or hs.default_tls()
        stream = trio.SSLStream(
            cast("trio.SocketStream", stream),
            context,
            server_hostname=target.host,
            https_compatible=True,
        )
    shake = partial(_introduce, target=target, limits=limits)
    try:
        async with _open_channel(
            stream, shake, began_at=began_at, handshake_s=timeout_s, peer=target.authority
        ) as channel:
            yield channel
    except hs.HandshakeFailed as failed:
        raise failed.at(url) from None


async def _introduce(
    nursery: trio.Nursery, stream: trio.abc.Stream, target: hs.Target, limits: Limits
) -> _Opened:
    connection = await tws.wrap_client_stream(
        nursery,
        # Declared for sockets only, and used as any stream.
        cast("trio.SocketStream", stream),
        target.authority,
        target.resource,
        subprotocols=[hs.SUBPROTOCOL],
        message_queue_size=QUEUE_FRAMES,
        max_message_size=limits.frame_bytes,
        receive_buffer_size=hs.READ_BYTES,
    )
    if connection.subprotocol != hs.SUBPROTOCOL:
        raise hs.other_websocket()
    return connection
