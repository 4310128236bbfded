"""What a worker has of its plane's: the attempts it holds, and bodies that it may not run any more.

The plane knows what a worker holds from what it has offered, what was reported and handed back,
and, when a connection was lost, from the worker's Hello. What is let go while nobody is there to be
told must be told with the next Welcome, or it stays with this worker for ever.
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
        """What is ours by right: waiting, running, or finished in a thread and not collected."""
        self.strays: set[Attempt] = set()
        """Attempts that are not, but whose bodies are still in. They keep their slots."""
        self._named: set[Token] = set()

    def name(self, reported: Iterable[Token]) -> list[Token]:
        """Return what a Hello names: what is held, and what is *reported* but not settled."""
        self._named = {*self.held, *reported}
        return list(self._named)

    def take_up_again(self, reported: Iterable[Token]) -> list[Token]:
        """The plane goes by what the Hello named, and some of that may have been let go since, when
        nobody was there to be told. Bodies that are still in are held again; return the rest."""
        gone = self._named.difference(self.held, reported)
        for attempt in [stray for stray in self.strays if stray.token in gone]:
            self.strays.discard(attempt)
            attempt.is_abandoned = False
            attempt.was_abandoned = True
            self.held[attempt.token] = attempt
            gone.discard(attempt.token)
        return sorted(gone)

    def abandon(self, why: str) -> None:
        """The right to all that is held is lost or given up: stop what is in."""
        held, self.held = self.held, {}
        for attempt in held.values():
            attempt.is_abandoned = True
            if attempt.stage.is_in:
                self.strays.add(attempt)
                attempt.stop(why)

    def let_go(self, attempt: Attempt) -> bool:
        """The body of *attempt* has left; return whether it was held until now."""
        if attempt.is_abandoned:
            self.strays.discard(attempt)
            return False
        del self.held[attempt.token]
        return True


def is_to_be_reported(attempt: Attempt) -> bool:
    """Whether how a held attempt has ended is an end of its job. If this worker has stopped it, and
    not the plane, that may be why it did not succeed."""
    return attempt.state is JobState.SUCCEEDED or not attempt.was_abandoned
