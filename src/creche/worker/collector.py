"""What bodies leave behind, in threads and on the loop, and when the loop looks at it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import trio

from creche.worker.attempt import Attempt

_BATCH_S = 0.002
"""While there are many results, they are collected this often instead of one by one: waking the
loop and sending a frame cost as much as several small jobs, and two milliseconds are not noticed by
anyone who has many."""

_MANY = 4
_STREAM_S = 0.0002
"""So many results at a time are many, and so are results that follow each other this closely. A job
that is submitted when the one before has ended takes longer, and is reported at once."""


class Collector:
    """Attempts whose bodies have left, until *collect* is given them, on the loop.

    Args:
        collect: called with what has come together; with nothing, when slots have changed hands.
        has_more: whether attempts wait for a slot. Then nobody submits one job after the other, and
            what has left may wait for what is about to.
    """

    def __init__(
        self, collect: Callable[[Sequence[Attempt]], None], has_more: Callable[[], bool]
    ) -> None:
        self._collect = collect
        self._has_more = has_more
        self._left: deque[Attempt] = deque()
        self._is_nudged = False
        self._nudged = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def add(self, attempt: Attempt) -> None:
        """A body has left. Called on the loop; it is collected with what threads have done, so that
        many reports share a frame."""
        self._left.append(attempt)
        if not self._is_nudged:
            self._is_nudged = True
            self._nudged.set()

    def add_from_thread(self, attempt: Attempt) -> None:
        """A body has left. Called in any thread."""
        self._left.append(attempt)
        self.nudge()

    def nudge(self) -> None:
        """Have the loop look. Called in any thread.

        The flag is cleared before what has come is looked through: whoever finds it set can be sure
        that somebody will look after this moment.
        """
        if not self._is_nudged and self._token is not None:
            self._is_nudged = True
            try:
                self._token.run_sync_soon(self._on_nudge)
            except trio.RunFinishedError:
                return  # a thread that was left to itself; nobody is there to be told

    def _on_nudge(self) -> None:
        self._nudged.set()

    async def run(self) -> None:
        """Collect until cancelled: at once when it is little, in batches when it is much."""
        self._token = trio.lowlevel.current_trio_token()
        self._nudged.set()  # for what has come before there was a token
        last_at = -math.inf
        while True:
            await self._nudged.wait()
            self._nudged = trio.Event()
            is_stream = True
            while is_stream:
                now = trio.current_time()
                number = self.collect_now()
                is_stream = number >= _MANY or (
                    number > 0 and (now - last_at < _STREAM_S or self._has_more())
                )
                last_at = now
                if is_stream:
                    self._is_nudged = True
                    await trio.sleep(_BATCH_S)

    def collect_now(self) -> int:
        """Collect what has come together so far; return how much it was. Called on the loop."""
        self._is_nudged = False
        left = self._left
        attempts = [left.popleft() for _ in range(len(left))]
        self._collect(attempts)
        return len(attempts)
