"""The network of a simulation: every frame takes its time, and any may be the last of its way."""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from creche.channel.base import Channel, Handler
from creche.channel.memory import Fate, Faults, MemoryChannel, linked_pair
from creche.errors import ListenError, PlaneUnreachable
from creche.testing.simulate.machines import Machine

CAPACITY = 256
"""Frames on their way in one direction before the sender waits, as if a socket's buffers were
full."""

STEPS = 4
"""Frames arrive at so many moments in the time that one takes at the most, whoever has sent them:
what arrives at one moment may be taken in any order, and costs one round of the loop."""


class Line:
    """What one peer's connections to the plane suffer, one after the other.

    Attributes:
        slow_s: how long a frame may be on its way beyond the usual.
        is_down: whether nothing gets through, and nobody can connect.
    """

    def __init__(
        self, name: str, seed: str, usual_s: float, on_link: Callable[[str, bool], None]
    ) -> None:
        self.name = name
        self._on_link = on_link
        self.usual_s = usual_s
        self.slow_s = 0.0
        self.is_down = False
        self.fates: dict[str, tuple[int, Fate]] = {}
        """By direction: after how many more frames, and what becomes of that one."""
        self.channels: list[MemoryChannel] = []
        self.is_linked = False
        self._rng = random.Random(seed)

    def travel_s(self) -> float:
        """Return how long one frame is on its way, if it is sent now."""
        step_s = (self.usual_s + self.slow_s) / STEPS
        now = trio.current_time()
        return (now // step_s + self._rng.randrange(1, STEPS + 1)) * step_s - now

    def judge(self, direction: str) -> Fate:
        """Return what becomes of the next frame in a direction."""
        if direction not in self.fates:
            return Fate.DELIVER
        left, fate = self.fates[direction]
        if left > 0:
            self.fates[direction] = left - 1, fate
            return Fate.DELIVER
        del self.fates[direction]
        self.link(False)
        return fate

    def link(self, is_linked: bool) -> None:
        """It has a connection, or has none any more."""
        if is_linked != self.is_linked:
            self.is_linked = is_linked
            self._on_link(self.name, is_linked)

    def go_down(self) -> None:
        """Have nothing get through from now on, not even what is on its way."""
        self.is_down = True
        self.cut(deliver_in_flight=False)

    def cut(self, *, deliver_in_flight: bool) -> None:
        """Cut its connection, if there is one."""
        self.link(False)
        for channel in self.channels:
            if channel.is_open:
                channel.cut(deliver_in_flight=deliver_in_flight)


class Network:
    """Between the peers and the one plane.

    Args:
        seed: what the delays are made from.
        usual_s: how long a frame is on its way at the most, in good times.
        on_frame: told of each frame: who sends or is sent it, in which direction, and its checksum.
        on_link: told when a peer has a connection, and when it has none any more.
    """

    def __init__(
        self,
        seed: str,
        usual_s: float,
        on_frame: Callable[[str, str, int], None],
        on_link: Callable[[str, bool], None],
    ) -> None:
        self._seed = seed
        self._usual_s = usual_s
        self._on_frame = on_frame
        self._on_link = on_link
        self._lines: dict[str, Line] = {}
        self._inlet: trio.MemorySendChannel[MemoryChannel] | None = None

    def line(self, name: str) -> Line:
        """Return the line of a peer, which it keeps when it is started again."""
        if name not in self._lines:
            self._lines[name] = Line(
                name, f"{self._seed}/line {name}", self._usual_s, self._on_link
            )
        return self._lines[name]

    @property
    def lines(self) -> list[Line]:
        """Return all lines there have been."""
        return list(self._lines.values())

    async def serve(
        self,
        handler: Handler,
        /,
        *,
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take connections until cancelled. This is `creche.channel.base.Listen`; what handles a
        connection belongs to the machine that listens, and not to the one that dials."""
        if self._inlet is not None:
            raise ListenError("cannot listen on plane: another plane does")
        inlet, outlet = trio.open_memory_channel[MemoryChannel](CAPACITY)
        async with trio.open_nursery() as own:
            self._inlet = inlet
            try:
                task_status.started(("sim:plane",))
                async for channel in outlet:
                    (handler_nursery or own).start_soon(_handle, handler, channel)
            finally:
                if self._inlet is inlet:
                    self._inlet = None

    def close_door(self) -> None:
        """The plane's machine has crashed: nobody listens any more, and every connection ends."""
        self._inlet = None
        for line in self._lines.values():
            line.cut(deliver_in_flight=True)

    @asynccontextmanager
    async def dial(self, machine: Machine) -> AsyncIterator[MemoryChannel]:
        """Connect a peer's machine. This is `creche.channel.base.Dial`, for one machine."""
        await trio.lowlevel.checkpoint()
        line = self.line(machine.name)
        if self._inlet is None or line.is_down:
            raise PlaneUnreachable("sim:plane", "connection refused")
        near, far = linked_pair(
            machine.name,
            "plane",
            capacity=CAPACITY,
            a_to_b=Faults(hook=partial(self._judge, line, "to plane"), delay_s=line.travel_s),
            b_to_a=Faults(hook=partial(self._judge, line, "from plane"), delay_s=line.travel_s),
        )
        try:
            self._inlet.send_nowait(far)
        except trio.WouldBlock:
            raise PlaneUnreachable("sim:plane", "its backlog is full") from None
        line.channels.append(near)
        line.link(True)
        try:
            yield near
        finally:
            line.channels.remove(near)
            line.link(bool(line.channels))
            await near.aclose()

    def _judge(self, line: Line, direction: str, _: int, frame: bytes) -> Fate:
        self._on_frame(line.name, direction, zlib.crc32(frame))
        return line.judge(direction)


async def _handle(handler: Handler, channel: Channel) -> None:
    try:
        await handler(channel)
    finally:
        await channel.aclose()
