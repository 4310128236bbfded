"""How bodies are run: as coroutines on the loop, or in threads. What both share is here."""

from __future__ import annotations

import inspect
from typing import Any

from creche.errors import NotEncodable, TooLarge
from creche.model.job import JobState
from creche.wire.payload import encode_value
from creche.worker.attempt import Attempt
from creche.worker.failure import failure_of


def succeed(attempt: Attempt, value: Any) -> None:
    """Note what the body returned, as far as it can be sent; else the attempt has failed."""
    if value is None:
        attempt.state = JobState.SUCCEEDED
        return
    try:
        outcome = encode_value(value, "the result")
    except NotEncodable as error:
        fail(attempt, _misplaced_awaitable(attempt, value) or error)
        return
    except BaseException as error:
        # A result with methods of its own may raise anything while it is looked through.
        fail(attempt, error)
        return
    limit = attempt.home.payload_bytes
    if 0 < limit < len(outcome):
        fail(attempt, TooLarge("the result", len(outcome), limit))
        return
    attempt.outcome = outcome
    attempt.state = JobState.SUCCEEDED


def fail(attempt: Attempt, error: BaseException) -> None:
    """Note what the body raised."""
    attempt.outcome = encode_value(failure_of(error).as_data())
    attempt.state = JobState.FAILED


def _misplaced_awaitable(attempt: Attempt, value: Any) -> TypeError | None:
    """If a body returned something to be awaited, close it and say what to do instead."""
    if not inspect.isawaitable(value):
        return None
    if inspect.iscoroutine(value):
        # Closed, or Python would warn that it was never awaited.
        value.close()
    what = "coroutine" if inspect.iscoroutine(value) else type(value).__name__
    if attempt.is_threaded:
        hint = "write the task as async def, or, if it is a wrapper, say executor='coroutine'"
    else:
        hint = "await it inside the task"
    return TypeError(f"{attempt.task.name} returned a {what}, which has to be awaited: {hint}")
