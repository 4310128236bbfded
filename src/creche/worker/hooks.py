"""Hooks as a worker calls them: around bodies, in the body's own thread, loop or process.

A hook before a body is a part of it: what it raises fails the attempt. A hook after a body changes
nothing any more: what it raises is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from creche.errors import TaskDefinitionError
from creche.model.job import JobState
from creche.tasks.hooks import Hook, Hooks, Moment, describe_hook, is_awaited
from creche.tasks.options import Executor
from creche.tasks.task import Task
from creche.worker.attempt import Attempt
from creche.worker.context import JobContext

logger = logging.getLogger("creche.worker")

HOOKS_S = 30.0
"""How long hooks that are awaited after a body may take, all together."""


@dataclass(frozen=True, slots=True)
class HookInfo:
    """What a hook is told. `result` is for ``after``, `error` for ``on_error``: what the body has
    come to."""

    moment: Moment
    job: JobContext
    result: Any = None
    error: BaseException | None = None


def before_body(attempt: Attempt) -> None:
    """Call what comes before a body. Raises what a hook does."""
    for function, info in _before(attempt):
        function(info)


async def before_awaited(attempt: Attempt) -> None:
    """Call, and await, what comes before a body. Raises what a hook does."""
    for function, info in _before(attempt):
        done = function(info)
        if inspect.isawaitable(done):
            await done


def after_body(attempt: Attempt) -> None:
    """Call what comes after a body, whose end is known. Raises nothing."""
    for function, info in _after(attempt):
        try:
            function(info)
        except BaseException as error:
            _tell(function, info, error)


async def after_awaited(attempt: Attempt) -> None:
    """Call, and await, what comes after a body. Raises a cancellation at the most."""
    for function, info in _after(attempt):
        try:
            done = function(info)
            if inspect.isawaitable(done):
                await done
        except Exception as error:
            _tell(function, info, error)


def _hooks(attempt: Attempt) -> Hooks:
    assert attempt.task.hooks is not None, "there are hooks, or this is not called"
    return attempt.task.hooks


def _before(attempt: Attempt) -> Iterator[tuple[Hook, HookInfo]]:
    hooks, job = _hooks(attempt), JobContext(attempt)
    if attempt.tries:
        yield from ((function, HookInfo("on_retry", job)) for function in hooks.on_retry)
    yield from ((function, HookInfo("before", job)) for function in hooks.before)


def _after(attempt: Attempt) -> Iterable[tuple[Hook, HookInfo]]:
    hooks, job = _hooks(attempt), JobContext(attempt)
    if attempt.state is JobState.SUCCEEDED:
        done = HookInfo("after", job, result=attempt.came_to)
        return [(function, done) for function in hooks.after]
    is_snooze = attempt.retry is not None and not attempt.retry.is_counted
    if attempt.state is JobState.FAILED and not is_snooze:
        failed = HookInfo("on_error", job, error=attempt.came_to)
        return [(function, failed) for function in hooks.on_error]
    return ()


def _tell(function: Hook, info: HookInfo, error: BaseException) -> None:
    logger.error(
        "hook %s failed (%s, %r)", describe_hook(function), info.moment, info.job, exc_info=error
    )


def check_hooks(task: Task[..., Any], executor: Executor) -> None:
    """Raise if a hook of *task* is an ``async def``, and bodies in *executor* cannot await it.

    Raises:
        TaskDefinitionError: it is.
    """
    if task.hooks is None or executor in ("coroutine", "asyncio"):
        return
    for moment, function in task.hooks.each():
        if is_awaited(function):
            raise TaskDefinitionError(
                f"task {task.name!r} ({task.place}) runs with executor={executor!r}, where nothing "
                f"can be awaited, and its {moment} hook {describe_hook(function)} is an async def: "
                "write it as a def"
            )
