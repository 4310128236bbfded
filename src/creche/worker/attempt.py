"""One attempt, as its worker sees it from the offer to the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum, auto
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from creche.model.job import JobState
from creche.model.limits import TimeLimits
from creche.peer.parent import Token
from creche.tasks.options import Executor
from creche.tasks.task import Task
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.peer.submitter import Submitter


class Stage(Enum):
    """How far an attempt has come in this worker."""

    WAITING = auto()
    """Offered, and not begun: it may still be handed back."""
    RUNNING = auto()
    """Its body is in."""
    LEFT = auto()
    """Its body has left."""
    GONE = auto()
    """Handed back or dropped before it began."""

    @property
    def is_in(self) -> bool:
        """Whether its body is in."""
        return self is Stage.RUNNING


class Another(NamedTuple):
    """Another try that a failed attempt is worth: `after_us` is the delay that the body has asked
    for, and None leaves it to the policy."""

    after_us: int | None = None
    is_counted: bool = True


class Lending(Protocol):
    """Where an attempt has its slot from. Both methods may be called in any thread."""

    def lend(self, attempt: Attempt) -> None:
        """*attempt* waits: somebody else may have its slot meanwhile."""
        ...

    def take_back(self, attempt: Attempt) -> None:
        """*attempt* goes on."""
        ...


class Home:
    """What an attempt knows of its worker. One a worker; the plane's part is filled in by each
    welcome. In a process beside the worker there is no *submitter*."""

    def __init__(self, worker_id: str, floor: Lending, submitter: Submitter | None) -> None:
        self.worker_id = worker_id
        self.floor = floor
        self.submitter = submitter
        self.plane = ""
        self.payload_bytes = 0
        """The largest result that may be sent; 0 while nobody has said."""
        self.pid = 0
        self.trio_token: trio.lowlevel.TrioToken | None = None
        self.clock: Callable[[], float] = perf_counter
        """The loop's clock, which any thread can read."""


class Attempt:
    """One try at a job, from its offer until its body has left. Implements `peer.parent.Parent`."""

    __slots__ = (
        "began_at",
        "came_to",
        "cancel",
        "executor",
        "hard_end",
        "has_seen_stop",
        "headers",
        "home",
        "how",
        "id",
        "is_given_up",
        "is_threaded",
        "limits",
        "must_end",
        "offered_plane",
        "outcome",
        "payload",
        "priority",
        "retry",
        "run_us",
        "scopes",
        "soft_end",
        "stage",
        "state",
        "stop_why",
        "task",
        "token",
        "tries",
        "urgency",
        "waits",
    )

    def __init__(
        self, home: Home, task: Task[..., Any], executor: Executor, offer: m.Offer
    ) -> None:
        self.home = home
        self.task = task
        self.executor = executor
        self.is_threaded = executor == "thread"
        seq, epoch, number, self.id, _, self.priority, self.payload, options = offer
        self.token: Token = (seq, epoch, number)
        # By what it waits for a slot: its priority, unless its turn has come all the same.
        is_let_pass = options is not None and options.get("let_pass") is True
        self.urgency = 0 if is_let_pass else self.priority
        self.offered_plane = home.plane
        self.stage = Stage.WAITING
        # Why it was told to stop; None while it was not.
        self.stop_why: str | None = None
        # Its worker has told it to stop: for want of a lease, or of time.
        self.is_given_up = False
        # What stopping cancels: the body if it is a coroutine, a thread's waits if not.
        self.scopes: list[trio.CancelScope] | None = None
        # And what it calls, if the body is on another loop.
        self.cancel: Callable[[], object] | None = None
        # How many of its waits lend its slot; guarded by the floor's lock.
        self.waits = 0
        # When its body began, and should and must have left, by its home's clock. Known when it
        # begins.
        self.began_at = 0.0
        self.soft_end = math.inf
        self.hard_end = math.inf
        self.limits, self.must_end = _limits_in(options, home.clock)
        # Whether its body has looked, and was told to leave.
        self.has_seen_stop = False
        # How its body has left, if not as bodies of its executor usually do.
        self.how: str | None = None
        # What its submission wants its body to know beside its arguments.
        self.headers: m.Facts | None = None if options is None else options.get("headers")
        # How many tries at the job have come to nothing before this one.
        self.tries: int = 0 if options is None else int(options.get("tries", 0))
        # If it has failed: what the plane is to know for another try; None if there is to be none.
        self.retry: Another | None = None
        # What its body has returned or raised, if its task has hooks, which are told.
        self.came_to: Any = None
        self.state: JobState | None = None
        self.outcome: bytes | None = None
        self.run_us = 0

    @property
    def plane(self) -> str:
        """The id of the plane that offered it."""
        return self.offered_plane

    @property
    def leaves_by_itself(self) -> bool:
        """Whether stopping it does no more than tell the body, which may look and return."""
        return self.executor in ("thread", "process")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lend the slot while the block waits. Safe from any thread, and may be nested."""
        self.home.floor.lend(self)
        try:
            yield
        finally:
            self.home.floor.take_back(self)

    def begin(self) -> None:
        """Its body begins now: note when it should and must have left."""
        now = self.began_at = self.home.clock()
        own, said = self.task.limits, self.limits
        if said.soft_timeout_s is not None or own.soft_timeout_s is not None:
            self.soft_end = now + (said.soft_timeout_s or own.soft_timeout_s or 0.0)
        if said.timeout_s is not None or own.timeout_s is not None:
            self.hard_end = now + (said.timeout_s or own.timeout_s or 0.0)
        if self.must_end < self.hard_end:
            self.hard_end = self.must_end

    @property
    def ran_us(self) -> int:
        """How long its body has been in, in microseconds."""
        return int((self.home.clock() - self.began_at) * 1_000_000)

    @property
    def is_too_late(self) -> bool:
        """Whether its time was up before its body could begin."""
        return self.hard_end <= self.began_at

    @property
    def is_told_to_leave(self) -> bool:
        """Whether its body should leave: it was stopped, or its time is up. Safe in any thread."""
        return self.stop_why is not None or self.home.clock() >= self.hard_end

    @property
    def is_late(self) -> bool:
        """Whether its body should come to an end. Safe in any thread."""
        return self.home.clock() >= self.soft_end or self.is_told_to_leave

    def stop(self, why: str) -> None:
        """Cancel the body, as far as it can be. Called on the loop only."""
        if self.stop_why is None:
            self.stop_why = why
        for scope in self.scopes or ():
            scope.cancel()
        if self.cancel is not None:
            self.cancel()


_NO_LIMITS = (TimeLimits(), math.inf)


def _limits_in(options: m.Facts | None, clock: Callable[[], float]) -> tuple[TimeLimits, float]:
    """Return what an offer says of how long its attempt may take, and by when it must be over: said
    as what is left, as clocks differ."""
    limits = None if options is None else options.get("limits")
    if limits is None:
        return _NO_LIMITS
    # What a newer plane says beside these is not for us.
    said = {key: value for key, value in limits.items() if key in _LIMITS}
    left_s = limits.get("left_s")
    return TimeLimits.from_data(said), math.inf if left_s is None else clock() + left_s


_LIMITS = frozenset(field.name for field in fields(TimeLimits))
