"""Offers that have to wait for a slot: not for long, or somebody else had better run them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import trio

from creche.worker.attempt import Attempt, Stage
from creche.worker.floor import Floor


class LookAhead:
    """Takes what waits too long off the floor. One timer for all of it.

    Args:
        wait_s: how long an attempt may wait.
        on_late: called with those that have waited for so long, which are off the floor then.
    """

    def __init__(
        self, floor: Floor, wait_s: float, *, on_late: Callable[[list[Attempt]], None]
    ) -> None:
        self._floor = floor
        self._wait_s = wait_s
        self._on_late = on_late
        self._waiting: deque[tuple[float, list[Attempt]]] = deque()
        self._news = trio.Event()

    def note(self, offered: Iterable[Attempt]) -> None:
        """These were offered now; whichever of them have begun are none of our business."""
        waiting = [attempt for attempt in offered if attempt.stage is Stage.WAITING]
        if waiting:
            self._waiting.append((trio.current_time() + self._wait_s, waiting))
            self._news.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if not self._waiting:
                self._news = trio.Event()
                await self._news.wait()
            # Not for each frame of offers, but for what has come together in a part of the time.
            await trio.sleep_until(self._waiting[0][0] + self._wait_s / 5)
            now = trio.current_time()
            late: list[Attempt] = []
            while self._waiting and self._waiting[0][0] <= now:
                late += self._waiting.popleft()[1]
            self._on_late(self._floor.drop(late))
