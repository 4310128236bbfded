"""The lifespans of a worker: entered before the plane hears of it, left after its last body."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
)
from functools import partial
from typing import Any

import trio

from creche.errors import LifespanFailed, TaskDefinitionError
from creche.tasks.lifespan import Lifespan
from creche.tasks.options import Executor
from creche.tasks.task import Task

logger = logging.getLogger("creche.worker")

Opened = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]

Values = list[tuple[Any, Any]]
"""What lifespans have yielded: the types that they provide, each with what it is."""


@asynccontextmanager
async def entered(lifespans: Iterable[Lifespan], leave_s: float) -> AsyncIterator[Values]:
    """Enter *lifespans*, in order, for the block; leave them, the last one first, whatever ends it.

    Leaving is shielded, for *leave_s* seconds altogether. What a lifespan raises then is logged:
    nothing is left that it could fail.

    Raises:
        LifespanFailed: one could not be entered. Those before it have been left.
    """
    # Around them all: scopes that a lifespan has opened have to be closed inside of this one.
    with trio.CancelScope() as leaving:
        stack = AsyncExitStack()
        try:
            yield await _enter(lifespans, stack)
        finally:
            leaving.shield = True
            leaving.deadline = trio.current_time() + leave_s
            await stack.aclose()
    if leaving.cancelled_caught:
        logger.error("lifespans were not left within %g s, and were cancelled", leave_s)


async def _enter(lifespans: Iterable[Lifespan], stack: AsyncExitStack) -> Values:
    values: Values = []
    for each in lifespans:
        try:
            opened = each.open()
            if isinstance(opened, AbstractAsyncContextManager):
                value = await opened.__aenter__()
            else:
                value = opened.__enter__()
        except Exception as error:
            raise _failed(each, error) from error
        stack.push_async_exit(partial(_leave, each, opened))
        if each.provides is not None:
            values.append((each.provides, value))
    return values


async def _leave(each: Lifespan, opened: Opened, *raised: Any) -> None:
    """Leave one lifespan. *raised* is a cancellation, if anything: what others raise is not its
    affair."""
    try:
        if isinstance(opened, AbstractAsyncContextManager):
            await opened.__aexit__(*raised)
        else:
            opened.__exit__(*raised)
    except Exception as error:
        logger.error("lifespan %s failed when it was left", each.name, exc_info=error)


def enter_in_process(lifespans: Iterable[Lifespan], stack: ExitStack) -> Values:
    """Enter *lifespans*, none of which is an ``async def``, where there is no event loop.

    Raises:
        LifespanFailed: one could not be entered.
    """
    values: Values = []
    for each in lifespans:
        try:
            opened = each.open()
            assert not isinstance(opened, AbstractAsyncContextManager)
            value = stack.enter_context(opened)
        except Exception as error:
            raise _failed(each, error) from error
        if each.provides is not None:
            values.append((each.provides, value))
    return values


def _failed(each: Lifespan, error: Exception) -> LifespanFailed:
    return LifespanFailed(f"{each.name} ({each.place})", f"{type(error).__name__}: {error}")


def check_resources(
    task: Task[..., Any], executor: Executor, lifespans: Sequence[Lifespan]
) -> None:
    """Raise if *task*, which runs in *executor*, wants what no lifespan will provide there.

    Raises:
        TaskDefinitionError: it does.
    """
    if not task.resources:
        return
    there = [each for each in lifespans if executor != "process" or not each.is_async]
    for wanted in task.resources.values():
        for each in lifespans:
            if each.provides == wanted and each not in there:
                raise TaskDefinitionError(
                    f"task {task.name!r} ({task.place}) runs in processes, in which no async def "
                    f"is entered, as {each.name} ({each.place}) is: write that as a def"
                )
    task.with_resources([(each.provides, None) for each in there if each.provides is not None])
