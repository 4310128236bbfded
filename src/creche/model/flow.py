"""How many jobs run at a time, and how often they begin, whichever workers run them.

A task says so of its own jobs, of all of them together or of each **key** apart; an operator says
so of a queue. It travels as a plain map, of which each key may be left out::

    {"limit": 2, "key": {"parameter": "user_id", "position": 0, "path": [], "default": None},
     "rate": {"count": 10, "per_s": 60.0}, "rate_key": {"is_code": True}}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from typing import Any
from uuid import UUID

from creche.errors import MAX_COUNTDOWN_S
from creche.model.maps import checked_map, is_number

MAX_LIMIT = 1_000_000
"""The largest number of a limit or of a rate: beyond, it limits nothing."""

MAX_KEY_LENGTH = 200
"""Characters of a key; of a longer one a part and a digest are kept."""

MAX_PATH = 10
"""Steps of a key's path."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_UNIT_WORDS = {"sec": "s", "second": "s", "min": "m", "minute": "m", "hour": "h", "day": "d"}
_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9}(?:\.\d{1,9})?)?\s*([a-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many jobs may begin in so many seconds: a bucket of `count` tokens, each of which comes
    back `per_s / count` seconds after it was taken. All of them may be taken at once.

    Raises:
        ValueError: a value is none.
    """

    count: int
    per_s: float

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= MAX_LIMIT:
            raise ValueError(f"a rate's count is 1 to {MAX_LIMIT:,}, not {self.count!r}")
        if not is_number(self.per_s) or not 0 < self.per_s <= MAX_COUNTDOWN_S:
            raise ValueError(
                f"a rate's time is a number of seconds above 0 to {MAX_COUNTDOWN_S:,} (a year), "
                f"not {self.per_s!r}"
            )

    @classmethod
    def parse(cls, text: object) -> Rate:
        """Return the rate that *text* says: ``10/m``, ``100/30s``, ``5/second``.

        Raises:
            ValueError: it says none.
        """
        found = _RATE.fullmatch(text.lower()) if isinstance(text, str) else None
        unit = "" if found is None else found[3].removesuffix("s") or "s"
        seconds = _UNITS_S.get(_UNIT_WORDS.get(unit, unit))
        if found is None or seconds is None:
            raise ValueError(
                f"{text!r} is no rate: write a number, a slash and a time, as in 10/m, 100/30s or "
                "5000/d (s, m, h, d)"
            )
        return cls(int(found[1]), float(found[2] or 1) * seconds)

    @classmethod
    def from_data(cls, data: Any) -> Rate:
        """Read a rate that came as data.

        Raises:
            ValueError: it is none.
        """
        known = checked_map(data, "a rate", ("count", "per_s"))
        if len(known) < 2:
            raise ValueError("a rate has count and per_s")
        return cls(known["count"], known["per_s"])

    def as_data(self) -> dict[str, float]:
        """Return the rate as a plain map, which `from_data` takes."""
        return {"count": self.count, "per_s": self.per_s}

    @property
    def step_s(self) -> float:
        """How long one token takes to come back."""
        return self.per_s / self.count

    def __str__(self) -> str:
        for unit, seconds in reversed(_UNITS_S.items()):
            if self.per_s >= seconds and self.per_s % seconds == 0:
                number = int(self.per_s // seconds)
                return f"{self.count}/{'' if number == 1 else number}{unit}"
        return f"{self.count}/{self.per_s:g}s"


class Bucket:
    """The tokens of one `Rate`. Moments are seconds of any one clock, and never go back.

    Tokens are counted, and not computed from moments: sums of many steps are not exact.
    """

    __slots__ = ("_next_at", "_taken", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._taken = 0
        self._next_at = 0.0
        """When the next of those that were taken comes back."""

    def room(self, now: float) -> int:
        """Return how many tokens can be taken now."""
        while self._taken and now >= self._next_at:
            # Mostly once: the sum of the steps may be a little short.
            back = min(self._taken, 1 + int((now - self._next_at) / self.rate.step_s))
            self._taken -= back
            self._next_at += back * self.rate.step_s
        return max(0, self.rate.count - self._taken)

    def next_at(self, now: float) -> float:
        """Return when a token can be taken: now, if there is one."""
        return now if self.room(now) else self._next_at

    def take(self, now: float) -> None:
        """Take a token, whether there is one or not: the next comes later then."""
        self.room(now)
        if not self._taken:
            self._next_at = now + self.rate.step_s
        self._taken += 1

    def give_back(self) -> None:
        """Put a token back that was not used."""
        self._taken = max(0, self._taken - 1)

    def is_full(self, now: float) -> bool:
        """Whether nothing would be lost if the bucket were forgotten."""
        return self.room(now) == self.rate.count


@dataclass(frozen=True, slots=True)
class Key:
    """Which part of its arguments tells the jobs of a task apart: a parameter, and a path into it.

    With `is_code` it is computed by a function of the task's code, which only a submitter has that
    has the code.
    """

    parameter: str = ""
    position: int | None = None
    """Where it comes among the positional arguments; None: it is given by name only."""
    path: tuple[str, ...] = ()
    """Keys of maps, and numbers of items of lists."""
    default: str | None = None
    """The key of a call that leaves the parameter out."""
    is_code: bool = False

    def of(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        text_of: Callable[[object], str] | None = None,
    ) -> str:
        """Return the key of a call, as *text_of* (`key_text`) writes it; an empty one if the call
        has nothing there.

        Raises:
            ValueError: what is there cannot be a key.
        """
        if self.position is not None and self.position < len(args):
            value = args[self.position]
        elif self.parameter in kwargs:
            value = kwargs[self.parameter]
        else:
            return self.default or ""
        for step in self.path:
            if isinstance(value, Mapping) and step in value:
                value = value[step]
            elif isinstance(value, list | tuple) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return ""
        return (text_of or key_text)(value)

    def as_data(self) -> dict[str, Any]:
        """Return the key as a plain map, which `from_data` takes."""
        if self.is_code:
            return {"is_code": True}
        return {
            "parameter": self.parameter,
            "position": self.position,
            "path": list(self.path),
            "default": self.default,
        }

    @classmethod
    def from_data(cls, data: Any) -> Key:
        """Read a key that came as data.

        Raises:
            ValueError: it is none.
        """
        said = checked_map(data, "a key", ("parameter", "position", "path", "default", "is_code"))
        if said.get("is_code"):
            return cls(is_code=True)
        parameter, position, path = said.get("parameter"), said.get("position"), said.get("path")
        if not isinstance(parameter, str) or not 0 < len(parameter) <= MAX_KEY_LENGTH:
            raise ValueError("a key names a parameter")
        if position is not None and (type(position) is not int or position < 0):
            raise ValueError("a key's position is a whole number, and not below 0")
        if not isinstance(path, list) or not all(isinstance(step, str) for step in path):
            raise ValueError("a key's path is a list of texts")
        if len(path) > MAX_PATH or any(len(step) > MAX_KEY_LENGTH for step in path):
            raise ValueError(f"a key's path has up to {MAX_PATH} steps")
        default = said.get("default")
        if default is not None and not isinstance(default, str):
            raise ValueError("a key's default is a text")
        return cls(parameter, position, tuple(path), default)


def key_text(value: object) -> str:
    """Return a value as the text that keys are compared by: 7 and "7" are one key.

    Raises:
        ValueError: it is of a kind that is no key.
    """
    match value:
        case None:
            text = "null"
        case bool():
            text = "true" if value else "false"
        case str():
            text = value
        case int():
            # Thousands of digits take quadratic time as decimals, or are refused.
            text = str(value) if value.bit_length() < 512 else hex(value)
        case bytes():
            text = value.hex()
        case float() | UUID() | date() | time() | timedelta() | Decimal() | Fraction():
            text = str(value)
        case _:
            raise ValueError(
                "a key is one value, as a text or a number, and not of type "
                f"{type(value).__name__!r}"
            )
    return shortened(text)


def shortened(text: str) -> str:
    """Return a key's text as it is kept: printable, of a long one the beginning and a digest."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    if len(text) > MAX_KEY_LENGTH:
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        text = f"{text[:100]}…{digest}"
    return text


@dataclass(frozen=True, slots=True)
class Flow:
    """What a task says of its jobs: `limit` of them run at a time, for each key if there is one,
    and they begin at `rate`, for each key of its own. None: no limit.

    Raises:
        ValueError: a value is none, or a key has nothing to be a key for.
    """

    limit: int | None = None
    key: Key | None = None
    rate: Rate | None = None
    rate_key: Key | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        for key, what, name in (
            (self.key, self.limit, "key without limit"),
            (self.rate_key, self.rate, "rate_key without rate"),
        ):
            if key is not None and what is None:
                raise ValueError(f"{name}: a key says for what a limit holds, each apart")

    def __bool__(self) -> bool:
        return self.limit is not None or self.rate is not None

    @property
    def has_key(self) -> bool:
        """Whether its jobs are told apart."""
        return self.key is not None or self.rate_key is not None

    @property
    def needs_code(self) -> bool:
        """Whether a key can only be computed by who has the task's code."""
        return any(key is not None and key.is_code for key in (self.key, self.rate_key))

    def as_data(self) -> dict[str, Any]:
        """Return what is said as a plain map, which `from_data` takes."""
        data = {
            "limit": self.limit,
            "key": self.key and self.key.as_data(),
            "rate": self.rate and self.rate.as_data(),
            "rate_key": self.rate_key and self.rate_key.as_data(),
        }
        return {name: value for name, value in data.items() if value is not None}

    @classmethod
    def from_data(cls, data: Any) -> Flow:
        """Read what came as data.

        Raises:
            ValueError: it is none; the sentence names what is wrong.
        """
        said = checked_map(data, "a flow", ("limit", "key", "rate", "rate_key"))
        return cls(
            said.get("limit"),
            None if said.get("key") is None else Key.from_data(said["key"]),
            None if said.get("rate") is None else Rate.from_data(said["rate"]),
            None if said.get("rate_key") is None else Key.from_data(said["rate_key"]),
        )


def check_limit(limit: object) -> None:
    """Raise if *limit* is no number of jobs.

    Raises:
        ValueError: it is none.
    """
    if limit is not None and (type(limit) is not int or not 1 <= limit <= MAX_LIMIT):
        hint = ": to let none run, pause the queue" if limit == 0 else ""
        raise ValueError(f"a limit is a whole number of 1 to {MAX_LIMIT:,}, not {limit!r}{hint}")


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What an operator says of a queue: nothing is taken from it while it is paused; `limit` of its
    jobs run at a time, and they begin at `rate`. None: no limit.

    Raises:
        ValueError: a value is none.
    """

    is_paused: bool = False
    limit: int | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def __bool__(self) -> bool:
        return self != QueueSettings()

    def as_data(self) -> dict[str, Any]:
        """Return the settings as a plain map, which `from_data` takes."""
        return {
            "paused": self.is_paused,
            "limit": self.limit,
            "rate": self.rate and self.rate.as_data(),
        }

    def as_shown(self) -> dict[str, Any]:
        """Return the settings as people read them."""
        return {
            "paused": self.is_paused,
            "limit": self.limit,
            "rate": None if self.rate is None else str(self.rate),
        }

    @classmethod
    def from_data(cls, data: Any) -> QueueSettings:
        """Read settings that came as data.

        Raises:
            ValueError: they are none.
        """
        said = checked_map(data, "a queue's settings", ("paused", "limit", "rate"))
        rate = said.get("rate")
        return cls(
            bool(said.get("paused")),
            said.get("limit"),
            None if rate is None else Rate.from_data(rate),
        )
