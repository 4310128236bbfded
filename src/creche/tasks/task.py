"""`@task`, and the typed `Task` that it makes of a function.

Calling a task calls its function. Submitting one is the client's affair: it reads the task's
`name`, `signature` and `options`. A worker reads `function` and `executor`, and announces
`declaration`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import CodeType, FrameType
from typing import (
    Any,
    Generic,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    get_args,
    overload,
)

from creche.errors import TaskDefinitionError
from creche.model.limits import TimeLimits
from creche.tasks.flow import NO_FLOW, KeyLike, TaskFlow, make_flow
from creche.tasks.hooks import Hooks, HooksLike, make_hooks
from creche.tasks.lifespan import bind, find_resources
from creche.tasks.options import (
    MAX_NAME_LENGTH,
    Delivery,
    Errors,
    Executor,
    PriorityLike,
    Retries,
    SubmitOptions,
    ViewOptions,
    check_errors,
    check_name,
    check_together,
    check_unique,
    make_options,
    refuse_unknown,
)
from creche.tasks.registry import Registry, task_registry
from creche.tasks.schedules import Schedule, check_schedule, make_schedule
from creche.tasks.signature import Signature, printable
from creche.tasks.unique import (
    Debounce,
    TaskUnique,
    Throttle,
    UniqueLike,
    make_unique,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

MAX_DOC_LENGTH = 200
"""Characters of the first line of a docstring that are announced."""


class TaskOptions(TypedDict, total=False):
    """The options of `task`, whose description says what they mean. None is as if left out."""

    name: str | None
    queue: str | None
    priority: PriorityLike | None
    executor: Executor | None
    delivery: Delivery | None
    retries: Retries | None
    backoff: float | None
    backoff_max: float | None
    jitter: float | None
    give_up_after: float | None
    retry_on: Errors | None
    never_retry_on: Errors | None
    timeout: float | None
    soft_timeout: float | None
    expires: float | None
    before: HooksLike | None
    after: HooksLike | None
    on_error: HooksLike | None
    on_retry: HooksLike | None
    limit: int | None
    key: KeyLike | None
    rate: str | None
    rate_key: KeyLike | None
    unique: UniqueLike | None
    debounce: float | Debounce | None
    throttle: float | Throttle | None
    cron: str | None
    tz: str | None
    every: float | timedelta | None
    repeat_interval: float | None
    repeat_count: int | None
    repeat_until: datetime | str | None
    schedule: Schedule | None
    registry: Registry | None


class Task(Generic[P, R_co]):
    """A registered function. `task` makes them; nothing else should.

    ``P`` is the function's parameters. ``R_co`` is what a job of it results in: for an ``async
    def``, what awaiting it gives.
    """

    name: str
    function: Callable[P, Any]
    executor: Executor
    says_executor: bool
    """Whether the executor was named, and is not what the function suggests."""
    signature: Signature
    """What a job of it may be submitted with."""
    resources: Mapping[str, Any]
    """The parameters that are not submitted, but handed over by the worker: their types."""
    place: str
    """Where the function was written, as ``file:line``."""
    declared_in: str
    """The module that made it a task, or an empty text."""
    doc: str
    """The first line of the docstring, or an empty text."""
    defaults: SubmitOptions
    """What `task` was told: announced by workers, so that a submission by name has it too."""
    options: SubmitOptions
    """What a submission of this object asks for: `defaults`, and `with_options` over them. Of the
    retry policy and the time limits only what `with_options` has said: the rest is announced, and
    known to the worker."""
    limits: TimeLimits
    """How long its jobs may take unless a submission says otherwise."""
    retry_on: tuple[type[BaseException], ...]
    """What is worth another attempt. Judged by the worker that ran the attempt."""
    never_retry_on: tuple[type[BaseException], ...]
    """And what is not, though `retry_on` has it."""
    hooks: Hooks | None
    """What a worker calls around its bodies; None when there is nothing."""
    flow: TaskFlow
    """How many of its jobs run at a time, and how often they begin."""
    unique: TaskUnique | None
    """Which of its jobs count as one."""
    is_unique_off: bool
    """Whether a submission says that it is unique in no way, whatever the task says."""
    schedule: Schedule | None
    """When the plane submits it by itself."""

    def __init__(
        self,
        function: Callable[P, Any],
        name: str,
        signature: Signature,
        executor: Executor,
        options: SubmitOptions,
        retry_on: tuple[type[BaseException], ...] = (Exception,),
        never_retry_on: tuple[type[BaseException], ...] = (),
        *,
        says_executor: bool = False,
        hooks: Hooks | None = None,
        flow: TaskFlow = NO_FLOW,
        unique: TaskUnique | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        # First, as it copies the function's own attributes, and ours must win.
        functools.update_wrapper(self, function)
        source = _source_of(function)
        self.name = name
        self.function = function
        self.executor = executor
        self.says_executor = says_executor
        self._whole_signature = signature
        self.signature = signature
        self.resources = {}
        self.place = place_of_function(function)
        self.declared_in = str(caller().f_globals.get("__name__", ""))
        self.doc = printable((inspect.getdoc(source) or "").partition("\n")[0], MAX_DOC_LENGTH)
        self.defaults = options
        self.options = replace(options, retry=None, limits=None)
        self.limits = options.limits or TimeLimits()
        self.retry_on = retry_on
        self.never_retry_on = never_retry_on
        self.hooks = hooks
        self._whole_flow = self.flow = flow
        self._whole_unique = self._declared_unique = self.unique = unique
        self.is_unique_off = False
        self.schedule = schedule

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co | Coroutine[Any, Any, R_co]:
        """Call the function, here and now. No job is made."""
        result: R_co | Coroutine[Any, Any, R_co] = self.function(*args, **kwargs)
        return result

    def with_options(self, **options: Unpack[ViewOptions]) -> Self:
        """Return a view of this task, of the same name and function, that is submitted differently.

        What is not given stays as it is: ``client.submit(resize.with_options(priority="high"),
        path)``. The task itself does not change, and the view is not registered.

        Arguments:
            queue, priority, delivery: as of `task`.
            retries, backoff, backoff_max, jitter, give_up_after: as of `task`.
            timeout, soft_timeout, expires: as of `task`.
            deadline: the moment by which all of it must be over, further attempts included: a
                `datetime` with a time zone.
            countdown: run it so many seconds from now, and not before.
            eta: run it at this moment, and not before: a `datetime` with a time zone.
            headers: what travels with the job and is not for its function, as
                `current_job().headers`: names with texts, numbers, true, false or None.
            idempotency_key: a text of your own; as long as the plane knows a job of this task that
                was submitted with the same, it is that job.
            unique, debounce, throttle: as of `task`; ``unique=False`` for a job beside any other.

        Raises:
            TaskDefinitionError: an option is unknown, cannot be what it is given for, or
                contradicts another.
        """
        where = f"task {self.name!r}"
        refuse_unknown(where, "with_options()", options, list(ViewOptions.__annotations__))
        asked = make_options(where, options)
        view = self._view()
        view.options = asked.over(self.options)
        self._set_unique(view, where, options)
        check_together(where, view.options.over(self.defaults))
        check_unique(where, view.unique, view.options.over(self.defaults))
        return view

    def _set_unique(self, view: Self, where: str, options: Mapping[str, Any]) -> None:
        """Have *view* count as one with what *options* say, if they say anything of that."""
        if options.get("unique") is False:
            view.unique, view.is_unique_off = None, True
        unique = make_unique(where, options, self.function)
        if unique is not None:
            names = [parameter.name for parameter in self._whole_signature.parameters]
            view._whole_unique = unique
            view.unique = unique.without(where, names, self.resources)
            view.is_unique_off = False

    def facts_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a submission says of these arguments, beside them: the keys that tell it
        apart; mostly nothing.

        Raises:
            InvalidArguments: a key cannot be told from these arguments.
        """
        facts: dict[str, Any] = {}
        keys = self.flow.keys(self.name, args, kwargs)
        if keys is not None:
            facts["keys"] = keys
        if self.unique is not None:
            facts["unique"] = self.unique.said(self.name, args, kwargs)
        elif self.is_unique_off:
            facts["unique"] = False
        return facts

    def declaration(self) -> dict[str, Any]:
        """Return what a worker announces about this task.

        ``name``, ``module``, ``doc`` (first line) and ``executor`` are texts, ``signature`` is
        `Signature.data`; ``queue`` (text), ``priority`` (0 critical to 3 low) and ``delivery``
        (text) are None where the task leaves them open. A task with retries has ``retry``, as
        `RetryPolicy.from_data` takes it, and the names of the exceptions in ``retry_on`` and
        ``never_retry_on``; one with time limits has ``limits``, as `TimeLimits.from_data` takes
        them; one of which so many jobs run has ``flow``, as `Flow.from_data` takes it; one whose
        jobs count as one has ``unique``, as `unique.Rule.from_data` takes it. One with a schedule
        has its ``rule``, as `schedule.Rule.from_data` takes it, and ``args`` and ``kwargs`` as they
        are: a worker encodes them. Options of a view are not in it.
        """
        priority = self.defaults.priority
        declared: dict[str, Any] = {
            "name": self.name,
            "module": printable(self.module, MAX_NAME_LENGTH),
            "doc": self.doc,
            "signature": self.signature.data(),
            "queue": self.defaults.queue,
            "priority": None if priority is None else int(priority),
            "delivery": self.defaults.delivery,
            "executor": self.executor,
        }
        if self.defaults.limits is not None:
            declared["limits"] = self.defaults.limits.as_data()
        if self.flow.said:
            declared["flow"] = self.flow.said.as_data()
        if self._declared_unique is not None:
            declared["unique"] = self._declared_unique.rule.as_data()
        if self.defaults.retry:
            declared["retry"] = dict(self.defaults.retry)
            declared["retry_on"] = [each.__qualname__ for each in self.retry_on]
            declared["never_retry_on"] = [each.__qualname__ for each in self.never_retry_on]
        if self.schedule is not None:
            declared["schedule"] = self.schedule.declared()
        return declared

    def look_for_resources(self, provided: Iterable[Any]) -> None:
        """Take parameters of these types, and those that say `Resource`, out of the signature."""
        self.resources = find_resources(self.function, provided)
        self.signature = self._whole_signature.without(self.resources)
        names = [parameter.name for parameter in self._whole_signature.parameters]
        where = f"task {self.name!r}"
        self.flow = self._whole_flow.without(where, names, self.resources)
        if self._whole_unique is not None:
            self.unique = self._whole_unique.without(where, names, self.resources)
            self._declared_unique = self.unique
        if self.schedule is not None:
            check_schedule(where, self.schedule, self.signature)

    def with_resources(self, values: Iterable[tuple[Any, Any]]) -> Self:
        """Return a view of this task whose function is handed what it wants of *values*, types with
        what they are. The same task if it wants nothing.

        Raises:
            TaskDefinitionError: a type that it wants is not among them.
        """
        if not self.resources:
            return self
        offered = list(values)
        found: dict[str, Any] = {}
        for name, wanted in self.resources.items():
            fitting = [value for provides, value in offered if provides == wanted]
            if not fitting:
                raise TaskDefinitionError(_why_unprovided(self, name, wanted, offered))
            found[name] = fitting[0]
        positional = (p.name for p in self._whole_signature.parameters if p.kind <= 1)
        view = self._view()
        view.function = bind(self.function, found, positional)
        return view

    def with_hooks(self, common: Hooks) -> Self:
        """Return a view of this task that has the hooks that are *common* to all, before its own.
        The same task if there are none."""
        if not common:
            return self
        view = self._view()
        view.hooks = common if self.hooks is None else common + self.hooks
        return view

    def _view(self) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        return view

    @property
    def is_unique_anew(self) -> bool:
        """Whether its submissions say another rule than its announcement."""
        return self.unique is not None and self.unique != self._declared_unique

    @property
    def module(self) -> str:
        """The module that the function was written in, or an empty text."""
        return getattr(_source_of(self.function), "__module__", None) or ""

    def __repr__(self) -> str:
        return f"<task {self.name} ({self.place})>"


