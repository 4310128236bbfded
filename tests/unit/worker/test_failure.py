"""What a failure looks like to whoever submitted the job."""

from __future__ import annotations

from threading import Lock
from typing import NoReturn

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, failure_in, running

from creche.model.failure import Failure
from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.wire.payload import encode_call, encode_value
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


@task(registry=registry)
def lock() -> dict[str, object]:
    return {"when": Lock()}


@task(registry=registry)
def lock_for_another() -> None:
    encode_call([Lock()], {})


class _Locked(dict[str, object]):
    def items(self) -> NoReturn:
        raise Wrong("locked")


@task(registry=registry)
def locked() -> dict[str, object]:
    return _Locked(a=Lock())


async def failure_when_running(name: str) -> Failure:
    plane = ScriptedPlane()
    async with running(plane, registry):
        plane.offer(1, name)
        return failure_in(await plane.one(1))


@pytest.mark.trio
async def test_a_result_that_cannot_be_sent_is_told_in_a_line_without_a_frame_of_ours() -> None:
    failure = await failure_when_running("lock")
    assert failure.type == "creche.errors.NotEncodable"
    assert failure.message.startswith("the result['when'] cannot be sent: _thread.lock")
    assert failure.traceback == f"{failure.type}: {failure.message}\n"


@pytest.mark.trio
async def test_what_creche_raises_on_purpose_ends_at_the_users_line() -> None:
    failure = await failure_when_running("lock_for_another")
    assert failure.traceback.count("  File ") == 1
    assert "encode_call([Lock()], {})" in failure.traceback
    assert failure.traceback.endswith(f"{failure.type}: {failure.message}\n")


@pytest.mark.trio
async def test_a_result_that_raises_while_it_is_encoded_is_shown_from_its_own_method_on() -> None:
    failure = await failure_when_running("locked")
    assert failure.type == "tests.unit.worker.test_failure.Wrong"
    assert failure.traceback.count("  File ") == 1
    assert "in items\n" in failure.traceback


def test_a_bug_of_ours_keeps_its_frames() -> None:
    with pytest.raises(AttributeError) as caught:
        JobState.parse(3)  # type: ignore[arg-type]
    error = caught.value.with_traceback(caught.tb.tb_next)  # without this test's own
    assert "model/job.py" in failure_of(error).traceback


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
