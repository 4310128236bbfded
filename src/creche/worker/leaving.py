"""How a worker leaves: what is waited for, for how long at the most, and what cuts it short."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from creche.peer.link import Link
from creche.worker.settings import WorkerSettings

_HURRIED_S = 1.0
"""How long a worker that was told to hurry waits for the plane: on a line that works that is a
hundred times what it takes, and nobody who has pressed Ctrl-C twice waits for long."""

_LAST_WORDS_S = 1.0
"""How long what a dead plane has sent may still be on its way in. Its sockets are closed with it,
so that it ends at once."""


class Leaving:
    """The waits of one worker that leaves. `tell` has them look again, `hurry` ends one."""

    def __init__(self, link: Link, settings: WorkerSettings) -> None:
        self.why = ""
        """What the plane is told in the goodbye."""
        self.is_begun = False
        self.is_hurried = False
        self.resume_s = 0.0
        """For how long to look for a plane that is gone, so that it can be told what has been run;
        0 when the plane is not gone, or not to be looked for."""
        self.begun = trio.Event()
        self._link = link
        self._settings = settings
        self._news = trio.Event()
        self._patience: trio.CancelScope | None = None

    def begin(self, why: str) -> None:
        """From now on the worker leaves."""
        self.why = why
        self.is_begun = True
        self.begun.set()

    def hurry(self) -> None:
        """End the wait that goes on now, and do not wait for bodies any more."""
        self.is_hurried = True
        if self._patience is not None:
            self._patience.cancel()

    def tell(self) -> None:
        """What somebody may wait for has changed."""
        if self.is_begun:
            self._news.set()
            self._news = trio.Event()

    async def wait_for_bodies(self, have_left: Callable[[], object]) -> None:
        """Wait until all that is held has ended, for as long as it may take."""
        drain_s = self._settings.drain_s
        if self.resume_s:
            with self._waiting(_LAST_WORDS_S):
                await self._link.wait_disconnected()
            # These have no other bound than their leases, which are lost when a plane is away for
            # its grace. One that is back in time has them run to their end.
            drain_s = math.inf
        if not self.is_hurried:
            await self.until(have_left, drain_s)

    async def wait_for_settlement(self, is_settled: Callable[[], object]) -> None:
        """Wait until the plane has taken the last reports. One that is gone may come back for
        them."""
        link = self._link
        if self.resume_s and not link.is_connected:
            gone_at = link.disconnected_at
            if gone_at is not None and not self.is_hurried:
                left_s = gone_at + self.resume_s - trio.current_time()
                await self.until(lambda: is_settled() or link.is_connected, left_s)
            if not link.is_connected:
                return
        bound_s = self._settings.settle_s
        await self.until(is_settled, min(bound_s, _HURRIED_S) if self.is_hurried else bound_s)

    async def until(self, is_done: Callable[[], object], bound_s: float) -> None:
        """Wait until *is_done*, for *bound_s* seconds at the most, or until hurried."""
        with self._waiting(bound_s):
            while not is_done():
                await self._news.wait()

    @contextmanager
    def _waiting(self, bound_s: float) -> Iterator[None]:
        with trio.move_on_after(max(0.0, bound_s)) as self._patience:
            yield
        self._patience = None
