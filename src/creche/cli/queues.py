"""`creche queues`: lanes, as they are now, and what is taken from a queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from creche.cli.connection import ask
from creche.cli.exits import Exit
from creche.cli.options import FLAG, HERE, Connect, Count, Json
from creche.cli.output import print_json, say
from creche.cli.table import Column, Narrow, Row, cell, print_table
from creche.errors import SettingsError
from creche.model.flow import Rate, check_limit

QueueName: TypeAlias = Annotated[
    str, Parameter(help="The queue's name.", metavar="QUEUE", show_env_var=False)
]
New: TypeAlias = Annotated[
    bool, FLAG, Parameter(help="The queue is new: nobody has named it yet.", show_env_var=False)
]

app = App(name="queues", help="List, pause and limit queues.")

_COLUMNS = (
    Column("QUEUE", cell("queue"), narrow=Narrow.FOLDED),
    Column("PRIORITY", cell("priority")),
    Column("PARKED", cell("parked"), 2, Narrow.CUT),
    Column("STATE", cell("state"), 1, Narrow.CUT),
    Column("READY", cell("ready"), is_number=True),
    Column("STORED", cell("stored"), is_number=True),
    Column("DELAYED", cell("delayed"), 3, is_number=True),
    Column("WINDOW", cell("window"), 4, is_number=True),
)


@app.command(name="ls")
async def ls(*, connect: Connect = HERE, as_json: Json = False) -> int:
    """List every lane: the jobs of one queue and one priority, and those parked apart.

    READY is how many wait, STORED how many of them are beyond the WINDOW that is in memory,
    DELAYED how many wait for their time. STATE is paused or limited where nothing is taken, and
    what was said of the queue. With --json each lane has its memory channel's statistics as well.
    """
    answer = await ask(connect, "queues")
    if as_json:
        print_json(answer)
    else:
        print_table(_COLUMNS, lane_rows(answer["queues"]), empty="no queues yet: none was used")
        if left_out := answer["lanes_left_out"]:
            say("", f"and {left_out:,} more lanes, by name behind these")
    return Exit.DONE


@app.command
async def pause(queue: QueueName, /, *, connect: Connect = HERE, new: New = False) -> int:
    """Have nothing taken from a queue until it is resumed; what runs goes on."""
    await ask(connect, "set-queue", queue=queue, paused=True, is_new=new)
    say("", f"queue {queue} is paused; `creche queues resume {queue}` ends that")
    return Exit.DONE


@app.command
async def resume(queue: QueueName, /, *, connect: Connect = HERE) -> int:
    """Have a paused queue taken from again."""
    await ask(connect, "set-queue", queue=queue, paused=False)
    say("", f"queue {queue} is taken from")
    return Exit.DONE


@app.command
async def limit(
    queue: QueueName,
    /,
    *,
    connect: Connect = HERE,
    running: Annotated[Count | None, Parameter(show_env_var=False)] = None,
    rate: Annotated[str | None, Parameter(show_env_var=False, metavar="N/TIME")] = None,
    no_limit: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    new: New = False,
) -> int:
    """Limit what runs of a queue, on all workers together; what runs goes on.

    Args:
        running: How many of its jobs run at a time.
        rate: How many begin in a time: 10/m, 100/30s, 5000/d.
        no_limit: Take back what was said.
    """
    if no_limit == (running is not None or rate is not None):
        raise SettingsError("how much? say --running N, --rate N/TIME, or --no-limit alone")
    said: dict[str, Any] = {"limit": None, "rate": None} if no_limit else {}
    if running is not None:
        try:
            check_limit(running)
        except ValueError as error:
            raise SettingsError(f"--running: {error}") from None
        said["limit"] = running
    if rate is not None:
        try:
            said["rate"] = Rate.parse(rate).as_data()
        except ValueError as error:
            raise SettingsError(f"--rate: {error}") from None
    answer = await ask(connect, "set-queue", queue=queue, is_new=new, **said)
    say("", f"queue {queue}: {_said(answer) or 'no limit'}")
    return Exit.DONE


def lane_rows(queues: Iterable[Row]) -> Iterator[Row]:
    """Yield a row for each lane; one for a queue that has none, of which something was said."""
    for queue in queues:
        nothing = {"priority": "", "parked": "", "ready": "", "stored": "", "delayed": ""}
        for lane in queue["lanes"] or [{**nothing, "window": "", "shut": False}]:
            yield {"queue": queue["queue"], **lane, "state": state_text(queue, lane)}


def state_text(queue: Row, lane: Row) -> str:
    """Return whether a lane is taken from now, and what was said of its queue."""
    is_limited = (lane["shut"] or queue.get("shut")) and not queue["paused"]
    return ", ".join(filter(None, ("limited" if is_limited else "", _said(queue))))


def _said(queue: Row) -> str:
    """Return what was said of a queue, in words."""
    parts = ["paused"] if queue["paused"] else []
    if queue["limit"] is not None:
        parts.append(f"{queue['limit']:,} at a time")
    if queue["rate"] is not None:
        parts.append(queue["rate"])
    return ", ".join(parts)
