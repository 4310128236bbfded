"""Unique jobs: of those that have one key, as many as one rule allows.

A submission that meets a job with its key is either that job, or refused, or takes its place. The
rule goes with the submission, or is announced with the task; what is decided depends on the rule,
on how the job that has the key stands, and on the time, and on nothing else (`decide`).

A rule travels as a plain map, of which each key may be left out::

    {"by": [{"parameter": "user_id", "position": 0, "path": [], "default": None}],
     "states": ["waiting", "running"], "period_s": 3600.0, "on_duplicate": "existing"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from creche.model.flow import Key, key_text, shortened
from creche.model.job import JobState
from creche.model.maps import check_seconds, checked_map

OnDuplicate: TypeAlias = Literal["existing", "reject", "replace", "cancel"]
"""What becomes of a submission that meets a job with its key: it is that job (``existing``), or is
refused (``reject``), or takes that job's place if it waits (``replace``), or whether it waits or
runs (``cancel``)."""

StateWord: TypeAlias = Literal["waiting", "running", "succeeded", "failed", "cancelled"]

STATES: Mapping[StateWord, frozenset[JobState]] = {
    "waiting": frozenset({JobState.QUEUED, JobState.PARKED, JobState.DELAYED}),
    "running": frozenset({JobState.RUNNING}),
    "succeeded": frozenset({JobState.SUCCEEDED}),
    "failed": frozenset({JobState.FAILED, JobState.LOST, JobState.EXPIRED}),
    "cancelled": frozenset({JobState.CANCELLED}),
}
"""The states that a rule names. A job that is being cancelled is in none of them, as whoever
submits it again wants another one; but it counts for a rule that names them all."""

UNFINISHED: tuple[StateWord, ...] = ("waiting", "running")
EVERY: tuple[StateWord, ...] = tuple(STATES)

MAX_IDEMPOTENCY_KEY = 200
"""Characters of an idempotency key."""

MAX_PARTS = 50
"""Parts of the arguments that one key is made of."""

MAX_VALUES = 500
"""Values in them, those within lists and maps counted: about a millisecond's work for a plane."""

