"""How many jobs of a task run at a time, and how often they begin: what `task` is told, and the
keys of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from creche.errors import InvalidArguments, TaskDefinitionError
from creche.model.flow import MAX_PATH, Flow, Key, Rate, key_text

KeyLike: TypeAlias = str | Callable[..., Any]
"""A parameter and a path into it, or a function of the arguments."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class TaskFlow(NamedTuple):
    """What a task says, and the functions that compute its keys, where they are functions."""

    said: Flow = Flow()
    key: Callable[..., Any] | None = None
    rate_key: Callable[..., Any] | None = None

    def without(self, where: str, parameters: Sequence[str], left_out: Collection[str]) -> TaskFlow:
        """Return the same for calls that leave out some of the *parameters*.

        Raises:
            TaskDefinitionError: a key names one of those.
        """
        if not left_out:
            return self
        key, rate_key = (
            key and key_without(where, key, parameters, left_out)
            for key in (self.said.key, self.said.rate_key)
        )
        return self._replace(said=replace(self.said, key=key, rate_key=rate_key))

    def keys(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str] | None:
        """Return the keys of a call, for the limit and for the rate; None if there are none.

        Raises:
            InvalidArguments: a key cannot be told from these arguments.
        """
        said = self.said
        if said.key is None and said.rate_key is None:
            return None
        return [
            _key_of(task, name, key, function, args, kwargs)
            for name, key, function in (
                ("key", said.key, self.key),
                ("rate_key", said.rate_key, self.rate_key),
            )
        ]


NO_FLOW = TaskFlow()


def make_flow(where: str, given: Mapping[str, Any], function: Callable[..., Any]) -> TaskFlow:
    """Return what `task` was told, checked.

    Raises:
        TaskDefinitionError: it cannot be; the sentence begins with *where*.
    """
    rate = given.get("rate")
    keys = [_make_key(where, name, given.get(name), function) for name in ("key", "rate_key")]
    try:
        said = Flow(
            given.get("limit"),
            keys[0][0],
            None if rate is None else Rate.parse(rate),
            keys[1][0],
        )
    except ValueError as error:
        raise TaskDefinitionError(f"{where}: {error}") from None
    return TaskFlow(said, keys[0][1], keys[1][1])


def _make_key(
    where: str, option: str, given: object, function: Callable[..., Any]
) -> tuple[Key | None, Callable[..., Any] | None]:
    if given is None:
        return None, None
    if callable(given):
        return Key(is_code=True), given
    if not isinstance(given, str):
        raise TaskDefinitionError(
            f"{where}: {option} is the name of a parameter, or a function, and not {given!r}"
        )
    return key_in(where, option, given, function), None


def key_in(
    where: str,
    option: str,
    given: str,
    function: Callable[..., Any],
    text_of: Callable[[object], str] | None = None,
) -> Key:
    """Return the key that a parameter of *function* is, or a path into it: ``order.customer``; its
    default is written by *text_of* (`key_text`).

    Raises:
        TaskDefinitionError: it is no path, or there is no such parameter.
    """
    name, *steps = given.split(".")
    if len(steps) > MAX_PATH or not all((name, *steps)):
        raise TaskDefinitionError(
            f"{where}: {option}={given!r} is no path: name a parameter, and what is in it with "
            "dots between, as in 'order.customer'"
        )
    path = tuple(steps)
    parameters = inspect.signature(function).parameters
    found = parameters.get(name)
    kinds = [p.kind for p in parameters.values()]
    if found is None or found.kind in (found.VAR_POSITIONAL, found.VAR_KEYWORD):
        if inspect.Parameter.VAR_KEYWORD in kinds:
            return Key(name, None, path)
        raise TaskDefinitionError(
            f"{where}: {option} names {name!r}, and there is no such parameter: it has "
            f"{', '.join(parameters) or 'none'}"
        )
    position = list(parameters).index(name) if found.kind in _BY_POSITION else None
    default = None
    if found.default is not found.empty:
        try:
            default = Key(name, 0, path).of([found.default], {}, text_of)
        except ValueError:
            # It is always the same one: no value is written like that.
            default = "" if text_of is None else "default"
    return Key(name, position, path, default)


def key_without(where: str, key: Key, parameters: Sequence[str], left_out: Collection[str]) -> Key:
    """Return *key* for calls that leave out some of the *parameters*.

    Raises:
        TaskDefinitionError: it names one of those.
    """
    if key.is_code:
        return key
    if key.parameter in left_out:
        raise TaskDefinitionError(
            f"{where}: a key names {key.parameter!r}, which its worker hands it: no call says it"
        )
    if key.position is None:
        return key
    before = parameters[: key.position]
    return replace(key, position=sum(name not in left_out for name in before))


def _key_of(
    task: str,
    option: str,
    key: Key | None,
    function: Callable[..., Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> str:
    if key is None:
        return ""
    try:
        if function is None:
            return key.of(args, kwargs)
        value = function(*args, **kwargs)
    except ValueError as error:
        why = str(error) if function is None else f"{type(error).__name__}: {error}"
    except Exception as error:  # whatever a user's function raises is about these arguments
        why = f"{type(error).__name__}: {error}"
    else:
        try:
            return key_text(value)
        except ValueError as error:
            why = str(error)
    raise InvalidArguments(f"task {task!r}: its {option} cannot be told: {why}")
