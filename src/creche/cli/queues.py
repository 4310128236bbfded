"""`creche queues ls`: lanes, as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cyclopts import App

from creche.cli.connection import ask
from creche.cli.exits import Exit
from creche.cli.options import DEFAULT_URL, Connect, Json
from creche.cli.output import print_json, say
from creche.cli.table import Column, Narrow, Row, cell, print_table

app = App(name="queues", help="List queues and their lanes.")

_COLUMNS = (
    Column("QUEUE", cell("queue"), narrow=Narrow.FOLDED),
    Column("PRIORITY", cell("priority")),
    Column("PARKED", cell("parked"), 1, Narrow.CUT),
    Column("READY", cell("ready"), is_number=True),
    Column("STORED", cell("stored"), is_number=True),
    Column("DELAYED", cell("delayed"), 3, is_number=True),
    Column("WINDOW", cell("window"), 2, is_number=True),
)


@app.command(name="ls")
async def ls(*, connect: Connect = DEFAULT_URL, as_json: Json = False) -> int:
    """List every lane: the jobs of one queue and one priority, and those parked apart.

    READY is how many are in memory (WINDOW is the room for them), STORED how many wait beyond that
    in the store, DELAYED how many wait for their time. With --json each lane has its memory
    channel's statistics as well.
    """
    answer = await ask(connect, "queues")
    if as_json:
        print_json(answer)
    else:
        print_table(_COLUMNS, _lanes(answer["queues"]), empty="no queues yet: none was used")
        if left_out := answer["lanes_left_out"]:
            say("", f"and {left_out:,} more lanes, by name behind these")
    return Exit.DONE


def _lanes(queues: list[dict[str, Any]]) -> Iterator[Row]:
    for queue in queues:
        for lane in queue["lanes"]:
            yield {"queue": queue["queue"], **lane}
