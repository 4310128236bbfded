"""Whose question the store's reader is asked next: it answers one after the other.

A question of history may take it seconds, and a peer may have many of them. So what each took is
counted. First come those who have had little of the reader; of these, and of all others, whoever
has had the least of it since it began to ask: of all tokens one, and of that token's sessions one.
Who has had much and is asked for others as well has a pause behind it, so that the reader is free
most of the time. What somebody asked who has gone since is not looked up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from creche.engine.timers import Timer, Timers
from creche.engine.turns import LOUD_S, PAUSE, Turns

if TYPE_CHECKING:
    from creche.engine.sessions import Session

K = TypeVar("K")


class _Place:
    """A question that waits for its turn."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.has_turn = False


class _Group:
    """The sessions of one token, or all that have none."""

    def __init__(self) -> None:
        self.waiting: dict[Session, deque[_Place]] = {}
        """The one that was asked for last is the last."""
        self.had: Had[Session] = Had()


class Had(dict[K, float]):
    """How much each has had, as it counts for who is next: whoever begins to ask is taken to have
    had as much as the one that was served last. Nobody can save up anything."""

    def __init__(self) -> None:
        super().__init__()
        self._level_s = 0.0

    def begin(self, key: K) -> None:
        """Somebody asks who had nothing waiting."""
        self[key] = max(self.get(key, 0.0), self._level_s)

    def serve(self, key: K) -> None:
        """It is somebody's turn."""
        self._level_s = max(self._level_s, self[key])

    def charge(self, key: K, took_s: float) -> None:
        """Somebody's turn took so long."""
        if key in self:
            self[key] += took_s


def next_of(waiting: Collection[K], had: Mapping[K, float], loud: Collection[K]) -> K:
    """Return who is next of those who are *waiting*, in that order among equals: none that is
    *loud* before one that is not, then who has had the least."""
    return min(waiting, key=lambda key: (key in loud, had[key]))


class Reader:
    """Turns at the store's reader."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._turns = Turns()
        self._groups: dict[str, _Group] = {}
        self._had: Had[str] = Had()
        self._is_busy = False
        self._pause_until = -math.inf
        """The moment (Trio's clock) until which nobody has a turn who is loud."""
        self._timer: Timer | None = None
        self._quiet: Session | None = None
        self._quiet_at = -math.inf
        """Who had the last turn of those who are not loud, and when."""

    @asynccontextmanager
    async def turn(self, session: Session) -> AsyncIterator[bool]:
        """Wait for a turn of *session*, which lasts while the block does. Gives False if it has
        lost its connection since: then nobody waits for an answer."""
        name = "" if session.access.token is None else session.access.token.id
        place = self._begin(name, session)
        began: float | None = None
        try:
            self._go_on()
            await place.event.wait()
            began = trio.current_time()
            yield place.has_turn
        finally:
            if place.has_turn:
                now = trio.current_time()
                self._end(name, session, 0.0 if began is None else now - began, now)
            elif not place.event.is_set():
                self._leave(name, session, place)

    def forget(self, session: Session) -> None:
        """A session has lost its connection: whatever it has waiting gets no turn."""
        for name, group in list(self._groups.items()):
            for place in group.waiting.pop(session, ()):
                place.event.set()
            group.had.pop(session, None)
            self._tidy(name)

    # --- inside ---------------------------------------------------------------------------------

    def _begin(self, name: str, session: Session) -> _Place:
        group = self._groups.setdefault(name, _Group())
        if not group.waiting:
            self._had.begin(name)
        if session not in group.waiting:
            group.had.begin(session)
        place = _Place()
        group.waiting.setdefault(session, deque()).append(place)
        return place

    def _leave(self, name: str, session: Session, place: _Place) -> None:
        places = self._groups[name].waiting[session]
        places.remove(place)
        if not places:
            del self._groups[name].waiting[session]
        self._tidy(name)

    def _go_on(self) -> None:
        """Give the next one its turn, if somebody may have it now."""
        if self._is_busy or not self._groups:
            return
        now = trio.current_time()
        may_be_loud = now >= self._pause_until
        loud: set[Session] = set()
        candidates: dict[str, list[Session]] = {}
        for name, group in self._groups.items():
            noisy = {each for each in group.waiting if self._turns.has_to_wait(each.reading)}
            for each in noisy:
                each.reading.loud_until = now + LOUD_S  # also for as long as it waits
            loud |= noisy
            if some := [each for each in group.waiting if may_be_loud or each not in noisy]:
                candidates[name] = some
        if not candidates:
            self._look_again()
            return
        quiet = {name for name, some in candidates.items() if not loud.issuperset(some)}
        name = next_of(candidates, self._had, candidates.keys() - quiet)
        group = self._groups[name]
        session = next_of(candidates[name], group.had, loud)
        self._had.serve(name)
        group.had.serve(session)
        places = group.waiting.pop(session)
        place = places.popleft()
        if places:
            group.waiting[session] = places
        self._is_busy = place.has_turn = True
        if session not in loud:
            self._quiet, self._quiet_at = session, now
        place.event.set()

    def _end(self, name: str, session: Session, took_s: float, now: float) -> None:
        self._turns.spend(session.reading, took_s)
        is_loud = self._turns.has_to_wait(session.reading)
        self._had.charge(name, took_s)
        self._groups[name].had.charge(session, took_s)
        others_ask = self._quiet is not session and now < self._quiet_at + LOUD_S
        if is_loud and others_ask:
            self._pause_until = now + PAUSE * took_s
        self._is_busy = False
        for each in list(self._groups):
            self._tidy(each)
        self._go_on()

    def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.call_at(self._pause_until, self._go_on)

    def _tidy(self, name: str) -> None:
        """Nobody of a token waits: its sessions are equals again. Nobody at all: so are tokens."""
        if not self._is_busy and not self._groups[name].waiting:
            del self._groups[name]
            if not self._groups:
                self._had = Had()
