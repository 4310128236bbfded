"""All kinds of jobs, for a soak."""

from __future__ import annotations

import asyncio
import time

import trio

from creche import Schedule, Snooze, Unique, current_job, task


@task("soak.coroutine", retries=2, backoff=0.1)
async def coroutine(n: int, what: bytes = b"") -> bytes:
    job = current_job()
    await trio.sleep(0.01)
    if n % 11 == 0 and job.attempt == 1:
        raise ValueError("not yet")
    if n % 13 == 0 and job.fence[1] == 1:
        raise Snooze(0.2)
    return what


@task("soak.thread")
def thread(n: int) -> int:
    time.sleep(0.01)
    return n


@task("soak.process", executor="process")
def process(n: int) -> int:
    return n


@task("soak.on_asyncio", executor="asyncio")
async def on_asyncio(n: int) -> int:
    await asyncio.sleep(0.01)
    return n


@task("soak.once", delivery="at-most-once")
async def once(n: int) -> int:
    return n


@task("soak.too_long", timeout=0.2)
async def too_long(n: int) -> None:
    await trio.sleep_forever()


@task("soak.fails")
async def fails(n: int) -> None:
    raise LookupError(f"number {n}")


@task("soak.limited", limit=2, key="whose", rate="100/s")
async def limited(whose: str) -> str:
    await trio.sleep(0.01)
    return whose


@task("soak.unique", unique=Unique("whose"))
async def unique(whose: str) -> str:
    await trio.sleep(0.05)
    return whose


@task("soak.nested")
async def nested(n: int) -> int:
    """Wait for a job of its own."""
    return await (await current_job().delay(once, n)).result()


@task("soak.sleeps")
async def sleeps() -> None:
    """Be there to be cancelled."""
    await trio.sleep(30)


@task("soak.tick", schedule=Schedule(every=1.0))
async def tick() -> None:
    """What the plane submits by itself."""
