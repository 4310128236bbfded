"""Shares of the lanes: anybody can make up tasks and queues, each of which takes a lane, and what
one token may make up is bounded so that there are lanes for others.

A lane is **made up** as long as no worker has announced its task, or none listens on its queue.
Lanes count whoever they were made for: so they count after a restart as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from creche.wire.access import Access

if TYPE_CHECKING:
    from creche.engine.core import Core
    from creche.engine.lane import Lane

OF_ALL_QUEUES = 2
"""Of all lanes, those that are made up are at most one in so many, for a token for all queues."""

OF_SOME_QUEUES = 4
"""For a token for some queues, the same of those of its queues."""

OF_WHAT_IS_KNOWN = 2
"""For that one, all lanes of its queues are at most one in so many."""

COUNT_S = 1.0
"""How often lanes are counted for tokens of the same queues that have used up theirs: it takes a
look at every lane."""

MAX_COUNTS = 1000
"""Tokens that are for other queues each, of which it is known how many lanes are left for them."""


class _Count(NamedTuple):
    left: int
    counted_at: float


class LaneShares:
    """Says who may have one more lane; nothing is asked for lanes that are there.

    *retire* lets go of lanes that nobody uses.
    """

    def __init__(self, core: Core, retire: Callable[[], None]) -> None:
        self._core = core
        self._retire = retire
        self._counts: dict[tuple[tuple[str, ...] | None, bool], _Count] = {}
        """By the queues that tokens are for, and whether it is about lanes that are made up
        only."""

    def why_not(self, access: Access, task: str, queue: str) -> str | None:
        """Return why a peer may not have one more lane, for jobs of *task* in *queue*; None if it
        may, which is taken for one that it has from now on."""
        if access.token is None or access.is_full:
            return None
        parts: dict[bool, int] = {}
        if access.queues is not None:
            parts[False] = OF_WHAT_IS_KNOWN
        if self._is_made_up(task, queue):
            parts[True] = OF_ALL_QUEUES if access.queues is None else OF_SOME_QUEUES
        lanes = self._core.settings.lanes
        if len(self._counts) >= MAX_COUNTS:
            self._counts.clear()
        for made_up_only, part in parts.items():
            if self._left(access, made_up_only, lanes // part) <= 0:
                return _why(lanes, lanes // part, access, made_up_only)
        for made_up_only in parts:
            key = (access.queues, made_up_only)
            count = self._counts[key]
            self._counts[key] = count._replace(left=count.left - 1)
        return None

    def _left(self, access: Access, made_up_only: bool, most: int) -> int:
        """Return how many more lanes there may be, of *most*; counted when there seem to be none,
        but not again and again."""
        key = (access.queues, made_up_only)
        now = trio.current_time()
        count = self._counts.get(key)
        if count is None or (count.left <= 0 and now >= count.counted_at + COUNT_S):
            counted = self._counted(access, made_up_only)
            if len(counted) >= most and any(lane.is_idle for lane in counted):
                self._retire()
                counted = self._counted(access, made_up_only)
            count = self._counts[key] = _Count(most - len(counted), now)
        return count.left

    def _is_made_up(self, task: str, queue: str) -> bool:
        core = self._core
        return task not in core.catalog or not core.sessions.listening(queue)

    def _counted(self, access: Access, made_up_only: bool) -> list[Lane]:
        """Return the lanes that count for whom."""
        core = self._core
        heard = {queue for worker in core.sessions.workers() for queue in worker.queues}
        its = {queue: access.may_use(queue) for queue in core.lanes.queues}

        def is_known(lane: Lane) -> bool:
            return lane.queue in heard and (not lane.park or lane.task in core.catalog)

        return [
            lane
            for lane in core.lanes.by_number.values()
            if its[lane.queue] and not (made_up_only and is_known(lane))
        ]


def _why(lanes: int, most: int, access: Access, made_up_only: bool) -> str:
    whose = "all queues" if access.queues is None else "these queues"
    for_what = ""
    if made_up_only:
        for_what = " for tasks that no worker has announced and queues that none listens on"
    return (
        f"of {lanes:,} lanes, a token for {whose} may use {most:,}{for_what}, and they are in use: "
        "name fewer"
    )
