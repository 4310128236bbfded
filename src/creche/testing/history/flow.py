"""Rules for what many jobs share: how many run, how often they begin, and in which order."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from creche.testing.history.events import (
    PRIORITIES,
    Accepted,
    Event,
    Limit,
    Lost,
    Rate,
    Started,
    before,
    place,
)
from creche.testing.history.view import History, Job, Run
from creche.testing.history.violation import Violation

# --- how many -----------------------------------------------------------------------------------


class OverLimit(Violation):
    """No more attempts have a lease at a time than their queue, task or key allows."""


def limits_hold(history: History) -> Iterator[OverLimit]:
    """Refuse an attempt that begins where as many surely run. For the grace after a limit was
    changed the laxer one counts, as what it had let pass may not have begun."""
    runs = _runs_by_gate(history)
    for gate, limits in history.limits.items():
        running: list[tuple[float, int, Run]] = []
        for n, run in enumerate(runs[gate]):
            _let_go(running, run.start)
            most = _most(limits, history, run.start)
            if most is not None and len(running) >= most:
                others = [one.start for *_, one in running if one.overlaps(run)]
                if len(others) >= most:
                    why = f"attempt {len(others) + 1} of {most} at {gate}"
                    yield OverLimit(run.start.job, why, (*others, run.start))
            heappush(running, (float("inf") if run.until is None else run.until.at, n, run))


def _runs_by_gate(history: History) -> defaultdict[str, list[Run]]:
    """Return the attempts that limits and rates count, as they began."""
    by_gate: defaultdict[str, list[Run]] = defaultdict(list)
    if not history.limits and not history.rates:
        return by_gate
    for job in history.jobs.values():
        for gate in job.terms.gates:
            by_gate[gate].extend(run for run in job.leased_runs if not run.is_doubtful)
    for runs in by_gate.values():
        runs.sort(key=lambda run: place(run.start))
    return by_gate


def _let_go(running: list[tuple[float, int, Run]], start: Started) -> None:
    """Take out what does not surely have its lease any more when an attempt begins."""
    kept = []
    while running and running[0][0] <= start.at:
        one = heappop(running)
        if one[2].is_running_after(start):
            kept.append(one)
    for one in kept:
        heappush(running, one)


def _most(limits: list[Limit], history: History, start: Started) -> int | None:
    """Return the laxest limit that may have let an attempt pass; None: there may be none."""
    laxest = 0
    for limit in reversed(limits):
        asked_at = limit.at if limit.asked_at is None else limit.asked_at
        if asked_at <= start.at:
            if limit.most is None:
                return None
            laxest = max(laxest, limit.most)
        if _is_settled(limit, history, start):
            return laxest
    return None  # the first one may not have held


def _is_settled(said: Limit | Rate, history: History, start: Started) -> bool:
    """Whether something was surely said before an attempt was given out."""
    made = history.jobs[start.job].made
    is_new = made is not None and before(said, made)
    return is_new or said.at < history.offered_since(start)


# --- how often ----------------------------------------------------------------------------------


class OverRate(Violation):
    """No more attempts begin than the token bucket of their queue, task or key allows."""


def rates_hold(history: History) -> Iterator[OverRate]:
    """Refuse an attempt for which there can be no token. One that was taken may be on its way for
    the grace, so the bucket is larger by what comes back in that time."""
    grace_s = history.bounds.grace_s
    refills = [trouble.at for trouble in history.plane_troubles]
    runs = _runs_by_gate(history)
    for gate, rates in history.rates.items():
        counted: Rate | None = None
        tokens, counted_at = 0.0, 0.0
        taken: list[Started] = []
        for run in runs[gate]:
            start, held = run.start, _rate(rates, history, run.start)
            if held is None or held.count is None or _was_late(history, start):
                continue
            per_s = held.count / held.per_s
            most = held.count + grace_s * per_s
            if held is not counted or _is_one_between(refills, counted_at, start.at):
                counted, tokens, taken = held, most, []
            tokens = min(most, tokens + (start.at - counted_at) * per_s) - 1
            counted_at = start.at
            taken = [*taken[-held.count :], start]
            if tokens < -1e-6:
                why = f"there was no token for it at {gate}: {held.count} in {held.per_s:g} s"
                yield OverRate(start.job, why, tuple(taken))
                tokens = 0.0


def _rate(rates: list[Rate], history: History, start: Started) -> Rate | None:
    """Return what held for an attempt; None: nothing, or something had just been changed."""
    last = bisect_right(rates, start.at, key=lambda rate: rate.at) - 1
    return rates[last] if last >= 0 and _is_settled(rates[last], history, start) else None


def _was_late(history: History, start: Started) -> bool:
    """Whether its offer may have waited for its worker to be woken."""
    return history.was_paused(start.process, start.at - history.bounds.grace_s, start.at)


def _is_one_between(moments: list[float], since: float, until: float) -> bool:
    return bisect_left(moments, since) < bisect_right(moments, until)


# --- in which order -----------------------------------------------------------------------------


class OutOfOrder(Violation):
    """One worker with one slot takes the jobs of a lane in the order of their submission."""


class PriorityInverted(Violation):
    """One worker with one slot takes what is more urgent first."""


class _Place(NamedTuple):
    """A job's place in its lane."""

    submitted: Event
    accepted: Accepted
    start: Started
    job: Job


def lanes_are_in_order(history: History) -> Iterator[OutOfOrder]:
    """Refuse a job that began before one of its queue and priority which had been accepted when it
    was submitted. What waits for its time or a limit has no such place, nor has what met a fault
    on its way."""
    for lanes in _lanes(history).values():
        for places in lanes.values():
            yield from _overtakers(places)


