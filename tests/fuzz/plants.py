"""Mistakes that are planted in the engine to see that the fuzz finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from creche.engine.delays import Delays
from creche.engine.dispatch import Dispatch
from creche.engine.lanes import Lane
from creche.engine.leases import Leases
from creche.engine.submissions import Submissions
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


PLANTS: dict[str, tuple[type[Any], str, Callable[..., Any]]] = {
    "answer-early": (Submissions, "_arrive", _answer_before_the_commit),
    "no-fencing": (Leases, "finished", _do_not_look_at_the_token),
    "lose-delayed": (Delays, "wait", _forget_what_is_delayed),
    "drop-parked": (Dispatch, "park", _drop_one_in_ten),
    "count-twice": (Lane, "withdraw", _release_twice),
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
