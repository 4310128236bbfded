"""A worker stops what it was given before the plane gives it to somebody else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, eventually, running, value_of

from creche.errors import JobCancelled
from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire import messages as m
from creche.worker.context import current_job
from creche.worker.lease import margin_s

pytestmark = pytest.mark.trio


@pytest.mark.parametrize(
    ("lease_s", "margin"), [(60.0, 6.0), (10.0, 1.0), (5.0, 1.0), (1.0, 0.49), (0.1, 0.049)]
)
async def test_the_margin_is_a_tenth_and_a_second_but_less_than_half(
    lease_s: float, margin: float
) -> None:
    assert margin_s(lease_s) == pytest.approx(margin)


class Bodies:
    """Tasks that note when they came and went, on Trio's clock."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.came: list[tuple[int, float]] = []
        self.went: list[tuple[int, float]] = []

        @task(registry=self.registry)
        async def hold(seq: int) -> str:
            self.came.append((seq, trio.current_time()))
            try:
                await trio.sleep(1000)
            finally:
                self.went.append((seq, trio.current_time()))
            return "held"

        @task(registry=self.registry)
        async def echo(value: int) -> int:
            return value


async def test_a_worker_that_is_cut_off_stops_when_the_grace_has_passed(
    autojump_clock: Any,
) -> None:
    bodies = Bodies()
    plane = ScriptedPlane(grace_s=15.0, lease_s=60.0)
    async with running(plane, bodies.registry, concurrency=1) as worker:
        plane.offer(1, "hold", 1)
        plane.offer(2, "hold", 2)
        await trio.sleep(7)
        plane.listener.refuse = True
        plane.listener.cut_all()
        cut_at = trio.current_time()
        await trio.sleep(14.5)
        assert bodies.went == []
        await trio.sleep(1)
        assert [seq for seq, _ in bodies.went] == [1]
        assert bodies.went[0][1] == pytest.approx(cut_at + 15.0, abs=0.01)
        assert worker.running == 0

        plane.listener.refuse = False
        await plane.until(lambda: len(plane.hellos) == 2)
        assert plane.hellos[1].facts["held"] == [[1, 1, 1]]
        plane.offer(3, "echo", 3)
        assert value_of(await plane.one(3)) == 3
        # The one that ran is given up, and nothing is said of the one that waited.
        ends = [(report.seq, report.state) for report in plane.all(m.Finished)]
        assert ends == [(1, JobState.LOST), (3, JobState.SUCCEEDED)]
        assert [seq for seq, _ in bodies.came] == [1]


async def test_a_reconnect_within_the_grace_costs_nothing(autojump_clock: Any) -> None:
    bodies = Bodies()
    plane = ScriptedPlane(grace_s=15.0, lease_s=60.0)
    async with running(plane, bodies.registry):
        plane.offer(1, "hold", 1)
        for _ in range(8):
            await trio.sleep(7)
            plane.listener.refuse = True
            plane.listener.cut_all()
            await trio.sleep(12)
            plane.listener.refuse = False
            await trio.sleep(3)
        assert bodies.went == []


async def test_a_worker_that_is_not_heard_stops_before_its_lease_ends(
    autojump_clock: Any,
) -> None:
    # The plane answers no ping, and the connection stays: keep-alive is longer than the lease
    # here, so that only the lease can end it.
    bodies = Bodies()
    plane = ScriptedPlane(keep_alive_s=500.0, grace_s=15.0, lease_s=60.0)
    plane.answers_pings = False
    async with running(plane, bodies.registry) as worker:
        renewed_at = worker.link.renewed_at
        plane.offer(1, "hold", 1)
        await trio.sleep(53)
        assert bodies.went == []
        await trio.sleep(2)
        assert bodies.went[0][1] == pytest.approx(renewed_at + 54.0, abs=0.01)
        # Out of its lease it begins nothing.
        plane.offer(2, "echo", 2)
        await trio.sleep(30)
        assert [(r.seq, r.state) for r in plane.all(m.Finished)] == [(1, JobState.LOST)]
        # Heard again, it does.
        plane.say(m.Pong(1))
        worker.link.renewed_at = trio.current_time()
        await trio.sleep(2)
        plane.offer(3, "echo", 3)
        assert value_of(await plane.one(3)) == 3


async def test_keep_alive_renews_leases_for_as_long_as_it_is_answered(
    autojump_clock: Any,
) -> None:
    bodies = Bodies()
    plane = ScriptedPlane()
    async with running(plane, bodies.registry):
        plane.offer(1, "hold", 1)
        await trio.sleep(900)
        assert bodies.went == []
        assert len(plane.hellos) == 1


async def test_a_thread_that_lost_its_lease_keeps_its_slot_until_it_has_left() -> None:
    registry = Registry()
    release = threading.Event()
    is_in = threading.Event()

    @task(registry=registry)
    def work(seq: int) -> int:
        if seq == 1:
            is_in.set()
            assert release.wait(60)
        return seq

    plane = ScriptedPlane(keep_alive_s=0.01, grace_s=0.02, lease_s=0.1)
    async with running(plane, registry, concurrency=2) as worker:
        plane.offer(1, "work", 1)
        await trio.to_thread.run_sync(is_in.wait, 60)
        plane.listener.refuse = True
        plane.listener.cut_all()
        await eventually(lambda: worker.capacity == (1, 0))
        plane.listener.refuse = False
        plane.limits |= {"keep_alive_s": 10.0, "grace_s": 15.0, "lease_s": 60.0}
        await plane.until(lambda: len(plane.hellos) >= 2 and plane.all(m.Capacity)[1:])
        assert plane.hellos[-1].facts["held"] == [[1, 1, 1]]
        assert plane.all(m.Capacity)[-1] == m.Capacity(1, 0)
        plane.offer(2, "work", 2)
        assert value_of(await plane.one(2)) == 2
        release.set()
        await plane.until(lambda: plane.all(m.Capacity)[-1] == m.Capacity(2, 0))
        # Whether its result counts is for the plane to say.
        assert [report.seq for report in plane.all(m.Finished)] == [2, 1]


async def test_a_thread_that_waits_for_a_job_is_woken_when_its_lease_is_lost() -> None:
    registry = Registry()
    raised: list[BaseException] = []
    is_in = threading.Event()
    has_left = threading.Event()

    @task(registry=registry)
    def wait() -> None:
        job = current_job()
        is_in.set()
        try:
            job.blocking.result("00000000-0000-0000-0000-000000000009")
        except BaseException as error:
            raised.append(error)
        has_left.set()

    plane = ScriptedPlane(keep_alive_s=0.01, grace_s=0.02, lease_s=0.1)
    async with running(plane, registry):
        plane.offer(1, "wait")
        await trio.to_thread.run_sync(is_in.wait, 60)
        plane.listener.refuse = True
        plane.listener.cut_all()
        await trio.to_thread.run_sync(has_left.wait, 60)
    (error,) = raised
    assert isinstance(error, JobCancelled)
    assert "lost its lease" in str(error)
