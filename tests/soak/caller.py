"""A client that submits all kinds of jobs: `python -m tests.soak.caller URL NAME JOBS PER_S`."""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import trio
from tests.faults.caller import while_parent_lives
from tests.soak import tasks

from creche import Client, JobHandle
from creche.errors import CrecheError

SIZES = (*[10] * 12, 1000, 1000, 1000, 50_000)
"""Bytes of arguments that are also the result."""

AT_A_TIME = 200
"""Jobs of one client that are on their way."""


def command(name: str, url: str, *, jobs: int, per_s: float) -> list[str]:
    """Return the words that start such a client; 0 jobs: without end."""
    return [sys.executable, "-P", "-m", "tests.soak.caller", url, name, f"{jobs}", f"{per_s}"]


class Caller:
    """Submits what is drawn, and waits for what comes of it."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._rng = Random(name)

    async def call(self, n: int) -> None:
        """Submit one job and see it to its end, whatever that is."""
        with suppress(CrecheError):
            job = await self._submit(n)
            if self._rng.random() < 0.05:
                await job.status()
            await job.result(timeout=60)

    async def _submit(self, n: int) -> JobHandle[Any]:
        rng, submit = self._rng, self._client.submit
        kind = rng.randrange(100)
        if kind < 40:
            return await submit(tasks.coroutine, n, bytes(rng.choice(SIZES)))
        if kind < 50:
            return await submit(tasks.thread, n)
        if kind < 53:
            return await submit(tasks.process, n)
        if kind < 60:
            return await submit(tasks.on_asyncio, n)
        if kind < 67:
            return await submit(tasks.once, n)
        if kind < 69:
            return await submit(tasks.too_long, n)
        if kind < 73:
            return await submit(tasks.fails, n)
        if kind < 80:
            return await submit(tasks.limited, f"{self._name} {n % 500}")
        if kind < 85:
            return await submit(tasks.unique, f"{self._name} {n // 3}")
        if kind < 88:
            return await submit(tasks.nested, n)
        if kind < 92:
            key = f"{self._name} {n // 2}"
            return await submit(tasks.once.with_options(idempotency_key=key), n)
        if kind < 96:
            return await submit(tasks.once.with_options(countdown=rng.uniform(0.1, 5)), n)
        job = await submit(tasks.sleeps)
        await trio.sleep(rng.uniform(0, 0.5))
        await job.cancel("enough")
        return job


async def main(url: str, name: str, jobs: int, per_s: float) -> None:
    """Be a client."""
    room = trio.Semaphore(AT_A_TIME)
    async with Client(url, name=name) as client, trio.open_nursery() as nursery:
        caller = Caller(client, name)

        async def one(n: int) -> None:
            try:
                await caller.call(n)
            finally:
                room.release()

        began = trio.current_time()
        for n in range(1, jobs + 1) if jobs else itertools.count(1):
            await room.acquire()
            nursery.start_soon(one, n)
            await trio.sleep_until(began + n / per_s)


if __name__ == "__main__":
    url, name, jobs, per_s = sys.argv[1:]
    trio.run(while_parent_lives, partial(main, url, name, int(jobs), float(per_s)))
