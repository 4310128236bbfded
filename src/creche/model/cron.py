"""Cron expressions: the moments that one names in a time zone, right over changes of its clocks.

Five fields (minute, hour, day of month, month, day of week), or six with seconds first, or a word
such as ``@daily``. What the calendar says is cronsim's affair, which knows nothing of zones here:
it walks over what a clock on the wall shows, and this module says when the clock shows it.

- **A time of day** (no ``*`` at the start of minute and hour): it comes once a day. Where clocks
  are set forward and the time does not exist, it comes at the first moment after the gap; where
  they are set back and it exists twice, the first time.
- **Time that passes** (minute or hour begin with ``*``): it comes whenever the clock shows it. What
  is hourly stays so: it comes in both of the hours that look the same, and in none that is left
  out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

MAX_LENGTH = 500
"""Characters of an expression: all minutes, one by one, are 170."""

_REMEMBERED = 32
"""Answers that an expression keeps."""

_WEEK_S = 7 * 86_400
"""No zone sets its clocks there and back within a week."""

_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_CENTURY_S = 100 * 366 * 86_400

_DAY_S = 86_400
_ALL_YEARS_DAYS = 28 * 365 + 7
"""After so many days, days of the week and leap years come again as they were."""

WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Words that stand for an expression."""


class _Field(NamedTuple):
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    """Names of its values, from *least* on."""


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_DAY = _Field("day of month", 1, 31)
_DAY_OF_WEEK = _Field("day of week", 0, 7, _DAYS)
_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _DAY,
    _Field("month", 1, 12, _MONTHS),
    _DAY_OF_WEEK,
)


