"""`creche workers ls`: who runs jobs."""

from __future__ import annotations

from cyclopts import App

from creche.cli.connection import ask
from creche.cli.exits import Exit
from creche.cli.options import DEFAULT_URL, Connect, Json
from creche.cli.output import print_json, say
from creche.cli.table import Column, Narrow, Row, cell, moment_cell, print_table

app = App(name="workers", help="List workers.")


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
async def ls(*, connect: Connect = DEFAULT_URL, as_json: Json = False) -> int:
    """List the workers that are connected, or away for less than their grace."""
    answer = await ask(connect, "workers")
    if as_json:
        print_json(answer)
    else:
        print_table(_COLUMNS, answer["workers"], empty="no workers")
        if left_out := answer["workers_left_out"]:
            say("", f"and {left_out:,} more workers, by name behind these")
    return Exit.DONE
