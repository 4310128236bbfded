"""The client for asyncio and Trio: one session with the plane, opened with ``async with``.

What it can do is the peer's `Submitter`; here is who owns the session: the task group that keeps it
connected, how it begins (a plane that answers, or one clear error), and how it ends (everybody who
waits is told).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from importlib import metadata
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

import anyio

from creche.channel.base import Dial
from creche.channel.handshake import parse_url, with_scheme
from creche.channel.tls import checked_context
from creche.client.schedules import ScheduleVerbs
from creche.client.workers import WorkerVerbs
from creche.errors import ClientClosed, InvalidArguments, SettingsError, UnknownJob
from creche.host import THIS_HOST, Host
from creche.model.flow import QueueSettings, Rate
from creche.model.job import JobState
from creche.peer import dead
from creche.peer.calls import checked_call
from creche.peer.credential import Credential, credential_of
from creche.peer.handle import JobHandle, to_id
from creche.peer.link import Link
from creche.peer.submitter import Submitter
from creche.tasks.options import PriorityLike, ViewOptions
from creche.tasks.task import Task
from creche.wire import messages as m
from creche.wire.payload import encode_call
from creche.wire.session import Role

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_URL = "ws://127.0.0.1:5570"
"""Where a plane listens unless it is told otherwise."""

GOODBYE_S = 1.0
"""How long leaving may take: a goodbye is a courtesy, as the plane's grace covers for it."""

logger = logging.getLogger("creche.client")


