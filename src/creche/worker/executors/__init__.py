"""How bodies are run: as coroutines on the worker's loop or on an asyncio loop, in threads, or in
processes. What they share is here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from creche.errors import (
    InvalidArguments,
    JobCancelled,
    JobTimedOut,
    NotEncodable,
    Retry,
    Snooze,
    TooLarge,
)
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.tasks.task import Task
from creche.wire.payload import encode_value
from creche.worker.attempt import Another, Attempt, Stage
from creche.worker.failure import failure_of


def succeed(attempt: Attempt, value: Any) -> None:
    """Note what the body returned, as far as it can be sent; else the attempt has failed."""
    if attempt.task.hooks is not None:
        attempt.came_to = value
    if value is None:
        attempt.state = JobState.SUCCEEDED
        return
    try:
        outcome = encode_value(value, "the result")
    except NotEncodable as error:
        fail(attempt, _misplaced_awaitable(attempt, value) or error, is_hopeless=True)
        return
    except BaseException as error:
        # A result with methods of its own may raise anything while it is looked through.
        fail(attempt, error)
        return
    limit = attempt.home.payload_bytes
    if 0 < limit < len(outcome):
        fail(attempt, TooLarge("the result", len(outcome), limit), is_hopeless=True)
        return
    attempt.outcome = outcome
    attempt.state = JobState.SUCCEEDED


def end_by_limit(attempt: Attempt) -> None:
    """The body has left. If that was after its time was up, it has failed, whatever it came to:
    what comes after the limit does not count."""
    now = attempt.home.clock()
    if attempt.stop_why is None and now >= attempt.hard_end:
        took_s = now - attempt.began_at
        left_s = max(attempt.hard_end - attempt.began_at, 0.0)
        error = JobTimedOut(left_s, is_deadline=attempt.must_end <= attempt.hard_end)
        if attempt.how is not None:
            error.add_note(attempt.how)
        elif took_s > error.timeout_s + _NOTED_S:
            how = "a thread cannot be stopped" if attempt.is_threaded else "its clean-up took time"
            error.add_note(f"its body left after {took_s:.1f} s: {how}")
        attempt.outcome = attempt.retry = None
        fail(attempt, error)


_NOTED_S = 0.1
"""A body that leaves so long after its limit is told of."""


def end_by_stop(attempt: Attempt) -> None:
    """The body has left after it was told to, and has come to nothing: say why, and how."""
    if attempt.stop_why is None:
        return
    if attempt.state is JobState.SUCCEEDED and attempt.has_seen_stop and attempt.leaves_by_itself:
        attempt.state = JobState.CANCELLED
        attempt.outcome = None
    if attempt.state is JobState.CANCELLED and attempt.outcome is None:
        usual = "it had not begun" if attempt.stage is Stage.GONE else _HOW[attempt.executor]
        how = usual if attempt.how is None else attempt.how
        failure = Failure("creche.Cancelled", attempt.stop_why, notes=(how,))
        attempt.outcome = encode_value(failure.as_data())


_HOW = {
    "coroutine": "its coroutine was cancelled",
    "asyncio": "its asyncio task was cancelled",
    "thread": "its thread saw that it was cancelled, and left",
    "process": "its process was interrupted, and its body left",
}


def fail(attempt: Attempt, error: BaseException, *, is_hopeless: bool = False) -> None:
    """Note what the body raised, and whether that is worth another try; not if *is_hopeless*: it
    would come to the same."""
    if isinstance(error, JobCancelled) and error.job_id == id_to_text(attempt.id):
        # It was stopped, and says so itself.
        attempt.state = JobState.CANCELLED
        attempt.has_seen_stop = True
        return
    if attempt.task.hooks is not None:
        attempt.came_to = error
    if not is_hopeless:
        attempt.retry = another_try(attempt.task, error)
    if attempt.executor == "coroutine" and isinstance(error, RuntimeError):
        _hint_at_asyncio(error)
    cause = error.__cause__ if isinstance(error, Retry | Snooze) else None
    attempt.outcome = encode_value(failure_of(cause or error).as_data())
    attempt.state = JobState.FAILED


def another_try(task: Task[..., Any], error: BaseException) -> Another | None:
    """Return what other try *error* is worth by what its task says, None if it is worth none. How
    many there are is the plane's to say.

    Of a group, which a nursery in the body raises, every part must be worth it. A snooze is one
    only if nothing has failed beside it.
    """
    parts = list(_parts(error))
    failures = [part for part in parts if not isinstance(part, Retry | Snooze)]
    if any(isinstance(part, (*_HOPELESS, *task.never_retry_on)) for part in failures):
        return None
    if not all(isinstance(part, task.retry_on) for part in failures):
        return None
    for part in parts:
        if isinstance(part, Retry):
            return Another(None if part.countdown is None else int(part.countdown * 1_000_000))
    if failures:
        return Another()
    longest = max(part.countdown for part in parts if isinstance(part, Snooze))
    return Another(int(longest * 1_000_000), is_counted=False)


def _parts(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _parts(part)
    else:
        yield error


def _hint_at_asyncio(error: RuntimeError) -> None:
    """If the body needed asyncio, add to its error what to do."""
    if "no running event loop" in str(error):
        error.add_note(
            "this needs asyncio, and the job runs on Trio: write @task(executor='asyncio'), or "
            "start the worker with --async-executor asyncio"
        )


_HOPELESS = (InvalidArguments, NotEncodable)
"""What fails the same way however often it is tried."""


def _misplaced_awaitable(attempt: Attempt, value: Any) -> TypeError | None:
    """If a body returned something to be awaited, close it and say what to do instead."""
    if not inspect.isawaitable(value):
        return None
    if inspect.iscoroutine(value):
        # Closed, or Python would warn that it was never awaited.
        value.close()
    what = "coroutine" if inspect.iscoroutine(value) else type(value).__name__
    if attempt.executor == "process":
        hint = "run it inside the task, as asyncio.run() does"
    elif attempt.is_threaded:
        hint = "write the task as async def, or, if it is a wrapper, say executor='coroutine'"
    else:
        hint = "await it inside the task"
    return TypeError(f"{attempt.task.name} returned a {what}, which has to be awaited: {hint}")
