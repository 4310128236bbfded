"""What a task, or a submission of it, may say beside its function and arguments: checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, TypedDict, cast, get_args

from creche.errors import TaskDefinitionError
from creche.model.headers import Header, checked_headers
from creche.model.limits import TimeLimits
from creche.model.names import why_no_queue
from creche.model.priority import Priority
from creche.model.retry import MAX_DELAY_S, RetryPolicy
from creche.model.unique import MAX_IDEMPOTENCY_KEY, is_idempotency_key
from creche.tasks.unique import Debounce, TaskUnique, Throttle, UniqueLike

Executor = Literal["coroutine", "asyncio", "thread", "process"]
"""Where a task runs: as a coroutine on the worker's Trio loop, or on its asyncio loop, or in one of
its threads, or in a process beside it."""

AsyncExecutor = Literal["coroutine", "asyncio"]
"""Where an ``async def`` can run."""

Delivery = Literal["at-least-once", "at-most-once"]
"""What a lost worker means for an attempt: run it again, or set the job to `lost`."""

PriorityLike = Priority | Literal["critical", "high", "normal", "low"] | int
"""A number is on the scale of 0 (least urgent) to 10: 9 and 10 are critical, 6 to 8 high, 3 to 5
normal, 0 to 2 low."""

Retries: TypeAlias = int | Literal["forever"]
"""How often a job is tried again: a number, or without end, said so that nobody says it by mistake.
"""

Errors: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

MAX_NAME_LENGTH = 200
"""Characters in the name of a task or a queue."""

LIMITS = ("timeout", "soft_timeout", "expires")
"""The options that limit how long a job takes, in seconds."""

POLICY = ("retries", "backoff", "backoff_max", "jitter", "give_up_after")
"""The options that make up a retry policy, as `RetryPolicy` has them."""


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What a submission may say beside its arguments. None leaves the choice open.

    What both the submission and the task leave open, the plane decides: queue ``default``, normal
    priority, at least once, no retries, at once.
    """

    queue: str | None = None
    priority: Priority | None = None
    delivery: Delivery | None = None
    retry: Mapping[str, Any] | None = None
    """Parts of a retry policy, by the names in `POLICY`."""
    countdown: float | None = None
    """How many seconds from its acceptance on the job waits before it may run."""
    eta: datetime | None = None
    """The moment before which the job does not run."""
    limits: TimeLimits | None = None
    """How long it may take."""
    headers: Mapping[str, Header] | None = None
    """What travels with it, and is not for its function."""
    idempotency_key: str | None = None
    """What makes it one with whatever was submitted with the same."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said that travels beside the message's own fields."""
        return (
            self.delivery is None
            and self.retry is None
            and self.countdown is None
            and self.eta is None
            and self.limits is None
            and self.headers is None
            and self.idempotency_key is None
        )

    def over(self, base: SubmitOptions) -> SubmitOptions:
        """Return these options, with *base* where they leave a choice open."""
        is_timed = self.countdown is not None or self.eta is not None
        return SubmitOptions(
            queue=base.queue if self.queue is None else self.queue,
            priority=base.priority if self.priority is None else self.priority,
            delivery=base.delivery if self.delivery is None else self.delivery,
            retry={**(base.retry or {}), **(self.retry or {})} or None,
            countdown=self.countdown if is_timed else base.countdown,
            eta=self.eta if is_timed else base.eta,
            limits=_limits_over(self.limits, base.limits),
            headers={**(base.headers or {}), **(self.headers or {})} or None,
            idempotency_key=self.idempotency_key or base.idempotency_key,
        )


class ViewOptions(TypedDict, total=False):
    """The options of `Task.with_options`, whose description says what they mean."""

    queue: str | None
    priority: PriorityLike | None
    delivery: Delivery | None
    retries: Retries | None
    backoff: float | None
    backoff_max: float | None
    jitter: float | None
    give_up_after: float | None
    timeout: float | None
    soft_timeout: float | None
    expires: float | None
    deadline: datetime | None
    countdown: float | None
    eta: datetime | None
    headers: Mapping[str, Header] | None
    idempotency_key: str | None
    unique: UniqueLike | None
    debounce: float | Debounce | None
    throttle: float | Throttle | None


BY_TASK = ("unique", "debounce", "throttle")
"""Options of a submission that need its task: what they name is in its signature."""


def refuse_unknown(where: str, what: str, given: Mapping[str, Any], known: list[str]) -> None:
    """Raise for an option that does not exist, with one that is near."""
    for option in given:
        if option not in known:
            near = get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise TaskDefinitionError(f"{where}: {what} has no option {option!r}: {hint}")


