"""Questions and views: what people and dashboards ask of a plane.

A question is answered once. A topic is followed: its publisher begins with the first subscriber,
makes one view for all of them when something has changed, and ends with the last; nobody looking
costs nothing. Questions that need history run on the store's read-only side and never hold up a
commit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import trio

from creche.engine.dead import DeadJobs
from creche.engine.happenings import Happenings
from creche.engine.operating import NOTHING_SAID, Operating
from creche.engine.options import CANCELLED, headers_in, stored_options
from creche.engine.parks import park_text
from creche.engine.questions import BadQuestion, check_names
from creche.engine.schedule_commands import ScheduleCommands
from creche.engine.sessions import Session
from creche.engine.waiting import why_waiting
from creche.errors import BadFilter, RemoteProtocolError, StoreError, StoreUnavailable
from creche.model.failure import Failure
from creche.model.filter import Filter
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.store.base import JobRecord, TryRow
from creche.wire import messages as m
from creche.wire.payload import decode_value

if TYPE_CHECKING:
    from creche.engine.core import Core
    from creche.engine.lane import Lane
    from creche.engine.level import Level

logger = logging.getLogger("creche.plane")

VERSION = version("creche")
MAX_ROWS = 1000
MIN_HZ, MAX_HZ = 0.1, 10.0
RECENT = 50
"""Jobs in the overview."""

MAX_LANES = 1000
MAX_WORKERS = 1000
"""How many of each one answer tells; it says how many it leaves out. Clients can name queues and
tasks as they like, and one answer is one step of the plane and one message."""
OVERVIEW_LANES = 400
OVERVIEW_WORKERS = 200
BY_NAME = 50
"""Queues up to which the overview has them by name; of more, those come first where something is
to be seen."""


EVENTS = "events"
"""The topic of what happens."""

AT_READER = frozenset({"job", "jobs", "store", "overview"})
"""Questions that are for the store's reader, which has one at a time."""


