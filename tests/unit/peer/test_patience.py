"""One timer for all who wait: each is woken when its own time is up, and not before."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from tests.client.scripted_plane import ScriptedPlane, opened

from creche.errors import SubmitTimeout
from creche.model.job import JobState
from creche.peer.patience import Patience
from creche.wire import messages as m

pytestmark = pytest.mark.trio


class Caller:
    """Somebody who waits."""

    def __init__(self) -> None:
        self.until = math.inf
        self.changed = anyio.Event()


class Callers:
    """Some who wait, and the timer that they share."""

    def __init__(self, seconds: float | None) -> None:
        self.waiting: list[Caller] = []
        self.patience = Patience(seconds, lambda: self.waiting)

    def begin(self) -> Caller:
        caller = Caller()
        self.waiting.append(caller)
        self.patience.begin(caller)
        return caller


async def test_each_is_woken_when_its_own_time_is_up(autojump_clock: Any) -> None:
    callers = Callers(10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(callers.patience.run)
        await trio.sleep(1)
        woken_at = {}

        async def wait(name: str, after_s: float) -> None:
            await trio.sleep(after_s)
            caller = callers.begin()
            await caller.changed.wait()
            callers.waiting.remove(caller)
            woken_at[name] = trio.current_time()

        async with trio.open_nursery() as waiting:
            for name, after_s in (("first", 0.0), ("second", 4.0), ("long after", 100.0)):
                waiting.start_soon(wait, name, after_s)
            began_at = trio.current_time()
        assert {name: at - began_at for name, at in woken_at.items()} == pytest.approx(
            {"first": 10.0, "second": 14.0, "long after": 110.0}
        )
        nursery.cancel_scope.cancel()


async def test_who_has_gone_is_not_waited_for_and_who_is_late_is_woken_once(
    autojump_clock: Any,
) -> None:
    callers = Callers(10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(callers.patience.run)
        await trio.testing.wait_all_tasks_blocked()
        gone, late = callers.begin(), callers.begin()
        callers.waiting.remove(gone)
        await trio.sleep(10.5)
        assert late.changed.is_set()
        assert not gone.changed.is_set()
        # It takes its time to go; the timer does not turn in circles meanwhile.
        with trio.fail_after(1000):
            await trio.sleep(500)
        nursery.cancel_scope.cancel()


async def test_when_the_timer_ends_all_are_woken_as_nobody_else_would(autojump_clock: Any) -> None:
    callers = Callers(10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(callers.patience.run)
        await trio.testing.wait_all_tasks_blocked()
        caller = callers.begin()
        assert callers.patience.is_kept
        nursery.cancel_scope.cancel()
    assert caller.changed.is_set()
    assert not callers.patience.is_kept


async def test_without_an_end_nobody_is_woken(autojump_clock: Any) -> None:
    callers = Callers(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(callers.patience.run)
        await trio.testing.wait_all_tasks_blocked()
        caller = callers.begin()
        await trio.sleep(80_000)
        assert not caller.changed.is_set()
        nursery.cancel_scope.cancel()
    assert not caller.changed.is_set()


async def test_a_submission_that_is_accepted_while_it_is_withdrawn_and_runs_is_accepted(
    autojump_clock: Any,
) -> None:
    async with opened(ScriptedPlane(), timeout=5.0) as (client, plane):

        async def host() -> None:
            submit = await plane.hear(m.Submit)
            cancel = await plane.hear(m.Cancel)
            assert (cancel.ids, cancel.is_withdrawal) == ([submit.id], True)
            await plane.say(m.Accepted([submit.n]), m.Answer(cancel.ref, [int(JobState.RUNNING)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(host)
            with trio.fail_after(60):
                handle = await client.delay("echo")
        assert handle


async def test_submissions_that_are_not_accepted_give_up_each_in_its_time(
    autojump_clock: Any,
) -> None:
    async with opened(ScriptedPlane(), timeout=5.0) as (client, plane):
        began_at = trio.current_time()
        gave_up_at: list[float] = []

        async def submit(after_s: float) -> None:
            await trio.sleep(after_s)
            with pytest.raises(SubmitTimeout, match="withdrawn and will not run"):
                await client.delay("echo")
            gave_up_at.append(trio.current_time() - began_at)

        async def host() -> None:
            await plane.hear_all(m.Submit, 2)
            for _ in range(2):
                cancel = await plane.hear(m.Cancel)
                await plane.say(m.Answer(cancel.ref, [int(JobState.CANCELLED)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(host)
            nursery.start_soon(submit, 0.0)
            nursery.start_soon(submit, 2.0)
        assert gave_up_at == pytest.approx([5.0, 7.0])
