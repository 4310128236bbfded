"""From the plane to the browsers: one session, one subscription, one encoding for all who look.

The topic is followed only while somebody looks. Each view is encoded once and offered to every
stream's one slot; what a slow reader has not taken yet is replaced, so it skips views and always
gets the newest. Every frame is the whole state, so skipping loses nothing.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial

import trio

from creche.channel import anyio_ws
from creche.channel.base import Channel, Dial
from creche.client.client import Client
from creche.dashboard.overview import Overview, empty_overview, make_overview, unreachable
from creche.errors import ClientClosed, CrecheError, PlaneUnreachable, Refused
from creche.peer.credential import Credential
from creche.peer.link import FINAL_REFUSALS

MAX_STREAMS = 100
TOPIC_HZ = 5.0
ASK_S = 2.0
"""How long a page without a stream waits for the plane before it shows what is known."""

FIRST_NOTICE_S = 3.0
NOTICE_S = 60.0
"""When the log says that the page waits for its plane, at first and then again."""

_LOOK_S = 0.25

_BYE = b'event: bye\ndata: {"retry_s": 1}\n\n'

logger = logging.getLogger("creche.dashboard")


class StreamsFull(CrecheError):
    """As many browsers look as this page serves at once."""


class Stream:
    """What is on its way to one browser: one frame at most."""

    def __init__(self) -> None:
        self._inlet, self._outlet = trio.open_memory_channel[bytes](1)

    def offer(self, frame: bytes) -> None:
        """Send *frame* next, in place of one that has not been taken."""
        try:
            self._inlet.send_nowait(frame)
        except trio.WouldBlock:
            # No checkpoint since: the slot is still full, and empty after this.
            self._outlet.receive_nowait()
            self._inlet.send_nowait(frame)

    def end(self) -> None:
        """Say goodbye, and let the reader come to the end."""
        self.offer(_BYE)
        self._inlet.close()

    async def next(self) -> bytes:
        """Wait for the next frame. Raises `trio.EndOfChannel` after the goodbye."""
        return await self._outlet.receive()


class Live:
    """The newest that is known of a plane, and the streams it is offered to.

    Args:
        connect: the plane's URL.
        token: what the plane wants to be shown.
        tls: how the plane is spoken with, if over TLS.
        dial: opens a connection in place of the WebSocket.
        clock: UTC seconds.
        max_streams: how many browsers may look at once.
    """

    def __init__(
        self,
        connect: str,
        *,
        token: Credential | None = None,
        tls: ssl.SSLContext | None = None,
        dial: Dial | None = None,
        clock: Callable[[], float] = time.time,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._connect = connect
        self._token = token
        self._dial: Dial = (
            dial if dial is not None else partial(anyio_ws.dial, connect, ssl_context=tls)
        )
        self._clock = clock
        self._max_streams = max_streams
        self._streams: set[Stream] = set()
        self._is_closed = False
        self._newest = empty_overview(connect)
        self._is_current = False
        """Whether the newest is kept so by the topic."""
        self._asked_at = float("-inf")
        """When the newest was asked for (Trio's clock)."""
        self._asking = trio.Lock()
        self._rev = 0
        self._client: Client | None = None
        self._has_plane = False
        self._refusal: Refused | None = None
        self._following = trio.CancelScope()
        self._changed = trio.Event()

    # --- to the browsers ------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many browsers look."""
        return len(self._streams)

    @property
    def has_room(self) -> bool:
        """Whether one more stream may be opened."""
        return len(self._streams) < self._max_streams and not self._is_closed

    @property
    def is_following(self) -> bool:
        """Whether the plane makes views for this page now."""
        return self._is_current

    def open_stream(self) -> Stream:
        """Begin to look; `drop` is the end of it.

        Raises:
            StreamsFull: there are too many, or the page is being closed.
        """
        if not self.has_room:
            raise StreamsFull(f"{self._max_streams} browsers look at this page already")
        stream = Stream()
        self._streams.add(stream)
        if self._is_current or not self._has_plane:
            stream.offer(self._frame())
        self._note_change()
        return stream

    def drop(self, stream: Stream) -> None:
        """Stop looking. Dropping again does nothing."""
        self._streams.discard(stream)
        if not self._streams:
            self._following.cancel()

    def close(self) -> None:
        """Say goodbye to every stream, and open no more."""
        self._is_closed = True
        for stream in self._streams:
            stream.end()

    async def newest(self) -> Overview:
        """Return the overview, from the plane if it answers within seconds.

        Many who ask at once share one question.
        """
        if self._is_current:
            return {**self._newest, "at": self._clock()}
        async with self._asking:
            if trio.current_time() - self._asked_at >= 1 / TOPIC_HZ:
                await self._ask()
            return {**self._newest, "at": self._clock()}

    async def _ask(self) -> None:
        client = self._client
        if client is None or not self._has_plane:
            self._newest = unreachable(self._newest, self._newest["why"], self._clock())
            return
        why = f"no answer within {ASK_S:g} s"
        with trio.move_on_after(ASK_S):
            try:
                view = await client.ask("overview")
            except (PlaneUnreachable, Refused, ClientClosed) as error:
                why = str(error)
            else:
                why = ""
                self._newest = make_overview(view, self._connect, self._clock())
        if why:
            self._newest = unreachable(self._newest, why, self._clock())
        self._asked_at = trio.current_time()

    # --- from the plane -------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a session with the plane, however long it is away, and follow it while somebody
        looks. Ends by being cancelled.

        Raises:
            Refused: the plane does not want this peer, and never will.
        """
        # No time limit: a page that was started before its plane waits for it.
        async with Client(
            self._connect, timeout=None, token=self._token, dial=self._noted_dial
        ) as client:
            self._client = client
            try:
                while True:
                    await self._until_somebody_looks()
                    await self._follow(client)
            except ClientClosed:
                if self._refusal is not None:
                    raise self._refusal from None
                raise
            finally:
                self._client = None

    async def tell(self) -> None:
        """Say in the log when the plane is found, or has not been there for long. Ends by being
        cancelled."""
        notice_s = FIRST_NOTICE_S
        while True:
            # Looked at now and then: a connection that breaks and is there again at once is the
            # link's business, and no news.
            with trio.move_on_after(notice_s):
                while not self._is_connected:  # noqa: ASYNC110
                    await trio.sleep(_LOOK_S)
            if not self._is_connected:
                why = self._newest["why"]
                logger.warning("waiting for the plane at %s%s", self._connect, why and f" ({why})")
                notice_s = NOTICE_S
                continue
            logger.info("the page is connected to %s", self._connect)
            notice_s = FIRST_NOTICE_S
            while self._is_connected:  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)

    @property
    def _is_connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    async def _until_somebody_looks(self) -> None:
        while not self._streams:
            if self._refusal is not None:
                raise self._refusal
            changed = self._changed
            await changed.wait()

    async def _follow(self, client: Client) -> None:
        try:
            with trio.CancelScope() as self._following:
                async with aclosing(client.watch_topic("overview", hz=TOPIC_HZ)) as views:
                    async for view in views:
                        self._newest = make_overview(view, self._connect, self._clock())
                        self._is_current = True
                        self._publish()
        finally:
            self._is_current = False

    def _publish(self) -> None:
        self._rev += 1
        frame = self._frame()
        for stream in self._streams:
            stream.offer(frame)

    def _frame(self) -> bytes:
        # ASCII only, so that whatever is in a name is neither a line's end nor bad UTF-8.
        newest = {**self._newest, "at": self._clock()}
        data = json.dumps(newest, separators=(",", ":"), allow_nan=False)
        return f"event: snapshot\nid: {self._rev}\ndata: {data}\n\n".encode("ascii")

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _noted_dial(self) -> AbstractAsyncContextManager[Channel]:
        """Dial, and note when the plane comes and goes: browsers are told at once."""
        return self._noted(self._dial)

    @asynccontextmanager
    async def _noted(self, dial: Dial) -> AsyncIterator[Channel]:
        why = ""
        try:
            async with dial() as channel:
                self._has_plane = True
                yield channel
        except CrecheError as error:
            why = error.why if isinstance(error, PlaneUnreachable) else str(error)
            if isinstance(error, Refused) and error.code in FINAL_REFUSALS:
                self._refusal = error
                self._note_change()
            raise
        finally:
            self._lose_plane(why)

    def _lose_plane(self, why: str) -> None:
        is_news = self._has_plane or self._newest["why"] != why or self._newest["reachable"]
        self._has_plane = self._is_current = False
        if is_news:
            self._newest = unreachable(self._newest, why, self._clock())
            self._publish()
