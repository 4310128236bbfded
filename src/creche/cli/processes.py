"""Processes of ours: how they are started, and how they end with their parent."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, TypeAlias

import trio
from cyclopts import Parameter

from creche.cli.exits import Exit

ParentPipe: TypeAlias = Annotated[int | None, Parameter(show=False, show_env_var=False)]
"""The number of an inherited file descriptor that is at its end when the parent is gone."""


def argv(*words: str) -> list[str]:
    """Return the command line of another `creche` of this installation.

    ``-P``: what lies in the working directory must not stand in for a module of ours.
    """
    return [sys.executable, "-P", "-m", "creche", *words]


def check_argv(modules: Sequence[str], async_executor: str) -> list[str]:
    """Return the command that says, by its code, whether a worker would start with these."""
    options = ("--async-executor", async_executor, "--task-modules", *modules)
    return argv("worker", "--check", *options)


COLLECT_EVERY = 20_000
"""How many objects more a process of ours makes before Python looks for garbage in cycles.

Its own figure, 700, is meant for programs that keep few objects. With tens of thousands of jobs on
their way it is reached many times in each batch, nothing is ever found, and a fifth of the time is
spent on it."""


def look_for_cycles_rarely() -> None:
    """Have this process look for garbage cycles less often; task modules may set it otherwise."""
    gc.set_threshold(COLLECT_EVERY, 20, 20)


def ignore_terminal(parent_pipe: int | None) -> None:
    """As somebody's child, leave Ctrl-C to the parent: it decides when this process ends."""
    if parent_pipe is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


async def wait_for_parent_to_end(parent_pipe: int) -> None:
    """Return when the other end of the pipe is closed, which `kill -9` of the parent does too. The
    pipe stays open: another program that is to be this process is given it."""
    async with trio.lowlevel.FdStream(os.dup(parent_pipe)) as stream:
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some(64):
                pass


@contextmanager
def stop_signals(parent_pipe: int | None) -> Iterator[AsyncIterator[int]]:
    """Yield the stream of signals that ask this process to stop."""
    more = [] if parent_pipe is not None else [signal.SIGINT]
    with _terminations(*more) as signals:
        yield signals


@contextmanager
def _terminations(*more: int) -> Iterator[AsyncIterator[int]]:
    """Receive SIGTERM, SIGHUP and *more*, and be deaf to the first two ever after.

    The process is about to end by itself then. A signal that comes a moment late would kill it, and
    whoever sent it, and waits for a code, would take that for a crash. A SIGHUP that was ignored
    before, as under ``nohup``, stays so.
    """
    is_ending = False
    asking = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asking.append(signal.SIGHUP)

    def on_signal(number: int, _: FrameType | None) -> None:
        # What Trio puts back in the end; and what there is before Trio's is there.
        if not is_ending:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in asking:
        signal.signal(number, on_signal)
    try:
        with trio.open_signal_receiver(*asking, *more) as signals:
            try:
                yield signals
            finally:
                is_ending = True
    finally:
        # Python's own farewell makes a handler the default again, but leaves this alone.
        for number in asking:
            signal.signal(number, signal.SIG_IGN)


async def unless_terminated(run: Callable[[], Awaitable[Exit]]) -> Exit:
    """Run a command that has children and files to clean up: SIGTERM and SIGHUP cancel it, as
    Ctrl-C does."""
    code: Exit = Exit.TERMINATED
    async with trio.open_nursery() as nursery:

        async def on_signal() -> None:
            with _terminations() as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(on_signal)
        code = await run()
        nursery.cancel_scope.cancel()
    return code
