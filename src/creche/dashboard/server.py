"""The page's process: a session with the plane, and Hypercorn for the browsers, in one nursery.

Hypercorn's own `serve` runs all connections in one nursery without a fence, so a protocol error in
one ends the server (its issue 225). Here each connection of Hypercorn's is fenced, its sends are
bounded (they are shielded, so a reader that stops reading would outlast any deadline), a send that
fails ends it whole (issue 210), and there is an end to how many there are. Over TLS they count only
once they have shaken hands: before, they have shown no certificate, and wait in a lobby.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Callable
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from creche.channel.base import Dial
from creche.channel.handshake import HANDSHAKE_S
from creche.channel.lobby import Lobby, PacedListener, host_of
from creche.dashboard.app import BEAT_S, make_app
from creche.dashboard.live import MAX_STREAMS, Live
from creche.errors import ListenError, SettingsError
from creche.peer.credential import Credential

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
GRACE_S = 1.0
SEND_S = 20.0
"""A reader that takes nothing for so long is cut; longer than a heartbeat, as a sleeping tab is."""
MAX_CONNECTIONS = 4 * MAX_STREAMS
"""A browser holds up to six connections to a host, most of them idle and ended after seconds."""

logger = logging.getLogger("creche.dashboard")


async def run_gui(
    connect: str,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    insecure: bool = False,
    page_tls: ssl.SSLContext | None = None,
    token: Credential | None = None,
    tls: ssl.SSLContext | None = None,
    dial: Dial | None = None,
    stop: trio.Event | None = None,
    grace_s: float = GRACE_S,
    beat_s: float = BEAT_S,
    max_streams: int = MAX_STREAMS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the live page of the plane at *connect* until *stop* is set, or this is cancelled.

    Reports the page's address once it listens, whether there is a plane or not: without one the
    page says so, and goes on when the plane is back. When stopped, browsers are told goodbye and
    have *grace_s* seconds to take it; when cancelled, they are cut.

    Args:
        connect: the plane's URL.
        host: where to listen; anything but loopback only with *insecure*, or where *page_tls* wants
            certificates of browsers, as there is no login.
        port: 0 takes a free one.
        insecure: whether everybody who reaches *host* may look.
        page_tls: how the page is spoken with, if over TLS.
        token: what the plane wants to be shown.
        tls: how the plane is spoken with, if over TLS.
        dial: opens the connection to the plane in place of the WebSocket.
        stop: ends this gracefully.
        grace_s: seconds for the goodbye.
        beat_s: seconds between a silent stream's heartbeats.
        max_streams: how many browsers may look at once.

    Raises:
        SettingsError: *host* is not loopback, or *connect* is no URL of a plane.
        ListenError: the port is in use, or the host is not this machine's.
        Refused: the plane does not want this peer, and never will.
    """
    is_open = not is_loopback(host)
    wants_certificate = page_tls is not None and page_tls.verify_mode == ssl.CERT_REQUIRED
    if is_open and not insecure and not wants_certificate:
        raise SettingsError(
            f"the page has no login, so it listens on loopback only, not on {host!r}: use "
            "127.0.0.1, want certificates of who looks (--gui-tls-ca), or say that everybody who "
            "reaches it may look (--gui-insecure)"
        )
    stop = trio.Event() if stop is None else stop
    live = Live(connect, token=token, tls=tls, dial=dial, max_streams=max_streams)
    hosts = None if is_open else {"127.0.0.1", "localhost", "[::1]", _authority(host).lower()}
    app = wrap_app(make_app(live, hosts=hosts, beat_s=beat_s), 0, "asgi")
    server = Server(app, grace_s, page_tls)
    listeners = await _open_listeners(host, port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.run)
        nursery.start_soon(live.tell)
        bound = listeners[0].socket.getsockname()[1]
        scheme = "http" if page_tls is None else "https"
        task_status.started(f"{scheme}://{_authority(host)}:{bound}")
        await server.run(listeners, stop=stop, say_goodbye=live.close)
        nursery.cancel_scope.cancel()


