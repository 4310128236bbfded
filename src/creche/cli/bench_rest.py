"""What a plane costs that has much to keep, and what it costs when there is nothing to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from creche.cli import bench_tasks
from creche.cli.bench_load import QUIET
from creche.cli.cluster import running_plane, running_worker, wait_for_workers
from creche.cli.connection import ask, open_client
from creche.cli.cost import cpu_s, rss_bytes
from creche.cli.output import say
from creche.client.client import Client
from creche.errors import CrecheError
from creche.tasks.task import Task

CHUNK = 50_000
HEAD = 50_000
"""Jobs that are there before memory is measured first: they fill the window and what grows to its
usual size with the first load. With a smaller backlog, a half of it."""

DELAY_S = 24 * 3600.0
"""How far off the time of delayed jobs is."""

SETTLE_S = 1.0
"""Before a measurement, so that what is under way is not in it."""


async def measure_backlog(folder: Path, jobs: int, store: str) -> dict[str, Any]:
    """Queue *jobs* jobs that nobody runs: of a task that was announced, of one that never was, and
    such whose time is far off."""
    later = bench_tasks.echo.with_options(countdown=DELAY_S)
    known = await _backlog(_made(folder / "announced"), jobs, store, bench_tasks.echo)
    unknown = await _backlog(_made(folder / "unannounced"), jobs, store, "bench.never_announced")
    delayed = await _backlog(_made(folder / "delayed"), jobs, store, later)
    return {"backlog": jobs, "store": store, **known, "unannounced": unknown, "delayed": delayed}


async def _backlog(
    folder: Path, jobs: int, store: str, task: Task[[int], int] | str
) -> dict[str, Any]:
    options = ("--store", store, *QUIET)
    head = min(HEAD, jobs // 2)
    async with running_plane(folder, *options) as plane:
        async with open_client(plane.url, 60.0) as client:
            if not isinstance(task, str):
                await _announce(client, plane.url, folder)
            began = trio.current_time()
            await _queue(client, task, 0, head)
            await trio.sleep(SETTLE_S)
            before = rss_bytes(plane.pid)
            await _queue(client, task, head, jobs)
            seconds = trio.current_time() - began - SETTLE_S
        await trio.sleep(SETTLE_S)
        after = rss_bytes(plane.pid)
    name = task if isinstance(task, str) else task.name
    say("", f"queued {jobs:,} jobs of {name}; starting the plane again")
    async with running_plane(folder, *options) as plane:
        health = await ask(plane.url, "health", 10.0)
        queued = sum(health["jobs"].values())
        if queued != jobs:
            raise CrecheError(f"{jobs:,} jobs were accepted and {queued:,} are there")
        return {
            "bytes_per_job": _per_job(before, after, jobs - head),
            "rss_bytes": after,
            "submit_per_s": round(jobs / seconds, 1),
            "restart_s": round(plane.ready_s, 3),
            "queued": queued,
        }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _per_job(before: int | None, after: int | None, jobs: int) -> float | None:
    if before is None or after is None or jobs < 1:
        return None
    return round((after - before) / jobs, 2)


async def _announce(client: Client, url: str, folder: Path) -> None:
    """Have a worker say what it can run, and go."""
    async with running_worker(folder, "--connect", url, "--task-modules", "creche.cli.bench_tasks"):
        await wait_for_workers(client, 1, folder)


async def _queue(client: Client, task: Task[[int], int] | str, first: int, end: int) -> None:
    for start in range(first, end, CHUNK):
        calls = [(i,) for i in range(start, min(start + CHUNK, end))]
        await client.submit_many(task, calls, watch=False)


async def measure_idle(folder: Path, seconds: float, store: str) -> dict[str, Any]:
    """Return what a plane and a worker use of a core while nothing is to be done."""
    async with (
        running_plane(folder, "--store", store, *QUIET) as plane,
        running_worker(
            folder, "--connect", plane.url, "--task-modules", "creche.cli.bench_tasks"
        ) as worker_pid,
    ):
        async with open_client(plane.url) as client:
            await wait_for_workers(client, 1, folder)
            store_pid = (await client.ask("store")).get("pid")
        await trio.sleep(SETTLE_S)
        pids = {"plane": plane.pid, "store": store_pid, "worker": worker_pid}
        before = {name: _cpu(pid) for name, pid in pids.items()}
        began = trio.current_time()
        await trio.sleep(seconds)
        took_s = trio.current_time() - began
        used = {name: _share(before[name], _cpu(pid), took_s) for name, pid in pids.items()}
    known = [share for share in used.values() if share is not None]
    total = round(sum(known), 3) if len(known) == len(used) else None
    return {"idle_s": seconds, "store": store, "cpu_percent": {**used, "total": total}}


def _cpu(pid: int | None) -> float | None:
    return 0.0 if pid is None else cpu_s(pid)


def _share(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else round((after - before) / seconds * 100, 3)
