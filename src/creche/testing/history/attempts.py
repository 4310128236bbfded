"""Rules for attempts: how many, when they begin, and when they are over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from creche.testing.history.events import Event, Terms, before, place
from creche.testing.history.view import History, Run
from creche.testing.history.violation import Violation

# --- the end of the job -------------------------------------------------------------------------


class StartedAfterEnd(Violation):
    """No attempt begins when its job has ended."""


def nothing_starts_after_the_end(history: History) -> Iterator[StartedAfterEnd]:
    """Refuse an attempt under a lease that began after somebody had seen the job's end."""
    for job in history.jobs.values():
        first = min(job.finals, key=place, default=None)
        for run in job.leased_runs if first else ():
            is_after = first is not None and before(first, run.start)
            if first and is_after and not history.may_be_unwritten(run.start, first.at):
                why = f"an attempt began when it had ended as {first.state}"
                yield StartedAfterEnd(job.id, why, (first, *run.events))


class RanBeyondEnd(Violation):
    """A job ends when the body of its attempt has left."""


def nothing_runs_beyond_the_end(history: History) -> Iterator[RanBeyondEnd]:
    """Refuse an attempt that still had its lease after somebody had seen the job's end."""
    for job in history.jobs.values():
        first = min(job.finals, key=place, default=None)
        for run in job.leased_runs if first else ():
            is_before = first is not None and before(run.start, first)
            is_running = is_before and first is not None and run.is_running_after(first)
            if first and is_running and not history.may_be_unwritten(run.start, first.at):
                why = f"an attempt still ran when it had ended as {first.state}"
                yield RanBeyondEnd(job.id, why, (run.start, first, *run.events[1:]))


class StartedAfterCancel(Violation):
    """A job that was cancelled before its start never starts."""


def nothing_starts_after_a_cancel(history: History) -> Iterator[StartedAfterCancel]:
    """Refuse an attempt that began after a cancel was answered; but where the job was leased and
    nobody ran it, its offer was on its way, and one may begin."""
    for job in history.jobs.values():
        for answer in job.answers:
            if answer.state not in ("cancelled", "cancelling"):
                continue
            runs = [
                run for run in job.leased_runs if not history.may_be_unwritten(run.start, answer.at)
            ]
            later = [run for run in runs if before(answer, run.start)]
            is_run = any(before(r.start, answer) and r.is_running_after(answer) for r in runs)
            on_its_way = 1 if answer.state == "cancelling" and not is_run else 0
            if len(later) > on_its_way:
                proof = (answer, *later[on_its_way].events)
                yield StartedAfterCancel(job.id, "an attempt began after it was cancelled", proof)
                break


class RanBeyondLease(Violation):
    """A body that can be told to stop leaves soon after its lease was lost."""


def the_lost_leave(history: History) -> Iterator[RanBeyondLease]:
    """Refuse an attempt that has not left by the time that its worker may take to find out."""
    leaves_s = history.bounds.leaves_s
    for job in history.jobs.values():
        for run in job.runs if leaves_s < math.inf else ():
            if run.lost is None or not run.start.is_reachable or (run.is_over and not run.end):
                continue
            ends = [event.at for event in (run.end, run.gone) if event is not None]
            last_at = min(ends, default=history.end_at)
            late_s = last_at - max(run.lost.at, run.start.at) - leaves_s
            if late_s > 0 and not _is_unreachable(history, run, last_at):
                why = f"an attempt ran for {late_s + leaves_s:g} s without its lease"
                yield RanBeyondLease(job.id, why, tuple(run.events))


class RanBeyondCancel(Violation):
    """A body that can be told to stop leaves soon after its job was cancelled."""


