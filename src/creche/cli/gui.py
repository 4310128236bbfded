"""`creche gui`: the live page of a plane, as a process of its own."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import trio
from cyclopts import Parameter

from creche.cli import logs
from creche.cli.exits import Exit
from creche.cli.options import DEFAULT_URL, FLAG, Connect, LogLevel, Port
from creche.cli.output import say
from creche.cli.processes import (
    ParentPipe,
    ignore_terminal,
    stop_signals,
    wait_for_parent_to_end,
)
from creche.dashboard.server import run_gui


async def gui(
    *,
    connect: Connect = DEFAULT_URL,
    host: Annotated[str, Parameter(name=("--gui-host", "--host"), metavar="HOST")] = "127.0.0.1",
    port: Annotated[Port, Parameter(name=("--gui-port", "--port"))] = 8080,
    insecure: Annotated[bool, FLAG, Parameter(name=("--gui-insecure", "--insecure"))] = False,
    log_level: LogLevel = "info",
    parent_pipe: ParentPipe = None,
) -> int:
    """Serve the live page of a plane.

    `creche control-plane` runs this beside itself; on its own it shows a plane on another machine.

    Args:
        host: Where the page listens.
        port: Its port; 0 takes a free one.
        insecure: Let the page listen on more than this machine's loopback: everybody who reaches
            it may look.
    """
    ignore_terminal(parent_pipe)
    logs.set_up(log_level)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def on_signals() -> None:
            with stop_signals(parent_pipe) as signals:
                async for _ in signals:
                    if stop.is_set():
                        nursery.cancel_scope.cancel()
                    stop.set()

        async def on_orphaned(pipe: int) -> None:
            await wait_for_parent_to_end(pipe)
            stop.set()

        async def page() -> None:
            async with trio.open_nursery() as inner:
                run = partial(run_gui, connect, host, port, insecure=insecure, stop=stop)
                address = await inner.start(run)
                if parent_pipe is None:  # the plane has a banner for it
                    say("", f"the page of {connect} is at {address}")
            nursery.cancel_scope.cancel()

        nursery.start_soon(on_signals)
        if parent_pipe is not None:
            nursery.start_soon(on_orphaned, parent_pipe)
        nursery.start_soon(page)
    return Exit.DONE
