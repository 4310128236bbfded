"""What a body may do, and what becomes of it: a result, a failure, and a worker that goes on."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import sys
import threading
from typing import Any

import pytest
import trio
from tests.unit.worker.scripted import (
    ScriptedPlane,
    failure_in,
    offer,
    running,
    value_of,
)

from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire import messages as m

pytestmark = pytest.mark.trio

registry = Registry()
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


class OddDict(dict[str, int]):
    """A mapping whose own code fails when it is looked through."""

    def items(self) -> Any:
        raise KeyError("not today")


def _misbehave(what: str) -> Any:
    """Do one of the things that a body should not do."""
    match what:
        case "return":
            return "fine"
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "generator exit":
            raise GeneratorExit
        case "group":
            raise BaseExceptionGroup("two", [ValueError("a"), KeyboardInterrupt()])
        case "own base":
            raise type("Own", (BaseException,), {})("mine")
        case "recurse":
            return _misbehave(what)
        case "unsendable":
            return {"when": [1, object()]}
        case "odd":
            return OddDict(a=1)
        case "large":
            return b"x" * 1_000_001
        case "deep":
            value: list[Any] = []
            for _ in range(5000):
                value = [value]
            return value
        case "generator":
            return (i for i in range(3))
    raise AssertionError(what)


@task(registry=registry)
def sync_body(what: str) -> Any:
    return _misbehave(what)


@task(registry=registry)
async def async_body(what: str) -> Any:
    await trio.lowlevel.checkpoint()
    return _misbehave(what)


async def _later() -> int:
    return 1


@task(registry=registry)
def returns_coroutine() -> Any:
    return _later()


@task(registry=registry)
async def returns_coroutine_too() -> Any:
    return _later()


@task(registry=registry)
async def awaits_asyncio() -> None:
    await asyncio.sleep(1)


@task(registry=registry)
async def awaits_a_foreign_future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


@task(registry=registry)
def add(a: int, b: int = 1) -> int:
    return a + b


@task(registry=registry)
async def add_async(a: int, b: int = 1) -> int:
    return a + b


@task(registry=registry)
def nothing() -> None:
    return None


@task(registry=registry)
def says(text: str) -> None:
    print(text)


@task(registry=registry)
def paints(name: str) -> str:
    before = colour.get()
    colour.set(name)
    return before


@task(registry=registry)
async def paints_async(name: str) -> str:
    before = colour.get()
    colour.set(name)
    await trio.lowlevel.checkpoint()
    return before


BAD = {
    "exit": ("SystemExit", "3"),
    "interrupt": ("KeyboardInterrupt", ""),
    "generator exit": ("GeneratorExit", ""),
    "group": ("BaseExceptionGroup", "two (2 sub-exceptions)"),
    "own base": ("tests.unit.worker.test_bodies.Own", "mine"),
    "recurse": ("RecursionError", "maximum recursion depth exceeded"),
    "unsendable": ("creche.errors.NotEncodable", "the result['when'][1] cannot be sent"),
    "large": ("creche.errors.TooLarge", "the result: 1,000,006 bytes"),
    "deep": ("creche.errors.NotEncodable", "the result"),
    "generator": ("creche.errors.NotEncodable", "the result cannot be sent"),
}


@pytest.mark.parametrize("what", list(BAD))
@pytest.mark.parametrize("name", ["sync_body", "async_body"])
async def test_whatever_a_body_does_its_job_fails_and_the_worker_goes_on(
    name: str, what: str
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, name, what)
        plane.offer(2, name, "return")
        reports = await plane.finished(2)
    failure = failure_in(reports[1])
    kind, message = BAD[what]
    assert failure.type == kind
    assert failure.message.startswith(message)
    assert value_of(reports[2]) == "fine"


@pytest.mark.parametrize("name", ["sync_body", "async_body"])
async def test_a_result_whose_own_code_raises_fails_its_job_only(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, name, "odd")
        plane.offer(2, name, "return")
        reports = await plane.finished(2)
    # Whether the encoder uses items() at all is its own affair.
    if reports[1].state == JobState.FAILED:
        assert "not today" in failure_in(reports[1]).message
    else:
        assert value_of(reports[1]) == {"a": 1}
    assert value_of(reports[2]) == "fine"


@pytest.mark.parametrize("name", ["returns_coroutine", "returns_coroutine_too"])
async def test_a_body_that_returns_a_coroutine_fails_with_what_to_do(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, name)
        failure = failure_in(await plane.one(1))
    assert failure.type == "TypeError"
    assert f"{name} returned a coroutine" in failure.message


async def test_a_body_written_for_asyncio_fails_and_the_worker_goes_on() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "awaits_asyncio")
        plane.offer(2, "awaits_a_foreign_future")
        plane.offer(3, "add_async", 1)
        reports = await plane.finished(3)
    assert "no running event loop" in failure_in(reports[1]).message
    assert "trio" in failure_in(reports[2]).message.lower()
    assert value_of(reports[3]) == 2


@pytest.mark.parametrize("name", ["add", "add_async"])
async def test_arguments_arrive_as_they_were_given(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, name, 1, b=2)
        plane.offer(2, name, decimal.Decimal("1.5"), 1)
        reports = await plane.finished(2)
    assert value_of(reports[1]) == 3
    assert value_of(reports[2]) == decimal.Decimal("2.5")


@pytest.mark.parametrize("name", ["add", "add_async"])
async def test_arguments_that_do_not_fit_are_refused_before_the_body_is_in(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, name, 1, c=2)
        failure = failure_in(await plane.one(1))
    assert failure.type == "creche.errors.InvalidArguments"
    assert "'c'" in failure.message


@pytest.mark.parametrize("name", ["add", "add_async"])
async def test_a_payload_that_is_none_fails_its_job_only(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.say(offer(1, name)._replace(payload=b"\xff\x00"))
        plane.offer(2, name, 1)
        reports = await plane.finished(2)
    assert failure_in(reports[1]).type == "creche.errors.RemoteProtocolError"
    assert value_of(reports[2]) == 2


async def test_no_result_costs_no_bytes() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "nothing")
        report = await plane.one(1)
    assert report.state == JobState.SUCCEEDED
    assert report.outcome is None


async def test_what_a_body_prints_comes_through_untouched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "says", "hello, out there")
        await plane.one(1)
    assert capsys.readouterr().out == "hello, out there\n"


@pytest.mark.parametrize("name", ["paints", "paints_async"])
async def test_a_context_variable_set_in_one_body_is_not_seen_in_the_next(name: str) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.say(*(offer(seq, name, f"colour {seq}") for seq in range(5)))
        reports = await plane.finished(5)
    assert {value_of(report) for report in reports.values()} == {"none"}


async def test_a_slow_thread_body_holds_up_nobody_but_itself() -> None:
    own = Registry()
    release = threading.Event()

    @task(registry=own)
    def slow() -> None:
        assert release.wait(60)

    @task(registry=own)
    def quick(i: int) -> int:
        return i

    plane = ScriptedPlane()
    async with running(plane, own, concurrency=2):
        plane.say(*(offer(seq, "quick", seq) for seq in range(5)), offer(5, "slow"))
        plane.say(*(offer(seq, "quick", seq) for seq in range(6, 200)))
        try:
            reports = await plane.finished(199)
        finally:
            release.set()
        assert 5 not in reports
        assert (await plane.one(5)).state == JobState.SUCCEEDED


async def test_no_more_bodies_are_in_than_there_are_slots() -> None:
    own = Registry()
    inside = 0
    most = 0
    lock = threading.Lock()

    def _note(by: int) -> None:
        nonlocal inside, most
        with lock:
            inside += by
            most = max(most, inside)

    @task(registry=own)
    def in_thread() -> None:
        _note(1)
        _note(-1)

    @task(registry=own)
    async def on_loop() -> None:
        _note(1)
        await trio.lowlevel.checkpoint()
        _note(-1)

    plane = ScriptedPlane()
    async with running(plane, own, concurrency=3) as worker:
        names = ["in_thread", "on_loop"]
        plane.say(*(offer(seq, names[seq % 2]) for seq in range(200)))
        reports = await plane.finished(200)
        assert worker.running == 0
    assert {report.state for report in reports.values()} == {JobState.SUCCEEDED}
    assert 1 <= most <= 3


async def test_what_waits_begins_by_priority_and_then_by_arrival(autojump_clock: Any) -> None:
    own = Registry()
    begun: list[int] = []
    gate = trio.Event()

    @task(registry=own)
    async def note(i: int) -> None:
        begun.append(i)
        await gate.wait()

    plane = ScriptedPlane()
    async with running(plane, own, concurrency=1):
        plane.offer(1, "note", 1)
        await trio.sleep(0.01)
        plane.say(
            offer(5, "note", 5, priority=3),
            offer(3, "note", 3),
            offer(2, "note", 2),
            offer(4, "note", 4, priority=0),
        )
        await trio.sleep(0.01)
        gate.set()
        await plane.finished(5)
    assert begun == [1, 4, 2, 3, 5]


async def test_an_offer_of_a_task_that_is_not_known_is_handed_back(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "no_such_task")
        plane.offer(2, "add_async", 1)
        await plane.one(2)
        (back,) = plane.all(m.HandBack)
    assert back.tokens == [[1, 1, 1]]


async def test_what_the_worker_announces_is_what_it_has_registered(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, queues=("a", "b"), concurrency=7, version="1.2"):
        (announced,) = plane.all(m.Announce)
        (hello,) = plane.hellos
        assert plane.all(m.Capacity) == [m.Capacity(7, 0)]
    assert [d["name"] for d in announced.tasks] == registry.names()
    assert hello.role == "worker"
    assert hello.name == "w1"
    assert hello.facts["queues"] == ["a", "b"]
    assert hello.facts["slots"] == 7
    assert hello.facts["held"] == []
    assert hello.facts["version"] == "1.2"
