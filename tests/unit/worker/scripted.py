"""A plane that says what a test tells it to, and keeps what a worker says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from creche.channel.base import Channel
from creche.channel.memory import MemoryListener
from creche.errors import ChannelBroken, ChannelClosed
from creche.host import Host
from creche.model.failure import Failure
from creche.model.job import JobState
from creche.peer.link import LinkSettings
from creche.peer.outbox import Outbox, send_from
from creche.tasks.registry import Registry
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_call
from creche.wire.session import Grammar, Role
from creche.worker.runner import Worker
from creche.worker.settings import WorkerSettings

M = TypeVar("M")

LIMITS: m.Facts = {
    "keep_alive_s": 10.0,
    "grace_s": 15.0,
    "lease_s": 60.0,
    "unaccepted": 1000,
    "unaccepted_bytes": 64 * 1024 * 1024,
    "watches": 1000,
    "payload_bytes": 1_000_000,
    "plane": "plane-1",
}


class ScriptedPlane:
    """Welcomes whoever comes, answers pings, and settles reports unless told not to."""

    def __init__(self, **limits: Any) -> None:
        self.listener = MemoryListener()
        self.limits = LIMITS | limits
        self.hellos: list[m.Hello] = []
        self.said: list[m.Message] = []
        """What the worker has said since its last hello, and before, without pings."""
        self.settles = True
        self.answers_pings = True
        self.refusal: m.Refusal | None = None
        self.welcome_may_pass = trio.Event()
        """Not set: a Hello is taken, and its Welcome waits."""
        self.welcome_may_pass.set()
        self.runs_submissions = False
        """Offer what the worker submits, and push how it ended."""
        self._submitted: dict[int, m.Submit] = {}
        self.outbox: Outbox | None = None
        self._news = trio.Event()

    def say(self, *messages: m.Message) -> None:
        """Send messages in one frame."""
        assert self.outbox is not None, "no worker is connected"
        self.outbox.put_all(messages)

    def offer(self, seq: int, task: str, /, *args: Any, **more: Any) -> None:
        """Offer one attempt; see `offer`."""
        self.say(offer(seq, task, *args, **more))

    def all(self, kind: type[M]) -> list[M]:
        """Return what the worker has said of *kind*."""
        return [message for message in self.said if isinstance(message, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds; it is looked at whenever the worker has said something."""
        with trio.fail_after(60):
            while not condition():
                await self._news.wait()

    @property
    def reports(self) -> list[m.Finished]:
        """What has finished; a failure that is worth another try counts as a failure."""
        return [as_finished(said) for said in self.said if isinstance(said, REPORTS)]

    async def finished(self, number: int) -> dict[int, m.Finished]:
        """Wait until *number* jobs have been reported, and return their last reports by seq."""
        await self.until(lambda: len({report.seq for report in self.reports}) >= number)
        return {report.seq: report for report in self.reports}

    async def one(self, seq: int) -> m.Finished:
        """Wait for the report of one job."""
        await self.until(lambda: any(report.seq == seq for report in self.reports))
        return next(report for report in self.reports if report.seq == seq)

    async def handle(self, channel: Channel) -> None:
        """Converse with one connection. This is a `channel.base.Handler`."""
        grammar = Grammar(Role.PLANE, Role.WORKER)
        (hello,) = grammar.receive(await channel.receive())
        assert isinstance(hello, m.Hello)
        self.hellos.append(hello)
        if not self.welcome_may_pass.is_set():
            self._tell()
            await self.welcome_may_pass.wait()
        if self.refusal is not None:
            await channel.send(grammar.send([self.refusal]))
            return
        is_resumed = sum(h.session == hello.session for h in self.hellos) > 1
        welcome = m.Welcome(1, 1, is_resumed, "memory", self.limits)
        await channel.send(grammar.send([welcome]))
        outbox = self.outbox = Outbox()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, outbox, channel, grammar)
                while True:
                    for message in grammar.receive(await channel.receive()):
                        self._take(message)
                    self._tell()
        except* (ChannelBroken, ChannelClosed):
            pass
        finally:
            if self.outbox is outbox:
                self.outbox = None
            self._tell()

    async def _send(self, outbox: Outbox, channel: Channel, grammar: Grammar) -> None:
        await send_from(outbox, channel, grammar)

    def _take(self, message: m.Message) -> None:
        assert self.outbox is not None
        if isinstance(message, m.Ping):
            if self.answers_pings:
                self.outbox.put(m.Pong(message.n))
            return
        self.said.append(message)
        if isinstance(message, REPORTS) and self.settles:
            self.outbox.put(m.Settled([message.n]))
        if isinstance(message, m.Submit):
            self.outbox.put(m.Accepted([message.n]))
            if self.runs_submissions:
                seq = 1000 + len(self._submitted)
                self._submitted[seq] = message
                self._offer_submitted(seq)
        elif isinstance(message, m.HandBack) and self.runs_submissions:
            for seq, _, _ in message.tokens:
                self._offer_submitted(seq)
        elif isinstance(message, REPORTS) and message.seq in self._submitted:
            report = as_finished(message)
            job_id = self._submitted[message.seq].id
            self.outbox.put(m.Ended(job_id, report.state, report.outcome))

    def _offer_submitted(self, seq: int) -> None:
        assert self.outbox is not None
        job = self._submitted[seq]
        self.outbox.put(m.Offer(seq, 1, 1, job.id, job.task, 2, job.payload, None))

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


