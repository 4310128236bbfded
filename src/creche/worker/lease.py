"""The worker's side of its leases: how long it may still run what it was given.

The plane gives an attempt away when it has not heard from the worker for a lease, or when the
worker has been away for longer than the grace. The worker must have stopped by then, so it counts
from the last moment at which the plane surely heard it, on its own clock, and stops a margin
earlier.

One case is left. Where only the plane saw the connection end, the worker finds out by silence, up
to two keep-alives later, and counts its grace from then: for that long an attempt may run on beside
the one that took its place. Its result does not count, and the plane says Stop when they meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from creche.peer.link import Link
from creche.worker.floor import Floor

_RENEWAL_S = 1.0
"""How often a worker that is connected and out of its lease looks whether it was renewed. That
happens to a process that was stopped for a while (SIGSTOP, a suspended machine)."""


def margin_s(lease_s: float) -> float:
    """Return how long before a lease's end a worker stops, so that its bodies have left by then: a
    tenth of it, at least a second, and less than half."""
    return min(max(lease_s / 10, 1.0), lease_s * 0.49)


class LeaseWatch:
    """Watches one link, and tells when the right to run is lost and when it is back.

    Args:
        on_lost: called with the reason.
        on_held: called when attempts may begin (again).
    """

    def __init__(
        self,
        link: Link,
        floor: Floor,
        *,
        on_lost: Callable[[str], None],
        on_held: Callable[[], None],
    ) -> None:
        self._link = link
        self._floor = floor
        self._on_lost = on_lost
        self._on_held = on_held
        self._lease_s = 0.0
        self._grace_s = math.inf
        self._is_held = False
        self._news = trio.Event()

    def welcomed(self, lease_s: float, grace_s: float) -> None:
        """The plane has welcomed the worker, and these are its terms."""
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._hold()
        self._news.set()

    def ends_at(self) -> float:
        """Return the moment (Trio's clock) from which nothing may run any more."""
        end = self._link.renewed_at + self._lease_s - margin_s(self._lease_s)
        away_since = self._link.disconnected_at
        return end if away_since is None else min(end, away_since + self._grace_s)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            left_s = self.ends_at() - trio.current_time()
            if left_s > 0:
                self._hold()
                self._on_held()
                # Nobody tells when the connection ends. Looking once a grace is enough: no grace
                # that begins after this moment can have passed by then.
                pause_s = min(left_s, self._grace_s)
            else:
                if self._is_held:
                    self._lose()
                # Away, only a welcome changes anything; and that is told.
                pause_s = _RENEWAL_S if self._link.is_connected else math.inf
            self._news = trio.Event()
            with trio.move_on_after(pause_s):
                await self._news.wait()

    def _hold(self) -> None:
        self._is_held = True
        self._floor.lease_until(self.ends_at())

    def _lose(self) -> None:
        self._is_held = False
        self._floor.lease_until(-math.inf)
        away = not self._link.is_connected
        why = "the plane was away for too long" if away else "the plane has not heard it in time"
        self._on_lost(f"the worker lost its lease: {why}")
