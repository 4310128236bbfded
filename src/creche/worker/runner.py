"""The worker itself: what the plane says, what is run of it, and what is reported.

Everything here runs on the Trio loop, except the two hooks that threads call. Attempts come in as
offers, wait on the floor for a slot, run in an executor, and are reported until the plane has
settled the report. The nurseries, from the outside in:

    lifespans   what the task modules want opened around all jobs
    services    the link to the plane, lease watch, look-ahead, the processes for bodies, collecting
    │           what threads have done
    └─ bodies   one Trio task for each coroutine body

A leaving worker empties the inner one before it lets go of the outer one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import trio

from creche.channel.base import Dial
from creche.errors import ClientClosed
from creche.host import THIS_HOST, Host
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.peer.credential import Credential, no_credential
from creche.peer.link import Link, LinkSettings
from creche.peer.parent import Token
from creche.peer.submitter import Submitter
from creche.tasks.options import AsyncExecutor, Executor
from creche.tasks.places import place_of, place_of_hook, place_of_lifespan
from creche.tasks.registry import Registry
from creche.tasks.task import Task
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.session import Role
from creche.worker.ahead import LookAhead
from creche.worker.announcing import announced
from creche.worker.attempt import Attempt, Home
from creche.worker.burst import leave_when_empty
from creche.worker.collector import Collector
from creche.worker.deaf import DeafWatch
from creche.worker.executors import end_by_stop
from creche.worker.executors.asyncio_loop import AsyncioExecutor
from creche.worker.executors.coroutine import CoroutineExecutor, run_body
from creche.worker.executors.process import ProcessExecutor
from creche.worker.executors.thread import ThreadExecutor
from creche.worker.floor import Floor
from creche.worker.forks import guard_this_loop, unguard_this_loop
from creche.worker.holdings import Holdings, end_given_up
from creche.worker.hooks import check_hooks
from creche.worker.lease import LeaseWatch
from creche.worker.leaving import Leaving
from creche.worker.lifespans import check_resources, entered
from creche.worker.reports import Report, Reports
from creche.worker.settings import WorkerSettings
from creche.worker.watchdog import Watchdog

logger = logging.getLogger("creche.worker")

_SETTINGS = WorkerSettings()
_LINK_SETTINGS = LinkSettings()


class Worker:
    """Runs the tasks of *registry* for one plane. `run` it once.

    Args:
        registry: the tasks; all of them are announced.
        dial: opens a connection to the plane.
        url: what to call the plane in errors.
        worker_id: the worker's name. One plane knows one worker of a name at a time.
        queues: the queues to listen on, most important first.
        concurrency: how many bodies run at a time.
        async_executor: where ``async def`` tasks run that do not say it themselves.
        set_up_processes: what each process for ``executor="process"`` calls before it imports the
            tasks: a function as ``module:name``, and texts for it.
        is_burst: leave when nothing waits that it may run.
        credential: what the plane is shown on each connection.
        version: the version of this package, to be shown beside the worker.
        host: the machine that it runs on.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        dial: Dial,
        url: str,
        worker_id: str,
        queues: Sequence[str] = ("default",),
        concurrency: int = 10,
        async_executor: AsyncExecutor = "coroutine",
        set_up_processes: Sequence[str] = (),
        is_burst: bool = False,
        credential: Credential = no_credential,
        settings: WorkerSettings = _SETTINGS,
        link_settings: LinkSettings = _LINK_SETTINGS,
        limits: codec.Limits = codec.DEFAULT_LIMITS,
        submit_timeout_s: float | None = 30.0,
        version: str = "",
        host: Host = THIS_HOST,
    ) -> None:
        if concurrency < 1:
            raise ValueError("a worker needs a concurrency of at least 1")
        self.worker_id = worker_id
        self.queues = tuple(queues)
        self._settings = settings
        self._version = version
        registry.look_for_resources()
        self._lifespans = registry.lifespans
        self._declarations = [announced(task.declaration()) for task in registry]
        self._tasks: dict[str, tuple[Task[..., Any], Executor]] = {
            task.name: (task.with_hooks(registry.hooks), _executor(task, async_executor))
            for task in registry
        }
        for task, executor in self._tasks.values():
            check_resources(task, executor, self._lifespans)
            check_hooks(task, executor)
        self._host = host
        self._session = host.entropy(16)
        self._incarnation = host.entropy(16)

        self.link = Link(
            dial,
            url,
            Role.WORKER,
            introduce=self._introduce,
            on_welcome=self._on_welcome,
            on_messages=self._on_messages,
            random=host.draw,
            credential=credential,
            settings=link_settings,
            limits=limits,
        )
        self.submitter = Submitter(
            self.link, timeout_s=submit_timeout_s, on_warning=self._on_warning, host=host
        )
        self._collector = Collector(self._collect, lambda: self._floor.has_waiting)
        self._concurrency = concurrency
        self._is_pumping = False
        self._is_burst = is_burst
        self._floor = Floor(concurrency, max_lent=settings.max_lent, on_lent=self._collector.nudge)
        self._home = Home(worker_id, self._floor, self.submitter)
        self._reports = Reports(max_count=settings.unsettled, max_bytes=settings.unsettled_bytes)
        self._threads = ThreadExecutor(self._floor, self._collector.add_from_thread)
        self._asyncio = AsyncioExecutor(self._floor, self._collector.add_from_thread)
        in_processes = [task for task, executor in self._tasks.values() if executor == "process"]
        common = registry.hooks.each() if in_processes else ()
        entered_there = self._lifespans if in_processes else ()
        self._processes = ProcessExecutor(
            self._floor,
            self._on_body_left,
            settings,
            [place_of(registry.get(task.name) or task) for task in in_processes],
            [place_of_lifespan(each) for each in entered_there if not each.is_async],
            [(moment, *place_of_hook(each)) for moment, each in common],
            set_up_processes,
            worker_id,
        )
        self._lease = LeaseWatch(
            self.link, self._floor, on_lost=self._on_lease_lost, on_held=self._pump
        )
        self._ahead = LookAhead(self._floor, settings.look_ahead_s, on_late=self._hand_back)
        self._deaf = DeafWatch(settings.cleanup_s)
        self._holdings = Holdings()
        self._said: tuple[int, int] = (0, 0)
        self._has_run = False
        self._began_at = 0.0
        self._leaving = Leaving(self.link, settings)
        self._is_ending = False
        # Whether attempts were given back that the plane may not have heard of.
        self._is_unsaid = False
        self._begun = trio.Event()
        self.has_left = trio.Event()
        """Set when the plane has been told goodbye. A body that shields itself from its
        cancellation may keep `run` from returning; nothing is owed to anyone any more, and the
        process may end."""

    # --- the worker's life ----------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many bodies are in."""
        return self._floor.running

    @property
    def capacity(self) -> tuple[int, int]:
        """How many bodies the plane is told that this worker runs at a time, and how many slots of
        them are lent."""
        slots = self._floor.slots - len(self._holdings.given_up) if self._floor.is_open else 0
        return max(0, slots), self._floor.lent

    @property
    def leave_lifespans_s(self) -> float:
        """How long leaving its lifespans may take, after it has left the plane."""
        return self._settings.leave_lifespans_s if self._lifespans else 0.0

    @property
    def is_draining(self) -> bool:
        """Whether the worker takes nothing new and will leave."""
        return self._leaving.is_begun

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Enter the lifespans, and work until drained. Ready when the plane has said welcome.

        If cancelled, coroutine bodies are cancelled and nothing is said to the plane, which gives
        the attempts away when the grace has passed. Threads cannot be cancelled: a body in one runs
        on until it returns or the process ends, and what it returns is not reported.

        Raises:
            LifespanFailed: a lifespan could not be entered.
            Refused: the plane does not want this worker, and never will.
            RuntimeError: this worker has run before.
        """
        if self._has_run:
            raise RuntimeError("a Worker runs once: make another one")
        self._has_run = True
        if not self._lifespans:
            await self._work(task_status)
            return
        async with entered(self._lifespans, self._settings.leave_lifespans_s) as values:
            for name, (task, executor) in self._tasks.items():
                if executor != "process":  # each process has values of its own
                    self._tasks[name] = (task.with_resources(values), executor)
            await self._work(task_status)

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        self._began_at = trio.current_time()
        self._home.pid = os.getpid()  # by which a forked child is told from this process
        self._home.trio_token = trio.lowlevel.current_trio_token()
        self._home.clock = self._floor.clock = trio.lowlevel.current_clock().current_time
        watchdog = Watchdog(self._settings.stall_s, run_body.__code__)
        guard_this_loop()
        watchdog.open()
        try:
            async with trio.open_nursery() as services:
                async with trio.open_nursery() as bodies:
                    self._coroutines = CoroutineExecutor(
                        self._floor, bodies, self._on_body_left, watchdog
                    )
                    await services.start(self._processes.run)
                    services.start_soon(self._keep_session, services.cancel_scope)
                    services.start_soon(self._lease.run)
                    services.start_soon(self._ahead.run)
                    services.start_soon(self._deaf.run)
                    services.start_soon(self._collector.run)
                    services.start_soon(self.submitter.keep_time)
                    if self._is_burst:
                        services.start_soon(
                            leave_when_empty,
                            *(self.worker_id, self.submitter),
                            lambda: not (self._holdings.held or self._reports),
                            lambda: self.begin_drain("nothing is left to do"),
                        )
                    await self._begun.wait()
                    task_status.started()
                    await self._leaving.begun.wait()
                    await self._drain()
                services.cancel_scope.cancel()
        finally:
            self._floor.open(False)
            self._floor.drop_all()
            self._threads.close()
            self._asyncio.close()
            watchdog.close()
            unguard_this_loop()
        if self.link.failure is not None and not self._is_ending:
            raise self.link.failure

    def begin_drain(self, why: str) -> None:
        """Take nothing new, hand back what has not begun, and let `run` end when the rest is done.

        Called again, it skips to the end: bodies are cancelled at once.
        """
        if self._leaving.is_begun:
            self._leaving.hurry()
            return
        logger.info("worker %s is leaving: %s", self.worker_id, why)
        self._leaving.begin(why)
        self._adjust()
        self._hand_back(self._floor.drop_all())
        self._begun.set()

    def resize(self, slots: int | None) -> None:
        """Run so many bodies at a time from now on; None: as many as at the start. What runs goes
        on. At 0 what has not begun is handed back, and nothing new is taken."""
        slots = self._concurrency if slots is None else slots
        if slots == self._floor.slots or self._leaving.is_begun:
            return
        logger.info("worker %s has %d slots from now on", self.worker_id, slots)
        self._floor.resize(slots)
        self._adjust()
        if not slots:
            self._hand_back(self._floor.drop_all())
        self._pump()

    def plane_ended(self, grace_s: float) -> None:
        """The plane's process is gone, and this worker, which was its child, is to go too.

        A plane that said goodbye will not come back: this is `begin_drain` then, and so it is for
        a worker that drains already. One that crashed may be started again. The worker takes
        nothing new, goes on with what it runs, and looks for a plane for *grace_s* seconds; what
        it finds is told the results, and then it leaves. A worker that has nothing to tell leaves
        at once.
        """
        if self.link.farewell is None and not self._leaving.is_begun:
            self._leaving.resume_s = grace_s
            self.begin_drain("the plane that started it is gone without a word")
        else:
            self.begin_drain("its plane has stopped")

    async def _keep_session(self, scope: trio.CancelScope) -> None:
        try:
            await self.link.run()
        finally:
            # Threads that wait for a job's result wait for this, however the link has ended.
            self.submitter.fail(self.link.failure or ClientClosed("the worker has ended"))
        if not self._is_ending:
            scope.cancel()

    async def _drain(self) -> None:
        """Let bodies leave, have the last reports settled, and say goodbye; each step is
        bounded."""
        leaving, reports, holdings = self._leaving, self._reports, self._holdings
        await leaving.wait_for_bodies(lambda: not holdings.may_end_well)
        if holdings.held:
            names = _names(holdings.held.values())
            logger.warning("worker %s stops what still runs: %s", self.worker_id, names)
            self._give_up("the worker is shutting down")
            await leaving.until(self._is_cleaned_up, self._settings.cleanup_s)
            self._report_lost(holdings.disown())
        await leaving.wait_for_settlement(lambda: not (reports.ends or self._is_unsaid))
        if number := reports.ends:
            what = (
                "1 result unsettled: its job"
                if number == 1
                else f"{number} results unsettled: their jobs"
            )
            logger.warning("worker %s leaves with %s will run again", self.worker_id, what)
        self._is_ending = True
        await self.link.leave(leaving.why)
        self.has_left.set()
        if stuck := self._threads.inside():
            logger.warning("left to themselves, as a thread cannot be stopped: %s", _names(stuck))
        if stuck := [*self._coroutines.inside(), *self._asyncio.inside()]:
            logger.warning("still cleaning up, and cannot be hurried: %s", _names(stuck))

    def _is_cleaned_up(self) -> bool:
        """Whether bodies that were told to leave have left. A thread may do so or not, and who is
        in a hurry does not wait for one."""
        if not self._leaving.is_hurried:
            return not self._floor.running
        executors = (self._coroutines, self._asyncio, self._processes)
        return not any(executor.inside() for executor in executors)

    # --- what the link calls --------------------------------------------------------------------

    def _introduce(self) -> m.Hello:
        facts: m.Facts = {
            "queues": list(self.queues),
            "slots": self._floor.slots,
            "held": [list(token) for token in self._holdings.name(self._reports.tokens())],
            "pid": self._host.pid(),
            "host": self._host.name(),
            "version": self._version,
            "age_s": trio.current_time() - self._began_at,
        }
        if self._home.plane:
            facts["plane"] = self._home.plane
        return m.Hello(
            list(m.VERSIONS),
            Role.WORKER.value,
            self._session,
            self.worker_id,
            self._incarnation,
            [],
            facts,
        )

    def _on_welcome(self, welcome: m.Welcome) -> Iterator[m.Message]:
        limits = welcome.limits
        self._meet(str(limits["plane"]))
        self._home.payload_bytes = int(limits["payload_bytes"])
        self._lease.welcomed(float(limits["lease_s"]), float(limits["grace_s"]))
        self._begun.set()
        let_go = self._holdings.let_go_since(self._reports.tokens())
        self._is_unsaid = False
        self._leaving.tell()
        yield m.Announce(self._declarations)
        self._said = self.capacity
        yield m.Capacity(*self._said)
        if let_go:
            yield m.HandBack([list(token) for token in let_go])
        yield from self._reports
        yield from self.submitter.resume(welcome)

    def _meet(self, plane: str) -> None:
        """This plane has welcomed us. To another one than before, with other jobs behind the same
        numbers, nothing that is left of that one's must ever be said."""
        before, self._home.plane = self._home.plane, plane
        if before not in ("", plane):
            self._floor.drop_all()
            self._holdings.give_up("its plane is gone")
            dropped = len(self._holdings.disown()) + len(self._reports)
            self._holdings.unname()
            self._reports.clear()
            logger.warning(
                "another plane answers at %s, with a store of its own: of the one before,"
                " %d attempts and results were dropped",
                *(self.link.url, dropped),
            )

    def _on_messages(self, messages: list[m.Message]) -> None:
        fresh: list[Attempt] = []
        unknown: list[m.Offer] = []
        rest: list[m.Message] = []
        for message in messages:
            kind = type(message)
            if kind is m.Offer:
                attempt = self._take_in(message)  # type: ignore[arg-type]
                if attempt is None:
                    unknown.append(message)  # type: ignore[arg-type]
                else:
                    fresh.append(attempt)
            elif kind is m.Settled:
                self._reports.settle(message.ns)  # type: ignore[union-attr]
                self._on_settled()
            elif kind is m.Stop:
                self._on_stop(message)  # type: ignore[arg-type]
            elif kind is m.Drain:
                if not self._leaving.is_begun:
                    self.begin_drain(message.why)  # type: ignore[union-attr]
            elif kind is m.Resize:
                self.resize(message.slots)  # type: ignore[union-attr]
            else:
                rest.append(message)
        if unknown:
            self._give_back([(o.seq, o.epoch, o.attempt) for o in unknown])
        if fresh:
            self._pump()
            self._ahead.note(fresh)
        if rest:
            self.submitter.handle(rest)

    def _take_in(self, offer: m.Offer) -> Attempt | None:
        """Let an offer wait for a slot; None when it is to be handed back."""
        known = self._tasks.get(offer.task)
        if known is None or self._leaving.is_begun:
            return None
        task, executor = known
        attempt = Attempt(self._home, task, executor, offer)
        held = self._holdings.held.setdefault(attempt.token, attempt)
        if held is attempt:
            self._floor.add(attempt)
        return held

    def _on_settled(self) -> None:
        if not self._floor.is_open and not self._reports.is_full:
            self._adjust()
            self._pump()
        if not self._reports.ends:
            self._leaving.tell()

    def _on_stop(self, stop: m.Stop) -> None:
        attempt = self._holdings.held.get((stop.seq, stop.epoch, stop.attempt))
        if attempt is None:
            return
        if self._floor.drop([attempt]):
            attempt.state = JobState.CANCELLED
            attempt.stop(stop.why)
            self._collector.add(attempt)
        else:
            # A plane that starts anew says it again.
            is_news = attempt.stop_why is None or attempt.is_given_up
            attempt.stop(stop.why)
            if is_news:
                self._deaf.note(attempt)

    def _on_warning(self, why: str) -> None:
        logger.warning("a job's submission: %s", why)

    # --- starting and ending bodies -------------------------------------------------------------

    def _pump(self) -> None:
        """Begin what may begin. What comes to its end at once has this called again: then whoever
        is at it goes on."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            self._begin_bodies()
        finally:
            self._is_pumping = False

    def _begin_bodies(self) -> None:
        while (attempt := self._floor.take()) is not None:
            if attempt.executor == "thread":
                self._threads.start(attempt)
            elif attempt.executor == "asyncio":
                self._asyncio.start(attempt)
            elif attempt.executor == "process":
                self._processes.start(attempt)
            else:
                self._coroutines.start(attempt)

    def _on_body_left(self, attempt: Attempt) -> None:
        self._collector.add(attempt)
        self._pump()

    def _collect(self, attempts: Sequence[Attempt]) -> None:
        """Report what bodies have left behind, and begin what that makes room for."""
        if attempts:
            reports = [self._end(attempt) for attempt in attempts]
            self.link.post_all([report for report in reports if report is not None])
            self._leaving.tell()
            if self._reports.is_full and self._floor.is_open:
                logger.warning(
                    "the plane has not settled %d results: nothing new begins before it has",
                    len(self._reports),
                )
                self._adjust()
        self._pump()
        self._say_capacity()

    def _end(self, attempt: Attempt) -> Report | None:
        """A body has left: return its report, unless nobody wants to hear of it any more."""
        if not self._holdings.let_go(attempt):
            return None
        end_given_up(attempt)
        end_by_stop(attempt)
        return self._reports.add(attempt)

    def _on_lease_lost(self, why: str) -> None:
        if self._holdings.may_end_well:
            names = _names(self._holdings.held.values())
            logger.error("worker %s: %s; it stops what it has: %s", self.worker_id, why, names)
        self._give_up(why)

    def _give_up(self, why: str) -> None:
        """The right to all that is held is lost or renounced: hand back what has not begun, and
        stop the rest, which is reported when it has left."""
        self._hand_back(self._floor.drop_all())
        self._holdings.give_up(why)
        self._say_capacity()
        self._leaving.tell()

    def _report_lost(self, attempts: Iterable[Attempt]) -> None:
        """Report attempts whose bodies cannot be waited for."""
        for attempt in attempts:
            self.link.post(self._reports.add_lost(attempt.token))

    # --- slots, and what is given back ----------------------------------------------------------

    def _adjust(self) -> None:
        """Let bodies begin, or not, and tell the plane."""
        self._floor.open(not self._leaving.is_begun and not self._reports.is_full)
        self._say_capacity()

    def _say_capacity(self) -> None:
        capacity = self.capacity
        if capacity != self._said:
            self._said = capacity
            self.link.post(m.Capacity(*capacity))

    def _hand_back(self, attempts: Sequence[Attempt]) -> None:
        """Give attempts that were taken off the floor before they began to somebody else."""
        for attempt in attempts:
            del self._holdings.held[attempt.token]
        self._give_back([attempt.token for attempt in attempts])

    def _give_back(self, tokens: Sequence[Token]) -> None:
        """Tell the plane that these are not ours any more: at once, or with the next Welcome."""
        if tokens:
            self._is_unsaid |= not self.link.is_connected or self._leaving.resume_s > 0
            self.link.post(m.HandBack([list(token) for token in tokens]))


def _executor(task: Task[..., Any], async_executor: AsyncExecutor) -> Executor:
    """Return where this worker runs a task."""
    if task.executor == "coroutine" and not task.says_executor:
        return async_executor
    return task.executor


def _names(attempts: Iterable[Attempt]) -> str:
    named = [f"{attempt.task.name} (job {id_to_text(attempt.id)})" for attempt in attempts]
    more = f" and {len(named) - 10} more" if len(named) > 10 else ""
    return ", ".join(named[:10]) + more
