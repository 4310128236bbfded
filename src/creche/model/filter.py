"""Filters: which jobs are meant, as a line that people write and as a record that stores answer.

A filter is terms with spaces between them, and all of them hold for a job that is meant::

    state:failed,lost task:mail.* -queue:bulk error:"no route" ended:-1h..

Of the values of one term, with commas between them, any may hold; a minus before a term means all
others. Quotes keep spaces and commas in a value. The keys:

=============================== ================================================================
``state:``, ``priority:``       words
``is:``                         words: dead, and not looked after yet; retried; discarded
``task:``, ``queue:``,          names, in which ``*`` stands for any text and ``?`` for one
``worker:``                     character
``id:``                         how an id begins
``error:``                      text that is in the type or the message of what a job ended with,
                                in upper or lower case alike
``submitted:``, ``started:``,   moments: from one to before another (``-1h..``, ``..2027-01-31``,
``ended:``                      ``2027-01-31T08:00..2027-01-31T09:30``), or a day
``attempt:``, ``losses:``       numbers: one, or from one to another (``3..``, ``2..4``)
=============================== ================================================================

Reading a filter makes its moments absolute. `Filter.text` is the same filter written so, and reads
as the same one anywhere and at any time: that is how it travels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

from creche.errors import BadFilter
from creche.model.failure import Failure
from creche.model.ids import ID_BYTES
from creche.model.job import Fate, JobState
from creche.model.priority import Priority

MAX_FILTER = 2000
"""Characters of a filter."""

_MAX_NUMBER = 2**53  # those up to it are told apart by all who read one

Range: TypeAlias = tuple[float | None, float | None]
"""From the first, and below the second; None: no limit there."""


class Subject(Protocol):
    """What of a job a filter asks for."""

    @property
    def id(self) -> bytes: ...
    @property
    def task(self) -> str: ...
    @property
    def queue(self) -> str | None: ...
    @property
    def priority(self) -> int | None: ...
    @property
    def state(self) -> JobState: ...
    @property
    def holder(self) -> str | None: ...
    @property
    def submitted_at(self) -> float: ...
    @property
    def started_at(self) -> float | None: ...
    @property
    def ended_at(self) -> float | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def losses(self) -> int: ...
    @property
    def fate(self) -> Fate | None: ...


class Term(NamedTuple):
    """One term: *values* are numbers for words, texts in lower case for errors, patterns for names,
    hexadecimal digits for ids, and a `Range` for moments and numbers."""

    key: str
    values: tuple[Any, ...]
    is_not: bool = False

    @property
    def text(self) -> str:
        """The term as it is written; its moments are absolute."""
        return f"{'-' * self.is_not}{self.key}:{_KEYS[self.key].write(self.values)}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant: those for which all *terms* hold."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str, now: float = 0.0, zone: tzinfo | None = UTC) -> Filter:
        """Read a filter. Moments such as ``-1h`` are counted from *now* (UTC seconds), and those
        without an offset are of *zone*; None: local time.

        Raises:
            BadFilter: it is none; the sentence says where, and what may stand there.
        """
        return cls(tuple(_Reader(text, now, zone).read()))

    @property
    def text(self) -> str:
        """The filter as a line, which reads as the same one whenever and wherever it is read."""
        return " ".join(term.text for term in self.terms)

    @property
    def states(self) -> frozenset[JobState]:
        """The states that a job which is meant can be in."""
        states = frozenset(JobState)
        for term in self.terms:
            if term.key == "state":
                states = states - set(term.values) if term.is_not else states & set(term.values)
        return states

    def matches(self, job: Subject, error: Callable[[], str]) -> bool:
        """Whether *job* is meant. *error* returns what it ended with, as `error_text` does, and is
        called only where that counts."""
        return all(_holds(term, job, error) is not term.is_not for term in self.terms)


ANY = Filter()
"""All jobs."""


def error_text(failure: Failure) -> str:
    """Return that in which ``error:`` looks."""
    return failure.line.casefold()


def worker_of(holder: str | None) -> str:
    """Return the name of the worker whose process *holder* is; "" for nobody."""
    return "" if holder is None else holder.rpartition("/")[0]


def is_like(text: str, pattern: str) -> bool:
    """Whether *text* is what *pattern* stands for: ``*`` any text, ``?`` one character. Its time is
    bounded by the product of their lengths."""
    place = at = 0
    star = resumed = -1
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resumed = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            place += 1
            at += 1
        elif star >= 0:
            # The last star takes one character more.
            resumed += 1
            place, at = resumed, star + 1
        else:
            return False
    return not pattern[at:].strip("*")


def _holds(term: Term, job: Subject, error: Callable[[], str]) -> bool:
    values = term.values
    match term.key:
        case "state":
            return job.state in values
        case "priority":
            return job.priority in values
        case "fate":
            return job.fate in values
        case "task":
            return any(is_like(job.task, pattern) for pattern in values)
        case "queue":
            return any(is_like(job.queue or "", pattern) for pattern in values)
        case "worker":
            return any(is_like(worker_of(job.holder), pattern) for pattern in values)
        case "id":
            return any(job.id.hex().startswith(digits) for digits in values)
        case "error":
            said = error()
            return any(text in said for text in values)
        case key:
            number = getattr(job, _NUMBERS[key])
            return any(_is_in(number, one) for one in values)


def _is_in(number: float | None, one: Range) -> bool:
    least, below = one
    return (
        number is not None
        and (least is None or number >= least)
        and (below is None or number < below)
    )


_NUMBERS = {
    "submitted": "submitted_at",
    "started": "started_at",
    "ended": "ended_at",
    "attempt": "attempt",
    "losses": "losses",
}
"""Which field of a job a range is about."""


# --- keys ---------------------------------------------------------------------------------------


class _Key(NamedTuple):
    """How the values of a key are read, one by one, and written."""

    read: Callable[[str, float, tzinfo | None], Any]
    write: Callable[[tuple[Any, ...]], str]


def _words(parse: Callable[[str], int], text: str, now: float, zone: tzinfo | None) -> int:
    return parse(text)


def _pattern(text: str, now: float, zone: tzinfo | None) -> str:
    return text


def _digits(text: str, now: float, zone: tzinfo | None) -> str:
    digits = text.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) > 2 * ID_BYTES:
        raise ValueError(
            f"{text!r} is not how an id begins: it has {2 * ID_BYTES} hexadecimal digits"
        )
    return digits


def _folded(text: str, now: float, zone: tzinfo | None) -> str:
    return text.casefold()


def _numbers(text: str, now: float, zone: tzinfo | None) -> Range:
    first, dots, last = text.partition("..")
    least = _number(first) if first or not dots else None
    most = _number(last) if last else (None if dots else least)
    if least is None and most is None:
        raise ValueError("a range has a beginning or an end: write 3.. or ..3")
    if least is not None and most is not None and most < least:
        raise ValueError(f"{text!r} ends before it begins")
    return least, None if most is None else most + 1


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", text, re.ASCII) or int(text) >= _MAX_NUMBER:
        raise ValueError(f"{text!r} is no number: write 3, 3.. or 2..4")
    return int(text)


def _moments(text: str, now: float, zone: tzinfo | None) -> Range:
    first, dots, last = text.partition("..")
    if not dots:
        return _day(text, zone)
    least = _moment(first, now, zone) if first else None
    below = _moment(last, now, zone) if last else None
    if least is None and below is None:
        raise ValueError("a range has a beginning or an end: write -1h.. or ..-1h")
    if least is not None and below is not None and below <= least:
        raise ValueError(f"{text!r} ends before it begins")
    return least, below


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"-([0-9]{1,9})([smhdw])", re.ASCII)
_WRITE = "write it as in -1h (s, m, h, d, w), 2027-01-31, 2027-01-31T18:30 or ...T18:30+01:00"


def _moment(text: str, now: float, zone: tzinfo | None) -> float:
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return _rounded(max(0.0, now - int(ago[1]) * _UNITS_S[ago[2]]))
    try:
        return _seconds(_read_iso(text), zone)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no moment: {_WRITE}") from None


def _day(text: str, zone: tzinfo | None) -> Range:
    if _AGO.fullmatch(text):
        raise ValueError(f"{text} is a moment, not a range: write {text}.. for since then")
    try:
        day = _read_iso(text)
        if not re.fullmatch(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", text, re.ASCII):
            raise ValueError
        return _seconds(day, zone), _seconds(day + timedelta(days=1), zone)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no day, as 2027-01-31, and no range, as -1h..") from None


def _read_iso(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _seconds(moment: datetime, zone: tzinfo | None) -> float:
    if moment.tzinfo is None:
        moment = moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
    return _rounded(moment.timestamp())


def _rounded(at: float) -> float:
    """Return *at* as it can be written."""
    return datetime.fromtimestamp(at, UTC).timestamp()


def _write_words(words: Mapping[int, str], values: tuple[int, ...]) -> str:
    return ",".join(words[value] for value in values)


def _write_texts(values: tuple[str, ...]) -> str:
    return ",".join(quoted(value) for value in values)


def _write_numbers(values: tuple[tuple[int | None, int | None], ...]) -> str:
    return ",".join(
        f"{'' if least is None else least}..{'' if below is None else below - 1}"
        for least, below in values
    )


def _write_moments(values: tuple[Range, ...]) -> str:
    return ",".join(f"{_iso(least)}..{_iso(below)}" for least, below in values)


def _iso(at: float | None) -> str:
    if at is None:
        return ""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def quoted(value: str) -> str:
    """Return *value* as a filter has it: in quotes where it needs them."""
    if _BARE.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_KEYS: dict[str, _Key] = {
    "state": _Key(
        partial(_words, JobState.parse), partial(_write_words, {s: s.word for s in JobState})
    ),
    "priority": _Key(
        partial(_words, Priority.parse), partial(_write_words, {p: p.word for p in Priority})
    ),
    "fate": _Key(partial(_words, Fate.parse), partial(_write_words, {f: f.word for f in Fate})),
    **dict.fromkeys(("task", "queue", "worker"), _Key(_pattern, _write_texts)),
    "id": _Key(_digits, _write_texts),
    "error": _Key(_folded, _write_texts),
    **dict.fromkeys(("submitted", "started", "ended"), _Key(_moments, _write_moments)),
    **dict.fromkeys(("attempt", "losses"), _Key(_numbers, _write_numbers)),
}

KEYS: Sequence[str] = tuple(_KEYS)
"""The keys that a term can have."""


# --- reading ------------------------------------------------------------------------------------

_KEY = re.compile(r"[A-Za-z_.]+", re.ASCII)
_BARE = re.compile(r'[^\s,"\\]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"\S+")


class _Reader:
    """Reads a filter from its beginning to its end."""

    def __init__(self, text: str, now: float, zone: tzinfo | None) -> None:
        self._text = text
        self._now = now
        self._zone = zone
        self._at = 0

    def read(self) -> list[Term]:
        if len(self._text) > MAX_FILTER:
            self._refuse(MAX_FILTER, f"a filter has {MAX_FILTER:,} characters at the most")
        odd = re.search("[\0\ud800-\udfff]", self._text)
        if odd is not None:
            self._refuse(odd.start(), "there is something that is no text")
        terms: list[Term] = []
        while self._skip(_SPACE) is not None and self._at < len(self._text):
            terms.append(self._term())
        return terms

    def _term(self) -> Term:
        begun_at = self._at
        is_not = self._text[self._at] == "-"
        self._at += is_not
        name = self._skip(_KEY)
        if name is None or not self._text.startswith(":", self._at):
            word = _WORD.match(self._text, begun_at)
            said = "" if word is None else word[0]
            self._refuse(begun_at, f"{said!r} is no term: write key:value; the keys are {_LIST}")
        key = _KEYS.get(name.lower())
        if key is None:
            near = get_close_matches(name.lower(), _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {_LIST}"
            self._refuse(begun_at + is_not, f"there is no key {name!r}: {hint}")
        self._at += 1
        values: list[Any] = []
        while True:
            value_at = self._at
            value = self._value(name.lower())
            try:
                values.append(key.read(value, self._now, self._zone))
            except ValueError as error:
                self._refuse(value_at, str(error))
            if not self._text.startswith(",", self._at):
                break
            self._at += 1
        if self._at < len(self._text) and not self._text[self._at].isspace():
            self._refuse(self._at, "a value ends before this: put it in quotes as a whole")
        return Term(name.lower(), tuple(values), is_not)

    def _value(self, key: str) -> str:
        begun_at = self._at
        if self._text.startswith('"', begun_at):
            quoted = _QUOTED.match(self._text, begun_at)
            if quoted is None:
                self._refuse(begun_at, 'the quotes that begin here do not end: \\" is one in them')
            self._at = quoted.end()
            value = _ESCAPED.sub(r"\1", quoted[1])
        else:
            value = self._skip(_BARE) or ""
        if not value:
            self._refuse(begun_at, f"{key}: takes a value")
        return value

    def _skip(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _refuse(self, at: int, why: str) -> NoReturn:
        raise BadFilter(self._text, at + 1, why) from None


_LIST = ", ".join(KEYS)
