"""A plane in the hands of a test: it says what the test tells it to, on asyncio and on Trio.

It speaks through the plane's own grammar, so that neither side can say what the protocol forbids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from creche.client.client import Client
from creche.errors import ChannelBroken, ChannelClosed, CrecheError, PlaneUnreachable
from creche.model.job import JobState
from creche.wire import messages as m
from creche.wire.payload import encode_value
from creche.wire.session import Grammar, Role

M = TypeVar("M")
TIMEOUT_S = 10.0

LIMITS: dict[str, Any] = {
    "plane": "scripted",
    "keep_alive_s": 1000.0,
    "grace_s": 2000.0,
    "lease_s": 2000.0,
    "unaccepted": 10_000,
    "unaccepted_bytes": 64 * 1024 * 1024,
    "watches": 200_000,
    "payload_bytes": 16 * 1024 * 1024,
    "frame_bytes": 1024 * 1024,
}


class End:
    """One end of a connection. Frames that were sent before it ended still arrive."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.other: End
        self._arrived: deque[bytes] = deque()
        self._news = anyio.Event()
        self._ended: CrecheError | None = None
        self.greet: Callable[[bytes], bytes] | None = None
        """Answers the first frame that arrives, at once."""

    async def send(self, frame: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)
        greet, self.other.greet = self.other.greet, None
        if greet is not None:
            self._take(greet(frame))
        else:
            self.other._take(frame)

    def _take(self, frame: bytes) -> None:
        self._arrived.append(frame)
        self._news.set()

    async def receive(self) -> bytes:
        while not self._arrived:
            if self._ended is not None:
                raise type(self._ended)(*self._ended.args)
            self._news = anyio.Event()
            await self._news.wait()
        return self._arrived.popleft()

    async def aclose(self) -> None:
        self._end(ChannelClosed("closed"))
        self.other._end(ChannelBroken("the other side closed"))

    def cut(self) -> None:
        """End the connection as the network would; what is on its way is lost."""
        for end in (self, self.other):
            end._arrived.clear()
            end._end(ChannelBroken("cut"))

    def _end(self, error: CrecheError) -> None:
        self._ended = self._ended or error
        self._news.set()


class Connection:
    """The plane's end of a connection."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._grammar = Grammar(Role.PLANE, Role.CLIENT)
        self.heard: deque[m.Message] = deque()
        self.hello: m.Hello
        self.is_greeting = False
        self.greeted = anyio.Event()

    def greet(self, welcome: m.Welcome, frame: bytes) -> bytes:
        """Take a hello, and return the welcome's frame."""
        (hello,) = self._grammar.receive(frame)
        assert isinstance(hello, m.Hello)
        self.hello = hello
        self.greeted.set()
        return self._grammar.send([welcome])

    async def say(self, *messages: m.Message) -> None:
        """Send *messages* in one frame."""
        await self._end.send(self._grammar.send(messages))

    async def say_raw(self, frame: bytes) -> None:
        """Send bytes that may be no frame at all."""
        await self._end.send(frame)

    async def hear(self, kind: type[M]) -> M:
        """Return the next message, which has to be a *kind*; pings are not counted."""
        with anyio.fail_after(TIMEOUT_S):
            while not self.heard:
                await self._listen()
        message = self.heard.popleft()
        assert isinstance(message, kind), message
        return message

    async def hear_all(self, kind: type[M], number: int) -> list[M]:
        """Return the next *number* messages, all of which have to be of one *kind*."""
        return [await self.hear(kind) for _ in range(number)]

    async def hears_the_end(self) -> list[m.Message]:
        """Return what else is said until the peer ends the connection."""
        with anyio.fail_after(TIMEOUT_S):
            try:
                while True:
                    await self._listen()
            except ChannelBroken:
                return list(self.heard)

    async def hears_nothing(self) -> None:
        """Fail if a message arrives before the loop has nothing else to do."""
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0.01):
            while not self.heard:
                await self._listen()
        assert not self.heard

    def cut(self) -> None:
        """Lose the connection."""
        self._end.cut()

    async def _listen(self) -> None:
        for message in self._grammar.receive(await self._end.receive()):
            if not isinstance(message, m.Ping):
                self.heard.append(message)

    # What planes say often:

    async def accept(self, *submissions: m.Submit) -> None:
        """Say that these are stored."""
        await self.say(m.Accepted([submission.n for submission in submissions]))

    async def end(
        self, job_id: bytes, value: Any = None, state: JobState = JobState.SUCCEEDED
    ) -> None:
        """Say that a job ended, with this result or failure."""
        await self.say(m.Ended(job_id, int(state), encode_value(value)))

    async def run(self, value: Any = None) -> m.Submit:
        """Take the next submission, accept it and end it with *value*."""
        submission = await self.hear(m.Submit)
        # In one frame, so that whatever the client says next comes after its receipt.
        await self.say(
            m.Accepted([submission.n]),
            m.Ended(submission.id, int(JobState.SUCCEEDED), encode_value(value)),
        )
        await self.hear(m.Received)
        return submission


class ScriptedPlane:
    """Where clients dial in.

    Args:
        greets: whether a hello is answered with a welcome before anything else happens.
        limits: what the welcome says, beside the usual.
    """

    def __init__(self, *, greets: bool = True, **limits: Any) -> None:
        self.limits = {**LIMITS, **limits}
        self.greets = greets
        self.refuses: str | None = None
        """Why nobody answers; None: somebody does."""
        self.refused = 0
        """How often nobody has answered."""
        self.dials = 0
        self._waiting: deque[Connection] = deque()
        self._news = anyio.Event()

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[End]:
        """Connect. This is `creche.channel.base.Dial`."""
        await anyio.lowlevel.checkpoint()
        self.dials += 1
        if self.refuses is not None:
            self.refused += 1
            raise PlaneUnreachable("the plane", self.refuses)
        near, far = End("plane"), End("client")
        near.other, far.other = far, near
        connection = Connection(far)
        connection.is_greeting = self.greets
        if self.greets:
            far.greet = partial(connection.greet, self.welcome())
        self._waiting.append(connection)
        self._news.set()
        try:
            yield near
        finally:
            await near.aclose()

    def welcome(self, **limits: Any) -> m.Welcome:
        """The usual welcome."""
        return m.Welcome(1, 1, False, "memory", {**self.limits, **limits})

    async def connection(self) -> Connection:
        """Wait for the next connection; if the plane greets, until it has."""
        with anyio.fail_after(TIMEOUT_S):
            while not self._waiting:
                self._news = anyio.Event()
                await self._news.wait()
            connection = self._waiting.popleft()
            if connection.is_greeting:
                await connection.greeted.wait()
        return connection


@asynccontextmanager
async def opened(plane: ScriptedPlane, **settings: Any) -> AsyncIterator[tuple[Client, Connection]]:
    """A client of *plane*, and its first connection."""
    async with Client(dial=plane.dial, **settings) as client:
        yield client, await plane.connection()


async def together(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run *calls* beside each other and return what they return."""
    results: list[Any] = [None] * len(calls)

    async def run(i: int, call: Coroutine[Any, Any, Any]) -> None:
        results[i] = await call

    with anyio.fail_after(TIMEOUT_S):
        async with anyio.create_task_group() as tasks:
            for i, call in enumerate(calls):
                tasks.start_soon(run, i, call)
    return results


def ids(messages: Iterable[m.Submit]) -> list[bytes]:
    """The ids of submissions."""
    return [message.id for message in messages]
