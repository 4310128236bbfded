"""Mistakes that are planted in the engine to see that the fuzz finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import trio

from creche.engine.core import Core
from creche.engine.dead import DeadJobs
from creche.engine.delays import Delays
from creche.engine.dispatch import Dispatch
from creche.engine.holders import Holders
from creche.engine.journal import Journal
from creche.engine.lane import Lane
from creche.engine.leases import Leases
from creche.engine.limits import Limits
from creche.engine.submissions import Submissions
from creche.store.base import JobRecord, ScheduleRow
from creche.wire import messages as m


def _answer_before_the_commit(arrive: Callable[..., None]) -> Callable[..., None]:
    def arrive_and_answer(self: Any, session: Any, message: m.Submit, *rest: Any) -> None:
        arrive(self, session, message, *rest)
        session.post(m.Accepted([message.n]))

    return arrive_and_answer


def _do_not_look_at_the_token(finished: Callable[..., None]) -> Callable[..., None]:
    def finished_somehow(self: Any, session: Any, message: m.Finished) -> None:
        job = session.leased.get(message.seq)
        if job is not None:
            message = message._replace(epoch=job.epoch, attempt=job.attempt)
        finished(self, session, message)

    return finished_somehow


def _forget_what_is_delayed(wait: Callable[..., None]) -> Callable[..., None]:
    def wait_unless_it_recovers(self: Any, job: Any) -> None:
        if self._has_begun:
            wait(self, job)

    return wait_unless_it_recovers


def _drop_one_in_ten(park: Callable[..., None]) -> Callable[..., None]:
    numbers = count(1)

    def park_or_not(self: Any, *args: Any) -> None:
        if next(numbers) % 10:
            park(self, *args)

    return park_or_not


def _release_twice(withdraw: Callable[..., None]) -> Callable[..., None]:
    def withdraw_twice(self: Any, job: Any) -> None:
        withdraw(self, job)
        self.release(len(job.payload))

    return withdraw_twice


def _keep_as_it_was(schedule: Callable[..., None]) -> Callable[..., None]:
    def schedule_unfired(self: Any, _: ScheduleRow, unfired: Callable[[], ScheduleRow]) -> None:
        schedule(self, unfired(), unfired)

    return schedule_unfired


def _take_all_for_ended(_: Callable[..., Any]) -> Callable[..., Any]:
    async def none_unfinished(self: Any, ids: Collection[bytes]) -> set[bytes]:
        await trio.lowlevel.checkpoint()
        return set()

    return none_unfinished


def _forget_that_it_was_retried(decide: Callable[..., Any]) -> Callable[..., Any]:
    def decide_anew(self: Any, job_id: bytes, record: JobRecord | None, *rest: Any) -> Any:
        fresh = None if record is None else record._replace(retried_as=None)
        return decide(self, job_id, fresh, *rest)

    return decide_anew


def _leave_open(look: Callable[..., None]) -> Callable[..., None]:
    def look_and_open(self: Any, queue: str) -> None:
        look(self, queue)
        self._core.lanes.shut_queues.discard(queue)

    return look_and_open


def _look_on_disk_only(standing: Callable[..., Any]) -> Callable[..., Any]:
    def stored_standing(self: Any, name: bytes, known: Any) -> Any:
        newest, self._newest = self._newest, {}
        try:
            return standing(self, name, known)
        finally:
            self._newest = newest

    return stored_standing


def _overwrite_what_goes(oust: Callable[..., Any]) -> Callable[..., Any]:
    def oust_alone(self: Any, rows: Any) -> Any:
        if rows:
            self._open.ousts.clear()
        return oust(self, rows)

    return oust_alone


PLANTS: dict[str, tuple[type[Any], str, Callable[..., Any]]] = {
    "answer-early": (Submissions, "_arrive", _answer_before_the_commit),
    "no-fencing": (Leases, "finished", _do_not_look_at_the_token),
    "lose-delayed": (Delays, "wait", _forget_what_is_delayed),
    "drop-parked": (Dispatch, "park", _drop_one_in_ten),
    "count-twice": (Lane, "withdraw", _release_twice),
    "fire-again": (Journal, "schedule", _keep_as_it_was),
    "fire-beside": (Core, "unfinished", _take_all_for_ended),
    "retry-twice": (DeadJobs, "_decide", _forget_that_it_was_retried),
    "two-at-once": (Holders, "standing", _look_on_disk_only),
    "forget-replaced": (Journal, "oust", _overwrite_what_goes),
    "open-queue": (Limits, "_look_at_queue", _leave_open),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Have a mistake in the engine while the block runs; none if *name* is None."""
    if name is None:
        yield
        return
    owner, method, change = PLANTS[name]
    right = getattr(owner, method)
    setattr(owner, method, change(right))
    try:
        yield
    finally:
        setattr(owner, method, right)
