"""`creche demo`: real work on real input, from nothing to checked totals."""

from __future__ import annotations

import platform
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from creche.cli.cluster import running_plane, wait_for_workers
from creche.cli.connection import open_client
from creche.cli.demo_tasks import count
from creche.cli.exits import Exit
from creche.cli.options import Json
from creche.cli.output import print_facts, print_json, say
from creche.cli.processes import unless_terminated
from creche.cli.statistics import percentiles_ms
from creche.client.client import Client
from creche.errors import SettingsError

WORKERS = 2
LONE_JOBS = 200
"""Round trips one after the other, to see what a job costs when nothing else is to be done."""

PATIENCE_S = 300.0
"""How long the jobs may take together; some seconds are usual."""

_NOT_INDEXED = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


async def demo(*, as_json: Json = False) -> int:
    """Index the source files of Python's standard library, one job a file.

    Starts a plane on a free port with a store in a temporary folder and two workers, submits all
    files, and checks the totals against a plain loop over the same files. Nothing is left behind.
    """
    return await unless_terminated(partial(_demo, as_json=as_json))


async def _demo(*, as_json: bool) -> Exit:
    files = [str(path) for path in source_files(Path(sysconfig.get_path("stdlib")))]
    if not files:
        raise SettingsError("this Python has no source files of its standard library to index")
    release = platform.python_version()
    say("", f"{len(files)} source files of Python {release}'s standard library, one job a file")
    with tempfile.TemporaryDirectory(prefix="creche-demo-") as name:
        figures = await _run(Path(name), files)
    began = time.perf_counter()
    with _progress("plain loop", len(files)) as advance:
        expected = total(advance(count(path)) for path in files)
    figures |= {"loop_s": round(time.perf_counter() - began, 3), "expected": expected}
    figures["is_right"] = figures["totals"] == expected
    if as_json:
        print_json(figures)
    else:
        _print(figures)
    if not figures["is_right"]:
        say("error", f"the jobs' totals differ from the plain loop's: {expected}")
        return Exit.FAILED
    return Exit.DONE


def source_files(root: Path) -> Iterator[Path]:
    """Yield the standard library's source files in order, without its tests (some of which are
    broken on purpose, and which not every system installs) and without what others have installed
    there."""
    for path in sorted(root.rglob("*.py")):
        if not _NOT_INDEXED & set(path.relative_to(root).parts):
            yield path


def total(rows: Iterator[Sequence[int]]) -> dict[str, int]:
    """Add up what `index` returns for each file."""
    lines = functions = classes = 0
    for row in rows:
        lines += row[0]
        functions += row[1]
        classes += row[2]
    return {"lines": lines, "functions": functions, "classes": classes}


async def _run(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    options = ("--store", "sqlite:demo.db", "--workers", str(WORKERS), "--concurrency", "2")
    async with running_plane(folder, *options, "--task-modules", "creche.cli.demo_tasks") as plane:
        say("", f"plane {plane.url}, store {folder / 'demo.db'}, {WORKERS} workers")
        async with open_client(plane.url, 30.0) as client:
            await wait_for_workers(client, WORKERS, folder)
            with trio.fail_after(PATIENCE_S):
                figures = await _index(client, files)
                figures["lone_ms"] = percentiles_ms(await _lone_jobs(client, files))
    return figures


async def _index(client: Client, files: Sequence[str]) -> dict[str, Any]:
    began = trio.current_time()
    rows: list[list[int]] = []
    took_s: list[float] = []
    with _progress("indexing", len(files)) as advance:
        handles = await client.submit_many("index", [(path,) for path in files])
        async for handle in client.as_completed(handles):
            rows.append(advance(await handle.result()))
            took_s.append(trio.current_time() - began)
    seconds = trio.current_time() - began
    return {
        "jobs": len(files),
        "seconds": round(seconds, 3),
        "jobs_per_s": round(len(files) / seconds, 1),
        "latency_ms": percentiles_ms(took_s),
        "totals": total(iter(rows)),
    }


async def _lone_jobs(client: Client, files: Sequence[str]) -> list[float]:
    smallest = min(files, key=lambda path: Path(path).stat().st_size)
    took_s = []
    for _ in range(LONE_JOBS):
        began = time.perf_counter()
        handle = await client.delay("index", smallest)
        await handle.result()
        took_s.append(time.perf_counter() - began)
    return took_s


@contextmanager
def _progress(what: str, number: int) -> Iterator[Callable[[list[int]], list[int]]]:
    """Show a bar on stderr while the block runs, if that is a terminal. Yields a function that lets
    a result pass and moves the bar on."""
    if not sys.stderr.isatty():
        yield lambda row: row
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        shown = bar.add_task(what, total=number)

        def advance(row: list[int]) -> list[int]:
            bar.advance(shown)
            return row

        yield advance


def _print(figures: dict[str, Any]) -> None:
    totals = figures["totals"]
    number, seconds = figures["jobs"], figures["seconds"]
    verdict = "the same totals" if figures["is_right"] else "OTHER totals"
    print_facts(
        [
            ("totals", ", ".join(f"{number:,} {what}" for what, number in totals.items())),
            ("jobs", f"{number:,} in {seconds:.2f} s: {number / seconds:,.0f} a second"),
            ("latency", f"{_text(figures['latency_ms'])} (all submitted at once)"),
            ("", f"{_text(figures['lone_ms'])} ({LONE_JOBS} one after the other)"),
            ("plain loop", f"{figures['loop_s']:.2f} s, {verdict}"),
        ]
    )


def _text(percentiles: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:,.1f} ms" for name, ms in percentiles.items())
