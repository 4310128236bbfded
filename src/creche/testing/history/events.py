"""What a history is made of: frozen records of what clients saw, what bodies did, and what was done
to the processes in between.

As in Jepsen's histories, what a client does is two events: that it begins, recorded before anything
is sent, and how it ended: it was done, it was not done, or nobody knows. Each event says in which
direction its moment may err, so that what a rule refuses has really happened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

Role: TypeAlias = Literal["plane", "store", "worker", "client"]
Outcome: TypeAlias = Literal["succeeded", "failed", "snoozed", "left"]
OnDuplicate: TypeAlias = Literal["existing", "reject", "replace", "cancel"]

State: TypeAlias = Literal[
    "queued", "parked", "delayed", "running", "cancelling",
    "succeeded", "failed", "cancelled", "lost", "expired",
    "forgotten", "unknown",
]  # fmt: skip

PRIORITIES = ("critical", "high", "normal", "low")
"""The most urgent first."""

FINAL = frozenset({"succeeded", "failed", "cancelled", "lost", "expired"})
"""The states in which a job has ended, and is told how."""

FORGOTTEN = "forgotten"
"""The state of a job that has ended, and of which nobody knows any more how."""

UNKNOWN = "unknown"
"""What is seen of a job that the plane has never heard of."""


class HistoryError(ValueError):
    """What was recorded is no history: the recording is at fault, and nothing can be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a job was submitted with, as far as it is to be judged. Durations in seconds, moments by
    the clock of the history; what is left out is not judged."""

    task: str = ""
    queue: str = "default"
    priority: str = "normal"
    retries: int | None = 0
    """Attempts after the first that has failed; None: without end."""
    max_losses: int | None = None
    """After how many lost leases it has failed; None: one may be enough."""
    is_at_most_once: bool = False
    backoff_s: float = 0.0
    """The wait after the first failure; it doubles with each further one."""
    backoff_max_s: float | None = None
    jitter: float = 0.0
    """Which share of a wait may be taken off."""
    delay_s: float = 0.0
    """How long after its submission it may begin."""
    not_before_at: float | None = None
    expires_s: float | None = None
    """How long after its submission it may begin at the latest."""
    deadline_at: float | None = None
    timeout_s: float | None = None
    """How long one attempt may run."""
    limit_key: str | None = None
    rate_key: str | None = None
    idempotency_key: str | None = None
    unique_key: str | None = None
    """What tells it apart from other calls of its task while it waits or runs."""
    on_duplicate: OnDuplicate = "existing"
    may_meet_ended: bool = False
    """Whether it may be one with a job of its unique key that has ended."""
    scope: str | None = None

    @property
    def gates(self) -> tuple[str, ...]:
        """The names of what may limit it: `Limit` and `Rate` speak of them."""
        gates = [f"queue:{self.queue}", f"task:{self.task}"]
        if self.limit_key is not None:
            gates.append(f"key:{self.task}:{self.limit_key}")
        if self.rate_key is not None:
            gates.append(f"rate-key:{self.task}:{self.rate_key}")
        return tuple(gates)

    @property
    def keys(self) -> frozenset[tuple[str, str, str]]:
        """What makes it one with other submissions."""
        said = (("idempotency", self.idempotency_key), ("unique", self.unique_key))
        return frozenset((kind, self.task, key) for kind, key in said if key is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, at a moment (seconds) of the one clock of the whole history.

    Of two events of one moment it is known which was first if one recorder has both, by `n`: a
    recorder counts what it writes. Else it is not known, and no rule takes it for granted.
    """

    at: float
    process: str
    """Who did it or saw it."""
    host: str = ""
    recorder: str = ""
    n: int = 0


# --- what clients do and see --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Event):
    """A client is about to submit a job (recorded before it is sent). *call* is a name of its own
    for what the client does; *job* the id, where the client knows it beforehand. A client that
    sends the same job again itself does that within one call; who calls again says so."""

    call: str
    job: str | None = None
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(Event):
    """The client was told that its call is *job* (recorded afterwards); *is_existing* if that was
    there already, submitted by another call."""

    call: str
    job: str
    is_existing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """The client was told that nothing was stored (recorded afterwards)."""

    call: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain(Event):
    """Nobody can tell the client whether its job was taken (recorded afterwards)."""

    call: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Event):
    """Somebody is about to cancel a job (recorded before it is sent)."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAnswered(Event):
    """The job was in *state* when it had been cancelled (recorded afterwards): `cancelled` if
    nobody ran it, `cancelling` while its body leaves, else how it had ended before, or `unknown`.
    """

    job: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Saw(Event):
    """Somebody was told how a job stands (recorded afterwards), having asked at *asked_at*. *value*
    is its result, None if that was not looked at: bodies that give each attempt a result of its own
    have more of it judged."""

    job: str
    state: State
    value: Any = None
    asked_at: float | None = None


# --- what bodies do -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The body of an attempt has begun (recorded by its first line). *attempt* is a name that no
    other attempt at the job has, unless that one was too early and did not count: so the number
    that the body is told will do. *call* is that of the submission, if the arguments say it.
    *is_reachable* is false for what cannot be told to stop, as a thread."""

    job: str
    attempt: str
    call: str | None = None
    is_reachable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """The body leaves (recorded by its last line): with a result, *value*; with an error; as it was
    too early for it; or as it was told to leave. *delay_s* is the wait that it asks for before the
    next attempt; *is_last* says that there may be none, whatever the retries: an error that is not
    to be retried. Where a result cannot be told to anybody, as it is too large, it has failed."""

    job: str
    attempt: str
    outcome: Outcome
    value: Any = None
    delay_s: float | None = None
    is_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """The lease of an attempt was declared lost, counted or not (the moment of that decision, and
    not later than the next attempt is given out)."""

    job: str
    attempt: str


