"""Hints: what a submitter is told of a job that is taken, though nobody would run it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from creche.engine.lane import Lane
from creche.engine.parks import DEFAULT_QUEUE
from creche.engine.sessions import Session
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

MAX_WARNED = 1000
"""Tasks, and queues, that one session is warned of once; beyond, it is warned each time."""
MAX_HINTED = 20
"""Tasks of which one session is told names that are near: to find them takes milliseconds."""
MAX_REMEMBERED = 10_000
"""Queues of which it is remembered whether anyone listens on them: a peer can name anything."""


class Hints:
    """Warns each session once of a task that nobody knows, or a queue that nobody listens on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._heard: dict[str, bool] = {}
        """Whether anyone listens on a queue that a submission named, until workers change."""

    def forget(self) -> None:
        """Workers came, went, or know other tasks now."""
        self._heard.clear()

    def give(self, session: Session, message: m.Submit, lane: Lane) -> None:
        """Warn of a submission that is taken, if there is something to be warned of."""
        if message.task not in self._core.catalog and message.task not in session.warned:
            self._unknown(session, message)
        if lane.queue != DEFAULT_QUEUE and lane.queue not in session.warned_queues:
            self._unheard(session, message, lane.queue)

    def _unknown(self, session: Session, message: m.Submit) -> None:
        """Tell the submitter that nobody knows the task; once a session and task."""
        if len(session.warned) < MAX_WARNED:
            session.warned.add(message.task)
        is_hinted = len(session.warned) <= MAX_HINTED
        near = self._core.catalog.near(message.task) if is_hinted else []
        hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        session.post(
            m.Warned(
                message.n,
                "unknown-task",
                f"no worker has announced task {message.task!r}: "
                f"the job is parked until one does{hint}",
            )
        )

    def _unheard(self, session: Session, message: m.Submit, queue: str) -> None:
        """Tell the submitter that nobody listens on the queue of its job, if others are there to
        listen; once a session and queue."""
        is_heard = self._heard.get(queue)
        if is_heard is None:
            workers = self._core.sessions.workers()
            is_heard = not workers or any(queue in worker.queues for worker in workers)
            if len(self._heard) >= MAX_REMEMBERED:
                self._heard.clear()
            self._heard[queue] = is_heard
        if is_heard:
            return
        if len(session.warned_queues) < MAX_WARNED:
            session.warned_queues.add(queue)
        names = {name for worker in self._core.sessions.workers() for name in worker.queues}
        known = ", ".join(map(repr, sorted(names)[:5]))
        session.post(
            m.Warned(
                message.n,
                "unheard-queue",
                f"no worker listens on queue {queue!r}: the job waits until one does; "
                f"they listen on {known}{' and others' if len(names) > 5 else ''}",
            )
        )
