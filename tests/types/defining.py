"""What type checkers know of a task. Never run: mypy and pyright judge each line.

A call that must be rejected carries an ignore; a checker that accepts it reports the ignore.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

from creche.model.priority import Priority
from creche.tasks import Registry, SyncTask, Task, TaskPriority, task


@task
def resize(path: str, width: int = 200, *, quality: float = 0.5) -> Path:
    return Path(path)


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task("send mail")
def named(user_id: int) -> bool:
    return user_id > 0


@task(queue="images", priority="high", executor="thread", delivery="at-most-once")
def with_options(path: str) -> list[int]:
    return [len(path)]


@task(timeout=30, soft_timeout=20.5, expires=600)
def limited(path: str) -> int:
    return len(path)


@task(retries=3, backoff=0.5, retry_on=(OSError, ValueError), never_retry_on=FileNotFoundError)
def retried(path: str) -> int:
    return len(path)


@task(executor="asyncio")
async def on_asyncio(path: str) -> int:
    return len(path)


@task("counted", priority=Priority.LOW, registry=Registry())
async def async_with_options(*counts: int) -> int:
    return sum(counts)


# A function keeps its parameters and its result, whichever way it became a task.
assert_type(resize("a"), Path)
assert_type(resize("a", 3, quality=0.1), Path)
assert_type(named(1), bool)
assert_type(named(user_id=1), bool)
assert_type(with_options("a"), list[int])
assert_type(task(len, name="length")("a"), int)

assert_type(retried.with_options(retries="forever", countdown=5)("a"), int)

limited.with_options(timeout="30")  # type: ignore[arg-type]
retried.with_options(retries="often")  # type: ignore[arg-type]
retried.with_options(retry_on=OSError)  # type: ignore[call-arg]
task(retries=3, retry_on="OSError")  # type: ignore[call-overload]
resize(3)  # type: ignore[arg-type]
resize()  # type: ignore[call-arg]
resize("a", widht=3)  # type: ignore[call-arg]
resize("a", 3, 0.1)  # type: ignore[call-arg]
named("1")  # type: ignore[arg-type]


async def calling() -> None:
    assert_type(await fetch("a"), bytes)
    assert_type(await on_asyncio("a"), int)
    assert_type(await async_with_options(1, 2, 3), int)
    assert_type(await fetch.with_options(priority=TaskPriority.LOW)("a"), bytes)
    await fetch(url=b"a")  # type: ignore[arg-type]
    await async_with_options("1")  # type: ignore[arg-type]


# A view is a task of the same kind, with options of the right types.
view = resize.with_options(priority="high", queue="fast", delivery="at-least-once")
assert_type(view("a"), Path)
view(3)  # type: ignore[arg-type]
resize.with_options(priority="urgent")  # type: ignore[arg-type]
resize.with_options(priority=9)
resize.with_options(priority=9.5)  # type: ignore[arg-type]
resize.with_options(executor="thread")  # type: ignore[call-arg]


# Options that do not exist, or have another type.
@task(prority="high")  # type: ignore[call-overload, untyped-decorator]
def misspelt() -> None: ...


@task(executor="elsewhere")  # type: ignore[call-overload, untyped-decorator]
def elsewhere() -> None: ...


@task(priority=3.5)  # type: ignore[call-overload, untyped-decorator]
def between_two_levels() -> None: ...


# Both kinds are tasks, for functions that take any of them.
def result_of(job: Task[..., int]) -> None: ...


def takes_a_path(job: Task[[str], object]) -> None: ...


result_of(async_with_options)
result_of(fetch)  # type: ignore[arg-type]
takes_a_path(fetch)
takes_a_path(with_options)
takes_a_path(named)  # type: ignore[arg-type]
anything: Task[..., Any] = named


# A decorator below @task decides what the task takes.
def with_connection(function: Callable[[str, int], bool]) -> Callable[[int], bool]:
    @functools.wraps(function)
    def wrapper(number: int) -> bool:
        return function("connection", number)

    return wrapper


@task
@with_connection
def stored(connection: str, number: int) -> bool:
    return bool(connection) and number > 0


assert_type(stored(1), bool)
stored("connection", 1)  # type: ignore[call-arg, arg-type]


# Tasks of a class that need no object.
class Mailer:
    @staticmethod
    @task
    def send(to: str) -> bool:
        return bool(to)

    def deliver(self, to: str) -> int:
        return len(to)


assert_type(Mailer.send("a"), bool)
assert_type(task("deliver")(Mailer().deliver)("a"), int)
assert_type(task("short")(lambda: 3), SyncTask[[], int])
