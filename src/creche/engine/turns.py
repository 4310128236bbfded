"""Who may go on at once, and who stands in line: a peer that says much which brings nothing.

A plane's loop is one for all, and each peer has its turn in it. That is fair among a few: among a
thousand that never pause, everybody waits for a thousand turns. So what a peer says is counted, as
the time that it costs, unless it submits a job, ends one, or is a receipt. Nobody who
works comes near its allowance. Whoever has used it up waits in one line with all others like it,
and each turn is followed by a pause: together they have a fifth of the loop at the most.

A cost is what such a thing is taken to cost, or more if it took longer by Trio's clock: on a
virtual one, the same peers have the same turns each time.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from creche.wire import messages as m

SHARE = 0.2
"""Of each second a peer may cost so much for nothing, again and again."""

SAVED_S = 0.25
"""What it can save up of that, and begins with."""

TOGETHER_SHARE = 0.25
"""The same, of all peers together."""

TOGETHER_S = 0.25
"""What they can save up of that, and begin with."""

FEW_S = 0.02
"""Who has used up less than this of what it had saved is not loud, and never stands in line."""

LOUD_S = 10.0
"""For how long a peer that has stood in line is taken to be loud."""

READ_SHARE = 0.03
"""Of each second a peer's questions may cost the store's reader so much. It is less than a
twentieth: of twenty that keep it busy together, none is taken to ask now and then."""

PAUSE = 4
"""How often what a turn cost is the pause that follows it."""

LEAST_PAUSE_S = 0.002

MAX_IN_LINE = 1_000
"""Frames and questions in line, at which loud peers' further questions are answered as busy."""

FRAME_S = 2e-5
MESSAGE_S = 2e-6
BYTE_S = 5e-8
"""What a frame, a message in it, and a byte of it, are taken to cost."""

PIECE_BYTE_S = 1e-8
"""The same of a byte in a piece of a large message, until the whole has brought something."""

LOOK_UP_S = 2e-5
"""What it costs to look up a job that somebody waits for and that is not in memory. Where it is
found, that was worth it, and is given back."""

QUESTION_S = 5e-4
OVERVIEW_S = 1e-2
"""What a question is taken to cost, and one whose answer is made of everything there is."""

_LARGE = frozenset({"overview", "queues"})


class Allowance:
    """What a peer may cost for nothing: it grows again by itself."""

    def __init__(self, share: float = SHARE, most_s: float = SAVED_S) -> None:
        self._share = share
        self._most_s = most_s
        self._left_s = most_s
        self._at = 0.0
        self.spent_s = 0.0
        """All that was ever used up of it."""
        self.loud_until = -math.inf
        """Until when (Trio's clock) it counts that the peer has stood in line."""

    def spend(self, cost_s: float, now: float) -> None:
        """Use up some of it; there may be too little."""
        self._left_s = max(-self._most_s, self.left_s(now) - cost_s)
        self._at = now
        self.spent_s += cost_s

    def left_s(self, now: float) -> float:
        """How much is left at *now* (Trio's clock); below 0 when more was used up than there was,
        but never by more than there can be."""
        grown = self._left_s + self._share * max(0.0, now - self._at)
        return min(self._most_s, grown)

    def used_s(self, now: float) -> float:
        """How much is not there that could be."""
        return self._most_s - self.left_s(now)


class Turns:
    """The line, and what all peers together may cost without it."""

    def __init__(self) -> None:
        self._together = Allowance(TOGETHER_SHARE, TOGETHER_S)
        self._line = trio.StrictFIFOLock()

    @property
    def is_full(self) -> bool:
        """Whether so many stand in line that no question more is taken from those who have to."""
        return self._line.statistics().tasks_waiting >= MAX_IN_LINE

    def spend(self, own: Allowance, cost_s: float) -> None:
        """Note what a peer has cost."""
        now = trio.current_time()
        own.spend(cost_s, now)
        self._together.spend(cost_s, now)

    def has_to_wait(self, own: Allowance) -> bool:
        """Whether what a peer says next is for the line."""
        now = trio.current_time()
        if own.left_s(now) < 0:
            return True
        is_loud = now < own.loud_until or own.used_s(now) >= FEW_S
        return is_loud and self._together.left_s(now) < 0

    @asynccontextmanager
    async def turn(self, own: Allowance) -> AsyncIterator[None]:
        """Wait for a turn; the next one is not before the pause behind it."""
        async with self._line:
            before_s = own.spent_s
            yield
            own.loud_until = trio.current_time() + LOUD_S
            await trio.sleep(max(LEAST_PAUSE_S, PAUSE * (own.spent_s - before_s)))


def cost_of_frame(frame: bytes, number: int, useful: int, took_s: float) -> float:
    """What a frame of *number* messages has cost for nothing, if so many of them brought something:
    what it is taken to, or what it took by the clock if that is more."""
    part = 1.0 if not number else max(0.0, (number - useful) / number)
    return part * max(took_s, FRAME_S + len(frame) * BYTE_S + number * MESSAGE_S)


def cost_of_question(message: m.Ask | m.Cancel | m.Subscribe) -> float:
    """What answering is taken to cost."""
    if isinstance(message, m.Cancel):
        return QUESTION_S + len(message.ids) * BYTE_S * 100
    if isinstance(message, m.Subscribe) or message.question in _LARGE:
        return OVERVIEW_S
    return QUESTION_S
