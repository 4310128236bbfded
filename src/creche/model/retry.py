"""When a failed job is tried again: the policy as data, and the decision as a pure function.

A policy is a plain map, so that it travels with a submission or a task's announcement, is kept with
the job, and can be shown::

    {"retries": 5, "backoff": 0.5, "backoff_max": 600.0, "jitter": 0.1, "give_up_after": 3600.0}

The delay before the next try doubles: ``backoff``, ``2 * backoff``, ``4 * backoff``, ... up to
``backoff_max``. A random part of it, up to ``jitter`` of the whole, is taken off, so that jobs that
failed together do not come back together and ``backoff_max`` stays the longest delay there is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from creche.errors import MAX_COUNTDOWN_S
from creche.model.maps import checked_map, is_number

FOREVER = "forever"
"""What ``retries`` is when it has no end: said in so many letters, so that nobody says it by
mistake."""

MAX_RETRIES = 1_000_000
"""Retries with an end; who wants more says that it has none."""

MAX_DELAY_S = float(MAX_COUNTDOWN_S)
"""The longest delay there is, of a job or of another try at it: a year."""

_DOUBLINGS = 64
"""Beyond so many the delay is at its maximum, whatever it began with."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failed job is tried again, and when. Durations in seconds.

    Raises:
        ValueError: a value is none; the sentence names the option.
    """

    retries: int | None = 0
    """Tries after the first; None: without end."""
    backoff: float = 1.0
    """The delay before the second try. It doubles with each further one."""
    backoff_max: float = 600.0
    """The longest delay."""
    jitter: float = 0.1
    """Which share of a delay is random, from 0 to 1."""
    give_up_after: float | None = None
    """No further try is due so long after the job was submitted; None: as long as there are
    retries."""

    def __post_init__(self) -> None:
        if self.retries is not None and not _is_whole(self.retries, 0, MAX_RETRIES):
            raise ValueError(
                f"retries is a whole number from 0 to {MAX_RETRIES:,}, or {FOREVER!r} for a job "
                f"that is tried until it succeeds, not {self.retries!r}"
            )
        _check_seconds("backoff", self.backoff, least=0.0)
        _check_seconds("backoff_max", self.backoff_max, least=0.0)
        if not is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a share from 0 to 1, not {self.jitter!r}")
        if self.give_up_after is not None:
            _check_seconds("give_up_after", self.give_up_after, least=0.0, is_open=True)

    def as_data(self) -> dict[str, Any]:
        """Return the policy as a plain map, which `from_data` takes."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data["retries"] = FOREVER if self.retries is None else self.retries
        return data

    @classmethod
    def from_data(cls, data: Any) -> RetryPolicy:
        """Read a policy that came as data; what is left out is by default.

        Raises:
            ValueError: it is none; the sentence names what is wrong.
        """
        values = dict(checked_map(data, "a retry policy", [each.name for each in fields(cls)]))
        if values.get("retries", 0) == FOREVER:
            values["retries"] = None
        elif values.get("retries", 0) is None:
            raise ValueError(f"retries without an end are said so: {FOREVER!r}")
        return cls(**values)

    def delay_s(self, failures: int, draw: float) -> float:
        """Return how long to wait after the *failures*-th failure (from 1). *draw* is a random
        number in [0, 1)."""
        doublings = min(max(failures, 1) - 1, _DOUBLINGS)
        whole = min(self.backoff * 2.0**doublings, self.backoff_max)
        return whole * (1.0 - self.jitter * draw)


def next_try_at(
    policy: RetryPolicy,
    *,
    failures: int,
    submitted_at: float,
    now: float,
    draw: float,
    after_s: float | None = None,
    deadline_at: float | None = None,
) -> float | None:
    """Return the moment at which a job that has just failed is tried again, None if it is not.

    Args:
        failures: how often it has failed, this time included.
        submitted_at, now: moments, UTC seconds.
        draw: a random number in [0, 1).
        after_s: the delay that the job itself has asked for; None leaves it to the policy.
        deadline_at: the moment by which the job must be over.
    """
    if policy.retries is not None and failures > policy.retries:
        return None
    delay_s = policy.delay_s(failures, draw) if after_s is None else min(after_s, MAX_DELAY_S)
    at = now + delay_s
    ends = [deadline_at]
    if policy.give_up_after is not None:
        ends.append(submitted_at + policy.give_up_after)
    return None if any(end is not None and at >= end for end in ends) else at


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _check_seconds(name: str, value: object, *, least: float, is_open: bool = False) -> None:
    if not is_number(value) or not least <= value <= MAX_DELAY_S or (is_open and value == least):
        above = "above" if is_open else "from"
        raise ValueError(
            f"{name} is a number of seconds {above} {least:g} to {MAX_DELAY_S:,.0f} (a year), "
            f"not {value!r}"
        )


NEVER = RetryPolicy()
"""What holds where nobody says anything: a failed job has failed."""