class Cron:
    """The moments of one expression in one zone.

    Raises:
        ValueError: the expression or the zone is none; the sentence points at what is wrong.
    """

    def __init__(self, text: str, tz: str = "UTC") -> None:
        self.zone = find_zone(tz)
        self.fields = _read(text)
        times = self.fields[: len(self.fields) - 3]
        self.is_time_of_day = not any(field.startswith("*") for field in times)
        """Whether it comes once where clocks are changed, or whenever the clock shows it."""
        self._expression = " ".join(self.fields)
        self._found: dict[float, float | None] = {}
        """What was answered last: whoever fires asks several times."""

    def next_after(self, moment: float) -> float | None:
        """Return the first moment (UTC seconds) after *moment*, None if there is none for long."""
        if moment not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[moment] = self._next(moment)
        return self._found[moment]

    def shortest_gap_s(self) -> float:
        """Return the shortest time between two of its moments, by a clock that nobody changes;
        infinity if they are days apart."""
        sim = CronSim(self._expression, _SOME_DAY)
        shortest_s, span_s = math.inf, 0
        for unit_s, values in ((1, sim.seconds), (60, sim.minutes), (3600, sim.hours)):
            steps = [later - earlier for earlier, later in pairwise(sorted(values))]
            # From the last moment of one to the first of the next: of minutes, then of hours.
            shortest_s = min([shortest_s, *(step * unit_s - span_s for step in steps)])
            span_s += (max(values) - min(values)) * unit_s
        over_night_s = _DAY_S - span_s
        if over_night_s < shortest_s and self._has_days_in_a_row(sim):
            return over_night_s
        return shortest_s

    @staticmethod
    def _has_days_in_a_row(sim: CronSim) -> bool:
        days = (date.fromordinal(_SOME_DAY.toordinal() + n) for n in range(_ALL_YEARS_DAYS))
        fits = (day.month in sim.months and sim.match_day(day) for day in days)
        return any(today and tomorrow for today, tomorrow in pairwise(fits))

    def _next(self, moment: float) -> float | None:
        try:
            return self._next_of_day(moment) if self.is_time_of_day else self._next_passing(moment)
        except (OverflowError, ValueError):
            return None  # beyond the year 9999

    def _next_of_day(self, moment: float) -> float | None:
        wall = self._wall(moment)
        for shown in self._shown_after(wall):
            at = self._first_shown(shown)
            if at > moment:
                return at
        return None

    def _next_passing(self, moment: float) -> float | None:
        # Between two changes of the clock, what it shows and the time differ by as much.
        since = int(moment // 1) + 1
        until = since + _CENTURY_S
        while since < until:
            offset_s = self._offset_s(since)
            wall = datetime.fromtimestamp(since + offset_s, UTC).replace(tzinfo=None)
            shown = next(self._shown_after(wall - timedelta(seconds=1)), None)
            end = until if shown is None else int(_as_utc(shown)) - offset_s
            change = self._change(since, end)
            if change is None:
                return None if shown is None else float(end)
            since = change
        return None

    def _shown_after(self, wall: datetime) -> Iterator[datetime]:
        """Walk over what a clock will show, whatever the zone."""
        return CronSim(self._expression, wall)

    def _wall(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment // 1, self.zone).replace(tzinfo=None)

    def _offset_s(self, second: int) -> int:
        offset = datetime.fromtimestamp(second, self.zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    def _first_shown(self, wall: datetime) -> float:
        """Return when the clock shows *wall* first, or else when it jumps over it."""
        early, late = (
            int(wall.replace(tzinfo=self.zone, fold=fold).timestamp()) for fold in (1, 0)
        )
        if self._wall(late) == wall:
            return float(late)
        change = self._change(early, late)
        return float(late if change is None else change)

    def _change(self, since: int, until: int) -> int | None:
        """Return the first second up to *until* at which clocks show another offset than they do
        at *since*."""
        offset_s = self._offset_s(since)
        low = since
        while low < until:
            high = min(low + _WEEK_S, until)
            if self._offset_s(high) != offset_s:
                while high - low > 1:
                    middle = (low + high) // 2
                    if self._offset_s(middle) == offset_s:
                        low = middle
                    else:
                        high = middle
                return high
            low = high
        return None


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone by its name in the IANA database.

    Raises:
        ValueError: there is none of that name; the sentence has near ones.
    """
    if isinstance(name, str) and name.strip():
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):
            pass
    near = _near_zones(name) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(near)}?" if near else "use one such as 'Europe/Paris'"
    raise ValueError(f"tz {name!r} is no time zone: {hint}")


def _near_zones(name: str) -> list[str]:
    known = {zone.lower(): zone for zone in _zones()}
    last = {zone.rpartition("/")[2]: zone for zone in known}
    said = name.lower().strip().replace(" ", "_")
    near = get_close_matches(said, known, n=3, cutoff=0.7)
    near += [last[part] for part in get_close_matches(said, last, n=2, cutoff=0.75)]
    return [repr(known[zone]) for zone in dict.fromkeys(near)][:3]


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


# --- reading an expression, with a finger on what is wrong --------------------------------------


def _read(text: str) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(f"cron is a text such as '0 3 * * *', not {text!r}")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"cron {text[:20]!r}… has over {MAX_LENGTH} characters")
    where = f'cron "{text}"'
    if text.strip().startswith("@"):
        word = text.strip().lower()
        if word not in WORDS:
            raise ValueError(f"{where}: there is no {word}; there are {', '.join(WORDS)}")
        return WORDS[word].split()
    fields = text.upper().split()
    if len(fields) not in (5, 6):
        names = ", ".join(field.name for field in _FIELDS[1:])
        raise ValueError(
            f"{where} has {len(fields)} {'field' if len(fields) == 1 else 'fields'}: it takes 5 "
            f"({names}), or 6 with seconds first"
        )
    for field, said in zip(_FIELDS[-len(fields) :], fields, strict=True):
        for term in said.split(","):
            fault = _fault(field, term)
            if fault is not None:
                raise ValueError(f"{where}: {field.name} {fault}")
    try:
        has_any = next(CronSim(" ".join(fields), _SOME_DAY), None) is not None
    except CronSimError:
        has_any = False
    if not has_any:
        raise ValueError(f"{where}: there is no such day in any year")
    return fields


def _fault(field: _Field, term: str) -> str | None:
    """Return what is wrong with one term of a field, to come after the field's name."""
    base, slash, step = term.partition("/")
    if slash:
        if not _is_whole(step) or not 0 < int(step) <= field.most:
            return f"{term}: a step is a whole number from 1 to {field.most}"
        if base[-1:] == "L" or "#" in base or base == "LW":
            return f"{term}: {base} takes no step"
    if base == "*" or (field is _DAY and base in ("L", "LW")):
        return None
    if field is _DAY_OF_WEEK and base.endswith("L") and _is_whole(base[:-1]):
        return _value_fault(field, base[:-1])
    if field is _DAY_OF_WEEK and "#" in base:
        day, _, nth = base.partition("#")
        if not _is_whole(nth) or not 1 <= int(nth) <= 5:
            return f"{term}: which one of the month is a whole number from 1 to 5"
        return _value_fault(field, day)
    first, dash, last = base.partition("-")
    fault = _value_fault(field, first)
    if fault is None and dash:
        fault = _value_fault(field, last)
        if fault is None and _value(field, last) < _value(field, first):
            fault = f"{base} ends before it begins"
    return fault


def _value_fault(field: _Field, text: str) -> str | None:
    if text in field.names:
        return None
    named = f", nor one of {', '.join(field.names)}" if field.names else ""
    if not text:
        return "has an empty part"
    if not _is_whole(text):
        return f"{text} is not a whole number{named}"
    if not field.least <= int(text) <= field.most:
        return f"{text} is not in {field.least} to {field.most}"
    return None


def _value(field: _Field, text: str) -> int:
    return field.least + field.names.index(text) if text in field.names else int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _as_utc(wall: datetime) -> float:
    return wall.replace(tzinfo=UTC).timestamp()