# --- what is said of the whole ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Event):
    """From now on no more than *most* attempts run behind a gate (None: any number; 0: none
    begins), which was asked for at *asked_at*."""

    gate: str
    most: int | None
    asked_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Event):
    """From now on a gate is a bucket of *count* tokens that fills in *per_s* (None: no gate)."""

    gate: str
    count: int | None
    per_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSlot(Event):
    """From now on one worker with one slot, and nobody else, takes from a queue; if
    *is_by_priority*, what is more urgent always first."""

    queue: str
    is_by_priority: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeOpened(Event):
    """A scope is about to be opened, below another or below none."""

    scope: str
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeClosed(Event):
    """A scope is closed: whoever had it open has been told (recorded afterwards)."""

    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled(Event):
    """A schedule is there; *moments* are those that its rule names, counted by whoever records,
    and not asked of the plane. *missed* and *overlap* are its policies; ``all`` is judged as if no
    moment were ever too long ago."""

    schedule: str
    moments: tuple[float, ...]
    missed: str = "once"
    overlap: str = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired(Event):
    """A schedule has submitted a job for a moment."""

    schedule: str
    moment: float
    job: str
    terms: Terms = field(default_factory=Terms)


# --- what is done to processes ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone(Event):
    """A process, *who*, is gone (recorded when that is known)."""

    who: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Back(Event):
    """It is there again."""

    who: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """A process is about to be stopped (SIGSTOP, say): nobody can reach it."""

    who: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken(Event):
    """It goes on."""

    who: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Event):
    """A process, *who*, has a connection to the plane (recorded when it is there). Of who is not
    said to have one, it is not known when the plane can reach it."""

    who: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Severed(Event):
    """It has none any more, or is about to lose it."""

    who: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiescent(Event):
    """All faults are over, and everything had the time to end. What readers see from now on, of
    every job, belongs into the history as well."""


KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Submit, Accepted, Refused, Uncertain, Cancel, CancelAnswered, Saw, Started, Ended, Lost,
        Limit, Rate, OneSlot, ScopeOpened, ScopeClosed, Scheduled, Fired, Gone, Back, Paused,
        Woken, Joined, Severed, Quiescent,
    )
}  # fmt: skip

E = TypeVar("E", bound=Event)

# --- order --------------------------------------------------------------------------------------


def place(event: Event) -> tuple[float, str, int]:
    """Return what a history is sorted by."""
    return event.at, event.recorder, event.n


def before(a: Event, b: Event) -> bool:
    """Whether *a* was surely before *b*."""
    return a.at < b.at or (a.at == b.at and a.recorder == b.recorder and a.n < b.n)


# --- what is well said --------------------------------------------------------------------------


def checked(event: E) -> E:
    """Return an event of which each field says what it may.

    Raises:
        HistoryError: one does not.
    """
    records: list[Any] = [event]
    if isinstance(terms := getattr(event, "terms", None), Terms):
        records.append(terms)
    for record in records:
        for name, hint, fits in _HINTS[type(record)]:
            if not fits(value := getattr(record, name)):
                raise HistoryError(f"{type(event).__name__}: {name}={value!r} is not {hint}")
    if isinstance(event, Rate) and event.per_s <= 0:
        raise HistoryError(f"Rate: per_s={event.per_s!r} is no time")
    return event


def _fitting(hint: Any) -> Callable[[Any], bool]:
    """Return what says whether a value is one of a hint's."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda _: True
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in parts
    if origin is UnionType:
        any_of = [_fitting(part) for part in parts]
        return lambda value: any(fits(value) for fits in any_of)
    if origin is tuple:
        one = _fitting(parts[0])
        return lambda value: type(value) is tuple and all(map(one, value))
    if hint is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if hint is bool:
        return lambda value: isinstance(value, bool)
    return lambda value: isinstance(value, hint) and not isinstance(value, bool)


_HINTS = {
    kind: [(name, hint, _fitting(hint)) for name, hint in get_type_hints(kind).items()]
    for kind in (*KINDS.values(), Terms)
}


# --- lines --------------------------------------------------------------------------------------


def to_line(event: Event) -> str:
    """Return an event as a line of JSON; what is by default is left out."""
    said: dict[str, Any] = {"kind": type(event).__name__, **_not_default(event)}
    if "terms" in said:
        said["terms"] = _not_default(said["terms"])
    return json.dumps(said)


def _not_default(record: Event | Terms) -> dict[str, Any]:
    known = {each.name: (getattr(record, each.name), each.default) for each in fields(record)}
    return {name: value for name, (value, default) in known.items() if value != default}


def from_line(line: str) -> Event:
    """Return the event that a line says.

    Raises:
        HistoryError: it says none.
    """
    try:
        said = json.loads(line)
        kind = KINDS[said.pop("kind")]
        if "terms" in said:
            said["terms"] = Terms(**said["terms"])
        if "moments" in said:
            said["moments"] = tuple(said["moments"])
        return checked(kind(**said))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HistoryError(f"no event: {error!r}: {line[:200]!r}") from None


def read_lines(lines: Iterable[str], name: str) -> Iterator[Event]:
    """Return the events of a file called *name*. A last line without its end was torn when its
    process was killed, and is left out.

    Raises:
        HistoryError: a line says no event; the sentence has its number.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return
        try:
            yield from_line(line)
        except HistoryError as error:
            raise HistoryError(f"{name}, line {number}: {error}") from None
