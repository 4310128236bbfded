"""Leaving in order: hand back, let run, cancel, settle, goodbye; each step bounded."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, make_worker, offer, value_of

from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire import messages as m
from creche.worker.runner import Worker

pytestmark = pytest.mark.trio

registry = Registry()


@task(registry=registry)
async def sleep(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slept"


@task(registry=registry)
async def shielded(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


@asynccontextmanager
async def until_it_leaves(
    plane: ScriptedPlane, tasks: Registry = registry, **given: Any
) -> AsyncIterator[Worker]:
    """Run a worker and wait, after the block, for it to leave by itself."""
    worker = make_worker(plane, tasks, **given)
    async with trio.open_nursery() as servers:
        await servers.start(plane.listener.serve, plane.handle)
        with trio.fail_after(500):
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                await plane.until(lambda: plane.all(m.Capacity))
                yield worker
        servers.cancel_scope.cancel()


async def test_a_draining_worker_hands_back_finishes_and_says_goodbye(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, concurrency=1) as worker:
        plane.say(offer(1, "sleep", 10), offer(2, "sleep", 10), offer(3, "sleep", 10))
        await trio.sleep(1)
        worker.begin_drain("a new version is out")
        await trio.sleep(1)
        plane.offer(4, "sleep", 10)
    kinds = [type(message) for message in plane.said[2:]]
    assert kinds == [m.Capacity, m.HandBack, m.HandBack, m.Finished, m.Goodbye]
    assert plane.all(m.Capacity)[-1] == m.Capacity(0, 0)
    assert [back.tokens for back in plane.all(m.HandBack)] == [
        [[2, 1, 1], [3, 1, 1]],
        [[4, 1, 1]],
    ]
    assert value_of(plane.all(m.Finished)[0]) == "slept"
    assert plane.all(m.Goodbye) == [m.Goodbye("a new version is out")]


async def test_the_plane_can_have_a_worker_drain(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.offer(1, "sleep", 10)
        await trio.sleep(1)
        plane.say(m.Drain("the plane stops"), m.Drain("and says it twice"))
        await trio.sleep(1)
        assert worker.is_draining
    assert value_of(await plane.one(1)) == "slept"
    assert plane.all(m.Goodbye) == [m.Goodbye("the plane stops")]


async def test_a_body_that_outlasts_the_drain_is_cancelled_and_reported_as_lost(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, drain_s=30.0) as worker:
        plane.offer(1, "sleep", 1000)
        await trio.sleep(1)
        worker.begin_drain("enough")
        begun_at = trio.current_time()
    assert trio.current_time() - begun_at == pytest.approx(30.0, abs=1.0)
    (report,) = plane.all(m.Finished)
    assert (report.seq, report.state, report.outcome) == (1, JobState.LOST, None)
    assert type(plane.said[-1]) is m.Goodbye
    assert "stops what still runs: sleep (job 00000000-0000-0000-0000-000000000001)" in caplog.text


async def test_draining_twice_skips_to_the_end(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, drain_s=300.0) as worker:
        plane.offer(1, "sleep", 1000)
        await trio.sleep(1)
        worker.begin_drain("enough")
        await trio.sleep(1)
        worker.begin_drain("enough!")
        begun_at = trio.current_time()
    assert trio.current_time() - begun_at < 2.0
    assert len(plane.all(m.Goodbye)) == 1


async def test_clean_up_that_is_shielded_holds_up_the_goodbye_only_so_long(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane, drain_s=1.0, cleanup_s=5.0) as worker:
        plane.offer(1, "shielded", 100)
        await trio.sleep(1)
        worker.begin_drain("enough")
        begun_at = trio.current_time()
        await worker.has_left.wait()
        assert trio.current_time() - begun_at == pytest.approx(6.0, abs=1.0)
        assert len(plane.all(m.Goodbye)) == 1
    # The run itself cannot end before a coroutine does.
    assert trio.current_time() - begun_at == pytest.approx(99.0, abs=2.0)
    assert "still cleaning up, and cannot be hurried: shielded" in caplog.text


async def test_the_goodbye_waits_for_the_last_reports_to_be_settled_but_not_for_ever(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plane = ScriptedPlane()
    plane.settles = False
    async with until_it_leaves(plane, settle_s=5.0) as worker:
        plane.offer(1, "sleep", 1)
        report = await plane.one(1)
        worker.begin_drain("enough")
        begun_at = trio.current_time()
        await trio.sleep(2)
        assert not worker.has_left.is_set()
    assert trio.current_time() - begun_at == pytest.approx(5.0, abs=1.0)
    assert report.state == JobState.SUCCEEDED
    assert "leaves with 1 result unsettled: its job will run again" in caplog.text


async def test_the_goodbye_follows_the_settlement_at_once(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    plane.settles = False
    async with until_it_leaves(plane, settle_s=300.0) as worker:
        plane.offer(1, "sleep", 1)
        report = await plane.one(1)
        worker.begin_drain("enough")
        await trio.sleep(2)
        plane.say(m.Settled([report.n]))
        begun_at = trio.current_time()
    assert trio.current_time() - begun_at < 1.0


async def test_a_worker_can_leave_while_the_plane_is_away(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with until_it_leaves(plane) as worker:
        plane.listener.refuse = True
        plane.listener.cut_all()
        await trio.sleep(1)
        worker.begin_drain("enough")
    assert worker.has_left.is_set()


async def test_a_worker_that_never_met_its_plane_can_leave(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    worker = make_worker(plane, registry)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(60)
        worker.begin_drain("enough")
        with trio.fail_after(10):
            await worker.has_left.wait()


async def test_a_thread_that_hangs_is_named_and_left_to_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = Registry()
    is_in, release = threading.Event(), threading.Event()

    @task(registry=own)
    def hang() -> None:
        is_in.set()
        assert release.wait(60)

    plane = ScriptedPlane()
    with caplog.at_level(logging.WARNING):
        async with until_it_leaves(plane, own, drain_s=0.0, cleanup_s=0.0) as worker:
            plane.offer(1, "hang")
            await trio.to_thread.run_sync(is_in.wait, 60)
            worker.begin_drain("enough")
    assert "a thread cannot be stopped: hang (job" in caplog.text
    assert [(report.seq, report.state) for report in plane.all(m.Finished)] == [(1, JobState.LOST)]
    (thread,) = (t for t in threading.enumerate() if t.name.startswith("creche-1"))
    assert thread.daemon
    release.set()
    await trio.to_thread.run_sync(thread.join, 60)
    assert not thread.is_alive()


async def test_threads_end_with_their_worker() -> None:
    own = Registry()

    @task(registry=own)
    def quick() -> None:
        return None

    plane = ScriptedPlane()
    async with until_it_leaves(plane, own) as worker:
        plane.say(*(offer(seq, "quick") for seq in range(50)))
        await plane.finished(50)
        threads = [t for t in threading.enumerate() if t.name.startswith("creche-")]
        assert threads
        worker.begin_drain("enough")
    for thread in threads:
        await trio.to_thread.run_sync(thread.join, 60)
        assert not thread.is_alive()
