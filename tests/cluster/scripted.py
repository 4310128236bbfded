"""Peers that say exactly what a test tells them to, and a plane for them to talk to.

Everything runs in one Trio run, over memory channels, on a virtual clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, TypeVar

import trio

from creche.channel.base import Channel
from creche.channel.memory import MemoryListener
from creche.engine.core import Core
from creche.engine.doors import OPEN_DOOR, Door
from creche.engine.plane import DEFAULT_SETTINGS, Entrance, Running, run_plane
from creche.engine.settings import PlaneSettings
from creche.errors import ChannelBroken
from creche.model.failure import Failure
from creche.model.ids import new_id
from creche.store.base import Store
from creche.store.memory import MemoryStore
from creche.wire import messages as m
from creche.wire.payload import encode_call, encode_value
from creche.wire.session import Grammar, Role

M = TypeVar("M")
START = 1_800_000_000.0
_NUMBERS = count(1)
"""No two peers of a run are alike, whichever plane they talk to."""
_BUSY = encode_value(Failure("Busy", "come back later").as_data())


def wall_clock() -> float:
    """UTC seconds that go with Trio's clock."""
    return START + trio.current_time()


def job_id(number: int) -> bytes:
    """An id for job *number*, made now."""
    return new_id(wall_clock(), number.to_bytes(10, "big"))


class Peer:
    """A peer in the hands of a test: `say` sends a frame, `hear` waits for a kind of message."""

    def __init__(self, listener: MemoryListener, role: Role, name: str, number: int) -> None:
        self.listener = listener
        self.role = role
        self.name = name
        self.session = number.to_bytes(16, "big")
        self.incarnation = number.to_bytes(16, "big")
        self.credential: str | None = None
        self.heard: list[m.Message] = []
        self.welcome: m.Welcome | None = None
        self._ended: list[bytes] = []
        self._n = 0
        self._grammar: Grammar | None = None
        self._channel: Channel | None = None

    async def is_refused(self, **facts: Any) -> m.Refusal:
        """Introduce oneself, and return why that was refused."""
        async with self.listener.dial(self.name) as channel:
            self._channel = channel
            self._grammar = Grammar(self.role, Role.PLANE)
            await self.say(self.hello(**facts))
            return await self.hear(m.Refusal)

    @asynccontextmanager
    async def connected(self, **facts: Any) -> AsyncIterator[Peer]:
        """Connect, introduce oneself, and leave again without a goodbye."""
        async with self.listener.dial(self.name) as channel:
            self._channel = channel
            self._grammar = Grammar(self.role, Role.PLANE)
            self.heard = []
            self._ended = []
            await self.say(self.hello(**facts))
            self.welcome = await self.hear(m.Welcome)
            yield self

    def hello(self, **facts: Any) -> m.Hello:
        """What this peer introduces itself with."""
        return m.Hello(
            *([1], self.role.value, self.session, self.name, self.incarnation, [], facts),
            credential=self.credential,
        )

    async def say(self, *messages: m.Message) -> None:
        """Send *messages* in one frame."""
        assert self._channel is not None
        assert self._grammar is not None
        await self._channel.send(self._grammar.send(messages))

    async def say_raw(self, frame: bytes) -> None:
        """Send bytes that may be no frame at all."""
        assert self._channel is not None
        await self._channel.send(frame)

    async def hear(self, kind: type[M], timeout_s: float = 300.0) -> M:
        """Return the next message of *kind*; keep the others for later."""
        assert self._channel is not None
        assert self._grammar is not None
        with trio.fail_after(timeout_s):
            while True:
                for i, message in enumerate(self.heard):
                    if isinstance(message, kind):
                        del self.heard[i]
                        return message
                await self._listen()

    async def hears_nothing(self, kind: type[Any], for_s: float) -> None:
        """Fail if a message of *kind* arrives within *for_s* seconds of virtual time."""
        try:
            message = await self.hear(kind, for_s)
        except trio.TooSlowError:
            return
        raise AssertionError(f"heard {message}")

    async def hears_the_end(self) -> None:
        """Wait until the plane ends the connection."""
        assert self._channel is not None
        assert self._grammar is not None
        with trio.fail_after(300):
            try:
                while True:
                    await self._listen()
            except ChannelBroken:
                return

    async def _listen(self) -> None:
        assert self._channel is not None
        assert self._grammar is not None
        messages = self._grammar.receive(await self._channel.receive())
        self.heard += messages
        self._ended += [message.id for message in messages if isinstance(message, m.Ended)]

    # What a client says:

    def submit(self, number: int, task: str = "echo", **changes: Any) -> m.Submit:
        """A submission of job *number*, which is also its argument."""
        self._n += 1
        message = m.Submit(
            self._n, job_id(number), task, None, None, encode_call([number], {}), 0, None
        )
        return message._replace(**changes)

    async def submitted(self, number: int, **changes: Any) -> m.Submit:
        """Submit and wait until it is accepted."""
        message = self.submit(number, **changes)
        await self.say(message)
        while message.n not in (await self.hear(m.Accepted)).ns:
            pass
        return message

    def received(self, number: int) -> m.Received:
        """A receipt for the next *number* results that have arrived, in their order."""
        ids, self._ended = self._ended[:number], self._ended[number:]
        assert len(ids) == number
        return m.Received(ids)

    async def ask(self, question: str, **params: Any) -> Any:
        """Ask, and return the answer."""
        self._n += 1
        await self.say(m.Ask(self._n, question, params))
        return (await self.hear(m.Answer)).body

    # What a worker says:

    async def ready(self, *tasks: str, slots: int = 10) -> None:
        """Announce tasks and slots."""
        await self.say(m.Announce([{"name": name} for name in tasks]), m.Capacity(slots, 0))

    async def finish(
        self, offer: m.Offer, result: Any = None, *, state: int = 10, run_us: int = 1000
    ) -> int:
        """Report an attempt's end, and return the report's number."""
        self._n += 1
        await self.say(
            m.Finished(
                self._n, offer.seq, offer.epoch, offer.attempt, state, encode_value(result), run_us
            )
        )
        return self._n

    async def try_again(
        self,
        offer: m.Offer,
        after_us: int | None = None,
        *,
        is_counted: bool = True,
        outcome: bytes = _BUSY,
    ) -> int:
        """Report that an attempt has come to nothing, and return the report's number."""
        self._n += 1
        token = (offer.seq, offer.epoch, offer.attempt)
        await self.say(m.TryAgain(self._n, *token, outcome, 1000, after_us, is_counted))
        return self._n


