"""When a schedule submits a job: the rule as data, and what is due as a pure function.

A rule says one of three things: ``cron`` (a time of day, or of the clock, in a time zone; see
`creche.model.cron`), ``every`` (an interval in seconds) or ``at`` (one moment). It is a plain map,
of which what is not said may be left out::

    {"cron": "0 3 * * *", "tz": "Europe/Paris", "jitter": 60.0, "missed": "skip"}
    {"every": 90.0, "start": 1800000000.0, "count": 10, "overlap": "queue"}

Moments are UTC seconds. A **firing** belongs to the moment that the rule names: that tells it from
every other firing of the schedule, also when it is late, or put off by the jitter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from struct import pack
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from creche.model.cron import Cron
from creche.model.ids import new_id
from creche.model.limits import MAX_MOMENT
from creche.model.maps import checked_map, is_number

Missed: TypeAlias = Literal["skip", "once", "all"]
"""What becomes of moments that came while nobody could fire them (the plane was down, say): nothing
of those that are over a minute ago; one firing for all of them; or each of them, if it is not
longer ago than ``missed_within``."""

Overlap: TypeAlias = Literal["skip", "queue", "replace", "allow"]
"""What becomes of a firing while the job of the last one is unfinished: nothing, and the next
moment counts; it waits for that job's end; that job is cancelled; or both run."""

MIN_EVERY_S, MAX_EVERY_S = 0.1, 10 * 366 * 86_400.0
MAX_JITTER_S = 86_400.0
MAX_WITHIN_S = 366 * 86_400.0
MAX_COUNT = 1_000_000_000

LATE_S = 60.0
"""How late a firing may be under ``missed="skip"``."""

MOMENTS_BY = ("cron", "every", "at", "tz", "start")
"""What of a rule says which moments it names; `end` and `count` say when that is over."""

