"""Submitting and waiting: what a session owes its users, beyond any one connection.

Everything said to the plane that has no final answer is remembered and said again after a
reconnect: submissions that were not accepted (same ids, marked as sent before), jobs that somebody
waits for, questions that were not answered. Nothing here waits for the network but the caller's own
coroutine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar, Unpack, overload

import anyio
import anyio.lowlevel

from creche.errors import (
    CrecheError,
    DuplicateJob,
    InvalidArguments,
    PlaneUnreachable,
    RemoteProtocolError,
    ResultForgotten,
    ResultTimeout,
    ScopeFull,
    StoreFullError,
    SubmissionRefused,
    SubmissionUncertain,
    SubmitTimeout,
    TaskDefinitionError,
    TooLarge,
    UnknownJob,
)
from creche.host import THIS_HOST, Host
from creche.model.ids import id_to_text, new_id
from creche.model.job import JobState
from creche.model.limits import TimeLimits
from creche.peer.asking import Asking
from creche.peer.calls import (
    checked_call,
    checked_options,
    checked_wait,
    each_value_is_one_argument,
    name_of,
    no_task,
    parts_of,
)
from creche.peer.cancels import Cancels
from creche.peer.credit import Credit
from creche.peer.handle import JobHandle, Outcome, to_id
from creche.peer.link import Link, fresh
from creche.peer.parent import current_parent
from creche.peer.patience import Patience
from creche.peer.waits import Waits
from creche.tasks.options import (
    PriorityLike,
    SubmitOptions,
    ViewOptions,
    check_by_clock,
    submission_options,
)
from creche.tasks.task import Task
from creche.wire import messages as m
from creche.wire.payload import encode_call

P = ParamSpec("P")
R = TypeVar("R")

_DECLINED: dict[str, type[SubmissionRefused]] = {
    "scope-full": ScopeFull,
    "store-full": StoreFullError,
}
_LATE_S = 1.0
"""How far back a moment may lie that a job is submitted for: clocks differ, and lines take time."""

_CHUNK = 1000
"""How many submissions of a `submit_many` are made between two checkpoints."""

_CANCEL_CHUNK = 50_000
"""How many ids one `Cancel` names: less than a megabyte of them."""

_WITHDRAW_S = 2.0
"""How long the plane may take to say what became of a submission that is withdrawn."""


class _Group:
    """Submissions that one caller waits for together: one event for all of them."""

    __slots__ = ("changed", "error", "left", "met", "until")

    def __init__(self) -> None:
        self.left = 0
        self.met: dict[bytes, JobHandle[Any]] | None = None
        """The jobs that some of them are, as they were there already, by the ids they had here."""
        self.until = math.inf
        """When `Patience` wakes the caller; who has a time limit of its own is not woken."""
        self.error: CrecheError | None = None
        self.changed = anyio.Event()


class Submitter:
    """The submitting half of a session; client and worker each hang one on their link.

    Args:
        link: the session's link. The owner passes `resume` and `handle` on to it.
        timeout_s: how long connecting, submitting and asking may take, in seconds; None: no bound.
        on_warning: called with what the plane wants a submitter to know.
        host: the machine that it runs on.
    """

    def __init__(
        self,
        link: Link,
        *,
        timeout_s: float | None = 30.0,
        on_warning: Callable[[str], None] | None = None,
        host: Host = THIS_HOST,
    ) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._on_warning = on_warning
        self._random = host.entropy
        self._clock = host.clock
        self._n = 0
        # What the plane has not answered, by number. In three tables, and not in a record each: of
        # what a program has by the ten thousand, the garbage collector looks at every object.
        self._unaccepted: dict[int, m.Submit] = {}
        self._groups: dict[int, _Group] = {}
        self._unsent: set[int] = set()
        self._patience = Patience(timeout_s, self._groups.values)
        self._waits = Waits(link)
        self._asking = Asking(link, self._time_limit, self._unreachable)
        self._cancels = Cancels(self._ask_to_cancel)
        self._withdrawals = Cancels(partial(self._ask_to_cancel, is_withdrawal=True))
        self._credit = Credit(link)
        self._payload_limit = 0
        self._plane = ""
        self._ahead_s = 0.0

    # --- what the link calls --------------------------------------------------------------------

    def resume(self, welcome: m.Welcome) -> Iterable[m.Message]:
        """Return what to say first on a new connection.

        Raises:
            RemoteProtocolError: the welcome does not say what it must.
        """
        self._credit.grant(_limit(welcome, "unaccepted"), _limit(welcome, "unaccepted_bytes"))
        self._payload_limit = _limit(welcome, "payload_bytes")
        self._plane = str(welcome.limits.get("plane", ""))
        # Ids tell the plane how old they are, so they are made by its clock.
        now = welcome.limits.get("now")
        self._ahead_s = now - self._clock() if isinstance(now, float) else 0.0
        for n, message in self._unaccepted.items():
            if n not in self._unsent:
                message = message._replace(flags=message.flags | m.RESENT)
            yield message
        self._unsent.clear()
        submitted = {message.id for message in self._unaccepted.values()}
        yield from self._waits.resume(submitted, _limit(welcome, "watches"))
        yield from self._asking.resume()
        self._credit.wake()

    def handle(self, messages: Iterable[m.Message]) -> None:
        """Take the plane's answers.

        Raises:
            RemoteProtocolError: it said something that a plane does not say here.
        """
        received: list[bytes] = []
        for message in messages:
            kind = type(message)
            if kind is m.Ended:
                received.append(message.id)  # type: ignore[union-attr]
                self._waits.end(message.id, message.state, message.outcome, None)  # type: ignore[union-attr]
            elif kind is m.Accepted:
                for n in message.ns:  # type: ignore[union-attr]
                    self._settle(n, None)
            else:
                self._on_rare(message)
        if received:
            self._link.post(m.Received(received))
        self._credit.wake()

    def fail(self, error: CrecheError) -> None:
        """The session has ended for good: everybody who waits is told why."""
        for n, message in list(self._unaccepted.items()):
            text = id_to_text(message.id)
            doubt = SubmissionUncertain(f"job {text} was sent, and not answered: {error}")
            self._settle(n, error if n in self._unsent else doubt)
        self._waits.fail(error)
        self._asking.fail(error)
        self._credit.wake()

    async def keep_time(self) -> None:
        """Wake submissions that wait for too long. The owner runs this beside the link; where it
        does not run, each submission keeps its own time."""
        await self._patience.run()

    # --- submitting -----------------------------------------------------------------------------

    async def submit(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Ask the plane to run *task* once, and return when it has stored the job.

        Waits while the job's lane is full, for the client's timeout at most. If cancelled, the job
        may or may not be stored.

        Raises:
            InvalidArguments: the arguments do not fit the task's signature; nothing was sent.
            NotEncodable, TooLarge: they cannot be carried; nothing was sent.
            SubmissionRefused: the plane said no, with its reason; nothing was stored. A
                `DuplicateJob`: a job of a unique task is there, and the task's rule is to refuse.
            SubmitTimeout: there was no room in time; the submission was withdrawn.
            PlaneUnreachable: no plane answered in time, and nothing was sent.
            SubmissionUncertain: it was sent, and the answer did not come in time.
        """
        if not isinstance(task, Task):
            raise no_task(task)
        task.signature.check(args, kwargs)
        facts = task.facts_of(args, kwargs)
        handle: JobHandle[R] = await self._submit(
            task.name, args, kwargs, task.options, watch=True, facts=facts
        )
        return handle

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
        """Submit by name or task, fire and forget; the handle can be waited for all the same.

        As `submit`, but that ``priority``, ``queue``, ``countdown`` and ``eta`` belong to Creche: a
        task with parameters of these names is submitted by `submit`. Without the task's code at
        hand the worker checks the arguments.
        """
        name = name_of(task)
        options = checked_options(queue, priority, countdown, eta)
        facts: m.Facts = {}
        if isinstance(task, Task):
            task.signature.check(args, kwargs)
            options = options.over(task.options)
            facts = task.facts_of(args, kwargs)
        return await self._submit(name, args, kwargs, options, watch=False, facts=facts)

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
            TaskDefinitionError: an option is unknown or cannot be; nothing was sent.
        """
        name = name_of(task)
        args, kwargs = checked_call(args, kwargs)
        facts: m.Facts = {}
        if isinstance(task, Task):
            task = task.with_options(**options) if options else task
            task.signature.check(args, kwargs)
            said, facts = task.options, task.facts_of(args, kwargs)
        else:
            said = submission_options("send", options, self._clock())
            if options.get("unique") is False:
                facts = {"unique": False}
        return await self._submit(name, args, kwargs, said, watch=False, facts=facts)

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
        ``watch=False`` results are not pushed until somebody waits for them: for jobs that are
        left to themselves. When one is refused or cannot be sent, the first error is raised, and
        the others may be stored, whether before or after it; a note says so. The client's timeout
        bounds how long it may go without progress.
        """
        name = name_of(task)
        known = task if isinstance(task, Task) else None
        options = known.options if known else SubmitOptions()
        extras = self._extras(options)
        if options.idempotency_key is not None:
            raise InvalidArguments(
                "one idempotency key is one job: give each call a key of its own, by with_options "
                "and submit"
            )
        group = _Group()
        handles: list[JobHandle[Any]] = []
        is_whole = False
        with self._time_limit() as limit:
            for i, call in enumerate(calls):
                args, kwargs = parts_of(call)
                said = extras
                if known is not None:
                    known.signature.check(args, kwargs)
                    said = _with_facts(extras, known.facts_of(args, kwargs))
                payload = self._encode(args, kwargs)
                if not self._credit.has_room(len(payload)):
                    self._extend(limit)
                    await self._credit.wait(len(payload))
                elif i % _CHUNK == _CHUNK - 1:
                    self._extend(limit)
                    await anyio.lowlevel.checkpoint()
                handles.append(self._begin(group, name, payload, options, said, watch))
            is_whole = True
            while group.left:
                left = group.left
                self._extend(limit)
                while group.left == left:
                    # A new one: it was set each time all that had been begun were accepted.
                    group.changed = anyio.Event()
                    with anyio.move_on_after(1.0):
                        await group.changed.wait()
        if group.left or not is_whole:
            await self._give_up(group, is_whole=is_whole)
        if group.error is not None:
            error = fresh(group.error)
            if len(handles) > 1:
                error.add_note(f"of {len(handles):,} calls the others may have been stored")
            raise error
        if group.met:
            handles = [group.met.get(handle.id_bytes, handle) for handle in handles]
        return handles

    async def map(
        self, task: Task[..., R] | str, values: Iterable[Any], *, ordered: bool = True
    ) -> AsyncGenerator[R, None]:
        """Run *task* once for each value and yield the results: in the order of the values, or,
        with ``ordered=False``, as they come. Raises what a failed job raises, where its turn
        comes."""
        with each_value_is_one_argument():
            handles = await self.submit_many(task, [(value,) for value in values])
        if ordered:
            for handle in handles:
                yield await handle.result()
        else:
            async for handle in self.as_completed(handles):
                yield await handle.result()

    async def as_completed(
        self, handles: Iterable[JobHandle[R]], *, timeout: float | None = None
    ) -> AsyncGenerator[JobHandle[R], None]:
        """Yield the handles in the order in which their jobs end. *timeout* seconds bound the
        whole; then `TimeoutError` is raised and the jobs go on."""
        timeout = checked_wait(timeout)
        deadline = None if timeout is None else anyio.current_time() + timeout
        ended: deque[JobHandle[R]] = deque()
        news = [anyio.Event()]

        def note(handle: JobHandle[R], outcome: Outcome) -> None:
            handle._outcome = outcome
            ended.append(handle)
            news[0].set()

        pending: list[tuple[JobHandle[R], Outcome, Callable[[], None]]] = []
        try:
            for handle in handles:
                outcome = self._watch(handle)
                listener: Callable[[], None] = partial(note, handle, outcome)
                pending.append((handle, outcome, listener))
                outcome.listen(listener)
            for _ in range(len(pending)):
                if not ended:
                    news[0] = anyio.Event()
                    seconds = None if deadline is None else deadline - anyio.current_time()
                    # The limit is around each wait and not around the yield: a scope must not be
                    # left open while the caller's own code runs.
                    with self._lending(), anyio.fail_after(seconds):
                        await news[0].wait()
                yield ended.popleft()
        finally:
            for handle, outcome, listener in pending:
                outcome.unlisten(listener)
                self._waits.abandon(handle.id_bytes, outcome)

    # --- waiting and asking ---------------------------------------------------------------------

    @overload
    async def result(self, job: JobHandle[R], timeout: float | None = None) -> R: ...
    @overload
    async def result(self, job: str, timeout: float | None = None) -> Any: ...
    async def result(self, job: JobHandle[Any] | str, timeout: float | None = None) -> Any:
        """Wait for a job's end and return its result; see `JobHandle.result`."""
        timeout = checked_wait(timeout)
        outcome = self._watch(job)
        is_mine = isinstance(job, JobHandle) and job._submitter is self
        if not outcome.is_known:
            try:
                with self._lending(), _limit_of(timeout):
                    await outcome.wait()
            except BaseException:
                self._waits.abandon(to_id(job), outcome)
                raise
        if is_mine:
            job._outcome = outcome  # type: ignore[union-attr]
        if not outcome.is_known:
            # The watch stays: a handle that is asked again and again finds the answer some time.
            outcome.is_promised = True
            raise ResultTimeout(str(job), timeout if timeout is not None else 0.0)
        return outcome.value(str(job))

    async def cancel(self, ids: Sequence[bytes], reason: str = "") -> list[JobState | None]:
        """Cancel jobs; return the state each is in then, None for one the plane does not know. Very
        many are cancelled in pieces: when one of these fails, those before it are cancelled."""
        return await self._cancel(ids, reason, self._cancels)

    async def _cancel(
        self, ids: Sequence[bytes], reason: str, single: Cancels, *, is_withdrawal: bool = False
    ) -> list[JobState | None]:
        if len(ids) == 1:
            state = await single.cancel(ids[0], reason)
            return [None if state is None else JobState(state)]
        states: list[JobState | None] = []
        for start in range(0, max(1, len(ids)), _CANCEL_CHUNK):
            some = list(ids[start : start + _CANCEL_CHUNK])
            answer = await self._ask_to_cancel(some, reason, is_withdrawal=is_withdrawal)
            states += [None if state is None else JobState(state) for state in answer]
        return states

    async def _ask_to_cancel(
        self, ids: list[bytes], reason: str, *, is_withdrawal: bool = False
    ) -> Sequence[int | None]:
        states: Sequence[int | None] = await self._asking.ask(
            partial(m.Cancel, ids=ids, why=reason, is_withdrawal=is_withdrawal)
        )
        return states

    async def ask(self, question: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the plane a question, or give it a command, by name; `docs/protocol.md` lists them.

        Raises:
            Refused: the plane does not know the question, or refuses it; `code` says why.
            NotEncodable: *params* hold something that a question cannot carry.
            PlaneUnreachable: no answer within the client's timeout.
        """
        return await self._asking.ask(lambda ref: m.Ask(ref, question, dict(params or {})))

    def watch_topic(self, topic: str, *, hz: float = 5.0) -> AsyncGenerator[Any, None]:
        """Yield views of *topic* as they change, at most *hz* a second; a slow reader skips to the
        newest. Ends with the caller's block, and lives through reconnects.

        Raises:
            Refused: the plane has no such topic, or does not send it that often.
        """
        return self._asking.watch_topic(topic, hz)

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
        facts: m.Facts,
    ) -> JobHandle[Any]:
        payload = self._encode(args, kwargs)
        extras = _with_facts(self._extras(options), facts)
        group = _Group()
        handle: JobHandle[Any] | None = None
        if self._patience.is_kept and self._credit.has_room(len(payload)):
            handle = self._begin(group, name, payload, options, extras, watch)
            self._patience.begin(group)
            await group.changed.wait()
        else:
            with self._time_limit():
                await self._credit.wait(len(payload))
                handle = self._begin(group, name, payload, options, extras, watch)
                await group.changed.wait()
        # The answer may have come in the moment in which the time was up: it counts.
        if handle is None or group.left:
            await self._give_up(group, is_whole=handle is not None)
        if group.error is not None:
            raise fresh(group.error)
        assert handle is not None
        return group.met.get(handle.id_bytes, handle) if group.met else handle

    def _encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        payload = encode_call(args, kwargs)
        if self._payload_limit and len(payload) > self._payload_limit:
            raise TooLarge("the encoded arguments", len(payload), self._payload_limit)
        return payload

    def _time_limit(self) -> anyio.CancelScope:
        return anyio.move_on_after(self._timeout_s)

    def _extend(self, limit: anyio.CancelScope) -> None:
        """Moving on is what is bounded, not the length of a list."""
        if self._timeout_s is not None:
            limit.deadline = anyio.current_time() + self._timeout_s

    def _begin(
        self,
        group: _Group,
        name: str,
        payload: bytes,
        options: SubmitOptions,
        extras: m.Facts | None,
        watch: bool,
    ) -> JobHandle[Any]:
        """Put one submission into the outbox and remember it. No checkpoint."""
        self._n = n = self._n + 1
        job_id = new_id(self._clock() + self._ahead_s, self._random(10))
        outcome = self._waits.expect(job_id) if watch else None
        message = m.Submit(
            n,
            job_id,
            name,
            options.queue,
            None if options.priority is None else int(options.priority),
            payload,
            m.WATCH if outcome is not None else 0,
            extras,
        )
        self._unaccepted[n] = message
        self._groups[n] = group
        self._credit.take(len(payload))
        if not self._link.is_connected:
            self._unsent.add(n)
        group.left += 1
        self._link.post(message)
        return JobHandle.make(self, job_id, outcome)

    def _extras(self, options: SubmitOptions) -> m.Facts | None:
        """Return what most submissions do not have.

        Raises:
            InvalidArguments: the moment that they are for has passed, or they could never run.
        """
        parent = current_parent.get()
        if parent is None and options.is_plain:
            return None
        try:
            check_by_clock("this submission", options, self._clock())
        except TaskDefinitionError as error:
            raise InvalidArguments(str(error)) from None
        extras: m.Facts = {}
        if options.delivery is not None:
            extras["delivery"] = options.delivery
        if options.retry:
            extras["retry"] = dict(options.retry)
        if options.limits is not None:
            extras["limits"] = self._limits(options.limits)
        if options.headers:
            extras["headers"] = dict(options.headers)
        if options.idempotency_key is not None:
            extras["idempotency_key"] = options.idempotency_key
        if options.countdown:
            extras["delay_s"] = options.countdown
        elif options.eta is not None:
            extras["due_at"] = self._moment("eta", options.eta.timestamp())
        if parent is not None and parent.plane == self._plane:
            extras["parent"] = list(parent.token)
        return extras or None

    def _moment(self, option: str, moment: float) -> float:
        if self._clock() - moment > _LATE_S:
            said = datetime.fromtimestamp(moment, UTC).isoformat(" ", "seconds")
            raise InvalidArguments(
                f"{option}={said} is in the past, where no job can run: leave it out, or move it"
            )
        return moment

    def _limits(self, limits: TimeLimits) -> m.Facts:
        if limits.deadline_at is not None:
            self._moment("deadline", limits.deadline_at)
        return limits.as_data()

    def _lending(self) -> AbstractContextManager[None]:
        parent = current_parent.get()
        if parent is None or parent.plane != self._plane:
            return nullcontext()
        return parent.waiting()

    def _settle(self, n: int, error: CrecheError | None) -> None:
        group = self._groups.get(n)
        message = self._take_out(n)
        if group is None or message is None:
            return
        group.left -= 1
        if error is not None:
            self._waits.forget(message.id)
            group.error = group.error or error
        if group.left == 0:
            group.changed.set()

    def _meet(self, message: m.Existing) -> None:
        """A submission is a job that was there already, or is refused because of it."""
        group, said = self._groups.get(message.n), self._unaccepted.get(message.n)
        if group is None or said is None:
            return
        if message.is_refused:
            self._settle(message.n, DuplicateJob(id_to_text(message.id), said.task))
            return
        outcome = self._waits.exchange(said.id, message.id)
        group.met = group.met or {}
        group.met[said.id] = JobHandle.make(self, message.id, outcome, is_existing=True)
        self._settle(message.n, None)

    def _take_out(self, n: int) -> m.Submit | None:
        message = self._unaccepted.pop(n, None)
        if message is not None:
            del self._groups[n]
            self._unsent.discard(n)
            self._credit.give_back(len(message.payload))
        return message

    async def _give_up(self, group: _Group, *, is_whole: bool) -> None:
        """The time for *group* is up: withdraw what was not accepted, and raise what is known.

        Returns if all of it was accepted in the meantime. Not *is_whole*: something of it was not
        even begun, as there was no room or no connection.
        """
        late = {n: self._unaccepted[n].id for n, other in self._groups.items() if other is group}
        was_sent = not self._unsent.issuperset(late)
        states = await self._withdraw(list(late.values()))
        withdrawn = doubtful = 0
        for (n, job_id), state in zip(late.items(), states, strict=True):
            if state is JobState.CANCELLED:
                withdrawn += 1
            elif n in self._unaccepted:
                doubtful += 1
            if self._take_out(n) is not None:
                self._waits.forget(job_id)
        self._credit.wake()
        some = id_to_text(next(iter(late.values()))) if len(late) == 1 else f"{len(late):,} jobs"
        limit = "in time" if self._timeout_s is None else f"within {self._timeout_s:g} s"
        if doubtful and was_sent:
            raise SubmissionUncertain(f"{some}: sent, and not answered {limit}")
        if doubtful or (not is_whole and not self._link.is_connected):
            raise self._unreachable()
        if withdrawn:
            what = "it was" if withdrawn == 1 else f"{withdrawn:,} were"
            raise SubmitTimeout(
                f"the plane had no room for {some} {limit}; {what} withdrawn and will not run"
            )
        if not is_whole:
            raise SubmitTimeout(
                f"submissions of this client ({len(self._unaccepted):,}) already wait to be "
                f"accepted, and none was {limit}: this was not sent"
            )

    async def _withdraw(self, ids: Sequence[bytes]) -> Sequence[JobState | None]:
        """Cancel submissions; return the state of each, None where it is not known."""
        if ids and self._link.is_connected:
            with anyio.move_on_after(_WITHDRAW_S):
                try:
                    # What was accepted in this moment is left alone, and counts.
                    why = "withdrawn by its submitter"
                    return await self._cancel(ids, why, self._withdrawals, is_withdrawal=True)
                except CrecheError:
                    pass  # Nothing is known then, and that is what is said.
        return [None] * len(ids)

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
        return self._waits.watch(to_id(job))

    def _on_rare(self, message: m.Message) -> None:
        if isinstance(message, m.Declined):
            error = _DECLINED.get(message.code, SubmissionRefused)(message.code, message.why)
            if message.code == "uncertain":
                self._settle(message.n, SubmissionUncertain(message.why))
            else:
                self._settle(message.n, error)
        elif isinstance(message, m.Existing):
            self._meet(message)
        elif isinstance(message, m.Warned):
            if self._on_warning is not None:
                self._on_warning(message.why)
        elif isinstance(message, m.Missing):
            kind = ResultForgotten if message.is_forgotten else UnknownJob
            self._waits.end(message.id, None, None, kind(id_to_text(message.id)))
        elif isinstance(message, m.Answer):
            self._asking.on_answer(message)
        elif isinstance(message, m.AskFailed):
            self._asking.on_failed(message)
        elif isinstance(message, m.View):
            self._asking.on_view(message)
        else:
            raise RemoteProtocolError(f"the plane sent a {type(message).__name__} to a client")


def _with_facts(extras: m.Facts | None, facts: m.Facts) -> m.Facts | None:
    """Return what is said beside a submission's own fields, and of its arguments, if anything."""
    return {**(extras or {}), **facts} if facts else extras


def _limit_of(timeout_s: float | None) -> AbstractContextManager[object]:
    # A scope without an end is not free.
    return nullcontext() if timeout_s is None else anyio.move_on_after(timeout_s)


def _limit(welcome: m.Welcome, name: str) -> int:
    value = welcome.limits.get(name)
    if type(value) is not int or value < 1:
        raise RemoteProtocolError(f"the plane's welcome says {name}={value!r}")
    return value
