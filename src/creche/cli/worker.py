"""`creche worker` (and `subworker`, its name in FastWorker): run jobs for a plane."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, NoReturn

import trio
from cyclopts import Parameter

from creche import __version__
from creche.channel import trio_ws
from creche.cli import logs
from creche.cli.connection import shown_to
from creche.cli.exits import Exit
from creche.cli.handing import CredentialFd, taken_over
from creche.cli.options import (
    FLAG,
    HERE,
    Bytes,
    Connect,
    Count,
    LogLevel,
    Names,
    Seconds,
)
from creche.cli.processes import (
    ParentPipe,
    argv,
    check_argv,
    ignore_terminal,
    look_for_cycles_rarely,
    stop_signals,
    wait_for_parent_to_end,
)
from creche.cli.systemd import Manager
from creche.errors import ClientClosed, PlaneUnreachable, SettingsError
from creche.model.names import why_no_queue
from creche.peer.credential import Credential, no_credential
from creche.tasks import LoadReport, load, task_registry
from creche.tasks.options import AsyncExecutor
from creche.tasks.schedules import why_over
from creche.tasks.task import describe
from creche.worker.announcing import announced
from creche.worker.runner import Worker
from creche.worker.settings import WorkerSettings

logger = logging.getLogger("creche.worker")

FIRST_NOTICE_S = 3.0
NOTICE_S = 60.0
"""A worker waits for its plane as long as it takes, and says so this often."""

BURST_S = 30.0
"""How long a worker that is to leave when nothing waits looks for its plane."""

TOLD_S = 0.2
"""How long after its parent's end a worker looks for the signal that comes along with an ordered
one."""

LEAVE_S = 2.0
"""After the plane was told goodbye, nothing is owed to anyone: a body that cannot be stopped ends
with the process, after this time, or at once if the worker was told to stop more than once."""


async def worker(
    *,
    task_modules: Names | None = None,
    connect: Connect = HERE,
    queues: Names | None = None,
    concurrency: Count = 10,
    async_executor: AsyncExecutor = "coroutine",
    worker_id: Annotated[str | None, Parameter(metavar="NAME")] = None,
    drain_timeout: Seconds = 30.0,
    max_jobs_per_process: Count | None = None,
    max_memory_per_process: Bytes | None = None,
    log_level: LogLevel = "info",
    burst: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    reload: Annotated[bool, FLAG] = False,
    check: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    grace: Annotated[Seconds, Parameter(show=False, show_env_var=False)] = 15.0,
    routed: Annotated[list[str] | None, Parameter(show=False, show_env_var=False)] = None,
    parent_pipe: ParentPipe = None,
    credential_fd: CredentialFd = None,
) -> int:
    """Run jobs for a plane.

    A worker waits for its plane, and dials again when the connection ends. The first SIGTERM or
    Ctrl-C, or the closing of its terminal, makes it take nothing new and leave when its jobs are
    done, the second stops them.

    Args:
        task_modules: Where the tasks are: modules (shop.tasks) or files (shop/tasks.py).
        queues: What to listen on, most important first. When not given: `default`, and the
            queues that its tasks name.
        concurrency: How many jobs run at a time.
        async_executor: Where async def tasks run that do not say it themselves: coroutine (on
            Trio) or asyncio.
        worker_id: Its name, which no other worker of the plane may have. When not given: host and
            process id.
        drain_timeout: How many seconds jobs have to end when the worker stops.
        max_jobs_per_process: After so many jobs, a process for tasks with executor="process" is
            replaced by a fresh one.
        max_memory_per_process: One that has more in memory after a job is replaced, too: 512MiB.
        burst: Leave when nothing waits that this worker may run; jobs for later are not waited for.
            A plane that is not there is looked for for 30 s.
        reload: Start anew when Python files change, in the working directory or beside the task
            modules: for development.
        check: Import the task modules, print what is in them as JSON, and leave: with code 2 if a
            worker would not start with them. Lifespans are not entered.
    """
    ignore_terminal(parent_pipe)
    if not task_modules:
        raise SettingsError("which tasks? --task-modules names the modules they are in")
    for queue in queues or ():
        if (wrong := why_no_queue(queue)) is not None:
            raise SettingsError(f"--queues: {wrong}")

    url, tls = connect.url, None
    credential: Credential = no_credential
    if credential_fd is not None:
        credential = taken_over(credential_fd)
    elif not check:
        # A check dials nobody, and runs with the settings of the plane that has it done.
        url, credential, tls = shown_to(connect)

    def make() -> Worker:
        return Worker(
            task_registry,
            dial=partial(trio_ws.dial, url, ssl_context=tls),
            url=url,
            credential=credential,
            worker_id=worker_id or f"{socket.gethostname()}-{os.getpid()}",
            queues=queues or list(dict.fromkeys([*_queues_of_tasks(), *(routed or ())])),
            concurrency=concurrency,
            async_executor=async_executor,
            set_up_processes=(f"{logs.__name__}:{logs.set_up.__name__}", log_level),
            is_burst=burst,
            settings=WorkerSettings(
                drain_s=drain_timeout,
                max_jobs_per_process=max_jobs_per_process,
                max_memory_per_process_bytes=max_memory_per_process,
            ),
            version=__version__,
        )

    if check:
        return _check(task_modules, make)
    look_for_cycles_rarely()
    logs.set_up(log_level)
    report = load(task_modules)
    for warning in (*report.warnings, *_over()):
        # A plane that starts its workers has said so itself, once for all of them.
        logger.log(logging.WARNING if parent_pipe is None else logging.DEBUG, "%s", warning)
    made = make()
    # Of a worker that a plane has started, it is the plane that systemd hears of.
    manager = Manager(None) if parent_pipe is not None else Manager.of_this_process()
    inherited = [fd for fd in (parent_pipe, credential_fd) if fd is not None]
    shift = _Shift(made, parent_pipe, inherited, grace, manager, gives_up=burst)
    command = check_argv(task_modules, async_executor)
    return await shift.run(partial(_watch_code, report.modules, command) if reload else None)


async def _watch_code(
    loaded: Sequence[str], check: Sequence[str], on_new: Callable[[], None]
) -> None:
    # Most workers do without, and importing it takes time.
    from creche.cli.reload import watch_code

    await watch_code(loaded, check, on_new)


def _check(modules: Sequence[str], make: Callable[[], Worker]) -> Exit:
    # A module may print when it is imported; that must not get into our JSON.
    told = os.dup(1)
    os.dup2(2, 1)
    report: LoadReport = load(modules)
    make()  # which raises whatever would keep a worker from starting
    sys.stdout.flush()
    with open(told, "w", encoding="utf-8") as out:
        document = {
            "v": 1,
            "modules": report.modules,
            "tasks": [announced(task_registry.get(name).declaration()) for name in report.tasks],  # type: ignore[union-attr]
            "queues": _queues_of_tasks(),
            "warnings": [*report.warnings, *_over()],
        }
        json.dump(document, out)
        out.write("\n")
    return Exit.DONE


def _over() -> list[str]:
    """Return what is to be said of schedules that will not fire any more."""
    now = time.time()
    said = (why_over(describe(task), task.schedule, now) for task in task_registry)
    return [why for why in said if why is not None]


def _queues_of_tasks() -> list[str]:
    named = {task.defaults.queue for task in task_registry}
    return ["default", *sorted(name for name in named if name and name != "default")]


class _Shift:
    """One worker from its start to its end: who may end it, and what is said meanwhile."""

    def __init__(
        self,
        worker: Worker,
        parent_pipe: int | None,
        inherited: Sequence[int],
        grace_s: float,
        manager: Manager,
        *,
        gives_up: bool,
    ) -> None:
        self._worker = worker
        self._parent_pipe = parent_pipe
        self._inherited = inherited
        self._grace_s = grace_s
        self._manager = manager
        self._gives_up = gives_up
        self._asked = 0
        self._starts_anew = False
        self._is_told = trio.Event()
        self._code = Exit.DONE

    async def run(self, watch: Callable[[Callable[[], None]], Awaitable[None]] | None) -> Exit:
        """Work until told to stop; *watch* calls what it is given when the code has changed."""
        async with trio.open_nursery() as nursery:
            if watch is not None:
                nursery.start_soon(watch, self._on_new_code)
            nursery.start_soon(self._on_signals)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._leave_for_good)
            nursery.start_soon(self._manager.keep_alive)
            if self._parent_pipe is not None:
                nursery.start_soon(self._on_orphaned, self._parent_pipe)
            await self._worker.run()
            nursery.cancel_scope.cancel()
        if self._worker.running or self._starts_anew:
            self._end_process()
        return self._code

    def _on_new_code(self) -> None:
        """Start anew, unless the worker is about to, or was to leave anyway. Said again it would
        cut short what runs."""
        if not self._worker.is_draining:
            self._starts_anew = True
            self._worker.begin_drain("its code has changed")

    async def _on_signals(self) -> None:
        with stop_signals(self._parent_pipe) as signals:
            async for number in signals:
                self._asked += 1
                self._starts_anew = False
                self._is_told.set()
                if self._asked > 1:
                    self._code = Exit(128 + number)
                if self._asked > 2:
                    # Not by cancelling: a body may shield itself from that.
                    self._end_process()
                self._manager.tell("STOPPING=1")
                self._worker.begin_drain("it was told to stop")

    async def _on_orphaned(self, parent_pipe: int) -> None:
        """The plane that started this worker has ended. In good order, it tells us by a signal as
        well, and either one after the other makes us hurry."""
        await wait_for_parent_to_end(parent_pipe)
        with trio.move_on_after(TOLD_S):
            await self._is_told.wait()
        self._worker.plane_ended(self._grace_s)

    async def _tell(self) -> None:
        """Say when the plane is found, lost, or has not been there for long."""
        link = self._worker.link
        notice_s, began = FIRST_NOTICE_S, trio.current_time()
        while True:
            try:
                with trio.move_on_after(notice_s):
                    await link.wait_connected(None)
            except ClientClosed:
                return  # it has left; a body that cannot be hurried may still be in
            if not link.is_connected:
                if self._gives_up and trio.current_time() >= began + BURST_S:
                    why = str(link.failure or "no answer")
                    raise PlaneUnreachable(link.url, f"{why}; gave up after {BURST_S:g} s")
                why = f" ({link.failure})" if link.failure is not None else ""
                logger.warning("waiting for the plane at %s%s", link.url, why)
                notice_s = BURST_S - FIRST_NOTICE_S if self._gives_up else NOTICE_S
                continue
            began = math.inf  # it was there
            logger.info(
                "worker %s is connected to %s, listening on %s",
                *(self._worker.worker_id, link.url, ", ".join(self._worker.queues)),
            )
            self._manager.tell("READY=1", f"STATUS=connected to {link.url}")
            notice_s = FIRST_NOTICE_S
            while link.is_connected:  # noqa: ASYNC110 - see below
                # Resuming is the link's business and takes milliseconds: this only tells of it.
                await trio.sleep(1.0)

    async def _leave_for_good(self) -> None:
        await self._worker.has_left.wait()
        if not self._worker.running:
            # Lifespans are being left, in their own time.
            await trio.sleep(self._worker.leave_lifespans_s + LEAVE_S)
        elif self._asked < 2:
            await trio.sleep(LEAVE_S)
        self._end_process()

    def _end_process(self) -> NoReturn:
        """End without Python's own farewell: that waits for threads, those that a body has made
        and left in an executor among them, and a body that hangs would hold it up for ever."""
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or never there
                stream.flush()
        if self._starts_anew:
            for fd in self._inherited:
                os.set_inheritable(fd, True)
            self._manager.hand_on()
            command = argv(*sys.argv[1:])
            os.execv(command[0], list(command))
        os._exit(self._code)
