"""Patience: how long each waits to be accepted, kept by one timer for all.

A cancel scope for each of them would cost a fifth of what a submission costs its client.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio


class Waiting(Protocol):
    """Somebody who waits, and until when, on the event loop's clock."""

    until: float
    changed: anyio.Event


class Patience:
    """Wakes those whose time is up. Everybody is as patient as everybody else.

    Args:
        seconds: how long that is; None: for ever.
        waiting: returns all who wait now, those with no end of their own among them.
    """

    def __init__(self, seconds: float | None, waiting: Callable[[], Iterable[Waiting]]) -> None:
        self._seconds = seconds
        self._waiting = waiting
        self._idle: anyio.Event | None = None
        self.is_kept = False
        """Whether the timer runs. Who begins to wait when it does not bounds it alone."""

    def begin(self, who: Waiting) -> None:
        """*who* begins to wait now, and is woken when its time is up. No checkpoint."""
        if self._seconds is None:
            return
        who.until = anyio.current_time() + self._seconds
        if self._idle is not None:
            self._idle.set()

    async def run(self) -> None:
        """Keep the time until cancelled; then nobody's time would ever be up, and all are woken."""
        self.is_kept = True
        try:
            while True:
                soonest = self._wake(anyio.current_time())
                if soonest < math.inf:
                    await anyio.sleep_until(soonest)
                    continue
                self._idle = anyio.Event()
                await self._idle.wait()
                self._idle = None
        finally:
            self.is_kept = False
            self._wake(math.inf)

    def _wake(self, now: float) -> float:
        """Wake whose time is up at *now*; return when the next one's is."""
        soonest = math.inf
        for who in self._waiting():
            if who.until > now:
                soonest = min(soonest, who.until)
            elif who.until < math.inf:
                who.until = math.inf
                who.changed.set()
        return soonest
