"""What code inside a job can ask and do: who am I, submit, wait, and lend the slot meanwhile."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.worker.scripted import (
    ScriptedPlane,
    eventually,
    failure_in,
    offer,
    running,
    value_of,
)

from creche.errors import JobFailed, ResultTimeout
from creche.model.failure import Failure
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire import messages as m
from creche.wire.payload import decode_value
from creche.worker.context import current_job

pytestmark = pytest.mark.trio

registry = Registry()


@task(registry=registry)
def who() -> dict[str, Any]:
    return _describe()


@task(registry=registry)
async def who_async() -> dict[str, Any]:
    return _describe()


def _describe() -> dict[str, Any]:
    job = current_job()
    return {
        "id": job.id,
        "task": job.task,
        "attempt": job.attempt,
        "priority": job.priority.name,
        "worker": job.worker,
        "is_stopping": job.is_stopping,
        "text": repr(job),
    }


@task(registry=registry)
def deadline() -> datetime | None:
    return current_job().deadline


@task(registry=registry)
def count_down(n: int) -> int:
    if n == 0:
        return 0
    verbs = current_job().blocking
    return 1 + verbs.result(verbs.submit(count_down, n - 1))


@task(registry=registry)
async def count_down_async(n: int) -> int:
    if n == 0:
        return 0
    client = current_job().client
    return 1 + await client.result(await client.submit(count_down_async, n - 1))


@task(registry=registry)
def count_down_mixed(n: int) -> int:
    if n == 0:
        return 0
    verbs = current_job().blocking
    handle = verbs.delay("count_up_mixed", n - 1)
    return 1 + verbs.result(handle)


@task(registry=registry)
async def count_up_mixed(n: int) -> int:
    if n == 0:
        return 0
    handle = await current_job().client.delay("count_down_mixed", n - 1)
    return 1 + await handle.result()


@task(registry=registry)
def fans_out(n: int) -> list[int]:
    verbs = current_job().blocking
    return [verbs.result(handle) for handle in verbs.submit_many(double, [(i,) for i in range(n)])]


@task(registry=registry)
def double(i: int) -> int:
    return 2 * i


@task(registry=registry)
def fails() -> None:
    raise ValueError("no")


@task(registry=registry)
def waits_for_a_failure() -> str:
    verbs = current_job().blocking
    try:
        verbs.result(verbs.submit(fails))
    except JobFailed as error:
        return error.type
    return "nothing was raised"


@task(registry=registry)
def waits_too_short() -> str:
    verbs = current_job().blocking
    handle = verbs.submit(double.with_options(queue="nobody"), 1)
    try:
        verbs.result(handle, timeout=0.0)
    except ResultTimeout:
        return "timeout"
    return "nothing was raised"


async def test_a_job_outside_of_a_job_is_one_clear_error() -> None:
    with pytest.raises(RuntimeError, match="inside a job"):
        current_job()


@pytest.mark.parametrize("name", ["who", "who_async"])
async def test_a_body_knows_its_job(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(7, name, attempt=3, tries=2, priority=1)
        told = value_of(await plane.one(7))
    assert told == {
        "id": "00000000-0000-0000-0000-000000000007",
        "task": name,
        "attempt": 3,
        "priority": Priority.HIGH.name,
        "worker": "w1",
        "is_stopping": False,
        "text": f"<job 00000000-0000-0000-0000-000000000007 ({name}, attempt 3)>",
    }


@pytest.mark.parametrize("name", ["count_down", "count_down_async", "count_down_mixed"])
async def test_a_recursion_of_depth_50_runs_on_one_slot(name: str) -> None:
    plane = ScriptedPlane()
    plane.runs_submissions = True
    async with running(plane, registry, concurrency=1) as worker:
        plane.offer(1, name, 50)
        assert value_of(await plane.one(1)) == 50
        await plane.until(lambda: plane.all(m.Capacity)[-1] == m.Capacity(1, 0))
        assert worker.running == 0
    lent = [message.lent for message in plane.all(m.Capacity)]
    assert max(lent) >= 1
    assert {message.slots for message in plane.all(m.Capacity)} == {1}


async def test_threads_beyond_the_slots_end_when_they_are_not_needed() -> None:
    plane = ScriptedPlane()
    plane.runs_submissions = True
    before = _threads()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "count_down", 20)
        assert value_of(await plane.one(1)) == 20
        await eventually(lambda: _threads() <= before + 1)
        plane.offer(2, "count_down", 20)
        assert value_of(await plane.one(2)) == 20


def _threads() -> int:
    return sum(thread.name.startswith("creche-") for thread in threading.enumerate())


async def test_jobs_that_a_body_submits_carry_its_token_and_its_waits_lend_the_slot() -> None:
    plane = ScriptedPlane()
    plane.runs_submissions = True
    async with running(plane, registry, concurrency=1):
        plane.offer(5, "fans_out", 3)
        assert value_of(await plane.one(5)) == [0, 2, 4]
    submits = plane.all(m.Submit)
    assert [s.options for s in submits] == [{"parent": [5, 1, 1]}] * 3


async def test_how_a_child_ended_is_raised_in_the_body_that_waits() -> None:
    plane = ScriptedPlane()
    plane.runs_submissions = True
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "waits_for_a_failure")
        assert value_of(await plane.one(1)) == "ValueError"


async def test_a_wait_inside_a_body_can_be_bounded() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "waits_too_short")
        assert value_of(await plane.one(1)) == "timeout"


async def test_a_stop_wakes_a_thread_that_waits_for_a_job() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "count_down", 1)
        await plane.until(lambda: plane.all(m.Watch) or plane.all(m.Submit))
        await plane.until(lambda: plane.all(m.Capacity)[-1].lent == 1)
        plane.say(m.Stop(1, 1, 1, "not wanted"))
        report = await plane.one(1)
    assert report.state == JobState.CANCELLED
    assert report.outcome is not None
    assert Failure.from_data(decode_value(report.outcome)).message == "not wanted"


async def test_the_blocking_verbs_say_so_when_they_are_used_on_the_loop() -> None:
    own = Registry()

    @task(registry=own)
    async def confused() -> None:
        current_job().blocking.delay("x")

    plane = ScriptedPlane()
    async with running(plane, own):
        plane.offer(1, "confused")
        failure = failure_in(await plane.one(1))
    assert failure.type == "RuntimeError"
    assert "call it from a thread" in failure.message


async def test_lending_is_bounded() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1, max_lent=2):
        plane.say(*(offer(seq, "count_down", 1) for seq in range(1, 6)))
        await plane.until(lambda: len(plane.all(m.Submit)) == 3)
        await plane.until(lambda: plane.all(m.Capacity)[-1].lent == 2)
        plane.say(*(m.Stop(seq, 1, 1, "enough") for seq in range(1, 6)))
        await plane.finished(5)
    assert len(plane.all(m.Submit)) == 3


async def test_limits_that_a_newer_plane_knows_do_not_disturb_those_that_are_known() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        limits = {"timeout_s": 60.0, "soft_timeout_s": 50.0, "politeness_s": 3.0}
        plane.say(offer(1, "who")._replace(options={"limits": limits, "colour": "red"}))
        assert value_of(await plane.one(1))["task"] == "who"


async def test_a_deadline_after_the_last_moment_there_is_is_that_moment() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.say(offer(1, "deadline")._replace(options={"limits": {"left_s": 1e12}}))
        assert value_of(await plane.one(1)) == datetime.max.replace(tzinfo=UTC)
