"""Submissions: from a message to a job on its way to the disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from creche.engine.catalog import AT_MOST_ONCE
from creche.engine.doubts import Doubts
from creche.engine.job import Job
from creche.engine.journal import Arrival
from creche.engine.lanes import DEFAULT_QUEUE, PARKED_BY_TASK, Lane, LaneKey
from creche.engine.sessions import Session
from creche.engine.unique import NOTHING_KNOWN, Ask, BadKey, Known, UniqueKeys
from creche.errors import RemoteProtocolError
from creche.model.flow import MAX_KEY_LENGTH
from creche.model.headers import checked_headers
from creche.model.ids import made_at
from creche.model.job import JobState
from creche.model.limits import MAX_MOMENT, TimeLimits
from creche.model.priority import Priority
from creche.model.retry import MAX_DELAY_S, RetryPolicy
from creche.store.base import Verdict
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

_OPTIONS = frozenset(
    {
        "delay_s",
        "delivery",
        "due_at",
        "headers",
        "idempotency_key",
        "keys",
        "limits",
        "parent",
        "retry",
        "unique",
    }
)
_STOPPING = ("stopping", "the plane is stopping: submit again when it is back")
_DELIVERIES = ("at-least-once", AT_MOST_ONCE)
MAX_NAME = 200
MAX_WARNED = 1000
"""Tasks, and queues, that one session is warned of once; beyond, it is warned each time."""
MAX_HINTED = 20
"""Tasks of which one session is told names that are near: to find them takes milliseconds."""
MAX_REMEMBERED = 10_000
"""Lanes remembered by what a submission says: a peer can say anything."""
LOOK_FOR_LANES_S = 1.0
"""How often lanes that nobody uses are looked for when there are too many: it takes a look at every
job in memory."""


class Submissions:
    """Takes what clients and running jobs submit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._claims: dict[bytes, dict[tuple[Session, int], m.Submit]] = {}
        """Who submitted an id while its first submission waited for room, or was on its way to the
        disk: session and number, and what it said."""
        self._lanes: dict[tuple[str, str | None, int | None], Lane] = {}
        """Where submissions that say the same wait, until workers change."""
        self._heard: dict[str, bool] = {}
        """Whether anyone listens on a queue that a submission named, until workers change."""
        self._doubts = Doubts(core, self._take)
        self.unique = UniqueKeys(core, self._doubts.add)
        self._waiting: dict[bytes, Lane] = {}
        """Ids that wait for room in a lane, where there is no disk to put them on."""
        self._full: set[Lane] = set()
        """The lanes they wait for."""
        self._looked_for_lanes_at = -math.inf
        """When lanes that nobody uses were looked for last (Trio's clock)."""

    def submit(self, session: Session, message: m.Submit) -> None:
        """Take a submission: decline it, put it on its way, or look it up first if it was sent
        before, or has a unique key. No checkpoint."""
        asks: Sequence[Ask] = ()
        if self.unique.concerns(message):
            try:
                asks = self.unique.asks(message)
            except BadKey as error:
                # It may have been accepted, before its task was announced like this.
                if message.id not in self._core.by_id:
                    if message.flags & m.RESENT:
                        self._doubts.add(session, message, problem=str(error))
                    else:
                        session.decline(message.n, "bad-key", str(error))
                    return
        if (
            message.flags & m.RESENT or session.doubts.number or asks
        ) and message.id not in self._core.by_id:
            self._doubts.add(session, message, asks)
        else:
            self._take(session, message)

    def _take(
        self,
        session: Session,
        message: m.Submit,
        asks: Sequence[Ask] = (),
        known: Known = NOTHING_KNOWN,
    ) -> None:
        core = self._core
        if message.flags & m.RESENT and message.n in session.declined:
            return  # It was sent again before that answer arrived.
        if self._waiting and message.id in self._waiting:
            # It may be the same one, sent again: then what it waits for will answer both.
            self._wait(session, message, self._waiting[message.id])
            return
        if (
            message.flags & m.WATCH
            and len(session.watching) >= core.settings.watches
            and not core.outcomes.has_room(session, (message.id,))
        ):
            why = f"this session waits for {core.settings.watches:,} results already"
            session.post(m.Declined(message.n, "watches", why))
            return
        job = core.by_id.get(message.id)
        if job is not None:
            self._submitted_before(session, message, job)
            return
        refusal = self._refusal(session, message)
        if refusal is None and core.limits.any:
            refusal = core.limits.refusal(message)
        if refusal is not None:
            session.post(m.Declined(message.n, *refusal))
            return
        parent: Job | None = None
        if message.options is not None and message.is_nested:
            parent = core.leases.held_by(*message.options["parent"])
            refusal = self._parent_refusal(parent)
            if refusal is not None:
                session.post(m.Declined(message.n, *refusal))
                return
        lane = self._lane(message)
        if lane is None:
            session.post(m.Declined(message.n, *self._lanes_refusal()))
            return
        if asks and self.unique.meets(session, message, asks, known):
            return
        if message.task not in core.catalog and message.task not in session.warned:
            self._warn_unknown(session, message)
        if lane.queue != DEFAULT_QUEUE and lane.queue not in session.warned_queues:
            self._warn_unheard(session, message, lane.queue)
        if not core.spills and parent is None and (lane.waiting or not lane.has_room):
            self._wait(session, message, lane)
        else:
            self._arrive(session, message, lane, parent)

    def put(self, message: m.Submit, verdict: Verdict) -> tuple[str, str] | None:
        """Take a job that the plane itself submits, and which waits for no room, with what becomes
        of the one that it is retried for; return why it cannot, None if both are on their way to
        the disk. No checkpoint."""
        core = self._core
        if message.id in core.by_id:
            core.journal.judge(verdict)
            return None
        if core.is_stopping:
            return _STOPPING
        if core.journal.failing is not None:
            return "store-full", f"the plane's store takes nothing: {core.journal.failing}"
        refusal = core.limits.refusal(message)
        if refusal is not None:
            return refusal
        lane = self._lane(message)
        if lane is None:
            return self._lanes_refusal()
        self.unique.take_over(message)
        # Before the job, which may be the last of its batch.
        core.journal.judge(verdict)
        self._arrive(None, message, lane, None)
        return None

    # --- waiting for room -----------------------------------------------------------------------

    def admit_waiting(self) -> None:
        """Let in what waits for room, in order, wherever there is some again."""
        for lane in list(self._full):
            while lane.waiting and lane.has_room:
                _, (session, message) = lane.waiting.popitem(last=False)
                del self._waiting[message.id]
                session.unaccepted.remove(len(message.payload))
                self._admit(session, message)
            if not lane.waiting:
                self._full.discard(lane)

    def withdraw(self, ids: Collection[bytes]) -> set[bytes]:
        """Decline those submissions that wait, for room or to be looked up, as somebody has
        cancelled them; return which were."""
        withdrawn = {job_id for job_id in ids if self._withdraw_waiting(job_id)}
        return withdrawn | self._doubts.withdraw(ids) | self.unique.withdraw(ids)

    def admit_now(self, job_id: bytes) -> None:
        """Let a submission in that waits for room, whether there is some or not."""
        lane = self._waiting.pop(job_id, None)
        if lane is not None:
            session, message = lane.waiting.pop(job_id)
            session.unaccepted.remove(len(message.payload))
            self._admit(session, message)

    def _withdraw_waiting(self, job_id: bytes) -> bool:
        lane = self._waiting.pop(job_id, None)
        if lane is None:
            return False
        session, message = lane.waiting.pop(job_id)
        session.unaccepted.remove(len(message.payload))
        why = "it was cancelled while it waited for room"
        for submitter, n in ((session, message.n), *self._unclaim(job_id)):
            submitter.decline(n, "cancelled", why)
        self.unique.released(job_id)
        return True

    def resume(self, session: Session) -> None:
        """The session begins a new connection by submitting again whatever was not answered."""
        self._doubts.drop(session)
        self.unique.forget(session)
        session.declined.clear()

    def forget(self, session: Session) -> None:
        """The session is over: what it waited to submit was never accepted. Who submitted the same
        waits on in its place."""
        self._doubts.drop(session)
        self.unique.forget(session)
        for job_id, claims in list(self._claims.items()):
            for claim in [claim for claim in claims if claim[0] is session]:
                del claims[claim]
            if not claims:
                del self._claims[job_id]
        for lane in self._full:
            for job_id in [i for i, (other, _) in lane.waiting.items() if other is session]:
                self._hand_on(lane, job_id)

    def _wait(self, session: Session, message: m.Submit, lane: Lane) -> None:
        """The memory store's window is the whole lane: the submitter waits, until its deadline."""
        taken = self._waiting.get(message.id)
        if taken is None:
            self._waiting[message.id] = lane
            self._full.add(lane)
            session.unaccepted.add(len(message.payload))
            lane.waiting[message.id] = (session, message)
            return
        first, said = taken.waiting[message.id]
        if (first, said.n) != (session, message.n):
            self._claim(session, message)

    def _admit(self, session: Session, message: m.Submit) -> None:
        job = self._core.by_id.get(message.id)
        if job is not None:
            # The same id came another way meanwhile: one id is one job.
            self._submitted_before(session, message, job)
            return
        lane = self._lane(message)
        if lane is not None:
            self._arrive(session, message, lane, None)
            return
        refusal = self._lanes_refusal()
        for submitter, n in ((session, message.n), *self._unclaim(message.id)):
            submitter.decline(n, *refusal)
        self.unique.released(message.id)

    def _hand_on(self, lane: Lane, job_id: bytes) -> None:
        """Give the place of a submission that waits to the next who submitted the same id."""
        claims = self._claims.get(job_id)
        if not claims:
            del self._waiting[job_id], lane.waiting[job_id]
            self.unique.released(job_id)
            return
        session, n = next(iter(claims))
        lane.waiting[job_id] = (session, message := claims.pop((session, n)))
        if not claims:
            del self._claims[job_id]
        session.claims.remove(len(message.payload))
        session.unaccepted.add(len(message.payload))

    # --- one id, many submitters ----------------------------------------------------------------

    def accepted_elsewhere(self, job_id: bytes) -> Sequence[tuple[Session, int]]:
        """Return who else is to be told that this job is accepted."""
        claims = self._claims.get(job_id) if self._claims else None
        if claims is None:
            return ()
        for (session, _), message in claims.items():
            if message.flags & m.WATCH:
                self._core.outcomes.watch(session, (job_id,))
        return self._unclaim(job_id)

    def declined_elsewhere(self, job_id: bytes) -> Sequence[tuple[Session, int]]:
        """A job could not be stored: who waits for its id waits for the job that had it before, if
        there is one. Return who else is to be told that it is declined."""
        self._core.outcomes.look_again(job_id)
        return self._unclaim(job_id)

    def _claim(self, session: Session, message: m.Submit) -> None:
        """Answer a submission as the first one of the same id is answered."""
        claim = (session, message.n)
        claims = self._claims.get(message.id, {})
        if claim not in claims:  # else it is said twice, and what was said first stands
            if not session.claims.has_room(len(message.payload), self._core.settings):
                session.post(m.Declined(message.n, *self._credit_refusal()))
                return
            session.claims.add(len(message.payload))
            claims[claim] = message
            self._claims[message.id] = claims

    def _unclaim(self, job_id: bytes) -> Sequence[tuple[Session, int]]:
        """Return who claims an id, and forget it."""
        claims = self._claims.pop(job_id, {})
        for (session, _), message in claims.items():
            session.claims.remove(len(message.payload))
        return tuple(claims)

    def _submitted_before(self, session: Session, message: m.Submit, job: Job) -> None:
        if not job.is_committed:
            self._claim(session, message)
            return
        session.post(m.Accepted([message.n]))
        if message.flags & m.WATCH:
            self._core.outcomes.watch_job(session, job)

    # --- from schedules -------------------------------------------------------------------------

    def lane_with_room(self, message: m.Submit) -> Lane | None:
        """Return where a job would wait, None if there is no room for it now."""
        lane = self._lane(message)
        if lane is None or (not self._core.spills and (lane.waiting or not lane.has_room)):
            return None
        return lane

    def arrive(self, session: Session, message: m.Submit, lane: Lane) -> None:
        """Put a job of the plane's own on its way: *session* is told when it is on disk."""
        self.unique.take_over(message)
        self._arrive(session, message, lane, None)

    # --- on the way -----------------------------------------------------------------------------

    def _arrive(
        self, session: Session | None, message: m.Submit, lane: Lane, parent: Job | None
    ) -> None:
        core = self._core
        core.next_seq = seq = core.next_seq + 1
        size = len(message.payload)
        state = JobState.PARKED if lane.park else JobState.QUEUED
        now = core.now()
        options = None if message.options is None else encode_value(message.options)
        job = Job(seq, message.id, message.task, lane, state, message.payload, options, now)
        taking = self.unique.takings.get(message.id) if self.unique.takings else None
        if message.options is not None:
            job.delivery = message.options.get("delivery")
            job.due_at = _due_at(message.options, now)
            job.limits = _limits(message.options)
            job.headers = message.options.get("headers")
        if taking is not None and taking.due_at is not None:
            job.due_at = taking.due_at
        job.expires_at = self.expires_at(job)
        if core.limits.any:
            job.keys = core.limits.keys_of(message)
        if parent is not None:
            parent.children += 1
            job.parent = parent.seq
        stored = core.spills and (lane.stored > 0 or not lane.has_room)
        if job.due_at is not None:
            job.state = JobState.DELAYED
            core.delays.enter(job)
            stored = job.is_stored
        elif stored:
            core.tails.deepen(lane)
        else:
            lane.reserve(size)
        core.by_id[message.id] = job
        if session is not None:
            session.unaccepted.add(size)
            if message.flags & m.WATCH:
                core.outcomes.watch_job(session, job)
        if taking is not None:
            core.journal.keys(self.unique.rows(taking, seq))
        core.journal.arrive(Arrival(job, session, message.n, stored))

    def expires_at(self, job: Job) -> float | None:
        """Return by when a job must have begun: by what its submission says, or its task."""
        announced = self._core.catalog.defaults(job.task).expires_s
        limits = job.limits
        if announced is not None and (limits is None or limits.expires_s is None):
            limits = replace(limits or TimeLimits(), expires_s=announced)
        return None if limits is None else limits.expires_at(job.submitted_at)

    def _refusal(self, session: Session, message: m.Submit) -> tuple[str, str] | None:
        """Return why a submission cannot be taken, None if it can."""
        core = self._core
        if core.is_stopping and not message.is_nested:
            # What a running job submits is a part of what the plane waits for.
            return _STOPPING
        if core.journal.failing is not None:
            return "store-full", f"the plane's store takes nothing: {core.journal.failing}"
        if not session.unaccepted.has_room(len(message.payload), core.settings):
            return self._credit_refusal()
        if len(message.payload) > core.settings.payload_bytes:
            limit = core.settings.payload_bytes
            return "too-large", f"a payload may have {limit:,} bytes, not {len(message.payload):,}"
        if not 0 < len(message.task) <= MAX_NAME:
            return "bad-task", f"a task's name has 1 to {MAX_NAME} characters"
        if message.queue is not None and not 0 < len(message.queue) <= MAX_NAME:
            return "bad-queue", f"a queue's name has 1 to {MAX_NAME} characters"
        if message.flags & m.RESENT and made_at(message.id) <= core.unknown_until:
            # Its tombstone may be gone by now, so nobody can tell whether it ran.
            return "uncertain", "sent again too late to tell whether it was accepted: not run"
        if message.options is None:
            return None
        return check_options(message.options) or self._limits_refusal(message)

    def _limits_refusal(self, message: m.Submit) -> tuple[str, str] | None:
        """Return how the limits that a submission says, over those that its task announces,
        contradict each other; None if they do not."""
        said = None if message.options is None else message.options.get("limits")
        if not said:
            return None
        task = self._core.catalog.get(message.task)
        limits = {**((task or {}).get("limits") or {}), **said}
        soft_s, hard_s = limits.get("soft_timeout_s"), limits.get("timeout_s")
        if soft_s is None or hard_s is None or soft_s < hard_s:
            return None
        announced = " and ".join(
            f"its task says {what}"
            for what in ("soft_timeout", "timeout")
            if said.get(f"{what}_s") is None
        )
        why = f"soft_timeout ({soft_s:g} s) has to come before timeout ({hard_s:g} s)"
        return "bad-limits", f"{why}: {announced}" if announced else why

    def _credit_refusal(self) -> tuple[str, str]:
        settings = self._core.settings
        most, size = settings.unaccepted, settings.unaccepted_bytes
        return "credit", f"more than {most:,} submissions, or {size:,} bytes of them, wait already"

    def _lanes_refusal(self) -> tuple[str, str]:
        limit = self._core.settings.lanes
        return "lanes", f"this plane has {limit:,} lanes in use: name fewer queues and tasks"

    def _parent_refusal(self, parent: Job | None) -> tuple[str, str] | None:
        """Return why a running job may not submit one more, None if it may."""
        if parent is None:
            return "scope-closed", "the job that submits this one has ended"
        if parent.children >= self._core.settings.max_children:
            return (
                "scope-full",
                f"this job has {parent.children:,} unfinished jobs: wait for some",
            )
        return None

    # --- where to -------------------------------------------------------------------------------

    def workers_changed(self) -> None:
        """Workers came, went, or know other tasks now: jobs may have to wait elsewhere."""
        self._lanes.clear()
        self._heard.clear()

    def _lane(self, message: m.Submit) -> Lane | None:
        """Return the lane where a new job waits, None when there are too many; looked up once for
        all that say the same. What others of its kind wait for is looked at each time."""
        key = (message.task, message.queue, message.priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._find_lane(message)
            if lane is not None:
                if len(self._lanes) >= MAX_REMEMBERED:
                    self._lanes.clear()
                self._lanes[key] = lane
        if lane is not None and self._core.limits.any:
            return self._core.limits.lane_of(message, lane)
        return lane

    def _find_lane(self, message: m.Submit) -> Lane | None:
        """Return the level's main lane if every worker that listens there can run the job, else the
        lane of those that wait for its task; None when that would be one lane too many."""
        core = self._core
        task = message.task
        said = core.catalog.defaults(task)
        queue, priority = message.queue, message.priority
        if task in core.catalog:
            queue = queue or core.catalog.queue_of(task)
            if priority is None:
                priority = Priority.NORMAL if said.priority is None else said.priority
        else:
            priority = None if priority is None else int(priority)
        place = core.catalog.place(task, (queue, priority, ""))
        park = "" if core.is_known_everywhere(task, place[0]) else PARKED_BY_TASK + task
        key: LaneKey = (queue, priority, park) if park else (*place, park)
        return core.lanes.get(key, place) if self.has_lane(key, core.settings.lanes) else None

    def has_lane(self, key: LaneKey, most: int) -> bool:
        """Whether there is such a lane, or may be one more, of *most*."""
        core = self._core
        if key in core.lanes.by_key or len(core.lanes.by_number) < most:
            return True
        now = trio.current_time()
        if now < self._looked_for_lanes_at + LOOK_FOR_LANES_S:
            return False
        self._looked_for_lanes_at = now
        self._lanes.clear()
        core.lanes.retire({job.lane for job in (*core.by_seq.values(), *core.by_id.values())})
        return len(core.lanes.by_number) < most

    def _warn_unknown(self, session: Session, message: m.Submit) -> None:
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

    def _warn_unheard(self, session: Session, message: m.Submit, queue: str) -> None:
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


def check_options(options: m.Facts) -> tuple[str, str] | None:
    """Return what is wrong with a submission's options, as a code and a sentence, or None."""
    unknown = options.keys() - _OPTIONS
    if unknown:
        return "unknown-option", f"this plane does not know the option {min(unknown)!r}"
    delivery = options.get("delivery")
    if delivery is not None and delivery not in _DELIVERIES:
        return "bad-delivery", f"{delivery!r} is no delivery: use one of {', '.join(_DELIVERIES)}"
    if options.get("retry") is not None:
        try:
            RetryPolicy.from_data(options["retry"])
        except ValueError as error:
            return "bad-retry", str(error)
    try:
        limits = _limits(options)
    except ValueError as error:
        return "bad-limits", str(error)
    if options.get("headers") is not None:
        try:
            checked_headers(options["headers"])
        except ValueError as error:
            return "bad-headers", str(error)
    for name, most in (("delay_s", MAX_DELAY_S), ("due_at", MAX_MOMENT)):
        value = options.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value <= most):
            return "bad-delay", f"{name} is a number of seconds from 0 to {most:,.0f}"
    if options.get("delay_s") is not None and options.get("due_at") is not None:
        return "bad-delay", "delay_s and due_at both say when: give one of them"
    if limits is not None and _is_in_vain(limits, options):
        return "bad-limits", "it would expire before its time has come: it could never run"
    if not are_keys(options.get("keys")):
        return "bad-key", f"keys are two texts of up to {MAX_KEY_LENGTH} printable characters"
    parent = options.get("parent")
    if parent is not None and not (
        isinstance(parent, list) and len(parent) == 3 and all(type(n) is int for n in parent)
    ):
        return "bad-parent", "a parent is [seq, epoch, attempt]"
    return None


