"""What each role may do: one table of messages, one of questions, one of topics.

Rule: no other module decides what a role is for. A peer's own role, client or worker, is another
matter: the grammar (`creche.wire.session`) says what each of these may say at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creche.model.access import AccessRole, Token, fits, role_names
from creche.wire import messages as m
from creche.wire.session import Role

VIEW, SUBMIT, WORK, OPERATE, ADMIN = AccessRole

EVERY = frozenset(AccessRole)
_READING = frozenset({VIEW, OPERATE, ADMIN})
_COMMANDING = frozenset({OPERATE, ADMIN})
_WORKING = frozenset({WORK, ADMIN})

MESSAGES: Mapping[type[Any], frozenset[AccessRole]] = {
    m.Goodbye: EVERY,
    m.Ping: EVERY,
    m.Pong: EVERY,
    m.Piece: EVERY,
    # What it may ask and follow is below.
    m.Ask: EVERY,
    m.Subscribe: EVERY,
    m.Unsubscribe: EVERY,
    # Jobs are named by their ids, which nobody can guess: who has one was given it.
    m.Watch: EVERY,
    m.Unwatch: EVERY,
    m.Received: EVERY,
    # Whoever may make schedules and retry jobs with other arguments may submit as well. A worker
    # submits for the jobs that it runs, and only for those: see `FREELY`.
    m.Submit: frozenset({SUBMIT, WORK, OPERATE, ADMIN}),
    m.Cancel: frozenset({SUBMIT, WORK, OPERATE, ADMIN}),
    m.Announce: _WORKING,
    m.Capacity: _WORKING,
    m.Finished: _WORKING,
    m.TryAgain: _WORKING,
    m.HandBack: _WORKING,
}
"""Every message of a peer behind its Hello, and who may say it."""

FREELY = frozenset({SUBMIT, OPERATE, ADMIN})
"""Who may submit a job that belongs to no running one."""

QUESTIONS: Mapping[str, frozenset[AccessRole]] = {
    "health": EVERY,
    "job": EVERY,
    "task": EVERY,
    "tasks": EVERY,
    "jobs": _READING,
    "queues": _READING,
    "workers": _READING,
    "store": _READING,
    "overview": _READING,
    "schedules": _READING,
    "schedule": _READING,
    "work": _WORKING | _READING,
    "set-queue": _COMMANDING,
    "set-worker": _COMMANDING,
    "create-schedule": _COMMANDING,
    "change-schedule": _COMMANDING,
    "pause-schedule": _COMMANDING,
    "resume-schedule": _COMMANDING,
    "delete-schedule": _COMMANDING,
    "run-schedule": _COMMANDING,
    "retry": _COMMANDING,
    "discard": _COMMANDING,
}
"""Every question and command, and who may ask it."""

TOPICS: Mapping[str, frozenset[AccessRole]] = {
    "overview": _READING,
    "events": _READING,
}
"""Every topic, and who may follow it."""

PEERS: Mapping[Role, frozenset[AccessRole]] = {Role.CLIENT: EVERY, Role.WORKER: _WORKING}
"""Who may introduce itself as what."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a peer may do. `token` is what it has shown, None if it need not show any."""

    roles: frozenset[AccessRole]
    queues: tuple[str, ...] | None = None
    token: Token | None = None

    @property
    def is_full(self) -> bool:
        """Whether there is nothing that it may not do."""
        return ADMIN in self.roles and self.queues is None

    @property
    def who(self) -> str:
        """What people call it."""
        words = " and ".join(role_names(self.roles))
        return f"a token for {words}" if self.token is None else f"token {self.token.id} ({words})"

    def may(self, allowed: frozenset[AccessRole]) -> bool:
        """Whether it has one of these roles."""
        return not self.roles.isdisjoint(allowed)

    def may_use(self, queue: str) -> bool:
        """Whether *queue* is one of those that it is for."""
        return self.queues is None or fits(queue, self.queues)

    def is_of(self, token: Token | None) -> bool:
        """Whether this is what *token* allows, or allowed before it was changed."""
        own = self.token
        if own is None or token is None:
            return False
        return (own.id, own.digest) == (token.id, token.digest)

    def why_not(self, what: str, allowed: frozenset[AccessRole]) -> str:
        """Return the sentence about something that it may not do."""
        return f"{self.who} is not for this: {what} takes {_either(role_names(allowed))}"

    def why_no_queue(self, queue: str) -> str:
        """Return the sentence about a queue that it is not for."""
        return (
            f"{self.who} is not for queue {queue!r:.80}: it is for {', '.join(self.queues or ())}"
        )


EVERYTHING = Access(frozenset({ADMIN}))
"""What a peer may do where nobody has to show anything."""


def access_of(token: Token) -> Access:
    """Return what *token* allows."""
    return Access(token.roles, token.queues, token)


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
