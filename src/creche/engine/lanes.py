"""Lanes: where ready jobs wait, and who is taken next.

Each queue has a `Lane` a priority, made when first used. A job that cannot run now must not block
it. Jobs of a task that not every worker of the queue knows wait in a lane of their own beside it
(**parked**), and are taken, by seq among the others, for the workers that know it. So do those that
wait for the same limits: their lane is **shut**, and not looked into, as long as these have no
room.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.level import Level, Turnstile
from creche.engine.parks import LaneKey
from creche.engine.space import Space
from creche.model.priority import Priority
from creche.store.base import LaneRow

if TYPE_CHECKING:
    from creche.engine.gates import Gate
    from creche.engine.sessions import Session


class Lanes:
    """All lanes of a plane, by queue and priority.

    Args:
        window, window_bytes: of each lane.
        space: of all of them together.
        fairness: after so many overtakes a lower level passes once; None for strict order.
        on_new: called with each lane made, so that the store learns its number.
    """

    def __init__(
        self,
        window: int,
        window_bytes: int,
        space: Space,
        fairness: int | None,
        on_new: Callable[[Lane], None],
    ) -> None:
        self._window = window
        self._window_bytes = window_bytes
        self.space = space
        self._fairness = fairness
        self._on_new = on_new
        self._next_number = 1
        self.by_key: dict[LaneKey, Lane] = {}
        self.by_number: dict[int, Lane] = {}
        self.queues: dict[str, list[Level | None]] = {}
        self._due: dict[str, dict[tuple[Gate, int], None]] = {}
        """By queue, the gates and priorities whose turn it is, as so many have passed the gate that
        they wait for: others of their level, which do not, may have had its turn meanwhile."""
        self.shut_queues: set[str] = set()
        """Those that nothing is taken from: they are paused, or a limit of theirs has no room."""

    def restore(
        self,
        rows: Collection[LaneRow],
        in_use: Collection[int],
        most: int,
        place: Callable[[LaneKey], tuple[str, int]],
    ) -> None:
        """Make the lanes that the store knows, in order: *most*, and those *in_use*. *place* fills
        in what their keys leave open."""
        spare = len(rows) - most
        for row in rows:
            self._next_number = max(self._next_number, row.lane + 1)
            if spare > 0 and row.lane not in in_use:
                spare -= 1
            else:
                lane = self._make(row)
                self._keep(lane, *place(lane.key))

    def get(self, key: LaneKey, place: tuple[str, int]) -> Lane:
        """Return the lane of *key*, made now if need be; *place* is where it is taken from."""
        lane = self.by_key.get(key)
        if lane is None:
            lane = self._make(LaneRow(self._next_number, *key))
            self._next_number += 1
            self._keep(lane, *place)
            self._on_new(lane)
        return lane

    def retire(self, in_use: Collection[Lane]) -> None:
        """Let go of the lanes where nothing waits; *in_use* are those whose jobs are elsewhere in
        memory, and may come back. A key that is used again gets a new lane and number."""
        # In place: it may be called in the middle of a look into the levels, which goes on.
        for lane in [lane for lane in self.by_number.values() if lane.is_idle]:
            if lane not in in_use:
                del self.by_number[lane.number]
                self._leave_level(lane)
        # A key that was used again has two lanes after a restart: whichever is left has it now.
        self.by_key = {lane.key: lane for lane in self.by_number.values()}
        for lane in self.by_number.values():
            if not lane.park:
                level = self._level(lane.queue, lane.priority)
                level.main = level.main or lane
        used = {lane.queue for lane in self.by_number.values()}
        for queue in [queue for queue in self.queues if queue not in used]:
            del self.queues[queue]

    def _leave_level(self, lane: Lane) -> None:
        level = self._level(lane.queue, lane.priority)
        if not lane.park:
            level.main = None if level.main is lane else level.main
            return
        if lane.is_listed:
            level.unlist(lane)
        level.shut.discard(lane)

    def move(self, lane: Lane, queue: str, priority: int) -> None:
        """Take a parked *lane* from another queue and priority from now on."""
        if lane.is_listed and lane.level is not None:
            lane.level.unlist(lane)
        self._place(lane, queue, priority)

    def take(self, session: Session, turnstile: Turnstile) -> Job | None:
        """Remove and return the next job for a worker: by its order of queues, then priority, then
        seq. No checkpoint."""
        for queue in session.queues:
            levels = self.queues.get(queue)
            if levels is None or queue in self.shut_queues:
                continue
            if self._fairness is not None:
                job = self._take_overtaken(queue, levels, session, turnstile)
                if job is not None:
                    return job
            for priority, level in enumerate(levels):
                if level is None:
                    continue
                job = level.take(session.tasks, turnstile)
                if job is not None:
                    if self._fairness is not None:
                        self._count_overtakes(levels, priority, session, job)
                    return job
                if turnstile.is_tired or level.is_being_read_for(session.tasks):
                    # What comes from the store in a moment is more urgent than what is below.
                    return None
        return None

    def ready_for(self, session: Session, *, is_now: bool = False) -> int:
        """Return how many jobs wait in lanes that a worker may take from, or, unless only what it
        may take now is asked for, will when a limit has room again."""
        return sum(
            lane.ready
            for queue in session.queues
            if queue not in self.shut_queues
            for level in self.queues.get(queue, ())
            if level is not None
            for lane in level.lanes()
            if (not lane.park or lane.task in session.tasks) and not (is_now and lane.is_shut)
        )

    def take_above(self, session: Session, below: int, turnstile: Turnstile) -> Job | None:
        """Remove and return a job for a worker that is more urgent than priority *below*, or one
        that these have overtaken so often that its turn comes before."""
        for queue in session.queues:
            levels = self.queues.get(queue)
            if levels is None or queue in self.shut_queues:
                continue
            above = levels[:below]
            if self._fairness is not None and any(
                level is not None and level.has_job_for(session.tasks) for level in above
            ):
                job = self._take_overtaken(queue, levels, session, turnstile)
                if job is not None:
                    return job
            for priority, level in enumerate(above):
                if level is not None:
                    job = level.take(session.tasks, turnstile)
                    if job is not None:
                        if self._fairness is not None:
                            self._count_overtakes(levels, priority, session, job)
                        return job
                    if turnstile.is_tired:
                        return None
        return None

    def was_not_begun(self, job: Job) -> None:
        """A job that was taken comes back as it was: whatever had overtaken it has done so."""
        if self._fairness is not None:
            level = self._level(job.lane.queue, job.lane.priority)
            level.overtaken = max(level.overtaken, job.overtaken)

    def passed_gates(self, job: Job) -> None:
        """A job was leased, and has passed its gates: note whose turn comes by that."""
        assert self._fairness is not None
        queue = job.lane.queue
        for gate in job.gates:
            for priority in gate.count_overtakes(queue, job.lane.priority):
                if gate.overtaken(queue, priority) >= self._fairness:
                    self._due.setdefault(queue, {})[gate, priority] = None

    def _take_due(self, queue: str, session: Session, turnstile: Turnstile) -> Job | None:
        """Remove and return a job that so many have overtaken at a gate."""
        assert self._fairness is not None
        due = self._due[queue]
        for gate, priority in list(due):
            lanes = gate.opened(queue, priority)
            if lanes is None or gate.overtaken(queue, priority) < self._fairness:
                del due[gate, priority]
                continue
            for lane in lanes:
                job = lane.take() if lane.task in session.tasks else None
                if job is not None and turnstile.lets_pass(job, session.tasks):
                    return job
        if not due:
            del self._due[queue]
        return None

    def _take_overtaken(
        self, queue: str, levels: list[Level | None], session: Session, turnstile: Turnstile
    ) -> Job | None:
        """Remove and return a job whose turn it is as so many have overtaken it. Where it is run it
        is not to be overtaken again."""
        assert self._fairness is not None
        if queue in self._due:
            job = self._take_due(queue, session, turnstile)
            if job is not None:
                self._count_overtakes(levels, job.lane.priority, session, job)
                job.overtaken = max(job.overtaken, self._fairness)
                job.let_pass = True
                return job
        for priority, level in enumerate(levels):
            if level is not None and level.overtaken >= self._fairness:
                # Its turn is over when one is taken: it may be that none can run just now.
                job = level.take(session.tasks, turnstile)
                if job is not None:
                    self._count_overtakes(levels, priority, session, job)
                    job.let_pass = True
                    return job
        return None

    def _count_overtakes(
        self, levels: list[Level | None], taken: int, session: Session, job: Job
    ) -> None:
        mine = levels[taken]
        assert mine is not None
        job.overtaken, mine.overtaken = mine.overtaken, 0
        for level in levels[taken + 1 :]:
            if level is not None and level.has_job_for(session.tasks):
                level.overtaken += 1

    def _make(self, row: LaneRow) -> Lane:
        return Lane(row, self._window, self._window_bytes, self.space)

    def _keep(self, lane: Lane, queue: str, priority: int) -> None:
        self.by_key[lane.key] = lane
        self.by_number[lane.number] = lane
        self._place(lane, queue, priority)

    def _place(self, lane: Lane, queue: str, priority: int) -> None:
        lane.queue, lane.priority = queue, priority
        level = self._level(queue, priority)
        if not lane.park:
            level.main, lane.is_listed = lane, True
            return
        lane.level = level
        if lane.is_shut:
            level.shut.add(lane)
        elif lane.is_listed:
            level.list_parked(lane)

    def _level(self, queue: str, priority: int) -> Level:
        levels = self.queues.get(queue)
        if levels is None:
            levels = self.queues[queue] = [None] * len(Priority)
        level = levels[priority]
        if level is None:
            level = levels[priority] = Level()
        return level