def are_keys(keys: object) -> bool:
    """Whether *keys* may be what tells a job apart for its task's limit and rate."""
    return keys is None or (
        isinstance(keys, list)
        and len(keys) == 2
        and all(isinstance(k, str) and len(k) <= MAX_KEY_LENGTH and k.isprintable() for k in keys)
    )


def _is_in_vain(limits: TimeLimits, options: m.Facts) -> bool:
    """Whether a job is delayed to a moment at which it has expired."""
    delay_s, due_at = options.get("delay_s"), options.get("due_at")
    if delay_s and limits.expires_s is not None and delay_s >= limits.expires_s:
        return True
    return bool(due_at and limits.deadline_at is not None and due_at >= limits.deadline_at)


def _due_at(options: m.Facts, now: float) -> float | None:
    """Return until when a job is delayed, None if its time has come."""
    delay_s: float | None = options.get("delay_s")
    due_at: float | None = options.get("due_at") if delay_s is None else now + delay_s
    return None if due_at is None or due_at <= now else due_at


def _limits(options: m.Facts) -> TimeLimits | None:
    limits = options.get("limits")
    return None if limits is None else TimeLimits.from_data(limits)


CANCELLED = "cancelled"
"""Why a job was cancelled, kept with what was said of it until its body has left."""

