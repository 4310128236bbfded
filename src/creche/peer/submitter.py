"""Submitting and waiting: what a session owes its users, beyond any one connection.

Everything said to the plane that has no final answer is remembered here and said again after a
reconnect: submissions that were not accepted (same ids, marked as sent before), jobs that somebody
waits for, questions that were not answered. Nothing here waits for the network but the caller's own
coroutine."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.lowlevel

from creche.errors import (
    ClientClosed,
    CrecheError,
    PlaneUnreachable,
    Refused,
    ResultForgotten,
    ResultTimeout,
    ScopeFull,
    StoreFullError,
    SubmissionRefused,
    SubmissionUncertain,
    SubmitTimeout,
    TooLarge,
    UnknownJob,
)
from creche.model.ids import id_to_text, new_id
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.peer.handle import JobHandle, Outcome, to_id
from creche.peer.link import Link
from creche.peer.parent import current_parent
from creche.tasks.task import SubmitOptions, Task
from creche.wire import messages as m
from creche.wire.payload import encode_call

P = ParamSpec("P")
R = TypeVar("R")

_DECLINED: dict[str, type[SubmissionRefused]] = {
    "scope-full": ScopeFull,
    "store-full": StoreFullError,
}
_CHUNK = 1000
"""How many submissions of a `submit_many` are made between two checkpoints, and how many ids one
`Watch` names."""


class _Group:
    """Submissions that one caller waits for together: one event for all of them."""

    __slots__ = ("changed", "error", "left")

    def __init__(self) -> None:
        self.left = 0
        self.error: CrecheError | None = None
        self.changed = anyio.Event()


class _Submission:
    """A submission that the plane has not answered."""

    __slots__ = ("group", "message", "was_sent")

    def __init__(self, message: m.Submit, group: _Group) -> None:
        self.message = message
        self.group = group
        self.was_sent = False


class _Question:
    """Something asked and not answered; asked again after a reconnect, so it must bear that."""

    __slots__ = ("answer", "error", "event", "message")

    def __init__(self, message: m.Ask | m.Cancel) -> None:
        self.message = message
        self.event = anyio.Event()
        self.answer: Any = None
        self.error: CrecheError | None = None


class Submitter:
    """The submitting half of a session; client and worker each hang one on their link.

    Args:
        link: the session's link. The owner passes `resume` and `handle` on to it.
        timeout_s: how long connecting, submitting and asking may take, in seconds; None: no bound.
        on_warning: called with what the plane wants a submitter to know.
    """

    def __init__(
        self,
        link: Link,
        *,
        timeout_s: float | None = 30.0,
        on_warning: Callable[[str], None] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._on_warning = on_warning
        self._random = random
        self._clock = clock
        self._n = 0
        self._unaccepted: dict[int, _Submission] = {}
        self._room: anyio.Event | None = None
        self._waits: dict[bytes, Outcome] = {}
        self._questions: dict[int, _Question] = {}
        self._views: dict[int, _Subscription] = {}
        self._refs = 0
        self._credit = 1
        self._max_watches = 1
        self._payload_limit = 0
        self._plane = ""

    # --- what the link calls --------------------------------------------------------------------

    def resume(self, welcome: m.Welcome) -> Iterable[m.Message]:
        """Return what to say first on a new connection."""
        limits = welcome.limits
        self._credit = int(limits["unaccepted"])
        self._max_watches = int(limits["watches"])
        self._payload_limit = int(limits["payload_bytes"])
        self._plane = str(limits["plane"])
        for submission in self._unaccepted.values():
            message = submission.message
            if submission.was_sent:
                message = message._replace(flags=message.flags | m.RESENT)
            submission.was_sent = True
            yield message
        # Those not accepted are watched by their submission; asked for by id, they would be
        # unknown.
        unknown = {submission.message.id for submission in self._unaccepted.values()}
        waits = [job_id for job_id in self._waits if job_id not in unknown]
        for start in range(0, len(waits), _CHUNK):
            yield m.Watch(waits[start : start + _CHUNK])
        for question in self._questions.values():
            yield question.message
        for view in self._views.values():
            yield view.message

    def handle(self, messages: Iterable[m.Message]) -> None:
        """Take the plane's answers."""
        received = 0
        for message in messages:
            kind = type(message)
            if kind is m.Ended:
                received += 1
                self._on_ended(message)  # type: ignore[arg-type]
            elif kind is m.Accepted:
                for n in message.ns:  # type: ignore[union-attr]
                    self._settle(n, None)
            elif kind is m.View:
                self._on_view(message)  # type: ignore[arg-type]
            else:
                self._on_rare(message)
        if received:
            self._link.post(m.Received(received))

    def fail(self, error: CrecheError) -> None:
        """The session has ended for good: everybody who waits is told why."""
        for n in list(self._unaccepted):
            submission = self._unaccepted[n]
            text = id_to_text(submission.message.id)
            doubt = SubmissionUncertain(f"job {text} was sent, and not answered: {error}")
            self._settle(n, doubt if submission.was_sent else error)
        for outcome in self._waits.values():
            outcome.fill(None, None, error)
        self._waits.clear()
        for question in self._questions.values():
            question.error = error
            question.event.set()
        self._questions.clear()
        for view in self._views.values():
            view.fail(error)
        self._views.clear()

    # --- submitting -----------------------------------------------------------------------------

    async def submit(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Ask the plane to run *task* once, and return when it has stored the job.

        Waits while the job's lane is full, for the client's timeout at most. If cancelled, the job
        may or may not be stored.

        Raises:
            InvalidArguments: the arguments do not fit the task's signature; nothing was sent.
            NotEncodable, TooLarge: they cannot be carried; nothing was sent.
            SubmissionRefused: the plane said no, with its reason; nothing was stored.
            SubmitTimeout: there was no room in time; the submission was withdrawn.
            PlaneUnreachable: no plane answered in time, and nothing was sent.
            SubmissionUncertain: it was sent, and the answer did not come in time.
        """
        task.signature.check(args, kwargs)
        handle: JobHandle[R] = await self._submit(task.name, args, kwargs, task.options, watch=True)
        return handle

    async def delay(
        self,
        task: Task[..., R] | str,
        /,
        *args: Any,
        priority: Priority | str | None = None,
        queue: str | None = None,
        **kwargs: Any,
    ) -> JobHandle[R]:
        """Submit by name or task, fire and forget; the handle can be waited for all the same.

        As `submit`, but that ``priority`` and ``queue`` belong to Creche: a task with parameters of
        these names is submitted by `submit`. Without the task's code at hand the worker checks the
        arguments."""
        if isinstance(task, Task):
            task.signature.check(args, kwargs)
        urgency = None if priority is None else Priority.parse(priority)
        options = SubmitOptions(queue=queue, priority=urgency)
        if isinstance(task, Task):
            options = options.over(task.options)
        name = task.name if isinstance(task, Task) else task
        return await self._submit(name, args, kwargs, options, watch=False)

    async def submit_many(
        self,
        task: Task[..., R] | str,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        watch: bool = True,
    ) -> list[JobHandle[R]]:
        """Submit one job a call, in order, and return their handles when all are stored.

        A call is a sequence of positional arguments or a mapping of keyword arguments. With
        ``watch=False`` results are not pushed until somebody waits for them: for jobs that are
        left to themselves. When one is refused, the first error is raised; the others are stored.
        """
        known = task if isinstance(task, Task) else None
        name = task.name if isinstance(task, Task) else task
        options = known.options if known else SubmitOptions()
        group = _Group()
        handles: list[JobHandle[R]] = []
        with self._time_limit() as limit:
            for i, call in enumerate(calls):
                args, kwargs = ((), call) if isinstance(call, Mapping) else (call, {})
                if known is not None:
                    known.signature.check(args, kwargs)
                payload = self._encode(args, kwargs)
                if len(self._unaccepted) >= self._credit or not self._link.is_connected:
                    await self._wait_for_credit()
                elif i % _CHUNK == _CHUNK - 1:
                    await anyio.lowlevel.checkpoint()
                    # Moving on is what is bounded, not the length of the list.
                    if self._timeout_s is not None:
                        limit.deadline = anyio.current_time() + self._timeout_s
                handles.append(self._begin(group, name, payload, options, watch))
            while group.left:
                left = group.left
                with anyio.move_on_after(1.0):
                    await group.changed.wait()
                if group.left < left and self._timeout_s is not None:
                    limit.deadline = anyio.current_time() + self._timeout_s
        if limit.cancelled_caught:
            raise await self._give_up(group)
        if group.error is not None:
            raise group.error
        return handles

    async def map(
        self, task: Task[..., R] | str, values: Iterable[Any], *, ordered: bool = True
    ) -> AsyncIterator[R]:
        """Run *task* once for each value and yield the results: in the order of the values, or,
        with ``ordered=False``, as they come. Raises what a failed job raises, where its turn
        comes."""
        handles = await self.submit_many(task, [(value,) for value in values])
        if ordered:
            for handle in handles:
                yield await handle.result()
        else:
            async for handle in self.as_completed(handles):
                yield await handle.result()

    async def as_completed(
        self, handles: Iterable[JobHandle[R]], *, timeout: float | None = None
    ) -> AsyncIterator[JobHandle[R]]:
        """Yield the handles in the order in which their jobs end. *timeout* seconds bound the
        whole; then `TimeoutError` is raised and the jobs go on."""
        deadline = None if timeout is None else anyio.current_time() + timeout
        ended: deque[JobHandle[R]] = deque()
        news = [anyio.Event()]

        def note(handle: JobHandle[R]) -> None:
            ended.append(handle)
            news[0].set()

        left = 0
        for handle in handles:
            left += 1
            self._watch(handle).listen(partial(note, handle))
        while left:
            if not ended:
                news[0] = anyio.Event()
                seconds = None if deadline is None else deadline - anyio.current_time()
                # The limit is around each wait and not around the yield: a scope must not be left
                # open while the caller's own code runs.
                with self._lending(), anyio.fail_after(seconds):
                    await news[0].wait()
            left -= 1
            yield ended.popleft()

    # --- waiting and asking ---------------------------------------------------------------------

    async def result(self, job: JobHandle[R] | str, timeout: float | None = None) -> R:
        """Wait for a job's end and return its result; see `JobHandle.result`."""
        text = str.__str__(job)
        outcome = self._watch(job)
        if not outcome.is_known:
            with self._lending(), anyio.move_on_after(timeout):
                await outcome.wait()
            if not outcome.is_known:
                raise ResultTimeout(text, timeout if timeout is not None else 0.0)
        value: R = outcome.value(text)
        return value

    async def cancel(self, ids: Sequence[bytes], reason: str = "") -> list[JobState | None]:
        """Cancel jobs; return the state each is in then, None for one that the plane does not
        know."""
        self._refs += 1
        answer = await self._ask(m.Cancel(self._refs, list(ids), reason))
        return [None if state is None else JobState(state) for state in answer]

    async def ask(self, question: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the plane a question, or give it a command, by name; `docs/protocol.md` lists them.

        Raises:
            Refused: the plane does not know the question, or refuses it; `code` says why.
            PlaneUnreachable: no answer within the client's timeout.
        """
        self._refs += 1
        return await self._ask(m.Ask(self._refs, question, dict(params or {})))

    async def watch_topic(self, topic: str, *, hz: float = 5.0) -> AsyncIterator[Any]:
        """Yield views of *topic* as they change, at most *hz* a second; a slow reader skips to the
        newest. Ends with the caller's block, and lives through reconnects."""
        self._refs += 1
        view = self._views[self._refs] = _Subscription(m.Subscribe(self._refs, topic, hz))
        self._link.post(view.message)
        try:
            while True:
                yield await view.next()
        finally:
            self._views.pop(view.message.ref, None)
            self._link.post(m.Unsubscribe(view.message.ref))

    def job(self, job_id: str) -> JobHandle[Any]:
        """Return a handle for a job that somebody submitted.

        Raises:
            UnknownJob: *job_id* is no id at all.
        """
        return JobHandle.make(self, to_id(job_id))

    # --- inside ---------------------------------------------------------------------------------

    async def _submit(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: SubmitOptions,
        *,
        watch: bool,
    ) -> JobHandle[Any]:
        payload = self._encode(args, kwargs)
        group = _Group()
        with self._time_limit():
            if len(self._unaccepted) >= self._credit or not self._link.is_connected:
                await self._wait_for_credit()
            handle = self._begin(group, name, payload, options, watch)
            await group.changed.wait()
            if group.error is not None:
                raise group.error
            return handle
        raise await self._give_up(group)

    def _encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        payload = encode_call(args, kwargs)
        if self._payload_limit and len(payload) > self._payload_limit:
            raise TooLarge("the encoded arguments", len(payload), self._payload_limit)
        return payload

    def _time_limit(self) -> anyio.CancelScope:
        return anyio.move_on_after(self._timeout_s)

    async def _wait_for_credit(self) -> None:
        """Wait until there is a connection, and room for one more submission."""
        await self._link.wait_connected(None)
        while len(self._unaccepted) >= self._credit:
            if self._link.has_failed and self._link.failure is not None:
                raise self._link.failure
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    def _begin(
        self,
        group: _Group,
        name: str,
        payload: bytes,
        options: SubmitOptions,
        watch: bool,
    ) -> JobHandle[Any]:
        """Put one submission into the outbox and remember it. No checkpoint."""
        self._n = n = self._n + 1
        job_id = new_id(self._clock(), self._random(10))
        outcome: Outcome | None = None
        if watch and len(self._waits) < self._max_watches:
            outcome = self._waits[job_id] = Outcome()
        message = m.Submit(
            n,
            job_id,
            name,
            options.queue,
            None if options.priority is None else int(options.priority),
            payload,
            m.WATCH if outcome is not None else 0,
            self._extras(options),
        )
        submission = self._unaccepted[n] = _Submission(message, group)
        submission.was_sent = self._link.is_connected
        group.left += 1
        self._link.post(message)
        return JobHandle.make(self, job_id, outcome)

    def _extras(self, options: SubmitOptions) -> m.Facts | None:
        """Return what most submissions do not have."""
        parent = current_parent.get()
        if options.delivery is None and parent is None:
            return None
        extras: m.Facts = {}
        if options.delivery is not None:
            extras["delivery"] = options.delivery
        if parent is not None and parent.plane == self._plane:
            extras["parent"] = list(parent.token)
        return extras or None

    def _lending(self) -> AbstractContextManager[None]:
        parent = current_parent.get()
        if parent is None or parent.plane != self._plane:
            return nullcontext()
        return parent.waiting()

    def _settle(self, n: int, error: CrecheError | None) -> None:
        submission = self._unaccepted.pop(n, None)
        if submission is None:
            return
        group = submission.group
        group.left -= 1
        if error is not None:
            self._waits.pop(submission.message.id, None)
            group.error = group.error or error
        if group.left == 0:
            group.changed.set()
        if self._room is not None:
            self._room.set()
            self._room = None

    async def _give_up(self, group: _Group) -> CrecheError:
        """The time for a submission is up: withdraw it, and say what is known of it."""
        late = {n: s for n, s in self._unaccepted.items() if s.group is group}
        if not late:
            if self._link.is_connected:
                return SubmitTimeout(
                    f"{self._credit:,} submissions of this client already wait to be accepted: "
                    "nothing was sent"
                )
            return self._unreachable()
        ids = [submission.message.id for submission in late.values()]
        states: list[JobState | None] = []
        if self._link.is_connected:
            with anyio.move_on_after(2.0):
                states = await self.cancel(ids, "withdrawn by its submitter")
        for n in late:
            self._unaccepted.pop(n, None)
        for job_id in ids:
            self._waits.pop(job_id, None)
        some = id_to_text(ids[0]) if len(ids) == 1 else f"{len(ids)} jobs"
        limit = f"{self._timeout_s:g} s"
        if states and all(state in (None, JobState.CANCELLED) for state in states):
            return SubmitTimeout(
                f"the plane had no room for {some} within {limit}; withdrawn: nothing will run"
            )
        if not any(submission.was_sent for submission in late.values()):
            return self._unreachable()
        return SubmissionUncertain(f"{some}: sent, and not answered within {limit}")

    def _unreachable(self) -> PlaneUnreachable:
        failure = self._link.failure
        why = "no answer"
        if failure is not None:
            why = failure.why if isinstance(failure, PlaneUnreachable) else str(failure)
        return PlaneUnreachable(self._link.url, f"{why}; gave up after {self._timeout_s:g} s")

    def _watch(self, job: JobHandle[Any] | str) -> Outcome:
        """Return the outcome to wait for, and have it pushed if it is not already."""
        if isinstance(job, JobHandle) and job._outcome is not None and job._submitter is self:
            return job._outcome
        job_id = to_id(job)
        outcome = self._waits.get(job_id)
        if outcome is None:
            outcome = self._waits[job_id] = Outcome()
            self._link.post(m.Watch([job_id]))
        if isinstance(job, JobHandle) and job._submitter is self:
            job._outcome = outcome
        return outcome

    async def _ask(self, message: m.Ask | m.Cancel) -> Any:
        if self._link.has_failed:
            raise self._link.failure or ClientClosed("the client is closed")
        question = self._questions[message.ref] = _Question(message)
        self._link.post(message)
        try:
            with self._time_limit():
                await question.event.wait()
        finally:
            self._questions.pop(message.ref, None)
        if question.error is not None:
            raise question.error
        if not question.event.is_set():
            raise self._unreachable()
        return question.answer

    def _on_ended(self, message: m.Ended) -> None:
        outcome = self._waits.pop(message.id, None)
        if outcome is not None:
            try:
                state = JobState(message.state)
            except ValueError:
                state = None
            outcome.fill(state, message.outcome)

    def _on_view(self, message: m.View) -> None:
        view = self._views.get(message.ref)
        if view is not None:
            view.offer(message.body)

    def _on_rare(self, message: m.Message) -> None:
        if isinstance(message, m.Declined):
            error = _DECLINED.get(message.code, SubmissionRefused)(message.code, message.why)
            if message.code == "uncertain":
                self._settle(message.n, SubmissionUncertain(message.why))
            else:
                self._settle(message.n, error)
        elif isinstance(message, m.Warned):
            if self._on_warning is not None:
                self._on_warning(message.why)
        elif isinstance(message, m.Missing):
            outcome = self._waits.pop(message.id, None)
            if outcome is not None:
                text = id_to_text(message.id)
                kind = ResultForgotten if message.is_forgotten else UnknownJob
                outcome.fill(None, None, kind(text))
        elif isinstance(message, m.Answer):
            question = self._questions.get(message.ref)
            if question is not None:
                question.answer = message.body
                question.event.set()
        elif isinstance(message, m.AskFailed):
            question = self._questions.get(message.ref)
            if question is not None:
                question.error = Refused(message.code, message.why)
                question.event.set()
            view = self._views.get(message.ref)
            if view is not None:
                view.fail(Refused(message.code, message.why))


class _Subscription:
    """The newest view of a topic, and whoever waits for the next."""

    def __init__(self, message: m.Subscribe) -> None:
        self.message = message
        self._newest: Any = None
        self._error: CrecheError | None = None
        self._has_news = anyio.Event()

    def offer(self, body: Any) -> None:
        self._newest = body
        self._has_news.set()

    def fail(self, error: CrecheError) -> None:
        self._error = error
        self._has_news.set()

    async def next(self) -> Any:
        await self._has_news.wait()
        if self._error is not None:
            raise self._error
        self._has_news = anyio.Event()
        return self._newest
