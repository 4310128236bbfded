"""Hooks: functions that a worker calls around the bodies of its tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

from creche.errors import TaskDefinitionError

if TYPE_CHECKING:
    from creche.tasks.registry import Registry

Hook: TypeAlias = Callable[[Any], object]
"""Is called with one `HookInfo`."""

HooksLike: TypeAlias = Hook | Iterable[Hook]

Moment: TypeAlias = Literal["before", "after", "on_error", "on_retry"]

F = TypeVar("F", bound=Hook)


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one task, or of all, by their moments."""

    before: tuple[Hook, ...] = ()
    after: tuple[Hook, ...] = ()
    on_error: tuple[Hook, ...] = ()
    on_retry: tuple[Hook, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Hooks) -> Hooks:
        return Hooks(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def each(self) -> Iterable[tuple[Moment, Hook]]:
        """Yield all of them, each with its moment."""
        for moment in get_args(Moment):
            for function in getattr(self, moment):
                yield moment, function


def make_hooks(where: str, given: Mapping[str, Any]) -> Hooks:
    """Return the hooks that *given* says.

    Raises:
        TaskDefinitionError: one is nothing that can be called.
    """
    found: dict[str, tuple[Hook, ...]] = {}
    for moment in get_args(Moment):
        said = given.get(moment)
        listed = () if said is None else tuple(said) if isinstance(said, list | tuple) else (said,)
        for each in listed:
            if not callable(each):
                raise TaskDefinitionError(
                    f"{where}: {moment} is a function of one argument, or several in a list; "
                    f"{each!r} is none"
                )
            _check_parameters(f"{where}: {moment}", each)
        found[moment] = listed
    return Hooks(**found)


def _check_parameters(where: str, function: Hook) -> None:
    """Raise for a function that cannot be called with one argument."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is written in C nothing is known
        return
    try:
        signature.bind(None)
    except TypeError:
        code = getattr(function, "__code__", None)
        place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
        name = getattr(function, "__qualname__", repr(function))
        raise TaskDefinitionError(
            f"{where} is called with one argument, a HookInfo, which {name}{signature}{place} "
            "does not take: write def it(info): ..."
        ) from None


def hook(moment: Moment, /, *, registry: Registry | None = None) -> Callable[[F], F]:
    """Have a function called around the bodies of all tasks, beside those that a task says itself
    (``@task(before=...)``), and before them.

    ``@hook("on_error")`` decorates a function of one argument, a `HookInfo`. Moments are
    ``"before"`` a body, ``"after"`` one that has succeeded, ``"on_error"`` when one has failed, and
    ``"on_retry"`` before one that is not the first attempt at its job.

    Arguments:
        registry: of whose tasks; those that ``creche worker`` reads when not given.

    Raises:
        TaskDefinitionError: there is no such moment, or the function is none.
    """
    if moment not in get_args(Moment):
        words = " or ".join(repr(word) for word in get_args(Moment))
        raise TaskDefinitionError(f"hook({moment!r}): there is no such moment: use {words}")

    def enter(function: F) -> F:
        from creche.tasks.registry import task_registry

        made = make_hooks(f"hook({moment!r})", {moment: function})
        (task_registry if registry is None else registry).add_hooks(made)
        return function

    return enter


def is_awaited(function: Hook) -> bool:
    """Whether what *function* returns has to be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - asks what kind, not whether
    )


def describe_hook(function: Hook) -> str:
    """Name *function* and its module."""
    name = getattr(function, "__qualname__", repr(function))
    return f"{getattr(function, '__module__', '?')}.{name}"