_FIELDS = (
    "by", "rest", "states", "period_s", "on_duplicate", "delay_s", "max_delay_s"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """Which jobs count as duplicates of a submission, and what becomes of it then.

    Raises:
        ValueError: a value is none, or two contradict each other; the sentence names the key.
    """

    by: tuple[Key, ...] = ()
    """What tells calls apart. None at all: all calls are one."""
    rest: bool = False
    """Whether the arguments that no part of `by` names belong to the key as well."""
    states: tuple[StateWord, ...] = UNFINISHED
    """In which of them a job counts."""
    period_s: float | None = None
    """How long after its submission a job counts; None: as long as it is in these states."""
    on_duplicate: OnDuplicate = "existing"
    delay_s: float | None = None
    """How long a job waits for another one that takes its place; None: it does not wait."""
    max_delay_s: float | None = None
    """How long the first of a row of such jobs can put off the last one."""

    def __post_init__(self) -> None:
        if len(self.by) > MAX_PARTS:
            raise ValueError(f"by names at most {MAX_PARTS} parts of the arguments")
        unknown = [word for word in self.states if word not in STATES]
        words = ", ".join(STATES)
        if unknown:
            raise ValueError(f"states are some of {words}, not {unknown[0]!r}")
        if len(set(self.states)) < len(self.states) or not self.states:
            raise ValueError(f"states are some of {words}, each once")
        # What waits may come to be any of the others, and of those with one key the newest counts.
        needed: tuple[StateWord, ...] = (
            UNFINISHED if set(self.states) - {"waiting"} else ("waiting",)
        )
        missing = [word for word in needed if word not in self.states]
        if missing:
            raise ValueError(
                f"states without {missing[0]!r}: a job is that before it is {self.states[-1]}, so "
                "that two could come to be"
            )
        if self.on_duplicate not in get_args(OnDuplicate):
            words = ", ".join(get_args(OnDuplicate))
            raise ValueError(f"on_duplicate is one of {words}, not {self.on_duplicate!r}")
        if self.on_duplicate in ("replace", "cancel") and (
            "waiting" not in self.states or not set(self.states) <= set(UNFINISHED)
        ):
            raise ValueError(
                f"on_duplicate={self.on_duplicate!r} is about a job that waits or runs: leave "
                "states out"
            )
        for name in ("period_s", "delay_s", "max_delay_s"):
            check_seconds(name.removesuffix("_s"), getattr(self, name))
        if self.max_delay_s is not None and self.max_delay_s < (self.delay_s or 0.0):
            raise ValueError(
                f"max_delay ({self.max_delay_s:g} s) is shorter than the delay "
                f"({self.delay_s or 0:g} s)"
            )

    @property
    def needs_code(self) -> bool:
        """Whether the key can only be computed by who has the task's code."""
        return any(part.is_code for part in self.by)

    def key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Return the key of a call: equal for calls that are one, and short. None for one that has
        nothing where the key is to be found: of such calls, each is for itself.

        Raises:
            ValueError: an argument is of a kind that cannot be told from others.
        """
        room = Room()
        values = [part.of(args, kwargs, room.text) for part in self.by]
        if not all(values):  # an empty text is no value's
            return None
        parts = [f"{_name(part)}={value}" for part, value in zip(self.by, values, strict=True)]
        if self.rest:
            named = {part.parameter for part in self.by if not _is_placed(part, args)}
            placed = [part.position for part in self.by if part.position is not None]
            parts += map(room.text, args[max(placed, default=-1) + 1 :])
            others = sorted(kwargs.keys() - named)
            parts += [f"{_plain(name)}={room.text(kwargs[name])}" for name in others]
        return shortened(", ".join(parts))

    def as_data(self) -> dict[str, Any]:
        """Return the rule as a plain map, which `from_data` takes."""
        data = {
            "by": [part.as_data() for part in self.by],
            "rest": self.rest or None,
            "states": list(self.states),
            "period_s": self.period_s,
            "on_duplicate": self.on_duplicate,
            "delay_s": self.delay_s,
            "max_delay_s": self.max_delay_s,
        }
        return {name: value for name, value in data.items() if value is not None}

    @classmethod
    def from_data(cls, data: Any) -> Rule:
        """Read a rule that came as data.

        Raises:
            ValueError: it is none; the sentence names what is wrong.
        """
        said = checked_map(data, "a rule of unique jobs", _FIELDS)
        by, states = said.get("by", []), said.get("states", list(UNFINISHED))
        if not isinstance(by, list) or len(by) > MAX_PARTS:
            raise ValueError(f"by is a list of up to {MAX_PARTS} keys")
        if not isinstance(states, list) or not all(isinstance(word, str) for word in states):
            raise ValueError("states is a list of words")
        if len(states) > len(STATES):
            raise ValueError(f"states are at most {len(STATES)} words")
        return cls(
            tuple(map(Key.from_data, by)),
            bool(said.get("rest")),
            tuple(states),
            said.get("period_s"),
            said.get("on_duplicate", "existing"),
            said.get("delay_s"),
            said.get("max_delay_s"),
        )


SAME_JOB = Rule(states=EVERY)
"""The rule of idempotency keys: while the job is known, in whatever state, it is the one."""


class Holder(NamedTuple):
    """The job that has a key. `since` (UTC seconds) is when the first of the jobs came of which
    each has taken the place of the one before."""

    state: JobState
    submitted_at: float
    since: float


class Verdict(Enum):
    """What becomes of a submission."""

    NEW = "new"
    """It is a job of its own, and has the key from now on."""
    EXISTING = "existing"
    """It is the job that has the key."""
    REJECTED = "rejected"
    """It is refused, as another job has the key."""
    REPLACES = "replaces"
    """It has the key from now on, and the job that had it is cancelled."""


class Decision(NamedTuple):
    """A verdict, when the job is due (None: at once), and since when the key is waited with."""

    verdict: Verdict
    due_at: float | None
    since: float


def decide(rule: Rule, holder: Holder | None, now: float) -> Decision:
    """Return what becomes of a submission at *now*, as *holder* has its key."""
    since = now
    verdict = Verdict.NEW
    if holder is not None and counts(rule, holder, now):
        if rule.on_duplicate == "existing":
            return Decision(Verdict.EXISTING, None, holder.since)
        if rule.on_duplicate == "reject":
            return Decision(Verdict.REJECTED, None, holder.since)
        if holder.state.is_waiting:
            verdict, since = Verdict.REPLACES, holder.since
        elif rule.on_duplicate == "cancel" and not holder.state.has_ended:
            verdict = Verdict.REPLACES
    if rule.delay_s is None:
        return Decision(verdict, None, now)
    due_at = now + rule.delay_s
    if rule.max_delay_s is not None:
        due_at = min(due_at, max(now, since + rule.max_delay_s))
    return Decision(verdict, due_at, since)


def counts(rule: Rule, holder: Holder, now: float) -> bool:
    """Whether the job that has the key counts as a duplicate of a submission at *now*."""
    if rule.period_s is not None and now >= holder.submitted_at + rule.period_s:
        return False
    if holder.state is JobState.FORGOTTEN:
        # How it ended is not known any more; mostly well.
        return "succeeded" in rule.states
    if holder.state is JobState.CANCELLING:
        # It runs yet, and may end as anything: where all of that counts, it does as well.
        return set(rule.states) >= set(EVERY)
    return any(holder.state in STATES[word] for word in rule.states)


# --- keys as texts and as names ------------------------------------------------------------------


def value_text(value: object) -> str:
    """Return an argument as text: equal for what arrives alike, and different for the rest, so that
    7, "7" and 7.0 are three keys, and (1, 2) and [1, 2] are one.

    Raises:
        ValueError: it is of a kind that cannot be told from others, or holds too many values.
    """
    return Room().text(value)


class Room:
    """How many values one key may yet be made of."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def text(self, value: object) -> str:
        """Return what `value_text` does."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"there are over {MAX_VALUES:,} values in it: name a part of them")
        return _text(value, self.text)


def _text(value: object, value_text: Callable[[object], str]) -> str:
    match value:
        case bool() | None:
            return key_text(value)
        case str():
            return repr(str(value))
        case bytes() | bytearray():
            return f"0x{bytes(value).hex()}"
        case Mapping():
            items = sorted((value_text(name), value_text(value[name])) for name in value)
            return "{" + ", ".join(f"{name}: {each}" for name, each in items) + "}"
        case Set():
            return "set[" + ", ".join(sorted(map(value_text, value))) + "]"
        case Sequence():
            return "[" + ", ".join(map(value_text, value)) + "]"
        case _:
            text = key_text(value)
            return text if isinstance(value, int | float) else f"{type(value).__name__}({text})"


def is_idempotency_key(key: object) -> bool:
    """Whether *key* is a text that can be one: not empty, printable, and not too long."""
    return (
        isinstance(key, str)
        and 0 < len(key) <= MAX_IDEMPOTENCY_KEY
        and key.isprintable()
        and not key.isspace()
    )


def key_name(kind: Literal["unique", "idempotency"], task: str, key: str) -> bytes:
    """Return the name under which a store keeps a key: a digest, so that all have one length."""
    said = "\0".join((kind, task, key))
    return sha256(said.encode("utf-8", "surrogatepass")).digest()[:16]


def _name(part: Key) -> str:
    return ".".join((part.parameter, *part.path))


def _is_placed(part: Key, args: Sequence[Any]) -> bool:
    """Whether a call gives a parameter by its position: then its name is free."""
    return part.position is not None and part.position < len(args)


def _plain(name: str) -> str:
    """Return a keyword as it can be told from what is around it."""
    return name if name.isidentifier() else repr(name)
