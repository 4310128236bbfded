"""`creche bench`: figures of this machine, from real processes."""

from __future__ import annotations

import os
import platform
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from creche.cli.bench_hostile import measure_hostile
from creche.cli.bench_life import measure_cancel, measure_due, measure_kill
from creche.cli.bench_load import USUAL_JOBS, Executor, Mode, measure
from creche.cli.bench_rest import measure_backlog, measure_idle
from creche.cli.exits import Exit
from creche.cli.options import Count, Json, Seconds
from creche.cli.output import print_facts, print_json, say
from creche.cli.processes import unless_terminated
from creche.errors import SettingsError
from creche.store.urls import parse_store_url

# None of these comes from the environment or a file: a bench must never meet the store of a plane
# that this shell happens to be set up for.
_Own = Parameter(show_env_var=False)


async def bench(
    *,
    mode: Annotated[Mode, _Own] = "bulk",
    jobs: Annotated[Count | None, _Own] = None,
    store: Annotated[str, _Own, Parameter(metavar="STORE")] = "sqlite:bench.db",
    executor: Annotated[Executor, _Own] = "thread",
    backlog: Annotated[Count | None, _Own] = None,
    idle: Annotated[Seconds | None, _Own] = None,
    due: Annotated[Count | None, _Own] = None,
    cancel: Annotated[Count | None, _Own] = None,
    kill: Annotated[Count | None, _Own] = None,
    hostile: Annotated[Count | None, _Own] = None,
    as_json: Json = False,
) -> int:
    """Measure this machine: jobs a second, latency, CPU a job.

    Runs a plane with its store, one worker, and one client, as processes. Every result is checked;
    the exit code is 1 if one was lost, wrong, or made twice.

    Args:
        mode: single: one submit call a job, many in flight. bulk: submit_many.
        jobs: How many; when not given, some seconds of work.
        store: sqlite:PATH or memory:. The file is made in a temporary folder, beside PATH if that
            names a folder, and removed in the end.
        executor: Run tasks in threads or processes (def), or on the worker's loop (async def).
        backlog: Measure something else: the plane's memory for so many queued jobs, and for so many
            delayed ones, and how long it takes to start again with them.
        idle: Measure something else: the CPU of plane, store and worker, with nothing to do for so
            many seconds.
        due: Measure something else: how late so many jobs begin that are due within one second.
        cancel: Measure something else: how long it takes to cancel so many running jobs at once.
        kill: Measure something else: how long after its time limit a body in C code is gone, so
            many times.
        hostile: Measure something else: how long so many jobs take, one after the other, while
            peers that mean harm do each of what they can, as ratios to the time without.
    """
    others = {"--backlog": backlog, "--idle": idle, "--due": due, "--cancel": cancel}
    others |= {"--kill": kill, "--hostile": hostile}
    asked = [name for name, value in others.items() if value is not None]
    if len(asked) > 1:
        raise SettingsError(f"{' and '.join(asked)} are two benches: ask for one at a time")
    return await unless_terminated(
        partial(
            _bench,
            mode=mode,
            jobs=jobs or USUAL_JOBS[mode],
            store=store,
            executor=executor,
            backlog=backlog,
            idle=idle,
            due=due,
            cancel=cancel,
            kill=kill,
            hostile=hostile,
            as_json=as_json,
        )
    )


async def _bench(
    *,
    mode: Mode,
    jobs: int,
    store: str,
    executor: Executor,
    backlog: int | None,
    idle: float | None,
    due: int | None,
    cancel: int | None,
    kill: int | None,
    hostile: int | None,
    as_json: bool,
) -> Exit:
    where, own = _place_of(store)
    with tempfile.TemporaryDirectory(prefix="creche-bench-", dir=where) as name:
        folder = Path(name)
        if backlog is not None:
            if parse_store_url(store).kind != "sqlite":
                raise SettingsError("--backlog needs sqlite: a memory store has only its window")
            figures = await measure_backlog(folder, backlog, own)
        elif idle is not None:
            figures = await measure_idle(folder, idle, own)
        elif due is not None:
            figures = await measure_due(folder, due, own, executor)
        elif cancel is not None:
            figures = await measure_cancel(folder, cancel, own)
        elif kill is not None:
            figures = await measure_kill(folder, kill, own)
        elif hostile is not None:
            figures = await measure_hostile(folder, hostile, own)
        else:
            figures = await measure(folder, mode=mode, jobs=jobs, store=own, executor=executor)
    figures["store"] = store
    figures |= {"python": platform.python_version(), "cpus": os.cpu_count()}
    if as_json:
        print_json(figures)
    else:
        print_facts(_facts(figures))
    bad = [name for name in ("wrong", "lost", "duplicated", "early", "late") if figures.get(name)]
    for name in bad:
        say("error", f"{figures[name]} jobs: {name}")
    if slower := figures.get("slower"):
        say("error", f"{slower} attacks made what others do take over twice as long")
    return Exit.FAILED if bad or slower else Exit.DONE


def _place_of(store: str) -> tuple[str | None, str]:
    """Return the folder in which the bench makes a folder of its own (None: where the system has
    its temporary files), and the store in there. A path says on which disk, and is itself left
    alone."""
    url = parse_store_url(store)
    if url.kind != "sqlite":
        return None, store
    folder, name = os.path.split(url.path)
    return os.path.abspath(folder) if folder else None, f"sqlite:{name}"


def _facts(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            facts += _facts(value, f"{prefix}{name} ")
        else:
            text = f"{value:,}" if isinstance(value, int | float) else str(value)
            facts.append((f"{prefix}{name}".replace("_", " "), text))
    return facts
