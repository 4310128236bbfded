"""Hooks as they are declared: of one task, and of all."""

from __future__ import annotations

from typing import Any

import pytest

from creche.errors import TaskDefinitionError
from creche.tasks.hooks import Hooks, hook
from creche.tasks.registry import Registry
from creche.tasks.task import task


def one(info: Any) -> None: ...


def two(info: Any) -> None: ...


def body() -> None: ...


def test_a_task_says_one_or_several_at_each_moment() -> None:
    made = task(registry=Registry(), before=one, after=[one, two], on_error=(two,))(body)
    assert made.hooks == Hooks(before=(one,), after=(one, two), on_error=(two,))
    assert list(made.hooks.each()) == [
        *[("before", one), ("after", one), ("after", two), ("on_error", two)]
    ]


def test_a_task_without_hooks_has_none_and_is_no_other_for_those_of_nobody() -> None:
    made = task(registry=Registry())(body)
    assert made.hooks is None
    assert made.with_hooks(Hooks()) is made


def test_those_of_all_tasks_come_first() -> None:
    registry = Registry()
    assert hook("before", registry=registry)(one) is one
    made = task(registry=registry, before=two)(body).with_hooks(registry.hooks)
    assert made.hooks == Hooks(before=(one, two))


def test_a_module_that_is_loaded_twice_has_its_hooks_once() -> None:
    registry = Registry()
    for _ in range(2):
        hook("before", registry=registry)(one)
        hook("after", registry=registry)(one)
    assert registry.hooks == Hooks(before=(one,), after=(one,))


def test_what_is_no_hook_is_refused_with_the_moments_name() -> None:
    with pytest.raises(TaskDefinitionError, match="before is a function of one argument, or sev"):
        task(registry=Registry(), before=5)(body)  # type: ignore[call-overload]
    with pytest.raises(TaskDefinitionError, match="there is no such moment: use 'before' or 'aft"):
        hook("during")  # type: ignore[arg-type]


def test_a_hook_that_cannot_be_called_is_refused_where_it_is_said_with_its_place() -> None:
    def lonely() -> None: ...

    def greedy(info: Any, other: Any) -> None: ...

    line = lonely.__code__.co_firstlineno
    with pytest.raises(
        TaskDefinitionError, match=rf"before is called .*lonely\(\).*:{line}\) does"
    ):
        task(registry=Registry(), before=lonely)(body)  # type: ignore[call-overload]
    with pytest.raises(TaskDefinitionError, match=r"hook\('after'\): after is called .*greedy\("):
        hook("after", registry=Registry())(greedy)  # type: ignore[arg-type]
    with pytest.raises(TaskDefinitionError, match="HookInfo"):
        hook("after", registry=Registry())(lambda: None)  # type: ignore[arg-type,misc]
    for fine in (print, lambda info, more=1: None, lambda *infos: None, [].append):
        hook("after", registry=Registry())(fine)
