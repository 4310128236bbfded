"""`current_job()`: what the code in a body can ask about the job it runs in, and do from there."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ParamSpec, TypeVar, Unpack, overload

import trio

from creche.errors import JobCancelled
from creche.model.headers import Header
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.peer.blocking import BlockingJobHandle, inner
from creche.peer.handle import JobHandle
from creche.peer.parent import current_parent
from creche.peer.submitter import Submitter
from creche.tasks.options import PriorityLike, ViewOptions
from creche.tasks.task import Task
from creche.worker.attempt import Attempt

CLEANUP_S = 5.0
"""How long a job that was cancelled may take to clean up, unless it says otherwise."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def current_job() -> JobContext:
    """Return the job in whose body this is called.

    Raises:
        RuntimeError: there is none. A thread that a body began itself is outside, unless it was
        given
            the body's context (`contextvars.copy_context`).
    """
    attempt = current_parent.get()
    if not isinstance(attempt, Attempt):
        raise RuntimeError("current_job() is for code that runs inside a job")
    return JobContext(attempt)


class JobContext:
    """The running job, seen from inside."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def id(self) -> str:
        """The job's id."""
        return id_to_text(self._attempt.id)

    @property
    def task(self) -> str:
        """The name of the task."""
        return self._attempt.task.name

    @property
    def attempt(self) -> int:
        """Which attempt at the job this is, from 1: one more than those that have failed or whose
        worker was lost. A snooze, and an attempt that was given back before it began, do not
        count."""
        return self._attempt.tries + 1

    @property
    def fence(self) -> tuple[int, int]:
        """What tells this attempt from every other at the job, and grows from one to the next: a
        fencing token. Whatever the job writes to may refuse a lower one than it has seen, as that
        of an attempt which was stopped and does not know yet that it has lost its right."""
        _, epoch, attempt = self._attempt.token
        return epoch, attempt

    @property
    def priority(self) -> Priority:
        """The priority at which the job was taken."""
        return Priority(self._attempt.priority)

    @property
    def worker(self) -> str:
        """The id of the worker."""
        return self._attempt.home.worker_id

    @property
    def is_stopping(self) -> bool:
        """Whether the job should leave: it was cancelled, its time is up, or the worker has lost
        its right to it.

        A coroutine is cancelled then. A thread cannot be: a long one should look here now and then,
        and return, or call `raise_if_cancelled`. One that has seen it and returns is recorded as
        cancelled, and not as done.
        """
        attempt = self._attempt
        if attempt.is_told_to_leave:
            attempt.has_seen_stop = True
            return True
        return False

    @property
    def cancelled(self) -> bool:
        """The same as `is_stopping`."""
        return self.is_stopping

    def raise_if_cancelled(self) -> None:
        """Leave from here if the job should leave.

        Raises:
            JobCancelled: it should.
        """
        if self.is_stopping:
            raise JobCancelled(self.id, f"was stopped: {self._why}")

    @property
    def is_late(self) -> bool:
        """Whether the job's soft time limit has passed: it should come to an end. From then on a
        block of `soft_scope` is left. A job that should leave is late as well."""
        return self.is_stopping or self._attempt.is_late

    @property
    def deadline(self) -> datetime | None:
        """The moment at which the job is stopped: by its time limit, or its deadline; None if there
        is neither."""
        end = self._attempt.hard_end
        if end == math.inf:
            return None
        try:
            return datetime.now(UTC) + timedelta(seconds=end - self._attempt.home.clock())
        except OverflowError:  # the last moment there is, and it was rounded up
            return datetime.max.replace(tzinfo=UTC)

    @property
    def headers(self) -> dict[str, Header]:
        """What the job was submitted with beside its arguments; see `Task.with_options`."""
        return dict(self._attempt.headers or {})

    @property
    def scope(self) -> None:
        """The scope that the job belongs to. There are none yet."""
        return None

    @property
    def logger(self) -> JobLogger:
        """A logger whose lines name the task, the job and its attempt, and whose records have them
        as ``task``, ``job_id`` and ``attempt``."""
        facts = {"task": self.task, "job_id": self.id, "attempt": self.attempt}
        return JobLogger(logging.getLogger("creche.job"), facts)

    def soft_scope(self) -> trio.CancelScope:
        """Return a cancel scope that ends at the job's soft time limit: for ``async def`` tasks
        that have something to hand in when time is short. ``cancelled_caught`` says that it was
        left."""
        return trio.CancelScope(deadline=self._attempt.soft_end)

    def cleanup(self, seconds: float = CLEANUP_S) -> trio.CancelScope:
        """Return a cancel scope for what has to be done although the job was cancelled: nothing
        cancels it from outside for so many seconds. For the ``finally`` of ``async def`` tasks; the
        job's slot is free when its body has left."""
        return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)

    @property
    def _why(self) -> str:
        return _why(self._attempt)

    @property
    def client(self) -> Submitter:
        """Submits and waits, over the worker's own session. For ``async def`` tasks on Trio; those
        on asyncio use a `Client` of their own.

        Raises:
            RuntimeError: the job runs on asyncio.
        """
        if self._attempt.executor == "asyncio":
            raise RuntimeError(
                "this job runs on asyncio, and current_job().client is on the worker's Trio loop: "
                "use `async with Client() as client`"
            )
        return _submitter(self._attempt)

    @property
    def blocking(self) -> BlockingVerbs:
        """The same for ``def`` tasks: each call blocks the thread until it is done."""
        return BlockingVerbs(self._attempt)

    def __repr__(self) -> str:
        return f"<job {self.id} ({self.task}, attempt {self.attempt})>"


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """What `JobContext.logger` is."""

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        """Put the job before the message, and its facts into the record, beside the caller's."""
        facts = dict(self.extra or {})
        kwargs["extra"] = {**facts, **(kwargs.get("extra") or {})}
        task = str(facts["task"]).replace("%", "")  # which would be read as a place for an argument
        return f"{task} {facts['job_id']} (attempt {facts['attempt']}): {msg}", kwargs


