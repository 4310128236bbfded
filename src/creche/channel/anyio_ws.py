"""The dialling end for clients, on asyncio and on Trio: wsproto over anyio's streams.

There is no background task: `receive` reads the socket, and answers the WebSocket's own pings on
the way. So pings are answered as long as somebody receives, which a peer always does.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio
import wsproto
from anyio.abc import ByteStream, SocketAttribute
from wsproto import events
from wsproto.connection import ConnectionState
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from creche.channel import handshake as hs
from creche.channel.ending import Ending
from creche.errors import PlaneUnreachable
from creche.wire.codec import DEFAULT_LIMITS, Limits

logger = logging.getLogger("creche.channel")

# What a stream raises when it has ended, whoever ended it. TLS lets its own errors through.
_ENDED = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    ssl.SSLError,
    OSError,
)


class AnyioChannel(Ending):
    """A channel over one WebSocket. Made by `dial` only."""

    def __init__(
        self, stream: ByteStream, websocket: wsproto.WSConnection, peer: str, limits: Limits
    ) -> None:
        super().__init__(peer)
        self._stream = stream
        self._websocket = websocket
        self._limits = limits
        # Frames and pongs leave one after the other; wsproto and the socket see the same order.
        self._sending = anyio.Lock(fast_acquire=True)
        self._arrived: deque[bytes] = deque()
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._is_reading = False
        # Set when `receive` leaves the socket to an `aclose` that waits for the close frame.
        self._reader_left = anyio.Event()
        # Nothing more will come: the other side has closed, or the network has.
        self._has_parted = False

    def fileno(self) -> int:
        """Return the number of the socket, -1 once it is closed. For who forks."""
        number: int = self._stream.extra(SocketAttribute.raw_socket).fileno()
        return number

    async def send(self, frame: bytes) -> None:
        """See `Channel.send`."""
        if self._end is not None:
            self._raise_end()
        is_sent = False
        try:
            async with self._sending:
                await self._write(events.BytesMessage(data=frame))
            is_sent = True
        except (*_ENDED, LocalProtocolError):
            self._lose()
            self._raise_end()
        finally:
            if not is_sent and self._end is None:
                self._give_up_send()
                await self._drop()

    async def receive(self) -> bytes:
        """See `Channel.receive`."""
        # No checkpoint while frames are left of what was read: that is one read at most.
        while not self._arrived:
            if self._end is not None:
                self._raise_end()
            self._is_reading = True
            try:
                await self._read()
            finally:
                self._is_reading = False
                if self._is_closed:
                    self._reader_left.set()
        if self._end is not None and self._is_closed:
            self._raise_end()
        return self._arrived.popleft()

    async def aclose(self) -> None:
        """See `Channel.aclose`."""
        if self._is_closed:
            return
        was_open = self._end is None
        self._close()
        self._arrived.clear()
        with anyio.CancelScope(shield=True):
            if was_open:
                with anyio.move_on_after(hs.CLOSE_S), suppress(*_ENDED, LocalProtocolError):
                    async with self._sending:
                        await self._write(events.CloseConnection(code=hs.NORMAL_CLOSURE))
                    await self._await_parting()
            await self._drop()

    # --- reading --------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read once. Between the read and taking in what came there is no checkpoint."""
        try:
            data = await self._stream.receive(hs.READ_BYTES)
        except _ENDED:
            self._has_parted = True
            self._lose()
            return
        self._websocket.receive_data(data)
        await self._go_on()

    async def _go_on(self) -> None:
        replies = self._take_in()
        if replies and isinstance(close := replies[-1], events.CloseConnection):
            # Before any checkpoint: whoever cancels us now finds the channel broken all the same.
            self._break(hs.why_closed(self._peer, close.code, close.reason))
        for reply in replies:
            await self._reply(reply)

    def _take_in(self) -> list[events.Event]:
        """Sort what has arrived; return what it calls for: pongs, and a Close as the last."""
        replies: list[events.Event] = []
        for event in self._websocket.events():
            if isinstance(event, events.BytesMessage):
                self._size_bytes += len(event.data)
                if self._size_bytes > self._limits.frame_bytes:
                    why = f"a frame is over the limit of {self._limits.frame_bytes:,} bytes"
                    return [*replies, events.CloseConnection(hs.TOO_BIG, why)]
                self._parts.append(bytes(event.data))
                if event.message_finished:
                    self._take_in_frame()
            elif isinstance(event, events.TextMessage):
                why = "frames are binary"
                return [*replies, events.CloseConnection(hs.UNSUPPORTED_DATA, why)]
            elif isinstance(event, events.Ping):
                replies.append(event.response())
            elif isinstance(event, events.CloseConnection):
                return [*replies, event]
        return replies

    def _take_in_frame(self) -> None:
        if self._end is None or not self._is_closed:
            self._arrived.append(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        self._parts = []
        self._size_bytes = 0

    async def _reply(self, reply: events.Event) -> None:
        if not isinstance(reply, events.CloseConnection):
            await self._speak(reply)
            return
        state = self._websocket.state
        if state is ConnectionState.OPEN:
            # We refuse what came: wsproto did (it was no WebSocket), or `_take_in`.
            await self._refuse(reply)
            return
        self._has_parted = True
        if state is ConnectionState.REMOTE_CLOSING:
            await self._speak(reply.response())

    async def _refuse(self, close: events.CloseConnection) -> None:
        await self._speak(close)
        # What is left of the frame is still coming. Closing a socket with unread bytes resets it,
        # and the close frame that says why would be lost.
        with anyio.move_on_after(hs.CLOSE_S, shield=True), suppress(*_ENDED):
            with suppress(NotImplementedError):  # TLS cannot end one direction
                await self._stream.send_eof()
            while True:
                await self._stream.receive(hs.READ_BYTES)
        self._has_parted = True
        await self._drop()

    async def _speak(self, event: events.Event) -> None:
        """Send a control frame for the reader, who may be cancelled and must not lose data.

        It is left out when the other side takes nothing for a second.
        """
        has_begun = is_sent = False
        with anyio.move_on_after(hs.CLOSE_S, shield=True):
            with suppress(*_ENDED):
                async with self._sending:
                    try:
                        data = self._websocket.send(event)
                    except LocalProtocolError:
                        return  # a pong after the close frame: it is too late for that
                    has_begun = True
                    await self._stream.send(data)
                is_sent = True
        if has_begun and not is_sent:
            self._lose()
            await self._drop()

    # --- writing and ending ---------------------------------------------------------------------

    async def _write(self, event: events.Event) -> None:
        await self._stream.send(self._websocket.send(event))

    async def _await_parting(self) -> None:
        """Read until the other side has closed as well; first let go who is reading."""
        if self._is_reading:
            await self._reader_left.wait()
        while not self._has_parted:
            await self._read()

    async def _drop(self) -> None:
        """Close the socket; whoever waits on it wakes up."""
        with anyio.CancelScope(shield=True), suppress(*_ENDED):
            await anyio.aclose_forcefully(self._stream)


# --- dialling -----------------------------------------------------------------------------------


def dial(
    url: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    timeout_s: float = hs.HANDSHAKE_S,
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager[AnyioChannel]:
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
) -> AsyncIterator[AnyioChannel]:
    stream: ByteStream | None = None
    channel: AnyioChannel | None = None
    try:
        with anyio.move_on_after(timeout_s):
            stream = await _connect(url, target, ssl_context)
            websocket = await _introduce(target, stream)
            channel = AnyioChannel(stream, websocket, target.authority, limits)
            # A plane may speak at once: some of it may have come with the handshake's last bytes.
            await channel._go_on()
        if channel is None:
            what = "answer" if stream is None else "finish the handshake"
            raise PlaneUnreachable(url, f"it did not {what} within {timeout_s:g} s")
        yield channel
    except hs.HandshakeFailed as failed:
        raise failed.at(url) from None
    finally:
        if channel is not None:
            await channel.aclose()
        elif stream is not None:
            with anyio.CancelScope(shield=True), suppress(*_ENDED):
                await anyio.aclose_forcefully(stream)


async def _connect(url: str, target: hs.Target, ssl_context: ssl.SSLContext | None) -> ByteStream:
    try:
        if target.is_tls:
            context = ssl_context or hs.default_tls()
            stream: ByteStream = await anyio.connect_tcp(
                target.host,
                target.port,
                ssl_context=context,
                tls_hostname=target.host,
                # As with HTTPS: a close frame ends a WebSocket, TLS need not say it again.
                tls_standard_compatible=False,
            )
        else:
            stream = await anyio.connect_tcp(target.host, target.port)
    except ssl.SSLError as error:
        raise hs.tls_failure(error).at(url) from None
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise PlaneUnreachable(url, hs.why_not_connected(error)) from None
    # Small frames leave at once. Both event loops do so by default, and it is not left to them.
    raw = stream.extra(SocketAttribute.raw_socket)
    with suppress(OSError):  # it has gone again
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


async def _introduce(target: hs.Target, stream: ByteStream) -> wsproto.WSConnection:
    websocket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    request = events.Request(
        host=target.authority, target=target.resource, subprotocols=[hs.SUBPROTOCOL]
    )
    status, body = 0, b""
    read_bytes = 0
    try:
        await stream.send(websocket.send(request))
        while read_bytes < hs.HANDSHAKE_BYTES:
            for event in websocket.events():
                if isinstance(event, events.AcceptConnection):
                    if event.subprotocol == hs.SUBPROTOCOL:
                        return websocket
                    raise hs.other_websocket()
                if isinstance(event, events.RejectConnection):
                    status = event.status_code
                    if not event.has_body:
                        raise hs.rejected(status, None)
                elif isinstance(event, events.RejectData):
                    body += event.data
                    if event.body_finished:
                        raise hs.rejected(status, body)
            data = await stream.receive(hs.READ_BYTES)
            read_bytes += len(data)
            websocket.receive_data(data)
    except (RemoteProtocolError, UnicodeError) as error:
        raise hs.no_websocket(error) from None
    except _ENDED as error:
        why = error if isinstance(error, ssl.SSLError) else error.__cause__
        if isinstance(why, ssl.SSLError) and not isinstance(why, ssl.SSLEOFError):
            raise hs.tls_failure(why) from None
    raise hs.rejected(status, body) if status else hs.ended()
