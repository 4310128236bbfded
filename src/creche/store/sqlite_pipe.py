"""What a plane and its store's process say to each other: calls, and how an answer begins.

Rows travel as columns (the plane turns a batch over with `zip`, which costs less than converting
its rows)."""

from __future__ import annotations

from creche.pipe import BlockingEnd

# How an answer begins; what follows is the value, or what the error is made of.
OK = 0
FULL = 1
ERROR = 2
UNUSABLE = 3
LOCKED = 4
OVER_LIMIT = 5


class AnsweringEnd(BlockingEnd):
    """The end of the store's process."""

    def send(self, value: object) -> None:
        """Send an answer, or that it cannot be sent."""
        try:
            super().send(value)
        except ValueError as error:
            super().send((ERROR, f"the answer cannot be sent: {error}"))
