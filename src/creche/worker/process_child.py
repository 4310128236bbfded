"""The process in which bodies run that can be killed, as the worker starts it.

Its main thread waits for a call, runs the body, answers, and waits again. Arguments and results
cross the socket as payloads: they are decoded, checked and encoded here. Who is told to leave is
told by a message and SIGINT, whose handler looks for the message: then `KeyboardInterrupt` comes
out of wherever the body is, as on Ctrl-C. A body that is in C code does not notice, and is killed.

The worker's end must be noticed even then, so the kernel sees to it: the reading end of a pipe is
set to send SIGKILL to this process's group when it has news, which is that the worker is gone.

    python -m creche.worker.process_child CALLS_FD ALIVE_FD
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from importlib import import_module
from threading import Lock, get_ident
from types import FrameType
from typing import Any, NamedTuple

from creche.errors import DefinitionError, TaskLoadError
from creche.model.job import JobState
from creche.peer.parent import current_parent
from creche.pipe import BlockingEnd
from creche.tasks.hooks import Hooks, make_hooks
from creche.tasks.places import Place, import_hook, import_lifespan, import_task
from creche.tasks.task import Task
from creche.wire import messages as m
from creche.wire.payload import decode_call
from creche.worker.attempt import Attempt, Home
from creche.worker.executors import fail, succeed
from creche.worker.forks import leave_if_child
from creche.worker.hooks import after_body, before_body
from creche.worker.lifespans import enter_in_process

# What the worker says, and what it is told. The first value of each message.
CALL = 0
STOP = 1
READY = 10
BROKEN = 11
ENDED = 12
LENT = 13
TAKEN_BACK = 14


class Start(NamedTuple):
    """The first message to a process: all that it needs to know of its worker."""

    path: list[str]
    set_up: list[str]
    """A function as ``module:name``, and texts that it is called with, before anything is imported;
    empty if there is none."""
    places: list[tuple[Any, ...]]
    lifespans: list[tuple[str, str]]
    """Modules and names of those to enter."""
    hooks: list[tuple[str, str, str]]
    """Moments, modules and names of those for all tasks."""
    worker_id: str
    max_jobs: int | None
    max_bytes: int | None


class Call(NamedTuple):
    """An attempt that is to run. Times are what is left, in seconds: clocks differ."""

    kind: int
    n: int
    offer: tuple[Any, ...]
    plane: str
    soft_s: float
    hard_s: float
    payload_bytes: int


class Ended(NamedTuple):
    """What an attempt has come to, as `Attempt` has it."""

    kind: int
    n: int
    state: int
    outcome: bytes | None
    retry: tuple[Any, ...] | None
    has_seen_stop: bool
    why_used_up: str
    """Why the process is not to be used again; empty if it is."""


class Interrupted(KeyboardInterrupt):
    """Comes out of a body that is to leave. Not an `Exception`: a loop that carries on after
    whatever goes wrong must not carry on after this."""


def main() -> None:
    """Run bodies for one worker until it hangs up or is gone."""
    calls_fd, alive_fd = map(int, sys.argv[1:])
    for fd in (calls_fd, alive_fd):
        os.set_inheritable(fd, False)
    die_with(alive_fd)
    faulthandler.enable()
    with socket.socket(fileno=calls_fd) as sock:
        calls = BlockingEnd(sock)
        bodies = Bodies(calls)
        signal.signal(signal.SIGINT, bodies.on_interrupt)
        signal.signal(signal.SIGTERM, bodies.on_term)
        said = calls.receive()
        if said is None:
            return
        with ExitStack() as lifespans:
            try:
                bodies.set_up(Start(*said), lifespans)
            except DefinitionError as error:
                calls.send((BROKEN, str(error)))
                return
            calls.send((READY,))
            while (said := calls.receive()) is not None:
                # What else there may be is the order to stop a body that had left by then.
                if said[0] == CALL and not bodies.serve(Call(*said)):
                    return


def die_with(alive_fd: int) -> None:
    """Have this process's whole group killed when the pipe's other end is closed."""
    group = os.getpgid(0)
    if hasattr(fcntl, "F_SETOWN") and hasattr(os, "O_ASYNC"):
        # The group, so that what a body has started goes too. Where the signal cannot be chosen it
        # is SIGIO, which ends a process as well.
        fcntl.fcntl(alive_fd, fcntl.F_SETOWN, -group)
        if hasattr(fcntl, "F_SETSIG"):
            fcntl.fcntl(alive_fd, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(alive_fd, fcntl.F_GETFL)
        fcntl.fcntl(alive_fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([alive_fd], [], [], 0)[0]:  # it was closed before this was set
        os.killpg(group, signal.SIGKILL)


class Bodies:
    """The bodies of one process, one at a time. Implements `attempt.Lending` for them."""

    def __init__(self, calls: BlockingEnd) -> None:
        self._calls = calls
        self._pid = os.getpid()
        self._main = get_ident()
        self._tasks: dict[str, Task[..., Any]] = {}
        self._home = Home("", self, None)
        self._max_jobs: int | None = None
        self._max_bytes: int | None = None
        self._n = 0
        self._current: Attempt | None = None
        # The attempt whose body is in, while it may be interrupted. Set and looked at by the main
        # thread only, in which signals are handled: none that comes late can hit the next body.
        self._inside: Attempt | None = None
        self._sending = Lock()
        self._is_sending = False
        self._is_due = False

    def set_up(self, start: Start, lifespans: ExitStack) -> None:
        """Import what the worker's tasks need, and enter its *lifespans*.

        Raises:
            DefinitionError: it cannot be imported, or entered.
        """
        sys.path[:] = start.path
        if start.set_up:
            _call_by_name(*start.set_up)
        there = [import_lifespan(module, name) for module, name in start.lifespans]
        hooks = Hooks()
        for moment, module, name in start.hooks:
            hooks += make_hooks(name, {moment: import_hook(module, name)})
        tasks = [import_task(Place(*row)) for row in start.places]
        values = enter_in_process(there, lifespans)
        for task in tasks:
            task.look_for_resources([provides for provides, _ in values])
            self._tasks[task.name] = task.with_resources(values).with_hooks(hooks)
        self._home.worker_id = start.worker_id
        self._home.pid = self._pid
        self._max_jobs = start.max_jobs
        self._max_bytes = start.max_bytes

    def serve(self, call: Call) -> bool:
        """Run a body and answer. Return whether the process is to be used again."""
        self._n = call.n
        offer = m.Offer(*call.offer)
        self._home.plane = call.plane
        self._home.payload_bytes = call.payload_bytes
        attempt = Attempt(self._home, self._tasks[offer.task], "process", offer)
        attempt.began_at = self._home.clock()
        attempt.soft_end = attempt.began_at + call.soft_s
        attempt.hard_end = attempt.began_at + call.hard_s
        self._current = attempt
        self._run(attempt)
        self._current = None
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or never there
                stream.flush()
        assert attempt.state is not None
        retry = None if attempt.retry is None else tuple(attempt.retry)
        why_used_up = self._why_used_up()
        ended = Ended(
            *(ENDED, call.n, int(attempt.state), attempt.outcome, retry),
            *(attempt.has_seen_stop, why_used_up),
        )
        self._say(tuple(ended))
        return not why_used_up

    def lend(self, attempt: Attempt) -> None:
        """Tell the worker that *attempt* waits. What its body left behind lends nothing."""
        if attempt is self._current:
            self._say((LENT, self._n))

    def take_back(self, attempt: Attempt) -> None:
        """Tell the worker that *attempt* goes on."""
        if attempt is self._current:
            self._say((TAKEN_BACK, self._n))

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: the body is to leave if the worker has said so."""
        if os.getpid() != self._pid:  # a child that the body has forked
            raise KeyboardInterrupt
        attempt = self._inside
        if attempt is None:
            return
        if self._is_sending:  # half a message must not be left in the socket
            self._is_due = True
            return
        while self._calls.has_news():
            said = self._calls.receive()
            if said is not None and said[0] == STOP and said[1] == self._n:
                attempt.stop_why = said[2]
                attempt.has_seen_stop = True
                self._inside = None
                raise Interrupted(f"the job was stopped: {said[2] or 'it was cancelled'}")

    def on_term(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: when the worker is to stop, it decides what becomes of its bodies."""
        if os.getpid() != self._pid:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _run(self, attempt: Attempt) -> None:
        """Run the body and note its end."""
        context = Context()
        try:
            try:
                args, kwargs = decode_call(attempt.payload)
                task = attempt.task
                task.signature.check(args, kwargs)
                context.run(current_parent.set, attempt)
                self._inside = attempt
                self.on_interrupt(signal.SIGINT, None)  # it may have come before
                if task.hooks is not None:
                    context.run(before_body, attempt)
                value = context.run(task.function, *args, **kwargs)
            finally:
                self._inside = None
        except BaseException as error:
            self._inside = None
            leave_if_child(self._pid, error)
            if isinstance(error, Interrupted):
                attempt.state = JobState.CANCELLED
            else:
                fail(attempt, error)
        else:
            leave_if_child(self._pid)
            succeed(attempt, value)
        if attempt.task.hooks is not None:
            context.run(after_body, attempt)

    def _say(self, message: tuple[Any, ...]) -> None:
        with self._uninterrupted(), self._sending:
            self._calls.send(message)

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """Put off, for the block, an interruption of the main thread."""
        if get_ident() != self._main:
            yield
            return
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False
            if self._is_due:
                self._is_due = False
                self.on_interrupt(signal.SIGINT, None)

    def _why_used_up(self) -> str:
        if self._max_jobs is not None and self._n >= self._max_jobs:
            return f"it has run {self._n} jobs"
        if self._max_bytes is not None and (held := memory_bytes()) > self._max_bytes:
            return f"it has {held / 1024**2:,.0f} MiB in memory"
        return ""


def _call_by_name(target: str, *words: str) -> None:
    module, _, name = target.partition(":")
    try:
        getattr(import_module(module), name)(*words)
    except Exception as error:
        raise TaskLoadError(f"{target} failed: {type(error).__name__}: {error}") from error


def memory_bytes() -> int:
    """Return what this process has in memory; where the system does not tell, the most it had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    main()