MOST_COUNTED = 100
"""Moments that are gone through one by one to see what was missed; of more, it is only known that
they were more."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a schedule fires.

    Raises:
        ValueError: a value is none, or two contradict each other; the sentence names them.
    """

    cron: str | None = None
    every: float | None = None
    """Seconds between two firings. They are counted from *start*, whatever the firings take; the
    first one is then. Without a start they are counted from when the schedule was made, and the
    first one is an interval later."""
    at: float | None = None
    """The one moment of a schedule that fires once."""
    tz: str | None = None
    """The time zone that *cron* speaks of; UTC if it is not said."""
    start: float | None = None
    """It does not fire before this moment."""
    end: float | None = None
    """It does not fire after this moment."""
    count: int | None = None
    """How often it fires; None: without end."""
    jitter: float = 0.0
    """Each firing is put off by up to so many seconds, by chance, so that what comes at the same
    time does not begin at the same time. It is shorter than the time between two moments, or one
    would be passed over when the next comes; see `check_new`."""
    missed: Missed = "once"
    missed_within: float | None = None
    """With ``missed="all"``: how long ago a moment may be, in seconds."""
    overlap: Overlap = "skip"

    def __post_init__(self) -> None:
        said = [name for name in ("cron", "every", "at") if getattr(self, name) is not None]
        if len(said) != 1:
            several = f"{', '.join(said[:-1])} and {said[-1]}" if said else ""
            raise ValueError(
                f"{several} {'both' if len(said) == 2 else 'all'} say when: give one of them"
                if said
                else "a schedule says when: cron='0 3 * * *', every=60, or a moment (at)"
            )
        if self.tz is not None and self.cron is None:
            raise ValueError(f"tz is for cron, and there is none: leave out tz={self.tz!r}")
        if self.cron is not None:
            _cron(self.cron, self.tz or "UTC")
        if self.every is not None:
            _check_seconds("every", self.every, MIN_EVERY_S, MAX_EVERY_S)
        for name in ("at", "start", "end"):
            _check_moment(name, getattr(self, name))
        self._check_ends()
        self._check_policies()
        if self.end is not None and self.start is not None and self._ends_unfired():
            raise ValueError("it never fires: there is no such moment between start and end")

    def _check_ends(self) -> None:
        for name in ("start", "end", "count"):
            if self.at is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} is for what fires again and again, and at is one moment")
        if self.count is not None and not (
            type(self.count) is int and 1 <= self.count <= MAX_COUNT
        ):
            raise ValueError(
                f"count is how often it fires, a whole number from 1 to {MAX_COUNT:,}, "
                f"not {self.count!r}"
            )
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError("end has to come after start")

    def _check_policies(self) -> None:
        _check_seconds("jitter", self.jitter, 0.0, MAX_JITTER_S)
        if self.every is not None and self.jitter >= self.every:
            raise ValueError(
                f"jitter ({self.jitter:g} s) has to be shorter than every ({self.every:g} s)"
            )
        for name, words in (("missed", get_args(Missed)), ("overlap", get_args(Overlap))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {_either(words)}, not {getattr(self, name)!r}")
        if (self.missed == "all") is not (self.missed_within is not None):
            raise ValueError(
                "missed='all' and missed_within go together: how many seconds ago a moment may be "
                "that is still fired, as in missed='all', missed_within=3600"
            )
        if self.missed_within is not None:
            _check_seconds("missed_within", self.missed_within, 0.0, MAX_WITHIN_S)

    def check_new(self) -> None:
        """Raise for what is refused of a new rule. Earlier versions took it: theirs are still read,
        and fire.

        Raises:
            ValueError: the jitter may put a firing off until the next moment has come, which then
                takes its place.
        """
        if self.cron is not None and self.jitter > 0:
            gap_s = self._cron.shortest_gap_s()
            if self.jitter >= gap_s:
                raise ValueError(
                    f"jitter ({self.jitter:g} s) has to be shorter than the shortest time between "
                    f"two moments of cron ({gap_s:g} s)"
                )

    def as_data(self) -> dict[str, Any]:
        """Return the rule as a plain map, which `from_data` takes: what it says, and no more."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        usual = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in data.items() if value != usual[name]}

    @classmethod
    def from_data(cls, data: Any) -> Rule:
        """Read a rule that came as data.

        Raises:
            ValueError: it is none; the sentence names what is wrong.
        """
        return cls(**checked_map(data, "a schedule's rule", [each.name for each in fields(cls)]))

    # --- moments --------------------------------------------------------------------------------

    def next_after(self, moment: float, made_at: float = 0.0) -> float | None:
        """Return the first moment after *moment* that the rule names, None if there is none.

        *made_at* is when the schedule was made: intervals without a start are counted from it.
        How often it has fired already (*count*) is not looked at.
        """
        if self.at is not None:
            at: float | None = self.at if moment < self.at else None
        elif self.every is not None:
            at = self._next_interval(moment, self.every, made_at)
        else:
            if self.start is not None and moment < self.start:
                moment = math.ceil(self.start) - 1
            at = self._cron.next_after(moment)
        return None if at is None or (self.end is not None and at > self.end) else at

    def moments(self, after: float, made_at: float = 0.0) -> Iterator[float]:
        """Go through the moments after *after*, in order."""
        at = self.next_after(after, made_at)
        while at is not None:
            yield at
            at = self.next_after(at, made_at)

    def last_until(self, moment: float, after: float, made_at: float = 0.0) -> float | None:
        """Return the last moment of the rule that is after *after* and not after *moment*, without
        going through all of them."""
        span_s = 60.0
        while True:
            since = max(after, moment - span_s)
            found: float | None = None
            for at in self.moments(since, made_at):
                if at > moment:
                    break
                found = at
            if found is not None or since <= after:
                return found
            span_s *= 8

    def put_off_s(self, draw: float) -> float:
        """Return by how much a firing is put off. *draw* is a random number in [0, 1)."""
        return self.jitter * draw

    def words(self) -> str:
        """Say in a few words when it fires."""
        if self.at is not None:
            said = f"once, at {_text(self.at)}"
        elif self.every is not None:
            said = f"every {self.every:g} s"
        else:
            said = f"cron {self.cron} {self.tz or 'UTC'}"
        for word, moment in (("from", self.start), ("until", self.end)):
            said += "" if moment is None else f", {word} {_text(moment)}"
        return said if self.count is None else f"{said}, {self.count:,} times"

    @property
    def _cron(self) -> Cron:
        assert self.cron is not None
        return _cron(self.cron, self.tz or "UTC")

    def _next_interval(self, moment: float, every: float, made_at: float) -> float:
        first = made_at + every if self.start is None else self.start
        if moment < first:
            return first
        steps = math.floor((moment - first) / every)
        while (at := first + steps * every) <= moment:
            steps += 1
        return at

    def _ends_unfired(self) -> bool:
        assert self.start is not None
        return self.next_after(self.start - 1, self.start) is None


class Due(NamedTuple):
    """What is to be done now: the moments to fire, in order, how many are missed, and the
    moment up to which all is decided with that."""

    moments: tuple[float, ...]
    missed: int
    reached: float


def due(
    rule: Rule,
    *,
    reached: float,
    now: float,
    made_at: float,
    draw: Callable[[float], float],
    most: int,
) -> Due:
    """Decide what a schedule that has decided all moments up to *reached* does now.

    Args:
        made_at: when the schedule was made.
        draw: the random number in [0, 1) of a moment, always the same.
        most: how many moments may be fired now; those after them are due still.
    """

    def due_at(moment: float) -> float:
        return moment + rule.put_off_s(draw(moment))

    if rule.missed_within is not None:
        # What is too old is missed; what is left is fired one after another.
        old = _passed(rule, reached, now - rule.missed_within, made_at, due_at)
        since = reached if old is None else max(reached, old.last)
        found: list[float] = []
        for moment in rule.moments(since, made_at):
            if due_at(moment) > now or len(found) == most:
                break
            found.append(moment)
        missed = 0 if old is None else old.number
        return Due(tuple(found), missed, found[-1] if found else since)
    passed = _passed(rule, reached, now, made_at, due_at)
    if passed is None:
        return Due((), 0, reached)
    if rule.missed == "skip" and now - due_at(passed.last) > LATE_S:
        return Due((), passed.number, passed.last)
    return Due((passed.last,), passed.number - 1, passed.last)


class _Passed(NamedTuple):
    number: int
    last: float


def _passed(
    rule: Rule,
    reached: float,
    until: float,
    made_at: float,
    due_at: Callable[[float], float],
) -> _Passed | None:
    """Return how many moments after *reached* were due until then, and the last one."""
    number, last = 0, reached
    for moment in islice(rule.moments(reached, made_at), MOST_COUNTED):
        if due_at(moment) > until:
            break
        number, last = number + 1, moment
    if number == MOST_COUNTED:
        # Those that were surely due, whatever they are put off by; and after them one by one.
        later = rule.last_until(until - rule.jitter, last, made_at)
        last = last if later is None else later
        for moment in rule.moments(last, made_at):
            if due_at(moment) > until:
                break
            last = moment
    return _Passed(number, last) if number else None


def firing_id(schedule: str, moment: float) -> bytes:
    """Return the id of the job that *schedule* submits for *moment*: always the same one."""
    return new_id(moment, _hash(schedule, moment)[:10])


def firing_draw(schedule: str, moment: float) -> float:
    """Return the random number in [0, 1) of a firing: always the same one, so that a plane that
    starts again does not draw anew."""
    return int.from_bytes(_hash(schedule, moment)[10:16], "big") / 2**48


def _hash(schedule: str, moment: float) -> bytes:
    return sha256(pack(">d", moment) + schedule.encode("utf-8", "surrogatepass")).digest()


@lru_cache(maxsize=1024)
def _cron(text: str, tz: str) -> Cron:
    return Cron(text, tz)


def _check_seconds(name: str, value: object, least: float, most: float) -> None:
    if not is_number(value) or not least <= value <= most:
        raise ValueError(
            f"{name} is a number of seconds from {least:g} to {most:,.0f}, not {value!r}"
        )


def _check_moment(name: str, value: object) -> None:
    if value is not None and not (is_number(value) and 0 <= value <= MAX_MOMENT):
        raise ValueError(f"{name} is a moment in UTC seconds, not {value!r}")


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(map(repr, words[:-1]))} or {words[-1]!r}"


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(sep=" ", timespec="seconds")[:19] + " UTC"
