"""A body that forks: the child is a copy of the worker, and must never go on as one.

The child may do what the body has it do, but ends where the body would come back to the worker:
when it returns or raises, or, if it is a coroutine, at its first await. The worker's sockets and
its loop are the parent's, and a child that ran on would speak in the parent's name.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import NoReturn

import trio

_guarded: set[int] = set()
"""Threads in which a worker's loop runs."""


def guard_this_loop() -> None:
    """From now on, a fork on this thread's loop ends at the child's first await."""
    _guarded.add(threading.get_ident())


def unguard_this_loop() -> None:
    """The worker of this loop has ended."""
    _guarded.discard(threading.get_ident())


def leave_if_child(pid: int, error: BaseException | None = None) -> None:
    """A body of the worker whose process is *pid* has left: end here if this is a child of it."""
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
        leave_child(RuntimeError(f"the child that {task.name} forked must not await: it ends here"))


def _in_child() -> None:
    if threading.get_ident() in _guarded and trio.lowlevel.in_trio_task():
        trio.lowlevel.add_instrument(_EndOfStep())


# It cannot be unregistered, so it is registered once and looks whether it is meant.
os.register_at_fork(after_in_child=_in_child)
