"""Schedules: rules that submit jobs, owned by the plane.

A firing is a job whose id follows from (schedule, moment), and the moment reached is committed with
it. So each moment fires once, whatever dies in between: either both are on disk or neither is, and
what is decided twice is the same job.

Decisions are `creche.model.schedule.due`; here is when they are made, and what the last job is up
to. A schedule has one piece of firings on its way to the disk at a time."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from creche.engine.job import Job
from creche.engine.lane import READ_AGAIN_S
from creche.engine.schedule import MAX_SCHEDULE_BYTES, Schedule, Standing, Work
from creche.engine.sessions import Session
from creche.engine.timers import Alarm
from creche.errors import StoreError, StoreUnavailable
from creche.model.schedule import Due, Rule, due, firing_id
from creche.store.base import ScheduleRow
from creche.wire import messages as m
from creche.wire.session import Role

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

MAX_SCHEDULES = 10_000
"""Schedules of one plane: all are in memory."""

MAX_SCHEDULES_BYTES = 64 * 1024 * 1024
"""All of them."""

PIECE = 50
"""Schedules that fire in one step of the plane; other work goes on between."""

AT_A_TIME = 100
"""Missed moments of one schedule that fire together."""

ROOM_S = 1.0
"""How long a schedule waits whose job found no room."""

SAME_S = 1.0
"""Moments at which processes began are compared over two clocks: no closer than this."""

_REPLACED: Final = "its schedule fired again"


class Flight:
    """A firing on its way to the disk."""

    __slots__ = ("after", "landed", "refusal", "replaces", "schedule")

    def __init__(self, schedule: Schedule, after: Standing, replaces: Collection[bytes]) -> None:
        self.schedule = schedule
        self.after = after
        self.replaces = replaces
        """Jobs that are cancelled when it is on disk."""
        self.landed = trio.Event()
        self.refusal: str | None = None


class _Desk(Session):
    """Where firings are submitted: a session without a peer, that is told of each what became of
    it."""

    def __init__(self, schedules: Schedules, core: Core) -> None:
        hello = m.Hello([1], Role.CLIENT.value, bytes(16), "schedules", bytes(16), [], {})
        super().__init__(hello, Role.CLIENT, core.settings, core.outboxes)
        self._schedules = schedules

    def post(self, message: m.Message) -> None:
        if isinstance(message, m.Accepted):
            for n in message.ns:
                self._schedules.landed(n, None)
        elif isinstance(message, m.Declined):
            self._schedules.landed(message.n, message.why)


class Schedules:
    """All schedules of a plane."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.by_name: dict[str, Schedule] = {}
        self.size_bytes = 0
        self._heap: list[tuple[float, int, Schedule]] = []
        self._numbers = count(1)
        self._flights: dict[int, Flight] = {}
        self._desk = _Desk(self, core)
        self.waiting: dict[bytes, list[Schedule]] = {}
        """Schedules whose next firing waits for the end of a job, by its id."""
        self._is_firing = False
        self._has_begun = False
        self._alarm = Alarm(core.timers, lambda: core.now(), self._look)

    def restore(self, rows: Iterable[ScheduleRow]) -> None:
        """Learn what the store has, when it is opened."""
        for row in rows:
            schedule = self.by_name[row.name] = Schedule.from_row(row)
            self.size_bytes += schedule.size_bytes
            if schedule.problem is not None:
                logger.error("schedule %r does not fire: %s", row.name, schedule.problem)
            self._set(schedule, schedule.next_due_at())

    def begin(self) -> None:
        """Fire what is due from now on."""
        self._has_begun = True
        self._arm()

    # --- when -----------------------------------------------------------------------------------

    def _set(self, schedule: Schedule, due_at: float) -> None:
        """Have a schedule looked at then, and not when it was to be."""
        schedule.due_at = due_at
        if due_at < math.inf:
            heapq.heappush(self._heap, (due_at, next(self._numbers), schedule))
        if len(self._heap) > 2 * len(self.by_name) + 64:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def _is_live(self, entry: tuple[float, int, Schedule]) -> bool:
        due_at, _, schedule = entry
        return schedule.due_at == due_at and self.by_name.get(schedule.name) is schedule

    def rearm(self, schedule: Schedule) -> None:
        """Something about a schedule is otherwise: see when it fires next. One whose firing is on
        its way is looked at when that is on disk."""
        self._stop_waiting(schedule)
        self._set(schedule, math.inf if schedule.on_way else schedule.next_due_at())
        self._arm()

    def _arm(self) -> None:
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        if self._has_begun and not self._is_firing and self._heap:
            self._alarm.set(self._heap[0][0])

    def _look(self) -> None:
        if self._core.is_stopping:
            return  # what comes now is missed, and for the next plane
        if self._heap and self._heap[0][0] <= self._core.now():
            self._is_firing = True
            self._core.spawn(self._fire)
        else:
            self._arm()

    def _take_due(self) -> list[Schedule]:
        """Return the next schedules that are due, some of them; they are not due any more."""
        now = self._core.now()
        taken: list[Schedule] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < PIECE:
            entry = heapq.heappop(self._heap)
            if self._is_live(entry):
                entry[2].due_at = math.inf
                taken.append(entry[2])
        return taken

    # --- firing ---------------------------------------------------------------------------------

    async def _fire(self) -> None:
        """Fire what is due, piece after piece. What cannot be found out is tried again."""
        taken: list[Schedule] = []
        try:
            while not self._core.is_stopping and (taken := self._take_due()):
                await self._fire_some(taken)
                taken = []
                await trio.lowlevel.checkpoint()
        except StoreUnavailable:
            raise
        except StoreError as error:
            logger.error("schedules wait, as their last jobs cannot be looked up: %s", error)
            for schedule in taken:
                self._set(schedule, self._core.now() + READ_AGAIN_S)
        finally:
            self._is_firing = False
        self._arm()

    async def _fire_some(self, taken: Collection[Schedule]) -> None:
        core = self._core
        last = dict.fromkeys(
            job
            for schedule in taken
            if schedule.rule is not None and schedule.rule.overlap != "allow"
            for job in schedule.standing.last_jobs
        )
        unfinished = await core.unfinished(last) if last else set()
        # No checkpoint below: what is decided for each schedule is noted at once.
        for schedule in taken:
            if self.by_name.get(schedule.name) is not schedule or schedule.on_way:
                continue  # what is on its way has it looked at again
            rule = schedule.rule
            is_known = all(job in last for job in schedule.standing.last_jobs)
            if rule is None or not (is_known or rule.overlap == "allow"):
                self.rearm(schedule)  # it was changed, or run by hand, meanwhile
            else:
                self._fire_one(schedule, rule, unfinished)
        core.journal.wake()

    def _fire_one(self, schedule: Schedule, rule: Rule, unfinished: Collection[bytes]) -> None:
        standing, now = schedule.standing, self._core.now()
        if schedule.next_due_at() > now:
            self.rearm(schedule)  # it was changed or paused meanwhile
            return
        decided = self._decide(schedule, rule, now)
        beside = [job for job in standing.last_jobs if job in unfinished]
        if beside and decided.moments and rule.overlap == "queue":
            self._wait(schedule, beside[0])
            return
        if beside and decided.moments and rule.overlap == "skip":
            decided = decided._replace(moments=())
            standing = standing._replace(overlapped=standing.overlapped + 1)
        standing = standing._replace(
            reached=decided.reached, missed=standing.missed + decided.missed
        )
        if not decided.moments:
            schedule.standing = standing
            self.write(schedule)
            self.rearm(schedule)
            return
        # In one batch: the store takes all of them or none.
        replaces = beside if rule.overlap == "replace" else ()
        with self._core.journal.together():
            self._fire_moments(schedule, standing, decided.moments, replaces)

    def _fire_moments(
        self,
        schedule: Schedule,
        standing: Standing,
        moments: Sequence[float],
        replaces: Collection[bytes],
    ) -> None:
        now = self._core.now()
        for moment in moments:
            # Between two that fire together it is as if each had come by itself.
            reached = min(moment, standing.reached)
            if moment == moments[-1]:
                reached = standing.reached
            standing = standing.after_firing(moment, firing_id(schedule.name, moment), now)
            after = standing._replace(reached=reached)
            if self.submit(schedule, after, replaces) is None:
                break

    def _decide(self, schedule: Schedule, rule: Rule, now: float) -> Due:
        most = AT_A_TIME if rule.overlap == "allow" else 1
        if rule.count is not None:
            most = min(most, rule.count - schedule.standing.fired)
        return due(
            rule,
            reached=schedule.standing.reached,
            now=now,
            made_at=schedule.made_at,
            draw=schedule.draw,
            most=most,
        )

    def submit(
        self, schedule: Schedule, after: Standing, replaces: Collection[bytes] = ()
    ) -> Flight | None:
        """Put the job of a firing on its way, with how the schedule stands *after* it; None when
        there is no room for it now: it is tried again. What it *replaces* goes on until it is on
        disk. No checkpoint."""
        core, work = self._core, schedule.work
        assert after.job is not None
        n = next(self._numbers)
        message = m.Submit(
            n, after.job, work.task, work.queue, work.priority, work.payload, 0, work.options
        )
        lane = core.submissions.lane_with_room(message)
        if lane is None or core.journal.failing is not None:
            schedule.try_at = core.now() + ROOM_S
            self.rearm(schedule)
            return None
        if schedule.uncommitted is None:
            schedule.uncommitted = schedule.standing
        schedule.standing = after
        flight = Flight(schedule, after, replaces)
        self.write(schedule)
        if after.job in core.by_id:
            # It was submitted before, and is the one.
            core.unique.replaced.cancel(replaces, _REPLACED)
            self._when_written(schedule)
            flight.landed.set()
            return flight
        self._flights[n] = flight
        schedule.on_way += 1
        self._set(schedule, math.inf)
        # After the row: then both are in the same batch.
        core.submissions.arrive(self._desk, message, lane, replaces)
        return flight

    def _when_written(self, schedule: Schedule) -> None:
        if not schedule.on_way:
            schedule.uncommitted = None
            self.rearm(schedule)

    def landed(self, n: int, refusal: str | None) -> None:
        """A firing is on disk, or the store has no room for it: then the schedule stands as it did
        before. No checkpoint."""
        flight = self._flights.pop(n)
        schedule = flight.schedule
        schedule.on_way -= 1
        flight.refusal = refusal
        flight.landed.set()
        if refusal is None:
            self._core.unique.replaced.cancel(flight.replaces, _REPLACED)
        if refusal is None and schedule.on_way and schedule.uncommitted is not None:
            # What holds if those that are on their way still are refused. What is missed was
            # counted before the first of them, and is counted on while it is changed.
            reached = max(flight.after.reached, schedule.uncommitted.reached)
            schedule.uncommitted = flight.after._replace(
                reached=reached, missed=schedule.standing.missed
            )
        if refusal is not None and schedule.uncommitted is not None:
            schedule.standing = schedule.uncommitted
            schedule.try_at = self._core.now() + ROOM_S
            if self.by_name.get(schedule.name) is schedule:
                self.write(schedule)
        self._when_written(schedule)

    # --- waiting for the last job ---------------------------------------------------------------

    def _wait(self, schedule: Schedule, job_id: bytes) -> None:
        schedule.waits_for = job_id
        self.waiting.setdefault(job_id, []).append(schedule)

    def _stop_waiting(self, schedule: Schedule) -> None:
        job_id, schedule.waits_for = schedule.waits_for, None
        if job_id is not None:
            waiting = self.waiting[job_id]
            waiting.remove(schedule)
            if not waiting:
                del self.waiting[job_id]

    def ended(self, jobs: Iterable[Job]) -> None:
        """Jobs have ended, some of which schedules wait for."""
        for job in jobs:
            for schedule in list(self.waiting.get(job.id, ())):
                self.rearm(schedule)

    # --- writing --------------------------------------------------------------------------------

    def write(self, schedule: Schedule) -> None:
        """Have it on disk as it stands now, with the batch at hand."""
        row = schedule.row()
        assert row.data is not None
        self.size_bytes += len(row.data) - schedule.size_bytes
        schedule.size_bytes = len(row.data)
        self._core.journal.schedule(row, lambda: schedule.row(schedule.uncommitted))
        self._core.note()

    def add(self, schedule: Schedule) -> None:
        """Take in a new schedule, or one in the place of another."""
        old = self.by_name.pop(schedule.name, None)
        if old is not None:
            self._drop(old)
        self.by_name[schedule.name] = schedule
        self.write(schedule)
        self.rearm(schedule)

    def remove(self, schedule: Schedule) -> None:
        """Let go of a schedule; jobs that it has submitted go on."""
        del self.by_name[schedule.name]
        self._drop(schedule)
        row = ScheduleRow(schedule.name, None)
        self._core.journal.schedule(row, lambda: row)
        self._core.note()

    def _drop(self, schedule: Schedule) -> None:
        self._stop_waiting(schedule)
        self.size_bytes -= schedule.size_bytes

    # --- declared by code -----------------------------------------------------------------------

    def announce(self, declarations: Iterable[m.Facts], began: float) -> None:
        """A worker whose process *began* then (UTC seconds) has said what its tasks are: take over
        what it declares of schedules, and stop those that it declares no more.

        The newest process counts. It has taken a schedule away if it announces the schedule's task,
        or another one of the same module, without it."""
        listed = {str(declared["name"]): declared for declared in declarations}
        with_rule = {name: d["schedule"] for name, d in listed.items() if d.get("schedule")}
        modules = {_module_of(declared) for declared in listed.values()} - {""}
        for schedule in list(self.by_name.values()):
            if (
                schedule.source == "code"
                and schedule.undeclared_at is None
                and schedule.name not in with_rule
                and (schedule.name in listed or schedule.module in modules)
                and began > schedule.declared_at - SAME_S
            ):
                schedule.undeclared_at = self._core.now()
                schedule.declared_at = began
                self.write(schedule)
                self.rearm(schedule)
        for name, declared in with_rule.items():
            self._declare(name, _module_of(listed[name]), declared, began)

    def _declare(self, name: str, module: str, declared: m.Facts, began: float) -> None:
        rule = Rule.from_data(declared["rule"])
        work = Work(name, bytes.fromhex(declared["payload"]))
        schedule = self.by_name.get(name)
        if schedule is not None and schedule.source != "code":
            logger.warning(
                "task %r declares a schedule, and one of that name was made at run time: "
                "that one counts until it is deleted",
                name,
            )
            return
        if schedule is None:
            refusal = self.refusal(len(work.payload))
            if refusal is not None:
                logger.error("the schedule that task %r declares is left out: %s", name, refusal)
                return
            schedule = Schedule(name, "code", rule, work, self._core.now())
            schedule.module, schedule.declared_at = module, began
            self.add(schedule)
            return
        if began <= schedule.declared_at - SAME_S:
            return
        is_newer = began > schedule.declared_at + SAME_S
        schedule.declared_at = max(schedule.declared_at, began)
        is_back = schedule.undeclared_at is not None
        if is_back or (schedule.rule, schedule.work, schedule.module) != (rule, work, module):
            schedule.module = module
            self.change(schedule, rule, work, is_new=is_back)
        elif is_newer:
            self.write(schedule)  # an older process that comes first after a restart is told apart

    def change(self, schedule: Schedule, rule: Rule, work: Work, *, is_new: bool = False) -> None:
        """Give a schedule another rule or other work. Its history and its pause stay; moments of
        the new rule that have passed are not missed."""
        now = self._core.now()
        if rule != schedule.rule or is_new:
            schedule.go_on(now, rule)
            if schedule.rule is None or rule.every != schedule.rule.every:
                schedule.made_at = now
        schedule.rule, schedule.problem, schedule.work = rule, None, work
        schedule.undeclared_at = None
        self.write(schedule)
        self.rearm(schedule)

    def refusal(self, size: int) -> str | None:
        """Return why there may not be one more schedule of *size* bytes, None if there may."""
        if len(self.by_name) >= MAX_SCHEDULES:
            return f"there are {MAX_SCHEDULES:,} schedules: delete some that have ended"
        if size > MAX_SCHEDULE_BYTES:
            return f"a schedule's arguments may have {MAX_SCHEDULE_BYTES:,} bytes, not {size:,}"
        if self.size_bytes + size > MAX_SCHEDULES_BYTES:
            return f"all schedules together have over {MAX_SCHEDULES_BYTES:,} bytes"
        return None


def _module_of(declared: m.Facts) -> str:
    """Return the module of a declaration, whose keys that are only shown may be anything."""
    module = declared.get("module")
    return module if isinstance(module, str) else ""
