"""`creche workers`: who runs jobs, and how many each of them runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeAlias

import trio
from cyclopts import App, Parameter

from creche.cli.connection import ask, open_client
from creche.cli.exits import Exit
from creche.cli.options import FLAG, HERE, Address, Connect, CountOrNone, Json, SecondsOrNone
from creche.cli.output import print_json, say
from creche.cli.table import Column, Narrow, Row, cell, moment_cell, print_table
from creche.client.client import Client
from creche.errors import SettingsError

LOOK_S = 0.2
"""How often a command that waits for workers looks at them."""

WorkerNames: TypeAlias = Annotated[
    str,
    Parameter(help="The workers' names.", metavar="WORKER", show_env_var=False),
]
All: TypeAlias = Annotated[
    bool, FLAG, Parameter(name="--all", help="All workers.", show_env_var=False)
]
Wait: TypeAlias = Annotated[
    SecondsOrNone | None,
    Parameter(help="Wait until that is done, for so many seconds at the most.", show_env_var=False),
]

app = App(name="workers", help="List, drain, resize and stop workers.")


def _running(row: Row) -> str:
    running = row.get("running")
    return str(len(running)) if isinstance(running, list) else str(running or 0)


_COLUMNS = (
    Column("WORKER", cell("name")),
    Column("STATE", cell("state")),
    Column("QUEUES", cell("queues"), 1, Narrow.CUT),
    Column("RUNNING", _running, is_number=True),
    Column("SLOTS", cell("slots"), is_number=True),
    Column("LENT", cell("lent"), 5, is_number=True),
    Column("HOST", cell("host"), 3, Narrow.CUT),
    Column("PID", cell("pid"), 4, is_number=True),
    Column("SINCE", moment_cell("since"), 2),
)


@app.command(name="ls")
async def ls(*, connect: Connect = HERE, as_json: Json = False) -> int:
    """List the workers that are connected, or away for less than their grace."""
    answer = await ask(connect, "workers")
    if as_json:
        print_json(answer)
    else:
        print_table(_COLUMNS, answer["workers"], empty="no workers")
        if left_out := answer["workers_left_out"]:
            say("", f"and {left_out:,} more workers, by name behind these")
    return Exit.DONE


@app.command(usage="Usage: creche workers drain [OPTIONS] WORKER...")
async def drain(
    *workers: WorkerNames, every: All = False, wait: Wait = None, connect: Connect = HERE
) -> int:
    """Have workers take nothing new and stay; what runs goes on, what has not begun goes back.

    It holds until `creche workers resume`, or until the worker is started anew.
    """
    return await _tell(workers, every, connect, {"slots": 0}, wait, _has_nothing, "drained")


@app.command(usage="Usage: creche workers resume [OPTIONS] WORKER...")
async def resume(*workers: WorkerNames, every: All = False, connect: Connect = HERE) -> int:
    """Have workers run as many jobs at a time as they were started for."""
    return await _tell(workers, every, connect, {"slots": None})


@app.command
async def resize(
    worker: Annotated[str, Parameter(help="The worker's name.", show_env_var=False)],
    slots: Annotated[CountOrNone, Parameter(help="How many.", show_env_var=False)],
    /,
    *,
    connect: Connect = HERE,
) -> int:
    """Have a worker run so many jobs at a time, until it is started anew; what runs goes on."""
    return await _tell([worker], False, connect, {"slots": slots})


@app.command(usage="Usage: creche workers stop [OPTIONS] WORKER...")
async def stop(
    *workers: WorkerNames, every: All = False, wait: Wait = None, connect: Connect = HERE
) -> int:
    """Have workers take nothing new and leave when their jobs are done, as SIGTERM does.

    A plane's local workers are started again: that makes it a restart.
    """
    return await _tell(workers, every, connect, {"leave": True}, wait, _is_another, "left")


async def _tell(
    names: Collection[str],
    every: bool,
    where: Address,
    command: dict[str, Any],
    wait_s: float | None = None,
    is_done: Callable[[Row, Row | None], bool] | None = None,
    came_to: str = "",
) -> Exit:
    """Tell workers, and wait for each if that is wanted. The first that is not known ends it, and
    nobody was told then. One that leaves is to take jobs again in vain."""
    if every == bool(names):
        raise SettingsError("which workers? name them, or say --all alone")
    async with open_client(where) as client:
        for name in names:
            await client.ask("work", {"worker": name})  # one that is not there is refused
        told: dict[str, Row] = {}
        for name in await _look(client) if every else names:
            told[name] = await client.ask("set-worker", {"worker": name, **command})
        leaving = [name for name, row in told.items() if row["state"] == "leaving"]
        if leaving and command.get("slots", 0) != 0:
            say("error", f"leaving, and taking nothing any more: {', '.join(leaving)}")
            return Exit.FAILED
        what = "1 worker was told" if len(told) == 1 else f"{len(told):,} workers were told"
        say("", what)
        if wait_s is None or is_done is None:
            return Exit.DONE
        left = list(told)
        with trio.move_on_after(wait_s):
            while left:
                now = await _look(client)
                left = [name for name in left if not is_done(told[name], now.get(name))]
                if left:
                    await trio.sleep(LOOK_S)
        if not left:
            say("", f"{came_to}: {', '.join(told)}")
            return Exit.DONE
        say("warning", f"not done within {wait_s:g} s, and going on: {', '.join(left)}")
        return Exit.WAITED_OUT


async def _look(client: Client) -> dict[str, Row]:
    answer = await client.ask("workers")
    return {row["name"]: row for row in answer["workers"]}


def _has_nothing(before: Row, now: Row | None) -> bool:
    return now is None or not (now["running"] or now["look_ahead"])


def _is_another(before: Row, now: Row | None) -> bool:
    return now is None or now["since"] != before["since"] or now["pid"] != before["pid"]
