"""Submissions: from a message to a job on its way to the disk."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from creche.engine.catalog import AT_MOST_ONCE
from creche.engine.job import Job
from creche.engine.journal import Arrival
from creche.engine.lanes import DEFAULT_QUEUE, PARKED_BY_TASK, Lane, LaneKey
from creche.engine.sessions import Session
from creche.model.ids import made_at
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

_OPTIONS = frozenset({"delivery", "parent"})
_DELIVERIES = ("at-least-once", AT_MOST_ONCE)
MAX_NAME = 200
MAX_WARNED = 1000
"""Tasks that one session is warned of once; beyond, it is warned each time."""
MAX_REMEMBERED = 10_000
"""Lanes remembered by what a submission says: a peer can say anything."""


class Submissions:
    """Takes what clients and running jobs submit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._claims: dict[bytes, list[tuple[Session, int]]] = {}
        """Sessions that submitted an id while its first submission was on its way to the disk."""
        self._lanes: dict[tuple[str, str | None, int | None], Lane] = {}
        """Where submissions that say the same wait, until workers change."""
        self._waiting: dict[bytes, Lane] = {}
        """Ids that wait for room in a lane, where there is no disk to put them on."""
        self._full: set[Lane] = set()
        """The lanes they wait for."""

    def submit(self, session: Session, message: m.Submit) -> None:
        """Take a submission: decline it, or put it on its way. No checkpoint."""
        core = self._core
        job = core.by_id.get(message.id)
        if job is not None:
            self._submitted_before(session, message, job)
            return
        refusal = self._refusal(session, message)
        if refusal is not None:
            session.post(m.Declined(message.n, *refusal))
            return
        parent: Job | None = None
        if message.options is not None and message.options.get("parent") is not None:
            seq, epoch, attempt = message.options["parent"]
            parent = core.leases.held_by(seq, epoch, attempt)
            if parent is None:
                session.post(
                    m.Declined(message.n, "scope-closed", "the job that submits this one has ended")
                )
                return
            if parent.children >= core.settings.max_children:
                session.post(
                    m.Declined(
                        message.n,
                        "scope-full",
                        f"this job has {parent.children:,} unfinished jobs: wait for some",
                    )
                )
                return
        if message.task not in core.catalog and message.task not in session.warned:
            self._warn_unknown(session, message)
        lane = self._lane(message)
        if not core.spills and parent is None and (lane.waiting or not lane.has_room):
            # The memory store's window is the whole lane: the submitter waits, until its deadline.
            if message.id not in self._waiting:
                self._waiting[message.id] = lane
                self._full.add(lane)
                session.unaccepted += 1
                lane.waiting.append((session, message))
            return
        self._arrive(session, message, lane, parent)

    def admit_waiting(self) -> None:
        """Let in what waits for room, in order, wherever there is some again."""
        for lane in list(self._full):
            while lane.waiting and lane.has_room:
                session, message = lane.waiting.popleft()
                del self._waiting[message.id]
                session.unaccepted -= 1
                job = self._core.by_id.get(message.id)
                if job is not None:
                    # The same id came another way meanwhile: one id is one job.
                    self._submitted_before(session, message, job)
                else:
                    self._arrive(session, message, self._lane(message), None)
            if not lane.waiting:
                self._full.discard(lane)

    def withdraw(self, job_id: bytes) -> bool:
        """Forget a submission that waits for room; return whether there was one."""
        lane = self._waiting.pop(job_id, None)
        if lane is None:
            return False
        for session, message in lane.waiting:
            if message.id == job_id:
                session.unaccepted -= 1
        lane.waiting = deque(entry for entry in lane.waiting if entry[1].id != job_id)
        return True

    def forget(self, session: Session) -> None:
        """The session is over: what it waited to submit was never accepted."""
        for lane in self._full:
            for other, message in lane.waiting:
                if other is session:
                    del self._waiting[message.id]
            lane.waiting = deque(entry for entry in lane.waiting if entry[0] is not session)

    def accepted_elsewhere(self, job_id: bytes) -> list[tuple[Session, int]]:
        """Return who else is to be told that this job is accepted."""
        return self._claims.pop(job_id, []) if self._claims else []

    def _arrive(self, session: Session, message: m.Submit, lane: Lane, parent: Job | None) -> None:
        core = self._core
        core.next_seq = seq = core.next_seq + 1
        size = len(message.payload)
        state = JobState.PARKED if lane.park else JobState.QUEUED
        options = None if message.options is None else encode_value(message.options)
        job = Job(seq, message.id, message.task, lane, state, message.payload, options, core.now())
        if message.options is not None:
            job.delivery = message.options.get("delivery")
        if parent is not None:
            parent.children += 1
            job.parent = parent.seq
        stored = core.spills and (lane.stored > 0 or not lane.has_room)
        if stored:
            core.deepen(lane)
        else:
            lane.reserve(size)
        core.by_id[message.id] = job
        session.unaccepted += 1
        core.journal.arrive(Arrival(job, session, message.n, bool(message.flags & m.WATCH), stored))

    def _submitted_before(self, session: Session, message: m.Submit, job: Job) -> None:
        if job.is_committed:
            session.post(m.Accepted([message.n]))
        else:
            self._claims.setdefault(message.id, []).append((session, message.n))
        if message.flags & m.WATCH:
            self._core.outcomes.watch_job(session, job)

    def _refusal(self, session: Session, message: m.Submit) -> tuple[str, str] | None:
        """Return why a submission cannot be taken, None if it can."""
        core = self._core
        if core.is_stopping:
            return "stopping", "the plane is stopping: submit again when it is back"
        if core.journal.failing is not None:
            return "store-full", f"the plane's store takes nothing: {core.journal.failing}"
        if session.unaccepted >= core.settings.unaccepted + 1:
            return "credit", f"more than {core.settings.unaccepted:,} submissions wait already"
        if len(message.payload) > core.settings.payload_bytes:
            limit = core.settings.payload_bytes
            return "too-large", f"a payload may have {limit:,} bytes, not {len(message.payload):,}"
        if not 0 < len(message.task) <= MAX_NAME:
            return "bad-task", f"a task's name has 1 to {MAX_NAME} characters"
        if message.queue is not None and not 0 < len(message.queue) <= MAX_NAME:
            return "bad-queue", f"a queue's name has 1 to {MAX_NAME} characters"
        if message.flags & m.RESENT and made_at(message.id) < core.now() - core.tombstone_s:
            # Its tombstone may be gone by now, so nobody can tell whether it ran.
            return "uncertain", "sent again too late to tell whether it was accepted: not run"
        return None if message.options is None else _check_options(message.options)

    def workers_changed(self) -> None:
        """Workers came, went, or know other tasks now: jobs may have to wait elsewhere."""
        self._lanes.clear()

    def _lane(self, message: m.Submit) -> Lane:
        """Return the lane where a new job waits; looked up once for all that say the same."""
        key = (message.task, message.queue, message.priority)
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= MAX_REMEMBERED:
                self._lanes.clear()
            lane = self._lanes[key] = self._find_lane(message)
        return lane

    def _find_lane(self, message: m.Submit) -> Lane:
        """Return the level's main lane if every worker that listens there can run the job, else the
        lane of those that wait for its task."""
        core = self._core
        task = message.task
        said = core.catalog.defaults(task)
        queue, priority = message.queue, message.priority
        if task in core.catalog:
            queue = queue or said.queue or DEFAULT_QUEUE
            if priority is None:
                priority = Priority.NORMAL if said.priority is None else said.priority
        else:
            priority = None if priority is None else int(priority)
        place = core.catalog.place(task, (queue, priority, ""))
        park = "" if core.is_known_everywhere(task, place[0]) else PARKED_BY_TASK + task
        key: LaneKey = (queue, priority, park) if park else (*place, park)
        return core.lanes.get(key, place)

    def _warn_unknown(self, session: Session, message: m.Submit) -> None:
        """Tell the submitter that nobody knows the task; once a session and task."""
        if len(session.warned) < MAX_WARNED:
            session.warned.add(message.task)
        near = self._core.catalog.near(message.task)
        hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        session.post(
            m.Warned(
                message.n,
                "unknown-task",
                f"no worker has announced task {message.task!r}: "
                f"the job is parked until one does{hint}",
            )
        )


def _check_options(options: m.Facts) -> tuple[str, str] | None:
    unknown = options.keys() - _OPTIONS
    if unknown:
        return "unknown-option", f"this plane does not know the option {min(unknown)!r}"
    delivery = options.get("delivery")
    if delivery is not None and delivery not in _DELIVERIES:
        return "bad-delivery", f"{delivery!r} is no delivery: use one of {', '.join(_DELIVERIES)}"
    parent = options.get("parent")
    if parent is not None and not (
        isinstance(parent, list) and len(parent) == 3 and all(type(n) is int for n in parent)
    ):
        return "bad-parent", "a parent is [seq, epoch, attempt]"
    return None


def restore_options(job: Job) -> None:
    """Set what a job's stored options say of it."""
    if job.options is not None:
        options = decode_value(job.options)
        parent = options.get("parent")
        job.parent = None if parent is None else int(parent[0])
        job.delivery = options.get("delivery")