class House:
    """A plane in memory and the way to its door."""

    def __init__(
        self,
        settings: PlaneSettings,
        make_store: Callable[[], Store] | None,
        capacity: int,
        door: Door = OPEN_DOOR,
        inside: Entrance | None = None,
    ) -> None:
        self.listener = MemoryListener(capacity=capacity)
        self.settings = settings
        self.stop = trio.Event()
        self.running: Running | None = None
        self._make_store = make_store or MemoryStore
        self._door, self._inside = door, inside

    @property
    def core(self) -> Core:
        """The core of the epoch that was reported."""
        assert self.running is not None
        return self.running.core

    def client(self, name: str = "client") -> Peer:
        """A new client."""
        return Peer(self.listener, Role.CLIENT, name, next(_NUMBERS))

    def worker(self, name: str = "worker") -> Peer:
        """A new worker process."""
        return Peer(self.listener, Role.WORKER, name, next(_NUMBERS))

    async def run(self, task_status: trio.TaskStatus[House]) -> None:
        """Run the plane; for `nursery.start`."""
        async with trio.open_nursery() as nursery:
            self.running = await nursery.start(
                partial(
                    run_plane,
                    self._make_store,
                    self.listener.serve,
                    self.settings,
                    door=self._door,
                    inside=self._inside,
                    stop=self.stop,
                    clock=wall_clock,
                )
            )
            task_status.started(self)


@asynccontextmanager
async def open_house(
    settings: PlaneSettings = DEFAULT_SETTINGS,
    make_store: Callable[[], Store] | None = None,
    *,
    capacity: int = 64,
    door: Door = OPEN_DOOR,
    inside: Entrance | None = None,
) -> AsyncIterator[House]:
    """A plane that runs while the block does, and is cancelled at its end; *capacity* is how many
    frames may be on their way in one direction of a connection."""
    async with trio.open_nursery() as nursery:
        house = House(settings, make_store, capacity, door, inside)
        yield await nursery.start(house.run)
        nursery.cancel_scope.cancel()
