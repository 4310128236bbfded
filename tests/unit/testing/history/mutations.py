"""Ways to break one promise in a history that keeps them all: each takes the history of a correct
queue, and changes what was seen, or what was promised. None: there is nothing in it to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise, permutations
from random import Random
from typing import Any, NamedTuple

from tests.unit.testing.history.model import LONG_S

from creche.testing import history as h
from creche.testing.history.events import Event, before
from creche.testing.history.view import Job, Run

MORE_S = 1.5
"""More than the grace."""

Mutation = Callable[["Past"], list[Event] | None]

MUTATIONS: list[tuple[type[h.Violation], Mutation]] = []


def breaks(violation: type[h.Violation]) -> Callable[[Mutation], Mutation]:
    """Tell which promise a mutation breaks."""

    def listed(mutation: Mutation) -> Mutation:
        MUTATIONS.append((violation, mutation))
        return mutation

    return listed


class Clean(NamedTuple):
    """An attempt that met no fault, and its job."""

    job: Job
    run: Run


class Past:
    """A history, and what a mutation does with it."""

    def __init__(self, events: list[Event], bounds: h.Bounds, rng: Random) -> None:
        self.events = events
        self.view = h.History(events, bounds)
        self.rng = rng

    def one(self, found: Iterable[Any]) -> Any:
        """Return one of what was found by chance, None if nothing was."""
        these = list(found)
        return self.rng.choice(these) if these else None

    def jobs(self, fits: Callable[[Job], object]) -> Job | None:
        return self.one(job for job in self.view.jobs.values() if fits(job))

    def clean(self, fits: Callable[[Clean], object] = lambda _: True) -> list[Clean]:
        """Return the attempts of accepted jobs that met no fault."""
        return [
            one
            for job in self.view.jobs.values()
            if len(job.calls) == 1 and job.accepted and job.calls[0].accepted
            for run in job.runs
            if run.end and not (run.lost or run.is_doubtful or run.gone)
            and not self.view.was_paused(run.start.process, run.start.at - 9, run.end.at)
            if fits(one := Clean(job, run))
        ]  # fmt: skip

    def changed(self, changes: dict[int, list[Event]]) -> list[Event]:
        """Return the events with others instead of some, which are named by their numbers."""
        found = (one for event in self.events for one in changes.get(event.n, [event]))
        return [replace(event, n=n) for n, event in enumerate(found)]

    def said(self, changes: list[tuple[Job, dict[str, Any]]]) -> list[Event]:
        """Return the events with other terms of jobs."""
        submits = ((job.calls[0].submit, terms) for job, terms in changes)
        return self.changed(
            {s.n: [replace(s, terms=replace(s.terms, **terms))] for s, terms in submits}
        )

    def with_last(self, kind: type[Event], **said: Any) -> list[Event]:
        """Return the events with one more at their end."""
        last = self.events[-1]
        event = kind(at=last.at + MORE_S, process="late", n=last.n + 1, **said)
        return [*self.events, event]


# --- ends ---------------------------------------------------------------------------------------


@breaks(h.NoEnd)
def nobody_sees_an_end(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.accepted or job.fired)
    return past.changed({saw.n: [] for saw in job.finals}) if job else None


@breaks(h.TwoEnds)
def somebody_sees_another_end(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.finals)
    if job is None:
        return None
    state = "succeeded" if job.finals[0].state == "failed" else "failed"
    return past.with_last(h.Saw, job=job.id, state=state)


@breaks(h.CameBack)
def somebody_sees_it_run(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.finals)
    return job and past.with_last(h.Saw, job=job.id, state="running")


@breaks(h.Vanished)
def somebody_is_told_that_it_is_unknown(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.accepted)
    return job and past.with_last(h.Saw, job=job.id, state="unknown")


@breaks(h.NoReason)
def it_is_lost_for_no_reason(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.calls and job.finals and not job.terms.is_at_most_once)
    return job and past.changed({saw.n: [replace(saw, state="lost")] for saw in job.finals})


@breaks(h.TwoResults)
def somebody_sees_another_result(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: any(saw.value for saw in job.saw))
    return job and past.with_last(h.Saw, job=job.id, state="succeeded", value="else")


@breaks(h.UnknownResult)
def its_body_had_another_result(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: any(saw.value for saw in job.saw))
    ends = [run.end for run in job.runs if run.end] if job else []
    return past.changed({end.n: [replace(end, value="else")] for end in ends}) if ends else None


@breaks(h.LateResult)
def its_lease_was_lost(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: any(saw.state == "succeeded" for saw in job.saw))
    ends = [run.end for run in job.runs if run.end] if job else []
    if any(past.view.plane_was_killed(end.at, math.inf) for end in ends):
        return None
    lost = {
        end.n: [h.Lost(at=end.at, process="plane", job=end.job, attempt=end.attempt), end]
        for end in ends
    }
    return past.changed({n: list(events) for n, events in lost.items()}) if lost else None


@breaks(h.FailedEarly)
def it_should_have_been_tried_again(past: Past) -> list[Event] | None:
    job = past.jobs(
        lambda job: (
            any(saw.state == "failed" for saw in job.finals)
            and len(job.calls) == 1
            and not (job.lost or job.terms.is_at_most_once or past.view.may_be_cancelled(job))
        )
    )
    terms = {"retries": len(job.runs) + 1, "deadline_at": None} if job else {}
    return past.said([(job, terms)]) if job else None


@breaks(h.ExpiredEarly)
def it_had_more_time(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: len(job.calls) == 1 and any(s.state == "expired" for s in job.saw))
    terms = {"expires_s": 1000.0, "deadline_at": 1000.0}
    return past.said([(job, terms)]) if job else None


@breaks(h.LostUnasked)
def nobody_has_declared_it_lost(past: Past) -> list[Event] | None:
    job = past.jobs(
        lambda job: job.terms.is_at_most_once and any(saw.state == "lost" for saw in job.finals)
    )
    return past.changed({lost.n: [] for lost in job.lost}) if job else None


@breaks(h.CancelBelied)
def who_cancels_it_is_told_something_else(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.answers and job.finals)
    if job is None:
        return None
    state = "succeeded" if job.finals[0].state == "cancelled" else "cancelled"
    return past.changed({a.n: [replace(a, state=state)] for a in job.answers})


# --- attempts -----------------------------------------------------------------------------------


@breaks(h.StartedAfterEnd)
def it_begins_once_more(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: job.finals)
    return job and past.with_last(h.Started, job=job.id, attempt="late")


@breaks(h.RanBeyondEnd)
def its_body_leaves_long_after(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean(lambda one: one.job.finals))
    if one is None:
        return None
    end = one.run.end
    assert end
    events = past.changed({end.n: []})
    return [*events, replace(end, at=events[-1].at + MORE_S, n=len(events))]


@breaks(h.StartedAfterCancel)
def it_begins_though_it_was_cancelled(past: Past) -> list[Event] | None:
    job = past.jobs(lambda job: any(answer.state == "cancelled" for answer in job.answers))
    return job and past.with_last(h.Started, job=job.id, attempt="late")


@breaks(h.RanBeyondLease)
def it_runs_on_when_its_lease_was_lost(past: Past) -> list[Event] | None:
    ends = [
        run.end for job in past.view.jobs.values() for run in job.runs
        if run.lost and run.end and run.end.at <= run.lost.at + LONG_S
        and not past.view.was_paused(run.start.process, run.start.at - 9, math.inf)
    ]  # fmt: skip
    end = past.one(ends)
    if end is None:
        return None
    events = past.changed({end.n: []})
    return [*events, replace(end, at=events[-1].at + 2 * LONG_S, n=len(events))]


@breaks(h.RanBeyondCancel)
def it_runs_on_when_it_was_cancelled(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean(lambda one: one.run is one.job.runs[-1]))
    if one is None or past.view.plane_troubles or one.run.end is None:
        return None
    start, last = one.run.start, past.events[-1]
    said = {"at": start.at, "process": "client", "job": start.job}
    cancelled = [h.Cancel(**said), h.CancelAnswered(**said, state="cancelling")]
    events = past.changed({start.n: [start, *cancelled], one.run.end.n: []})
    joined = h.Joined(at=-1.0, process="plane", who=start.process, role="worker")
    return [joined, *events, replace(one.run.end, at=last.at + 2 * MORE_S, n=len(events))]


def _more(run: Run, count: int) -> dict[int, list[Event]]:
    """Return so many attempts that fail in the moment before one begins."""
    events: list[Event] = []
    for n in range(count):
        said = {"job": run.start.job, "attempt": f"more {n}"}
        events.append(h.Started(at=run.start.at, process="more", **said))
        events.append(h.Ended(at=run.start.at, process="more", outcome="failed", **said))
    return {run.start.n: [*events, run.start]}


@breaks(h.BegunTwice)
def it_is_begun_twice(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean())
    return one and past.changed({one.run.start.n: [one.run.start, one.run.start]})


@breaks(h.TooManyAttempts)
def it_is_tried_more_often(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(
        past.clean(lambda one: one.run.end and one.run.end.outcome != "snoozed"
                   and not one.job.terms.is_at_most_once and one.job.terms.retries is not None)
    )  # fmt: skip
    return one and past.changed(_more(one.run, 1 + (one.job.terms.retries or 0)))


@breaks(h.RanTwice)
def it_runs_twice(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(
        past.clean(lambda one: one.job.terms.is_at_most_once
                   and one.run.end and one.run.end.outcome != "snoozed")
    )  # fmt: skip
    return one and past.changed(_more(one.run, 1))


@breaks(h.StartedEarly)
def it_was_for_later(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean())
    return one and past.said([(one.job, {"not_before_at": one.run.start.at + MORE_S})])


@breaks(h.RetriedEarly)
def it_should_have_waited(past: Past) -> list[Event] | None:
    clean = past.clean()
    pairs = [
        (a.run, b.run) for a, b in pairwise(clean)
        if a.job is b.job and a.run.end and a.run.end.outcome in ("failed", "snoozed")
        and past.view.jobs[a.job.id].runs.index(b.run) == a.job.runs.index(a.run) + 1
    ]  # fmt: skip
    pair = past.one(pairs)
    if pair is None:
        return None
    first, second = pair
    delay_s = second.start.at - first.end.at + MORE_S
    return past.changed({first.end.n: [replace(first.end, delay_s=delay_s)]})


@breaks(h.StartedExpired)
def it_should_have_expired(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(
        one
        for one in past.clean()
        if one.run is one.job.runs[0]
        and not one.job.lost
        and one.run.start.at - one.job.accepted[0].at > MORE_S
    )
    if one is None:
        return None
    waited_s = one.run.start.at - one.job.accepted[0].at
    return past.said([(one.job, {"expires_s": waited_s - MORE_S})])


@breaks(h.BeyondDeadline)
def it_had_a_deadline(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean())
    return one and past.said([(one.job, {"deadline_at": one.run.last_at(0) - MORE_S})])


@breaks(h.OverTime)
def it_had_a_time_limit(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(
        one for one in past.clean() if one.run.last_at(0) - one.run.start.at >= MORE_S
    )
    if one is None:
        return None
    ran_s = one.run.last_at(0) - one.run.start.at
    return past.said([(one.job, {"timeout_s": ran_s - MORE_S})])


# --- submissions --------------------------------------------------------------------------------


@breaks(h.Invented)
def nobody_has_submitted_it(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean(lambda one: len(one.job.accepted) == 1))
    if one is None:
        return None
    call = one.job.calls[0]
    return past.changed({event.n: [] for event in (call.submit, call.accepted) if event})


@breaks(h.RanThoughRefused)
def it_was_refused(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean())
    told = one and one.job.calls[0].accepted
    if not told:
        return None
    refused = h.Refused(at=told.at, process=told.process, call=told.call)
    return past.changed({told.n: [refused]})


@breaks(h.RanAsTwo)
def its_second_attempt_is_of_another_job(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(
        past.clean(lambda one: one.run is not one.job.runs[0] and one.run.start.call)
    )
    if one is None or one.run.end is None:
        return None
    changes: dict[int, list[Event]] = {
        event.n: [replace(event, job="another")] for event in (one.run.start, one.run.end)
    }
    return past.changed(changes)


@breaks(h.MetStranger)
def it_has_no_key(past: Past) -> list[Event] | None:
    met = [
        call.submit for call in past.view.calls.values()
        if call.accepted and call.accepted.is_existing and past.view.jobs[call.accepted.job].calls
    ]  # fmt: skip
    submit = past.one(met)
    if submit is None:
        return None
    terms = replace(submit.terms, idempotency_key=None, unique_key=None)
    return past.changed({submit.n: [replace(submit, terms=terms)]})


@breaks(h.MetTheDead)
def it_had_ended_before(past: Past) -> list[Event] | None:
    met = [
        call.submit for call in past.view.calls.values()
        if call.accepted and call.accepted.is_existing
        and call.submit.terms.unique_key and not call.submit.terms.idempotency_key
    ]  # fmt: skip
    submit = past.one(met)
    accepted = submit and past.view.calls[submit.call].accepted
    if not accepted:
        return None
    saw = h.Saw(at=submit.at, process="early", job=accepted.job, state="succeeded")
    return past.changed({submit.n: [saw, submit]})


@breaks(h.KeyIsTwoJobs)
def they_have_one_idempotency_key(past: Past) -> list[Event] | None:
    pair = past.one((a, b) for a, b in permutations(past.clean(), 2) if a.job is not b.job)
    terms = {"task": "shared", "idempotency_key": "shared"}
    return pair and past.said([(one.job, terms) for one in pair])


def _beside(past: Past) -> tuple[Job, Job] | None:
    """Return a job that began long after another one was accepted that was submitted after it."""
    found: tuple[Job, Job] | None = past.one(
        (a.job, b.job)
        for a, b in permutations(past.clean(), 2)
        if a.job is not b.job
        and a.run is a.job.runs[0]
        and not a.job.cancels
        and a.job.terms.scope is None
        and a.job.accepted[0].at < b.job.calls[0].submit.at
        and a.run.start.at > b.job.accepted[0].at + MORE_S
    )
    return found


@breaks(h.TwoLiveJobs)
def they_should_be_one(past: Past) -> list[Event] | None:
    pair = _beside(past)
    terms = {"task": "shared", "unique_key": "shared", "on_duplicate": "existing"}
    return past.said([(job, terms) for job in pair]) if pair else None


@breaks(h.ReplacedStarted)
def it_should_have_been_replaced(past: Past) -> list[Event] | None:
    pair = _beside(past)
    if pair is None:
        return None
    has_met_faults = pair[0].lost or past.view.plane_troubles
    rule = "cancel" if has_met_faults else past.rng.choice(["replace", "cancel"])
    terms = {"task": "shared", "unique_key": "shared", "on_duplicate": rule}
    return past.said([(job, terms) for job in pair])


# --- what many share ----------------------------------------------------------------------------


@breaks(h.OverLimit)
def one_of_them_should_run_at_a_time(past: Past) -> list[Event] | None:
    clean = past.clean(lambda one: len(one.job.runs) == 1)
    pair = past.one((a, b) for a, b in permutations(clean, 2) if a.run.overlaps(b.run))
    if pair is None:
        return None
    events = past.said([(one.job, {"task": "shared"}) for one in pair])
    return [h.Limit(at=-1.0, process="client", gate="task:shared", most=1), *events]


@breaks(h.OverRate)
def one_of_them_should_begin_at_a_time(past: Past) -> list[Event] | None:
    clean = past.clean(lambda one: len(one.job.runs) == 1)
    faults = [trouble.at for trouble in past.view.plane_troubles]
    pair = past.one(
        (a, b)
        for a, b in permutations(clean, 2)
        if a.job is not b.job and 0 <= b.run.start.at - a.run.start.at < 9
        and not any(a.run.start.at <= at <= b.run.start.at for at in faults)
    )  # fmt: skip
    if pair is None:
        return None
    events = past.said([(one.job, {"task": "shared"}) for one in pair])
    rate = h.Rate(at=-1.0, process="client", gate="task:shared", count=1, per_s=100.0)
    return [rate, *events]


@breaks(h.OutOfOrder)
def they_change_places(past: Past) -> list[Event] | None:
    faults = [event.at for event in past.events if isinstance(event, h.Lost)]
    faults += [trouble.at for trouble in past.view.troubles]
    clean = past.clean(
        lambda one: one.job.terms.queue == "one" and len(one.job.runs) == 1
        and one.job.terms.task != "few" and not one.job.terms.delay_s
        and one.job.terms.not_before_at is None
    )  # fmt: skip
    pair = past.one(
        (a, b)
        for a, b in permutations(clean, 2)
        if a.job.terms.priority == b.job.terms.priority
        and before(a.job.accepted[0], b.job.calls[0].submit)
        and before(b.job.calls[0].submit, a.run.start)
        and before(a.run.start, b.run.start)
        and not any(a.job.calls[0].submit.at <= at <= b.run.start.at for at in faults)
    )
    if pair is None:
        return None
    changes: dict[int, list[Event]] = {}
    for one, other in (pair, pair[::-1]):
        for event in (one.run.start, one.run.end):
            changes[event.n] = [replace(event, job=other.job.id)]
    return past.changed(changes)


@breaks(h.PriorityInverted)
def one_of_them_was_less_urgent(past: Past) -> list[Event] | None:
    faults = [event.at for event in past.events if isinstance(event, h.Lost)]
    faults += [trouble.at for trouble in past.view.troubles]
    clean = past.clean(
        lambda one: one.job.terms.queue == "one" and len(one.job.runs) == 1
        and one.job.terms.task != "few" and not one.job.terms.delay_s
        and one.job.terms.not_before_at is None
    )  # fmt: skip
    pair = past.one(
        (a, b)
        for a, b in permutations(clean, 2)
        if b.job.accepted[0].at < a.run.start.at - MORE_S
        and before(a.run.start, b.run.start)
        and not any(
            min(a.job.calls[0].submit.at, b.job.calls[0].submit.at) <= at <= b.run.start.at
            for at in faults
        )
    )
    if pair is None:
        return None
    a, b = pair
    return past.said([(a.job, {"priority": "low"}), (b.job, {"priority": "critical"})])


@breaks(h.Late)
def it_begins_very_late(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(
        past.clean(
            lambda one: one.job.terms.queue == "one" and one.run is one.job.runs[0]
            and one.job.terms.task != "few" and not one.job.lost
            and before(one.job.accepted[0], one.run.start)
            and not any(t.at >= one.job.accepted[0].at for t in past.view.troubles)
        )
    )  # fmt: skip
    if one is None:
        return None
    first = one.run.start
    ran = (run for job in past.view.jobs.values() for run in job.runs if job.terms.queue == "one")
    if any(before(run.start, first) and (not run.end or before(first, run.end)) for run in ran):
        return None
    joined = h.Joined(at=-1.0, process="plane", who=first.process, role="worker")
    later = [replace(e, at=e.at + 2 * LONG_S) if e.n >= first.n else e for e in past.events]
    return [joined, *later]


# --- around jobs --------------------------------------------------------------------------------


@breaks(h.OutlivedScope)
def its_scope_is_closed_while_it_runs(past: Past) -> list[Event] | None:
    one: Clean | None = past.one(past.clean(lambda one: one.job.terms.scope))
    if one is None:
        return None
    start, scope = one.run.start, one.job.terms.scope
    closed = h.ScopeClosed(at=start.at, process="client", scope=scope or "")
    gone = {event.n: [] for event in past.events if event == past.view.closed.get(closed.scope)}
    return past.changed({**gone, start.n: [start, closed]})


@breaks(h.FiredTwice)
def a_moment_fires_again(past: Past) -> list[Event] | None:
    fired = past.one(past.view.fired["s"])
    return fired and past.changed({fired.n: [fired, replace(fired, job="again")]})


@breaks(h.FiredUnasked)
def another_moment_fires(past: Past) -> list[Event] | None:
    fired = past.one(past.view.fired["s"])
    return fired and past.changed({fired.n: [replace(fired, moment=fired.moment - 0.5)]})


@breaks(h.NotFired)
def the_last_moment_does_not_fire(past: Past) -> list[Event] | None:
    fired = max(past.view.fired["s"], key=lambda fired: fired.moment)
    return past.changed({fired.n: []})
