"""Child processes that a plane keeps running: local workers and the live page.

A child has a process group of its own and ignores the terminal's Ctrl-C: the plane decides when it
ends. It inherits the reading end of a pipe and ends when that closes, so that even `kill -9` of the
plane leaves no stray."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

logger = logging.getLogger("creche.plane")

USAGE_ERROR = 2
"""A child that ends with this code will not do better the next time."""


@dataclass(frozen=True, slots=True)
class Child:
    """What to run. `argv` is given the number of the pipe's file descriptor; times in seconds."""

    name: str
    argv: Callable[[int], Sequence[str]]
    fds: tuple[int, ...] = ()
    """File descriptors of this process that it inherits under the same numbers."""
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0
    steady_s: float = 10.0
    """A child that ran so long was well: the back-off begins anew."""
    stop_s: float = 10.0
    """How long it may take to end after SIGTERM, before its group is killed."""


async def supervise(child: Child, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Keep *child* running until cancelled, or until it has ended and is not wanted any more. One
    that runs when this is cancelled is ended, with SIGTERM first, and reaped."""
    delay_s = child.retry_min_s
    while True:
        began = trio.current_time()
        code: int | None
        try:
            code = await _run_once(child)
        except OSError as error:  # there is no room for another process, or no descriptor left
            what = f"cannot be started ({error.strerror or error})"
            code = None
        else:
            what = f"ended ({_why(code)})"
        if not is_wanted():
            return
        if code == USAGE_ERROR:
            logger.error("%s cannot run (code %d); it is not started again", child.name, code)
            return
        if trio.current_time() - began >= child.steady_s:
            delay_s = child.retry_min_s
        logger.warning("%s %s; starting it again in %g s", child.name, what, delay_s)
        await trio.sleep(delay_s)
        delay_s = min(delay_s * 2, child.retry_max_s)


async def _run_once(child: Child) -> int:
    """Start the child, wait for its end and return its code; if cancelled, end it."""
    read_end, write_end = os.pipe()
    try:
        os.set_inheritable(read_end, True)
        process = await trio.lowlevel.open_process(
            list(child.argv(read_end)),
            stdin=subprocess.DEVNULL,
            pass_fds=(read_end, *child.fds),
            start_new_session=True,
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    try:
        return await process.wait()
    finally:
        # A closed pipe says the same as SIGTERM to a child that is not listening to signals yet.
        os.close(write_end)
        with trio.CancelScope(shield=True):
            await _end(process, child.stop_s)


async def _end(process: trio.Process, stop_s: float) -> None:
    if process.returncode is None:
        process.terminate()
        with trio.move_on_after(stop_s):
            await process.wait()
    # What it started itself is in its group, and goes with it.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _why(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
