"""Machines that stop in the middle of what they do, and crash without a word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from creche.testing.simulate.machines import Machine, machines_can_stop, same_every_time


@asynccontextmanager
async def stopping(machine: Machine) -> AsyncIterator[trio.Nursery]:
    """Have a machine stop and crash in the block, and clean up after it."""
    with machines_can_stop():
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                machine.release()
                nursery.cancel_scope.cancel()


async def work(told: list[float], *, cleans_up: Callable[[], None] = lambda: None) -> None:
    try:
        while True:
            await trio.sleep(1)
            told.append(trio.current_time())
    finally:
        cleans_up()


@pytest.mark.trio
async def test_a_machine_that_is_stopped_does_nothing_and_goes_on_as_if_nothing_had_been(
    autojump_clock: Any,
) -> None:
    told: list[float] = []
    others: list[float] = []
    machine = Machine("a", "seed")
    async with stopping(machine) as nursery:
        began_at = trio.current_time()
        with machine.here():
            nursery.start_soon(work, told)
        nursery.start_soon(work, others)
        await trio.sleep(2.5)
        machine.stop()
        await trio.sleep(100)
        assert len(told) == 2
        machine.go_on()
        await trio.sleep(1.6)
        assert [at - began_at for at in told] == pytest.approx([1, 2, 102.5, 103.5])
        assert len(others) == 104


@pytest.mark.trio
async def test_a_machine_that_crashes_cleans_nothing_up(autojump_clock: Any) -> None:
    told: list[float] = []
    cleaned: list[str] = []
    seen: list[str] = []
    machine = Machine("a", "seed")
    machine.on_crash = lambda: seen.append("crash")
    async with stopping(machine) as nursery:
        with machine.here():
            nursery.start_soon(lambda: work(told, cleans_up=lambda: cleaned.append("up")))
        await trio.sleep(1.5)
        machine.crash_after(steps=3, down_s=0.0)
        await trio.sleep(50)
        assert machine.has_crashed
        assert seen == ["crash"]
        machine.go_on()  # nothing brings it back
        await trio.sleep(50)
        # What had begun its last step made it, as a signal finds a process between two of them.
        assert (len(told), cleaned) == (4, [])


@pytest.mark.trio
async def test_what_a_machine_begins_belongs_to_it(autojump_clock: Any) -> None:
    told: list[float] = []

    async def begin() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, told)

    machine = Machine("a", "seed")
    async with stopping(machine) as nursery:
        with machine.here():
            nursery.start_soon(begin)
        await trio.sleep(1.5)
        machine.stop()
        await trio.sleep(10)
        assert len(told) == 1


def test_a_machine_has_a_clock_and_chance_of_its_own() -> None:
    async def draw() -> tuple[float, bytes, float]:
        machine = Machine("a", "seed/a/1")
        machine.skew_s = 5.0
        host = machine.host
        return host.clock() - trio.current_time(), host.entropy(4), host.draw()

    clock = trio.testing.MockClock()
    assert trio.run(draw, clock=clock) == trio.run(draw, clock=trio.testing.MockClock())
    ahead_s, *_ = trio.run(draw, clock=clock)
    assert ahead_s == pytest.approx(1_800_000_005.0)


def test_one_seed_schedules_the_tasks_of_a_run_in_one_order() -> None:
    async def order() -> list[int]:
        came: list[int] = []

        async def note(n: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                came.append(n)

        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(note, n)
        return came

    def run(seed: int) -> list[int]:
        with same_every_time(seed):
            return trio.run(order)

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(10)}) > 5
