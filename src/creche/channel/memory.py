"""A linked pair of channels in one Trio run, with hooks for what can go wrong on the way.

The ends behave as a WebSocket's do: frames keep their order, a full pipe makes the sender wait, and
a cut is seen by both. `Faults` decide what happens to a chosen frame, so that a test can cut a
connection between any two of them. Delays use Trio's clock: they cost nothing under a mock clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum, auto
from typing import TypeAlias

import trio

from creche.channel.base import Channel, Handler
from creche.channel.ending import Ending
from creche.errors import ListenError, PlaneUnreachable
from creche.wire.codec import DEFAULT_LIMITS, Limits


class Fate(Enum):
    """What becomes of a frame that is being sent."""

    DELIVER = auto()
    DROP = auto()
    """It is lost, and nobody is told."""
    DUPLICATE = auto()
    """It arrives twice."""
    CUT_BEFORE = auto()
    """The connection is cut first: the sender sees `ChannelBroken`, the frame is lost."""
    LOSE_AND_CUT = auto()
    """It leaves and never arrives: the sender is content, then the connection is cut."""
    CUT_AFTER = auto()
    """It arrives, and then the connection is cut."""


Hook: TypeAlias = Callable[[int, bytes], Fate]
"""Judges a frame by its number (from 1) and its bytes."""


class Faults:
    """Counts the frames it sees and decides what becomes of each.

    One object may serve both directions, and one connection after the other: it counts on. So "cut
    at the k-th frame of this job's way" is one object and one number.

    Args:
        at: fates by frame number.
        hook: judges the frames that *at* does not name.
        delay_s: how long each frame is on its way, or what is called for it. It does not hold the
            sender up, and no frame overtakes another.
        deliver_in_flight: whether a cut lets through what was on its way to the receiver.
    """

    def __init__(
        self,
        at: Mapping[int, Fate] | None = None,
        *,
        hook: Hook | None = None,
        delay_s: float | Callable[[], float] = 0.0,
        deliver_in_flight: bool = True,
    ) -> None:
        self.at = dict(at or {})
        self.hook = hook
        self.delay_s = delay_s
        self.deliver_in_flight = deliver_in_flight
        self.frames = 0
        """How many frames have been judged so far."""

    def travel_s(self) -> float:
        """Return how long the next frame is on its way."""
        return self.delay_s() if callable(self.delay_s) else self.delay_s

    def judge(self, frame: bytes) -> Fate:
        """Count *frame* and return its fate."""
        self.frames += 1
        fate = self.at.get(self.frames)
        if fate is None and self.hook is not None:
            fate = self.hook(self.frames, frame)
        return Fate.DELIVER if fate is None else fate


class _Pipe:
    """One direction: frames on their way, each with the moment at which it arrives."""

    def __init__(self, capacity: int, faults: Faults) -> None:
        self.faults = faults
        self._inlet, self._outlet = trio.open_memory_channel[tuple[float, bytes]](capacity)
        # The frame that receive() took from the channel and that has not arrived yet.
        self._head: tuple[float, bytes] | None = None
        self._travel: trio.CancelScope | None = None
        self._is_lost = False
        self._last_arrival = 0.0

    async def put(self, frame: bytes) -> None:
        arrives_at = trio.current_time() + self.faults.travel_s()
        self._last_arrival = max(self._last_arrival, arrives_at)
        await self._inlet.send((self._last_arrival, frame))

    async def take(self) -> bytes:
        """Return the next frame once it has arrived; raise trio's errors when there is none."""
        if self._head is None:
            self._head = await self._outlet.receive()
        arrives_at, frame = self._head
        if arrives_at > trio.current_time():
            with trio.CancelScope() as self._travel:
                await trio.sleep_until(arrives_at)
            self._travel = None
        if self._is_lost:
            raise trio.ClosedResourceError
        self._head = None
        return frame

    def end(self) -> None:
        """Nothing more goes in; what is on its way still arrives."""
        self._inlet.close()

    def lose(self) -> None:
        """Nothing goes in, nothing comes out."""
        self._is_lost = True
        self._inlet.close()
        self._outlet.close()
        if self._travel is not None:
            self._travel.cancel()