_CHECKED = ("delivery", "headers", "keys", "limits", "parent", "retry")
"""What is checked of stored options: whoever uses them relies on it. The others are looked at once,
when they are new."""


def stored_options(options: bytes | None) -> m.Facts:
    """Return what a job was submitted with, as the store has it.

    Raises:
        ValueError: it is damaged; the sentence says what is wrong.
    """
    if options is None:
        return {}
    try:
        said = decode_value(options)
    except RemoteProtocolError as error:
        raise ValueError(f"what it was submitted with is damaged: {error}") from None
    if not isinstance(said, dict):
        raise ValueError("what it was submitted with is damaged: it is no map")
    wrong = check_options({name: said[name] for name in _CHECKED if name in said})
    if wrong is not None:
        raise ValueError(f"what it was submitted with is damaged: {wrong[1]}")
    return said


def restore_options(job: Job) -> None:
    """Set what a job's stored options say of it.

    Raises:
        ValueError: they are damaged; nothing was set.
    """
    if job.options is not None:
        options = stored_options(job.options)
        parent = options.get("parent")
        job.parent = None if parent is None else int(parent[0])
        job.delivery = options.get("delivery")
        job.limits = _limits(options)
        job.headers = options.get("headers")
        why = options.get(CANCELLED)
        job.cancelled = why if isinstance(why, str) else None


def headers_in(options: bytes | None) -> m.Facts:
    """Return the headers that a job was submitted with, as the store has its options; none if they
    are damaged."""
    try:
        return stored_options(options).get("headers") or {}
    except ValueError:
        return {}
