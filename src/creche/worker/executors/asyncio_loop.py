"""Bodies on a real asyncio loop: for those that use libraries made for it (asyncpg, aiohttp, ...).

One loop in a thread of its own, begun with the first body that needs it. A body is an asyncio task;
stopping it cancels that task, and clean-up in a ``finally`` may wait, as asyncio has it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from creche.model.job import JobState
from creche.peer.parent import current_parent
from creche.wire.payload import decode_call
from creche.worker.attempt import Attempt
from creche.worker.executors import end_by_limit, fail, succeed
from creche.worker.floor import Floor
from creche.worker.forks import guarded, leave_if_child
from creche.worker.hooks import HOOKS_S, after_awaited, before_awaited

logger = logging.getLogger("creche.worker")


class AsyncioExecutor:
    """Runs bodies on one asyncio loop.

    Args:
        on_left: called in the loop's thread when a body has left, its slot being free already.
    """

    def __init__(self, floor: Floor, on_left: Callable[[Attempt], None]) -> None:
        self._floor = floor
        self._on_left = on_left
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], Attempt] = {}

    def start(self, attempt: Attempt) -> None:
        """Begin the body of *attempt*, which the floor gave a slot. Called on the worker's loop
        only."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=self._serve, args=(self._loop,), name="creche-asyncio", daemon=True
            ).start()
        # What one body sets, no other sees.
        self._loop.call_soon_threadsafe(self._begin, self._loop, attempt, context=Context())

    def close(self) -> None:
        """Cancel what is in, and let the loop end when it has left. Does not wait."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end, self._loop)
            self._loop = None

    def inside(self) -> list[Attempt]:
        """Return the attempts whose bodies are in."""
        return list(self._tasks.values())

    # --- in the loop's thread -------------------------------------------------------------------

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            with guarded(loop):
                loop.run_forever()
        finally:
            loop.close()

    def _begin(self, loop: asyncio.AbstractEventLoop, attempt: Attempt) -> None:
        current_parent.set(attempt)
        body = loop.create_task(self._run(attempt), name=attempt.task.name)
        self._tasks[body] = attempt
        attempt.cancel = lambda: loop.call_soon_threadsafe(body.cancel)
        if attempt.stop_why is not None:  # before it could be told
            body.cancel()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        bodies = list(self._tasks)
        for body in bodies:
            body.cancel()

        async def stop() -> None:
            await asyncio.gather(*bodies, return_exceptions=True)
            await loop.shutdown_asyncgens()
            loop.stop()

        loop.create_task(stop())

    async def _run(self, attempt: Attempt) -> None:
        attempt.begin()
        timer: asyncio.TimerHandle | None = None
        body = asyncio.current_task()
        assert body is not None
        if attempt.hard_end < math.inf:
            left_s = attempt.hard_end - attempt.began_at
            timer = asyncio.get_running_loop().call_later(max(left_s, 0.0), body.cancel)
        try:
            await _run_body(attempt)
        finally:
            if timer is not None:
                timer.cancel()
            del self._tasks[body]
            attempt.run_us = attempt.ran_us
            end_by_limit(attempt)
            if attempt.task.hooks is not None:
                await _call_hooks(attempt)
            self._floor.leave(attempt)
            self._on_left(attempt)


async def _call_hooks(attempt: Attempt) -> None:
    """Call what comes after a body. It has left: stopping it stops none of them."""
    attempt.cancel = None
    try:
        async with asyncio.timeout(HOOKS_S):
            await after_awaited(attempt)
    except (TimeoutError, asyncio.CancelledError):
        # The loop ends, or an order to stop the body was on its way.
        logger.error("hooks of %s were cancelled", attempt.task.name)


async def _run_body(attempt: Attempt) -> None:
    """Run the body and note its end. Raises nothing, whatever the body does."""
    task = attempt.task
    try:
        args, kwargs = decode_call(attempt.payload)
        task.signature.check(args, kwargs)
        if task.hooks is not None:
            await before_awaited(attempt)
        value: Any = await task.function(*args, **kwargs)
    except asyncio.CancelledError as error:
        leave_if_child(attempt.home.pid, error)
        if attempt.is_told_to_leave:
            attempt.state = JobState.CANCELLED
        else:  # it has cancelled itself, or awaited something that was
            fail(attempt, error)
    except BaseException as error:
        leave_if_child(attempt.home.pid, error)
        fail(attempt, error)
    else:
        leave_if_child(attempt.home.pid)
        succeed(attempt, value)