class MemoryChannel(Ending):
    """One end of a pair made by `linked_pair`."""

    def __init__(self, name: str, peer: str, out: _Pipe, into: _Pipe, limits: Limits) -> None:
        super().__init__(peer)
        self.name = name
        self._out = out
        self._into = into
        self._limits = limits
        self._twin: MemoryChannel

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed, cut or broken the connection yet."""
        return self._end is None

    async def send(self, frame: bytes) -> None:
        """See `Channel.send`."""
        self._check()
        faults = self._out.faults
        fate = faults.judge(frame)
        if fate is Fate.CUT_BEFORE:
            self.cut(deliver_in_flight=faults.deliver_in_flight)
            self._check()
        copies = {Fate.DROP: 0, Fate.LOSE_AND_CUT: 0, Fate.DUPLICATE: 2}.get(fate, 1)
        try:
            if copies == 0:
                await trio.lowlevel.checkpoint()
            for _ in range(copies):
                await self._out.put(frame)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self._raise_end()
        except trio.Cancelled:
            self.cut(f"{self.name} cancelled a send")
            raise
        if fate in (Fate.LOSE_AND_CUT, Fate.CUT_AFTER):
            self.cut(deliver_in_flight=faults.deliver_in_flight or fate is Fate.CUT_AFTER)

    async def receive(self) -> bytes:
        """See `Channel.receive`."""
        if self._end is not None and self._is_closed:
            self._raise_end()
        try:
            frame = await self._into.take()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            self._raise_end()
        if len(frame) > self._limits.frame_bytes:
            self.cut(
                f"{self._peer} sent a frame of {len(frame):,} bytes, over the limit of "
                f"{self._limits.frame_bytes:,}"
            )
            self._raise_end()
        return frame

    async def aclose(self) -> None:
        """See `Channel.aclose`."""
        if not self._is_closed:
            self._close()
            self._twin._break(f"{self.name} closed the connection")
            self._out.end()
            self._into.lose()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def cut(self, why: str = "the connection was cut", *, deliver_in_flight: bool = False) -> None:
        """End the connection as the network would: both sides see `ChannelBroken`.

        With *deliver_in_flight*, frames that were sent still arrive, then the cut is seen.
        """
        self._break(why)
        self._twin._break(why)
        for pipe in (self._out, self._into):
            if deliver_in_flight:
                pipe.end()
            else:
                pipe.lose()

    def _check(self) -> None:
        if self._end is not None:
            self._raise_end()


def linked_pair(
    name_a: str = "client",
    name_b: str = "plane",
    *,
    capacity: int = 64,
    limits: Limits = DEFAULT_LIMITS,
    a_to_b: Faults | None = None,
    b_to_a: Faults | None = None,
) -> tuple[MemoryChannel, MemoryChannel]:
    """Return the two ends of a new connection.

    *capacity* is how many frames may be on their way in each direction before a sender waits.
    """
    forth = _Pipe(capacity, a_to_b or Faults())
    back = _Pipe(capacity, b_to_a or Faults())
    a = MemoryChannel(name_a, name_b, forth, back, limits)
    b = MemoryChannel(name_b, name_a, back, forth, limits)
    a._twin, b._twin = b, a
    return a, b


class MemoryListener:
    """Where peers of the same Trio run dial in: the counterpart of `trio_ws.serve` and `dial`.

    Attributes:
        refuse: when true, dialling fails as if nobody listened.
        to_plane, to_peer: the faults of the connections made from now on.
        connections: the dialling ends of the connections that are open now.
    """

    def __init__(
        self, name: str = "plane", *, capacity: int = 64, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.name = name
        self.refuse = False
        self.to_plane: Faults | None = None
        self.to_peer: Faults | None = None
        self.connections: list[MemoryChannel] = []
        self._capacity = capacity
        self._limits = limits
        self._handler: Handler | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def url(self) -> str:
        """What this listener is called in errors and logs."""
        return f"memory:{self.name}"

    async def serve(
        self,
        handler: Handler,
        /,
        *,
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take connections until cancelled. This is `creche.channel.base.Listen`.

        Raises:
            ListenError: it is served already, as a port in use.
        """
        if self._handler is not None:
            raise ListenError(f"cannot listen on {self.url}: another plane does")
        async with trio.open_nursery() as own:
            self._handler, self._nursery = handler, handler_nursery or own
            try:
                task_status.started((self.url,))
                await trio.sleep_forever()
            finally:
                self._handler = self._nursery = None

    def dial(self, name: str = "client") -> AbstractAsyncContextManager[MemoryChannel]:
        """Connect as *name*. This is `creche.channel.base.Dial`, for one name.

        Entering raises `PlaneUnreachable` if nobody serves, or `refuse` is set.
        """
        return self._dial(name)

    @asynccontextmanager
    async def _dial(self, name: str) -> AsyncIterator[MemoryChannel]:
        await trio.lowlevel.checkpoint()
        if self.refuse or self._handler is None or self._nursery is None:
            raise PlaneUnreachable(self.url, "connection refused")
        near, far = linked_pair(
            name,
            self.name,
            capacity=self._capacity,
            limits=self._limits,
            a_to_b=self.to_plane,
            b_to_a=self.to_peer,
        )
        self._nursery.start_soon(_handle, self._handler, far)
        self.connections.append(near)
        try:
            yield near
        finally:
            self.connections.remove(near)
            await near.aclose()

    def cut_all(self, *, deliver_in_flight: bool = False) -> int:
        """Cut every open connection; return how many there were."""
        open_ones = [channel for channel in self.connections if channel.is_open]
        for channel in open_ones:
            channel.cut(deliver_in_flight=deliver_in_flight)
        return len(open_ones)


async def _handle(handler: Handler, channel: Channel) -> None:
    try:
        await handler(channel)
    finally:
        await channel.aclose()
