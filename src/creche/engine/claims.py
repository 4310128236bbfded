"""Claims: who has submitted an id whose first submission is not answered yet.

One id is one job, whoever submits it and however often. So each is answered as the first is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from creche.engine.refusals import credit_refusal
from creche.engine.sessions import Session
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core


class Claims:
    """Those who wait for the answer to a submission of somebody else's, or to one of their own."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._by_id: dict[bytes, dict[tuple[Session, int], m.Submit]] = {}
        """By session and number, what it said."""

    def __len__(self) -> int:
        return len(self._by_id)

    def accepted(self, job_id: bytes) -> Sequence[tuple[Session, int]]:
        """Return who else is to be told that this job is accepted."""
        claims = self._by_id.get(job_id) if self._by_id else None
        if claims is None:
            return ()
        for (session, _), message in claims.items():
            if message.flags & m.WATCH:
                self._core.outcomes.watch(session, (job_id,))
        return self.take_out(job_id)

    def declined(self, job_id: bytes) -> Sequence[tuple[Session, int]]:
        """A job could not be stored: who waits for its id waits for the job that had it before, if
        there is one. Return who else is to be told that it is declined."""
        self._core.outcomes.look_again(job_id)
        return self.take_out(job_id)

    def add(self, session: Session, message: m.Submit) -> None:
        """Answer a submission as the first one of the same id is answered."""
        claim = (session, message.n)
        claims = self._by_id.get(message.id, {})
        if claim not in claims:  # else it is said twice, and what was said first stands
            if not session.claims.has_room(len(message.payload), self._core.settings):
                session.post(m.Declined(message.n, *credit_refusal(self._core.settings)))
                return
            session.claims.add(len(message.payload))
            claims[claim] = message
            self._by_id[message.id] = claims

    def take_out(self, job_id: bytes) -> Sequence[tuple[Session, int]]:
        """Return who claims an id, and forget it."""
        claims = self._by_id.pop(job_id, {})
        for (session, _), message in claims.items():
            session.claims.remove(len(message.payload))
        return tuple(claims)

    def next_of(self, job_id: bytes) -> tuple[Session, m.Submit] | None:
        """Return who has claimed an id first, and what it said, and forget that one's claim."""
        claims = self._by_id.get(job_id)
        if not claims:
            return None
        session, n = next(iter(claims))
        message = claims.pop((session, n))
        if not claims:
            del self._by_id[job_id]
        session.claims.remove(len(message.payload))
        return session, message

    def forget(self, session: Session) -> None:
        """The session is over: it waits for nothing any more."""
        for job_id, claims in list(self._by_id.items()):
            for claim in [claim for claim in claims if claim[0] is session]:
                del claims[claim]
            if not claims:
                del self._by_id[job_id]
