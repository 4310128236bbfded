"""The client for synchronous code: Django, Flask, scripts, and threads of any program.

An event loop in a thread of its own keeps one `Client`; each call here is a call there, with the
caller's context, so that a running job that submits or waits is recognized as such.

After a fork the child has neither the thread nor, by right, the connection. It leaves both to its
parent and begins a session of its own when it is first used.
"""

from __future__ import annotations

import atexit
import os
import ssl
import threading
import weakref
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, aclosing, asynccontextmanager, closing
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from anyio.from_thread import start_blocking_portal

from creche.channel.base import Channel, Dial
from creche.channel.tls import checked_context
from creche.client.client import Client, websocket_dial
from creche.client.schedules import BlockingScheduleVerbs
from creche.client.workers import BlockingWorkerVerbs
from creche.errors import ClientClosed
from creche.model.job import JobState
from creche.peer.blocking import BlockingJobHandle, inner
from creche.peer.calls import each_value_is_one_argument
from creche.peer.credential import Credential, credential_of
from creche.peer.handle import JobHandle
from creche.tasks.options import PriorityLike, ViewOptions
from creche.tasks.task import Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class BlockingClient(BlockingScheduleVerbs, BlockingWorkerVerbs):
    """The verbs of `Client`, each of which blocks the calling thread until it is done.

    It connects when it is entered (``with BlockingClient() as client``) or first used, and is
    closed by leaving, by `close`, or when the interpreter ends. Any number of threads may share
    one. After a fork the child's next call opens a session of its own; the parent's goes on.

    A call that is interrupted (Ctrl-C) is cancelled, and the client stays usable.

    Args and errors are those of `Client`.
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
    ) -> None:
        # Settings that cannot be used are refused here and now.
        self._credential = credential_of(token)
        self.url = Client(connect, timeout=timeout, name=name, token=token, dial=dial, tls=tls).url
        self._timeout_s = timeout
        self._name = name
        self._dial = (
            websocket_dial(self.url, checked_context(self.url, tls)) if dial is None else dial
        )
        self._on_warning = on_warning
        self._runtime: _Runtime | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        _clients.add(self)

    # --- its life -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Connect; see `Client.__aenter__`. A client that was closed is opened anew."""
        self._is_closed = False
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye and end the thread; whoever still waits gets `ClientClosed`.

        Bounded to about two seconds. Closing again, or what was never opened, does nothing.
        """
        with self._lock:
            runtime, self._runtime = self._runtime, None
            self._is_closed = True
        if runtime is not None:
            runtime.close()

    @property
    def is_connected(self) -> bool:
        """Whether a connection to the plane is open now."""
        runtime = self._runtime
        return runtime is not None and runtime.client.is_connected

    # --- submitting -----------------------------------------------------------------------------

    def submit(
        self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingJobHandle[R]:
        """Ask the plane to run *task* once, and return when it has stored the job; see
        `Client.submit`."""
        return self._handle(self._call(lambda client: client.submit(task, *args, **kwargs)))

    @overload
    def delay(
        self,
        task: Task[..., R],
        /,
        *args: Any,
        priority: PriorityLike | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        **kwargs: Any,
    ) -> BlockingJobHandle[R]: ...
    @overload
    def delay(
        self,
        task: str,
        /,
        *args: Any,
        priority: PriorityLike | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        **kwargs: Any,
    ) -> BlockingJobHandle[Any]: ...
    def delay(
        self,
        task: Task[..., Any] | str,
        /,
        *args: Any,
        priority: PriorityLike | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        **kwargs: Any,
    ) -> BlockingJobHandle[Any]:
        """Submit by name or task, and return when the plane has stored the job; see
        `Client.delay`."""

        def verb(client: Client) -> Awaitable[JobHandle[Any]]:
            ours: dict[str, Any] = {
                "priority": priority,
                "queue": queue,
                "countdown": countdown,
                "eta": eta,
            }
            return client.delay(task, *args, **ours, **kwargs)

        return self._handle(self._call(verb))

    @overload
    def send(
        self,
        task: Task[..., R],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[ViewOptions],
    ) -> BlockingJobHandle[R]: ...
    @overload
    def send(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[ViewOptions],
    ) -> BlockingJobHandle[Any]: ...
    def send(
        self,
        task: Task[..., Any] | str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[ViewOptions],
    ) -> BlockingJobHandle[Any]:
        """Submit by name or task with all that a submission may say; see `Client.send`."""
        return self._handle(self._call(lambda client: client.send(task, args, kwargs, **options)))

    @overload
    def submit_many(
        self,
        task: Task[..., R],
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[BlockingJobHandle[R]]: ...
    @overload
    def submit_many(
        self,
        task: str,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[BlockingJobHandle[Any]]: ...
    def submit_many(
        self,
        task: Task[..., Any] | str,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[BlockingJobHandle[Any]]:
        """Submit one job a call, in order, and return their handles when all are stored; see
        `Client.submit_many`. *calls* is read in this thread."""
        read = list(calls)
        handles = self._call(lambda client: client.submit_many(task, read, watch=watch))
        return [self._handle(handle) for handle in handles]

    @overload
    def map(
        self, task: Task[Concatenate[T, ...], R], values: Iterable[T], *, ordered: bool = True
    ) -> Iterator[R]: ...
    @overload
    def map(self, task: str, values: Iterable[Any], *, ordered: bool = True) -> Iterator[Any]: ...
    def map(
        self, task: Task[..., Any] | str, values: Iterable[Any], *, ordered: bool = True
    ) -> Iterator[Any]:
        """Run *task* once for each value and return an iterator over the results: in the order of
        the values, or, with ``ordered=False``, as they come. The jobs are submitted at once; what
        a failed job raises is raised where its turn comes."""
        with each_value_is_one_argument():
            handles = self.submit_many(task, [(value,) for value in values])
        return self._results(handles, ordered=ordered)

    def as_completed(
        self, handles: Iterable[BlockingJobHandle[R]], *, timeout: float | None = None
    ) -> Iterator[BlockingJobHandle[R]]:
        """Yield the handles in the order in which their jobs end; see `Client.as_completed`."""
        return self._ended(list(handles), timeout)

    # --- waiting and asking ---------------------------------------------------------------------

    @overload
    def result(self, job: BlockingJobHandle[R], timeout: float | None = None) -> R: ...
    @overload
    def result(self, job: str, timeout: float | None = None) -> Any: ...
    def result(self, job: BlockingJobHandle[Any] | str, timeout: float | None = None) -> Any:
        """Wait for a job's end and return its result; see `JobHandle.result`."""
        known = inner(job)
        return self._call(lambda client: client.result(known, timeout))

    def status(self, job: BlockingJobHandle[Any] | str) -> JobState:
        """Ask the plane where a job is in its life; see `Client.status`."""
        known = inner(job)
        return self._call(lambda client: client.status(known))

    def cancel(self, job: BlockingJobHandle[Any] | str, reason: str = "") -> JobState:
        """Cancel a job if it has not ended, and return the state it is in then; see
        `Client.cancel`."""
        known = inner(job)
        return self._call(lambda client: client.cancel(known, reason))

    def cancel_many(
        self, jobs: Iterable[BlockingJobHandle[Any] | str], reason: str = ""
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each is in then; None for one that is not known."""
        known = [inner(job) for job in jobs]
        return self._call(lambda client: client.cancel_many(known, reason))

    def jobs(self, filter: str = "", *, limit: int = 50) -> list[dict[str, Any]]:
        """Return the jobs that *filter* means, newest first; see `Client.jobs`."""
        return self._call(lambda client: client.jobs(filter, limit=limit))

    def dead_jobs(self, filter: str = "", *, limit: int = 50) -> list[dict[str, Any]]:
        """Return the dead jobs that *filter* means; see `Client.dead_jobs`."""
        return self._call(lambda client: client.dead_jobs(filter, limit=limit))

    def retry(
        self,
        job: BlockingJobHandle[Any] | str,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task: Task[..., Any] | None = None,
    ) -> BlockingJobHandle[Any]:
        """Submit a job again that has ended without a result, and return the new job; see
        `Client.retry`."""
        known = inner(job)
        return self._handle(
            self._call(lambda client: client.retry(known, args=args, kwargs=kwargs, task=task))
        )

    def retry_dead(self, filter: str | None = None, *, rate: float | str | None = None) -> int:
        """Submit again all dead jobs that *filter* means; see `Client.retry_dead`."""
        return self._call(lambda client: client.retry_dead(filter, rate=rate))

    def discard(self, job: BlockingJobHandle[Any] | str) -> None:
        """Take a job out of the set of dead ones; see `Client.discard`."""
        known = inner(job)
        self._call(lambda client: client.discard(known))

    def discard_dead(self, filter: str | None = None) -> int:
        """Take all dead jobs that *filter* means out of the set; see `Client.discard_dead`."""
        return self._call(lambda client: client.discard_dead(filter))

    def job(self, job_id: str) -> BlockingJobHandle[Any]:
        """Return a handle for a job that somebody submitted.

        Raises:
            UnknownJob: *job_id* is no id at all.
        """

        async def verb(client: Client) -> JobHandle[Any]:
            return client.job(job_id)

        return self._handle(self._call(verb))

    def ask(self, question: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the plane a question, or give it a command, by name; see `Client.ask`."""
        return self._call(lambda client: client.ask(question, params))

    def pause_queue(self, queue: str) -> None:
        """Have nothing taken from *queue* until it is resumed; see `Client.pause_queue`."""
        self._call(lambda client: client.pause_queue(queue))

    def resume_queue(self, queue: str) -> None:
        """Have *queue* taken from again; see `Client.resume_queue`."""
        self._call(lambda client: client.resume_queue(queue))

    def limit_queue(self, queue: str, *, limit: int | None = None, rate: str | None = None) -> None:
        """Say how many jobs of *queue* run, and how often they begin; see `Client.limit_queue`."""
        self._call(lambda client: client.limit_queue(queue, limit=limit, rate=rate))

    # --- inside ---------------------------------------------------------------------------------

    def _open(self) -> _Runtime:
        with self._lock:
            if self._is_closed:
                raise ClientClosed("the client is closed")
            if self._runtime is None:
                self._runtime = _Runtime(self._dial, self._new_client)
            return self._runtime

    def _new_client(self, dial: Dial) -> Client:
        return Client(
            self.url,
            timeout=self._timeout_s,
            name=self._name,
            token=self._credential,
            dial=dial,
            on_warning=self._on_warning,
        )

    def _renew(self) -> None:
        """This is the child of a fork: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        self._runtime = None

    def _call(self, verb: Callable[[Client], Awaitable[R]]) -> R:
        """Run *verb* on the event loop, and wait here until it is done."""
        future = self._open().begin(verb)
        try:
            return future.result()
        except CancelledError:
            raise ClientClosed("the client was closed meanwhile") from None
        finally:
            # Interrupted: nobody waits for it any more. Otherwise it is done, and this is nothing.
            future.cancel()

    def _results(
        self, handles: list[BlockingJobHandle[Any]], *, ordered: bool
    ) -> Generator[Any, None, None]:
        with closing(self._ended(handles, None)) as ended:
            if not ordered:
                for handle in ended:
                    yield handle.result()
                return
            for handle in handles:
                while handle._known is None:
                    next(ended)
                yield handle.result()

    def _ended(
        self, handles: list[BlockingJobHandle[R]], timeout: float | None
    ) -> Generator[BlockingJobHandle[R], None, None]:
        """Yield *handles* as their jobs end, without a change of threads and back for each."""
        by_id = {handle.id: handle for handle in handles}
        arrived: SimpleQueue[str | None] = SimpleQueue()

        async def gather(client: Client) -> None:
            known = [handle._handle for handle in handles]
            async with aclosing(client.as_completed(known, timeout=timeout)) as ended:
                async for handle in ended:
                    arrived.put(handle.id)

        future = self._open().begin(gather)
        future.add_done_callback(lambda _: arrived.put(None))
        try:
            while (job_id := arrived.get()) is not None:
                yield by_id[job_id]
            future.result()
        except CancelledError:
            raise ClientClosed("the client was closed meanwhile") from None
        finally:
            future.cancel()

    def _handle(self, handle: JobHandle[R]) -> BlockingJobHandle[R]:
        return BlockingJobHandle.make(self, handle)


class _Runtime:
    """A thread with an event loop, and the client that is open in it."""

    def __init__(self, dial: Dial, new_client: Callable[[Dial], Client]) -> None:
        self._dial = dial
        self._channels: set[Channel] = set()
        self._is_closed = False
        self.client = new_client(self._tracked)
        _runtimes.add(self)
        try:
            with ExitStack() as stack:
                self._portal = stack.enter_context(
                    start_blocking_portal("asyncio", name="creche client")
                )
                # Whoever still waits when the client has been left is not waited for.
                stack.callback(lambda: self._portal.call(self._portal.stop, True))
                stack.enter_context(self._portal.wrap_async_context_manager(self.client))
                self._stack = stack.pop_all()
        except BaseException:
            _runtimes.discard(self)
            raise

    def begin(self, verb: Callable[[Client], Awaitable[R]]) -> Future[R]:
        """Start *verb* on the event loop, in the context of the caller."""
        try:
            return self._portal.start_task_soon(verb, self.client)
        except RuntimeError:
            if self._is_closed:
                raise ClientClosed("the client was closed meanwhile") from None
            raise

    def close(self) -> None:
        """Leave the client, and end the thread."""
        self._is_closed = True
        try:
            self._stack.close()
        finally:
            _runtimes.discard(self)

    def abandon(self) -> None:
        """This is the child of a fork, and the connection belongs to the parent's session.

        Let go of its sockets, so that the plane sees the connection end when the parent ends it.
        Not by closing them: the number would be given to the next file, and who finalizes the
        objects that still hold it would close that. Nothing is said, and the event loop is not
        touched, for it shares what it polls with the parent.
        """
        _abandoned.append(self)
        for channel in self._channels:
            number = getattr(channel, "fileno", lambda: -1)()
            if number >= 0:
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, number, inheritable=False)
                os.close(nothing)

    @asynccontextmanager
    async def _tracked(self) -> AsyncIterator[Channel]:
        async with self._dial() as channel:
            self._channels.add(channel)
            try:
                yield channel
            finally:
                self._channels.discard(channel)


_clients: weakref.WeakSet[BlockingClient] = weakref.WeakSet()
_runtimes: set[_Runtime] = set()
_abandoned: list[_Runtime] = []
"""What a fork left behind is never finalized: that would act on the parent's event loop."""


def _after_fork_in_child() -> None:
    for runtime in _runtimes:
        runtime.abandon()
    _runtimes.clear()
    for client in list(_clients):
        client._renew()


def _close_all() -> None:
    """The interpreter ends: say goodbye while threads still run."""
    for client in list(_clients):
        client.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
