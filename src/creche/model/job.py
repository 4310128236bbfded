"""A job's states and the legal moves between them."""

from __future__ import annotations

from collections.abc import Mapping

from creche.errors import CrecheError
from creche.model.words import Word


class JobState(Word):
    """Where a job is in its life. The numbers are kept in stores and sent over the wire."""

    QUEUED = 1
    PARKED = 2
    DELAYED = 3
    RUNNING = 4
    CANCELLING = 5
    SUCCEEDED = 10
    FAILED = 11
    CANCELLED = 12
    LOST = 13
    EXPIRED = 14
    FORGOTTEN = 20
    """Ended, and its result pruned: only the id is kept, so that it cannot run again."""

    # An enum's own hash is computed in Python from the name; states are hashed for every job.
    __hash__ = int.__hash__

    @property
    def is_waiting(self) -> bool:
        """Whether nobody runs the job, and it has not ended."""
        return self <= JobState.DELAYED

    @property
    def has_ended(self) -> bool:
        """Whether the job is in a final state."""
        return self >= JobState.SUCCEEDED

    @property
    def is_dead(self) -> bool:
        """Whether somebody may have to look after the job: it has ended without a result, and not
        because it was cancelled."""
        return self in (JobState.FAILED, JobState.LOST, JobState.EXPIRED)

    @classmethod
    def parse(cls, word: str) -> JobState:
        """Return the state that *word* names, in any case.

        Raises:
            ValueError: *word* names no state.
        """
        try:
            return cls[word.strip().upper()]
        except KeyError:
            words = ", ".join(s.word for s in cls if s is not cls.FORGOTTEN)
            raise ValueError(f"{word!r} is no job state: use one of {words}") from None


class Fate(Word):
    """What became of a job that somebody may have to look after (`JobState.is_dead`)."""

    DEAD = 0
    """Nothing yet: it is in the set of dead jobs."""
    RETRIED = 1
    """It was submitted again, as another job."""
    DISCARDED = 2
    """Nobody wants it any more."""

    @classmethod
    def parse(cls, word: str) -> Fate:
        """Return the fate that *word* names, in any case.

        Raises:
            ValueError: *word* names none.
        """
        try:
            return cls[word.strip().upper()]
        except KeyError:
            words = ", ".join(fate.word for fate in cls)
            raise ValueError(f"{word!r} is not what became of a job: use one of {words}") from None


S = JobState

MOVES: Mapping[JobState, frozenset[JobState]] = {
    # A job that was read back or handed back is queued again; one that lost its worker too.
    # What waits and cannot be read back from the store has failed.
    S.QUEUED: frozenset({S.PARKED, S.DELAYED, S.RUNNING, S.FAILED, S.CANCELLED, S.EXPIRED}),
    S.PARKED: frozenset({S.QUEUED, S.DELAYED, S.RUNNING, S.FAILED, S.CANCELLED, S.EXPIRED}),
    S.DELAYED: frozenset({S.QUEUED, S.PARKED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    S.RUNNING: frozenset(
        {S.QUEUED, S.PARKED, S.DELAYED, S.CANCELLING, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.LOST}
    ),
    S.CANCELLING: frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.LOST}),
    S.SUCCEEDED: frozenset({S.FORGOTTEN}),
    S.FAILED: frozenset({S.FORGOTTEN}),
    S.CANCELLED: frozenset({S.FORGOTTEN}),
    S.LOST: frozenset({S.FORGOTTEN}),
    S.EXPIRED: frozenset({S.FORGOTTEN}),
    S.FORGOTTEN: frozenset(),
}
"""Every legal move. What is not here does not happen; `docs/design.md` draws it from this table."""


class IllegalMove(CrecheError):
    """A job was about to be moved against the table: a bug on this side."""


def check_move(here: JobState, there: JobState) -> JobState:
    """Return *there* if a job may move to it from *here*.

    Raises:
        IllegalMove: it may not; nothing has changed.
    """
    if there not in MOVES[here]:
        raise IllegalMove(f"a job cannot move from {here.word} to {there.word}")
    return there
