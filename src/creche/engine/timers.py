"""One heap and one Trio task for everything that happens at a moment."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio


class Timer:
    """Something to call at a moment; `cancel` makes it not happen."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Forget it. Its entry leaves the heap when its moment comes."""
        self.action = None


class Timers:
    """Calls synchronous functions at moments of Trio's clock, each once, in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._sleeping: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def call_at(self, deadline: float, action: Callable[[], None]) -> Timer:
        """Call *action* when `trio.current_time()` is *deadline* or later. It must not raise."""
        timer = Timer(action)
        heapq.heappush(self._heap, (deadline, next(self._numbers), timer))
        if self._sleeping is not None and self._heap[0][2] is timer:
            self._sleeping.deadline = deadline
        return timer

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call *action* in *delay_s* seconds."""
        return self.call_at(trio.current_time() + delay_s, action)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call what is due, until cancelled."""
        task_status.started()
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                action, timer.action = timer.action, None
                if action is not None:
                    action()
            with trio.CancelScope() as self._sleeping:
                # Pushing an earlier moment moves this deadline.
                self._sleeping.deadline = self._heap[0][0] if self._heap else math.inf
                await trio.sleep_forever()
            self._sleeping = None
