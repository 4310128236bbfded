"""Bodies that were told to leave and have not: told of once, in the log."""

from __future__ import annotations

import logging
from collections import deque

import trio

from creche.model.ids import id_to_text
from creche.worker.attempt import Attempt

logger = logging.getLogger("creche.worker")


class DeafWatch:
    """Looks after bodies whose job was cancelled. One timer for all of them.

    Args:
        cleanup_s: how long a body may take to leave.
    """

    def __init__(self, cleanup_s: float) -> None:
        self._cleanup_s = cleanup_s
        self._told: deque[tuple[float, Attempt]] = deque()
        self._news = trio.Event()

    def note(self, attempt: Attempt) -> None:
        """The body of *attempt* was told to leave now."""
        # One in a process is killed if it does not, and its job's record says so.
        if attempt.executor != "process":
            self._told.append((trio.current_time() + self._cleanup_s, attempt))
            self._news.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if not self._told:
                self._news = trio.Event()
                await self._news.wait()
            await trio.sleep_until(self._told[0][0])
            now = trio.current_time()
            while self._told and self._told[0][0] <= now:
                _, attempt = self._told.popleft()
                if attempt.stage.is_in:
                    logger.warning(
                        "%s (job %s) was cancelled%s, and its body has not left %g s later: it has"
                        " its slot until it does",
                        *(attempt.task.name, id_to_text(attempt.id)),
                        f" ({attempt.stop_why})" if attempt.stop_why else "",
                        self._cleanup_s,
                    )
