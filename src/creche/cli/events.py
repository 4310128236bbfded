"""`creche events`: what happens, a line each, as it happens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from creche.cli.connection import open_client
from creche.cli.exits import Exit
from creche.cli.options import FLAG, HERE, Connect, Json, Names, Seconds
from creche.cli.output import JSON_VERSION, moment_text, printable, say
from creche.cli.values import to_json
from creche.client.client import Client
from creche.model.filter import is_like

HZ = 5.0
"""How often the plane sends what is new, a second."""


async def events(
    *,
    follow: Annotated[bool, FLAG, Parameter(name=("--follow", "-f"), show_env_var=False)] = False,
    task: Annotated[Names | None, Parameter(show_env_var=False)] = None,
    seconds: Annotated[Seconds | None, Parameter(name="--for", show_env_var=False)] = None,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Print what happens from now on, a line each, until Ctrl-C: jobs that are submitted, tried
    again and ended, workers that are lost, a store that takes nothing.

    What happens is gathered only while somebody follows it; a reader that is too slow is told how
    much it has missed.

    Args:
        follow: As it is without: there is nothing to be printed but what is to come.
        task: Only jobs of these tasks; `*` stands for any text.
        seconds: Leave after so many seconds.
    """
    reader = Reader(task or ())
    async with open_client(connect) as client:
        with trio.move_on_after(math.inf if seconds is None else seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell_of_plane, client)
                await _follow(client, reader, as_json=as_json)
    return Exit.DONE


async def _follow(client: Client, reader: Reader, *, as_json: bool) -> None:
    async with aclosing(client.watch_topic("events", hz=HZ)) as views:
        say("", "following what happens; Ctrl-C ends it")
        async for view in views:
            for event in reader.read(view):
                print(_line(event, as_json=as_json), flush=True)
            if reader.missed:
                say("warning", f"{reader.missed:,} events came too fast to be told")


async def _tell_of_plane(client: Client) -> None:
    """Say when the plane is gone, and when it is back: silence could mean either."""
    was_there = True
    while True:
        await trio.sleep(1.0)
        if client.is_connected is not was_there:
            was_there = client.is_connected
            what = "is back" if was_there else "is gone; waiting for it"
            say("" if was_there else "warning", f"the plane at {client.url} {what}")


class Reader:
    """Reads what is new from views, each of which has the newest events there are."""

    def __init__(self, tasks: list[str] | tuple[()]) -> None:
        self._tasks = tasks
        self._seen: tuple[int, int] | None = None
        self.missed = 0
        """How many events were not in the last view, and not in any before."""

    def read(self, view: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the events of *view* that were in none before."""
        epoch, number = view["epoch"], view["number"]
        seen = self._seen[1] if self._seen is not None and self._seen[0] == epoch else 0
        first = number - len(view["events"]) + 1
        self.missed = max(0, first - seen - 1) if self._seen is not None else 0
        self._seen = (epoch, number)
        for event in view["events"]:
            if event["n"] > seen and self._is_meant(event):
                yield event

    def _is_meant(self, event: Mapping[str, Any]) -> bool:
        task = event.get("task")
        return not self._tasks or (
            task is not None and any(is_like(task, pattern) for pattern in self._tasks)
        )


def _line(event: Mapping[str, Any], *, as_json: bool) -> str:
    if as_json:
        return to_json({"v": JSON_VERSION, **event})
    clock = moment_text(event["at"], is_short=True)
    if event["kind"] == "plane":
        return printable(f"{clock}  {event['level']}: {event['why']}")
    words = [f"{clock}  {event['kind']:<9}  {event['job']}  {event['task']}"]
    if event.get("attempt", 1) > 1:
        words.append(f"attempt {event['attempt']}")
    if event.get("why"):
        words.append(event["why"])
    return printable("  ".join(words))
