"""Why a job that waits does not begin: looked up when somebody asks, and kept nowhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import trio

from creche.engine.gates import Gate, Slots, Tokens
from creche.engine.parks import parts_of_park
from creche.model.job import JobState
from creche.store.base import JobRecord

if TYPE_CHECKING:
    from creche.engine.core import Core
    from creche.engine.sessions import Session

_NAMED = 5
"""Queues that one reason names."""


def why_waiting(core: Core, record: JobRecord, queue: str) -> list[dict[str, Any]]:
    """Return what holds up a job of *queue*, each as it is in an answer; nothing of one that does
    not wait, or is about to begin."""
    if record.state is JobState.DELAYED:
        what = "its next attempt" if record.failures or record.losses else "its time"
        return [_reason("moment", f"{what} has not come", record.due_at)]
    if not record.state.is_waiting:
        return []
    found = [*_of_plane(core), *_of_queue(core, queue), *_of_workers(core, record.task, queue)]
    found += _of_task(core, record)
    return found or list(_of_slots(core, record.task, queue))


def _reason(reason: str, text: str, until_at: float | None = None) -> dict[str, Any]:
    return {"reason": reason, "text": text, "until_at": until_at}


def _of_plane(core: Core) -> Iterator[dict[str, Any]]:
    if core.is_stopping:
        yield _reason("stopping", "the plane is stopping")
    if core.journal.failing is not None:
        yield _reason("store", f"the plane cannot write to its store: {core.journal.failing}")


def _of_queue(core: Core, queue: str) -> Iterator[dict[str, Any]]:
    settings = core.limits.queues.get(queue)
    if settings is not None and settings.is_paused:
        yield _reason("paused", f"queue {queue!r} is paused")
    for gate in core.limits.shut_gates_of_queue(queue):
        yield _of_gate(core, gate, f"queue {queue!r}")


def _of_task(core: Core, record: JobRecord) -> Iterator[dict[str, Any]]:
    job = core.by_id.get(record.id)
    keys = None if job is None else job.keys
    if keys is None and record.park:
        keys = parts_of_park(record.park)[1]
    keys = keys or ("", "")
    for gate, key in core.limits.shut_gates_of_task(record.task, keys):
        what = f"task {record.task!r}" + (f" and key {key!r}" if key else "")
        yield _of_gate(core, gate, what)


def _of_gate(core: Core, gate: Gate, what: str) -> dict[str, Any]:
    if isinstance(gate, Slots):
        return _reason("limit", f"{what} may have {gate.limit:,} running at a time, and has")
    assert isinstance(gate, Tokens)
    in_s = gate.next_at - trio.current_time()
    at = core.now() + max(in_s, 0.0) if math.isfinite(in_s) else None
    return _reason("rate", f"{what} may begin {gate.bucket.rate}, and has", at)


def _of_workers(core: Core, task: str, queue: str) -> Iterator[dict[str, Any]]:
    connected = [worker for worker in core.sessions.workers() if worker.is_connected]
    if not connected:
        yield _reason("no-worker", "no worker is connected")
        return
    knowing = [worker for worker in connected if task in worker.tasks]
    if not knowing:
        near = [] if task in core.catalog else core.catalog.near(task)
        hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
        yield _reason("unknown-task", f"no connected worker knows task {task!r}{hint}")
    if not any(queue in worker.queues for worker in connected):
        heard = sorted({name for worker in connected for name in worker.queues})
        some = ", ".join(heard[:_NAMED]) + (", ..." if len(heard) > _NAMED else "")
        text = f"no connected worker listens on queue {queue!r}: they listen on {some}"
        yield _reason("unheard-queue", text)
    elif knowing and not _fitting(knowing, task, queue):
        text = f"no connected worker both knows task {task!r} and listens on queue {queue!r}"
        yield _reason("unheard-queue", text)


def _of_slots(core: Core, task: str, queue: str) -> Iterator[dict[str, Any]]:
    fitting = _fitting(core.sessions.workers(), task, queue)
    slots = sum(worker.slots + worker.lent for worker in fitting)
    if not any(worker.slots for worker in fitting):
        which = "the worker" if len(fitting) == 1 else "each worker"
        yield _reason("drained", f"{which} that could run it is drained, and takes nothing")
    elif sum(len(worker.leased) for worker in fitting) >= slots:
        what = "the one slot is" if slots == 1 else f"all {slots:,} slots are"
        yield _reason("busy", f"{what} taken by other jobs")


def _fitting(workers: list[Session], task: str, queue: str) -> list[Session]:
    return [w for w in workers if w.is_connected and task in w.tasks and queue in w.queues]
