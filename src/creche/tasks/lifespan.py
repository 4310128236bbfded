"""Resources of a worker: `@lifespan` opens them, and tasks get them by the type of a parameter.

A parameter that wants one is no part of what a job may be submitted with, so it is found when the
task is defined: by its annotation, which is a type that a lifespan provides, or says `Resource`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, overload

from creche.errors import TaskDefinitionError

if TYPE_CHECKING:
    from creche.tasks.registry import Registry

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class _Wanted:
    """Marks an annotation as that of a resource."""


_WANTED = _Wanted()

Resource = Annotated[T, _WANTED]
"""``db: Resource[Database]``: the worker is to have a lifespan that provides a `Database`. The same
as ``db: Database``, where the lifespan is known when the task is defined; it need not be here."""


@dataclass(frozen=True, slots=True)
class Lifespan:
    """What `lifespan` makes of a function. `open` begins it; leaving what that returns ends it."""

    function: Callable[[], Any]
    provides: Any
    """The type of what it yields, as annotations have it; None if it yields nothing."""
    is_async: bool
    place: str
    """Where it was written, as ``file:line``."""
    declared_in: str
    """The module that made it a lifespan."""

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__qualname__", self.function))

    def open(self) -> AbstractAsyncContextManager[Any] | AbstractContextManager[Any]:
        """Return a context manager for one worker's life, of the kind `is_async` says."""
        made = self.function()
        if isinstance(made, AsyncGenerator):
            return asynccontextmanager(lambda: made)()
        if isinstance(made, Generator):
            return contextmanager(lambda: made)()
        opened: AbstractAsyncContextManager[Any] | AbstractContextManager[Any] = made
        return opened

    def __repr__(self) -> str:
        return f"<lifespan {self.name} ({self.place})>"


@overload
def lifespan(function: F, /) -> F: ...
@overload
def lifespan(*, provides: Any = None, registry: Registry | None = None) -> Callable[[F], F]: ...
def lifespan(
    function: Any = None, /, *, provides: Any = None, registry: Registry | None = None
) -> Any:
    """Have each worker that loads this module run *function* around all its jobs.

    *function* is an ``async def`` with one ``yield``, a ``def`` with one, or either made a context
    manager. What comes before the ``yield`` is run before the worker tells the plane that it is
    there, what comes after when the last job has left. Tasks with a parameter of the type that is
    yielded are handed the value; it is not submitted. An ``async def`` runs on the worker's Trio
    loop. A ``def`` is also run in each process for tasks with ``executor="process"``, which get
    what it yields there.

    Arguments:
        provides: the type, if the function's return annotation does not say it, as in
            ``-> AsyncIterator[Database]``.
        registry: whose tasks get it; those that ``creche worker`` reads when not given.

    Raises:
        TaskDefinitionError: it is of another kind, does not say what it yields, or another one
            provides the same.
    """
    if function is None:
        return lambda made: _enter(made, provides, registry)
    return _enter(function, provides, registry)


def _enter(function: Any, provides: Any, registry: Registry | None) -> Any:
    from creche.tasks.registry import task_registry
    from creche.tasks.task import caller, describe, place_of_function

    where = describe(function)
    plain = inspect.unwrap(function) if callable(function) else function
    is_async = inspect.isasyncgenfunction(plain)
    if not is_async and not inspect.isgeneratorfunction(plain):
        raise TaskDefinitionError(
            f"{where} cannot be a lifespan: write an async def, or a def, with one yield"
        )
    said = _yielded(function) if provides is None else provides
    if said is None:
        raise TaskDefinitionError(
            f"{where} does not say what it yields: annotate it, as in -> "
            f"{'Async' if is_async else ''}Iterator[Database], or say "
            "@lifespan(provides=Database)"
        )
    made = Lifespan(
        function,
        None if said is NoneType else said,
        is_async,
        place_of_function(function),
        str(caller(__file__).f_globals.get("__name__", "")),
    )
    (task_registry if registry is None else registry).add_lifespan(made)
    setattr(function, _MARK, made)
    return function


_MARK = "__creche_lifespan__"
"""Where a function keeps the lifespan that was made of it: a process finds it there."""


def lifespan_of(function: Any) -> Lifespan | None:
    """Return the lifespan that *function* was made; None if it was not."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, Lifespan) else None


_ITERATORS = (AsyncIterator, AsyncGenerator, Iterator, Generator)


def _yielded(function: Any) -> Any:
    """Return the type that *function*'s annotation says it yields; None if it does not."""
    said = annotations_of(function).get("return")
    if get_origin(said) not in _ITERATORS or not get_args(said):
        return None
    yielded = get_args(said)[0]
    return NoneType if yielded is None else yielded


# --- what tasks want ----------------------------------------------------------------------------


def annotations_of(function: Any) -> dict[str, Any]:
    """Return the annotations of *function*, without those that cannot be evaluated here (names that
    are imported for type checkers only, or defined later)."""
    while not hasattr(function, "__globals__"):
        inner = getattr(function, "__func__", None) or getattr(function, "func", None)
        inner = inner or getattr(function, "__wrapped__", None)
        if inner is None:
            return {}
        function = inner
    function = inspect.unwrap(function)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        found: dict[str, Any] = {}
        for name, said in _raw_annotations(function).items():
            one = SimpleNamespace(__annotations__={name: said})
            names = getattr(function, "__globals__", {})
            try:
                found |= typing.get_type_hints(one, globalns=names, include_extras=True)
            except Exception:
                continue
        return found


def _raw_annotations(function: Any) -> dict[str, Any]:
    try:
        return dict(getattr(function, "__annotations__", {}))
    except NameError:  # they are evaluated when they are asked for, from Python 3.14 on
        return {}


def find_resources(function: Any, provided: Iterable[Any]) -> dict[str, Any]:
    """Return the parameters of *function* that want a resource, each with its type: those of a type
    that is *provided*, and those that say so."""
    known = list(provided)
    found: dict[str, Any] = {}
    for name, said in annotations_of(function).items():
        is_marked = get_origin(said) is Annotated and any(
            each is _WANTED for each in said.__metadata__
        )
        wanted = get_args(said)[0] if get_origin(said) is Annotated else said
        if name != "return" and (is_marked or any(wanted == each for each in known)):
            found[name] = wanted
    return found


def bind(
    function: Callable[..., Any], values: dict[str, Any], parameters: Iterable[str]
) -> Callable[..., Any]:
    """Return *function* with the *values* of some parameters filled in: what is called with the
    arguments of the others, by position as if these were not there.

    *parameters* are the names of those that can be given by position, in order.
    """
    places = [(i, name) for i, name in enumerate(parameters) if name in values]

    def bound(*args: Any, **kwargs: Any) -> Any:
        given, named = list(args), kwargs | values
        for i, name in places:
            if i > len(given):
                break  # and by keyword from here on
            given.insert(i, named.pop(name))
        return function(*given, **named)

    return bound
