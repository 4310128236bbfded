"""Bodies on the loop: one Trio task and one cancel scope an attempt."""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import trio

from creche.model.job import JobState
from creche.peer.parent import current_parent
from creche.wire.payload import decode_call
from creche.worker.attempt import Attempt
from creche.worker.executors import end_by_limit, fail, succeed
from creche.worker.floor import Floor
from creche.worker.forks import leave_if_child
from creche.worker.hooks import HOOKS_S, after_awaited, before_awaited
from creche.worker.watchdog import Watchdog

logger = logging.getLogger("creche.worker")


class CoroutineExecutor:
    """Runs bodies in *nursery*; cancelling it cancels them all, unreported.

    Args:
        on_left: called when a body has left and freed its slot.
        watchdog: looks after the loop while bodies are in.
    """

    def __init__(
        self,
        floor: Floor,
        nursery: trio.Nursery,
        on_left: Callable[[Attempt], None],
        watchdog: Watchdog,
    ) -> None:
        self._floor = floor
        self._nursery = nursery
        self._on_left = on_left
        self._watchdog = watchdog
        self._inside: set[Attempt] = set()
        # Bodies are begun from wherever a slot became free, which may be inside another body:
        # they get the worker's context, and not that body's.
        self._context = contextvars.copy_context()

    def start(self, attempt: Attempt) -> None:
        """Begin the body of *attempt*, which the floor gave a slot."""
        attempt.scopes = [trio.CancelScope()]
        if not self._inside:
            self._watchdog.arm()
        self._inside.add(attempt)
        self._context.run(
            self._nursery.start_soon,  # type: ignore[arg-type]
            self._run,
            attempt,
            name=attempt.task.name,
        )

    def inside(self) -> list[Attempt]:
        """Return the attempts whose bodies are in."""
        return list(self._inside)

    async def _run(self, attempt: Attempt) -> None:
        assert attempt.scopes is not None, "start() makes the body's scope"
        current_parent.set(attempt)
        attempt.begin()
        scope = attempt.scopes[0]
        if attempt.hard_end < math.inf:
            scope.deadline = attempt.hard_end
        try:
            with scope:
                await run_body(attempt, scope)
            if attempt.state is None:
                attempt.state = JobState.CANCELLED
            attempt.run_us = attempt.ran_us
            end_by_limit(attempt)
            if attempt.task.hooks is not None:
                await _call_hooks(attempt)
        finally:
            self._inside.discard(attempt)
            if not self._inside:
                self._watchdog.disarm()
            self._floor.leave(attempt)
        self._on_left(attempt)


async def _call_hooks(attempt: Attempt) -> None:
    """Call what comes after a body. It has left: stopping it stops none of them."""
    with trio.move_on_after(HOOKS_S) as scope:
        await after_awaited(attempt)
    if scope.cancelled_caught:
        logger.error("hooks of %s took over %g s, and were cancelled", attempt.task.name, HOOKS_S)


async def run_body(attempt: Attempt, scope: trio.CancelScope) -> None:
    """Run the body under *scope* and note its end.

    The watchdog looks for this function on the loop's stack, and reads `attempt`.

    Raises:
        trio.Cancelled: *scope*, or the whole worker, was cancelled. Nothing else.
    """
    task = attempt.task
    try:
        args, kwargs = decode_call(attempt.payload)
        task.signature.check(args, kwargs)
        if task.hooks is not None:
            await before_awaited(attempt)
        value: Any = task.function(*args, **kwargs)
        if inspect.isawaitable(value):
            value = await value
    except BaseException as error:
        leave_if_child(attempt.home.pid, error)
        own = error
        if trio.current_effective_deadline() == -math.inf:
            # Someone outside the body has cancelled it. What it raised beside that is its own.
            rest = without_cancelled(error)
            if rest is None:
                raise
            own = rest
        fail(attempt, own)
    else:
        leave_if_child(attempt.home.pid)
        succeed(attempt, value)


def without_cancelled(error: BaseException) -> BaseException | None:
    """Return *error* without Trio's cancellations in it; None when it is nothing else."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error
