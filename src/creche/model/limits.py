"""How long a job may take: waiting, running, and altogether.

Limits are said with a task and with a submission; what the submission says counts. They travel as a
plain map, of which each key may be left out::

    {"timeout_s": 30.0, "soft_timeout_s": 25.0, "expires_s": 600.0, "deadline_at": 1800000000.0}
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from creche.model.maps import check_seconds, checked_map, is_number

MAX_MOMENT = 253_402_300_800.0
"""The end of the year 9999, UTC seconds: what other languages, and people, can write down."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The limits of one job. Durations in seconds, moments in UTC seconds; None: no limit.

    Raises:
        ValueError: a value is none, or two contradict each other; the sentence names the key.
    """

    timeout_s: float | None = None
    """How long one attempt may run: it is stopped then, and has failed."""
    soft_timeout_s: float | None = None
    """How long it should run: it is told then."""
    expires_s: float | None = None
    """How long after its submission the job must have begun."""
    deadline_at: float | None = None
    """When all of it must be over."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "soft_timeout_s", "expires_s"):
            check_seconds(name.removesuffix("_s"), getattr(self, name))
        at = self.deadline_at
        if at is not None and not (is_number(at) and 0 <= at <= MAX_MOMENT):
            raise ValueError(f"deadline is a moment in UTC seconds, not {at!r}")

    def as_data(self) -> dict[str, float]:
        """Return the limits as a plain map, which `from_data` takes."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in data.items() if value is not None}

    @classmethod
    def from_data(cls, data: Any) -> TimeLimits:
        """Read limits that came as data.

        Raises:
            ValueError: they are none; the sentence names what is wrong.
        """
        return cls(**checked_map(data, "a set of time limits", [each.name for each in fields(cls)]))

    def expires_at(self, submitted_at: float) -> float | None:
        """Return by when a job that was submitted then must have begun."""
        ends = [self.deadline_at]
        if self.expires_s is not None:
            ends.append(submitted_at + self.expires_s)
        return min((end for end in ends if end is not None), default=None)
