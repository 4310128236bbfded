"""Mistakes that are made in Creche on purpose, to see that the simulator finds each of them.

Every one breaks a promise that the engine keeps by a few lines, most of them only under some fault.
`made` puts one into the classes while a block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from heapq import heappush
from itertools import count
from typing import Any, NamedTuple
from unittest.mock import patch
from weakref import WeakKeyDictionary

from tests.fuzz.plants import PLANTS

from creche.engine import schedules, unique
from creche.engine.delays import Delays
from creche.engine.dispatch import Dispatch
from creche.engine.expiries import Expiries
from creche.engine.lane import Lane
from creche.engine.lanes import Lanes
from creche.engine.leases import Leases
from creche.engine.limits import Limits
from creche.engine.sessions import Session
from creche.engine.submissions import Submissions
from creche.engine.tails import Tails
from creche.model.schedule import Due
from creche.model.unique import SAME_JOB, Decision, Holder, Rule, Verdict
from creche.peer.submitter import Submitter
from creche.peer.waits import Waits
from creche.wire import messages as m
from creche.worker.attempt import Attempt
from creche.worker.reports import Reports

Way = Callable[..., Any]

ONE_IN = 10
"""How often a mistake is made that loses something."""

AHEAD = 1_000_000
"""So many jobs at once no lane has here."""


class Change(NamedTuple):
    """*change* makes the wrong way of the right one, which is *owner*'s *name*."""

    owner: Any
    name: str
    change: Callable[[Way], Way]


class Mistake:
    """What is done wrong, in words and where."""

    def __init__(self, what: str, *changes: Any) -> None:
        self.what = what
        self.changes = [Change(*changes[n : n + 3]) for n in range(0, len(changes), 3)]


def _none_of_it(_: Way) -> Way:
    return lambda *args, **kwargs: iter(())


def _one_in_ten_not(right: Way) -> Way:
    numbers = count(1)
    return lambda *args, **kwargs: next(numbers) % ONE_IN and right(*args, **kwargs)


_early: WeakKeyDictionary[Session, set[int]] = WeakKeyDictionary()


def _accept_at_once(arrive: Way) -> Way:
    def arrive_and_accept(
        self: Submissions, session: Session, message: m.Submit, *rest: Any
    ) -> None:
        arrive(self, session, message, *rest)
        if session.is_connected:
            session.post(m.Accepted([message.n]))
            _early.setdefault(session, set()).add(message.n)

    return arrive_and_accept


def _but_not_again(post: Way) -> Way:
    def post_once(self: Session, message: m.Message) -> None:
        if type(message) is m.Accepted:
            message = m.Accepted([n for n in message.ns if n not in _early.get(self, ())])
            if not message.ns:
                return
        post(self, message)

    return post_once


def _whoever_reports(finished: Way) -> Way:
    """Take a report of any attempt for one of the attempt that has the lease."""

    def finished_by_anyone(self: Leases, session: Any, message: m.Finished) -> None:
        job = self._core.by_seq.get(message.seq)
        holder = job and self._core.sessions.worker((job.holder or "").rpartition("/")[0])
        if job is not None and holder is not None and holder.leased.get(job.seq) is job:
            holder.release(job)
            session.lease(job)
            message = message._replace(epoch=job.epoch, attempt=job.attempt)
        finished(self, session, message)

    return finished_by_anyone


def _any_that_is_free(may_adopt: Way) -> Way:
    return lambda self, session, job, *token: self._is_free(job)


def _as_new(resume: Way) -> Way:
    """Say again what was sent, under another id."""

    def resume_anew(self: Submitter, welcome: m.Welcome) -> Iterator[m.Message]:
        sent = self._unaccepted.keys() - self._unsent
        for message in resume(self, welcome):
            if type(message) is m.Submit and message.n in sent:
                message = message._replace(id=message.id[:8] + message.id[:7:-1])
            yield message

    return resume_anew


def _run_again(lost: Way) -> Way:
    def lost_like_any(self: Leases, job: Any, why: str) -> None:
        job.is_at_most_once = False
        lost(self, job, why)

    return lost_like_any


def _count_new_ones_only(hold: Way) -> Way:
    def hold_if_new(self: Limits, job: Any, *, is_new: bool = True) -> None:
        if is_new:
            hold(self, job)

    return hold_if_new


def _at_once(next_try_at: Way) -> Way:
    def no_wait(self: Leases, job: Any, message: Any, now: float) -> float | None:
        return None if next_try_at(self, job, message, now) is None else now

    return no_wait


def _one_in_ten_first(put: Way) -> Way:
    numbers = count(1)

    def put_somewhere(self: Lane, job: Any) -> None:
        if next(numbers) % ONE_IN:
            put(self, job)
        else:
            heappush(self._front, (job.seq - AHEAD, job))

    return put_somewhere


def _without_end(begin: Way) -> Way:
    def begin_without_end(self: Attempt) -> None:
        begin(self)
        self.hard_end = float("inf")

    return begin_without_end


def _only_what_is_new(due: Way) -> Way:
    def due_just_now(*args: Any, now: float, **rest: Any) -> Due:
        found: Due = due(*args, now=now, **rest)
        fresh = tuple(moment for moment in found.moments if moment > now - 1.0)
        return found._replace(moments=fresh)

    return due_just_now


def _whatever_became_of_it(decide: Way) -> Way:
    def decide_with_the_dead(rule: Rule, holder: Holder | None, now: float) -> Decision:
        if holder is not None and holder.state.has_ended and rule is not SAME_JOB:
            return Decision(Verdict.EXISTING, None, holder.since)
        decided: Decision = decide(rule, holder, now)
        return decided

    return decide_with_the_dead