class BlockingVerbs:
    """Submitting and waiting from a body that runs in a thread.

    Each raises as the client's verb of that name, and `JobCancelled` when the job around it is
    stopped while it waits.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def submit(
        self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingJobHandle[R]:
        """Submit a job; return when it is stored. See `Client.submit`."""

        async def submit() -> JobHandle[R]:
            return await self._client.submit(task, *args, **kwargs)

        return self._handle(self._call(submit))

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
        """Submit by name or task. See `Client.delay`."""
        ours: dict[str, Any] = {
            "priority": priority,
            "queue": queue,
            "countdown": countdown,
            "eta": eta,
        }
        return self._handle(self._call(self._client.delay, task, *args, **ours, **kwargs))

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
        """Submit by name or task with all that a submission may say. See `Client.send`."""

        async def send() -> JobHandle[Any]:
            return await self._client.send(task, args, kwargs, **options)

        return self._handle(self._call(send))

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
        """Submit one job a call. See `Client.submit_many`. *calls* is read in this thread."""
        handles: list[JobHandle[Any]] = self._call(
            self._client.submit_many, task, list(calls), watch=watch
        )
        return [self._handle(handle) for handle in handles]

    @overload
    def result(
        self, job: BlockingJobHandle[R] | JobHandle[R], timeout: float | None = None
    ) -> R: ...
    @overload
    def result(self, job: str, timeout: float | None = None) -> Any: ...
    def result(
        self, job: BlockingJobHandle[Any] | JobHandle[Any] | str, timeout: float | None = None
    ) -> Any:
        """Wait for a job's end, and return its result. The slot is lent meanwhile."""
        return self._call(self._client.result, inner(job), timeout)

    def status(self, job: BlockingJobHandle[Any] | JobHandle[Any] | str) -> JobState:
        """Ask the plane where a job is in its life. See `Client.status`."""
        return self._call(self._known(job).status)

    def cancel(
        self, job: BlockingJobHandle[Any] | JobHandle[Any] | str, reason: str = ""
    ) -> JobState:
        """Cancel a job. See `JobHandle.cancel`."""
        return self._call(self._known(job).cancel, reason)

    def _handle(self, handle: JobHandle[R]) -> BlockingJobHandle[R]:
        return BlockingJobHandle.make(self, handle)

    def _known(self, job: BlockingJobHandle[Any] | JobHandle[Any] | str) -> JobHandle[Any]:
        known = inner(job)
        return known if isinstance(known, JobHandle) else self._client.job(known)

    @property
    def _client(self) -> Submitter:
        return _submitter(self._attempt)

    def _call(self, verb: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T:
        home = self._attempt.home
        if self._attempt.executor == "asyncio" and asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "current_job().blocking would block the asyncio loop: use `async with Client() as "
                "client`, or call it from a thread (asyncio.to_thread)"
            )
        if os.getpid() != home.pid:
            raise RuntimeError("a process that a job has forked has no connection to the plane")
        call = partial(verb, *args, **kwargs)
        return trio.from_thread.run(self._stoppable, call, trio_token=home.trio_token)

    async def _stoppable(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        attempt = self._attempt
        if attempt.scopes is None:
            attempt.scopes = []
        with trio.CancelScope(deadline=attempt.hard_end) as scope:
            attempt.scopes.append(scope)
            if attempt.stop_why is not None:
                scope.cancel()
            try:
                return await call()
            finally:
                attempt.scopes.remove(scope)
        raise JobCancelled(id_to_text(attempt.id), f"was stopped: {_why(attempt)}")


def _submitter(attempt: Attempt) -> Submitter:
    if attempt.home.submitter is None:
        raise RuntimeError(
            "this job runs in a process of its own, which has no connection to the plane: use "
            "`with BlockingClient() as client`"
        )
    return attempt.home.submitter


def _why(attempt: Attempt) -> str:
    """Return why a body is to leave."""
    if attempt.stop_why is None:
        return "its time is up"
    return attempt.stop_why or "it was cancelled"
