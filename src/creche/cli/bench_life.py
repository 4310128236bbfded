"""How late delayed jobs begin, how long cancelling takes, and killing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import trio

from creche.cli import bench_tasks
from creche.cli.bench_load import IN_FLIGHT, QUIET, Executor
from creche.cli.cluster import running_plane, running_worker, wait_for_workers
from creche.cli.connection import open_client
from creche.cli.statistics import percentiles_ms
from creche.client.client import Client
from creche.errors import JobCancelled, JobFailed
from creche.peer.handle import JobHandle
from creche.tasks.task import Task

WITHIN_S = 1.0
"""All delayed jobs are due within so long."""

LEAD_S, LEAD_PER_JOB_S = 3.0, 0.0005
"""How far off the first is due when they are submitted, so that all are there before."""

WORKERS = 2
"""Workers that cancelled jobs run on."""

PATIENCE_S = 60.0

GONE_WITHIN_S = 1.0
"""How long after its limit a body must be gone."""


_LATENESS = {
    "thread": bench_tasks.lateness,
    "coroutine": bench_tasks.lateness_async,
    "process": bench_tasks.lateness_process,
}


async def measure_due(folder: Path, jobs: int, store: str, executor: Executor) -> dict[str, Any]:
    """Have *jobs* jobs due within one second, and return how late their bodies began."""
    lateness = _LATENESS[executor]
    tasks = ("--task-modules", "creche.cli.bench_tasks")
    async with (
        running_plane(folder, "--store", store, *QUIET) as plane,
        running_worker(folder, "--connect", plane.url, *tasks),
        open_client(plane.url, 30.0) as client,
    ):
        await wait_for_workers(client, 1, folder)
        first_at = time.time() + LEAD_S + jobs * LEAD_PER_JOB_S
        handles = await _submit_later(client, lateness, jobs, first_at)
        spare_s = first_at - time.time()
        with trio.fail_after(spare_s + PATIENCE_S):
            late_s = [await handle.result() for handle in handles]
    return {
        "due": jobs,
        "store": store,
        "executor": executor,
        "spare_s": round(spare_s, 3),
        "lag_ms": percentiles_ms([max(late, 0.0) for late in late_s]),
        "early": sum(late < 0 for late in late_s),
        "lost": jobs - len(late_s),
    }


async def _submit_later(
    client: Client, lateness: Task[[float], float], jobs: int, first_at: float
) -> list[JobHandle[float]]:
    """Submit one job after the other, many calls at a time, each for a moment of its own."""
    handles: list[JobHandle[float]] = []
    numbers = count()

    async def call_after_call() -> None:
        while (i := next(numbers)) < jobs:
            due_at = first_at + WITHIN_S * i / jobs
            eta = datetime.fromtimestamp(due_at, UTC)
            task = lateness.with_options(eta=eta)
            handles.append(await client.submit(task, eta.timestamp()))

    async with trio.open_nursery() as nursery:
        for _ in range(min(IN_FLIGHT, jobs)):
            nursery.start_soon(call_after_call)
    return handles


async def measure_cancel(folder: Path, jobs: int, store: str) -> dict[str, Any]:
    """Cancel *jobs* coroutine jobs that run on two workers, each by a call of its own, all at once;
    return how long each took from the call until it was over."""
    tasks = ("--task-modules", "creche.cli.bench_tasks")
    slots = ("--concurrency", str(-(-jobs // WORKERS)))
    took_s: list[float] = []
    async with running_plane(folder, "--store", store, *QUIET) as plane:
        connect = ("--connect", plane.url, *tasks, *slots)
        async with (
            running_worker(folder, "--worker-id", "one", *connect),
            running_worker(folder, "--worker-id", "two", *connect),
            open_client(plane.url, 30.0) as client,
        ):
            await wait_for_workers(client, WORKERS, folder)
            handles = await client.submit_many(bench_tasks.sleep, [(3600.0,)] * jobs)
            await _until_running(client, jobs)

            async def cancel(handle: JobHandle[None]) -> None:
                began = time.perf_counter()
                await handle.cancel()
                try:
                    await handle.result()
                except JobCancelled:
                    took_s.append(time.perf_counter() - began)

            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    for handle in handles:
                        nursery.start_soon(cancel, handle)
                # All slots are free: as many jobs find room at once.
                again = await client.submit_many(bench_tasks.sleep, [(0.0,)] * jobs)
                for other in again:
                    await other.result()
    return {
        "cancelled": len(took_s),
        "store": store,
        "cancel_ms": percentiles_ms(took_s),
        "lost": jobs - len(took_s),
    }


async def measure_kill(folder: Path, rounds: int, store: str) -> dict[str, Any]:
    """Have *rounds* bodies run into their limit in C code, one after the other on one slot, each
    followed by a job that has to succeed; return how long after its limit each was gone."""
    tasks = ("--task-modules", "creche.cli.bench_tasks", "--concurrency", "1")
    over_s: list[float] = []
    wrong = 0
    limit_s = bench_tasks.grind.limits.timeout_s or 0.0
    async with (
        running_plane(folder, "--store", store, *QUIET) as plane,
        running_worker(folder, "--connect", plane.url, *tasks),
        open_client(plane.url, 30.0) as client,
    ):
        await wait_for_workers(client, 1, folder)
        for n in range(rounds):
            with trio.fail_after(PATIENCE_S):
                job = await client.submit(bench_tasks.grind)
                try:
                    await job.result()
                except JobFailed as failure:
                    wrong += not failure.type.endswith("JobTimedOut")
                following = await client.submit(bench_tasks.echo_process, n)
                wrong += await following.result() != n
                record = await client.ask("job", {"id": job.id_bytes})
                over_s.append(record["ended_at"] - record["started_at"] - limit_s)
    return {
        "killed": len(over_s),
        "store": store,
        "gone_after_limit_ms": percentiles_ms(over_s) | {"most": round(max(over_s) * 1000, 1)},
        "late": sum(over > GONE_WITHIN_S for over in over_s),
        "wrong": wrong,
        "lost": rounds - len(over_s),
    }


async def _until_running(client: Client, jobs: int) -> None:
    with trio.fail_after(PATIENCE_S):
        # Leases are written a moment after they were given: nothing tells of that by itself.
        while (await client.ask("health"))["jobs"].get("running", 0) < jobs:  # noqa: ASYNC110
            await trio.sleep(0.05)
