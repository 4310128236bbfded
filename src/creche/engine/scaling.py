"""How many local workers there are: more while jobs wait for a slot, fewer when few would do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from creche.engine.children import Child, supervise
from creche.events import Scaled
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

LOOK_S = 1.0
"""How often it is looked how much there is to do."""

GROW_S = 2.0
"""For how long jobs have to wait while no slot is free, until another worker is started."""

SHRINK_S = 30.0
"""For how long one worker less would have been enough, until one leaves."""

SPARE = 2
"""One worker less is enough if what runs fits into one part in so many of the slots that are
left."""


class Load(NamedTuple):
    """How much there is to do for the workers that there are."""

    workers: int
    """As many as are wanted now."""
    is_settled: bool
    """Whether they are all there."""
    waiting: int
    """Jobs that they could run if they had slots."""
    running: int
    slots: int


class Scale:
    """Decides how many workers are wanted, from *least* to *most*. Moments are of any one clock."""

    def __init__(self, least: int, most: int) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"from {least} to {most} workers is no range")
        self.least = least
        self.most = most
        self._busy_since: float | None = None
        self._idle_since: float | None = None

    def decide(self, load: Load, now: float) -> int:
        """Return how many workers are wanted now."""
        workers = load.workers
        if not load.is_settled:
            # Those that are about to come, or to go, change the picture.
            self._busy_since = self._idle_since = None
            return workers
        is_busy = load.waiting > 0 and load.running >= load.slots
        left = load.slots * (workers - 1) // workers if workers else 0
        is_idle = not load.waiting and load.running * SPARE <= left
        self._busy_since = _since(self._busy_since, is_busy, now)
        self._idle_since = _since(self._idle_since, is_idle, now)
        if self._busy_since is not None and now >= self._busy_since + GROW_S:
            self._busy_since = None
            return min(self.most, workers + max(1, workers // 2))
        if self._idle_since is not None and now >= self._idle_since + SHRINK_S:
            self._idle_since = None
            return max(self.least, workers - 1)
        return workers


def _since(since: float | None, is_so: bool, now: float) -> float | None:
    if not is_so:
        return None
    return now if since is None else since


class Pool:
    """Local workers, as many as `Scale` wants.

    Args:
        children: what to run, in order; the first ones stay.
        scale: decides how many of them.
    """

    def __init__(self, children: list[Child], scale: Scale) -> None:
        self._children = children
        self._scale = scale
        self._wanted = 0
        self._running: set[int] = set()
        self._resting: set[int] = set()
        """Those that were told to take nothing new."""

    async def run(self, core: Callable[[], Core]) -> None:
        """Keep the workers running until cancelled; *core* returns the newest one."""
        async with trio.open_nursery() as nursery:
            self._resize(self._scale.least, nursery)
            while self._scale.least < self._scale.most:
                await trio.sleep(LOOK_S)
                wanted = self._scale.decide(self._load(core()), trio.current_time())
                if wanted != self._wanted:
                    core().events.emit(Scaled(self._wanted, wanted))
                    self._resize(wanted, nursery)
                self._dismiss(core())

    def _resize(self, wanted: int, nursery: trio.Nursery) -> None:
        self._wanted = wanted
        for number in set(range(wanted)) - self._running:
            self._running.add(number)
            nursery.start_soon(self._keep, number)

    async def _keep(self, number: int) -> None:
        try:
            await supervise(self._children[number], lambda: number < self._wanted)
        finally:
            self._running.discard(number)
            self._resting.discard(number)

    def _dismiss(self, core: Core) -> None:
        """Have those that are too many take nothing new, and leave when their jobs are done,
        however long these take; and have one that is wanted again go on. Said again, it changes
        nothing."""
        for number in self._running:
            session = core.sessions.worker(self._children[number].name)
            if session is None:
                continue
            if number < self._wanted:
                if number in self._resting:
                    session.order(m.Resize(None))
                    self._resting.discard(number)
            elif session.leased:
                session.order(m.Resize(0))
                self._resting.add(number)
            else:
                session.order(m.Drain("fewer workers are needed"))

    def _load(self, core: Core) -> Load:
        """Return what there is to do for those that are wanted; the others only finish."""
        wanted = self._children[: self._wanted]
        found = [core.sessions.worker(child.name) for child in wanted]
        there = [session for session in found if session is not None and session.is_connected]
        slots = sum(session.slots + session.lent for session in there)
        leased = sum(len(session.leased) for session in there)
        waiting = core.lanes.ready_for(there[0], is_now=True) if there else 0
        return Load(
            workers=self._wanted,
            is_settled=len(there) == self._wanted,
            waiting=waiting + max(0, leased - slots),
            running=min(leased, slots),
            slots=slots,
        )
