"""Rules for submissions: what each becomes, and which of them are one job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from creche.testing.history.events import Accepted, Event, Submit, before, place
from creche.testing.history.view import Call, History, Job, Run
from creche.testing.history.violation import Violation


class Invented(Violation):
    """What runs has been submitted."""


def what_runs_was_submitted(history: History) -> Iterator[Invented]:
    """Refuse an attempt at a job that nobody has submitted, and no schedule has fired."""
    for job in history.jobs.values():
        if job.runs and not job.calls and not job.fired:
            yield Invented(job.id, "nobody has submitted it", (job.runs[0].start,))


class RanThoughRefused(Violation):
    """What was refused never runs."""


def the_refused_does_not_run(history: History) -> Iterator[RanThoughRefused]:
    """Refuse an attempt at a job of which every submission was refused."""
    for job in history.jobs.values():
        refusals = [call.refused for call in job.calls if call.refused is not None]
        if job.runs and refusals and len(refusals) == len(job.calls):
            why = "it ran, though its submission was refused"
            yield RanThoughRefused(job.id, why, (refusals[0], job.runs[0].start))


class RanAsTwo(Violation):
    """A submission is one job, also if nobody knows whether it was taken."""


def submissions_are_one_job(history: History) -> Iterator[RanAsTwo]:
    """Refuse a submission for which two jobs ran, or another one than the client was told."""
    ran: defaultdict[str, dict[str, Event]] = defaultdict(dict)
    for job in history.jobs.values():
        for run in job.runs:
            if run.start.call is not None:
                ran[run.start.call].setdefault(job.id, run.start)
    for name, jobs in ran.items():
        call = history.calls.get(name)
        if call is not None and call.accepted is not None:
            jobs.setdefault(call.accepted.job, call.accepted)
        if len(jobs) > 1:
            why = f"submission {name} is also job {', '.join(list(jobs)[1:])}"
            yield RanAsTwo(next(iter(jobs)), why, tuple(jobs.values()))


# --- keys ---------------------------------------------------------------------------------------


class MetStranger(Violation):
    """A submission is one with a job that has its key, and with no other."""


def who_is_met_has_the_key(history: History) -> Iterator[MetStranger]:
    """Refuse an answer that a submission is a job with which it has no key in common; nor has any
    submission of which nobody knows, as one that meets a job gives it its keys."""
    open_keys = {
        key
        for call in history.calls.values()
        if call.accepted is None and call.refused is None
        for key in call.submit.terms.keys
    }
    for job in history.jobs.values():
        calls = {call.submit.call: call for call in job.calls}
        met = {told.call: history.calls[told.call] for told in job.accepted} | calls
        holders: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
        for name, call in met.items():
            for key in call.submit.terms.keys:
                holders[key].add(name)
        for told in job.accepted:
            keys = met[told.call].submit.terms.keys
            is_shared = any(len(holders[key]) > 1 or key in open_keys for key in keys)
            # Who has fired a job, or retried a dead one, says no keys.
            if told.call not in calls and calls and not is_shared:
                why = "a submission was told that it is this job, and has no key of it"
                yield MetStranger(job.id, why, (met[told.call].submit, told))


class MetTheDead(Violation):
    """A submission is not one with a job that has ended, unless its key is meant to last."""


def who_is_met_is_alive(history: History) -> Iterator[MetTheDead]:
    """Refuse an answer that a submission is a job which somebody had seen to have ended before it
    was submitted, and with which it can have in common only what tells jobs apart while they wait
    or run."""
    for job in history.jobs.values():
        first = min(job.finals, key=place, default=None)
        own = {call.submit.call for call in job.calls}
        for told in job.accepted if first else ():
            submit = history.calls[told.call].submit
            is_lasting = submit.terms.idempotency_key is not None or submit.terms.may_meet_ended
            is_met = told.call not in own and submit.terms.unique_key is not None
            if first and is_met and not is_lasting and before(first, submit):
                why = f"a submission was told that it is this job, which was {first.state}"
                yield MetTheDead(job.id, why, (first, submit, told))


class KeyIsTwoJobs(Violation):
    """An idempotency key is one job while it is known."""


def idempotency_keys_are_one_job(history: History) -> Iterator[KeyIsTwoJobs]:
    """Refuse a second job with an idempotency key, accepted or run."""
    by_key: defaultdict[tuple[str, str], list[tuple[Submit, str, Event]]] = defaultdict(list)

    def found(submit: Submit, job_id: str, how: Event) -> None:
        if submit.terms.idempotency_key is not None:
            key = submit.terms.task, submit.terms.idempotency_key
            by_key[key].append((submit, job_id, how))

    for call in history.calls.values():
        if call.accepted is not None:
            found(call.submit, call.accepted.job, call.accepted)
    for job in history.jobs.values():
        if job.calls and job.runs:
            found(job.calls[0].submit, job.id, job.runs[0].start)
    for (_, key), holders in by_key.items():
        holders.sort(key=lambda one: place(one[0]))
        for (first, here, how), (second, there, how_else) in pairwise(holders):
            if here != there and second.at < first.at + history.bounds.kept_s:
                why = f"idempotency key {key!r} is also job {there}"
                yield KeyIsTwoJobs(here, why, (first, how, second, how_else))
                break


class TwoLiveJobs(Violation):
    """Of the calls that count as one, one job waits or runs."""


def unique_jobs_are_one(history: History) -> Iterator[TwoLiveJobs]:
    """Refuse a job that was accepted beside one with its key which ran or began afterwards."""
    for older, newer in _with_one_key(history):
        first, second = _made(older), _made(newer)
        is_ordered = before(first, history.calls[second.call].submit)
        later = max(first, second, key=place)
        alive = [_alive_after(job, later) for job in ((older,) if is_ordered else (older, newer))]
        keep = newer.terms.on_duplicate in ("existing", "reject")
        if keep and all(alive) and not _may_be_cancelled(older, later):
            proof = (first, second, *(run.start for run in alive if run))
            yield TwoLiveJobs(older.id, f"job {newer.id} was accepted beside it", proof)


class ReplacedStarted(Violation):
    """A job whose place another has taken does not begin."""


def the_replaced_does_not_start(history: History) -> Iterator[ReplacedStarted]:
    """Refuse an attempt at a job that waited when another one took its place, or, if that is the
    rule, at one that ran; but where it may have been given out by then."""
    for older, newer in _with_one_key(history):
        first, second = _made(older), _made(newer)
        submit, rule = history.calls[second.call].submit, newer.terms.on_duplicate
        if rule not in ("replace", "cancel") or not before(first, submit):
            continue
        runs = [run for run in older.leased_runs if not run.is_doubtful]
        late = [run for run in runs if history.offered_since(run.start) > second.at]
        early = [run for run in older.runs if run not in late]
        if late and (rule == "cancel" or _waited(history, older, early, submit, second)):
            proof = (first, second, late[0].start)
            yield ReplacedStarted(older.id, f"job {newer.id} had taken its place", proof)


def _waited(
    history: History, job: Job, runs: list[Run], submit: Submit, accepted: Accepted
) -> bool:
    """Whether a job surely waited when another was accepted: nobody had it, or it was seen to wait
    after that. That a body has left does not show it, as the plane may not have heard of that; nor
    does it if a lease was lost later, or was lost with a plane that was killed just then."""
    until = accepted.at + history.bounds.grace_s
    was_killed = any(submit.at <= trouble.at <= until for trouble in history.plane_troubles)
    if was_killed or not all(before(lost, submit) for lost in job.lost):
        return False
    seen_at = [
        saw.asked_at if saw.asked_at is not None else saw.at
        for saw in job.saw
        if saw.state in ("queued", "delayed", "parked") and before(saw, submit)
    ]
    last_at = max(seen_at, default=float("-inf"))
    return all(run.until is not None and run.until.at < last_at for run in runs)


def _with_one_key(history: History) -> Iterator[tuple[Job, Job]]:
    """Go through the jobs that have a unique key, each with the next one that was accepted. A key
    that a firing has is left out: it takes the key, and leaves alone who had it."""
    by_key: defaultdict[tuple[str, str], list[Job]] = defaultdict(list)
    taken: set[tuple[str, str]] = set()
    for job in history.jobs.values():
        if job.terms.unique_key is None:
            continue
        key = job.terms.task, job.terms.unique_key
        if job.fired:
            taken.add(key)
        elif any(_is_own(job, call) for call in job.calls):
            by_key[key].append(job)
    for key, jobs in by_key.items():
        jobs.sort(key=lambda job: place(_made(job)))
        yield from pairwise(jobs) if key not in taken else ()


def _is_own(job: Job, call: Call) -> bool:
    return call.accepted is not None and call.accepted.job == job.id


def _made(job: Job) -> Accepted:
    """Return the answer with which a job was accepted."""
    told = [call.accepted for call in job.calls if call.accepted and _is_own(job, call)]
    return min(told, key=place)


def _alive_after(job: Job, event: Event) -> Run | None:
    """Return what shows that a job had not ended at an event."""
    runs = [run for run in job.leased_runs if not run.is_doubtful]
    return next(
        (run for run in runs if before(event, run.start) or run.is_running_after(event)), None
    )


def _may_be_cancelled(job: Job, event: Event) -> bool:
    """Whether a job may be on its way out by then, so that it does not count."""
    return job.terms.scope is not None or any(not before(event, c) for c in job.cancels)


RULES = (
    what_runs_was_submitted,
    the_refused_does_not_run,
    submissions_are_one_job,
    who_is_met_has_the_key,
    who_is_met_is_alive,
    idempotency_keys_are_one_job,
    unique_jobs_are_one,
    the_replaced_does_not_start,
)
