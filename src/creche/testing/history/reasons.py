"""Rules for how a job ended: what a final state says must have happened."""

from __future__ import annotations

from collections.abc import Iterator

from creche.testing.history.ends import has_surely_lost, was_asked_after
from creche.testing.history.events import (
    FINAL,
    FORGOTTEN,
    UNKNOWN,
    Accepted,
    CancelAnswered,
    Saw,
    before,
    place,
)
from creche.testing.history.view import History, Job, Run
from creche.testing.history.violation import Violation


class FailedEarly(Violation):
    """A job has failed when its last attempt has, or when it has lost as many leases as it may."""


def failures_take_their_attempts(history: History) -> Iterator[FailedEarly]:
    """Refuse a failure for which too few attempts can have failed, and too few leases were lost.
    Every attempt counts that may have failed: one that was told to leave may have had no time left,
    and one of which nobody knows how it ended may have been killed for that. A job that may have
    been cancelled, or that has a deadline, needs no more than one."""
    for job in history.jobs.values():
        saw = _only_end(job, "failed")
        if saw is None or not (job.calls or job.fired):
            continue
        lost = [lost for lost in job.lost if not before(saw, lost)]
        if lost and len(lost) >= (job.terms.max_losses or 1):
            continue
        runs = [run for run in job.runs if not before(saw, run.start)]
        failed = [run for run in runs if _may_have_failed(history, job, run)]
        needed = _needed(history, job, failed)
        if len(failed) < needed:
            why = f"{len(failed)} attempts can have failed, and {needed} would have to"
            yield FailedEarly(job.id, why, (*(e for run in failed for e in run.events), saw))


def _needed(history: History, job: Job, failed: list[Run]) -> int:
    """Return how many attempts must have failed before there is no further one."""
    terms = job.terms
    may_be_cut_short = (
        terms.is_at_most_once
        or terms.deadline_at is not None
        or history.may_be_cancelled(job)
        or any(run.end is not None and run.end.is_last for run in failed)
    )
    return 1 if may_be_cut_short or terms.retries is None else 1 + terms.retries


def _may_have_failed(history: History, job: Job, run: Run) -> bool:
    has_ended_well = run.end is not None and run.end.outcome in ("succeeded", "snoozed")
    return not has_ended_well and not has_surely_lost(history, job, run)


class ExpiredEarly(Violation):
    """A job does not expire before its time."""


def what_expires_had_its_time(history: History) -> Iterator[ExpiredEarly]:
    """Refuse a job that was seen as expired when it could still begin in time, counted from its
    first submission, and its deadline had not come."""
    for job in history.jobs.values():
        saw, terms = _only_end(job, "expired"), job.terms
        if saw is None or job.fired or not job.calls:
            continue
        submit = min((call.submit for call in job.calls), key=place)
        ends = [terms.deadline_at] if terms.deadline_at is not None else []
        if terms.expires_s is not None:
            ends.append(submit.at + terms.expires_s)
        early_s = min(ends, default=saw.at) - saw.at
        if early_s > history.bounds.skew_s:
            why = f"it expired {early_s:g} s before its time"
            yield ExpiredEarly(job.id, why, (submit, saw))


class LostUnasked(Violation):
    """A job is lost only if the lease of its attempt was."""


def what_is_lost_has_lost_its_lease(history: History) -> Iterator[LostUnasked]:
    """Refuse a job that was told to be lost, and of which no lease was ever declared so."""
    for job in history.jobs.values():
        saw = _only_end(job, "lost")
        if saw is not None and job.terms.is_at_most_once and not job.lost:
            ran = [event for run in job.runs for event in run.events]
            yield LostUnasked(job.id, "it is lost, and no lease of it was", (*ran, saw))


class CancelBelied(Violation):
    """What whoever cancels a job is told of it is so, and what follows is what may follow."""


_MAY_FOLLOW = {"cancelling": frozenset({"cancelling", "cancelled", "succeeded", "failed"})}
"""What may be seen of a job after such an answer, beside nothing; a final state stays."""


def answers_to_cancels_hold(history: History) -> Iterator[CancelBelied]:
    """Refuse an answer that a job cannot have been in, as it was seen in another final state, or
    was asked for later and had not ended; and one that nobody knows a job that had been
    accepted."""
    for job in history.jobs.values():
        for answer in job.answers:
            if answer.state in FINAL or answer.state in _MAY_FOLLOW:
                belied = next((saw for saw in job.saw if _belies(saw, answer)), None)
                if belied is not None:
                    why = f"who cancelled it was told that it is {answer.state}, not {belied.state}"
                    yield CancelBelied(job.id, why, (answer, belied))
                    break
            first = min(job.accepted, key=place, default=None)
            if first is not None and _is_unknown_wrongly(history, job, first, answer):
                why = "it was accepted, and is unknown to who cancelled it"
                yield CancelBelied(job.id, why, (first, answer))
                break


def _belies(saw: Saw, answer: CancelAnswered) -> bool:
    may_follow = _MAY_FOLLOW.get(answer.state, {answer.state})
    if saw.state in may_follow or saw.state in (FORGOTTEN, UNKNOWN):
        return False
    return saw.state in FINAL or was_asked_after(saw, answer)


def _is_unknown_wrongly(
    history: History, job: Job, accepted: Accepted, answer: CancelAnswered
) -> bool:
    """Whether all who have cancelled a job did so when it was accepted, and one was told that
    nobody knows it."""
    if answer.state != UNKNOWN or not job.cancels:
        return False
    is_known = all(before(accepted, cancel) for cancel in job.cancels)
    submit = history.calls[accepted.call].submit
    return is_known and answer.at < submit.at + history.bounds.kept_s


def _only_end(job: Job, state: str) -> Saw | None:
    """Return the first that saw a job in a final state, if nobody has seen another one: else it is
    not known how it ended."""
    seen = [saw for saw in job.finals if saw.state != FORGOTTEN]
    if any(saw.state != state for saw in seen):
        return None
    return min(seen, key=place, default=None)


RULES = (
    failures_take_their_attempts,
    what_expires_had_its_time,
    what_is_lost_has_lost_its_lease,
    answers_to_cancels_hold,
)