def the_cancelled_leaves(history: History) -> Iterator[RanBeyondCancel]:
    """Refuse an attempt that has not left by the grace after a cancel was answered, where nothing
    was done meanwhile to those between it and who cancelled it."""
    for job in history.jobs.values():
        for answer in job.answers if job.cancels else ():
            begun = [run for run in job.leased_runs if before(run.start, answer)]
            if answer.state != "cancelling" or not begun or begun[-1].is_doubtful:
                continue
            run, by = begun[-1], answer.at + history.bounds.grace_s
            since = min(cancel.at for cancel in job.cancels)
            is_running = run.last_at(history.end_at) > by and run.start.is_reachable
            if is_running and history.was_reachable(run.start.process, since, by):
                why = f"an attempt ran on for {run.last_at(history.end_at) - answer.at:g} s"
                yield RanBeyondCancel(job.id, why, (run.start, answer, *run.events[1:]))
                break


# --- how many -----------------------------------------------------------------------------------


class BegunTwice(Violation):
    """An attempt begins once, however often it is offered."""


def attempts_begin_once(history: History) -> Iterator[BegunTwice]:
    """Refuse two bodies of one attempt; but where the first was too early and did not count, or may
    have been lost without a word, as then the next one is called as it was."""
    for job in history.jobs.values():
        begun: dict[str, Run] = {}
        for run in job.runs:
            first = begun.get(run.start.attempt)
            if first is None or first.is_doubtful or _had_snoozed(first, run.start):
                begun[run.start.attempt] = run
            else:
                why = f"attempt {run.start.attempt} has begun twice"
                yield BegunTwice(job.id, why, (first.start, run.start))


def _had_snoozed(run: Run, event: Event) -> bool:
    return run.has_snoozed and run.end is not None and not before(event, run.end)


class TooManyAttempts(Violation):
    """A job runs once, once more for each retry, and once more for each lease that was lost."""


def attempts_are_counted(history: History) -> Iterator[TooManyAttempts]:
    """Refuse more attempts than there may be; one that was too early for its job is none."""
    for job in history.jobs.values():
        terms = job.terms
        if terms.is_at_most_once or terms.retries is None:
            continue
        counted = [run for run in job.runs if not (run.lost or run.is_doubtful or run.has_snoozed)]
        if len(counted) > 1 + terms.retries:
            why = f"{len(counted)} attempts, with {terms.retries} retries"
            yield TooManyAttempts(job.id, why, tuple(run.start for run in counted))


class RanTwice(Violation):
    """What is to run at most once runs at most once."""


def at_most_once_is_at_most_once(history: History) -> Iterator[RanTwice]:
    """Refuse a second attempt of such a job, whatever was lost; but after one that was too early
    for it."""
    for job in history.jobs.values():
        counted = [run.start for run in job.runs if not run.has_snoozed]
        if job.terms.is_at_most_once and len(counted) > 1:
            yield RanTwice(job.id, f"it has begun {len(counted)} times", tuple(counted))


# --- when they begin ----------------------------------------------------------------------------


class StartedEarly(Violation):
    """A delayed job does not begin before its time."""


def delays_are_kept(history: History) -> Iterator[StartedEarly]:
    """Refuse an attempt before a job's delay is over, counted from its first submission."""
    for job in history.jobs.values():
        made, terms = job.made, job.terms
        if made is None or not job.runs:
            continue
        due_at = max(made.at + terms.delay_s, terms.not_before_at or 0.0)
        first = min((run.start for run in job.runs), key=place)
        if first.at < due_at - history.bounds.skew_s and due_at > made.at:
            why = f"it began {due_at - first.at:g} s before its time"
            yield StartedEarly(job.id, why, (made, first))


class RetriedEarly(Violation):
    """A job that has failed waits before it is tried again."""


def retries_wait(history: History) -> Iterator[RetriedEarly]:
    """Refuse an attempt that began too soon after one that has failed or was too early; but where
    that one's lease was lost, as then its report may not count."""
    for job in history.jobs.values():
        failures = 0
        runs = job.leased_runs
        for run, after in pairwise(runs):
            if run.end is None or run.lost or run.is_doubtful or run.end.outcome == "left":
                continue
            failures += run.end.outcome == "failed"
            wait_s = run.end.delay_s
            if wait_s is None:
                wait_s = _wait_s(job.terms, failures) if run.end.outcome == "failed" else 0.0
            waited_s = after.start.at - run.end.at
            if waited_s < wait_s - history.bounds.skew_s and before(run.end, after.start):
                why = f"it waited for {waited_s:g} s and not for {wait_s:g} s"
                yield RetriedEarly(job.id, why, (run.end, after.start))