class Views:
    """Answers questions and publishes topics."""

    def __init__(self, core: Core) -> None:
        self._core = core
        dead = DeadJobs(core)
        self._happenings = Happenings(core)
        self._questions: dict[str, Callable[[m.Facts], Awaitable[Any]]] = {
            "health": self._health,
            "job": self._job,
            "jobs": self._jobs,
            "queues": self._queues,
            "workers": self._workers,
            "tasks": self._tasks,
            "task": self._task,
            "store": self._store,
            "overview": self._overview,
            **Operating(core).questions,
            **ScheduleCommands(core).questions,
            "retry": dead.retry,
            "discard": dead.discard,
        }
        self._topics: dict[str, Callable[[m.Facts], Awaitable[Any]]] = {
            "overview": self._overview,
            EVENTS: self._happenings.view,
        }
        self._publishers: dict[str, _Publisher] = {}

    async def answer(self, session: Session, message: m.Ask) -> None:
        """Answer a question.

        Raises:
            StoreError: it took too long, or the file could not be read.
        """
        question = self._questions.get(message.question)
        if question is None:
            known = ", ".join(sorted(self._questions))
            why = f"there is no question {message.question!r}; there are: {known}"
            session.post(m.AskFailed(message.ref, "unknown-question", why))
            return
        if message.question not in AT_READER:
            await self._say(session, message, question)
            return
        async with self._core.reader.turn(session) as is_there:
            if is_there:
                await self._say(session, message, question)

    async def _say(
        self, session: Session, message: m.Ask, question: Callable[[m.Facts], Awaitable[Any]]
    ) -> None:
        try:
            body = await question(message.params)
        except BadQuestion as error:
            session.post(m.AskFailed(message.ref, error.code, str(error)))
        else:
            session.post(m.Answer(message.ref, body))

    def subscribe(self, session: Session, message: m.Subscribe) -> None:
        """Follow a topic."""
        make = self._topics.get(message.topic)
        if make is None:
            why = f"there is no topic {message.topic!r}; there are: {', '.join(self._topics)}"
            session.post(m.AskFailed(message.ref, "unknown-topic", why))
            return
        if not MIN_HZ <= message.hz <= MAX_HZ:
            why = f"a topic is sent {MIN_HZ:g} to {MAX_HZ:g} times a second"
            session.post(m.AskFailed(message.ref, "bad-hz", why))
            return
        followed = sum(p.follows(session) for p in self._publishers.values())
        if followed >= self._core.settings.topics:
            session.post(m.AskFailed(message.ref, "busy", "too many topics for one session"))
            return
        publisher = self._publishers.get(message.topic)
        if publisher is None:
            publisher = self._publishers[message.topic] = _Publisher(self._core, make)
            self._core.spawn(publisher.run)
            if message.topic == EVENTS:
                self._happenings.begin()
        publisher.add(session, message.ref, message.hz)

    def unsubscribe(self, session: Session, ref: int) -> None:
        """Stop following one topic."""
        for publisher in self._publishers.values():
            publisher.drop(session, ref)
        self._end_idle_publishers()

    def forget(self, session: Session) -> None:
        """The session's connection is gone; it subscribes again on the next."""
        for publisher in self._publishers.values():
            publisher.drop(session, None)
        self._end_idle_publishers()

    def _end_idle_publishers(self) -> None:
        for topic in [t for t, p in self._publishers.items() if not p.has_followers]:
            self._publishers.pop(topic).scope.cancel()
            if topic == EVENTS:
                self._happenings.end()

    # --- questions ------------------------------------------------------------------------------

    async def _health(self, params: m.Facts) -> dict[str, Any]:
        core = self._core
        counts = await core.store.counts()
        return {
            "ready": core.is_ready and not core.is_stopping,
            "stopping": core.is_stopping,
            "failing": core.journal.failing or core.journal.refusing,
            "plane": core.plane,
            "epoch": core.epoch,
            "started_at": core.started_at,
            "durability": core.store.durability.value,
            "version": VERSION,
            "workers": sum(worker.is_connected for worker in core.sessions.workers()),
            "jobs": {state.word: n for state, n in counts.items() if n},
            "commits": core.journal.commits,
            "trio_tasks": trio.lowlevel.current_statistics().tasks_living,
        }

    async def _job(self, params: m.Facts) -> dict[str, Any] | None:
        job_id = params.get("id")
        if not isinstance(job_id, bytes) or len(job_id) != 16:
            raise BadQuestion("id is the 16 bytes of a job's id")
        record = await self._core.store.job(job_id)
        if record is None:
            return None
        whole = params.get("whole")
        content = {"payload": record.payload, "outcome": record.outcome} if whole else {}
        described = describe(record, self._core.catalog.place)
        return {
            **content,
            "options": _describe_options(record),
            **described,
            "held_up_by": why_waiting(self._core, record, described["queue"]),
            "retry": self._core.retry_policy(record.task, record.options).as_data(),
            "attempts": [_describe_try(row) for row in record.tries],
            "headers": headers_in(record.options),
            "cancelled": _why_cancelled(record),
        }

    async def _jobs(self, params: m.Facts) -> dict[str, Any]:
        check_names("jobs", params, ("filter", "before_seq", "limit"))
        filter = self.filter(params)
        before = params.get("before_seq")
        limit = params.get("limit", RECENT)
        if type(limit) is not int or not 1 <= limit <= MAX_ROWS:
            raise BadQuestion(f"limit is a whole number from 1 to {MAX_ROWS}")
        if before is not None and not (type(before) is int and 0 <= before < 2**63):
            raise BadQuestion("before_seq is a whole number, and not below 0")
        page = await self._core.store.jobs(filter, before_seq=before, limit=limit)
        place = self._core.catalog.place
        return {
            "jobs": [describe(record, place) for record in page.records],
            "before_seq": page.before_seq,
        }

    def filter(self, params: m.Facts) -> Filter:
        """Return the filter of a question, with its moments by the plane's clock."""
        try:
            return Filter.parse(_text(params, "filter") or "", self._core.now())
        except BadFilter as error:
            raise BadQuestion(str(error)) from None

    async def _queues(self, params: m.Facts) -> dict[str, Any]:
        return self._describe_queues(MAX_LANES)

    def _describe_queues(self, most: int, *, by_name_up_to: int | None = None) -> dict[str, Any]:
        running = Counter(
            job.lane.queue
            for worker in self._core.sessions.workers()
            for job in worker.leased.values()
        )
        queues: list[dict[str, Any]] = []
        shown = lanes_left_out = queues_left_out = 0
        settings = self._core.limits.queues
        by_name = {**dict.fromkeys(settings, ()), **self._core.lanes.queues}
        order = sorted(by_name)
        if by_name_up_to is not None and len(order) > by_name_up_to:
            order.sort(
                key=lambda name: (
                    name not in settings,
                    not running[name],
                    *_has_none(by_name[name]),
                )
            )
        shut = self._core.lanes.shut_queues
        for name in order:
            levels = by_name[name]
            lanes = [lane for level in levels if level is not None for lane in level.lanes()]
            some = lanes[: most - shown]
            shown += len(some)
            lanes_left_out += len(lanes) - len(some)
            if (lanes and not some) or len(queues) >= most:
                queues_left_out += 1
                continue
            described = [_describe_lane(lane) for lane in some]
            queues.append(
                {
                    "queue": name,
                    "lanes": described,
                    "running": running[name],
                    "shut": name in shut,
                    **settings.get(name, NOTHING_SAID).as_shown(),
                }
            )
        return {
            "queues": queues,
            "queues_left_out": queues_left_out,
            "lanes_left_out": lanes_left_out,
        }

    async def _workers(self, params: m.Facts) -> dict[str, Any]:
        return self._describe_workers(MAX_WORKERS, with_tasks=True)

    def _describe_workers(self, most: int, *, with_tasks: bool) -> dict[str, Any]:
        workers = sorted(self._core.sessions.workers(), key=lambda worker: worker.name)
        return {
            "workers": [worker.describe(with_tasks=with_tasks) for worker in workers[:most]],
            "workers_left_out": max(0, len(workers) - most),
        }

    async def _tasks(self, params: m.Facts) -> dict[str, Any]:
        return {"tasks": list(self._core.catalog)}

    async def _task(self, params: m.Facts) -> dict[str, Any] | None:
        name = _text(params, "name")
        if name is None:
            raise BadQuestion("name is the name of a task")
        return self._core.catalog.get(name)

    async def _store(self, params: m.Facts) -> dict[str, Any]:
        return await self._core.store.info()

    async def _overview(self, params: m.Facts) -> dict[str, Any]:
        recent = await self._jobs({"limit": RECENT})
        return {
            "health": await self._health({}),
            **self._describe_queues(OVERVIEW_LANES, by_name_up_to=BY_NAME),
            **self._describe_workers(OVERVIEW_WORKERS, with_tasks=False),
            "jobs": recent["jobs"],
        }


