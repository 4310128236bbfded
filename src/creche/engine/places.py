"""Places: the lane where a new job waits, by what its submission says and its task announces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import trio

from creche.engine.lane import Lane
from creche.engine.lane_shares import LaneShares
from creche.engine.parks import PARKED_BY_TASK, LaneKey
from creche.engine.refusals import lanes_refusal
from creche.model.priority import Priority
from creche.wire import messages as m
from creche.wire.access import EVERYTHING, Access

if TYPE_CHECKING:
    from creche.engine.core import Core

Refusal: TypeAlias = tuple[str, str]
"""A code for programs, and a sentence for people."""

MAX_REMEMBERED = 10_000
"""Lanes remembered by what a submission says: a peer can say anything."""
LOOK_FOR_LANES_S = 1.0
"""How often lanes that nobody uses are looked for when there are too many: it takes a look at every
job in memory."""


class Places:
    """Finds lanes for submissions, and makes room for new ones where there are too many."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._shares = LaneShares(core, self.retire)
        self._known: dict[tuple[str, str | None, int | None], Lane] = {}
        """Where submissions that say the same wait, until workers change."""
        self._looked_for_lanes_at = -math.inf
        """When lanes that nobody uses were looked for last (Trio's clock)."""

    def forget(self) -> None:
        """Workers came, went, or know other tasks now: jobs may have to wait elsewhere."""
        self._known.clear()

    def find(self, message: m.Submit, access: Access = EVERYTHING) -> Lane | Refusal:
        """Return the lane where a new job waits, or why there is none for who may do what *access*
        says; looked up once for all that say the same. What others of its kind wait for is looked
        at each time."""
        key = (message.task, message.queue, message.priority)
        lane = self._known.get(key)
        if lane is None:
            found = self._look(message, access)
            if isinstance(found, tuple):
                return found
            lane = found
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = lane
        if self._core.limits.any:
            return self._core.limits.lane_of(message, lane)
        return lane

    def _look(self, message: m.Submit, access: Access) -> Lane | Refusal:
        """Return the level's main lane if every worker that listens there can run the job, else the
        lane of those that wait for its task; or why that would be one lane too many."""
        core = self._core
        task = message.task
        said = core.catalog.defaults(task)
        queue, priority = message.queue, message.priority
        if task in core.catalog:
            queue = queue or core.catalog.queue_of(task)
            if priority is None:
                priority = Priority.NORMAL if said.priority is None else said.priority
        else:
            priority = None if priority is None else int(priority)
        place = core.catalog.place(task, (queue, priority, ""))
        park = "" if core.is_known_everywhere(task, place[0]) else PARKED_BY_TASK + task
        key: LaneKey = (queue, priority, park) if park else (*place, park)
        if not self.may_have(key, core.settings.lanes):
            return lanes_refusal(core.settings)
        if key not in core.lanes.by_key:
            why = self._shares.why_not(access, task, place[0])
            if why is not None:
                return "lanes", why
        return core.lanes.get(key, place)

    def may_have(self, key: LaneKey, most: int) -> bool:
        """Whether there is such a lane, or may be one more, of *most*."""
        core = self._core
        if key in core.lanes.by_key or len(core.lanes.by_number) < most:
            return True
        self.retire()
        return len(core.lanes.by_number) < most

    def retire(self) -> None:
        """Let go of lanes that nobody uses, if that was not just done."""
        core, now = self._core, trio.current_time()
        if now >= self._looked_for_lanes_at + LOOK_FOR_LANES_S:
            self._looked_for_lanes_at = now
            self._known.clear()
            core.lanes.retire({job.lane for job in (*core.by_seq.values(), *core.by_id.values())})
