"""A body that forks: the child ends where the worker would begin, and the worker goes on."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from tests.unit.worker.scripted import ScriptedPlane, running, value_of

from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.worker.context import current_job

pytestmark = [
    pytest.mark.trio,
    # Python 3.12 warns of forking beside threads, which is what these tests are about.
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]

registry = Registry()


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _fork_in_c() -> int:
    """Fork without a word to Python, as a library's C code does.

    Such a child has the parent's lock on the interpreter, and not its threads: asked to give the
    lock to one of them, it would wait for ever. So nobody may have asked when it is forked. Who
    waits asks after the interval that held when it began to wait, so those have to go first.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    time.sleep(4 * interval)
    pid: int = ctypes.PyDLL(None).fork()
    if pid != 0:
        sys.setswitchinterval(interval)
    return pid


def _exit_code(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _child_raises(error: Callable[[], BaseException]) -> int:
    pid = _fork()
    if pid == 0:
        raise error()
    return _exit_code(pid)


@task(registry=registry)
def forks(how: str) -> int:
    pid = _fork()
    if pid == 0:
        match how:
            case "returns":
                return 0
            case "exits":
                raise SystemExit(3)
            case "raises":
                raise ValueError("in the child")
            case "submits":
                current_job().blocking.delay("forks", "returns")
            case "says":
                raise SystemExit("so long")
    return _exit_code(pid)


@task(registry=registry)
async def forks_on_the_loop(how: str) -> int:
    pid = _fork()
    if pid == 0:
        match how:
            case "returns":
                return 0
            case "exits":
                raise SystemExit(3)
            case "raises":
                raise ValueError("in the child")
            case "awaits":
                await trio.lowlevel.checkpoint()
                os._exit(77)
    return _exit_code(pid)


@task(registry=registry)
def forks_in_c(how: str) -> int:
    pid = _fork_in_c()
    return 0 if pid == 0 else _exit_code(pid)


@task(registry=registry)
async def forks_in_c_on_the_loop(how: str) -> int:
    pid = _fork_in_c()
    return 0 if pid == 0 else _exit_code(pid)


@task(registry=registry, executor="asyncio")
async def forks_on_asyncio(how: str) -> int:
    pid = _fork()
    if pid == 0:
        match how:
            case "returns":
                return 0
            case "exits":
                raise SystemExit(3)
            case "raises":
                raise ValueError("in the child")
            case "is cancelled":
                raise asyncio.CancelledError
            case "awaits":
                await asyncio.sleep(0)
                os._exit(77)
    return _exit_code(pid)


@task(registry=registry, executor="asyncio")
async def forks_beside_others(path: str) -> int:
    async def steps() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
            with open(path, "a") as file:
                file.write(f"{os.getpid()}\n")

    async def forks() -> int:
        for _ in range(10):
            await asyncio.sleep(0)
        pid = _fork()
        await asyncio.sleep(0)
        if pid == 0:
            os._exit(77)
        return _exit_code(pid)

    *_, code = await asyncio.gather(*(steps() for _ in range(5)), forks())
    return code


@task(registry=registry)
def pid() -> int:
    return os.getpid()


@pytest.mark.parametrize(
    ("name", "how", "code"),
    [
        ("forks", "returns", 0),
        ("forks", "exits", 3),
        ("forks", "raises", 1),
        ("forks", "submits", 1),
        ("forks", "says", 1),
        ("forks_on_the_loop", "returns", 0),
        ("forks_on_the_loop", "exits", 3),
        ("forks_on_the_loop", "raises", 1),
        ("forks_on_the_loop", "awaits", 1),
        ("forks_on_asyncio", "returns", 0),
        ("forks_on_asyncio", "exits", 3),
        ("forks_on_asyncio", "raises", 1),
        ("forks_on_asyncio", "is cancelled", 1),
        ("forks_on_asyncio", "awaits", 1),
        ("forks_in_c", "returns", 0),
        ("forks_in_c_on_the_loop", "returns", 0),
    ],
)
async def test_a_forked_child_ends_where_the_body_does(
    name: str, how: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    plane = ScriptedPlane()
    async with running(plane, registry, concurrency=1):
        plane.offer(1, name, how)
        plane.offer(2, "pid")
        reports = await plane.finished(2)
        assert value_of(reports[1]) == code
        assert value_of(reports[2]) == os.getpid()
        # Said once, and by the parent.
        assert [r.seq for r in plane.said if hasattr(r, "run_us")] == [1, 2]
    told = capfd.readouterr().err
    expected = {
        "raises": "ValueError: in the child",
        "awaits": "must not await",
        "is cancelled": "CancelledError",
        "submits": "has no connection to the plane",
        "says": "so long",
    }
    assert expected.get(how, "") in told


async def test_a_child_forked_on_asyncio_takes_no_step_of_any_other_body(tmp_path: Path) -> None:
    plane, path = ScriptedPlane(), tmp_path / "pids"
    async with running(plane, registry, concurrency=1):
        plane.offer(1, "forks_beside_others", str(path))
        reports = await plane.finished(1)
    assert value_of(reports[1]) == 1
    assert path.read_text().split() == [str(os.getpid())] * 500


async def test_a_fork_outside_of_a_worker_is_left_alone() -> None:
    async def child_that_awaits() -> Any:
        pid = _fork()
        if pid == 0:
            try:
                await trio.lowlevel.checkpoint()
            finally:
                os._exit(5)
        return _exit_code(pid)

    assert await child_that_awaits() == 5
