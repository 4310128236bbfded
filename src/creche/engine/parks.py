"""What a lane is known by: its level, and what the jobs that are parked beside it wait for."""

from __future__ import annotations

DEFAULT_QUEUE = "default"

PARKED_BY_TASK = "task:"
"""Why jobs are parked: not every worker of the queue, or none at all, knows their task."""

PARKED_BY_LIMIT = "limit:"
"""Why jobs are parked: as many run as their task says, or as have begun in a time."""

_BETWEEN = "\x1f"
"""Stands between a task and its keys in what names a lane: no key has it, as none is printed with
it."""

LaneKey = tuple[str | None, int | None, str]
"""(queue, priority, park): queue and priority are None where the submission left them open and the
task was never announced; park is "", ``task:NAME``, or what `park_by_limit` makes."""


def park_by_limit(task: str, keys: tuple[str, str]) -> str:
    """Return the `park` of the lane where jobs of *task* with these keys wait for its limits."""
    return _BETWEEN.join((PARKED_BY_LIMIT + task, *keys))


def is_park(park: str) -> bool:
    """Whether *park* is one at all."""
    return not park or park.startswith(PARKED_BY_TASK) or is_park_by_limit(park)


def is_park_by_limit(park: str) -> bool:
    """Whether *park* is what `park_by_limit` makes."""
    return park.startswith(PARKED_BY_LIMIT) and park.count(_BETWEEN) >= 2


def parts_of_park(park: str) -> tuple[str, tuple[str, str]]:
    """Return the task and the keys that a `park` tells of."""
    if is_park_by_limit(park):
        task, key, rate_key = park.removeprefix(PARKED_BY_LIMIT).rsplit(_BETWEEN, 2)
        return task, (key, rate_key)
    return park.removeprefix(PARKED_BY_TASK), ("", "")


def park_text(park: str) -> str:
    """Return a `park` as people read it."""
    if not is_park_by_limit(park):
        return park
    task, keys = parts_of_park(park)
    said = " / ".join(key for key in keys if key)
    return f"{PARKED_BY_LIMIT}{task}" + (f" ({said})" if said else "")
