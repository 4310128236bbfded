"""What a rule says when a promise was not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from creche.testing.history.events import Event, to_line
from creche.testing.history.view import History


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept: of which job (empty: of none in particular), why, and the events
    that prove it. Each rule has a type of its own."""

    job: str
    why: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        who = f"job {self.job}: " if self.job else ""
        proof = "".join(f"\n    {to_line(event)}" for event in self.events)
        return f"{type(self).__name__}: {who}{self.why}{proof}"


Rule: TypeAlias = Callable[[History], Iterator[Violation]]
