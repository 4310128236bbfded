"""A body that blocks the loop is named, with its line; nothing else is."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, eventually, running

from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.worker.watchdog import Watchdog

pytestmark = pytest.mark.trio

STALL_S = 0.5
"""Longer than a busy machine keeps the processor from a loop that nothing blocks."""


class Listener(logging.Handler):
    """Keeps what the worker logs, and sets an event when it is of the watchdog."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.blocked = threading.Event()
        self.gone_on = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.texts.append(text)
        if "has been blocked" in text:
            self.blocked.set()
        if "goes on after" in text:
            self.gone_on.set()


@pytest.fixture
def listener() -> Any:
    listener = Listener()
    logger = logging.getLogger("creche.worker")
    logger.addHandler(listener)
    yield listener
    logger.removeHandler(listener)


async def test_a_task_that_blocks_the_loop_is_named_once_with_its_line(
    listener: Listener,
) -> None:
    registry = Registry()

    def waits_in_a_library() -> None:
        assert listener.blocked.wait(60)

    @task(registry=registry)
    async def blocks() -> None:
        waits_in_a_library()

    plane = ScriptedPlane()
    async with running(plane, registry, stall_s=STALL_S):
        plane.offer(1, "blocks")
        await plane.one(1)
        assert await trio.to_thread.run_sync(listener.gone_on.wait, 60)
    first, second = listener.texts
    assert "by task 'blocks' at" in first
    line = waits_in_a_library.__code__.co_firstlineno + 1
    assert f"test_watchdog.py:{line} in waits_in_a_library()" in first
    assert "'blocks'" in second


async def test_each_stall_is_told(listener: Listener) -> None:
    registry = Registry()

    @task(registry=registry)
    async def blocks(which: int) -> None:
        listener.blocked.clear()
        listener.gone_on.clear()
        assert listener.blocked.wait(60)

    plane = ScriptedPlane()
    async with running(plane, registry, stall_s=STALL_S):
        for seq in range(1, 4):
            plane.offer(seq, "blocks", seq)
            await plane.one(seq)
            assert await trio.to_thread.run_sync(listener.gone_on.wait, 60)
    assert len([text for text in listener.texts if "has been blocked" in text]) == 3


async def test_code_that_a_task_started_is_placed_even_if_its_task_cannot_be_named(
    listener: Listener,
) -> None:
    registry = Registry()

    async def child() -> None:
        assert listener.blocked.wait(60)

    @task(registry=registry)
    async def opens_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    plane = ScriptedPlane()
    async with running(plane, registry, stall_s=STALL_S):
        plane.offer(1, "opens_a_nursery")
        await plane.one(1)
    assert f"test_watchdog.py:{child.__code__.co_firstlineno + 1} in child()" in listener.texts[0]


async def test_a_body_in_a_thread_may_take_as_long_as_it_likes(listener: Listener) -> None:
    registry = Registry()
    release = threading.Event()

    @task(registry=registry)
    def slow() -> None:
        assert release.wait(60)

    @task(registry=registry)
    async def waits() -> None:
        # Many times the stall, with coroutine bodies in and the loop coming round.
        await trio.sleep(0.2)
        release.set()

    plane = ScriptedPlane()
    async with running(plane, registry, stall_s=0.02):
        plane.offer(1, "slow")
        plane.offer(2, "waits")
        await plane.finished(2)
    assert not [text for text in listener.texts if "slow" in text]


async def test_the_watchdog_sleeps_while_no_body_is_in() -> None:
    watchdog = Watchdog(0.02, test_each_stall_is_told.__code__)
    watchdog.open()
    try:
        assert watchdog._thread is None
        watchdog.arm()
        assert watchdog._thread is not None
        watchdog.disarm()
        await eventually(lambda: watchdog._is_asleep)
        watchdog.arm()
        assert not watchdog._is_asleep
    finally:
        watchdog.close()
    await trio.to_thread.run_sync(watchdog._thread.join, 60)
    assert not watchdog._thread.is_alive()
