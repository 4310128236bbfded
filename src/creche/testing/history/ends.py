"""Rules for the end of a job: it comes once, everybody sees the same, and for a reason."""

from __future__ import annotations

import math
from collections.abc import Iterator

from creche.testing.history.events import (
    FINAL,
    FORGOTTEN,
    UNKNOWN,
    Event,
    Saw,
    before,
    place,
)
from creche.testing.history.view import History, Job, Run
from creche.testing.history.violation import Violation


class NoEnd(Violation):
    """An accepted job comes to an end."""


def accepted_jobs_end(history: History) -> Iterator[NoEnd]:
    """Refuse what was accepted and has no end, once all faults are over."""
    if history.quiescent is None:
        return
    for job in history.jobs.values():
        told: list[Event] = [*job.accepted, *job.fired]
        if told and not job.finals:
            yield NoEnd(job.id, "it was accepted, and has no end", (told[0], history.quiescent))


class TwoEnds(Violation):
    """A job has one final state."""


def jobs_end_once(history: History) -> Iterator[TwoEnds]:
    """Refuse a job that was seen in two final states."""
    for job in history.jobs.values():
        seen: dict[str, Saw] = {}
        for saw in job.finals:
            if saw.state != FORGOTTEN:
                seen.setdefault(saw.state, saw)
        if len(seen) > 1:
            yield TwoEnds(job.id, f"it has ended as {' and as '.join(seen)}", (*seen.values(),))


class CameBack(Violation):
    """A job that has ended stays so, whoever asks."""


def ends_stay(history: History) -> Iterator[CameBack]:
    """Refuse an answer that a job has not ended, to a question that came after its end was seen."""
    for job in history.jobs.values():
        first = min(job.finals, key=place, default=None)
        for saw in job.saw if first else ():
            is_unended = saw.state not in FINAL and saw.state not in (FORGOTTEN, UNKNOWN)
            if first and is_unended and was_asked_after(saw, first):
                why = f"it is {saw.state} when it had ended as {first.state}"
                yield CameBack(job.id, why, (first, saw))


class Vanished(Violation):
    """What was accepted is known, whatever is killed and started again."""


def accepted_jobs_are_known(history: History) -> Iterator[Vanished]:
    """Refuse an answer that nobody knows a job, to a question that came after its acceptance."""
    for job in history.jobs.values():
        first = min(job.accepted, key=place, default=None)
        for saw in job.saw if first else ():
            if first is None or saw.state != UNKNOWN or not was_asked_after(saw, first):
                continue
            if saw.at < history.calls[first.call].submit.at + history.bounds.kept_s:
                yield Vanished(job.id, "it was accepted, and is unknown", (first, saw))
                break


def was_asked_after(saw: Saw, event: Event) -> bool:
    """Whether a question was surely put after an event."""
    return before(event, saw) if saw.asked_at is None else event.at < saw.asked_at


class NoReason(Violation):
    """A job is lost, expired or cancelled only if its submitter or somebody else said so."""


def ends_have_reasons(history: History) -> Iterator[NoReason]:
    """Refuse an end that nothing in a job's terms, and nobody, has asked for."""
    for job in history.jobs.values():
        terms, is_made = job.terms, bool(job.calls or job.fired)
        reasons = {
            "lost": terms.is_at_most_once,
            "expired": terms.expires_s is not None or terms.deadline_at is not None,
            "cancelled": history.may_be_cancelled(job),
        }
        for saw in job.finals if is_made else ():
            if not reasons.get(saw.state, True):
                yield NoReason(job.id, f"nobody has asked for it to be {saw.state}", (saw,))
                break


# --- results ------------------------------------------------------------------------------------


class TwoResults(Violation):
    """Every reader sees the same result."""


def readers_agree(history: History) -> Iterator[TwoResults]:
    """Refuse two results of one job."""
    for job in history.jobs.values():
        results = _results(job)
        other = next((saw for saw in results if saw.value != results[0].value), None)
        if other is not None:
            yield TwoResults(job.id, "two readers saw two results", (results[0], other))


class UnknownResult(Violation):
    """A result is what an attempt has ended with."""


def results_are_made(history: History) -> Iterator[UnknownResult]:
    """Refuse a success that no attempt had come to."""
    for job in history.jobs.values():
        for saw in _successes(job):
            if not _makers(job, saw):
                yield UnknownResult(job.id, "no attempt has ended with this result", (saw,))
                break


class LateResult(Violation):
    """The result of an attempt that has lost its lease is never seen."""


def late_results_are_unseen(history: History) -> Iterator[LateResult]:
    """Refuse a result that only attempts without a lease had come to."""
    for job in history.jobs.values():
        for saw in _successes(job):
            makers = _makers(job, saw)
            if makers and all(has_surely_lost(history, job, run) for run in makers):
                proof = (*makers[0].events, saw)
                yield LateResult(job.id, "the lease of its attempt was lost", proof)
                break


_MAY_GO_ON = ("running", "cancelling", "succeeded")
"""What may be seen of a job whose attempt has its lease, or had it to its end."""


def has_surely_lost(history: History, job: Job, run: Run) -> bool:
    """Whether an attempt had lost its lease for good. Of a loss that was declared before the plane
    was killed, nobody knows whether it was on disk, unless something followed from it."""
    if run.lost is None:
        return False
    followed = [
        event.at
        for event in (*(each.start for each in job.runs), *job.saw)
        if before(run.lost, event) and not (isinstance(event, Saw) and event.state in _MAY_GO_ON)
    ]
    return not history.plane_was_killed(run.lost.at, min(followed, default=math.inf))


def _successes(job: Job) -> list[Saw]:
    return [saw for saw in job.saw if saw.state == "succeeded"]


def _results(job: Job) -> list[Saw]:
    return [saw for saw in _successes(job) if saw.value is not None]


def _makers(job: Job, saw: Saw) -> list[Run]:
    return [
        run
        for run in job.runs
        if run.end is not None
        and run.end.outcome == "succeeded"
        and saw.value in (None, run.end.value)
        and not before(saw, run.end)
    ]


RULES = (
    accepted_jobs_end,
    jobs_end_once,
    ends_stay,
    accepted_jobs_are_known,
    ends_have_reasons,
    readers_agree,
    results_are_made,
    late_results_are_unseen,
)
