"""Which jobs of a task count as one: what `task` is told, and the key of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from creche.errors import InvalidArguments, TaskDefinitionError
from creche.model.flow import Key, shortened
from creche.model.unique import (
    EVERY,
    UNFINISHED,
    OnDuplicate,
    Rule,
    StateWord,
    value_text,
)
from creche.tasks.flow import key_in, key_without

By: TypeAlias = str | Sequence[str] | Callable[..., Any] | None
"""What tells calls apart: a parameter and a path into it, several of them (none: all calls are
one), a function of the arguments; None: all arguments."""

_OPTIONS = ("unique", "debounce", "throttle")


@dataclass(frozen=True, slots=True)
class Unique:
    """One job at a time of those that have one key.

    Arguments:
        by: what tells calls apart: the name of a parameter (``"user_id"``), with a path into it
            (``"order.customer"``), several of them, or a function of the arguments; all arguments
            if it is left out, and none (all calls are one) if it is empty.
        period: how many seconds after its submission a job counts; without it, as long as it is in
            one of *states*.
        states: in which states it counts, of ``"waiting"``, ``"running"``, ``"succeeded"``,
            ``"failed"`` and ``"cancelled"``. The first two if it is left out, and with a *period*
            the first three, where *on_duplicate* can mean one that has ended.
        on_duplicate: what becomes of a submission that meets one: ``"existing"``: it is that job;
            ``"reject"``: it is refused, as a `DuplicateJob`; ``"replace"``: it takes the place of
            a job that waits, which is cancelled; ``"cancel"``: also of one that runs.

    Raises:
        TaskDefinitionError: by `task`, if an option cannot be what it is given for.
    """

    by: By = None
    period: float | None = None
    states: Sequence[StateWord] | None = None
    on_duplicate: OnDuplicate = "existing"


@dataclass(frozen=True, slots=True)
class Debounce:
    """Run once it has been quiet: a job waits for *wait* seconds, and each further submission takes
    the place of the one that waits.

    Arguments:
        wait: seconds from the last submission to the run.
        by: as of `Unique`.
        most: how many seconds the first of a row of submissions can be put off; without it, as long
            as there are further ones.
    """

    wait: float
    by: By = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Throttle:
    """Once in a while: what is submitted within *period* seconds of a job is that job, whatever
    became of it.

    Arguments:
        period: seconds from one submission that counts to the next.
        by: as of `Unique`.
    """

    period: float
    by: By = None


UniqueLike: TypeAlias = bool | str | Sequence[str] | Callable[..., Any] | Unique


class TaskUnique(NamedTuple):
    """The rule of a task, and the function that computes its key, where it is one."""

    rule: Rule
    told: Mapping[str, Any]
    """What a submission says of the rule, beside its key."""
    function: Callable[..., Any] | None = None
    is_by_all: bool = False
    """Whether all arguments tell calls apart, whichever these are."""

    def without(
        self, where: str, parameters: Sequence[str], left_out: Collection[str]
    ) -> TaskUnique:
        """Return the same for calls that leave out some of the *parameters*.

        Raises:
            TaskDefinitionError: a key names one of those.
        """
        if not left_out:
            return self
        kept = (
            part for part in self.rule.by if not (self.is_by_all and part.parameter in left_out)
        )
        by = [key_without(where, part, parameters, left_out) for part in kept]
        return self._replace(rule=replace(self.rule, by=tuple(by)))

    def said(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[str, Any] | Literal[False]:
        """Return what a submission says of it: its key, and the rule for it; or that it has none,
        as there is nothing in its arguments where the key is to be found.

        Raises:
            InvalidArguments: the key cannot be told from these arguments.
        """
        key = self._key_of(task, args, kwargs)
        return False if key is None else {"key": key, **self.told}

    def _key_of(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        try:
            if self.function is None:
                return self.rule.key_of(args, kwargs)
            value = self.function(*args, **kwargs)
        except ValueError as error:
            why = str(error) if self.function is None else f"{type(error).__name__}: {error}"
        except Exception as error:  # whatever a user's function raises is about these arguments
            why = f"{type(error).__name__}: {error}"
        else:
            try:
                return shortened(value_text(value))
            except ValueError as error:
                why = str(error)
        raise InvalidArguments(f"task {task!r}: its unique key cannot be told: {why}")


def make_unique(
    where: str, given: Mapping[str, Any], function: Callable[..., Any]
) -> TaskUnique | None:
    """Return what `task` was told, checked; None if it says nothing, or that nothing is unique.

    Raises:
        TaskDefinitionError: it cannot be; the sentence begins with *where*.
    """
    said = [n for n in _OPTIONS if given.get(n) is not None and given[n] is not False]
    off = [name for name in ("debounce", "throttle") if given.get(name) is False]
    if off:
        raise TaskDefinitionError(f"{where}: {off[0]}=False: say unique=False for no rule at all")
    if not said:
        return None
    if len(said) > 1:
        raise TaskDefinitionError(
            f"{where}: {' and '.join(said)} are each a rule of its own: give one of them"
        )
    (option,) = said
    by, fields = _fields(where, option, given[option])
    parts, code = _parts(where, option, by, function)
    try:
        rule = Rule(by=parts, rest=by is None and _has_rest(function), **fields)
    except ValueError as error:
        why = str(error)
        if option == "debounce":
            why = why.replace("max_delay", "most").replace("delay", "wait")
        raise TaskDefinitionError(f"{where}: {option}: {why}") from None
    told = {name: value for name, value in rule.as_data().items() if name not in ("by", "rest")}
    return TaskUnique(rule, told, code, by is None)


def _fields(where: str, option: str, value: Any) -> tuple[By, dict[str, Any]]:
    """Return what tells calls apart, and the other fields of the rule."""
    if option == "debounce":
        told = value if isinstance(value, Debounce) else Debounce(value)
        return told.by, {
            "on_duplicate": "replace",
            "states": ("waiting",),
            "delay_s": told.wait,
            "max_delay_s": told.most,
        }
    if option == "throttle":
        told_rate = value if isinstance(value, Throttle) else Throttle(value)
        return told_rate.by, {"states": EVERY, "period_s": told_rate.period}
    unique = value if isinstance(value, Unique) else Unique(None if value is True else value)
    states = unique.states
    if states is None:
        is_kept = unique.period is not None and unique.on_duplicate in ("existing", "reject")
        states = (*UNFINISHED, "succeeded") if is_kept else UNFINISHED
    if isinstance(states, str) or not isinstance(states, Sequence | set | frozenset):
        raise TaskDefinitionError(
            f"{where}: unique: states are several, as in states=('waiting', 'running'), and not "
            f"{states!r}"
        )
    return unique.by, {
        "period_s": unique.period,
        "states": tuple(word for word in EVERY if word in states)
        + tuple(word for word in states if word not in EVERY),
        "on_duplicate": unique.on_duplicate,
    }


def _parts(
    where: str, option: str, by: Any, function: Callable[..., Any]
) -> tuple[tuple[Key, ...], Callable[..., Any] | None]:
    """Return the parts of a call that its key is made of, or the function that makes it."""
    if by is None:
        names = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    elif isinstance(by, str):
        names = [by]
    elif by in (Unique, Debounce, Throttle):
        raise TaskDefinitionError(f"{where}: {option}: write {by.__name__}(...), with its options")
    elif inspect.iscoroutinefunction(by):
        raise TaskDefinitionError(
            f"{where}: {option}: a key is computed where its submission is made: by a plain def"
        )
    elif callable(by):
        return (Key(is_code=True),), by
    elif isinstance(by, Sequence) and all(isinstance(name, str) for name in by):
        names = list(by)
    else:
        raise TaskDefinitionError(
            f"{where}: {option} names parameters, or is a function of the arguments, and not {by!r}"
        )
    return tuple(key_in(where, option, name, function, value_text) for name in names), None


def _has_rest(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
