"""Submissions that were sent before, over a connection that broke, and not answered.

Of one of these nobody can say that nothing of it is stored without a look at the store: it may have
been accepted, and have ended since. So it is looked up before anything else is decided. What the
same session submits after it waits for that, to keep its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from creche.engine.sessions import Session
from creche.errors import StoreError, StoreUnavailable
from creche.store.base import OutcomeRow
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

PIECE = 1000
"""Submissions that are looked up at a time."""


class Doubts:
    """Looks submissions up, in order, and has taken what the store does not know.

    Args:
        take: called with each submission that is new after all.
    """

    def __init__(self, core: Core, take: Callable[[Session, m.Submit], None]) -> None:
        self._core = core
        self._take = take
        self._queue: deque[tuple[Session, m.Submit]] = deque()
        self._is_looking = False

    def add(self, session: Session, message: m.Submit) -> None:
        """Look a submission up, or let it wait behind those that are looked up. No checkpoint."""
        size = len(message.payload)
        if not session.doubts.has_room(size, self._core.settings):
            _decline(session, message, "more was sent again than may be unanswered")
            return
        session.doubts.add(size)
        self._queue.append((session, message))
        if not self._is_looking:
            self._is_looking = True
            self._core.spawn(self._look_up)

    def drop(self, session: Session) -> None:
        """Forget what a session has submitted: it is over, or submits it all again."""
        if session.doubts:
            self._queue = deque(entry for entry in self._queue if entry[0] is not session)
            session.doubts.clear()

    async def _look_up(self) -> None:
        core = self._core
        try:
            while self._queue:
                some = list(islice(self._queue, PIECE))
                ids = [said.id for _, said in some if said.flags & m.RESENT]
                why = ""
                known: Mapping[bytes, OutcomeRow] = {}
                try:
                    known = await core.store.outcomes(ids, max_bytes=0)
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    why = f"the store cannot be asked: {error}"
                # No checkpoint from here on. They were in the queue until now, so that whatever
                # came meanwhile is behind them.
                self._answer(some, known, why)
                core.dispatch.run()
                core.journal.wake()
        finally:
            self._is_looking = False

    def _answer(
        self,
        some: Sequence[tuple[Session, m.Submit]],
        known: Mapping[bytes, OutcomeRow],
        why: str,
    ) -> None:
        for entry in some:
            if not self._queue or self._queue[0] is not entry:
                continue  # it was dropped meanwhile
            session, message = self._queue.popleft()
            session.doubts.remove(len(message.payload))
            is_resent = bool(message.flags & m.RESENT)
            if is_resent and message.id not in self._core.by_id and (why or message.id in known):
                self._was_stored(session, message, why)
            else:
                self._take(session, message)

    def _was_stored(self, session: Session, message: m.Submit, why: str) -> None:
        outcomes = self._core.outcomes
        is_watched = bool(message.flags & m.WATCH)
        if why:
            _decline(session, message, why)
        elif is_watched and not outcomes.has_room(session, (message.id,)):
            _decline(session, message, "this session waits for too many results already")
        else:
            session.post(m.Accepted([message.n]))
            if is_watched:
                outcomes.watch(session, (message.id,))


def _decline(session: Session, message: m.Submit, why: str) -> None:
    """Whether it was accepted before is not known, or not to be said."""
    code = "uncertain" if message.flags & m.RESENT else "credit"
    session.decline(message.n, code, why)
