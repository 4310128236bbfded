"""Machines of a simulation: processes that can be stopped between any two steps, and never told.

All of them live in one Trio run. Every task belongs to the machine in whose context it was begun,
and a machine that is *stopped* has none of its tasks run: what would schedule one is put by until
the machine *goes on*, as a process's is between SIGSTOP and SIGCONT. A machine that *crashes* is
stopped for ever: none of its `finally` blocks runs, as none does at SIGKILL. That is why this looks
into Trio's own run queue: a cancelled task cleans up, and a killed process does not.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import trio
from trio._core import _run

from creche.host import Host

START_AT = 1_800_000_000.0
"""UTC seconds at which a simulation begins."""

_here: ContextVar[Machine | None] = ContextVar("creche_simulated_machine", default=None)


class Machine:
    """A process on a machine of its own, from its start to its end.

    Args:
        name: what it is called; one that is started again has the same.
        seed: what its random numbers and ids are made from.

    Attributes:
        skew_s: how far its wall clock is ahead of the simulation's.
        down_s: how long it is to be down once it has crashed.
    """

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.skew_s = 0.0
        self.down_s = 0.0
        self.is_stopped = False
        self.has_crashed = False
        self.is_told = False
        self.crashed = trio.Event()
        self.on_crash: Callable[[], None] = lambda: None
        """Called when it crashes: what the network and the disk see of that."""
        self.on_end: Callable[[], object] = lambda: None
        """Called before that, however it ends, once it was told to."""
        self.on_term: Callable[[], None] = lambda: None
        """Called when its process is told to end; it ends when it likes."""
        self._put_by: list[trio.lowlevel.Task] = []
        draw = random.Random(seed)
        self.host = Host(
            name=lambda: name,
            pid=lambda: 1,
            clock=self.now,
            entropy=draw.randbytes,
            draw=draw.random,
        )

    def now(self) -> float:
        """Return UTC seconds by its own clock."""
        return START_AT + trio.current_time() + self.skew_s

    @contextmanager
    def here(self) -> Iterator[None]:
        """What is begun in the block belongs to this machine."""
        token = _here.set(self)
        try:
            yield
        finally:
            _here.reset(token)

    def stop(self) -> None:
        """Run none of its tasks until it goes on. Steps of this very round are still made."""
        self.is_stopped = True

    def go_on(self) -> None:
        """Run its tasks again; one that has crashed does not."""
        if not self.has_crashed:
            self.release()

    def crash(self) -> None:
        """End it without a word."""
        if not self.has_crashed:
            self.has_crashed = self.is_stopped = True
            self.crashed.set()
            self.on_crash()

    def left(self, down_s: float) -> None:
        """Its process has ended by itself, and is to be *down_s* seconds down, or, if it was told
        to end, for as long as was said then."""
        if not self.is_told:
            self.down_s = down_s
        self.crash()

    def tell_to_end(self, down_s: float) -> None:
        """Tell its process to end, as SIGTERM does, and to be *down_s* seconds down then."""
        self.is_told, self.down_s = True, down_s
        self.on_term()

    def crash_after(self, steps: int, down_s: float) -> None:
        """Have it crash when its tasks have made so many more steps, and be *down_s* seconds
        down."""
        self.down_s = down_s
        trio.lowlevel.add_instrument(_Countdown(self, steps))

    def release(self) -> None:
        """Let its tasks run, whatever it is: they are to be cancelled, at the end of a run."""
        self.is_stopped = False
        tasks, self._put_by = self._put_by, []
        _runner().runq.extend(tasks)


class _RunQueue(deque[trio.lowlevel.Task]):
    """Trio's queue of tasks that can run, but that it puts those by whose machine is stopped."""

    def append(self, task: trio.lowlevel.Task, /) -> None:
        machine = task.context.get(_here)
        if machine is not None and machine.is_stopped:
            machine._put_by.append(task)
        else:
            super().append(task)


class _Countdown(trio.abc.Instrument):
    """Counts a machine's steps until it is to crash; nobody pays for it before and after that."""

    def __init__(self, machine: Machine, steps: int) -> None:
        self._machine = machine
        self._steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.context.get(_here) is self._machine:
            self._steps -= 1
        if self._steps <= 0 or self._machine.has_crashed:
            trio.lowlevel.remove_instrument(self)
            self._machine.crash()


@contextmanager
def machines_can_stop() -> Iterator[None]:
    """Have machines be stopped and crash while the block, of a Trio run, goes on."""
    runner = _runner()
    runner.runq = _RunQueue(runner.runq)
    try:
        yield
    finally:
        runner.runq = deque(runner.runq)


@contextmanager
def same_every_time(seed: int) -> Iterator[None]:
    """Have a Trio run that is begun in the block schedule its tasks as *seed* says."""
    before = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        _run._r.setstate(before[1])


def _runner() -> Any:
    return _run.GLOBAL_RUN_CONTEXT.__dict__["runner"]