class SyncTask(Task[P, R_co]):
    """A task whose function is a ``def``: jobs run in the worker's threads, or in processes."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, here and now. No job is made."""
        result: R_co = self.function(*args, **kwargs)
        return result


class AsyncTask(Task[P, R_co]):
    """A task whose function is an ``async def``: jobs run on the worker's Trio loop, or on its
    asyncio loop."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the function, here and now. No job is made; await what this returns."""
        result: Coroutine[Any, Any, R_co] = self.function(*args, **kwargs)
        return result


@dataclass(frozen=True, slots=True)
class TaskDecorator:
    """What `task` returns when it is given options: it makes a task of a function."""

    # Type checkers warn that the overloads overlap: a function whose result is only known as
    # `object` becomes a `SyncTask`, though it may be an `async def`. Calling either kind does the
    # same, and whether jobs of it are awaited is decided by the function itself.

    _name: str | None
    _given: Mapping[str, Any]

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        """Make a task of *function* and register it. Raises as `task` does."""
        return _define(function, self._name, self._given)


@overload
def task(  # type: ignore[overload-overlap]
    function: Callable[P, Coroutine[Any, Any, R]], /, **options: Unpack[TaskOptions]
) -> AsyncTask[P, R]: ...
@overload
def task(function: Callable[P, R], /, **options: Unpack[TaskOptions]) -> SyncTask[P, R]: ...
@overload
def task(task_name: str | None = None, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
def task(subject: Any = None, /, **options: Any) -> Any:
    """Make a task of a function: ``@task``, ``@task("name")`` or ``@task(queue="images")``.

    Arguments:
        name: what jobs ask for. The function's own name when it is not given.
        queue: where its jobs go unless the submission says otherwise (``default``).
        priority: a `Priority`, its word, or 0 (least urgent) to 10 as Celery counts; normal when
            neither task nor submission say.
        executor: where its jobs run: for a ``def`` ``"thread"``, or ``"process"``, for what keeps a
            core busy or has to be killed when its time is up; for an ``async def`` ``"coroutine"``,
            on the worker's Trio loop, or ``"asyncio"``, for what needs libraries made for that. The
            function decides, and for an ``async def`` the worker's option.
        delivery: ``"at-least-once"``, or ``"at-most-once"`` for what must not run twice even if
            its worker is lost in the middle.
        retries: how often a job that has failed is tried again: a number, or ``"forever"``. None
            when it is left out.
        backoff: how many seconds to wait before the second attempt (1). It doubles with each one.
        backoff_max: the longest of these delays in seconds (600).
        jitter: which share of each delay is random, from 0 to 1 (0.1).
        give_up_after: how many seconds after its submission no further attempt is due.
        retry_on: the exceptions that are worth another attempt (`Exception`).
        never_retry_on: those among them that are not.
        timeout: how many seconds one attempt may run; then it is stopped, and has failed.
        soft_timeout: how many seconds it should run; then `current_job().is_late`.
        expires: how many seconds after its submission a job must have begun; else it does not run.
        before, after, on_error, on_retry: functions of one argument, a `HookInfo`, or lists of
            them, that are called before a body, after one that has succeeded, when one has failed,
            and before one that is not the first attempt at its job.
        limit: how many of its jobs run at a time, on all workers together.
        key: for what *limit* holds, each apart: the name of a parameter (``"user_id"``), with a
            path into it (``"order.customer"``), or a function of the arguments. Who submits by
            name has no function: that is refused then.
        rate: how many of its jobs begin in a time: ``"10/m"``, ``"100/30s"``.
        rate_key: for what *rate* holds, each apart: as *key*.
        unique: which of its jobs count as one: ``True``: those with equal arguments; the name of a
            parameter, several, or a function of the arguments, as for *key*; or a `Unique`, which
            says more. Of those, one waits or runs at a time: a further submission is that job.
        debounce: run it once so many seconds have passed without a further submission; or a
            `Debounce`.
        throttle: within so many seconds of a submission, a further one is that job; or a
            `Throttle`.
        cron: submit it at these times, in the zone *tz* (UTC): ``"0 3 * * *"``, ``"@daily"``.
        every: submit it each so many seconds.
        schedule: a `Schedule`, which can say more than these two, as the job's arguments.
        repeat_interval, repeat_count, repeat_until: FastWorker's names: as ``every``, and how
            often, and until when.
        registry: where the task is entered; the one that `creche worker` reads when not given.

    Raises:
        TaskDefinitionError: an option is unknown or contradicts another or the function, the
            function is of a kind that cannot be a task, or its name is taken by another function.
    """
    if subject is None or isinstance(subject, str):
        return TaskDecorator(subject, options)
    return _define(subject, None, options)


def _define(function: Any, first_name: str | None, given: Mapping[str, Any]) -> Task[..., Any]:
    where = describe(function)
    _refuse_options(where, first_name, given)
    _refuse_function(where, function)
    name = _name_of(where, function, given.get("name") if first_name is None else first_name)
    executor = _executor_of(where, function, given.get("executor"))
    options = make_options(where, given)
    check_together(where, options)
    judged = _judged(where, options, given)
    unique = make_unique(where, given, function)
    check_unique(where, unique, options)
    if isinstance(function, staticmethod):
        function = function.__func__
    try:
        signature = Signature.of(name, function)
    except (ValueError, TypeError) as error:
        raise TaskDefinitionError(
            f"{where}: Python cannot tell its signature ({error}): wrap it in a def of your own"
        ) from error
    kind = SyncTask if executor in ("thread", "process") else AsyncTask
    says_executor = given.get("executor") is not None
    made: Task[..., Any] = kind(
        *(function, name, signature, executor, options, *judged),
        says_executor=says_executor,
        hooks=make_hooks(where, given) or None,
        flow=make_flow(where, given, function),
        unique=unique,
        schedule=make_schedule(where, given),
    )
    given_registry: Registry | None = given.get("registry")
    registry = task_registry if given_registry is None else given_registry
    if made.schedule is not None:
        submitted = signature.without(find_resources(function, registry.provided))
        check_schedule(where, made.schedule, submitted)
    if made.schedule is not None and made.flow.said.needs_code:
        raise TaskDefinitionError(
            f"{where}: its key is computed in code, which the plane does not have when it submits "
            "by the schedule: let key= name a parameter"
        )
    if made.schedule is not None and made.unique is not None and made.unique.rule.needs_code:
        raise TaskDefinitionError(
            f"{where}: its unique key is computed in code, which the plane does not have when it "
            "submits by the schedule: name parameters"
        )
    registry.register(made)
    return made


def _why_unprovided(
    task: Task[..., Any], name: str, wanted: Any, offered: list[tuple[Any, Any]]
) -> str:
    there = ", ".join(inspect.formatannotation(provides) for provides, _ in offered) or "none"
    return (
        f"task {task.name!r} ({task.place}) wants a {inspect.formatannotation(wanted)} for "
        f"{name!r}, and no lifespan provides one (there are: {there}): write a @creche.lifespan "
        f"that yields it, or import the module that has it"
    )


def _refuse_options(where: str, first_name: str | None, given: Mapping[str, Any]) -> None:
    """Raise for options that do not exist, or that no function could be given."""
    refuse_unknown(where, "@task", given, list(TaskOptions.__annotations__))
    second_name, registry = given.get("name"), given.get("registry")
    if first_name is not None and second_name is not None:
        raise TaskDefinitionError(
            f"{where} is given two names, {first_name!r} and {second_name!r}: leave one of them out"
        )
    if not isinstance(registry, Registry | None):
        raise TaskDefinitionError(f"{where}: {registry!r} is no Registry")


def _judged(
    where: str, options: SubmitOptions, given: Mapping[str, Any]
) -> tuple[tuple[type[BaseException], ...], tuple[type[BaseException], ...]]:
    """Return which exceptions are worth another attempt, and which are not."""
    said = [name for name in ("retry_on", "never_retry_on") if given.get(name) is not None]
    if said and not options.retry:
        raise TaskDefinitionError(
            f"{where}: {said[0]} without retries: say how often it is tried again (retries=3)"
        )
    retry_on, never_retry_on = (
        check_errors(where, name, given[name]) if name in said else usual
        for name, usual in (("retry_on", (Exception,)), ("never_retry_on", ()))
    )
    _check_apart(where, retry_on, never_retry_on, is_usual="retry_on" not in said)
    return retry_on, never_retry_on


def _check_apart(
    where: str,
    retry_on: tuple[type[BaseException], ...],
    never_retry_on: tuple[type[BaseException], ...],
    *,
    is_usual: bool,
) -> None:
    """Refuse what is to be tried again and never: a retry that nobody would ever see."""
    for each in retry_on:
        over = next((never for never in never_retry_on if issubclass(each, never)), None)
        if over is None:
            continue
        name = each.__qualname__
        if is_usual:
            why = f"never_retry_on={over.__qualname__} leaves nothing to be tried again: name less"
        elif over is each:
            why = f"retry_on and never_retry_on both name {name}: leave it out of one of them"
        else:
            why = (
                f"retry_on names {name}, which is an {over.__qualname__}, and never_retry_on names "
                f"that: leave out one of them"
            )
        raise TaskDefinitionError(f"{where}: {why}")


def _refuse_function(where: str, function: Any) -> None:
    """Raise for what cannot be a task, with what to do instead."""
    if isinstance(function, Task):
        why = f"is the task {function.name!r} already: use with_options() to submit it differently"
    elif isinstance(function, classmethod | property):
        why = "cannot be called by itself: make a task of a plain function, or of a static method"
    elif isinstance(function, type):
        why = "is a class: make a task of a function that uses it"
    elif not callable(function):
        why = "is neither a function nor a name: write @task, @task('name') or @task(name='name')"
    elif inspect.isgeneratorfunction(_source_of(function)):
        why = "is a generator, and a job has one result: return a list instead of yielding"
    elif inspect.isasyncgenfunction(_source_of(function)):
        why = "is an async generator, and a job has one result: return a list instead of yielding"
    elif _is_unbound_method(function):
        why = (
            "is a method without its object, and a worker could not supply 'self': make a task of "
            "a plain function, of a @staticmethod, or of a bound method (task(mailer.send))"
        )
    else:
        return
    raise TaskDefinitionError(f"{where} {why}")


def _is_unbound_method(function: Any) -> bool:
    if not inspect.isfunction(function):
        return False
    # "Mailer.send", but not "make_tasks.<locals>.send".
    owner = function.__qualname__.rpartition(".")[0]
    code = getattr(inspect.unwrap(function), "__code__", function.__code__)
    first = next(iter(code.co_varnames[: code.co_argcount]), None)
    return bool(owner) and not owner.endswith("<locals>") and first in ("self", "cls")


def _name_of(where: str, function: Any, given: object) -> str:
    name = given if given is not None else getattr(function, "__name__", None)
    if name is None or name == "<lambda>":
        raise TaskDefinitionError(f"{where} has no name of its own: give it one, @task('name')")
    return check_name(where, "name", name)


def _executor_of(where: str, function: Any, given: object) -> Executor:
    plain = function.__func__ if isinstance(function, staticmethod) else function
    is_async = inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(
        getattr(type(plain), "__call__", None)  # noqa: B004 - asks what kind, not whether
    )
    if given is None:
        return "coroutine" if is_async else "thread"
    if given not in get_args(Executor):
        words = " or ".join(repr(word) for word in get_args(Executor))
        raise TaskDefinitionError(f"{where}: {given!r} is no executor: use {words}")
    if given in ("thread", "process") and is_async:
        raise TaskDefinitionError(
            f"{where} is an async def and cannot run with executor={given!r}: leave the option "
            "out, or write a plain def, which may run a loop of its own"
        )
    if given == "process" and "<locals>" in getattr(_source_of(plain), "__qualname__", ""):
        raise TaskDefinitionError(
            f"{where} cannot run with executor='process': its process imports the module and looks "
            "for it there, so define it at the top level"
        )
    # A plain wrapper around an async def returns the coroutine of it. That cannot be seen, as
    # some wrappers run it instead; saying so by executor='coroutine' settles it.
    if given in ("coroutine", "asyncio") and not is_async:
        if inspect.iscoroutinefunction(inspect.unwrap(plain)):
            return given
        raise TaskDefinitionError(
            f"{where} is a plain def and cannot run with executor={given!r}: leave the option "
            "out, or write an async def"
        )
    return cast(Executor, given)


def _source_of(function: Any) -> Any:
    """Return the plain function behind partials, and behind bound, static and class methods."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod | classmethod) or inspect.ismethod(function):
            function = function.__func__
        else:
            return function


def place_of_function(function: Any) -> str:
    """Return where *function* was written, as ``file:line``; its module if that is not known."""
    source = _source_of(function)
    code = getattr(inspect.unwrap(source), "__code__", None)
    if not isinstance(code, CodeType):
        call = getattr(type(source), "__call__", None)  # noqa: B004 - its code, if it has any
        code = getattr(call, "__code__", None)
    if isinstance(code, CodeType):
        return f"{code.co_filename}:{code.co_firstlineno}"
    return f"module {getattr(source, '__module__', None) or '?'}"


def describe(function: Any) -> str:
    """Name *function* and its place for the start of an error."""
    if isinstance(function, Task):
        return f"{function.name} ({function.place})"
    source = _source_of(function)
    name = getattr(source, "__qualname__", None)
    if name is None or not callable(source):
        # Nothing tells where it was written, so tell where @task was called.
        frame = caller()
        return f"{source!r} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f"{name} ({place_of_function(function)})"


def caller(*files: str) -> FrameType:
    """Return the frame in which this module, or one of *files*, was called."""
    ours = (__file__, *files)
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in ours:
        frame = frame.f_back
    return frame