def _wait_s(terms: Terms, failures: int) -> float:
    wait_s: float = terms.backoff_s * 2.0 ** min(failures - 1, 64)
    if terms.backoff_max_s is not None:
        wait_s = min(wait_s, terms.backoff_max_s)
    return wait_s * (1.0 - terms.jitter)


# --- when they are over -------------------------------------------------------------------------


class StartedExpired(Violation):
    """A job that has not begun in time does not run."""


def what_expired_does_not_start(history: History) -> Iterator[StartedExpired]:
    """Refuse a first attempt after a job's time to begin, counted from its acceptance; but after a
    lease that was lost, as what was given out has begun, or may have."""
    for job in history.jobs.values():
        accepted = min(job.accepted, key=place, default=None)
        first = next(iter(job.runs), None)
        expires_s = job.terms.expires_s
        if expires_s is None or accepted is None or first is None or job.lost:
            continue
        late_s = first.start.at - (accepted.at + expires_s)
        if late_s > _tolerance_s(history) and not _is_delayed(history, first):
            why = f"it began {late_s:g} s after it had expired"
            yield StartedExpired(job.id, why, (accepted, first.start))


class BeyondDeadline(Violation):
    """Nothing of a job begins or runs after its deadline."""


def deadlines_hold(history: History) -> Iterator[BeyondDeadline]:
    """Refuse an attempt that begins after a job's deadline, or that can be told to stop and has not
    left by then."""
    for job in history.jobs.values():
        deadline_at = job.terms.deadline_at
        for run in job.leased_runs if deadline_at is not None else ():
            assert deadline_at is not None
            last_at = run.last_at(history.end_at) if run.start.is_reachable else run.start.at
            late_s = last_at - deadline_at
            if late_s > _tolerance_s(history) and not _is_unreachable(history, run, last_at):
                why = f"an attempt ran {late_s:g} s beyond its deadline"
                yield BeyondDeadline(job.id, why, tuple(run.events))


class OverTime(Violation):
    """An attempt runs no longer than it may."""


def time_limits_hold(history: History) -> Iterator[OverTime]:
    """Refuse an attempt that can be told to stop and has not left when its time was up."""
    for job in history.jobs.values():
        timeout_s = job.terms.timeout_s
        for run in job.leased_runs if timeout_s is not None else ():
            assert timeout_s is not None
            last_at = run.last_at(history.end_at)
            is_over = last_at - run.start.at > timeout_s + _tolerance_s(history)
            if is_over and run.start.is_reachable and not _is_unreachable(history, run, last_at):
                why = f"an attempt ran for {last_at - run.start.at:g} s of {timeout_s:g}"
                yield OverTime(job.id, why, tuple(run.events))


def _tolerance_s(history: History) -> float:
    return history.bounds.grace_s + history.bounds.skew_s


def _is_delayed(history: History, run: Run) -> bool:
    """Whether an offer may have waited for its worker to be woken."""
    at = run.start.at
    return history.was_paused(run.start.process, at - history.bounds.grace_s, at)


def _is_unreachable(history: History, run: Run, last_at: float) -> bool:
    since = run.start.at - history.bounds.grace_s
    return history.was_paused(run.start.process, since, last_at)


RULES = (
    nothing_starts_after_the_end,
    nothing_runs_beyond_the_end,
    nothing_starts_after_a_cancel,
    the_lost_leave,
    the_cancelled_leaves,
    attempts_begin_once,
    attempts_are_counted,
    at_most_once_is_at_most_once,
    delays_are_kept,
    retries_wait,
    what_expired_does_not_start,
    deadlines_hold,
    time_limits_hold,
)
