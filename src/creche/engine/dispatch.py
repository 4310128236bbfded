"""Dispatch: ready jobs meet free slots. One synchronous function, called when either has become
so."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from creche.engine.expiries import make_expired
from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.parks import PARKED_BY_TASK
from creche.engine.sessions import Session
from creche.model.job import JobState, check_move
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

UNKNOWN_S = 1.0
"""What a run of a task that was never measured is thought to take: long, so that there is no
look-ahead."""

LEAST_S = 0.00005
"""What the shortest run is thought to take: the worker's own cost of an attempt is of this
order."""


MAX_PARKED = 500
"""Jobs that are parked in one step of the plane; what is behind them has its turn when that is on
disk."""


class Dispatch:
    """Hands jobs to workers, and keeps what their runs are thought to take. It is a `Turnstile`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._parked = 0
        """Jobs that were parked in this step."""
        self._estimates: dict[str, float] = {}

    def run(self) -> None:
        """Give every worker with room the next jobs it may run. No checkpoint: what is decided here
        is noted here."""
        core = self._core
        if core.is_stopping or core.journal.failing is not None:
            return
        self._parked = 0
        core.limits.let_in()
        settings = core.settings
        look_ahead, look_ahead_s = settings.look_ahead, settings.look_ahead_s
        hungry = [w for w in core.sessions.workers() if w.has_room(look_ahead, look_ahead_s)]
        while hungry:
            # One job each in turn, so that a few jobs are spread over all workers.
            still = []
            for worker in hungry:
                job = core.lanes.take(worker, self)
                if job is not None:
                    self._lease(worker, job)
                    if worker.has_room(look_ahead, look_ahead_s):
                        still.append(worker)
            hungry = still
        self._pass_by_full_workers()
        core.tails.refill()

    def estimate_s(self, task: str) -> float:
        """Return how long a run of *task* is thought to take."""
        return self._estimates.get(task, UNKNOWN_S)

    def measured(self, job: Job, run_us: int) -> None:
        """Note how long a run of *job* took, cautiously: longer counts more than shorter."""
        run_s = max(run_us / 1_000_000, LEAST_S)
        old = self._estimates.get(job.task)
        if old is None:
            self._estimates[job.task] = run_s
        else:
            weight = 0.5 if run_s > old else 0.1
            self._estimates[job.task] = old + (run_s - old) * weight

    def _is_over(self, job: Job) -> bool:
        """Whether the time of a job that was taken is up; then it ends."""
        core = self._core
        if job.expires_at is None or not core.expiries.has_passed(job):
            return False
        core.end(job, JobState.EXPIRED, make_expired(job), None)
        return True

    def _lease(self, worker: Session, job: Job) -> None:
        core = self._core
        if job.expires_at is not None:
            job.begin()
        job.state = check_move(job.state, JobState.RUNNING)
        job.attempt += 1
        job.epoch = core.epoch
        job.holder = worker.holder
        job.leased_at = core.now()
        # Now and not on arrival: the task may have been announced since.
        job.is_at_most_once = core.is_at_most_once(job)
        job.estimate_s = self.estimate_s(job.task)
        core.limits.hold(job)
        worker.lease(job)
        if job.is_at_most_once:
            worker.coming_bytes += len(job.payload)
            core.journal.offer_when_committed(worker, job)
        else:
            core.journal.change_soon(job)
            self.offer(worker, job)

    def offer(self, worker: Session, job: Job) -> None:
        """Send a leased job to its worker."""
        priority = job.lane.priority
        # Of most jobs there is nothing to be said.
        options = None
        has_more = job.limits is not None or job.headers is not None
        if job.tries or has_more or job.let_pass:
            options = self._options(job)
        worker.post(
            m.Offer(
                job.seq, job.epoch, job.attempt, job.id, job.task, priority, job.payload, options
            )
        )  # fmt: skip

    def _options(self, job: Job) -> m.Facts | None:
        """Return what a worker is told of a job beside its call."""
        options: m.Facts = {}
        if job.tries:
            options["tries"] = job.tries
        if job.let_pass:
            options["let_pass"] = True
        if job.limits is not None:
            limits = job.limits.as_data()
            limits.pop("expires_s", None)  # it begins in time
            if "deadline_at" in limits:
                # What is left, as clocks differ; computed anew with each offer.
                limits["left_s"] = max(limits.pop("deadline_at") - self._core.now(), 0.0)
            if limits:
                options["limits"] = limits
        if job.headers:
            options["headers"] = job.headers
        return options or None

    def _pass_by_full_workers(self) -> None:
        """Something more urgent than what a worker looks ahead to is sent to it all the same: the
        worker begins the most urgent first, and hands back what has to wait."""
        core = self._core
        for worker in core.sessions.workers():
            ahead = len(worker.leased) - worker.slots - worker.lent
            if not worker.slots or ahead <= 0 or worker.outbox is None:
                continue
            if worker.was_wrong or worker.is_congested:
                continue
            least_urgent = worker.least_urgent()
            overtakes = worker.overtakes
            while ahead > 0 and (overtakes is None or not overtakes.is_full):
                job = core.lanes.take_above(worker, least_urgent, self)
                if job is None:
                    break
                self._lease(worker, job)
                ahead -= 1

    # --- what may not run now -------------------------------------------------------------------

    @property
    def is_tired(self) -> bool:
        """Whether so many were parked in this step that others should have their turn."""
        return self._parked >= MAX_PARKED

    def lets_pass(self, job: Job, tasks: Collection[str]) -> bool:
        """Whether a job that was taken may run on a worker that knows *tasks*. If not, it waits
        beside its lane, so that it blocks nobody, or has ended, as its time was up."""
        core = self._core
        if self._is_over(job):
            return False
        if job.task in tasks:
            if not core.limits.any or core.limits.admit(job):
                return True
        else:
            queue, priority = job.lane.queue, job.lane.priority
            key = (queue, priority, PARKED_BY_TASK + job.task)
            self.park(job, core.lanes.get(key, (queue, priority)))
        return False

    def note_parked(self) -> None:
        """One more job has to wait that was taken."""
        self._parked += 1

    def park(self, job: Job, lane: Lane) -> None:
        """Have a job that was taken wait in *lane*."""
        core = self._core
        self.note_parked()
        job.lane = lane
        if job.state is not JobState.PARKED:
            job.state = check_move(job.state, JobState.PARKED)
        if core.spills and not lane.has_room and not lane.is_reading:
            core.tails.spill(job)
        else:
            # While the tail is read nothing joins it out of order; what comes meanwhile is no more
            # than the window it comes from.
            lane.put_back(job)
            core.journal.change(job)