class _Publisher:
    """One topic for all who follow it."""

    def __init__(self, core: Core, make: Callable[[m.Facts], Awaitable[Any]]) -> None:
        self._core = core
        self._make = make
        self._followers: dict[tuple[Session, int], float] = {}
        self._rev = 0
        self._news = trio.Event()
        self.scope = trio.CancelScope()

    @property
    def has_followers(self) -> bool:
        return bool(self._followers)

    def follows(self, session: Session) -> int:
        """Return how often *session* follows this topic."""
        return sum(follower is session for follower, _ in self._followers)

    def add(self, session: Session, ref: int, hz: float) -> None:
        """Send views to *session*, the first at once."""
        self._followers[session, ref] = hz
        self._news.set()

    def drop(self, session: Session, ref: int | None) -> None:
        """Stop sending to a session, for one subscription or for all it has."""
        for key in [k for k in self._followers if k[0] is session and ref in (None, k[1])]:
            del self._followers[key]

    async def run(self) -> None:
        """Publish when something has changed, at the rate of the fastest follower."""
        seen = -1
        with self.scope:
            while self._followers:
                if self._news.is_set() or self._core.revision != seen:
                    self._news = trio.Event()
                    seen = self._core.revision
                    try:
                        body = await self._make({})
                    except StoreUnavailable:
                        raise
                    except StoreError as error:
                        logger.warning("a view is left out: %s", error)
                        seen = -1
                        await trio.sleep(1 / max(self._followers.values(), default=1.0))
                        continue
                    self._rev += 1
                    for session, ref in self._followers:
                        # A reader that is behind skips this one, and gets a newer one next.
                        if session.outbox is not None and session.outbox.size_bytes < 256 * 1024:
                            session.post(m.View(ref, self._rev, body))
                with trio.move_on_after(1 / max(self._followers.values(), default=1.0)):
                    await self._news.wait()


