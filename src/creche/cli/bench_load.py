"""The bench proper: how many jobs a second, how long one takes, and what it costs in CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import trio

from creche.cli import bench_tasks
from creche.cli.cluster import running_plane, running_worker, wait_for_workers
from creche.cli.connection import open_client
from creche.cli.cost import cpu_s
from creche.cli.statistics import percentiles_ms
from creche.client.client import Client
from creche.peer.handle import JobHandle
from creche.tasks.task import Task

Mode = Literal["single", "bulk"]
Executor = Literal["thread", "coroutine", "process"]

USUAL_JOBS: Mapping[Mode, int] = {"single": 30_000, "bulk": 60_000}
"""Some seconds of work where the product is as fast as it should be."""

WARM_UP = 500
ROUND_TRIPS = 300
IN_FLIGHT = 1000
"""How many calls wait at a time in single mode."""

CHUNK = 20_000
"""Jobs in one call of bulk mode."""

QUIET = ("--workers", "0", "--log-level", "warning")

SUBMIT_S = 30.0
FINISH_S = 12.0
"""A slow machine submits for this long and no longer, and waits so long for the rest: with what is
before and after, the whole ends within a minute."""


@dataclass(slots=True)
class Tally:
    """What came of the jobs."""

    submitted: int = 0
    checked: int = 0
    wrong: int = 0
    began: float = field(default_factory=time.perf_counter)
    submitted_s: float = math.nan
    """From the start to the last acceptance."""
    checked_s: float = math.nan
    """From the start to the last checked result."""

    def since(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.began

    def check(self, expected: int, result: Any) -> None:
        """Note a result."""
        if result == expected:
            self.checked += 1
        else:
            self.wrong += 1


_ECHOES = {
    "thread": bench_tasks.echo,
    "coroutine": bench_tasks.echo_async,
    "process": bench_tasks.echo_process,
}


async def measure(
    folder: Path, *, mode: Mode, jobs: int, store: str, executor: Executor
) -> dict[str, Any]:
    """Run plane, store, one worker and this process as the client; return the figures."""
    echo = _ECHOES[executor]
    async with (
        running_plane(
            folder, "--store", store, "--workers", "0", "--log-level", "warning"
        ) as plane,
        running_worker(
            folder,
            *("--connect", plane.url, "--task-modules", "creche.cli.bench_tasks"),
        ) as worker_pid,
        open_client(plane.url, 30.0) as client,
    ):
        await wait_for_workers(client, 1, folder)
        await _bulk(client, echo, -WARM_UP - ROUND_TRIPS, WARM_UP)
        round_trips = await _one_by_one(client, echo, -ROUND_TRIPS, ROUND_TRIPS)
        store_pid = (await client.ask("store")).get("pid")
        pids = {"plane": plane.pid, "store": store_pid, "worker": worker_pid}
        before = _cpu(pids)
        tally = await (_bulk if mode == "bulk" else _single)(client, echo, 0, jobs)
        after = _cpu(pids)
        counted = await (await client.submit(bench_tasks.runs)).result(10.0)
    return {
        "jobs": tally.submitted,
        "mode": mode,
        "store": store,
        "executor": executor,
        "jobs_per_s": _rate(tally.checked, tally.checked_s),
        "submit_per_s": _rate(tally.submitted, tally.submitted_s),
        "latency_ms": percentiles_ms(round_trips),
        "cpu_us_per_job": _per_job(before, after, tally.submitted),
        "checked": tally.checked,
        "wrong": tally.wrong,
        "lost": tally.submitted - tally.checked - tally.wrong,
        # Each process would only count its own.
        **({} if executor == "process" else {"duplicated": counted["again"]}),
    }


def _rate(number: int, seconds: float) -> float | None:
    return round(number / seconds, 1) if number and seconds > 0 else None


# --- three ways to submit -----------------------------------------------------------------------


async def _one_by_one(
    client: Client, echo: Task[[int], int], first: int, number: int
) -> list[float]:
    """Return how long each round trip took, from the call to the result."""
    took_s = []
    for i in range(first, first + number):
        began = time.perf_counter()
        result = await (await client.submit(echo, i)).result(30.0)
        took_s.append(time.perf_counter() - began)
        if result != i:
            raise AssertionError(f"job {i} resulted in {result!r}")
    return took_s


async def _single(client: Client, echo: Task[[int], int], first: int, number: int) -> Tally:
    """One submit call a job, many of them in flight."""
    tally = Tally()
    numbers = count(first)

    async def call_after_call() -> None:
        while (i := next(numbers)) < first + number and tally.since() < SUBMIT_S:
            handle = await client.submit(echo, i)
            tally.submitted += 1
            tally.submitted_s = tally.since()
            tally.check(i, await handle.result())
            tally.checked_s = tally.since()

    with trio.move_on_after(SUBMIT_S + FINISH_S):
        async with trio.open_nursery() as nursery:
            for _ in range(min(IN_FLIGHT, number)):
                nursery.start_soon(call_after_call)
    return tally


async def _bulk(client: Client, echo: Task[[int], int], first: int, number: int) -> Tally:
    """`submit_many`, while the results are checked as they come."""
    tally = Tally()
    sending, receiving = trio.open_memory_channel[tuple[int, list[JobHandle[int]]]](math.inf)

    async def check() -> None:
        async with receiving:
            async for start, handles in receiving:
                for i, handle in enumerate(handles, start):
                    tally.check(i, await handle.result())
                    tally.checked_s = tally.since()

    with trio.move_on_after(SUBMIT_S + FINISH_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check)
            async with sending:
                for start in range(first, first + number, CHUNK):
                    if tally.since() >= SUBMIT_S:
                        break
                    end = min(start + CHUNK, first + number)
                    handles = await client.submit_many(echo, [(i,) for i in range(start, end)])
                    tally.submitted += len(handles)
                    tally.submitted_s = tally.since()
                    await sending.send((start, handles))
    return tally


# --- CPU ----------------------------------------------------------------------------------------


def _cpu(pids: Mapping[str, int | None]) -> dict[str, float | None]:
    """Return the CPU seconds so far of each process; 0 for the memory store, which has none."""
    used = {name: 0.0 if pid is None else cpu_s(pid) for name, pid in pids.items()}
    return {**used, "client": time.process_time()}


def _per_job(
    before: Mapping[str, float | None], after: Mapping[str, float | None], jobs: int
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    total: float | None = 0.0
    for name, start in before.items():
        end = after[name]
        if start is None or end is None or not jobs:
            found[name] = total = None
            continue
        found[name] = round((end - start) / jobs * 1e6, 2)
        total = None if total is None else total + (end - start) / jobs * 1e6
    return {**found, "total": None if total is None else round(total, 2)}
