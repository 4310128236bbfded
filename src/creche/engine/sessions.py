"""A peer's conversation with the plane, as the plane remembers it: it outlives connections."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from typing import Any

from creche.engine.doors import OPEN_DOOR, Door
from creche.engine.job import Job
from creche.engine.outboxes import STEP_BYTES, Outboxes
from creche.engine.overtakes import Overtakes
from creche.engine.settings import PlaneSettings
from creche.engine.timers import Timer
from creche.engine.turns import READ_SHARE, Allowance
from creche.errors import ChannelBroken, CrecheError, LocalProtocolError, MessageTooLarge
from creche.model.priority import Priority
from creche.peer.outbox import Outbox
from creche.wire import messages as m
from creche.wire.access import EVERYTHING, Access
from creche.wire.session import Role

NOT_KNOWN = 0
"""The seq of a job that somebody waits for, while it is looked up: no job has it."""

PUSH_PART = 4
"""Offers and results wait while more than one part in so many of `outbox_bytes` waits for the peer:
what a plane sends unasked never is what a peer is cut for, as long as there is room for all
(`Outboxes`)."""

WORKERS_PART = 16
"""Of all places for peers, one in so many is for workers only: clients that take all there are do
not keep out the worker that is started anew."""

MAX_TASKS = 200
"""Names of tasks that are shown of one worker."""

MAX_FACT = 200
"""Characters kept of a text that a peer says of itself."""


class Tally:
    """Submissions of one session that wait for the same thing, and the bytes of their payloads."""

    __slots__ = ("bytes", "number")

    def __init__(self) -> None:
        self.number = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return self.number > 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.number += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        """Count one less."""
        self.number -= 1
        self.bytes -= size

    def clear(self) -> None:
        """Count none."""
        self.number = self.bytes = 0

    def has_room(self, size: int, settings: PlaneSettings) -> bool:
        """Whether one more may wait; one alone always may, whatever its size."""
        return not self.number or (
            self.number < settings.unaccepted and self.bytes + size <= settings.unaccepted_bytes
        )


class Session:
    """One peer. What belongs to workers only is empty for the others."""

    def __init__(
        self, hello: m.Hello, role: Role, settings: PlaneSettings, outboxes: Outboxes
    ) -> None:
        self.id = hello.session
        self._outboxes = outboxes
        self._outbox_bytes = settings.outbox_bytes
        self._look_at_bytes = 0
        """How much waits for the peer when its outbox is counted (again)."""
        self._is_counted = False
        self._push_bytes = settings.outbox_bytes // PUSH_PART
        self._unanswered = 3 * settings.unaccepted
        """Submissions that may be without an answer: unaccepted, claims and doubts."""
        self.role = role
        self.name = hello.name
        self.incarnation = hello.incarnation
        self.holder = f"{hello.name}/{hello.incarnation.hex()}"
        """What names this worker process in the store, restarts of it told apart."""
        self.door: Door = OPEN_DOOR
        """Where it came in on its newest connection."""
        self.access: Access = EVERYTHING
        """What it may do on that."""
        self.facts: m.Facts = {}
        """What people are shown of the process: see `shown_facts`."""
        self.outbox: Outbox | None = None
        """Where messages to the peer go; None while it is not connected."""
        self.cut: Callable[[CrecheError], None] | None = None
        """Ends the connection, giving the reason; the peer is told one that is a refusal."""
        self.connection = 0
        """The peer's own number of the newest connection; 0 while it does not say."""
        self.connected_at = 0.0
        self.heard_at = 0.0
        """When a frame arrived last (Trio's clock)."""
        self.timer: Timer | None = None
        """While connected: when silence becomes a loss. While not: when the grace ends."""
        self.is_over = False

        self.watching: dict[bytes, int] = {}
        """The jobs whose results this session waits for, by id, with their seqs."""
        self.unreceived: OrderedDict[bytes, int] = OrderedDict()
        """Ids, with their seqs, of the results sent on this connection that the peer has not said
        it received. A peer never has more to receive than it may wait for; of one that does, the
        oldest go."""
        self.owed: dict[bytes, None] = {}
        """Of the jobs that it waits for, those that have ended and whose results are held back
        while too much waits for the peer; in order."""
        self.is_held_up = False
        """Whether anything was held back since its outbox was that full."""
        self.coming_bytes = 0
        """Payloads of leased jobs that are offered when their leases are on disk."""
        self.kept: deque[tuple[float, int]] = deque(maxlen=settings.watches)
        """Moments (Trio's clock), in order, until which results are kept that the peer has yet to
        name again after a connection was lost, with their seqs."""
        self.unaccepted = Tally()
        """Submissions that wait for room, or are on their way to the disk."""
        self.claims = Tally()
        """Submissions of an id that somebody had submitted before and that is not accepted yet."""
        self.doubts = Tally()
        """Submissions that are looked up, because they were sent before; and those behind them."""
        self.declined: OrderedDict[int, None] = OrderedDict()
        """Submissions of an earlier connection that were declined over this one: that may cross
        with their being sent again, and one submission is answered once. No more than may be
        without an answer; the oldest go."""
        self.warned: set[str] = set()
        """Tasks that nobody had announced when this session submitted to them."""
        self.warned_queues: set[str] = set()
        """Queues that nobody listened on, likewise."""
        self.open_asks = 0
        self.allowance = Allowance()
        """What it may say that brings nothing before it stands in line."""
        self.reading = Allowance(READ_SHARE)
        """What its questions may cost the store's reader before it has pauses."""
        self.pieces_cost_s = 0.0
        """What of that the pieces of large messages have used up, and gets back with the last."""

        self.look_ups_cost_s = 0.0
        """What jobs have used up that are looked up because it waits for them, as far as none of it
        was given back."""
        self.found = 0
        """How many of these were found since that was last given back."""

        # Of a worker:
        self.began = 0.0
        """When its process began to work (Trio's clock), as far as it has said so."""
        self.queues: tuple[str, ...] = ()
        self.tasks: frozenset[str] = frozenset()
        self.slots = 0
        self.lent = 0
        self.orders: dict[type[m.Message], m.Resize | m.Drain] = {}
        """The last that it was told of its slots, and whether it was told to leave (it stays until
        what it runs is done): said again after a reconnect, as a connection that breaks may take
        an order with it."""
        self.leased: dict[int, Job] = {}
        self.load_s = 0.0
        """The sum of what the leased jobs are thought to take."""
        fairness = settings.fairness if role is Role.WORKER else None
        self.overtakes = None if fairness is None else Overtakes(fairness)
        """How many were sent past what it was given ahead of its slots, where that counts."""
        self._by_priority = [0] * len(Priority)
        """How many of the leased jobs were leased at each priority."""
        self.was_wrong = False
        """Whether it handed attempts back: no look-ahead until it has finished one more."""
        self.done = 0
        self.failed = 0

    @property
    def is_worker(self) -> bool:
        """Whether this peer runs attempts."""
        return self.role is Role.WORKER

    @property
    def is_connected(self) -> bool:
        """Whether messages reach the peer now."""
        return self.outbox is not None

    @property
    def is_congested(self) -> bool:
        """Whether so much waits for the peer that offers and results are held back."""
        outbox = self.outbox
        return outbox is not None and outbox.size_bytes + self.coming_bytes > self._push_bytes

    def post(self, message: m.Message) -> None:
        """Send *message* with the next frame; a peer that is not connected resumes by facts.

        A peer that does not read what it asked for is cut, and keeps its session. So is one for
        whom the plane has made a message that cannot be sent: it comes back, and others go on.
        """
        outbox = self.outbox
        if outbox is not None:
            try:
                outbox.put(message)
            except MessageTooLarge as error:
                self._leave_out(message, error)
            except LocalProtocolError as error:
                self._end_connection(error)
            if outbox.size_bytes > self._look_at_bytes:
                self._look_at(outbox.size_bytes)

    def connect(self, outbox: Outbox | None) -> None:
        """Send over a new connection from now on, or over none."""
        self.outbox = outbox
        self._uncount()

    def has_sent(self, outbox: Outbox) -> None:
        """The peer has taken a frame."""
        if self._is_counted and outbox is self.outbox:
            size = outbox.size_bytes
            self._is_counted = size >= STEP_BYTES
            self._look_at_bytes = min(size + STEP_BYTES, self._outbox_bytes)
            self._outboxes.sent(self, size)

    def give_up(self, why: str) -> None:
        """Cut the peer, and drop what waits for it. Its session is kept."""
        if self.outbox is not None:
            self.outbox.clear()
        self._uncount()
        self._end_connection(ChannelBroken(why))

    def _look_at(self, size: int) -> None:
        """So much waits for the peer that it matters."""
        if size > self._outbox_bytes:
            self.give_up("the peer does not read what it asked for")
        else:
            self._is_counted = True
            self._look_at_bytes = min(size + STEP_BYTES, self._outbox_bytes)
            self._outboxes.grew(self, size)

    def _uncount(self) -> None:
        self._is_counted = False
        self._look_at_bytes = min(STEP_BYTES, self._outbox_bytes)
        self._outboxes.forget(self)

    def order(self, message: m.Resize | m.Drain) -> None:
        """Tell a worker how many slots to have, or to leave; said again, it changes nothing."""
        self.orders[type(message)] = message
        self.post(message)

    def decline(self, n: int, code: str, why: str) -> None:
        """Decline a submission that was taken a while ago."""
        self.declined[n] = None
        if len(self.declined) > self._unanswered:
            self.declined.popitem(last=False)
        self.post(m.Declined(n, code, why))

    def _leave_out(self, message: m.Message, error: MessageTooLarge) -> None:
        """An answer that no peer would take in is refused, and a view is one that is skipped."""
        if type(message) is m.Answer:
            self.post(m.AskFailed(message.ref, "too-large", f"the answer is too large: {error}"))
        elif type(message) is not m.View:
            self._end_connection(error)

    def _end_connection(self, why: CrecheError) -> None:
        if self.cut is not None:
            self.cut(why)

    def has_room(self, look_ahead: int, look_ahead_s: float) -> bool:
        """Whether the worker may be given one more attempt: a slot is free, or what it has is
        measured to be done within a few milliseconds."""
        if self.outbox is None:
            return False
        if self.is_congested:
            self.is_held_up = True
            return False
        capacity = self.slots + self.lent
        leased = len(self.leased)
        return leased < capacity or (
            self.slots > 0
            and not self.was_wrong
            and leased < capacity + look_ahead
            and self.load_s < look_ahead_s * capacity
            and (self.overtakes is None or not self.overtakes.is_full)
        )

    def lease(self, job: Job) -> None:
        """Note that the worker has an attempt of *job*."""
        self.leased[job.seq] = job
        self.load_s += job.estimate_s
        job.leased_priority = Priority.CRITICAL if job.let_pass else job.lane.priority
        self._by_priority[job.leased_priority] += 1
        if self.overtakes is not None and len(self.leased) > self.slots + self.lent:
            self.overtakes.sent(job)

    def release(self, job: Job) -> None:
        """Note that the worker has it no more."""
        del self.leased[job.seq]
        self.load_s = max(0.0, self.load_s - job.estimate_s) if self.leased else 0.0
        self._by_priority[job.leased_priority] -= 1
        job.let_pass = False
        if self.overtakes is not None:
            self.overtakes.left(job)
            self._look_at_slots(self.overtakes)

    def resized(self, slots: int, lent: int) -> None:
        """Note how many slots the worker has, and how many of its bodies have lent theirs."""
        is_smaller = slots + lent < self.slots + self.lent
        self.slots, self.lent = slots, lent
        if self.overtakes is not None:
            if is_smaller:
                self.overtakes.may_all_wait(self.leased.values())
            self._look_at_slots(self.overtakes)

    def _look_at_slots(self, overtakes: Overtakes) -> None:
        if len(self.leased) <= self.slots + self.lent:
            overtakes.all_have_begun()

    def least_urgent(self) -> int:
        """Return the lowest priority among the leased jobs (the largest number)."""
        return max((p for p, n in enumerate(self._by_priority) if n), default=0)

    def describe(self, *, with_tasks: bool) -> dict[str, Any]:
        """Return what `creche workers ls` shows; of very many tasks, some names."""
        # At 0 slots nothing is looked ahead to: what it has, it runs.
        room = self.slots + self.lent if self.slots else len(self.leased)
        running = min(len(self.leased), room)
        return {
            "name": self.name,
            "state": self._state,
            "queues": list(self.queues),
            "tasks": nsmallest(MAX_TASKS, self.tasks) if with_tasks else [],
            "task_count": len(self.tasks),
            "slots": self.slots,
            "lent": self.lent,
            "running": running,
            "look_ahead": len(self.leased) - running,
            "done": self.done,
            "failed": self.failed,
            "since": self.connected_at,
            **self.facts,
        }

    @property
    def _state(self) -> str:
        if not self.is_connected:
            return "away"
        if m.Drain in self.orders:
            return "leaving"
        if self.slots or not self.tasks:  # without tasks it has not said yet how many slots it has
            return "connected"
        return "draining" if self.leased else "drained"


