"""What a failure looks like to whoever submitted the job."""

from __future__ import annotations

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, failure_in, running

from creche.model.failure import Failure
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire.payload import encode_value
from creche.worker.failure import failure_of

registry = Registry()


class Wrong(Exception):
    """An exception of the user's own."""


def _inner() -> None:
    raise Wrong("too wide")


@task(registry=registry)
def resize() -> None:
    try:
        _inner()
    except Wrong as error:
        error.add_note("while resizing")
        raise ValueError("cannot resize") from error


@task(registry=registry)
async def resize_async() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_inner_async)


async def _inner_async() -> None:
    _inner()


@pytest.mark.trio
async def test_a_traceback_begins_at_the_users_function() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "resize")
        failure = failure_in(await plane.one(1))
    assert failure.type == "ValueError"
    assert failure.message == "cannot resize"
    _, first, *_ = failure.traceback.split("The above exception was the direct cause")[1].split(
        "\n  File "
    )
    assert "in resize\n" in first
    assert "worker/executors" not in failure.traceback
    assert "tests.unit.worker.test_failure.Wrong: too wide\nwhile resizing" in failure.traceback
    assert failure.traceback.endswith("ValueError: cannot resize\n")


@pytest.mark.trio
async def test_a_group_of_exceptions_is_shown_with_each_of_them() -> None:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, "resize_async")
        failure = failure_in(await plane.one(1))
    assert failure.type == "ExceptionGroup"
    assert "test_failure.Wrong: too wide" in failure.traceback
    assert "worker/executors" not in failure.traceback


def test_an_exception_of_a_class_is_named_with_its_module_but_for_builtins() -> None:
    assert failure_of(KeyError("a")).type == "KeyError"
    assert failure_of(Wrong()).type == "tests.unit.worker.test_failure.Wrong"
    assert failure_of(Wrong()).message == ""


def test_notes_travel() -> None:
    error = Wrong("x")
    error.add_note("one")
    error.add_note("two")
    assert failure_of(error).notes == ("one", "two")


class _Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _BrokenNotes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no notes")


@pytest.mark.parametrize("error", [_Broken(), _BrokenNotes("x"), Wrong(_Broken())])
def test_an_exception_with_broken_methods_is_still_told(error: Exception) -> None:
    failure = failure_of(error)
    assert failure.type.endswith(type(error).__qualname__)
    assert isinstance(failure.message, str)
    assert type(error).__qualname__ in failure.traceback


def test_text_that_utf_8_cannot_carry_is_escaped() -> None:
    failure = failure_of(Wrong("a file named \udcff"))
    assert failure.message == "a file named \\udcff"
    assert encode_value(failure.as_data())


def test_a_failure_is_of_bounded_size() -> None:
    failure = Failure.from_data(failure_of(Wrong("x" * 1_000_000)).as_data())
    assert len(failure.message) < 100_000
    assert len(failure.traceback) < 100_000
