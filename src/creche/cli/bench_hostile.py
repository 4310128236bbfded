"""What other peers have of a peer that means harm: how long their jobs take meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from creche.cli import bench_tasks
from creche.cli.bench_attacks import ATTACKS
from creche.cli.bench_load import QUIET
from creche.cli.cluster import READY_S, running_plane, running_worker, wait_for_workers
from creche.cli.connection import open_client
from creche.cli.cost import cpu_s, rss_bytes
from creche.cli.statistics import percentile, percentiles_ms
from creche.client.client import Client
from creche.pipe import environment

WARM_UP = 200
BEGIN_S = 1.5
"""How long an attack goes on before its effect is measured, and how long the plane has after it."""

ROUND_TRIP_S = 60.0
MOST = 2.0
"""How many times as long as without an attack a job may take under one, at the median."""

END_S = 10.0


async def measure_hostile(
    folder: Path, round_trips: int, store: str, names: Sequence[str] = tuple(ATTACKS)
) -> dict[str, Any]:
    """Measure *round_trips* jobs, one after the other, under each attack, and before and after."""
    attacks: dict[str, Any] = {}
    tasks = ("--task-modules", "creche.cli.bench_tasks")
    async with (
        running_plane(folder, "--store", store, *QUIET) as plane,
        running_worker(folder, "--connect", plane.url, *tasks),
        open_client(plane.url, 30.0) as client,
    ):
        await wait_for_workers(client, 1, folder)
        await _round_trips(client, WARM_UP)
        quiet = await _round_trips(client, round_trips)
        quiet_ms = percentiles_ms(quiet)
        for name in names:
            async with _attacked(name, plane.url):
                await trio.sleep(BEGIN_S)
                used = cpu_s(plane.pid)
                began = time.perf_counter()
                under = await _round_trips(client, round_trips)
                took_s = time.perf_counter() - began
                after = cpu_s(plane.pid)
            await trio.sleep(BEGIN_S)
            later = await _round_trips(client, round_trips)
            usual = [*quiet, *later]
            quiet = later
            share = None if used is None or after is None else round((after - used) / took_s, 2)
            attacks[name] = {
                **{key: _ratio(usual, under, key) for key in ("p50", "p99")},
                "ms": percentiles_ms(under),
                "plane_cpu": share,
                "plane_rss_mib": _mib(rss_bytes(plane.pid)),
            }
    slow = [name for name, figures in attacks.items() if figures["p50"] > MOST]
    return {
        "hostile": round_trips,
        "store": store,
        "quiet_ms": quiet_ms,
        "attacks": attacks,
        "slower": len(slow),
    }


def _ratio(usual: Sequence[float], under: Sequence[float], key: str) -> float:
    share = int(key[1:]) / 100
    return round(percentile(under, share) / percentile(usual, share), 2)


def _mib(size: int | None) -> int | None:
    return None if size is None else size // (1024 * 1024)


async def _round_trips(client: Client, number: int) -> list[float]:
    took_s = []
    for i in range(number):
        began = time.perf_counter()
        result = await (await client.submit(bench_tasks.echo, i)).result(ROUND_TRIP_S)
        took_s.append(time.perf_counter() - began)
        if result != i:
            raise AssertionError(f"job {i} resulted in {result!r}")
    return took_s


@asynccontextmanager
async def _attacked(name: str, url: str) -> AsyncIterator[None]:
    """Have one process attack the plane while the block runs."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "creche.cli.bench_attacks", name, url],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(READY_S):
            await process.stdout.receive_some()
        yield
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(END_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
