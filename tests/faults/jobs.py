"""The jobs of a cluster to which faults are done: each attempt records what it does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import trio

from creche import Retry, Snooze, current_job, task
from creche.testing.history import FileRecorder
from creche.testing.history.record import Body

RETRIES = 2
BACKOFF_S = 0.5
MAX_LOSSES = 3
"""What a plane takes for it if nothing else is said."""

LIMIT = 2
"""How many attempts at `limited` have a lease at a time."""

POLICY = {"retries": RETRIES, "backoff": BACKOFF_S, "jitter": 0.0}


@cache
def recorder() -> FileRecorder:
    """The one of this process."""
    return FileRecorder(os.environ["CRECHE_FAULTS_RECORD"], "worker")


@contextmanager
def attempt_at(call: str, *, is_reachable: bool = True) -> Iterator[Body]:
    """Record an attempt, under the name that its fencing token gives it."""
    job = current_job()
    epoch, number = job.fence
    told = {"job": job.id, "attempt": f"{epoch}.{number}", "call": call, "process": job.worker}
    with recorder().body(**told, is_reachable=is_reachable) as body:
        yield body


def come_to(body: Body, call: str, plan: str, size_bytes: int) -> str:
    """Have an attempt end as its *plan* says: a letter for each attempt, the last for all others.
    The result says whose it is, and is as long as it is to be."""
    job = current_job()
    what = plan[min(job.attempt, len(plan)) - 1]
    if what == "f":
        raise ValueError("not yet")
    if what == "r":
        body.outcome, body.delay_s = "failed", 0.2
        raise Retry("soon", countdown=0.2)
    _, number = job.fence
    if what == "z" and number <= 2:  # a snooze is not counted: the next attempt has this plan too
        body.outcome, body.delay_s = "snoozed", 0.3
        raise Snooze(0.3)
    epoch, number = job.fence
    body.value = f"{call} by {epoch}.{number}"
    return body.value + " " * size_bytes


def is_to_hang(plan: str) -> bool:
    """Whether this attempt never comes to an end by itself."""
    return plan[min(current_job().attempt, len(plan)) - 1] == "h"


async def run_coroutine(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    """Wait, then come to what the plan says."""
    with attempt_at(call) as body:
        await trio.sleep(1000 if is_to_hang(plan) else seconds)
        return come_to(body, call, plan, size_bytes)


@task("faults.coroutine", **POLICY)
async def coroutine(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    return await run_coroutine(call, plan, seconds, size_bytes)


@task("faults.once", delivery="at-most-once")
async def once(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    return await run_coroutine(call, "s", seconds, size_bytes)


@task("faults.limited", **POLICY, limit=LIMIT)
async def limited(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    return await run_coroutine(call, plan, seconds, size_bytes)


@task("faults.on_asyncio", **POLICY, executor="asyncio")
async def on_asyncio(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    import asyncio

    with attempt_at(call) as body:
        await asyncio.sleep(seconds)
        return come_to(body, call, plan, size_bytes)


@task("faults.thread", **POLICY)
def thread(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    with attempt_at(call, is_reachable=False) as body:
        time.sleep(seconds)
        return come_to(body, call, plan, size_bytes)


@task("faults.process", **POLICY, executor="process")
def process(call: str, plan: str, seconds: float, size_bytes: int) -> str:
    with attempt_at(call) as body:
        time.sleep(seconds)
        return come_to(body, call, plan, size_bytes)


@task("faults.probe", queue="probe")
async def probe() -> int:
    """What is asked of a cluster, to know whether it works again."""
    return os.getpid()


@task("faults.ballast", queue="probe")
async def ballast(what: bytes) -> int:
    """What takes up room."""
    return len(what)
