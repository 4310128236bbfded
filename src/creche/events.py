"""What happened, as frozen records: the one plug for logs, metrics, traces and views.

Whoever wants to know subscribes a function of one argument. An event that nobody subscribed to
costs one check::

    hub.subscribe(lambda event: print(event))
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `level` is how much an operator should care (as in `logging`)."""

    level: ClassVar[int] = logging.INFO


@dataclass(frozen=True, slots=True)
class PeerCame(Event):
    """A peer has introduced itself; *is_resumed* when its session goes on."""

    level: ClassVar[int] = logging.DEBUG
    name: str
    role: str
    is_resumed: bool

    def __str__(self) -> str:
        return f"{self.role} {self.name} {'is back' if self.is_resumed else 'has come'}"


@dataclass(frozen=True, slots=True)
class PeerLeft(Event):
    """A peer's session is over."""

    level: ClassVar[int] = logging.DEBUG
    name: str
    role: str
    why: str

    def __str__(self) -> str:
        return f"{self.role} {self.name} is gone: {self.why}"


@dataclass(frozen=True, slots=True)
class PeerRefused(Event):
    """A peer was sent away; *code* is for programs."""

    level: ClassVar[int] = logging.WARNING
    name: str
    code: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} was sent away ({self.code}): {self.why}"


@dataclass(frozen=True, slots=True)
class AttemptsLost(Event):
    """A worker has lost the right to its attempts; their jobs go back, or end."""

    level: ClassVar[int] = logging.WARNING
    worker: str
    jobs: int
    why: str

    def __str__(self) -> str:
        back = "1 job goes back" if self.jobs == 1 else f"{self.jobs:,} jobs go back"
        return f"worker {self.worker}: {self.why}; {back}"


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """An attempt has lost the right to run before it was reported."""

    level: ClassVar[int] = logging.DEBUG
    job: str
    worker: str
    epoch: int
    attempt: int
    why: str

    def __str__(self) -> str:
        return f"attempt {self.attempt} at job {self.job} is lost with {self.worker}: {self.why}"


@dataclass(frozen=True, slots=True)
class QueueSet(Event):
    """An operator has said what is taken from a queue."""

    queue: str
    is_paused: bool
    limit: int | None
    rate: str | None

    def __str__(self) -> str:
        said = ["is paused" if self.is_paused else "is taken from"]
        if self.limit is not None:
            said.append(f"{self.limit:,} at a time")
        if self.rate is not None:
            said.append(f"at {self.rate}")
        return f"queue {self.queue} {', '.join(said)}"


@dataclass(frozen=True, slots=True)
class Scaled(Event):
    """A plane has another number of local workers from now on."""

    before: int
    now: int

    def __str__(self) -> str:
        why = "jobs wait" if self.now > self.before else "fewer are enough"
        return f"{self.now} local workers instead of {self.before}: {why}"


@dataclass(frozen=True, slots=True)
class StoreFailing(Event):
    """The store takes nothing: submissions are refused and nothing is dispatched."""

    level: ClassVar[int] = logging.ERROR
    why: str

    def __str__(self) -> str:
        return f"the store takes nothing: {self.why}"


@dataclass(frozen=True, slots=True)
class StoreRefuses(Event):
    """The store takes no new jobs: submissions are refused, and all else goes on."""

    level: ClassVar[int] = logging.ERROR
    why: str

    def __str__(self) -> str:
        return f"the store takes no new jobs: {self.why}"


@dataclass(frozen=True, slots=True)
class StoreWorks(Event):
    """The store takes batches again."""

    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return "the store works again"


@dataclass(frozen=True, slots=True)
class CoreRestarts(Event):
    """The core has ended, mostly as its store was lost, or could not start again; everything begins
    anew from what is on disk."""

    level: ClassVar[int] = logging.ERROR
    why: str

    def __str__(self) -> str:
        return f"the core has ended, and is started again: {self.why}"


Subscriber: TypeAlias = Callable[[Event], None]


class Hub:
    """Hands events to whoever subscribed, in order. A subscriber must not wait, and must not
    raise: what it raises ends what the event told of."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call *subscriber* with each event from now on; return what ends that."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def emit(self, event: Event) -> None:
        """Tell everyone."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)


_logger = logging.getLogger("creche.plane")


def log(event: Event) -> None:
    """The subscriber that writes events to the ``creche.plane`` log, each at its level."""
    _logger.log(event.level, "%s", event)
