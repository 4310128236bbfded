"""`creche top`: the plane as it works, drawn anew as long as somebody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from shutil import get_terminal_size
from textwrap import wrap
from typing import Annotated, Any, NamedTuple

import trio
from cyclopts import Parameter, Token

from creche.cli.connection import open_client
from creche.cli.exits import Exit
from creche.cli.options import FLAG, HERE, Connect, Json
from creche.cli.output import print_json, printable
from creche.cli.queues import lane_rows
from creche.cli.table import Column, Narrow, Row, cell, drawn_lines
from creche.client.client import Client
from creche.errors import PlaneUnreachable

MIN_HZ, MAX_HZ = 0.2, 10.0
MOST_RUNNING = 100
"""Running jobs that are asked for, and shown where there is room."""

RUNNING = "state:running,cancelling"


def _hz(type_: Any, tokens: list[Token]) -> float:
    text = tokens[0].value
    try:
        hz = float(text)
    except ValueError:
        hz = 0.0
    if not MIN_HZ <= hz <= MAX_HZ:
        raise ValueError(f"it takes a number from {MIN_HZ:g} to {MAX_HZ:g} a second, not {text!r}")
    return hz


async def top(
    *,
    hz: Annotated[float, Parameter(converter=_hz, show_env_var=False, metavar="N")] = 2.0,
    once: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Watch the plane: lanes, workers, rates, and what runs. Ctrl-C ends it.

    Where there is no terminal it is printed once.

    Args:
        hz: How often it is drawn anew, a second.
        once: Print it once, and leave.
    """
    async with open_client(connect) as client:
        if as_json or once or not sys.stdout.isatty():
            view = await client.ask("overview")
            running = await _running(client)
            if as_json:
                print_json({**view, "running": running})
            else:
                width = get_terminal_size().columns if sys.stdout.isatty() else None
                print("\n".join(frame(Seen(view, running, time.time()), None, width)))
            return Exit.DONE
        await _watch(client, hz)
    return Exit.DONE


async def _running(client: Client) -> list[dict[str, Any]]:
    answer = await client.ask("jobs", {"filter": RUNNING, "limit": MOST_RUNNING})
    jobs: list[dict[str, Any]] = answer["jobs"]
    return jobs


class Seen(NamedTuple):
    """The plane at one moment: its overview, what runs, and when that was (UTC seconds)."""

    view: Mapping[str, Any]
    running: Sequence[Mapping[str, Any]]
    at: float


async def _watch(client: Client, hz: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw(seen: Seen, before: Seen | None, is_gone: bool) -> None:
            notes = [f"the plane at {client.url} is gone; waiting for it"] if is_gone else []
            lines = frame(seen, before, console.width, console.height, notes)
            text = Text("\n", no_wrap=True, end="").join(map(_styled, lines))
            live.update(text, refresh=True)

        await look(client, hz, draw)


async def look(client: Client, hz: float, draw: Callable[[Seen, Seen | None, bool], None]) -> None:
    """Have drawn what is seen, as often as *hz* says, what it was some time before, and whether the
    plane is gone: then it is waited for, and what was seen last stays. Runs until cancelled."""
    newest: list[Mapping[str, Any]] = []

    async def follow() -> None:
        async with aclosing(client.watch_topic("overview", hz=hz)) as views:
            async for view in views:
                newest[:] = [view]

    seen: Seen | None = None
    before: Seen | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        while True:
            if newest and client.is_connected:
                with suppress(PlaneUnreachable), trio.move_on_after(GONE_S):
                    seen = Seen(newest[0], await _running(client), time.time())
            if seen is not None:
                draw(seen, before, not client.is_connected)
                if before is None or seen.at - before.at >= RATE_S:
                    before = seen
            await trio.sleep(1 / hz)


GONE_S = 1.0
"""How long a plane may take to say what runs, before it is looked whether it is there."""

RATE_S = 2.0
"""Over how many seconds rates are measured at the least."""


def _styled(line: str) -> Any:
    from rich.text import Text

    is_head = line[:1].isupper() and line.split(" ", 1)[0].isupper()
    return Text(line, style="bold" if is_head else "", no_wrap=True)


# --- what is drawn ------------------------------------------------------------------------------


def frame(
    seen: Seen,
    before: Seen | None,
    width: int | None = None,
    height: int | None = None,
    notes: Sequence[str] = (),
) -> list[str]:
    """Return the lines that show *seen*, with rates since *before*, below *notes*; fitted to a
    terminal of *width* and *height*, where those are known."""
    sections: list[list[str]] = []
    gone: list[str] = []
    for columns, rows in (
        (_LANES, lane_rows(seen.view["queues"])),
        (_WORKERS, _workers(seen, before)),
        (_JOBS, _jobs(seen)),
    ):
        drawn, left_out = drawn_lines(columns, rows, width)
        sections.append(drawn)
        gone += left_out
    head = [printable(text) for text in (*notes, *_head(seen, before))]
    lines = [line for text in head for line in _broken(text, width)]
    end = _broken(f"no room for {', '.join(gone)}: a wider terminal has all", width) if gone else []
    left = None if height is None else height - len(lines) - len(end)
    for place, section in enumerate(sections):
        # Each has its share of what is left, and the last one all of it.
        room = None if left is None else left // (len(sections) - place)
        shown = _cut(["", *section], room)
        lines += shown
        if left is not None:
            left -= len(shown)
    return [_ended(line, width) for line in [*lines, *end][:height]]


def _ended(line: str, width: int | None) -> str:
    """Return a line that says where it is cut: some columns have to be whole, and may not fit."""
    from rich.cells import cell_len, set_cell_size

    if width is None or cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1) + "…"


