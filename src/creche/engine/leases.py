"""Leases: which worker may run which attempt, until when, and what happens when it may not any
more.

A lease is renewed by its session: by whatever is heard of the worker. It ends when the worker has
been silent for the lease's time, when its connection has been gone for the grace, or when a new
process comes under the old name. Then the attempt is counted as lost, and the job is dispatched
again as soon as that is on disk; a job whose attempts keep losing workers is set aside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from creche.engine.job import Job
from creche.engine.options import CANCELLED
from creche.engine.outcomes import MAX_REASON, make_cancelled
from creche.engine.sessions import Session
from creche.events import AttemptsLost, LeaseLost
from creche.model.failure import Failure
from creche.model.ids import id_to_text
from creche.model.job import JobState, check_move
from creche.model.retry import MAX_DELAY_S, next_try_at
from creche.store.base import End, TryRow
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

Token = tuple[int, int, int]
MAX_UNWRITTEN = 100
"""Attempts of one job that a crash may have kept from the disk: a few hand-backs at the most."""

_REPORTED = {
    int(state): state
    for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST)
}


class Leases:
    """The attempts that are out with workers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._orphans: dict[str, dict[int, Job]] = {}
        """Jobs leased in an earlier epoch, by holder: they wait for their worker to name them."""

    @property
    def are_out(self) -> bool:
        """Whether any attempt is with a worker."""
        return any(session.leased for session in self._core.sessions.workers())

    def held_by(self, seq: int, epoch: int, attempt: int) -> Job | None:
        """Return the job whose current attempt has this token and is with a worker."""
        job = self._core.by_seq.get(seq)
        if job is None or job.token != (seq, epoch, attempt):
            return None
        return job if job.state in (JobState.RUNNING, JobState.CANCELLING) else None

    # --- a worker's reports ---------------------------------------------------------------------

    def finished(self, session: Session, message: m.Finished) -> None:
        """An attempt's body has left. Only the attempt that holds the lease may end its job."""
        core = self._core
        job = session.leased.get(message.seq)
        if job is None or job.epoch != message.epoch or job.attempt != message.attempt:
            # Too late, or said twice: settled behind whatever is on its way to the disk.
            core.journal.settle(session, message.n)
            return
        session.release(job)
        state = _REPORTED[message.state]
        if state is JobState.LOST or (
            # It left because its worker had it leave: nobody has cancelled the job.
            state is JobState.CANCELLED and job.state is not JobState.CANCELLING
        ):
            self._given_up(job, session, message.n)
            return
        session.done += 1
        if state is not JobState.CANCELLED:  # which was cut short, or had not begun
            session.was_wrong = False
            core.dispatch.measured(job, message.run_us)
        number = job.number
        if state is JobState.FAILED:
            session.failed += 1
            job.failures += 1
        started_at = core.now() - message.run_us / 1e6
        core.end(job, state, message.outcome, started_at, session, message.n, number=number)

    def try_again(self, session: Session, message: m.TryAgain) -> None:
        """An attempt has come to nothing. Whether there is another one, and when, is decided here,
        by what the submission says of it, and what it leaves open, the task's announcement."""
        core = self._core
        job = session.leased.get(message.seq)
        if job is None or (job.epoch, job.attempt) != (message.epoch, message.attempt):
            core.journal.settle(session, message.n)
            return
        session.release(job)
        session.was_wrong = False
        session.done += 1
        job.has_begun = True
        core.dispatch.measured(job, message.run_us)
        session.failed += message.is_counted
        now = core.now()
        started_at = now - message.run_us / 1e6
        due_at = None if job.state is JobState.CANCELLING else self._next_try_at(job, message, now)
        number = job.number
        if due_at is None:
            job.failures += message.is_counted
            state: JobState = JobState.FAILED
            outcome: bytes | None = message.outcome
            if not message.is_counted:
                # Who asks to run again, and is cancelled, has not failed.
                state, outcome = JobState.CANCELLED, make_cancelled(job.cancelled or "")
            core.end(job, state, outcome, started_at, session, message.n, number=number)
            return
        if message.is_counted:
            job.failures += 1
            made = _made(job, number, JobState.FAILED, message.outcome, started_at, now)
            core.journal.tried(job, made)
        job.state = check_move(job.state, JobState.DELAYED)
        job.due_at = due_at
        self._take_back(job)
        core.delays.enter(job)
        core.journal.requeue(job)
        core.journal.settle(session, message.n)

    def _next_try_at(self, job: Job, message: m.TryAgain, now: float) -> float | None:
        core = self._core
        after_s = None if message.after_us is None else message.after_us / 1e6
        if not message.is_counted:
            return now + min(after_s or 0.0, MAX_DELAY_S)
        if job.is_at_most_once:
            return None
        return next_try_at(
            core.retry_policy(job.task, job.options),
            failures=job.failures + 1,
            submitted_at=job.submitted_at,
            deadline_at=None if job.limits is None else job.limits.deadline_at,
            now=now,
            draw=core.draw(),
            after_s=after_s,
        )

    def _given_up(self, job: Job, session: Session, n: int) -> None:
        """A worker that lives has stopped an attempt that it had begun: uncounted, unless it was
        the only one."""
        self._tell(job, "its worker had to give it up")
        job.has_begun = True
        if job.is_at_most_once and job.state is not JobState.CANCELLING:
            outcome = _make_lost("its worker had to give it up")
            self._core.end(job, JobState.LOST, outcome, job.leased_at, session, n)
        else:
            self._free(job)
            self._core.journal.settle(session, n)

    def handed_back(self, session: Session, tokens: Iterable[list[int]]) -> None:
        """Attempts that were not begun: they go back uncounted. The worker was thought to be
        quicker than it is."""
        session.was_wrong = True
        for seq, epoch, attempt in tokens:
            job = session.leased.get(seq)
            if job is not None and (job.epoch, job.attempt) == (epoch, attempt):
                session.release(job)
                self._free_unbegun(job)

    # --- cancelling -----------------------------------------------------------------------------

    def cancel(self, job: Job, why: str) -> None:
        """Have the attempt of a running job stopped. The job is over when its body has left, or its
        worker is lost."""
        core = self._core
        job.state = check_move(job.state, JobState.CANCELLING)
        job.cancelled = why
        # For the next epoch, which ends the job if its worker does not come back; and for whoever
        # asks why it ended otherwise, if its body goes on all the same.
        said = {} if job.options is None else decode_value(job.options)
        core.journal.say_anew(job, encode_value({**said, CANCELLED: why[:MAX_REASON]}))
        core.journal.change(job)
        session = core.sessions.worker((job.holder or "").rpartition("/")[0])
        if session is not None and session.leased.get(job.seq) is job:
            session.post(m.Stop(*job.token, why))

    def withdraw(self, session: Session, job: Job) -> None:
        """A job was cancelled, or its time was up, while its lease was on its way to the disk: it
        is not offered."""
        session.release(job)
        self._core.limits.give_back(job)
        self._core.lanes.was_not_begun(job)
        self._free(job)

    # --- resumption -----------------------------------------------------------------------------

    def resume(self, session: Session, held: Iterable[Token]) -> None:
        """A worker has come (back) and names the attempts it has.

        What it does not name was lost on the way and is offered again, uncounted. What it names and
        may not have, it is told to stop.
        """
        core = self._core
        orphans = self._orphans.pop(session.holder, {})
        named: set[int] = set()
        for seq, epoch, attempt in held:
            job = session.leased.get(seq) or orphans.get(seq)
            if job is not None and job.token == (seq, epoch, attempt):
                if orphans.pop(seq, None) is not None:
                    job.estimate_s = core.dispatch.estimate_s(job.task)
                    session.lease(job)
                named.add(seq)
                if job.state is JobState.CANCELLING:
                    session.post(m.Stop(seq, epoch, attempt, job.cancelled or ""))
                continue
            job = core.by_seq.get(seq)
            if job is not None and self._may_adopt(session, job, epoch, attempt):
                self._adopt(session, job, epoch, attempt)
                named.add(seq)
            elif not core.is_ending(seq):
                session.post(m.Stop(seq, epoch, attempt, "this attempt has lost its lease"))
        for job in [job for seq, job in session.leased.items() if seq not in named]:
            session.release(job)
            self._tell(job, "its worker does not have it")
            self._free_unbegun(job)
        for job in orphans.values():
            self._tell(job, "its worker came back without it")
            self._free(job)

    def orphan(self, job: Job) -> None:
        """A job was leased when the last epoch ended: it waits for its worker to name it."""
        self._orphans.setdefault(job.holder or "", {})[job.seq] = job
        self._core.limits.hold(job, is_new=False)

    def forget_orphan(self, job: Job) -> None:
        """A job that waited for its worker is over."""
        self._orphans.get(job.holder or "", {}).pop(job.seq, None)

    def end_of_grace(self) -> None:
        """Workers of the last epoch had their time to come back: what they held is lost."""
        orphans, self._orphans = self._orphans, {}
        for held in orphans.values():
            for job in held.values():
                self._lost(job, "its worker did not come back after a restart of the plane")
        self._core.journal.wake()

    # --- loss -----------------------------------------------------------------------------------

    def lose(self, session: Session, why: str, *, is_counted: bool = True) -> None:
        """A worker has lost the right to everything it holds."""
        jobs = list(session.leased.values())
        for job in jobs:
            session.release(job)
            if is_counted:
                self._lost(job, why)
            else:
                self._tell(job, why)
                self._free(job)
        if jobs:
            self._core.events.emit(AttemptsLost(session.name, len(jobs), why))
        self._core.journal.wake()

    def lose_older(self, session: Session) -> None:
        """A new process comes under an old name: whatever the old one held is lost, counted."""
        for holder in self._older(session):
            for job in self._orphans.pop(holder).values():
                self._lost(job, "its worker was started anew")

    def queues_of_older(self, session: Session) -> set[str]:
        """Return the queues of the jobs that `lose_older` would take from another process of that
        name."""
        return {
            job.lane.queue
            for holder in self._older(session)
            for job in self._orphans[holder].values()
        }

    def _older(self, session: Session) -> list[str]:
        """Return the holders of an earlier epoch that are other processes of the same name."""
        return [
            holder
            for holder in self._orphans
            if holder != session.holder and holder.rpartition("/")[0] == session.name
        ]

    def _lost(self, job: Job, why: str) -> None:
        core = self._core
        self._tell(job, why)
        number = job.number
        job.losses += 1
        job.has_begun = True
        if job.is_at_most_once and job.state is not JobState.CANCELLING:
            core.end(job, JobState.LOST, _make_lost(why), job.leased_at, number=number)
        elif job.losses >= core.settings.max_losses and job.state is not JobState.CANCELLING:
            failure = Failure(
                "creche.WorkerLost", f"set aside: {job.losses} workers were lost with it; {why}"
            )
            outcome = encode_value(failure.as_data())
            core.end(job, JobState.FAILED, outcome, job.leased_at, number=number)
        else:
            if job.state is not JobState.CANCELLING:
                lost = encode_value(Failure("creche.WorkerLost", why).as_data())
                made = _made(job, number, JobState.LOST, lost, job.leased_at, core.now())
                core.journal.tried(job, made)
            self._free(job, number)

    def _tell(self, job: Job, why: str) -> None:
        worker = (job.holder or "").rpartition("/")[0]
        self._core.events.emit(LeaseLost(id_to_text(job.id), worker, job.epoch, job.attempt, why))

    def _free_unbegun(self, job: Job) -> None:
        """Give back a job that its worker had not begun: it must still begin in time."""
        self._core.limits.give_back(job)
        self._core.lanes.was_not_begun(job)
        if not job.has_begun and not job.tries:
            job.expires_at = self._core.submissions.expires_at(job)
        self._free(job)

    def _free(self, job: Job, number: int | None = None) -> None:
        """Give a job back to its lane when that is on disk. *number* is that of its attempt, where
        it has been counted."""
        if job.state is JobState.CANCELLING:
            outcome = make_cancelled(job.cancelled or "")
            self._core.end(job, JobState.CANCELLED, outcome, job.leased_at, number=number)
            return
        job.state = check_move(job.state, JobState.PARKED if job.lane.park else JobState.QUEUED)
        self._take_back(job)
        self._core.journal.requeue(job)

    def _take_back(self, job: Job) -> None:
        """Nobody has the job any more, which is not on disk yet."""
        self._core.limits.free(job)
        job.holder = None
        job.leased_at = None
        job.is_returning = True

    def _adopt(self, session: Session, job: Job, epoch: int, attempt: int) -> None:
        """A lease was given out and never committed: the job is free, so its worker keeps it."""
        self._core.withdraw(job)
        job.state = check_move(job.state, JobState.RUNNING)
        job.attempt = attempt
        job.epoch = epoch
        job.holder = session.holder
        job.leased_at = self._core.now()
        job.has_begun = True
        job.begin()
        job.estimate_s = self._core.dispatch.estimate_s(job.task)
        self._core.limits.hold(job, is_new=False)
        session.lease(job)
        self._core.journal.change(job)

    def _may_adopt(self, session: Session, job: Job, epoch: int, attempt: int) -> bool:
        """Whether a named attempt may be one whose lease was given out and never committed: only to
        a worker that listens there, in an earlier epoch than this and none before the job's last, a
        few attempts on at most, and not of an at-most-once job, which is offered when its lease is
        on disk."""
        return (
            self._is_free(job)
            and job.lane.queue in session.queues
            and 0 < epoch < self._core.epoch
            and job.epoch <= epoch
            and job.attempt < attempt <= job.attempt + MAX_UNWRITTEN
            and not self._core.is_at_most_once(job)
        )

    @staticmethod
    def _is_free(job: Job) -> bool:
        return (
            job.state in (JobState.QUEUED, JobState.PARKED)
            and job.is_committed
            and not job.is_returning
        )


def _make_lost(why: str) -> bytes:
    """Return the outcome of an at-most-once job whose attempt was lost."""
    failure = Failure("creche.JobLost", f"{why}; it may have run, and runs at most once")
    return encode_value(failure.as_data())


def check_report(state: int) -> bool:
    """Whether a worker may report an attempt as ended so."""
    return state in _REPORTED


def make_end(
    job: Job,
    number: int,
    state: JobState,
    outcome: bytes | None,
    started_at: float | None,
    now: float,
) -> End:
    """Return what the store keeps of a job's end, and the *number* of its last attempt."""
    return End(
        *(job.seq, state, number, job.losses, job.holder, started_at, now, outcome),
        job.failures,
    )


def _made(
    job: Job, number: int, state: JobState, outcome: bytes, started_at: float | None, now: float
) -> TryRow:
    """Return what the store keeps of the attempt of this *number*, which was not the last."""
    return TryRow(job.seq, number, state, job.holder, started_at, now, outcome)