def describe(
    record: JobRecord, place: Callable[[str, tuple[str | None, int | None, str]], tuple[str, int]]
) -> dict[str, Any]:
    """Return a job as people look at it; *place* fills in what its submission left open."""
    queue, priority = place(record.task, (record.queue, record.priority, record.park))
    return {
        "id": id_to_text(record.id),
        "seq": record.seq,
        "task": record.task,
        "queue": queue,
        "priority": Priority(priority).word,
        "state": record.state.word,
        "parked": park_text(record.park) if record.state is JobState.PARKED else "",
        "attempt": record.attempt,
        "losses": record.losses,
        "failures": record.failures,
        "worker": None if record.holder is None else record.holder.rpartition("/")[0],
        "submitted_at": record.submitted_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "due_at": record.due_at if record.state is JobState.DELAYED else None,
        "payload_bytes": record.payload_bytes,
        "outcome_bytes": record.outcome_bytes,
        "error": record.error,
        "fate": None if record.fate is None else record.fate.word,
        "retried_as": None if record.retried_as is None else id_to_text(record.retried_as),
    }


def _describe_options(record: JobRecord) -> dict[str, Any]:
    """Return what a job was submitted with, as far as people can read it."""
    try:
        options = stored_options(record.options)
    except ValueError:
        return {}
    options.pop(CANCELLED, None)
    retry_of = options.pop("retry_of", None)
    return {**options, "retry_of": id_to_text(retry_of)} if retry_of else options


def _why_cancelled(record: JobRecord) -> str | None:
    """Return why a job was cancelled while it ran, which is nothing if nobody said; None if it was
    not."""
    try:
        why = stored_options(record.options).get(CANCELLED)
    except ValueError:
        return None
    return why if isinstance(why, str) else None


def _describe_try(row: TryRow) -> dict[str, Any]:
    failure: Failure | None = None
    if row.outcome is not None:
        try:
            failure = Failure.from_data(decode_value(row.outcome))
        except RemoteProtocolError as error:
            # What a worker said was carried unread.
            failure = Failure("unknown", f"what its worker said cannot be read: {error}")
    return {
        "attempt": row.attempt,
        "state": row.state.word,
        "worker": None if row.holder is None else row.holder.rpartition("/")[0],
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "error": None if failure is None else failure.as_data(),
    }


def _has_none(levels: Iterable[Level | None]) -> tuple[bool, bool]:
    """Whether no jobs of a queue wait for a slot, and whether none wait for their time."""
    lanes = [lane for level in levels if level is not None for lane in level.lanes()]
    has_ready = any(lane.ready or lane.stored for lane in lanes)
    return not has_ready, not any(lane.delayed for lane in lanes)


def _describe_lane(lane: Lane) -> dict[str, Any]:
    return {
        "priority": Priority(lane.priority).word,
        "parked": park_text(lane.park),
        "shut": lane.is_shut,
        "ready": lane.ready,
        **lane.statistics(),
    }


def _text(params: Mapping[str, Any], name: str) -> str | None:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise BadQuestion(f"{name} is a text")
    return value
