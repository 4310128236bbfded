"""What waits and what runs in a worker: the one thing that its loop and its threads share.

A thread whose body has left takes the next attempt itself, without a word to the loop: a hand-over
through the loop would cost more than most jobs. So the counts of slots are kept here, under one
lock that is held for a few operations and never while anything waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from threading import Lock
from time import perf_counter

from creche.peer.parent import Token
from creche.worker.attempt import Attempt, Stage

_Entry = tuple[int, Token, Attempt]


class Floor:
    """Attempts that wait, most urgent first, and the slots that they wait for.

    Args:
        slots: how many bodies run at a time, beside those that have lent their slot.
        max_lent: how many slots may be lent at a time. Beyond, a body that waits keeps its own.
        on_lent: told that a slot was lent or taken back; any thread, so it only leaves word.
    """

    def __init__(self, slots: int, *, max_lent: int, on_lent: Callable[[], None]) -> None:
        self.lock = Lock()
        self._on_lent = on_lent
        self._max_lent = max_lent
        self._waiting: list[_Entry] = []
        self._gone = 0
        self._lenders: set[Attempt] = set()
        self._limit = slots
        self._lease_end = float("-inf")
        self.clock: Callable[[], float] = perf_counter
        """The loop's clock, which any thread can read."""
        self.slots = slots
        self.running = 0
        """Bodies that are in, those that have lent their slot included."""
        self.busy_threads = 0
        """Attempts that were given to threads and have not left: so many threads must there be."""

    @property
    def lent(self) -> int:
        """How many slots are lent."""
        return len(self._lenders)

    @property
    def is_open(self) -> bool:
        """Whether anything may begin, slots permitting."""
        return self._limit > 0

    @property
    def has_waiting(self) -> bool:
        """Whether anything waits for a slot."""
        return len(self._waiting) > self._gone

    def open(self, is_open: bool) -> None:
        """Let attempts begin, or let none."""
        self._limit = self.slots if is_open else 0

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; what runs in one that is gone goes on."""
        with self.lock:
            self.slots = slots
            if self._limit:
                self._limit = slots

    def lease_until(self, end: float) -> None:
        """Let attempts begin until *end*, by `clock`."""
        self._lease_end = end

    def add(self, attempt: Attempt) -> None:
        """Let *attempt* wait for a slot."""
        entry = (attempt.urgency, attempt.token, attempt)
        with self.lock:
            heapq.heappush(self._waiting, entry)

    def take(self) -> Attempt | None:
        """Give a slot to the most urgent attempt and return it; None when nothing may begin.

        The loop's way; one that is meant for a thread is counted as given to one.
        """
        with self.lock:
            attempt = self._head()
            if attempt is not None:
                heapq.heappop(self._waiting)
                attempt.stage = Stage.RUNNING
                self.running += 1
                if attempt.is_threaded:
                    self.busy_threads += 1
            return attempt

    def swap(self, left: Attempt) -> Attempt | None:
        """A thread's body has left: free its slot, and return the attempt the thread goes on with.

        None when there is none, or when the most urgent is not for a thread: the loop, which is
        about to collect the result, begins that one.
        """
        with self.lock:
            self._leave(left)
            if self._waiting:
                attempt = self._head()
                if attempt is not None and attempt.is_threaded:
                    heapq.heappop(self._waiting)
                    attempt.stage = Stage.RUNNING
                    self.running += 1
                    return attempt
            self.busy_threads -= 1
            return None

    def leave(self, left: Attempt) -> None:
        """A coroutine's body has left: free its slot."""
        with self.lock:
            self._leave(left)

    def drop(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Take out, and return, those of *attempts* that have not begun."""
        with self.lock:
            dropped = [attempt for attempt in attempts if attempt.stage is Stage.WAITING]
            for attempt in dropped:
                attempt.stage = Stage.GONE
            # What is gone is skipped when its turn comes, unless it is most of what there is.
            self._gone += len(dropped)
            if self._gone * 2 > len(self._waiting):
                self._waiting = [e for e in self._waiting if e[2].stage is Stage.WAITING]
                heapq.heapify(self._waiting)
                self._gone = 0
            return dropped

    def drop_all(self) -> list[Attempt]:
        """Take out and return everything that has not begun."""
        with self.lock:
            dropped = [e[2] for e in self._waiting if e[2].stage is Stage.WAITING]
            for attempt in dropped:
                attempt.stage = Stage.GONE
            self._waiting.clear()
            self._gone = 0
            return dropped

    def lend(self, attempt: Attempt) -> None:
        """*attempt* waits for jobs of its own: somebody else may have its slot meanwhile."""
        with self.lock:
            attempt.waits += 1
            is_lent = (
                attempt.waits == 1
                and attempt.stage is Stage.RUNNING
                and len(self._lenders) < self._max_lent
            )
            if is_lent:
                self._lenders.add(attempt)
        if is_lent:
            self._on_lent()

    def take_back(self, attempt: Attempt) -> None:
        """*attempt* goes on. It need not wait for a slot: more than `slots` bodies may run for a
        while, and nothing new begins before some have left."""
        with self.lock:
            attempt.waits -= 1
            was_lent = attempt.waits == 0 and attempt in self._lenders
            if was_lent:
                self._lenders.discard(attempt)
        if was_lent:
            self._on_lent()

    def _leave(self, left: Attempt) -> None:
        # Whatever still waits in its name (a thread that the body left behind) lends nothing.
        left.stage = Stage.LEFT
        self.running -= 1
        if left.waits:
            self._lenders.discard(left)

    def _head(self) -> Attempt | None:
        """Return the attempt to begin next, if one may begin. The lock is held."""
        waiting = self._waiting
        if self.running - len(self._lenders) >= self._limit:
            return None
        while waiting and waiting[0][2].stage is not Stage.WAITING:
            heapq.heappop(waiting)
            self._gone -= 1
        if not waiting or self.clock() >= self._lease_end:
            return None
        return waiting[0][2]
