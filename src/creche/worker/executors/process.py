"""Bodies in processes: each takes one call at a time, and can be killed.

There are as many processes as bodies have run in them at one time, up to the worker's slots; they
are started when they are needed, kept, and replaced when they have died or are used up. The
worker's loop hands bytes over and takes bytes back: what they hold is the process's affair.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import trio

from creche.errors import ProcessDied, TaskLoadError
from creche.model.job import JobState
from creche.tasks.places import Place
from creche.worker.attempt import Another, Attempt
from creche.worker.body_process import BodyProcess
from creche.worker.executors import end_by_limit, fail
from creche.worker.floor import Floor
from creche.worker.hooks import after_body
from creche.worker.process_child import (
    BROKEN,
    CALL,
    ENDED,
    LENT,
    READY,
    STOP,
    Call,
    Ended,
    Start,
)
from creche.worker.settings import WorkerSettings

logger = logging.getLogger("creche.worker")

END_S = 2.0
"""How long a process that has nothing to do may take to end before it is killed."""


class ProcessExecutor:
    """Runs bodies in processes of its own while `run` does.

    Args:
        places: where the processes find the tasks.
        lifespans: where they find the lifespans that they enter.
        hooks: where they find those that are common to all tasks, with their moments.
        set_up: what each of them calls first, as ``module:name``, and with which words.
        on_left: called when a body has left and freed its slot.
    """

    def __init__(
        self,
        floor: Floor,
        on_left: Callable[[Attempt], None],
        settings: WorkerSettings,
        places: Iterable[Place],
        lifespans: Iterable[tuple[str, str]],
        hooks: Iterable[tuple[str, str, str]],
        set_up: Iterable[str],
        worker_id: str,
    ) -> None:
        self._floor = floor
        self._on_left = on_left
        self._settings = settings
        self._places: list[tuple[Any, ...]] = [(*place,) for place in places]
        self._lifespans = list(lifespans)
        self._hooks = list(hooks)
        self._set_up = list(set_up)
        self._worker_id = worker_id
        self._processes: set[BodyProcess] = set()
        # The one that was used last is used first: the others' memory may rest.
        self._idle: list[BodyProcess] = []
        self._nursery: trio.Nursery | None = None

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return len(self._processes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the processes until cancelled; then they are ended and reaped."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, attempt: Attempt) -> None:
        """Begin the body of *attempt*, which the floor gave a slot."""
        while self._idle:
            process = self._idle.pop()
            if process.is_there():
                process.attempt = attempt
                self._call(process, attempt)
                return
        assert self._nursery is not None, "run() is what starts processes"
        process = BodyProcess()
        process.attempt = attempt
        attempt.cancel = lambda: self._stop(process, attempt)
        process.patience_ends = trio.current_time() + self._settings.process_start_s
        self._processes.add(process)
        self._nursery.start_soon(self._keep, process)

    def inside(self) -> list[Attempt]:
        """Return the attempts whose bodies are in."""
        return [p.attempt for p in self._processes if p.attempt is not None]

    # --- one process ----------------------------------------------------------------------------

    async def _keep(self, process: BodyProcess) -> None:
        """Start *process*, converse with it, and reap it in the end."""
        try:
            await self._serve(process)
        except BaseException:
            # The worker ends, and nobody is told of its bodies any more.
            if process.attempt is not None:
                process.kill()
                self._floor.leave(process.attempt)
            raise
        finally:
            if process in self._idle:
                self._idle.remove(process)
            with trio.CancelScope(shield=True):
                # It may have lifespans to leave.
                patience_s = max(END_S, self._settings.leave_lifespans_s)
                await process.end(0.0 if process.was_killed else patience_s)
            self._processes.discard(process)
        self._on_death(process)

    async def _serve(self, process: BodyProcess) -> None:
        first = Start(
            *(sys.path, self._set_up, self._places, self._lifespans, self._hooks, self._worker_id),
            self._settings.max_jobs_per_process,
            self._settings.max_memory_per_process_bytes,
        )
        try:
            await process.start(tuple(first))
        except OSError as error:
            self._fail(process, error)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.keep_sending)
            nursery.start_soon(process.watch)
            await self._converse(process)
            nursery.cancel_scope.cancel()

    async def _converse(self, process: BodyProcess) -> None:
        """Listen to *process* until it is gone, or not to be used any more."""
        while not process.is_gone:
            with trio.CancelScope(deadline=process.patience_ends) as process.scope:
                said = await process.receive()
                if said is None or not self._hear(process, said):
                    return
            if process.scope.cancelled_caught and not process.is_gone:
                self._lose_patience(process)
        for said in process.receive_rest():
            self._hear(process, said)

    def _hear(self, process: BodyProcess, said: tuple[Any, ...]) -> bool:
        """Take a message in. Return whether there is more to come."""
        kind, attempt = said[0], process.attempt
        if kind == ENDED:
            return self._on_ended(process, Ended(*said))
        if kind == BROKEN:
            self._fail(process, TaskLoadError(said[1]))
            return False
        if kind == READY:
            process.is_ready = True
            process.patience_ends = math.inf
            if attempt is not None:
                self._call(process, attempt)
        elif attempt is not None and said[1] == process.n:
            change = self._floor.lend if kind == LENT else self._floor.take_back
            change(attempt)
        return True

    def _call(self, process: BodyProcess, attempt: Attempt) -> None:
        """Have *process* run the body of *attempt*."""
        attempt.begin()
        if attempt.stop_why is not None or attempt.is_too_late:
            attempt.state, attempt.how = JobState.CANCELLED, _NOT_BEGUN
            self._leave(process, attempt)
            return
        attempt.cancel = lambda: self._stop(process, attempt)
        process.n += 1
        process.is_told = False
        # Of the offer's options the process needs no more than this.
        options: dict[str, Any] = {"tries": attempt.tries, "headers": attempt.headers}
        if attempt.must_end <= attempt.hard_end < math.inf:
            options["limits"] = {"left_s": attempt.must_end - attempt.began_at}
        offer = (*attempt.token, attempt.id, attempt.task.name, attempt.priority, attempt.payload)
        call = Call(
            *(CALL, process.n, (*offer, options), attempt.plane),
            *(attempt.soft_end - attempt.began_at, attempt.hard_end - attempt.began_at),
            attempt.home.payload_bytes,
        )
        process.say(tuple(call))
        process.patience_ends = attempt.hard_end

    def _on_ended(self, process: BodyProcess, ended: Ended) -> bool:
        """Note what the body has come to. Return whether *process* goes on."""
        attempt = process.attempt
        if attempt is None or ended.n != process.n:
            raise AssertionError("a process has answered what it was not asked")
        attempt.state = JobState(ended.state)
        attempt.outcome = ended.outcome
        attempt.retry = None if ended.retry is None else Another(*ended.retry)
        attempt.has_seen_stop = ended.has_seen_stop
        # What it took of the slot, the way there and back included: by this the plane looks ahead.
        attempt.run_us = attempt.ran_us
        if ended.why_used_up:
            logger.info("process %d is replaced: %s", process.pid, ended.why_used_up)
        goes_on = not ended.why_used_up and len(self._idle) < max(1, self._floor.slots)
        self._leave(process, attempt, is_reusable=goes_on)
        return goes_on

    # --- stopping -------------------------------------------------------------------------------

    def _stop(self, process: BodyProcess, attempt: Attempt) -> None:
        """*attempt* is to leave, by its worker's or the plane's word. Said again, it is no reason
        to wait longer."""
        if process.attempt is attempt:
            self._tell(process, attempt.stop_why or "")
            ends_at = trio.current_time() + self._settings.kill_after_s
            process.patience_ends = min(process.patience_ends, ends_at)

    def _lose_patience(self, process: BodyProcess) -> None:
        """Its next message is late: it has run for as long as it may, or does not leave."""
        attempt = process.attempt
        if attempt is not None and process.is_ready and not process.is_told:
            self._tell(process, "its time is up")
            process.patience_ends = trio.current_time() + self._settings.notice_s
            return
        process.kill()
        process.patience_ends = math.inf
        if attempt is not None and not process.is_ready and attempt.stop_why is None:
            within_s = self._settings.process_start_s
            self._fail(
                process,
                TaskLoadError(
                    f"its process had not imported the task modules within {within_s:g} s"
                ),
            )

    def _tell(self, process: BodyProcess, why: str) -> None:
        if process.is_ready and not process.is_told:
            process.is_told = True
            process.say((STOP, process.n, why))
            process.interrupt()

    # --- ends -----------------------------------------------------------------------------------

    def _on_death(self, process: BodyProcess) -> None:
        """*process* is gone. If a body was in it, that is how the body has left."""
        attempt = process.attempt
        if attempt is None:
            return
        died = ProcessDied(process.pid, process.code)
        if process.is_ready:
            attempt.run_us = attempt.ran_us
            attempt.how = _KILLED if process.was_killed else str(died)
        else:
            attempt.how = _NOT_BEGUN
        if attempt.stop_why is not None:
            attempt.state = JobState.CANCELLED
        elif not process.was_killed:
            fail(attempt, died)
        # Else it has run for as long as it may, as is noted for every executor.
        self._leave(process, attempt, is_reusable=False)

    def _fail(self, process: BodyProcess, error: BaseException) -> None:
        """*process* cannot run what it was started for."""
        if (attempt := process.attempt) is not None:
            fail(attempt, error)
            self._leave(process, attempt, is_reusable=False)

    def _leave(self, process: BodyProcess, attempt: Attempt, *, is_reusable: bool = True) -> None:
        """The body of *attempt* has left *process*."""
        process.attempt = attempt.cancel = None
        process.patience_ends = math.inf
        end_by_limit(attempt)
        if is_reusable:
            self._idle.append(process)
        if attempt.came_to is not None and self._nursery is not None:
            # It was failed here, of which hooks in the process cannot know.
            self._nursery.start_soon(self._leave_after_hooks, attempt)
            return
        self._floor.leave(attempt)
        self._on_left(attempt)

    async def _leave_after_hooks(self, attempt: Attempt) -> None:
        try:
            await trio.to_thread.run_sync(after_body, attempt, abandon_on_cancel=True)
        finally:
            self._floor.leave(attempt)
        self._on_left(attempt)


_KILLED = "its process was killed, as its body did not leave"
_NOT_BEGUN = "it had not begun"
