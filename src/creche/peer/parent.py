"""The attempt in whose body this code runs, if it does.

A worker sets it around each body. Whoever submits from inside sends the attempt's token along, and
whoever waits for a job from inside lends the attempt's slot meanwhile, so that a worker with one
slot can run a job that waits for its own jobs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

Token = tuple[int, int, int]
"""(seq, epoch, attempt): what fences an attempt."""


class Parent(Protocol):
    """A running attempt, as code in its body sees it."""

    @property
    def token(self) -> Token:
        """The attempt's fencing token."""
        ...

    @property
    def plane(self) -> str:
        """The id of the plane that gave the lease; a client of another plane is no relative."""
        ...

    def waiting(self) -> AbstractContextManager[None]:
        """Lend the slot while the block waits. Safe from any thread, and may be nested."""
        ...


current_parent: ContextVar[Parent | None] = ContextVar("creche_parent", default=None)
"""The attempt around this code; None outside of a job."""
