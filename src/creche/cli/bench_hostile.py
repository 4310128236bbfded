"""What other peers have of a peer that means harm: how long their jobs take meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio

from creche.cli import bench_tasks
from creche.cli.bench_attacks import ATTACKS
from creche.cli.bench_load import QUIET
from creche.cli.cluster import READY_S, running_plane, running_worker, wait_for_workers
from creche.cli.connection import open_client
from creche.cli.cost import cpu_s, rss_bytes
from creche.cli.output import say
from creche.cli.statistics import percentile, percentiles_ms
from creche.client.client import Client
from creche.pipe import environment

WARM_UP = 200
BEGIN_S = 1.5
"""How long an attack goes on before its effect is measured, and how long the plane has after it."""

ROUND_TRIP_S = 60.0
MOST = 2.0
"""How many times as long as without an attack a job, or a question, may take under one, at the
median."""

KEPT, KEPT_S = 9_000, 24 * 3600
"""Jobs that wait for their time all the while, so that there is something to search."""

ASK_EVERY_S = 0.1
LEAST_ASKED = 20
"""Questions that are asked while jobs are measured, and how many at the least."""

END_S = 10.0


async def measure_hostile(
    folder: Path, round_trips: int, store: str, names: Sequence[str] = tuple(ATTACKS)
) -> dict[str, Any]:
    """Measure *round_trips* jobs, one after the other, and questions beside them, under each
    attack, and before and after."""
    attacks: dict[str, Any] = {}
    tasks = ("--task-modules", "creche.cli.bench_tasks")
    async with (
        running_plane(folder, "--store", store, *QUIET) as plane,
        running_worker(folder, "--connect", plane.url, *tasks),
        open_client(plane.url, 30.0) as client,
        open_client(plane.url, ROUND_TRIP_S) as asker,
    ):
        await wait_for_workers(client, 1, folder)
        kept = bench_tasks.echo.with_options(countdown=KEPT_S, priority="low")
        await client.submit_many(kept, [(i,) for i in range(KEPT)], watch=False)
        await _measure(client, asker, WARM_UP)
        quiet = await _measure(client, asker, round_trips)
        quiet_ms = quiet.ms()
        for name in names:
            async with _attacked(name, plane.url):
                await trio.sleep(BEGIN_S)
                used = cpu_s(plane.pid)
                began = time.perf_counter()
                under = await _measure(client, asker, round_trips)
                took_s = time.perf_counter() - began
                after = cpu_s(plane.pid)
            await trio.sleep(BEGIN_S)
            later = await _measure(client, asker, round_trips)
            usual = Took([*quiet.jobs_s, *later.jobs_s], [*quiet.asked_s, *later.asked_s])
            quiet = later
            share = None if used is None or after is None else round((after - used) / took_s, 2)
            attacks[name] = {
                **{key: _ratio(usual.jobs_s, under.jobs_s, key) for key in ("p50", "p99")},
                "asked_p50": _ratio(usual.asked_s, under.asked_s, "p50"),
                **under.ms(),
                "plane_cpu": share,
                "plane_rss_mib": _mib(rss_bytes(plane.pid)),
            }
            # All of them take minutes, and who stops here has seen the ones that were measured.
            say("", _told(name, attacks[name]))
    slow = [name for name, one in attacks.items() if max(one["p50"], one["asked_p50"]) > MOST]
    return {
        "hostile": round_trips,
        "store": store,
        "quiet": quiet_ms,
        "attacks": attacks,
        "slower": len(slow),
    }


class Took(NamedTuple):
    """How long jobs and questions took, each."""

    jobs_s: list[float]
    asked_s: list[float]

    def ms(self) -> dict[str, Any]:
        """Return what is shown of it."""
        return {"ms": percentiles_ms(self.jobs_s), "asked_ms": percentiles_ms(self.asked_s)}


def _told(name: str, one: Mapping[str, Any]) -> str:
    return f"{name}: jobs take {one['p50']:g} times as long, questions {one['asked_p50']:g} times"


def _ratio(usual: Sequence[float], under: Sequence[float], key: str) -> float:
    share = int(key[1:]) / 100
    return round(percentile(under, share) / percentile(usual, share), 2)


def _mib(size: int | None) -> int | None:
    return None if size is None else size // (1024 * 1024)


async def _measure(client: Client, asker: Client, number: int) -> Took:
    """Run so many jobs, one after the other, while another client asks one question after the
    other."""
    took = Took([], [])
    has_run = trio.Event()

    async def ask() -> None:
        while not has_run.is_set() or len(took.asked_s) < LEAST_ASKED:
            began = time.perf_counter()
            await asker.ask("jobs", {"limit": 10})
            took.asked_s.append(time.perf_counter() - began)
            await trio.sleep(ASK_EVERY_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for i in range(number):
            began = time.perf_counter()
            result = await (await client.submit(bench_tasks.echo, i)).result(ROUND_TRIP_S)
            took.jobs_s.append(time.perf_counter() - began)
            if result != i:
                raise AssertionError(f"job {i} resulted in {result!r}")
        has_run.set()
    return took


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
        if process.poll() is not None:
            raise AssertionError(f"the attack {name} has ended by itself")
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(END_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
