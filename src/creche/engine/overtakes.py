"""Overtakes at a worker: what it was given ahead of its slots, and how many more urgent jobs were
sent past that. The plane is not told when an attempt begins: one that may have to wait is taken to
wait until the worker has no more attempts than slots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from creche.model.priority import Priority

if TYPE_CHECKING:
    from creche.engine.job import Job


class Overtakes:
    """Of one worker, where there is fairness.

    Args:
        most: how many may be sent past one that waits.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sent = [0] * len(Priority)
        """By priority, how many more urgent ones were sent ahead of the slots, ever."""
        self._waiting: list[dict[int, int]] = [{} for _ in Priority]
        """By priority and seq, those that may have to wait, the oldest lease first: what `_sent` of
        their priority was when nobody had overtaken them."""

    @property
    def is_full(self) -> bool:
        """Whether so many were sent past one that nothing more is to be given ahead: it begins
        when those that were have begun."""
        # Nothing is sent past the most urgent, nor past those that are to pass.
        for sent, waiting in zip(self._sent[1:], self._waiting[1:], strict=True):
            if waiting and sent - next(iter(waiting.values())) >= self._most:
                return True
        return False

    def sent(self, job: Job) -> None:
        """A job was given to the worker ahead of its slots."""
        priority = job.leased_priority
        for lower in range(priority + 1, len(Priority)):
            self._sent[lower] += 1
        self._waiting[priority][job.seq] = self._sent[priority] - job.overtaken

    def left(self, job: Job) -> None:
        """The worker has a job no more; note on it how many have overtaken it."""
        priority = job.leased_priority
        since = self._waiting[priority].pop(job.seq, None)
        if since is not None:
            job.overtaken = self._sent[priority] - since

    def all_have_begun(self) -> None:
        """There is a slot for each job that the worker has."""
        for waiting in self._waiting:
            waiting.clear()

    def may_all_wait(self, jobs: Iterable[Job]) -> None:
        """The worker has fewer slots than before: whichever of its *jobs* had none may wait."""
        for job in jobs:
            self._waiting[job.leased_priority].setdefault(
                job.seq, self._sent[job.leased_priority] - job.overtaken
            )
