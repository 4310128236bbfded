"""A worker whose plane, which started it, is gone: it goes too, but not with what it has run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, offer, value_of
from tests.unit.worker.test_drain import until_it_leaves

from creche.model.job import JobState
from creche.wire import messages as m
from creche.worker.runner import Worker

pytestmark = pytest.mark.trio

GRACE_S = 15.0


def crash(plane: ScriptedPlane, worker: Worker) -> float:
    """The plane is killed: its pipe and its sockets are closed. Return when."""
    plane.listener.refuse = True
    plane.listener.cut_all(deliver_in_flight=True)
    worker.plane_ended(GRACE_S)
    return trio.current_time()


async def test_a_worker_that_has_nothing_to_tell_leaves_at_once(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.offer(1, "sleep", 1)
        await plane.one(1)
        await trio.sleep(1)
        crashed_at = crash(plane, worker)
    assert trio.current_time() - crashed_at < 0.1


async def test_it_looks_for_a_plane_for_its_grace_to_tell_what_it_has_run(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, settle_s=1.0) as worker:
        plane.offer(1, "sleep", 3)
        await trio.sleep(1)
        crash(plane, worker)
        await trio.sleep(12)
        plane.listener.refuse = False
        report = await plane.one(1)
        reported_at = trio.current_time()
    assert value_of(report) == "slept"
    assert plane.hellos[1].facts["held"] == [[1, 1, 1]]
    assert plane.all(m.Capacity)[-1] == m.Capacity(0, 0)
    assert len(plane.all(m.Goodbye)) == 1
    assert trio.current_time() - reported_at < 0.1


async def test_it_leaves_when_its_grace_is_over(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.offer(1, "sleep", 3)
        await trio.sleep(1)
        crashed_at = crash(plane, worker)
    assert trio.current_time() - crashed_at == pytest.approx(GRACE_S, abs=0.5)


async def test_what_still_runs_when_the_grace_is_over_is_stopped(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.offer(1, "sleep", 1000)
        await trio.sleep(1)
        crashed_at = crash(plane, worker)
    assert trio.current_time() - crashed_at == pytest.approx(GRACE_S, abs=0.5)
    assert plane.all(m.Finished) == []


async def test_what_runs_when_it_is_back_runs_to_its_end(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, drain_s=10.0) as worker:
        plane.offer(1, "sleep", 50)
        await trio.sleep(1)
        crash(plane, worker)
        await trio.sleep(5)
        plane.listener.refuse = False
        await plane.until(lambda: len(plane.hellos) == 2)
        plane.limits |= {"plane": "plane-2"}
        plane.offer(2, "sleep", 1)
        assert value_of(await plane.one(1)) == "slept"
    assert [back.tokens for back in plane.all(m.HandBack)] == [[[2, 1, 1]]]
    assert len(plane.all(m.Goodbye)) == 1


async def test_the_next_plane_may_crash_as_well(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.offer(1, "sleep", 100)
        await trio.sleep(1)
        crash(plane, worker)
        await trio.sleep(5)
        plane.listener.refuse = False
        await trio.sleep(90)
        plane.listener.refuse = True
        plane.listener.cut_all()
        await trio.sleep(10)
        plane.listener.refuse = False
        assert value_of(await plane.one(1)) == "slept"
    assert len(plane.hellos) == 3


async def test_what_it_had_not_begun_is_not_named_to_the_next_plane(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, concurrency=1) as worker:
        plane.say(offer(1, "sleep", 3), offer(2, "sleep", 3))
        await trio.sleep(1)
        crash(plane, worker)
        await trio.sleep(1)
        plane.listener.refuse = False
        await plane.one(1)
    assert plane.hellos[1].facts["held"] == [[1, 1, 1]]
    assert {report.seq for report in plane.all(m.Finished)} == {1}


async def test_an_offer_that_was_on_its_way_is_given_back_to_the_next_plane(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        # The pipe is closed before the socket is, and before what the plane said last is read.
        worker.plane_ended(GRACE_S)
        # A worker that is sending when the connection breaks would not read what is in flight.
        await plane.until(lambda: plane.all(m.Capacity)[-1].slots == 0)
        plane.offer(1, "sleep", 3)
        while plane.outbox:
            await trio.lowlevel.checkpoint()
        plane.listener.refuse = True
        plane.listener.cut_all(deliver_in_flight=True)
        await trio.sleep(5)
        assert not worker.has_left.is_set()
        plane.listener.refuse = False
        await plane.until(lambda: len(plane.hellos) == 2)
        met_at = trio.current_time()
    # Naming nothing is saying that it has nothing.
    assert plane.hellos[1].facts["held"] == []
    assert trio.current_time() - met_at < 0.1


async def test_a_plane_that_said_goodbye_is_not_waited_for(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plane = ScriptedPlane()
    with caplog.at_level(logging.INFO, "creche.worker"):
        async with until_it_leaves(plane, drain_s=0.0) as worker:
            plane.offer(1, "sleep", 1000)
            await trio.sleep(1)
            plane.listener.refuse = True
            plane.say(m.Goodbye("the plane stops"))
            await worker.link.wait_disconnected()
            ended_at = trio.current_time()
            worker.plane_ended(GRACE_S)
    assert trio.current_time() - ended_at < 0.1
    assert "is leaving: its plane has stopped" in caplog.text
    assert "gone" not in caplog.text


async def test_a_goodbye_is_forgotten_when_the_plane_is_back(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.say(m.Goodbye("the plane stops"))
        await plane.until(lambda: len(plane.hellos) == 2)
        await trio.sleep(1)
        assert worker.link.farewell is None
        plane.offer(1, "sleep", 3)
        await trio.sleep(1)
        crash(plane, worker)
        await trio.sleep(5)
        plane.listener.refuse = False
        assert value_of(await plane.one(1)) == "slept"


@pytest.mark.parametrize("is_told_first", [True, False])
async def test_one_that_is_told_to_stop_as_well_hurries(
    autojump_clock: Any, is_told_first: bool
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.offer(1, "sleep", 1000)
        await trio.sleep(1)
        if is_told_first:
            worker.begin_drain("it was told to stop")
        crashed_at = crash(plane, worker)
        if not is_told_first:
            worker.begin_drain("it was told to stop")
    assert trio.current_time() - crashed_at < 0.1


async def test_a_worker_that_stops_between_hello_and_welcome_tells_what_it_has_not_begun(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, concurrency=1, drain_s=0.0) as worker:
        plane.say(offer(1, "sleep", 3), offer(2, "sleep", 3))
        await trio.sleep(1)
        plane.welcome_may_pass = trio.Event()
        plane.listener.cut_all()
        await plane.until(lambda: len(plane.hellos) == 2)
        worker.begin_drain("enough")
        await trio.sleep(1)
        plane.welcome_may_pass.set()
    assert [back.tokens for back in plane.all(m.HandBack)] == [[[2, 1, 1]]]
    assert [(report.seq, report.state) for report in plane.all(m.Finished)] == [(1, JobState.LOST)]
    assert len(plane.all(m.Goodbye)) == 1
