"""What an operator says of queues and workers while the plane runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from creche.engine.conversation import MAX_SLOTS
from creche.engine.questions import BadQuestion
from creche.engine.sessions import Session
from creche.model.flow import QueueSettings
from creche.model.names import MAX_NAME, why_no_queue
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

NOTHING_SAID = QueueSettings()
MAX_QUEUES = 10_000
"""Queues of which something may be said before anyone has named them."""


class Operating:
    """The commands of an operator. Each may be given twice: after a reconnect it is."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.questions: Mapping[str, Callable[[m.Facts], Awaitable[Any]]] = {
            "set-queue": self._set_queue,
            "set-worker": self._set_worker,
            "work": self._work,
        }

    async def _set_queue(self, params: m.Facts) -> dict[str, Any]:
        """Say what is taken from a queue; answered when it is on disk."""
        core = self._core
        queue = _name(params, "queue")
        known = self._known_queues()
        if queue not in known and not params.get("is_new"):
            raise BadQuestion(_unknown("queue", queue, known), "unknown-queue")
        wrong = None if queue in known else why_no_queue(queue)
        if wrong is not None:
            raise BadQuestion(wrong, "bad-queue")
        said = core.limits.queues.get(queue, NOTHING_SAID)
        try:
            changes = {name: params[name] for name in ("paused", "limit", "rate") if name in params}
            settings = QueueSettings.from_data(said.as_data() | changes)
        except ValueError as error:
            raise BadQuestion(str(error)) from None
        if queue not in known and len(known) >= MAX_QUEUES:
            raise BadQuestion(f"there are {len(known):,} queues: resume and forget some", "full")
        if settings != said:
            core.limits.set_queue(queue, settings)
        await core.journal.wait_drained()
        return {"queue": queue, **settings.as_shown()}

    def _known_queues(self) -> set[str]:
        core = self._core
        listened = {queue for worker in core.sessions.workers() for queue in worker.queues}
        announced = {str(d["queue"]) for d in core.catalog if d.get("queue")}
        return {*core.lanes.queues, *listened, *announced, *core.limits.queues}

    async def _set_worker(self, params: m.Facts) -> dict[str, Any]:
        """Tell a worker how many slots to have, or to leave. It is the worker that knows it from
        then on, and it does as long as its process lives."""
        worker = self._worker(params)
        slots, leaves = params.get("slots"), params.get("leave")
        if leaves:
            worker.order(m.Drain("an operator has told it to leave"))
        elif slots is None or (type(slots) is int and 0 <= slots <= MAX_SLOTS):
            worker.order(m.Resize(slots))
        else:
            raise BadQuestion(
                f"slots is a whole number from 0 to {MAX_SLOTS:,}; left out: as it was started"
            )
        return worker.describe(with_tasks=False)

    async def _work(self, params: m.Facts) -> dict[str, Any]:
        """Say how many jobs wait that a worker may run; those of others, and those whose time has
        not come, do not count."""
        worker = self._worker(params)
        # What is on its way back to its lane counts as well.
        await self._core.journal.wait_drained()
        return {"ready": self._core.lanes.ready_for(worker)}

    def _worker(self, params: m.Facts) -> Session:
        name = _name(params, "worker")
        worker = self._core.sessions.worker(name)
        if worker is None:
            known = {one.name for one in self._core.sessions.workers()}
            raise BadQuestion(_unknown("worker", name, known), "unknown-worker")
        if not worker.is_connected:
            raise BadQuestion(f"worker {name!r} is away: it hears nothing now", "away")
        return worker


def _name(params: m.Facts, what: str) -> str:
    name = params.get(what)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadQuestion(f"{what} is a name of 1 to {MAX_NAME} characters")
    return name


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 3)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif known:
        some = sorted(known)[:10]
        more = f" and {len(known) - len(some):,} more" if len(known) > len(some) else ""
        hint = f"there {'is' if len(known) == 1 else 'are'} {', '.join(some)}{more}"
    else:
        hint = "there is none yet"
    return f"there is no {what} {name!r}: {hint}"