REPORTS = (m.Finished, m.TryAgain)


def as_finished(report: m.Finished | m.TryAgain) -> m.Finished:
    """Return a report as that of an end: another try is the plane's affair."""
    if isinstance(report, m.Finished):
        return report
    n, seq, epoch, attempt, outcome, run_us, *_ = report
    return m.Finished(n, seq, epoch, attempt, JobState.FAILED, outcome, run_us)


def offer(
    seq: int,
    task: str,
    /,
    *args: Any,
    attempt: int = 1,
    tries: int = 0,
    priority: int = 2,
    **kwargs: Any,
) -> m.Offer:
    """Return an offer of the job *seq*, whose id tells its seq."""
    payload, job_id = encode_call(args, kwargs), seq.to_bytes(16, "big")
    options = {"tries": tries} if tries else None
    return m.Offer(seq, 1, attempt, job_id, task, priority, payload, options)


def value_of(report: m.Finished) -> Any:
    """Return the result that a report carries."""
    assert report.state == JobState.SUCCEEDED, failure_in(report)
    return None if report.outcome is None else decode_value(report.outcome)


def failure_in(report: m.Finished) -> Failure:
    """Return the failure that a report carries."""
    assert report.state == JobState.FAILED, JobState(report.state)
    assert report.outcome is not None
    return Failure.from_data(decode_value(report.outcome))


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what a thread brings about without telling anybody."""
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.001)


def make_worker(plane: ScriptedPlane, registry: Registry, **given: Any) -> Worker:
    """Return a worker that dials *plane*; fields of `WorkerSettings` may be among *given*.

    It hands look-ahead back only after minutes: on a busy machine a body may take a while.
    """
    given.setdefault("look_ahead_s", 600.0)
    names = set(WorkerSettings.__dataclass_fields__)
    settings = WorkerSettings(**{name: given.pop(name) for name in names & set(given)})
    return Worker(
        registry,
        dial=lambda: plane.listener.dial("worker"),
        url=plane.listener.url,
        worker_id="w1",
        settings=settings,
        link_settings=LinkSettings(),
        host=Host(draw=lambda: 0.5),
        **given,
    )


@asynccontextmanager
async def running(plane: ScriptedPlane, registry: Registry, **given: Any) -> AsyncIterator[Worker]:
    """Run the plane and one worker; the worker is cancelled at the end of the block."""
    worker = make_worker(plane, registry, **given)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.listener.serve, plane.handle)
        await nursery.start(worker.run)
        await plane.until(lambda: plane.all(m.Capacity))
        yield worker
        nursery.cancel_scope.cancel()