def make_options(where: str, given: Mapping[str, Any]) -> SubmitOptions:
    """Return the options that *given* says, each checked by itself.

    Raises:
        TaskDefinitionError: one cannot be what it is given for; the sentence begins with *where*.
    """
    queue, priority, delivery = given.get("queue"), given.get("priority"), given.get("delivery")
    wrong = None if queue is None else why_no_queue(queue)
    if wrong is not None:
        raise TaskDefinitionError(f"{where}: {wrong}")
    if priority is not None:
        try:
            priority = Priority.parse(cast(Priority, priority))
        except ValueError as error:
            raise TaskDefinitionError(f"{where}: {error}") from None
    if delivery is not None and delivery not in get_args(Delivery):
        words = " or ".join(repr(word) for word in get_args(Delivery))
        raise TaskDefinitionError(f"{where}: {delivery!r} is no delivery: use {words}")
    return SubmitOptions(
        queue,
        priority,
        cast(Delivery | None, delivery),
        _retry(where, given),
        *check_time(where, given.get("countdown"), given.get("eta")),
        _limits(where, given),
        _headers(where, given.get("headers")),
        check_idempotency_key(where, given.get("idempotency_key")),
    )


def submission_options(where: str, given: Mapping[str, Any], now: float) -> SubmitOptions:
    """Return the options of a submission that is made *now* (UTC seconds), checked; *given* are
    those of `ViewOptions`.

    Raises:
        TaskDefinitionError: one is unknown or cannot be, or two contradict each other; the
            sentence begins with *where*.
    """
    refuse_unknown(where, "a submission", given, list(ViewOptions.__annotations__))
    for option in BY_TASK:
        # That it is unique in no way needs no task.
        if given.get(option) is not None and not (option == "unique" and given[option] is False):
            raise TaskDefinitionError(
                f"{where}: {option} is about the parameters of the task, which a submission by "
                "name does not know: say it with @task, or submit the task object"
            )
    options = make_options(where, given)
    check_together(where, options, is_whole=False)
    check_by_clock(where, options, now)
    return options


def check_together(where: str, options: SubmitOptions, *, is_whole: bool = True) -> None:
    """Raise for options that contradict each other: what holds, wherever each was said. Not
    *is_whole*: a task that is not known here may say more.

    Raises:
        TaskDefinitionError: they do.
    """
    limits = options.limits or TimeLimits()
    soft_s, hard_s = limits.soft_timeout_s, limits.timeout_s
    if soft_s is not None and hard_s is not None and soft_s >= hard_s:
        raise TaskDefinitionError(
            f"{where}: soft_timeout ({soft_s:g} s) has to come before timeout ({hard_s:g} s)"
        )
    expires_s, countdown = limits.expires_s, options.countdown
    if expires_s is not None and countdown is not None and countdown >= expires_s:
        raise TaskDefinitionError(
            f"{where}: with countdown={countdown:g} it has expired (expires={expires_s:g}) before "
            "it may run"
        )
    eta, deadline_at = options.eta, limits.deadline_at
    if eta is not None and deadline_at is not None and eta.timestamp() >= deadline_at:
        raise TaskDefinitionError(
            f"{where}: with eta={eta.isoformat()} its time is up before it may run "
            f"(deadline={_shown(deadline_at)})"
        )
    policy = options.retry
    if not policy:
        return
    if policy.get("retries") is None and not is_whole:
        return
    if policy.get("retries") is None:
        said = ", ".join(policy)
        raise TaskDefinitionError(
            f"{where}: {said} without retries: say how often it is tried again (retries=3)"
        )
    whole = RetryPolicy.from_data(policy)
    if whole.backoff > whole.backoff_max:
        raise TaskDefinitionError(
            f"{where}: backoff ({whole.backoff:g} s) is longer than backoff_max "
            f"({whole.backoff_max:g} s)"
        )
    least_s = whole.backoff * (1 - whole.jitter)
    if whole.retries != 0 and whole.give_up_after is not None and whole.give_up_after <= least_s:
        raise TaskDefinitionError(
            f"{where}: with give_up_after={whole.give_up_after:g} no retry is ever due: the first "
            f"one waits for backoff={whole.backoff:g} s"
        )
    if whole.retries != 0 and options.delivery == "at-most-once":
        raise TaskDefinitionError(
            f"{where}: delivery='at-most-once' is for what must not run twice: leave retries out"
        )


def check_unique(where: str, unique: TaskUnique | None, options: SubmitOptions) -> None:
    """Raise for a rule of unique jobs that contradicts the other options.

    Raises:
        TaskDefinitionError: it does.
    """
    wait_s = None if unique is None else unique.rule.delay_s
    if wait_s is None:
        return
    if options.countdown is not None or options.eta is not None:
        raise TaskDefinitionError(
            f"{where}: debounce says when it runs: leave countdown and eta out"
        )
    expires_s = None if options.limits is None else options.limits.expires_s
    if expires_s is not None and expires_s <= wait_s:
        raise TaskDefinitionError(
            f"{where}: with debounce={wait_s:g} it has expired (expires={expires_s:g}) before it "
            "may run"
        )


