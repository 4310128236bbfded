"""Rules for what is around jobs: scopes and schedules."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from creche.testing.history.events import (
    Back,
    Fired,
    Gone,
    Paused,
    Scheduled,
    ScopeClosed,
    Woken,
    before,
    place,
)
from creche.testing.history.view import History
from creche.testing.history.violation import Violation

# --- scopes -------------------------------------------------------------------------------------


class OutlivedScope(Violation):
    """No job survives its scope, nor a scope above that."""


def jobs_end_with_their_scope(history: History) -> Iterator[OutlivedScope]:
    """Refuse an attempt that began, or still had its lease, when the job's scope or one above it
    was closed, and a job that was accepted when it was submitted after that."""
    closings: dict[str, ScopeClosed | None] = {}
    for job in history.jobs.values():
        closed = _closing(history, job.terms.scope, closings) if job.terms.scope else None
        if closed is None:
            continue
        for call in job.calls:
            if call.accepted and before(closed, call.submit):
                why = f"it was accepted after scope {closed.scope} was closed"
                yield OutlivedScope(job.id, why, (closed, call.submit, call.accepted))
        for run in job.leased_runs:
            is_after = before(closed, run.start)
            if is_after or (run.is_running_after(closed) and not run.is_doubtful):
                why = f"an attempt {'began' if is_after else 'ran'} after {closed.scope} was closed"
                yield OutlivedScope(job.id, why, (closed, *run.events))


def _closing(
    history: History, scope: str, known: dict[str, ScopeClosed | None]
) -> ScopeClosed | None:
    """Return the first closing of a scope or one above it."""
    above: list[str] = []
    while scope not in known:
        known[scope] = history.closed.get(scope)
        above.append(scope)
        opened = history.scopes.get(scope)
        if opened is None or opened.parent is None:
            break
        scope = opened.parent
    first = known[scope]
    for name in reversed(above):
        found = [closed for closed in (known[name], first) if closed is not None]
        first = known[name] = min(found, key=place, default=None)
    return first


# --- schedules ----------------------------------------------------------------------------------


class FiredTwice(Violation):
    """A moment of a schedule has one job at most."""


def moments_fire_once(history: History) -> Iterator[FiredTwice]:
    """Refuse a second job for a moment."""
    for name, firings in history.fired.items():
        by_moment: dict[float, Fired] = {}
        for fired in firings:
            first = by_moment.setdefault(fired.moment, fired)
            if first.job != fired.job:
                why = f"schedule {name} has also fired job {first.job} for {fired.moment:g}"
                yield FiredTwice(fired.job, why, (first, fired))


class FiredUnasked(Violation):
    """A schedule fires for the moments of its rule, and not before them."""


def firings_are_due(history: History) -> Iterator[FiredUnasked]:
    """Refuse a firing for a moment that the rule does not name, or before it."""
    for name, schedule in history.schedules.items():
        moments = set(schedule.moments)
        for fired in history.fired[name]:
            early = fired.at < fired.moment - history.bounds.skew_s
            if fired.moment not in moments or early:
                why = f"schedule {name} fired for {fired.moment:g}, which is not due"
                yield FiredUnasked(fired.job, why, (schedule, fired))


class NotFired(Violation):
    """A schedule that makes up for what it missed fires for each moment, or, if that is its policy,
    once for all that were missed in one go."""


def moments_are_not_left_out(history: History) -> Iterator[NotFired]:
    """Refuse a moment of such a schedule without a job, once all faults are over; but where the
    plane was away then, and the next one came before it was back: one that makes up for
    all of them has no such excuse."""
    if history.quiescent is None:
        return
    grace_s = history.bounds.grace_s
    away = _away(history)
    for name, schedule in history.schedules.items():
        if schedule.missed not in ("once", "all") or schedule.overlap != "allow":
            continue
        fired = {each.moment for each in history.fired[name]}
        for moment, after in pairwise([*sorted(schedule.moments), float("inf")]):
            if not _is_due(history, schedule, moment):
                continue
            is_missed = schedule.missed == "once" and any(
                since - grace_s <= moment <= until + grace_s and after <= until + grace_s
                for since, until in away
            )
            if moment not in fired and not is_missed:
                why = f"schedule {name} has not fired for {moment:g}"
                yield NotFired("", why, (schedule, history.quiescent))


def _is_due(history: History, schedule: Scheduled, moment: float) -> bool:
    assert history.quiescent is not None
    return schedule.at <= moment <= history.quiescent.at - history.bounds.grace_s


def _away(history: History) -> list[tuple[float, float]]:
    """Return when there was no plane, or nobody could reach it."""
    spans: list[tuple[float, float]] = []
    since: dict[str, float] = {}
    for trouble in history.plane_troubles:
        if isinstance(trouble, Gone | Paused):
            since.setdefault(trouble.who, trouble.at)
        elif isinstance(trouble, Back | Woken) and trouble.who in since:
            spans.append((since.pop(trouble.who), trouble.at))
    spans += [(at, float("inf")) for at in since.values()]
    away: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        # One right after the other is one: there was no time to do anything between them.
        if away and begin <= away[-1][1] + history.bounds.grace_s:
            begin, end = away[-1][0], max(away.pop()[1], end)
        away.append((begin, end))
    return away


RULES = (
    jobs_end_with_their_scope,
    moments_fire_once,
    firings_are_due,
    moments_are_not_left_out,
)
