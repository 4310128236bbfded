"""Gates: one limit each, and the lanes that wait for it to have room.

A job passes its gates when it is leased, and leaves them when its attempt is over. The lanes behind
a gate are told apart by where they are taken from: a queue that nobody listens on must not keep the
room from the others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.level import LISTED
from creche.engine.timers import Timer
from creche.model.flow import Bucket, Rate
from creche.model.priority import Priority


@dataclass(slots=True)
class _Waiters:
    """The lanes of one queue and priority behind a gate, in the order in which they came."""

    shut: dict[Lane, None] = field(default_factory=dict)
    opened: list[Lane] = field(default_factory=list)
    """Those that were opened as there was room, and not looked into yet, or not found empty."""


class Gate(ABC):
    """One limit. Where it has room, lanes that wait for it may be looked into.

    Args:
        queue: whose limit it is, if it is a whole queue's.
    """

    def __init__(self, queue: str | None = None) -> None:
        self.queue = queue
        self._waiters: dict[tuple[str, int], _Waiters] = {}
        self._overtaken: dict[tuple[str, int], int] = {}
        """By queue and priority of those that wait: how many more urgent ones have passed since one
        of them has. Counted where there is fairness."""
        self.timer: Timer | None = None
        """Rings when there is room again, if time alone makes it."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more jobs may pass now."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether nothing would be lost if the gate were forgotten."""

    @property
    def next_at(self) -> float:
        """When there will be room by itself, by the clock; infinity if it takes a job to leave."""
        return math.inf

    @property
    def has_waiters(self) -> bool:
        """Whether lanes wait for it."""
        return any(waiters.shut for waiters in self._waiters.values())

    @abstractmethod
    def enter(self, job: Job) -> None:
        """A job has been leased."""

    def leave(self, job: Job) -> None:  # noqa: B027 - of a rate nothing comes back by that
        """Its attempt is over, or was never one that passed."""

    def give_back(self, job: Job) -> None:  # noqa: B027 - a slot is free when the job has left
        """A job that has passed was handed back before it began."""

    def wait(self, lane: Lane) -> None:
        """Have *lane* not looked into before there is room."""
        lane.shut()
        waiters = self._waiters.setdefault((lane.queue, lane.priority), _Waiters())
        if lane in waiters.opened:
            waiters.opened.remove(lane)
        waiters.shut[lane] = None

    def let_in(self, other_gate: Callable[[Lane], Gate | None]) -> None:
        """Open as many lanes of each queue and priority as jobs may pass; *other_gate* returns
        another one that a lane has to wait for, if there is one."""
        room = min(self.room, LISTED)
        for place, waiters in list(self._waiters.items()):
            waiters.opened = [one for one in waiters.opened if one.ready and not one.is_shut]
            while waiters.shut and len(waiters.opened) < room:
                lane = next(iter(waiters.shut))
                del waiters.shut[lane]
                if lane.ready and (other := other_gate(lane)) is not None:
                    other.wait(lane)
                else:
                    lane.open()
                    waiters.opened.append(lane)
            if not (waiters.shut or waiters.opened):
                del self._waiters[place]

    def count_overtakes(self, queue: str, priority: int) -> list[int]:
        """A job has passed, and has overtaken those of its queue that are less urgent and wait.
        Return the priorities of these."""
        self._overtaken.pop((queue, priority), None)
        lower = [p for p in range(priority + 1, len(Priority)) if (queue, p) in self._waiters]
        for p in lower:
            self._overtaken[queue, p] = self.overtaken(queue, p) + 1
        return lower

    def overtaken(self, queue: str, priority: int) -> int:
        """Return how many have overtaken those of a queue and priority that wait."""
        return self._overtaken.get((queue, priority), 0)

    def opened(self, queue: str, priority: int) -> list[Lane] | None:
        """Return the lanes of a queue and priority that may be looked into, None if none waits."""
        waiters = self._waiters.get((queue, priority))
        if waiters is None:
            return None
        # An announcement may have moved one meanwhile.
        place = (queue, priority)
        return [
            one for one in waiters.opened if one.is_listed and (one.queue, one.priority) == place
        ]

    def let_all_in(self) -> None:
        """Open all lanes: this gate is no more."""
        self._overtaken.clear()
        for waiters in self._waiters.values():
            for lane in waiters.shut:
                lane.open()
        self._waiters.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Slots(Gate):
    """So many jobs at a time."""

    def __init__(self, limit: int, queue: str | None = None) -> None:
        super().__init__(queue)
        self.limit = limit
        self.running: set[int] = set()
        """Seqs: whoever enters twice is one all the same."""

    @property
    def room(self) -> int:
        """How many more jobs may run."""
        return max(0, self.limit - len(self.running))

    @property
    def is_idle(self) -> bool:
        """Whether no job runs, and no lane waits."""
        return not (self.running or self.has_waiters)

    def enter(self, job: Job) -> None:
        """A job has been leased."""
        self.running.add(job.seq)

    def leave(self, job: Job) -> None:
        """Its attempt is over."""
        self.running.discard(job.seq)


class Tokens(Gate):
    """So many jobs in a time. What a gate was before the plane started is not known: it has all its
    tokens then."""

    def __init__(self, rate: Rate, clock: Callable[[], float], queue: str | None = None) -> None:
        super().__init__(queue)
        self._clock = clock
        self.bucket = Bucket(rate)

    @property
    def room(self) -> int:
        """How many more jobs may begin now."""
        return self.bucket.room(self._clock())

    @property
    def is_idle(self) -> bool:
        """Whether all its tokens are back, and no lane waits."""
        return not self.has_waiters and self.bucket.is_full(self._clock())

    @property
    def next_at(self) -> float:
        """When the next token is back."""
        return self.bucket.next_at(self._clock())

    def enter(self, job: Job) -> None:
        """A job has been leased."""
        self.bucket.take(self._clock())

    def give_back(self, job: Job) -> None:
        """Its token was not used."""
        self.bucket.give_back()
