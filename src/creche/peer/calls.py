"""What a call is made of: checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from creche.errors import InvalidArguments, TaskDefinitionError
from creche.model.names import why_no_queue
from creche.model.priority import Priority
from creche.tasks.options import MAX_NAME_LENGTH, SubmitOptions, check_time
from creche.tasks.task import Task


def no_task(thing: object) -> InvalidArguments:
    """Return the error for what was given in place of a task."""
    if isinstance(thing, str):
        return InvalidArguments(
            f"submit() takes the task itself: by its name, use delay({thing!r:.80}, ...)"
        )
    return InvalidArguments(
        f"{thing!r} is neither a task nor a task's name: decorate the function with @task"
    )


@contextmanager
def each_value_is_one_argument() -> Iterator[None]:
    """Add to an error of the arguments in the block how `map` makes a call of a value: a tuple is
    easily taken for several arguments."""
    try:
        yield
    except InvalidArguments as error:
        error.add_note(
            "map passes each value as one argument; submit_many takes a tuple of arguments a call"
        )
        raise


def name_of(task: Task[..., Any] | str) -> str:
    """Return the name that a task is submitted by.

    Raises:
        InvalidArguments: it is no task, or no name that a task can have.
    """
    if isinstance(task, Task):
        return task.name
    if not isinstance(task, str):
        raise no_task(task)
    return _checked_name("a task's name", task)


def _checked_name(what: str, name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InvalidArguments(
            f"{what} is a text of 1 to {MAX_NAME_LENGTH} characters: {name!r:.80}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidArguments(f"{what} is not text that UTF-8 can carry: {name!r:.80}") from None
    return str(name)


def checked_queue(name: object) -> str:
    """Return the name of a queue.

    Raises:
        InvalidArguments: no queue can be named so.
    """
    wrong = why_no_queue(name)
    if wrong is not None:
        raise InvalidArguments(wrong)
    return str(name)


def checked_options(
    queue: str | None,
    priority: Priority | str | int | None,
    countdown: float | None,
    eta: datetime | None,
) -> SubmitOptions:
    """Return the options that a call gives.

    Raises:
        InvalidArguments: they name no queue, no priority, or no time.
    """
    try:
        urgency = None if priority is None else Priority.parse(priority)
        countdown, eta = check_time("this submission", countdown, eta)
    except (ValueError, TaskDefinitionError) as error:
        raise InvalidArguments(str(error)) from None
    return SubmitOptions(
        queue=None if queue is None else checked_queue(queue),
        priority=urgency,
        countdown=countdown,
        eta=eta,
    )


def checked_wait(timeout: object) -> float | None:
    """Return how many seconds a call may wait, None for as long as it takes.

    Raises:
        InvalidArguments: it is no number of seconds.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, bool) and isinstance(timeout, int | float) and timeout >= 0:
        with suppress(OverflowError):  # a whole number of hundreds of digits
            return float(timeout)
    raise InvalidArguments(f"timeout is a number of seconds, not below 0, or None: {timeout!r:.80}")


def checked_call(args: Any, kwargs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments of a call, which are said as two parts; None is none.

    Raises:
        InvalidArguments: one of them is no such part.
    """
    if args is None:
        args = ()
    elif type(args) not in (tuple, list):
        if isinstance(args, str | bytes | bytearray) or not isinstance(args, Sequence):
            raise InvalidArguments(
                f"args are a sequence of positional arguments, as in args=[5], and not {args!r:.80}"
            )
        args = tuple(args)
    if kwargs is None:
        return args, {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise InvalidArguments(
            "kwargs are a mapping of names with arguments, as in kwargs={'n': 5}, and not "
            f"{kwargs!r:.80}"
        )
    return args, kwargs


def parts_of(call: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the positional and the keyword arguments of one call of `submit_many`.

    Raises:
        InvalidArguments: it is neither a sequence nor a mapping.
    """
    if type(call) in (tuple, list):
        return call, {}
    if isinstance(call, Mapping):
        return checked_call((), call)
    if isinstance(call, Sequence) and not isinstance(call, str | bytes | bytearray):
        return tuple(call), {}
    raise InvalidArguments(
        f"a call is a sequence of arguments or a mapping of keywords, not {call!r:.80}"
    )