def _overtakers(places: list[_Place]) -> Iterator[OutOfOrder]:
    by_acceptance = sorted(places, key=lambda one: place(one.accepted))
    latest: _Place | None = None
    n = 0
    for one in sorted(places, key=lambda one: place(one.submitted)):
        while n < len(places) and before(by_acceptance[n].accepted, one.submitted):
            earlier = by_acceptance[n]
            if latest is None or place(latest.start) < place(earlier.start):
                latest = earlier
            n += 1
        if latest is not None and before(one.start, latest.start):
            why = f"it began before job {latest.job.id}, which was there before it"
            proof = (latest.accepted, one.submitted, one.start, latest.start)
            yield OutOfOrder(one.job.id, why, proof)


def the_urgent_go_first(history: History) -> Iterator[PriorityInverted]:
    """Refuse a job that began before a more urgent one of its queue, which had been accepted when
    it was given out, if that one has a place in its lane."""
    for queue, lanes in _lanes(history).items():
        if not history.one_slots[queue].is_by_priority:
            continue
        for n, priority in enumerate(PRIORITIES):
            urgent = [one for above in PRIORITIES[:n] for one in lanes.get(above, ())]
            urgent.sort(key=lambda one: one.accepted.at)
            latest: _Place | None = None
            k = 0
            for one in sorted(lanes.get(priority, ()), key=lambda one: place(one.start)):
                given_at = one.start.at - history.bounds.travel_s
                while k < len(urgent) and urgent[k].accepted.at < given_at:
                    if latest is None or place(latest.start) < place(urgent[k].start):
                        latest = urgent[k]
                    k += 1
                if latest is not None and before(one.start, latest.start):
                    why = f"it began before job {latest.job.id}, which is more urgent"
                    proof = (latest.accepted, one.start, latest.start)
                    yield PriorityInverted(one.job.id, why, proof)


class Late(Violation):
    """A job that may begin does not wait beside a slot that is free."""


def free_slots_are_used(history: History) -> Iterator[Late]:
    """Refuse a job that waited, when it was accepted and its delay was over, while the one slot of
    its queue was free for longer than it may be, and nothing was done to the worker or the plane.
    What a limit may have held back has no such place, nor has what had been given out before."""
    late_s = history.bounds.late_s
    by_queue: dict[str, list[tuple[float, float]]] = {}
    for job in history.jobs.values() if late_s < math.inf else ():
        found = _place_of(history, job, may_be_delayed=True)
        if found is None or job.lost:
            continue
        queue, terms, start = job.terms.queue, job.terms, found.start
        # A delay begins when the plane has the job, of which its client is told later.
        due_at = max(found.accepted.at + terms.delay_s, terms.not_before_at or -math.inf)
        since = max(found.accepted.at, due_at + history.bounds.skew_s)
        if start.at - since <= late_s or not history.was_reachable(start.process, since, start.at):
            continue
        if queue not in by_queue:
            by_queue[queue] = _busy(history, queue)
        idle_at, idle_s = _longest_gap(by_queue[queue], since, start.at)
        if idle_s > late_s:
            why = f"it waited for {idle_s:g} s from {idle_at:g} on, and the slot was free"
            yield Late(job.id, why, (found.submitted, found.accepted, start))


def _busy(history: History, queue: str) -> list[tuple[float, float]]:
    """Return when bodies of a queue ran, or may have."""
    spans = []
    for job in history.jobs.values():
        for run in job.runs if job.terms.queue == queue else ():
            ends = [event.at for event in (run.end, run.gone) if event is not None]
            spans.append((run.start.at, min(ends, default=math.inf)))
    return sorted(spans)


def _longest_gap(
    busy: list[tuple[float, float]], since: float, until: float
) -> tuple[float, float]:
    """Return where the longest time begins within another in which nothing ran, and how long it
    is."""
    free_at, longest = since, (since, 0.0)
    for begin, end in busy:
        if begin >= until:
            break
        longest = max(longest, (free_at, begin - free_at), key=lambda gap: gap[1])
        free_at = max(free_at, end)
    return max(longest, (free_at, until - free_at), key=lambda gap: gap[1])


def _lanes(history: History) -> dict[str, dict[str, list[_Place]]]:
    """Return what has a place in a lane, and met no fault on its way, by queue and priority."""
    faults = sorted(
        [trouble.at for trouble in history.troubles]
        + [event.at for event in history.events if isinstance(event, Lost)]
    )
    lanes: defaultdict[str, dict[str, list[_Place]]] = defaultdict(dict)
    for job in history.jobs.values():
        found = _place_of(history, job)
        if found and not _is_one_between(faults, found.submitted.at, found.start.at):
            lanes[job.terms.queue].setdefault(job.terms.priority, []).append(found)
    return lanes


def _place_of(history: History, job: Job, *, may_be_delayed: bool = False) -> _Place | None:
    terms = job.terms
    own = [call.accepted for call in job.calls if call.accepted and call.accepted.job == job.id]
    is_alone = terms.queue in history.one_slots and len(job.calls) == 1
    is_free = may_be_delayed or (not terms.delay_s and terms.not_before_at is None)
    is_limited = any(gate in history.limits or gate in history.rates for gate in terms.gates)
    if not (own and job.runs and is_alone and is_free) or is_limited:
        return None
    submit = job.calls[0].submit
    if not before(history.one_slots[terms.queue], submit):
        return None
    return _Place(submit, own[0], job.runs[0].start, job)


RULES = (limits_hold, rates_hold, lanes_are_in_order, the_urgent_go_first, free_slots_are_used)