class Server:
    """Hypercorn's connections, in a nursery of ours.

    The application has nothing to start or to stop, so the lifespan protocol is left out.
    """

    def __init__(
        self,
        app: AppWrapper,
        grace_s: float,
        tls: ssl.SSLContext | None = None,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self._tls = tls
        self._handshake_s = handshake_s
        self._lobby = Lobby()
        self._app = app
        self._grace_s = grace_s
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = logger
        self._config.include_server_header = False
        self._open: set[_Wire] = set()
        self._emptied = trio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open, of those that have shaken hands."""
        return len(self._open)

    async def run(
        self,
        listeners: list[trio.SocketListener],
        *,
        stop: trio.Event,
        say_goodbye: Callable[[], None],
    ) -> None:
        """Serve until *stop* is set; then refuse, say goodbye, and cut what is left in the end."""
        async with trio.open_nursery() as connections:
            try:
                async with trio.open_nursery() as intake:
                    serve = partial(trio.serve_listeners, handler_nursery=connections)
                    paced = [PacedListener(listener) for listener in listeners]
                    intake.start_soon(serve, self._handle, paced)
                    await stop.wait()
                    intake.cancel_scope.cancel()
                say_goodbye()
                await self._context.terminated.set()
                with trio.move_on_after(self._grace_s):
                    while self._open:
                        await self._emptied.wait()
            finally:
                # Before the nursery is cancelled: a shielded send ends only with its socket.
                for wire in self._open:
                    wire.cut()
                connections.cancel_scope.cancel()

    async def _handle(self, stream: trio.SocketStream) -> None:
        if self._tls is None:
            await self._serve(_Wire(stream))
            return
        wire = _TlsWire(stream, self._tls)
        try:
            with self._lobby.place(host_of(stream)) as place, place.scope:
                if await wire.has_shaken_hands(self._handshake_s):
                    place.leave()
                    await self._serve(wire)
        finally:
            wire.cut()

    async def _serve(self, wire: _Wire) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            wire.cut()
            return
        self._open.add(wire)
        state = ConnectionState({})
        try:
            with wire.use:
                await TCPServer(self._app, self._config, self._context, state, wire)  # type: ignore[arg-type]
        except* Exception as errors:
            # The fence: whatever one peer makes Hypercorn stumble over, the others go on.
            logger.info("a connection ended by a protocol error: %s", errors.exceptions[0])
        finally:
            wire.cut()
            self._open.discard(wire)
            if not self._open:
                self._emptied.set()
                self._emptied = trio.Event()


class _Wire:
    """One TCP connection as Hypercorn uses it, with sends that end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream: trio.abc.Stream = stream
        self.socket = stream.socket
        self.use = trio.CancelScope()
        """Around all that Hypercorn does with it. It ends with the first send that fails: while a
        second request waits behind a stream, Hypercorn does not read and would not see the end."""

    async def send_all(self, data: bytes) -> None:
        """Send, or break the connection when the reader takes nothing for too long."""
        try:
            with trio.move_on_after(SEND_S):
                await self._stream.send_all(data)
                return
        except trio.BrokenResourceError:
            self.use.cancel()
            raise
        self.use.cancel()
        self.cut()
        raise trio.BrokenResourceError(f"the reader took nothing for {SEND_S:g} s")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """End our half. Shielded, as it does not wait: Hypercorn closes from the request's task,
        which Quart has cancelled by then, and without this the browser never sees the end."""
        with trio.CancelScope(shield=True):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close. Shielded as `send_eof` is."""
        with trio.CancelScope(shield=True):
            await self._stream.aclose()

    def cut(self) -> None:
        """Close at once; whoever waits on it, even shielded, is woken. Again: does nothing."""
        self.socket.close()


class _TlsWire(_Wire):
    """The same over TLS; Hypercorn tells it by the handshake that it has."""

    def __init__(self, stream: trio.SocketStream, tls: ssl.SSLContext) -> None:
        super().__init__(stream)
        self.transport_stream = stream
        self._tls = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        self._stream = self._tls

    async def do_handshake(self) -> None:
        """Shake hands."""
        await self._tls.do_handshake()

    async def has_shaken_hands(self, within_s: float) -> bool:
        """Shake hands; return whether the peer did so in time and as it should."""
        with trio.move_on_after(within_s):
            try:
                await self.do_handshake()
            except trio.BrokenResourceError as error:
                logger.info("a connection ended in its handshake: %s", error.__cause__ or error)
            else:
                return True
        return False

    def selected_alpn_protocol(self) -> str:
        """Return what is spoken: one request after the other."""
        return "http/1.1"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*. Of names only ``localhost`` is known."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host.strip("[]") or None)
    except OSError as error:
        where = f"{_authority(host)}:{port}"
        why = error.strerror or str(error)
        raise ListenError(
            f"the page cannot listen on {where}: {why}: choose another --gui-port"
        ) from None


def _authority(host: str) -> str:
    """Return *host* as it stands in a URL."""
    return f"[{host.strip('[]')}]" if ":" in host else host
