"""One priority of one queue: its lane, and those of the jobs that are parked beside it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Protocol

from creche.engine.job import Job
from creche.engine.lane import Lane

LISTED = 100
"""Parked lanes of one task and level that are looked into for one job; others have their turn when
one of these has run empty, or is shut."""


class Turnstile(Protocol):
    """Who decides whether a job that was taken may run, and parks it if not."""

    @property
    def is_tired(self) -> bool:
        """Whether it has parked so many that others should have their turn: there may be more."""
        ...

    def lets_pass(self, job: Job, tasks: Collection[str]) -> bool:
        """Whether *job* may run on a worker that knows *tasks*."""
        ...


class Level:
    """One priority of one queue: the lane that every worker may take from, and the parked ones."""

    __slots__ = ("coming", "main", "overtaken", "parked", "shut")

    def __init__(self) -> None:
        self.main: Lane | None = None
        self.parked: dict[str, list[Lane]] = {}
        """By task, those that have jobs; submissions of one task that left different things open
        meet here."""
        self.coming: dict[str, OrderedDict[Lane, None]] = {}
        """Likewise, those beyond `LISTED`."""
        self.shut: set[Lane] = set()
        """Parked lanes that nobody is to look into."""
        self.overtaken = 0
        """Jobs of higher levels that were taken while one of this level waited."""

    def list_parked(self, lane: Lane) -> None:
        """Look into a parked *lane* from now on: it has a job."""
        lanes = self.parked.setdefault(lane.task, [])
        if len(lanes) < LISTED:
            lanes.append(lane)
        else:
            self.coming.setdefault(lane.task, OrderedDict())[lane] = None

    def unlist(self, lane: Lane) -> None:
        """Look into a parked *lane* no more."""
        lanes, coming = self.parked[lane.task], self.coming.get(lane.task)
        if coming is not None and lane in coming:
            del coming[lane]
        else:
            lanes.remove(lane)
            if coming:
                lanes.append(coming.popitem(last=False)[0])
        if not coming:
            self.coming.pop(lane.task, None)
        if not lanes:
            del self.parked[lane.task]

    def take(self, tasks: Collection[str], turnstile: Turnstile) -> Job | None:
        """Return the oldest job of one of *tasks* that may run; others are parked meanwhile."""
        while True:
            lane = self.main
            best: Lane | None = lane
            if self.parked:
                least = math.inf if lane is None else lane.peek_seq()
                for beside in self._parked_for(tasks):
                    if (seq := beside.peek_seq()) < least:
                        best, least = beside, seq
            if best is None:
                return None
            job = best.take()
            if job is None or turnstile.lets_pass(job, tasks):
                return job
            if turnstile.is_tired:
                return None

    def _parked_for(self, tasks: Collection[str]) -> list[Lane]:
        """Return the parked lanes of *tasks*; those that have run empty are not looked into again
        before they have a job."""
        parked = self.parked
        # Whichever are fewer: anyone may submit names that no worker knows.
        known = (
            [task for task in parked if task in tasks]
            if len(parked) < len(tasks)
            else [task for task in tasks if task in parked]
        )
        lanes = [lane for task in known for lane in parked[task]]
        for lane in lanes:
            if not (lane.ready or lane.delayed):
                lane.is_listed = False
                self.unlist(lane)
        return lanes

    def lanes(self) -> Iterator[Lane]:
        """Return the lanes of this level that have jobs, and the main one first."""
        if self.main is not None:
            yield self.main
        for lanes in self.parked.values():
            yield from lanes
        for coming in self.coming.values():
            yield from coming
        yield from self.shut

    def has_job_for(self, tasks: Collection[str]) -> bool:
        """Whether a job in memory waits here that may be of one of *tasks*."""
        return any(lane.held for lane in self._lanes_for(tasks))

    def is_being_read_for(self, tasks: Collection[str]) -> bool:
        """Whether jobs that may be of one of *tasks* are stored and have to be read back first."""
        return any(lane.stored and not lane.is_unreadable for lane in self._lanes_for(tasks))

    def _lanes_for(self, tasks: Collection[str]) -> Iterator[Lane]:
        if self.main is not None:
            yield self.main
        if self.parked:
            yield from self._parked_for(tasks)
