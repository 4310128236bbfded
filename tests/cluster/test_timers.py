"""The alarm: a moment of UTC, on Trio's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from creche.engine.timers import LOOK_S, Alarm, Timers

pytestmark = pytest.mark.trio


class Clock:
    """A clock of UTC that goes with Trio's, and that can be set."""

    def __init__(self) -> None:
        self.ahead_s = 1000.0 - trio.current_time()

    def __call__(self) -> float:
        return trio.current_time() + self.ahead_s


@asynccontextmanager
async def alarm_on(clock: Clock, rung: list[float]) -> AsyncIterator[Alarm]:
    timers = Timers()
    async with trio.open_nursery() as nursery:
        await nursery.start(timers.run)
        yield Alarm(timers, clock, lambda: rung.append(clock()))
        nursery.cancel_scope.cancel()


async def test_an_alarm_rings_once_at_the_earliest_moment_that_it_was_set_for(autojump_clock):
    rung: list[float] = []
    async with alarm_on(Clock(), rung) as alarm:
        for moment in (1010.0, 1005.0, 1020.0, float("inf")):
            alarm.set(moment)
        await trio.sleep(100)
    assert rung == [1005.0]


async def test_an_alarm_that_has_rung_can_be_set_again_and_for_the_past(autojump_clock):
    rung: list[float] = []
    async with alarm_on(Clock(), rung) as alarm:
        alarm.set(1005.0)
        await trio.sleep(10)
        alarm.set(1007.0)
        await trio.sleep(1)
        alarm.set(1020.0)
        await trio.sleep(100)
    assert rung == [1005.0, 1010.0, 1020.0]


async def test_a_clock_that_is_set_while_the_alarm_sleeps_is_looked_at_soon(autojump_clock):
    rung: list[float] = []
    clock = Clock()
    async with alarm_on(clock, rung) as alarm:
        alarm.set(9000.0)
        await trio.sleep(1)
        clock.ahead_s += 8000.0
        await trio.sleep(LOOK_S)
    assert rung == [9000.0 + LOOK_S]