def shown_facts(facts: m.Facts) -> m.Facts:
    """Return what is kept of the facts in a `Hello` to be shown: a few, each of a bounded size."""
    pid = facts.get("pid")
    shown: m.Facts = {"pid": pid if type(pid) is int else None}
    for name in ("host", "version"):
        value = facts.get(name)
        shown[name] = value[:MAX_FACT] if isinstance(value, str) else None
    return shown


def places_for(role: Role, sessions: int) -> int:
    """Return how many of *sessions* peers there may be when one of this *role* comes."""
    return sessions if role is Role.WORKER else sessions - sessions // WORKERS_PART


class Sessions:
    """All sessions of a plane, by their random id and, for workers, by name."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Session] = {}
        self._workers: dict[str, Session] = {}
        self._away: dict[bytes, Session] = {}
        """Clients that are not connected, the one that has been so for the longest first."""
        self._next_worker = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def get(self, session_id: bytes) -> Session | None:
        """Return the session that a `Hello` wants to resume."""
        return self._by_id.get(session_id)

    def worker(self, name: str) -> Session | None:
        """Return the worker of that name."""
        return self._workers.get(name)

    def add(self, session: Session) -> None:
        """Keep a new session."""
        self._by_id[session.id] = session
        if session.is_worker:
            self._workers[session.name] = session

    def is_away(self, session: Session) -> None:
        """A session has lost its connection."""
        if not session.is_worker:
            self._away[session.id] = session

    def is_back(self, session: Session) -> None:
        """A session goes on over a new connection."""
        self._away.pop(session.id, None)

    def away_longest(self) -> Session | None:
        """Return the client that lost its connection first. It names anew whatever it waits for,
        in a new session as well, so it loses nothing by making room."""
        return next(iter(self._away.values()), None)

    def remove(self, session: Session) -> None:
        """Forget a session that is over."""
        self._by_id.pop(session.id, None)
        self._away.pop(session.id, None)
        if self._workers.get(session.name) is session:
            del self._workers[session.name]

    def workers(self) -> list[Session]:
        """Return the workers, beginning with another one each time, so that none is always
        first."""
        workers = list(self._workers.values())
        if len(workers) > 1:
            self._next_worker = (self._next_worker + 1) % len(workers)
            return workers[self._next_worker :] + workers[: self._next_worker]
        return workers

    def listening(self, queue: str) -> Iterable[Session]:
        """Return the workers that listen on *queue*."""
        return [worker for worker in self._workers.values() if queue in worker.queues]
