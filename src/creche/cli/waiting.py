"""What a job that waits is held up by, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from creche.cli.output import moment_text, say

_REMEDIES = {
    "paused": "`creche queues resume {queue}` has it taken from again",
    "unheard-queue": "`creche worker --queues {queue}` listens on it",
    "unknown-task": "`creche list` names the tasks that workers have announced",
    "no-worker": "`creche worker --task-modules MODULE` starts one",
    "drained": "`creche workers ls` shows which, `creche workers resume` has it take jobs again",
}
"""By reason; of the others nothing can be said that holds for all."""


NOT_BEGUN = "has not begun"


def held_up_lines(job: Mapping[str, Any]) -> list[str]:
    """Return what *job* is held up by, a sentence each, as the plane said."""
    return [_line(each) for each in job.get("held_up_by") or ()]


def progress_text(job: Mapping[str, Any]) -> str:
    """Return whether a job that waits has begun before, and what became of that."""
    if not (job.get("attempts") or job.get("failures") or job.get("losses")):
        return NOT_BEGUN
    last = (job.get("attempts") or [{}])[-1].get("error") or {}
    said = f"{last.get('type', '')}: {last.get('message', '')}".strip(": ")
    first, *more = said.splitlines() or [""]
    why = f", as the last one came to {first}{' ...' if more else ''}" if first else ""
    return f"has begun, and waits for its next attempt{why}"


def _line(reason: Mapping[str, Any]) -> str:
    until_at = reason.get("until_at")
    return str(reason["text"]) + ("" if until_at is None else f" (until {moment_text(until_at)})")


def say_remedies(job: Mapping[str, Any]) -> None:
    """Say on stderr what a person can do about what holds *job* up."""
    for remedy in remedies(job):
        say("hint", remedy)


def remedies(job: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person can do about it."""
    for each in job.get("held_up_by") or ():
        remedy = _REMEDIES.get(each["reason"])
        if remedy is not None:
            yield remedy.format(queue=job["queue"])
