"""What a worker has of its plane's: the attempts it holds, and bodies that are nobody's any more.

The plane knows what a worker holds from what it has offered, what was reported and handed back,
and, when a connection was lost, from the worker's Hello. What has begun stays held until its body
has left, whoever stops it, and then it is reported: an attempt that the plane does not hear of
would stay with this worker for ever, and an at-most-once one would be begun again. What has not
begun may be let go at any time; while nobody is there to be told, it is told with the next Welcome.
"""

from __future__ import annotations

from collections.abc import Iterable

from creche.model.job import JobState
from creche.peer.parent import Token
from creche.worker.attempt import Attempt


class Holdings:
    """The attempts of one worker, by their tokens."""

    def __init__(self) -> None:
        self.held: dict[Token, Attempt] = {}
        """What is ours: waiting, running, or finished in a thread and not collected."""
        self.given_up: set[Attempt] = set()
        """Attempts, held or not, whose bodies were told to leave and have not. They keep their
        slots."""
        self._named: set[Token] = set()

    @property
    def may_end_well(self) -> bool:
        """Whether anything is held that was not told to leave."""
        return not all(attempt.is_given_up for attempt in self.held.values())

    def name(self, reported: Iterable[Token]) -> list[Token]:
        """Return what a Hello names: what is held, and what is *reported* but not settled."""
        self._named = {*self.held, *reported}
        return list(self._named)

    def let_go_since(self, reported: Iterable[Token]) -> list[Token]:
        """Return what the last Hello named and is neither held nor *reported* now: the plane goes
        by the Hello, and is to be told."""
        return sorted(self._named.difference(self.held, reported))

    def give_up(self, why: str) -> None:
        """The right to all that is held is lost or renounced: stop what is in."""
        for attempt in self.held.values():
            if attempt.stage.is_in:
                attempt.is_given_up = True
                self.given_up.add(attempt)
                attempt.stop(why)

    def disown(self) -> list[Attempt]:
        """Hold nothing any more; return what was held."""
        held = list(self.held.values())
        self.held.clear()
        return held

    def unname(self) -> None:
        """Have named nothing: who welcomed us is not whom the last Hello spoke of."""
        self._named.clear()

    def let_go(self, attempt: Attempt) -> bool:
        """The body of *attempt* has left; return whether it was held until now."""
        self.given_up.discard(attempt)
        if self.held.get(attempt.token) is not attempt:
            return False
        del self.held[attempt.token]
        return True


def end_given_up(attempt: Attempt) -> None:
    """The body has left. If this worker has stopped it, and not the plane, that may be why it did
    not succeed: then nobody knows how far it came."""
    has_cut_short = attempt.leaves_by_itself and attempt.has_seen_stop
    if attempt.is_given_up and (attempt.state is not JobState.SUCCEEDED or has_cut_short):
        attempt.state = JobState.LOST
        attempt.outcome = attempt.retry = None
