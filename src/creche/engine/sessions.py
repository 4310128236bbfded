"""A peer's conversation with the plane, as the plane remembers it: it outlives connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from creche.engine.job import Job
from creche.engine.timers import Timer
from creche.model.priority import Priority
from creche.peer.outbox import Outbox
from creche.wire import messages as m
from creche.wire.session import Role


class Session:
    """One peer. What belongs to workers only is empty for the others."""

    def __init__(self, hello: m.Hello, role: Role, outbox_bytes: int) -> None:
        self.id = hello.session
        self._outbox_bytes = outbox_bytes
        self.role = role
        self.name = hello.name
        self.incarnation = hello.incarnation
        self.holder = f"{hello.name}/{hello.incarnation.hex()}"
        """What names this worker process in the store, restarts of it told apart."""
        self.facts = hello.facts
        self.outbox: Outbox | None = None
        """Where messages to the peer go; None while it is not connected."""
        self.cut: Callable[[str], None] | None = None
        """Ends the connection, giving a reason."""
        self.connected_at = 0.0
        self.heard_at = 0.0
        """When a frame arrived last (Trio's clock)."""
        self.timer: Timer | None = None
        """While connected: when silence becomes a loss. While not: when the grace ends."""
        self.is_over = False

        self.watching: set[int] = set()
        """Seqs of the jobs whose results this session waits for."""
        self.unreceived: deque[int] = deque()
        """Seqs of the results sent on this connection that the peer has not said it received."""
        self.unaccepted = 0
        self.warned: set[str] = set()
        """Tasks that nobody had announced when this session submitted to them."""
        self.open_asks = 0

        # Of a worker:
        self.queues: tuple[str, ...] = ()
        self.tasks: frozenset[str] = frozenset()
        self.slots = 0
        self.lent = 0
        self.leased: dict[int, Job] = {}
        self.load_s = 0.0
        self._by_priority = [0] * len(Priority)
        """The sum of what the leased jobs are thought to take."""
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

    def post(self, message: m.Message) -> None:
        """Send *message* with the next frame; a peer that is not connected resumes by facts.

        A peer that does not read what it asked for is cut, and keeps its session.
        """
        outbox = self.outbox
        if outbox is not None:
            outbox.put(message)
            if outbox.size_bytes > self._outbox_bytes:
                outbox.clear()
                if self.cut is not None:
                    self.cut("the peer does not read what it asked for")

    def has_room(self, look_ahead: int, look_ahead_s: float) -> bool:
        """Whether the worker may be given one more attempt: a slot is free, or what it has is
        measured to be done within a few milliseconds."""
        capacity = self.slots + self.lent
        leased = len(self.leased)
        if leased < capacity:
            return self.outbox is not None
        return (
            self.slots > 0
            and not self.was_wrong
            and leased < capacity + look_ahead
            and self.load_s < look_ahead_s * capacity
            and self.outbox is not None
        )

    def lease(self, job: Job) -> None:
        """Note that the worker has an attempt of *job*."""
        self.leased[job.seq] = job
        self.load_s += job.estimate_s
        self._by_priority[job.lane.priority] += 1

    def release(self, job: Job) -> None:
        """Note that the worker has it no more."""
        del self.leased[job.seq]
        self.load_s = max(0.0, self.load_s - job.estimate_s) if self.leased else 0.0
        self._by_priority[job.lane.priority] -= 1

    def least_urgent(self) -> int:
        """Return the lowest priority among the leased jobs (the largest number)."""
        return max((p for p, n in enumerate(self._by_priority) if n), default=0)

    def describe(self) -> dict[str, Any]:
        """Return what `creche workers ls` shows."""
        state = "connected" if self.is_connected else "away"
        if self.is_worker and self.is_connected and self.slots == 0:
            state = "draining"
        running = min(len(self.leased), self.slots + self.lent)
        return {
            "name": self.name,
            "state": state,
            "queues": list(self.queues),
            "tasks": sorted(self.tasks),
            "slots": self.slots,
            "lent": self.lent,
            "running": running,
            "look_ahead": len(self.leased) - running,
            "done": self.done,
            "failed": self.failed,
            "since": self.connected_at,
            "pid": self.facts.get("pid"),
            "host": self.facts.get("host"),
            "version": self.facts.get("version"),
        }


class Sessions:
    """All sessions of a plane, by their random id and, for workers, by name."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Session] = {}
        self._workers: dict[str, Session] = {}
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

    def remove(self, session: Session) -> None:
        """Forget a session that is over."""
        self._by_id.pop(session.id, None)
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
