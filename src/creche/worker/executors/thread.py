"""Bodies in threads: each thread takes one attempt at a time, runs it, and takes the next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from threading import Thread, current_thread

from creche.peer.parent import current_parent
from creche.wire.payload import decode_call
from creche.worker.attempt import Attempt
from creche.worker.executors import end_by_limit, fail, succeed
from creche.worker.floor import Floor
from creche.worker.forks import leave_if_child
from creche.worker.hooks import after_body, before_body

logger = logging.getLogger("creche.worker")


class ThreadExecutor:
    """Threads of our own, begun when they are needed.

    There are as many as attempts were running in threads at one time; those beyond the worker's
    slots (attempts that wait for their own jobs lend their slots, and keep their threads) end when
    their body has left. The threads are daemons: a body that hangs can neither be stopped nor
    waited for, and must not keep the process from ending; `close` lets go of all the others.

    Args:
        on_left: called in the thread when a body has left, its slot being free already.
    """

    def __init__(self, floor: Floor, on_left: Callable[[Attempt], None]) -> None:
        self._floor = floor
        self._on_left = on_left
        # What the loop hands over. A thread that is done helps itself from the floor first.
        self._inbox: SimpleQueue[Attempt | None] = SimpleQueue()
        self._number = 0
        self._threads = 0
        self._current: dict[Thread, Attempt] = {}

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return self._threads

    def start(self, attempt: Attempt) -> None:
        """Have *attempt*, which the floor gave a slot, run in a thread. Called on the loop only."""
        with self._floor.lock:
            # There is a thread for each busy attempt, so that what is handed over here never
            # waits for a body to leave.
            is_short = self._floor.busy_threads > self._threads
            self._threads += is_short
        self._inbox.put(attempt)
        if is_short:
            self._begin_thread()

    def close(self) -> None:
        """Let the threads end as soon as each is done. Does not wait."""
        for _ in range(self._threads):
            self._inbox.put(None)

    def inside(self) -> list[Attempt]:
        """Return the attempts whose bodies are in."""
        return list(self._current.values())

    def _begin_thread(self) -> None:
        self._number += 1
        try:
            Thread(target=self._serve, name=f"creche-{self._number}", daemon=True).start()
        except RuntimeError as error:
            with self._floor.lock:
                self._threads -= 1
                if self._threads == 0:
                    raise
            # The system gives no more threads. What was handed over waits for one of those there
            # are.
            logger.error("running with %d threads: %s", self._threads, error)

    def _serve(self) -> None:
        floor, inbox, current, me = self._floor, self._inbox, self._current, current_thread()
        while (handed := inbox.get()) is not None:
            attempt: Attempt | None = handed
            while attempt is not None:
                current[me] = attempt
                _run(attempt)
                # First the slot, then the word: when the loop hears of it, it can use the slot.
                following = floor.swap(attempt)
                self._on_left(attempt)
                attempt = following
            # Nothing of the last job is kept alive by a thread that waits.
            del handed, current[me]
            with floor.lock:
                if self._threads > max(floor.slots, floor.busy_threads):
                    self._threads -= 1
                    return


def _run(attempt: Attempt) -> None:
    """Run the body and note its end. Raises nothing, whatever the body does."""
    attempt.begin()
    if attempt.is_too_late:
        end_by_limit(attempt)
        return
    # A context of its own, and an empty one: what one body sets, no other sees.
    context = Context()
    try:
        args, kwargs = decode_call(attempt.payload)
        task = attempt.task
        task.signature.check(args, kwargs)
        context.run(current_parent.set, attempt)
        if task.hooks is not None:
            context.run(before_body, attempt)
        value = context.run(task.function, *args, **kwargs)
    except BaseException as error:
        leave_if_child(attempt.home.pid, error)
        fail(attempt, error)
    else:
        leave_if_child(attempt.home.pid)
        succeed(attempt, value)
    attempt.run_us = attempt.ran_us
    end_by_limit(attempt)
    if attempt.task.hooks is not None:
        context.run(after_body, attempt)