def _broken(text: str, width: int | None) -> list[str]:
    """Return *text* in lines of *width*, broken between words."""
    return [text] if width is None else wrap(text, width, subsequent_indent="  "[: width - 1])


def _cut(lines: list[str], room: int | None) -> list[str]:
    if room is None or len(lines) <= room:
        return lines
    gone = len(lines) - room + 1
    return [*lines[: max(0, room - 1)], f"... and {gone:,} more"] if room > 2 else []


def _head(seen: Seen, before: Seen | None) -> list[str]:
    health = seen.view["health"]
    clock = time.strftime("%H:%M:%S", time.localtime(seen.at))
    state = "ready" if health["ready"] else ("stopping" if health["stopping"] else "not ready")
    if health["failing"]:
        state = f"takes no new jobs: {health['failing']}"
    up = _span(seen.at - health["started_at"])
    counts = health["jobs"]
    waiting = ", ".join(
        f"{counts[word]:,} {word}"
        for word in (
            "queued",
            "parked",
            "delayed",
            "running",
            "cancelling",
            "failed",
            "lost",
            "expired",
        )
        if counts.get(word)
    )
    done, failed = _rate(seen, before, "done"), _rate(seen, before, "failed")
    rates = (
        "" if done is None or failed is None else f"  {done:,.0f}/s done, {failed:,.0f}/s failed"
    )
    return [
        f"plane {state}, epoch {health['epoch']}, up {up}, on {health['durability']}  {clock}",
        f"jobs  {waiting or 'none'}{rates}",
    ]


def _rate(seen: Seen, before: Seen | None, key: str, worker: str | None = None) -> float | None:
    """Return how many attempts a second workers have ended since *before*, None if that cannot be
    told. Those that have come or gone since are left out."""
    if before is None or seen.at <= before.at:
        return None
    old = {each["name"]: each for each in before.view["workers"]}
    made = [
        each[key] - old[each["name"]][key]
        for each in seen.view["workers"]
        if each["name"] in old
        and each["since"] == old[each["name"]]["since"]
        and worker in (None, each["name"])
    ]
    return sum(made) / (seen.at - before.at) if made else None


def _count(key: str) -> Callable[[Row], str]:
    def make(row: Row) -> str:
        value = row[key]
        return f"{value:,}" if isinstance(value, int) else "-"

    return make


_LANES = (
    Column("QUEUE", cell("queue"), 0, Narrow.CUT),
    Column("PRIORITY", cell("priority")),
    Column("PARKED", cell("parked"), 2, Narrow.CUT),
    Column("STATE", cell("state"), 1, Narrow.CUT),
    Column("READY", _count("ready"), is_number=True),
    Column("STORED", _count("stored"), 3, is_number=True),
    Column("DELAYED", _count("delayed"), 4, is_number=True),
)
_WORKERS = (
    Column("WORKER", cell("name"), 0, Narrow.CUT),
    Column("STATE", cell("state")),
    Column("RUNNING", _count("running"), is_number=True),
    Column("SLOTS", _count("slots"), is_number=True),
    Column("DONE", _count("done"), 2, is_number=True),
    Column("FAILED", _count("failed"), 1, is_number=True),
    Column("DONE/S", cell("rate"), 3, is_number=True),
)
_JOBS = (
    Column("RUNNING", cell("id")),
    Column("TASK", cell("task"), 0, Narrow.CUT),
    Column("ATTEMPT", cell("attempt"), 2, is_number=True),
    Column("WORKER", cell("worker"), 1, Narrow.CUT),
    Column("FOR", cell("since")),
)


def _workers(seen: Seen, before: Seen | None) -> Iterator[Row]:
    for worker in seen.view["workers"]:
        rate = _rate(seen, before, "done", worker["name"])
        yield {**worker, "rate": None if rate is None else f"{rate:,.0f}"}


def _jobs(seen: Seen) -> Iterator[Row]:
    for job in sorted(seen.running, key=lambda job: job["started_at"] or seen.at):
        yield {**job, "since": _span(seen.at - (job["started_at"] or seen.at))}


def _span(seconds: float) -> str:
    """Return a time that has passed, in its two largest units."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"