class Client(ScheduleVerbs, WorkerVerbs):
    """A session with the plane, under asyncio or Trio: ``async with Client() as client``.

    Entering waits until a plane has answered; leaving says goodbye and ends whatever still waits
    with `ClientClosed`. Inside, the session outlives its connections: submissions and waits go on
    after a reconnect. An asyncio application that has start and stop hooks may call `start` and
    `stop` instead.

    A client belongs to the thread and the event loop in which it was opened, where any number of
    tasks may share it; synchronous code and other threads use `BlockingClient`. After it was closed
    it may be opened again, which is a new session.

    Args:
        connect: the plane's address, as ``ws://127.0.0.1:5570`` or ``127.0.0.1:5570``; from
            ``CRECHE_CONNECT`` when not given, else the default.
        timeout: seconds that connecting, submitting and asking may take; None: no bound. Waiting
            for results has bounds of its own.
        name: what the plane calls this client in its views.
        token: what the plane wants to be shown, or what returns it for each connection; from
            ``CRECHE_TOKEN``, or the file that ``CRECHE_TOKEN_FILE`` names, when not given.
        tls: how the plane at a ``wss://`` address is checked, and what it is shown; by the files
            that ``CRECHE_TLS_CA``, ``CRECHE_TLS_CERT`` and ``CRECHE_TLS_KEY`` name when not given,
            else against the system's authorities.
        dial: opens a connection in place of the WebSocket, for tests and other transports.
        on_warning: called with what the plane wants a submitter to know, as that no worker has
            announced the task. Logged by ``creche.client`` when not given.
        host: the machine that it runs on, for simulations.

    Raises:
        SettingsError: *connect*, *timeout*, *name*, *token* or *tls*, or a variable in place of
            one, cannot be used.
    """

    def __init__(
        self,
        connect: str | None = None,
        *,
        timeout: float | None = 30.0,
        name: str | None = None,
        token: str | Credential | None = None,
        tls: ssl.SSLContext | None = None,
        dial: Dial | None = None,
        on_warning: Callable[[str], None] | None = None,
        host: Host = THIS_HOST,
    ) -> None:
        self.url = plane_url(connect) if dial is None else connect or "the plane"
        self.name = _checked_name(name)
        self._timeout_s = _checked_timeout(timeout)
        self._dial = dial
        self._credential = credential_of(token)
        self._tls = checked_context(self.url, tls) if dial is None else None
        self._host = host
        self._on_warning = on_warning or logger.warning
        self._session: _Session | None = None
        self._thread = 0
        self._why_closed = "it was not started: use `async with Client() as client`, or start it"
        self._context: AbstractAsyncContextManager[Any] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    # --- its life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect. Errors of the block come out as they are, never in a group.

        Raises:
            PlaneUnreachable: no plane answered within the client's timeout.
            Refused: the plane does not want this client.
            ClientClosed: the client is open already.
        """
        session = self._begin()
        context = self._kept(session)
        await context.__aenter__()
        self._context = context
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        context, self._context = self._context, None
        assert context is not None, "left without having been entered"
        return await context.__aexit__(kind, error, traceback)

    async def start(self) -> None:
        """Connect, for asyncio applications that call `stop` when they end.

        The session is kept by one asyncio task that the client owns. If cancelled, nothing is left.

        Raises:
            PlaneUnreachable: no plane answered within the client's timeout.
            Refused: the plane does not want this client.
            ClientClosed: the client is open already.
            RuntimeError: this is not asyncio.
        """
        if _is_under_trio():
            raise RuntimeError(
                "start() is for asyncio applications: under Trio a task must not outlive its "
                "nursery, so use `async with Client() as client`"
            )
        session = self._begin()
        loop = asyncio.get_running_loop()
        connected: asyncio.Future[None] = loop.create_future()
        owner = session.owner = loop.create_task(
            self._own(session, connected), name=f"creche client {self.name}"
        )
        # The loop itself holds tasks weakly only.
        self._leaving.add(owner)
        owner.add_done_callback(self._leaving.discard)
        try:
            await connected
        except BaseException:
            self._end(session, "it could not be started")
            owner.cancel()
            raise

    def stop(self) -> None:
        """Close what `start` opened. Not awaited: the goodbye is sent as the loop goes on.

        Whoever waits gets `ClientClosed`. Does nothing if the client is not started.
        """
        session = self._session
        if session is not None and session.owner is not None:
            self._check_thread()
            self._end(session, "it was stopped")
            session.owner.cancel()

    @property
    def is_connected(self) -> bool:
        """Whether a connection to the plane is open now."""
        return self._session is not None and self._session.link.is_connected

    @property
    def welcome(self) -> m.Welcome | None:
        """What the plane said when it welcomed this session: its durability, limits and epoch."""
        return None if self._session is None else self._session.link.welcome

    # --- submitting -----------------------------------------------------------------------------

    async def submit(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Ask the plane to run *task* once, and return when it has stored the job.

        Options (queue, priority, delivery) are given by ``task.with_options(...)``. Waits while the
        job's lane is full, for the client's timeout at most. If cancelled, the job may or may not
        be stored.

        Raises:
            InvalidArguments: the arguments do not fit the task's signature; nothing was sent.
            NotEncodable, TooLarge: they cannot be carried; nothing was sent.
            SubmissionRefused: the plane said no, with its reason; nothing was stored.
            SubmitTimeout: there was no room in time; the submission was withdrawn.
            PlaneUnreachable: no plane answered in time, and nothing was sent.
            SubmissionUncertain: it was sent, and the answer did not come in time.
            ClientClosed: the client is not open.
        """
        return await self._open().submit(task, *args, **kwargs)

    @overload
    async def delay(
        self,
        task: Task[..., R],
        /,
        *args: Any,
        priority: PriorityLike | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        **kwargs: Any,
    ) -> JobHandle[R]: ...
    @overload
    async def delay(
        self,
        task: str,
        /,
        *args: Any,
        priority: PriorityLike | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        **kwargs: Any,
    ) -> JobHandle[Any]: ...
    async def delay(
        self,
        task: Task[..., Any] | str,
        /,
        *args: Any,
        priority: PriorityLike | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        **kwargs: Any,
    ) -> JobHandle[Any]:
        """Submit by name or task, and return when the plane has stored the job.

        As `submit`, but that ``priority``, ``queue``, ``countdown`` and ``eta`` (see
        `Task.with_options`) belong to Creche: a task with parameters of these names is submitted by
        `submit`. Without the task's code at hand the worker checks the arguments. The result is not
        pushed before somebody waits for it.
        """
        ours: dict[str, Any] = {
            "priority": priority,
            "queue": queue,
            "countdown": countdown,
            "eta": eta,
        }
        return await self._open().delay(task, *args, **ours, **kwargs)

    @overload
    async def send(
        self,
        task: Task[..., R],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[ViewOptions],
    ) -> JobHandle[R]: ...
    @overload
    async def send(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[ViewOptions],
    ) -> JobHandle[Any]: ...
    async def send(
        self,
        task: Task[..., Any] | str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[ViewOptions],
    ) -> JobHandle[Any]:
        """Submit by name or task with all that a submission may say: *options* are those of
        `Task.with_options`, over those of a view. No argument's name is in their way. Otherwise as
        `delay`.

        Raises:
            InvalidArguments: *args* is no sequence, or *kwargs* no mapping; nothing was sent.
            TaskDefinitionError: an option is unknown or cannot be; nothing was sent.
        """
        return await self._open().send(task, args, kwargs, **options)

    @overload
    async def submit_many(
        self,
        task: Task[..., R],
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[JobHandle[R]]: ...
    @overload
    async def submit_many(
        self,
        task: str,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[JobHandle[Any]]: ...
    async def submit_many(
        self,
        task: Task[..., Any] | str,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[JobHandle[Any]]:
        """Submit one job a call, in order, and return their handles when all are stored.

        A call is a sequence of positional arguments or a mapping of keyword arguments. With
        ``watch=False`` results are not pushed until somebody waits for them: for jobs that are left
        to themselves. When one is refused or cannot be sent, the first error is raised, and the
        jobs of the other calls may be stored, whether before or after it. The client's timeout
        bounds how long it may go without progress, not the whole.

        Raises as `submit` does.
        """
        return await self._open().submit_many(task, calls, watch=watch)

    @overload
    def map(
        self, task: Task[Concatenate[T, ...], R], values: Iterable[T], *, ordered: bool = True
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self, task: str, values: Iterable[Any], *, ordered: bool = True
    ) -> AsyncGenerator[Any, None]: ...
    def map(
        self, task: Task[..., Any] | str, values: Iterable[Any], *, ordered: bool = True
    ) -> AsyncGenerator[Any, None]:
        """Run *task* once for each value and yield the results: in the order of the values, or,
        with ``ordered=False``, as they come. Raises what a failed job raises, where its turn
        comes."""
        return self._open().map(task, values, ordered=ordered)

    def as_completed(
        self, handles: Iterable[JobHandle[R]], *, timeout: float | None = None
    ) -> AsyncGenerator[JobHandle[R], None]:
        """Yield the handles in the order in which their jobs end. *timeout* seconds bound the
        whole; then `TimeoutError` is raised and the jobs go on. One that is no number of seconds
        raises `InvalidArguments`."""
        return self._open().as_completed(handles, timeout=timeout)

    # --- waiting and asking ---------------------------------------------------------------------

    @overload
    async def result(self, job: JobHandle[R], timeout: float | None = None) -> R: ...
    @overload
    async def result(self, job: str, timeout: float | None = None) -> Any: ...
    async def result(self, job: JobHandle[Any] | str, timeout: float | None = None) -> Any:
        """Wait for a job's end and return its result; see `JobHandle.result`."""
        return await self._open().result(job, timeout)

    async def status(self, job: JobHandle[Any] | str) -> JobState:
        """Ask the plane where a job is in its life.

        Raises:
            UnknownJob: the plane does not know the id.
            PlaneUnreachable: no answer within the client's timeout.
        """
        return await self.job(job).status()

    async def cancel(self, job: JobHandle[Any] | str, reason: str = "") -> JobState:
        """Cancel a job if it has not ended, and return the state it is in then.

        Raises:
            UnknownJob: the plane does not know the id.
            PlaneUnreachable: no answer within the client's timeout.
        """
        (state,) = await self.cancel_many([job], reason)
        if state is None:
            raise UnknownJob(str.__str__(job))
        return state

    async def cancel_many(
        self, jobs: Iterable[JobHandle[Any] | str], reason: str = ""
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each is in then; None for one that is not known.

        Very many are cancelled in pieces. If it fails or is cancelled, some of the jobs may be.

        Raises:
            UnknownJob: one of *jobs* is no id at all; nothing was cancelled.
            PlaneUnreachable: no answer within the client's timeout, which each piece has.
        """
        return await self._open().cancel([to_id(job) for job in jobs], reason)

    async def jobs(self, filter: str = "", *, limit: int = 50) -> list[dict[str, Any]]:
        """Return the jobs that *filter* means, newest first, *limit* at the most. Each is a map;
        `docs/protocol.md#jobs` lists its keys, `docs/filters.md` tells how a filter is written.

        Raises:
            BadFilter: *filter* is none.
            PlaneUnreachable: no answer within the client's timeout, which each page has.
        """
        wanted = dead.filter_of(filter)
        return [job async for page in dead.pages(self.ask, wanted, limit) for job in page]

    async def dead_jobs(self, filter: str = "", *, limit: int = 50) -> list[dict[str, Any]]:
        """Return the dead jobs that *filter* means: those that have failed, were lost or have
        expired, and that nobody has retried or discarded. Otherwise as `jobs`."""
        wanted = dead.dead_ones(filter)
        return [job async for page in dead.pages(self.ask, wanted, limit) for job in page]

    async def retry(
        self,
        job: JobHandle[Any] | str,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task: Task[..., Any] | None = None,
    ) -> JobHandle[Any]:
        """Submit a job again that has ended without a result, and return the new job. The old one
        stays as it ended, and names the new one. Doing so again returns the same new job.

        Args:
            args, kwargs: the new job's arguments; as in the old one if neither is given.
            task: the job's task, for new arguments to be checked against its signature. A task
                that computes the key of its limit in code is needed for that.

        Raises:
            InvalidArguments: the job is not one of *task*, or its task does not take the arguments.
            UnknownJob: the plane does not know the job; a `ResultForgotten` if it has forgotten its
                arguments.
            JobNotDead: it has not ended, has a result, or was retried with other arguments.
            NotEncodable: an argument cannot be carried.
            SubmissionRefused: the plane takes no new jobs.
            PlaneUnreachable: no answer within the client's timeout: it may be retried all the same.
        """
        payload = None
        facts: dict[str, Any] | None = None
        if args is not None or kwargs is not None:
            args, kwargs = checked_call(args, kwargs)
            payload = encode_call(args, kwargs)
            if task is not None:
                await self._check_task(job, task)
                task.signature.check(args, kwargs)
                facts = task.facts_of(args, kwargs)
        return self.job(await dead.retry(self.ask, to_id(job), payload, facts))

    async def _check_task(self, job: JobHandle[Any] | str, task: Task[..., Any]) -> None:
        """Raise if *job* is not one of *task*."""
        record = await self.ask("job", {"id": to_id(job)})
        if record is not None and record["task"] != task.name:
            raise InvalidArguments(
                f"job {record['id']} is one of task {record['task']!r}, and not of {task.name!r}"
            )

    async def retry_dead(
        self, filter: str | None = None, *, rate: float | str | None = None
    ) -> int:
        """Submit again all dead jobs that *filter* means, and return how many; without one, all
        there are. With *rate* so many of them a second are due, from now on; a text says it
        as elsewhere: ``100/m``. If it fails or is cancelled, some may be.

        Raises:
            BadFilter: *filter* is none, or blank, as a setting may be that is not set.
            InvalidArguments: *rate* is none.
            SubmissionRefused: the plane takes no new jobs.
            PlaneUnreachable: no answer within the client's timeout, which each piece has.
        """
        pieces = dead.retry_all(self.ask, dead.meant_dead(filter), dead.per_second(rate))
        return sum([len(piece.jobs) async for piece in pieces])

    async def discard(self, job: JobHandle[Any] | str) -> None:
        """Take a job out of the set of dead ones. Its record is kept as long as those of others.

        Raises:
            UnknownJob: the plane does not know the job, or has forgotten it.
            JobNotDead: it is not one of the dead.
            PlaneUnreachable: no answer within the client's timeout.
        """
        await dead.discard(self.ask, to_id(job))

    async def discard_dead(self, filter: str | None = None) -> int:
        """Take all dead jobs that *filter* means out of the set, and return how many; without one,
        all there are.

        Raises:
            BadFilter: *filter* is none, or blank, as a setting may be that is not set.
            PlaneUnreachable: no answer within the client's timeout, which each piece has.
        """
        pieces = dead.discard_all(self.ask, dead.meant_dead(filter))
        return sum([len(piece.jobs) async for piece in pieces])

    def job(self, job_id: str) -> JobHandle[Any]:
        """Return a handle for a job that somebody submitted.

        Raises:
            UnknownJob: *job_id* is no id at all.
        """
        return self._open().job(job_id)

    async def ask(self, question: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the plane a question, or give it a command, by name; `docs/protocol.md` lists them.

        Raises:
            Refused: the plane does not know the question, or refuses it; `code` says why.
            PlaneUnreachable: no answer within the client's timeout.
        """
        return await self._open().ask(question, params)

    async def pause_queue(self, queue: str) -> None:
        """Have nothing taken from *queue* until it is resumed. What runs goes on; it is still
        paused after a restart of the plane. If cancelled, it may be paused or not.

        Raises:
            Refused: there is no such queue (code ``unknown-queue``).
            PlaneUnreachable: no answer within the client's timeout.
        """
        await self.ask("set-queue", {"queue": queue, "paused": True})

    async def resume_queue(self, queue: str) -> None:
        """Have *queue* taken from again. Raises as `pause_queue` does."""
        await self.ask("set-queue", {"queue": queue, "paused": False})

    async def limit_queue(
        self, queue: str, *, limit: int | None = None, rate: str | None = None
    ) -> None:
        """Say how many jobs of *queue* run at a time, and how often they begin (``"100/m"``),
        whichever workers run them; None: no limit. What runs goes on. It holds until something else
        is said, after a restart of the plane too.

        Raises:
            InvalidArguments: *limit* or *rate* is none.
            Refused: there is no such queue (code ``unknown-queue``).
            PlaneUnreachable: no answer within the client's timeout.
        """
        try:
            settings = QueueSettings(False, limit, None if rate is None else Rate.parse(rate))
        except ValueError as error:
            raise InvalidArguments(str(error)) from None
        said = settings.as_data()
        await self.ask("set-queue", {"queue": queue, "limit": said["limit"], "rate": said["rate"]})

    def watch_topic(self, topic: str, *, hz: float = 5.0) -> AsyncGenerator[Any, None]:
        """Yield views of *topic* as they change, at most *hz* a second; a slow reader skips to the
        newest. Ends with the caller's block, and lives through reconnects."""
        return self._open().watch_topic(topic, hz=hz)

    # --- inside ---------------------------------------------------------------------------------

    def _open(self) -> Submitter:
        """Return what to submit with, if the client is open and this is its thread."""
        session = self._session
        if session is None:
            raise ClientClosed(f"the client is not open: {self._why_closed}")
        self._check_thread()
        return session.submitter

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "this client was opened in another thread: open one here, or share a BlockingClient"
            )

    def _begin(self) -> _Session:
        if self._session is not None:
            raise ClientClosed("the client is open already: open each client once at a time")
        dial = self._dial if self._dial is not None else websocket_dial(self.url, self._tls)
        self._thread = threading.get_ident()
        self._session = _Session(
            self, dial, self._timeout_s, self._on_warning, self._host, self._credential
        )
        return self._session

    def _end(self, session: _Session, why: str) -> None:
        """Forget *session*, and tell whoever waits on it."""
        if self._session is session:
            self._session = None
            self._why_closed = why
        session.submitter.fail(ClientClosed(f"the client is closed: {why}"))

    @asynccontextmanager
    async def _kept(self, session: _Session) -> AsyncIterator[None]:
        """Keep *session* connected while the block runs."""
        error: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.run)
                try:
                    await session.link.wait_connected(self._timeout_s)
                    yield
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as raised:
                    # Kept out of the task group, which would wrap it.
                    error = raised
                finally:
                    self._end(session, "it was closed")
                    with anyio.CancelScope(shield=True):
                        await session.link.leave("the client is closed", bound_s=GOODBYE_S)
        finally:
            self._end(session, "it was closed")
        if error is not None:
            raise error

    async def _own(self, session: _Session, connected: asyncio.Future[None]) -> None:
        """What the asyncio task of `start` does: keep the session until it is cancelled."""
        try:
            async with self._kept(session):
                if not connected.done():
                    connected.set_result(None)
                await anyio.sleep_forever()
        except Exception as error:
            if connected.done():
                raise
            connected.set_exception(error)
        finally:
            if not connected.done():
                connected.cancel()


class _Session:
    """One stay with the plane, from opening to closing."""

    def __init__(
        self,
        client: Client,
        dial: Dial,
        timeout_s: float | None,
        on_warning: Callable[[str], None],
        host: Host,
        credential: Credential,
    ) -> None:
        self._host = host
        self.owner: asyncio.Task[None] | None = None
        self._name = client.name
        self._id = host.entropy(16)
        self._incarnation = host.entropy(16)
        self.link = Link(
            dial,
            client.url,
            Role.CLIENT,
            introduce=self._introduce,
            on_welcome=lambda welcome: self.submitter.resume(welcome),
            on_messages=lambda messages: self.submitter.handle(messages),
            random=host.draw,
            credential=credential,
        )
        self.submitter = Submitter(self.link, timeout_s=timeout_s, on_warning=on_warning, host=host)

    async def run(self) -> None:
        """Keep connected until the link gives up or is left; then nobody waits any more."""
        # What cancels the block does not cut the connection: leaving says goodbye over it.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as services:
                services.start_soon(self.submitter.keep_time)
                try:
                    await self.link.run()
                finally:
                    self.submitter.fail(self.link.failure or ClientClosed("the client is closed"))
                    services.cancel_scope.cancel()

    def _introduce(self) -> m.Hello:
        return m.Hello(
            versions=list(m.VERSIONS),
            role=Role.CLIENT.value,
            session=self._id,
            name=self._name,
            incarnation=self._incarnation,
            features=[],
            facts={"pid": self._host.pid(), "host": self._host.name(), "version": _version()},
        )


def plane_url(connect: str | None = None) -> str:
    """Return the plane's URL: *connect*, else ``CRECHE_CONNECT``, else the default.

    Raises:
        SettingsError: it is not the URL of a WebSocket.
    """
    if connect is not None:
        return _checked_url(connect, "connect")
    from_environment = os.environ.get("CRECHE_CONNECT")
    if from_environment:
        return _checked_url(from_environment, "CRECHE_CONNECT")
    return DEFAULT_URL


def _checked_url(url: object, source: str) -> str:
    if not isinstance(url, str):
        raise SettingsError(
            f"{source}: {url!r} is not text: a plane's URL is {DEFAULT_URL} or like it"
        )
    try:
        parse_url(with_scheme(url))
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from None
    return with_scheme(url)


def _checked_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise SettingsError(f"timeout: {timeout!r} is not a number of seconds above 0, or None")
    return float(timeout)


def _checked_name(name: object) -> str:
    if name is None:
        return f"{socket.gethostname()}-{os.getpid()}"
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise SettingsError(f"name: {name!r} is not a text of 1 to 200 printable characters")
    return name


def websocket_dial(url: str, tls: ssl.SSLContext | None) -> Dial:
    """Return what dials the plane at *url*."""
    # Only a client that dials needs the WebSocket library.
    from creche.channel import anyio_ws

    return partial(anyio_ws.dial, url, ssl_context=tls)


def _is_under_trio() -> bool:
    # Not asked of asyncio: as a guest Trio runs inside of an asyncio loop.
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def _version() -> str:
    try:
        return metadata.version("creche")
    except metadata.PackageNotFoundError:
        return "unknown"