def check_by_clock(where: str, options: SubmitOptions, now: float) -> None:
    """Raise for times of a submission that contradict each other if it is made *now* (UTC seconds):
    one counts from its acceptance on, and the other is a moment.

    Raises:
        TaskDefinitionError: they do.
    """
    if options.limits is None:
        return
    expires_s, deadline_at = options.limits.expires_s, options.limits.deadline_at
    eta, countdown = options.eta, options.countdown
    if eta is not None and expires_s is not None and eta.timestamp() >= now + expires_s:
        raise TaskDefinitionError(
            f"{where}: with eta={eta.isoformat()} it has expired (expires={expires_s:g}) before it "
            "may run"
        )
    if countdown is not None and deadline_at is not None and now + countdown >= deadline_at:
        raise TaskDefinitionError(
            f"{where}: with countdown={countdown:g} its time is up before it may run "
            f"(deadline={_shown(deadline_at)})"
        )


def _shown(moment_at: float) -> str:
    return datetime.fromtimestamp(moment_at, UTC).isoformat(timespec="milliseconds")


def check_errors(where: str, option: str, given: object) -> tuple[type[BaseException], ...]:
    """Return the exception classes of ``retry_on`` or ``never_retry_on``.

    Raises:
        TaskDefinitionError: they are none.
    """
    classes: list[type[BaseException]] = []
    for each in given if isinstance(given, tuple | list) else (given,):
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise TaskDefinitionError(
                f"{where}: {option} names exception classes, as in {option}=(ConnectionError,); "
                f"{each!r} is none"
            )
        classes.append(each)
    return tuple(classes)


def check_time(where: str, countdown: object, eta: object) -> tuple[float | None, datetime | None]:
    """Return when a submission asks to run.

    Raises:
        TaskDefinitionError: it is no time, or there are two.
    """
    if countdown is not None and eta is not None:
        raise TaskDefinitionError(f"{where}: countdown and eta both say when: give one of them")
    if countdown is not None and not (
        type(countdown) in (int, float) and 0 <= countdown <= MAX_DELAY_S  # type: ignore[operator]
    ):
        raise TaskDefinitionError(
            f"{where}: countdown is a number of seconds from 0 to {MAX_DELAY_S:,.0f} (a year), "
            f"not {countdown!r}"
        )
    return cast(float | None, countdown), _moment(where, "eta", eta)


def _moment(where: str, option: str, moment: object) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise TaskDefinitionError(f"{where}: {option} is a datetime, not {moment!r}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise TaskDefinitionError(
            f"{where}: {option}={moment} says no time zone, so it is no moment: use "
            "datetime.now(UTC) + timedelta(...), or .astimezone() for this machine's zone"
        )
    return moment


def check_idempotency_key(where: str, key: object) -> str | None:
    """Return the key that a submission is one with others by.

    Raises:
        TaskDefinitionError: it is none.
    """
    if key is not None and not is_idempotency_key(key):
        raise TaskDefinitionError(
            f"{where}: idempotency_key is a text of 1 to {MAX_IDEMPOTENCY_KEY} printable "
            f"characters, and not {key!r:.80}"
        )
    return cast(str | None, key)


def _limits(where: str, given: Mapping[str, Any]) -> TimeLimits | None:
    said = {f"{name}_s": given[name] for name in LIMITS if given.get(name) is not None}
    deadline = _moment(where, "deadline", given.get("deadline"))
    if deadline is not None:
        said["deadline_at"] = deadline.timestamp()
    try:
        return TimeLimits.from_data(said) if said else None
    except ValueError as error:
        raise TaskDefinitionError(f"{where}: {error}") from None


def _headers(where: str, given: object) -> dict[str, Header] | None:
    try:
        return None if given is None else checked_headers(given) or None
    except ValueError as error:
        raise TaskDefinitionError(f"{where}: {error}") from None


def _limits_over(limits: TimeLimits | None, base: TimeLimits | None) -> TimeLimits | None:
    if limits is None or base is None:
        return base if limits is None else limits
    return TimeLimits.from_data(base.as_data() | limits.as_data())


def _retry(where: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    policy = {name: given[name] for name in POLICY if given.get(name) is not None}
    try:
        RetryPolicy.from_data(policy)
    except ValueError as error:
        raise TaskDefinitionError(f"{where}: {error}") from None
    return policy or None


def check_name(where: str, what: str, name: object) -> str:
    """Return *name* if a task or a queue can have it.

    Raises:
        TaskDefinitionError: it cannot.
    """
    if not isinstance(name, str):
        raise TaskDefinitionError(f"{where}: its {what} is {name!r}, which is not text")
    if not name or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        shown = name if len(name) <= MAX_NAME_LENGTH else f"{name[:20]}… ({len(name)} characters)"
        raise TaskDefinitionError(
            f"{where}: its {what} is {shown!r}: use 1 to {MAX_NAME_LENGTH} printable characters, "
            "without spaces around them"
        )
    return name