def _one_less(next_try_at: Way) -> Way:
    def one_less(self: Leases, job: Any, message: Any, now: float) -> float | None:
        job.failures += message.is_counted
        try:
            at: float | None = next_try_at(self, job, message, now)
            return at
        finally:
            job.failures -= message.is_counted

    return one_less


def _as_a_failure(lost: Way) -> Way:
    def lost_and_failed(self: Leases, job: Any, why: str) -> None:
        job.failures += 1
        lost(self, job, why)

    return lost_and_failed


def _in_a_tenth(expires_at: Way) -> Way:
    def expires_soon(self: Submissions, job: Any) -> float | None:
        at: float | None = expires_at(self, job)
        return None if at is None else float(job.submitted_at + (at - job.submitted_at) / 10)

    return expires_soon


def _without_a_word(cancel: Way) -> Way:
    def cancel_silently(self: Leases, job: Any, why: str) -> None:
        holder, job.holder = job.holder, None
        cancel(self, job, why)
        job.holder = holder

    return cancel_silently


def _least_urgent_first(take: Way) -> Way:
    def take_backwards(self: Lanes, session: Session, turnstile: Any) -> Any:
        known = [levels for name in session.queues if (levels := self.queues.get(name))]
        for levels in known:
            levels.reverse()
        try:
            return take(self, session, turnstile)
        finally:
            for levels in known:
                levels.reverse()

    return take_backwards


def _a_minute_late(enter: Way) -> Way:
    def enter_late(self: Delays, job: Any, **rest: Any) -> None:
        if job.due_at is not None:
            job.due_at += 60.0
        enter(self, job, **rest)

    return enter_late


def _of_the_fuzz(name: str, what: str) -> Mistake:
    return Mistake(what, *PLANTS[name])


MISTAKES = {
    "answer-early": Mistake(
        "a submission is accepted before it is on disk",
        *(Submissions, "_arrive", _accept_at_once),
        *(Session, "post", _but_not_again),
    ),
    "no-fencing": Mistake(
        "a report counts whichever attempt it is of", Leases, "finished", _whoever_reports
    ),
    "adopt-any": Mistake(
        "a worker keeps an attempt that it names, though its lease is lost",
        *(Leases, "_may_adopt", _any_that_is_free),
    ),
    "forget-reports": Mistake(
        "a worker that resumes does not say again what it has reported",
        *(Reports, "__iter__", _none_of_it),
    ),
    "forget-waits": Mistake(
        "a client that resumes does not ask again for its results", Waits, "resume", _none_of_it
    ),
    "resend-as-new": Mistake(
        "a client that resumes sends again what was not accepted, as another job",
        *(Submitter, "resume", _as_new),
    ),
    "drop-parked": Mistake(
        "one in ten that have to wait for a limit is let go of",
        *(Limits, "_set_aside", _one_in_ten_not),
    ),
    "drop-spilled": Mistake(
        "one in ten that find no room in memory is not noted as on disk",
        *(Tails, "spill", _one_in_ten_not),
    ),
    "lose-delayed": _of_the_fuzz("lose-delayed", "a timer is lost when the plane starts again"),
    "drop-handed-back": Mistake(
        "one in ten that a worker hands back is let go of",
        *(Leases, "_free_unbegun", _one_in_ten_not),
    ),
    "run-again": Mistake(
        "a job that is to run at most once is given to another worker", Leases, "_lost", _run_again
    ),
    "forget-limits": Mistake(
        "attempts of before a restart do not count for limits",
        *(Limits, "hold", _count_new_ones_only),
    ),
    "begin-late": Mistake(
        "a job begins whose time is up",
        *(Dispatch, "_is_over", lambda _: lambda self, job: False),
        *(Expiries, "_arm", lambda _: lambda self: None),
    ),
    "no-backoff": Mistake(
        "a job that has failed is tried again at once", Leases, "_next_try_at", _at_once
    ),
    "out-of-order": Mistake(
        "one in ten goes before the others of its lane", Lane, "put", _one_in_ten_first
    ),
    "two-at-once": _of_the_fuzz(
        "two-at-once", "a key is looked up on disk only, and not among those on their way there"
    ),
    "no-time-limit": Mistake(
        "a worker does not stop a body whose time is up", Attempt, "begin", _without_end
    ),
    "forget-missed": Mistake(
        "a schedule does not make up for what it missed", schedules, "due", _only_what_is_new
    ),
    "keep-unique": Mistake(
        "a unique key is kept when its job has ended", unique, "decide", _whatever_became_of_it
    ),
    "retry-less": Mistake(
        "a job is tried again once less than it may be", Leases, "_next_try_at", _one_less
    ),
    "count-losses": Mistake(
        "a lost lease takes one of the retries away", Leases, "_lost", _as_a_failure
    ),
    "expire-soon": Mistake(
        "a job expires in a tenth of its time", Submissions, "expires_at", _in_a_tenth
    ),
    "upside-down": Mistake("what is least urgent goes first", Lanes, "take", _least_urgent_first),
    "delay-more": Mistake("what is delayed is a minute late", Delays, "enter", _a_minute_late),
    "never-stop": Mistake(
        "a worker is not told that what it runs was cancelled", Leases, "cancel", _without_a_word
    ),
}
"""By name."""


@contextmanager
def made(name: str) -> Iterator[None]:
    """Have the mistake in the block; with no name, none."""
    with ExitStack() as stack:
        for owner, method, change in MISTAKES[name].changes if name else ():
            stack.enter_context(patch.object(owner, method, change(getattr(owner, method))))
        yield
