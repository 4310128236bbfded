"""Lifespans: what they say they yield, and which parameters of tasks want it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NewType

import pytest

from creche.errors import InvalidArguments, TaskDefinitionError
from creche.tasks.lifespan import Resource, lifespan
from creche.tasks.registry import Registry
from creche.tasks.task import task

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


class Database:
    """A resource."""


Url = NewType("Url", str)


def give_database() -> Iterator[Database]:
    yield Database()


async def give_url() -> AsyncIterator[Url]:
    yield Url("ws://there")


def with_one(registry: Registry) -> None:
    lifespan(registry=registry)(give_database)


@pytest.mark.parametrize("is_first", [True, False], ids=["lifespan first", "task first"])
def test_a_parameter_of_a_provided_type_is_not_submitted(is_first: bool) -> None:
    registry = Registry()
    if is_first:
        with_one(registry)

    @task(registry=registry)
    def count(db: Database, table: str, *, limit: int = 5) -> int:
        return limit

    if not is_first:
        with_one(registry)
    assert str(count.signature) == "count(table: str, *, limit: int = 5) -> int"
    assert count.declaration()["signature"]["parameters"][0][0] == "table"
    count.signature.check(["users"], {})
    with pytest.raises(InvalidArguments, match="unexpected keyword argument 'db'"):
        count.signature.check(["users"], {"db": 1})


def test_a_parameter_that_says_resource_is_none_even_where_nobody_provides_it() -> None:
    @task(registry=Registry())
    def count(table: str, db: Resource[Database]) -> int:
        return 1

    assert str(count.signature) == "count(table: str) -> int"
    with pytest.raises(TaskDefinitionError, match=r"wants a .*Database for 'db', and no lifespan"):
        count.with_resources([(Url, "there")])


def test_what_is_not_provided_is_submitted_and_names_for_type_checkers_do_no_harm() -> None:
    registry = Registry()
    with_one(registry)

    @task(registry=registry)
    def count(first: Unknown, db: Database, url: Url) -> int:
        return 1

    assert str(count.signature) == "count(first: Unknown, url: Url) -> int"


def shapes(db: Database, a: int, url: Url, b: int = 2, *more: int, c: int = 3) -> list[Any]:
    return [db, a, url, b, *more, c]


def last(a: int, b: int = 2, db: Database | None = None, *, url: Url) -> list[Any]:
    return [db, a, url, b]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "result"),
    [
        (shapes, (1,), {}, ["db", 1, "url", 2, 3]),
        (shapes, (1, 5), {}, ["db", 1, "url", 5, 3]),
        (shapes, (1, 5, 6, 7), {"c": 8}, ["db", 1, "url", 5, 6, 7, 8]),
        (shapes, (), {"a": 1}, ["db", 1, "url", 2, 3]),
        (shapes, (), {"b": 7, "a": 1}, ["db", 1, "url", 7, 3]),
        (last, (1,), {}, [None, 1, "url", 2]),
    ],
)
def test_values_are_handed_over_wherever_their_parameters_stand(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: list[Any]
) -> None:
    registry = Registry()
    with_one(registry)
    lifespan(registry=registry)(give_url)
    made = task(registry=registry)(function)
    made.signature.check(args, kwargs)
    view = made.with_resources([(Database, "db"), (Url, "url")])
    assert view.function(*args, **kwargs) == result


def test_a_task_that_wants_nothing_is_handed_nothing() -> None:
    made = task("plain", registry=Registry())(lambda a: a)
    assert made.with_resources([(Database, "db")]) is made


@asynccontextmanager
async def managed() -> AsyncIterator[Database]:
    yield Database()


@contextmanager
def managed_too() -> Iterator[Database]:
    yield Database()


async def nothing() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("function", "provides", "is_async"),
    [
        (managed, Database, True),
        (managed_too, Database, False),
        (give_url, Url, True),
        (nothing, None, True),
    ],
)
def test_the_type_is_that_of_the_annotation(function: Any, provides: Any, is_async: bool) -> None:
    registry = Registry()
    assert lifespan(registry=registry)(function) is function
    (made,) = registry.lifespans
    assert (made.provides, made.is_async) == (provides, is_async)


async def a_coroutine() -> Database:
    return Database()


def unsaid():  # type: ignore[no-untyped-def]
    yield 1


REFUSED = {
    "coroutine": (
        a_coroutine,
        "cannot be a lifespan: write an async def, or a def, with one yield",
    ),
    "number": (7, "cannot be a lifespan"),
    "unsaid": (unsaid, "does not say what it yields: annotate it, as in -> Iterator[Database]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_lifespan_is_refused_with_what_to_write(case: str) -> None:
    function, words = REFUSED[case]
    with pytest.raises(TaskDefinitionError) as caught:
        lifespan(registry=Registry())(function)  # type: ignore[type-var]
    assert words in str(caught.value)


def test_the_type_may_be_said_beside_the_function() -> None:
    registry = Registry()
    lifespan(provides=Database, registry=registry)(unsaid)
    assert registry.lifespans[0].provides is Database


def test_two_that_provide_the_same_are_refused_and_the_same_one_twice_is_not() -> None:
    registry = Registry()
    with_one(registry)
    with_one(registry)
    assert len(registry.lifespans) == 1
    with pytest.raises(TaskDefinitionError, match=r"two lifespans provide .*Database: give_data"):
        lifespan(registry=registry)(managed)


def test_a_schedule_need_not_say_what_the_worker_hands_over() -> None:
    registry = Registry()

    @task(registry=registry, every=60)
    def refresh(db: Resource[Database]) -> None: ...

    assert refresh.schedule is not None
    with pytest.raises(TaskDefinitionError, match="missing a required argument: 'table'"):

        @task(registry=registry, every=60)
        def count(db: Resource[Database], table: str) -> None: ...

    assert registry.names() == ["refresh"]
