"""Reports until they are settled, resumption by facts, look-ahead, stopping, back-pressure."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from tests.unit.worker.scripted import (
    ScriptedPlane,
    failure_in,
    make_worker,
    offer,
    running,
    value_of,
)

from creche.errors import Refused
from creche.model.failure import Failure
from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire import messages as m
from creche.wire.payload import decode_value
from creche.worker.context import current_job

pytestmark = pytest.mark.trio

registry = Registry()


@task(registry=registry)
async def echo(value: Any) -> Any:
    return value


@task(registry=registry)
async def sleep(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slept"


@task(registry=registry)
async def sleep_deaf(seconds: float) -> str:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    return "slept all the same"


@task(registry=registry)
async def sleep_and_fail(seconds: float) -> None:
    try:
        await trio.sleep(seconds)
    finally:
        raise ValueError("in clean-up")


async def test_a_report_is_sent_again_after_a_reconnect_until_it_is_settled(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    plane.settles = False
    async with running(plane, registry):
        plane.offer(1, "echo", "one")
        plane.offer(2, "echo", "two")
        await plane.finished(2)
        plane.listener.cut_all()
        await plane.until(lambda: len(plane.hellos) == 2)
        await plane.until(lambda: len(plane.all(m.Finished)) == 4)
        first, second = plane.all(m.Finished)[:2], plane.all(m.Finished)[2:]
        assert first == second
        assert sorted(plane.hellos[1].facts["held"]) == [[1, 1, 1], [2, 1, 1]]
        plane.say(m.Settled([report.n for report in second if report.seq == 1]))
        await trio.sleep(1)
        plane.listener.cut_all()
        await plane.until(lambda: len(plane.hellos) == 3)
        assert plane.hellos[2].facts["held"] == [[2, 1, 1]]
        await plane.until(lambda: len(plane.all(m.Finished)) == 5)


async def test_a_session_resumes_with_what_it_runs_and_what_waits(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "sleep", 5)
        plane.offer(2, "echo", "next")
        await trio.sleep(0.1)
        plane.listener.cut_all()
        await plane.until(lambda: len(plane.hellos) == 2)
        first, second = plane.hellos
        assert (first.session, first.incarnation) == (second.session, second.incarnation)
        assert sorted(second.facts["held"]) == [[1, 1, 1], [2, 1, 1]]
        reports = await plane.finished(2)
    assert value_of(reports[1]) == "slept"
    assert value_of(reports[2]) == "next"


async def test_what_ends_while_the_plane_is_away_is_reported_when_it_is_back(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "sleep", 1)
        await trio.sleep(0.1)
        plane.listener.refuse = True
        plane.listener.cut_all()
        await trio.sleep(10)
        plane.listener.refuse = False
        report = await plane.one(1)
        assert plane.hellos[1].facts["held"] == [[1, 1, 1]]
    assert value_of(report) == "slept"


async def test_the_first_words_of_a_connection_are_tasks_slots_reports(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    plane.settles = False
    async with running(plane, registry):
        plane.offer(1, "echo", 1)
        await plane.one(1)
        plane.said.clear()
        plane.listener.cut_all()
        await plane.until(lambda: len(plane.said) >= 3)
    assert [type(message) for message in plane.said[:3]] == [m.Announce, m.Capacity, m.Finished]


async def test_what_another_planes_worker_held_is_not_told_to_the_plane_it_meets(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "sleep", 60)
        plane.offer(2, "sleep", 60)
        await trio.sleep(1)
        plane.said.clear()
        plane.limits = plane.limits | {"plane": "plane-2"}
        plane.listener.cut_all()
        await plane.until(lambda: len(plane.hellos) == 2)
        assert plane.hellos[1].facts["plane"] == "plane-1"
        await trio.sleep(120)
        assert plane.all(m.HandBack) == []
        assert plane.all(m.Finished) == []
        plane.offer(1, "echo", "of the new plane")
        report = await plane.one(1)
    assert value_of(report) == "of the new plane"


async def test_an_offer_that_is_repeated_is_run_once(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.say(offer(1, "sleep", 1), offer(1, "sleep", 1))
        await plane.one(1)
        await trio.sleep(5)
        assert len(plane.all(m.Finished)) == 1


async def test_look_ahead_that_has_not_begun_in_time_is_handed_back(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1, look_ahead_s=0.05) as worker:
        plane.say(*(offer(seq, "sleep", 1) for seq in range(1, 5)))
        await trio.sleep(0.5)
        assert plane.all(m.HandBack) == [m.HandBack([[2, 1, 1], [3, 1, 1], [4, 1, 1]])]
        await plane.one(1)
        await trio.sleep(5)
        assert len(plane.all(m.Finished)) == 1
        assert worker.running == 0


async def test_look_ahead_that_begins_in_time_is_not_handed_back(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1, look_ahead_s=0.05):
        plane.say(*(offer(seq, "sleep", 0.01) for seq in range(1, 5)))
        await plane.finished(4)
        await trio.sleep(1)
        assert plane.all(m.HandBack) == []


async def test_stopping_cancels_a_coroutine_and_is_reported_when_it_has_left(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "sleep", 1000)
        await trio.sleep(0.1)
        plane.say(m.Stop(1, 1, 1, "not wanted any more"))
        report = await plane.one(1)
    assert report.state == JobState.CANCELLED
    assert report.outcome is not None
    failure = Failure.from_data(decode_value(report.outcome))
    assert (failure.message, failure.notes) == (
        "not wanted any more",
        ("its coroutine was cancelled",),
    )


async def test_an_attempt_that_is_stopped_before_it_began_is_reported_too(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "sleep", 10)
        plane.offer(2, "echo", 1)
        plane.say(m.Stop(2, 1, 1, "no"), m.Stop(77, 1, 1, "nobody knows it"))
        report = await plane.one(2)
        assert report.state == JobState.CANCELLED
        await plane.one(1)
        await trio.sleep(1)
        assert len(plane.all(m.Finished)) == 2


async def test_a_body_that_ignores_its_stop_is_reported_with_what_it_returned(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "sleep_deaf", 5)
        plane.offer(2, "sleep_and_fail", 5)
        await trio.sleep(0.1)
        plane.say(m.Stop(1, 1, 1, "no"), m.Stop(2, 1, 1, "no"))
        reports = await plane.finished(2)
    assert value_of(reports[1]) == "slept all the same"
    assert failure_in(reports[2]).message == "in clean-up"


@pytest.mark.parametrize("looks", [True, False])
async def test_a_thread_is_told_to_stop_and_is_done_unless_it_has_looked(looks: bool) -> None:
    own = Registry()
    is_in, told = threading.Event(), threading.Event()

    @task(registry=own)
    def work() -> str:
        job = current_job()
        assert not job.is_stopping
        is_in.set()
        assert told.wait(60)
        if looks:
            assert job.is_stopping
        return "as far as I came"

    plane = ScriptedPlane()
    async with running(plane, own):
        plane.offer(1, "work")
        await trio.to_thread.run_sync(is_in.wait, 60)
        plane.say(m.Stop(1, 1, 1, "no"), offer(2, "nobody knows it"))
        await plane.until(lambda: plane.all(m.HandBack))  # so the stop was taken before
        told.set()
        report = await plane.one(1)
    if looks:
        assert report.state == JobState.CANCELLED
    else:
        assert value_of(report) == "as far as I came"


async def test_nothing_new_begins_while_too_much_is_unsettled(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    plane.settles = False
    async with running(plane, registry, concurrency=1, unsettled=3):
        plane.say(*(offer(seq, "sleep", 0.1) for seq in range(1, 7)))
        await trio.sleep(10)
        # The fourth began before the third was reported.
        assert len(plane.all(m.Finished)) == 4
        assert plane.all(m.Capacity)[-1] == m.Capacity(0, 0)
        plane.settles = True
        plane.say(m.Settled([report.n for report in plane.all(m.Finished)]))
        await plane.finished(6)
        await trio.sleep(1)
        assert plane.all(m.Capacity)[-1] == m.Capacity(1, 0)


async def test_large_unsettled_results_hold_back_as_many_small_ones_do(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    plane.settles = False
    async with running(plane, registry, concurrency=1, unsettled_bytes=1000, look_ahead_s=0.05):
        plane.offer(1, "echo", "x" * 2000)
        await plane.one(1)
        plane.offer(2, "echo", 1)
        await trio.sleep(10)
        assert plane.all(m.HandBack) == [m.HandBack([[2, 1, 1]])]


async def test_a_worker_that_is_refused_for_good_ends_with_the_reason() -> None:
    plane = ScriptedPlane()
    plane.refusal = m.Refusal("name-taken", "there is a worker w1 already")
    worker = make_worker(plane, registry)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.listener.serve, plane.handle)
        with trio.fail_after(10), pytest.raises(Refused, match="w1 already"):
            await worker.run()
        nursery.cancel_scope.cancel()


async def test_a_worker_that_is_refused_later_stops_what_it_runs(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    worker = make_worker(plane, registry)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.listener.serve, plane.handle)

        async def refuse_soon() -> None:
            await plane.until(lambda: plane.all(m.Capacity))
            plane.offer(1, "sleep", 1000)
            await trio.sleep(1)
            plane.say(m.Refusal("protocol", "nonsense"))

        nursery.start_soon(refuse_soon)
        with trio.fail_after(100), pytest.raises(Refused, match="nonsense"):
            await worker.run()
        assert worker.running == 0
        nursery.cancel_scope.cancel()


async def test_a_worker_runs_once(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry) as worker:
        with pytest.raises(RuntimeError, match="once"):
            await worker.run()
