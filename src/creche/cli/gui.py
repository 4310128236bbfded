"""`creche gui`: the live page of a plane, as a process of its own."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import trio
from cyclopts import Parameter

from creche.channel.tls import TlsFiles
from creche.cli import logs
from creche.cli.connection import shown_to
from creche.cli.exits import Exit
from creche.cli.handing import CredentialFd, taken_over
from creche.cli.options import FLAG, HERE, Connect, LogLevel, Port, TlsFile
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
    connect: Connect = HERE,
    host: Annotated[str, Parameter(name=("--gui-host", "--host"), metavar="HOST")] = "127.0.0.1",
    port: Annotated[Port, Parameter(name=("--gui-port", "--port"))] = 8080,
    insecure: Annotated[bool, FLAG, Parameter(name=("--gui-insecure", "--insecure"))] = False,
    gui_tls_cert: TlsFile = None,
    gui_tls_key: TlsFile = None,
    gui_tls_ca: TlsFile = None,
    log_level: LogLevel = "info",
    parent_pipe: ParentPipe = None,
    credential_fd: CredentialFd = None,
) -> int:
    """Serve the live page of a plane.

    `creche control-plane` runs this beside itself; on its own it shows a plane on another machine.

    Args:
        host: Where the page listens.
        port: Its port; 0 takes a free one.
        insecure: Let the page listen on more than this machine's loopback: everybody who reaches
            it may look.
        gui_tls_cert: The page's certificate, in PEM: it is at https:// then.
        gui_tls_key: The key of that, if it is in another file.
        gui_tls_ca: Whose certificates browsers have to show; without, they need none.
    """
    url, credential, tls = (
        shown_to(connect)
        if credential_fd is None
        else (connect.url, taken_over(credential_fd), None)
    )
    files = TlsFiles(gui_tls_ca, gui_tls_cert, gui_tls_key)
    page_tls = files.for_plane() if files else None
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
                run = partial(run_gui, url, host, port, insecure=insecure, page_tls=page_tls)
                run = partial(run, token=credential, tls=tls, stop=stop)
                address = await inner.start(run)
                if parent_pipe is None:  # the plane has a banner for it
                    say("", f"the page of {connect} is at {address}")
            nursery.cancel_scope.cancel()

        nursery.start_soon(on_signals)
        if parent_pipe is not None:
            nursery.start_soon(on_orphaned, parent_pipe)
        nursery.start_soon(page)
    return Exit.DONE
