"""A body that forks: the child is a copy of the worker, and must never go on as one.

The child may do what the body has it do, but ends where the body would come back to the worker:
when it returns or raises, or, if it is a coroutine, at its first await. The worker's sockets and
its loop are the parent's, and a child that ran on would speak in the parent's name.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import trio

_guarded: set[int] = set()
"""Threads in which a worker's loop runs."""

_asyncio_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""The loops for asyncio bodies, by their threads."""


def guard_this_loop() -> None:
    """From now on, a fork on this thread's loop ends at the child's first await."""
    _guarded.add(threading.get_ident())


def unguard_this_loop() -> None:
    """The worker of this loop has ended."""
    _guarded.discard(threading.get_ident())


@contextmanager
def guarded(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """The same for a *loop* of asyncio, which this thread runs in the block."""
    _asyncio_loops[threading.get_ident()] = loop
    try:
        yield
    finally:
        del _asyncio_loops[threading.get_ident()]


def leave_if_child(pid: int, error: BaseException | None = None) -> None:
    """A body of the worker whose process is *pid* has left: end here if this is a child of it."""
    # Asked of the kernel each time: what C code forks, no hook is told of.
    if os.getpid() != pid:
        leave_child(error)


def leave_child(error: BaseException | None = None) -> NoReturn:
    """End this process as Python would have if the body were its whole program."""
    code = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            code = error.code & 0xFF
        elif error.code is not None:
            print(error.code, file=sys.stderr)  # noqa: T201 - as Python does
            code = 1
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    os._exit(code)


class _EndOfStep(trio.abc.Instrument):
    """Ends the child when the Trio task that forked gives way to the loop."""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        _leave_at_await(task.name)


def _leave_at_await(name: str) -> NoReturn:
    leave_child(RuntimeError(f"the child that {name} forked must not await: it ends here"))


def _end_with_step(loop: asyncio.AbstractEventLoop) -> None:
    """End the child when the asyncio task that forked gives way to *loop*."""
    body = asyncio.current_task(loop)
    # What else is ready is the parent's to run. A loop that is not Python's own may hide it, and
    # run some of it here as well.
    ready = getattr(loop, "_ready", None)
    if isinstance(ready, deque):
        ready.clear()
    loop.call_soon(_leave_at_await, "a callback" if body is None else body.get_name())


def _in_child() -> None:
    if (loop := _asyncio_loops.get(threading.get_ident())) is not None:
        _end_with_step(loop)
    if threading.get_ident() in _guarded and trio.lowlevel.in_trio_task():
        trio.lowlevel.add_instrument(_EndOfStep())


# It cannot be unregistered, so it is registered once and looks whether it is meant.
os.register_at_fork(after_in_child=_in_child)
