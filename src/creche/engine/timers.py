"""One heap and one Trio task for everything that happens at a moment, of Trio's clock or of UTC."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio

LOOK_S = 30.0
"""The longest sleep until a moment of UTC: the clock may be set, or the machine sleep."""


class Timer:
    """Something to call at a moment; `cancel` makes it not happen."""

    __slots__ = ("_on_cancel", "action")

    def __init__(self, action: Callable[[], None], on_cancel: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        """Forget it. Its entry leaves the heap when its moment comes, or is swept out with
        others."""
        if self.action is not None:
            self.action = None
            self._on_cancel()


class Timers:
    """Calls synchronous functions at moments of Trio's clock, each once, in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0
        """Entries in the heap that nothing will come of."""
        self._sleeping: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def call_at(self, deadline: float, action: Callable[[], None]) -> Timer:
        """Call *action* when `trio.current_time()` is *deadline* or later. It must not raise."""
        timer = Timer(action, self._note_cancelled)
        heapq.heappush(self._heap, (deadline, next(self._numbers), timer))
        if self._sleeping is not None and self._heap[0][2] is timer:
            self._sleeping.deadline = deadline
        return timer

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call *action* in *delay_s* seconds."""
        return self.call_at(trio.current_time() + delay_s, action)

    def _note_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled * 2 > len(self._heap) + 64:
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call what is due, until cancelled."""
        task_status.started()
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                action, timer.action = timer.action, None
                if action is None:
                    self._cancelled -= 1
                else:
                    action()
            with trio.CancelScope() as self._sleeping:
                # Pushing an earlier moment moves this deadline.
                self._sleeping.deadline = self._heap[0][0] if self._heap else math.inf
                await trio.sleep_forever()
            self._sleeping = None


class Alarm:
    """Calls *action* when a moment of *clock* (UTC seconds) has come, or sooner: who is called
    looks at the clock, and sets the alarm again. One moment at a time, the earliest."""

    def __init__(
        self, timers: Timers, clock: Callable[[], float], action: Callable[[], None]
    ) -> None:
        self._timers = timers
        self._clock = clock
        self._action = action
        self._moment = math.inf
        self._timer: Timer | None = None

    def set(self, moment: float) -> None:
        """Call at *moment*, unless it is set for one before that."""
        if moment >= self._moment:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._moment = moment
        sleep_s = min(max(moment - self._clock(), 0.0), LOOK_S)
        self._timer = self._timers.call_later(sleep_s, self._ring)

    def _ring(self) -> None:
        self._timer, self._moment = None, math.inf
        self._action()
