"""Histories for tests, told in a few words a line. All is of one recorder unless a test says
otherwise, so that events of one moment come in the order in which they are told."""

from __future__ import annotations

from typing import Any

from creche.testing.history import (
    Accepted,
    Cancel,
    CancelAnswered,
    Ended,
    Event,
    Gone,
    Joined,
    Lost,
    Quiescent,
    Refused,
    Saw,
    Started,
    Submit,
    Terms,
    Uncertain,
)

SOON_S = 0.1
"""After which an answer comes."""


class Story:
    """Collects events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, at: float, kind: type[Event], **said: Any) -> Story:
        process = said.pop("process", "test")
        self.events.append(kind(at=at, process=process, n=len(self.events), **said))
        return self

    # --- clients --------------------------------------------------------------------------------

    def submits(self, at: float, job: str, **terms: Any) -> Story:
        """Submit a job in a call that is called as it is."""
        return self.tell(at, Submit, call=job, job=job, terms=Terms(**terms))

    def accepts(self, at: float, job: str, *, call: str | None = None) -> Story:
        return self.tell(at, Accepted, call=call or job, job=job, is_existing=call is not None)

    def refuses(self, at: float, job: str) -> Story:
        return self.tell(at, Refused, call=job, why="full")

    def is_uncertain(self, at: float, job: str) -> Story:
        return self.tell(at, Uncertain, call=job)

    def takes(self, at: float, job: str, **terms: Any) -> Story:
        """Submit a job that is accepted."""
        return self.submits(at, job, **terms).accepts(at + SOON_S, job)

    def cancels(self, at: float, job: str, state: str) -> Story:
        self.tell(at, Cancel, job=job)
        return self.tell(at + SOON_S, CancelAnswered, job=job, state=state)

    def sees(
        self, at: float, job: str, state: str, value: Any = None, *, asked_at: float | None = None
    ) -> Story:
        return self.tell(at, Saw, job=job, state=state, value=value, asked_at=asked_at)

    # --- bodies ---------------------------------------------------------------------------------

    def starts(self, at: float, job: str, attempt: str = "1", **said: Any) -> Story:
        said = {"process": "worker", **said}
        return self.tell(at, Started, job=job, attempt=attempt, **said)

    def ends(
        self, at: float, job: str, attempt: str = "1", outcome: str = "succeeded", **said: Any
    ) -> Story:
        said = {"process": "worker", **said}
        return self.tell(at, Ended, job=job, attempt=attempt, outcome=outcome, **said)

    def runs(self, since: float, until: float, job: str, attempt: str = "1", **said: Any) -> Story:
        """Have an attempt begin and end; it succeeds if nothing else is said."""
        end = {
            name: said.pop(name)
            for name in ("outcome", "value", "delay_s", "is_last")
            if name in said
        }
        return self.starts(since, job, attempt, **said).ends(until, job, attempt, **end)

    def loses(self, at: float, job: str, attempt: str = "1") -> Story:
        return self.tell(at, Lost, job=job, attempt=attempt, process="plane")

    def joins(self, at: float, who: str) -> Story:
        return self.tell(at, Joined, who=who, role="worker")

    # --- the whole ------------------------------------------------------------------------------

    def kills(self, at: float, who: str, role: str = "worker") -> Story:
        return self.tell(at, Gone, who=who, role=role)

    def is_over(self, at: float) -> Story:
        return self.tell(at, Quiescent)
