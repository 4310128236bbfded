"""The tasks of `creche bench`; they count themselves, so that a job that ran twice is seen where it
ran."""

from __future__ import annotations

import time

from creche import task

_seen: set[int] = set()
_again = 0


@task(name="bench.echo")
def echo(number: int) -> int:
    """Return *number*, in a thread."""
    _note(number)
    return number


@task(name="bench.echo_async")
async def echo_async(number: int) -> int:
    """Return *number*, on the worker's loop."""
    _note(number)
    return number


@task(name="bench.echo_process", executor="process")
def echo_process(number: int) -> int:
    """Return *number*, in a process."""
    return number


@task(name="bench.grind", executor="process", timeout=0.5)
def grind() -> int:
    """Keep a core busy in C code, which nothing but the end of its process can stop."""
    return sum(range(10**15))


@task(name="bench.lateness")
def lateness(due_at: float) -> float:
    """Return how many seconds after *due_at* (UTC seconds) it runs, in a thread."""
    return time.time() - due_at


@task(name="bench.lateness_async")
async def lateness_async(due_at: float) -> float:
    """Return how many seconds after *due_at* (UTC seconds) it runs, on the worker's loop."""
    return time.time() - due_at


@task(name="bench.lateness_process", executor="process")
def lateness_process(due_at: float) -> float:
    """Return how many seconds after *due_at* (UTC seconds) it runs, in a process."""
    return time.time() - due_at


@task(name="bench.sleep")
async def sleep(seconds: float) -> None:
    """Take *seconds*, or until it is cancelled."""
    import trio

    await trio.sleep(seconds)


@task(name="bench.runs")
def runs() -> dict[str, int]:
    """Say how many jobs this process ran, and how many of them it had run before."""
    return {"runs": len(_seen) + _again, "again": _again}


def _note(number: int) -> None:
    global _again
    if number in _seen:
        _again += 1
    _seen.add(number)
