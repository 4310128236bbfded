"""Submissions about which nothing can be decided without a look at the store.

One that was sent before, over a connection that broke, and not answered, may have been accepted,
and have ended since. One that has a unique key may be one with a job that is there. So these are
looked up before anything else is decided. What the same session submits after such a one waits for
that, to keep its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import trio

from creche.engine.asks import Ask
from creche.engine.holders import Known
from creche.engine.sessions import Session
from creche.errors import StoreError, StoreUnavailable
from creche.store.base import KeyHolder, OutcomeRow
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

PIECE = 1000
"""Submissions that are looked up at a time."""


class Doubt(NamedTuple):
    """A submission that is looked up, or waits behind one that is."""

    session: Session
    message: m.Submit
    asks: Sequence[Ask] = ()
    """The keys that it wants to have."""
    problem: str = ""
    """Why these cannot be told: it is declined unless it was accepted before."""

    @property
    def is_resent(self) -> bool:
        """Whether it was sent before."""
        return bool(self.message.flags & m.RESENT)


class Doubts:
    """Looks submissions up, in order, and has taken what the store does not know.

    Args:
        take: called with each submission that is new after all, the keys that it wants to have, and
            what is known of these.
    """

    def __init__(
        self, core: Core, take: Callable[[Session, m.Submit, Sequence[Ask], Known], None]
    ) -> None:
        self._core = core
        self._take = take
        self._queue: deque[Doubt] = deque()
        self._is_looking = False
        self._looked = trio.Event()
        """Set, and replaced, when some have been looked up."""

    def add(
        self, session: Session, message: m.Submit, asks: Sequence[Ask] = (), problem: str = ""
    ) -> None:
        """Look a submission up, or let it wait behind those that are looked up. No checkpoint."""
        size = len(message.payload)
        if not session.doubts.has_room(size, self._core.settings):
            _decline(session, message, "more is looked up than may be unanswered")
            return
        session.doubts.add(size)
        self._queue.append(Doubt(session, message, asks, problem))
        if not self._is_looking:
            self._is_looking = True
            self._core.spawn(self._look_up)

    def drop(self, session: Session) -> None:
        """Forget what a session has submitted: it is over, or submits it all again."""
        if session.doubts:
            self._queue = deque(doubt for doubt in self._queue if doubt.session is not session)
            session.doubts.clear()

    def withdraw(self, ids: Collection[bytes]) -> set[bytes]:
        """Decline the submissions of these ids that wait here, as somebody has cancelled them;
        return which were. One that was sent before may have been accepted then, and stays."""
        gone: list[Doubt] = []
        kept: deque[Doubt] = deque()
        for doubt in self._queue:
            is_gone = doubt.message.id in ids and not doubt.is_resent
            (gone if is_gone else kept).append(doubt)
        self._queue = kept
        for session, message, *_ in gone:
            session.doubts.remove(len(message.payload))
            session.decline(message.n, "cancelled", "it was cancelled while it was looked up")
        return {doubt.message.id for doubt in gone}

    async def wait_for_resent(self, ids: Collection[bytes]) -> None:
        """Wait until it is known whether those of these ids that were sent before are jobs."""
        while any(doubt.is_resent and doubt.message.id in ids for doubt in self._queue):
            await self._looked.wait()

    async def _look_up(self) -> None:
        core, unique = self._core, self._core.unique.holders
        try:
            while self._queue:
                some = list(islice(self._queue, PIECE))
                with core.reading() as gone:
                    unique.begin_to_ask()
                    known, holders, why = await self._ask(some)
                    # No checkpoint from here on. They were in the queue until now, so that whatever
                    # came meanwhile is behind them.
                    if not unique.is_out_of_date:
                        self._answer(some, known, Known(holders, gone), why)
                    unique.end_asking()
                self._looked.set()
                self._looked = trio.Event()
                core.dispatch.run()
                core.journal.wake()
        finally:
            self._is_looking = False
            unique.end_asking()

    async def _ask(
        self, some: Sequence[Doubt]
    ) -> tuple[Mapping[bytes, OutcomeRow], Mapping[bytes, KeyHolder], str]:
        """Return what the store has of these, or why it cannot tell."""
        ids = [doubt.message.id for doubt in some if doubt.is_resent]
        names = {ask.name for doubt in some for ask in doubt.asks}
        store = self._core.store
        known: Mapping[bytes, OutcomeRow] = {}
        holders: Mapping[bytes, KeyHolder] = {}
        try:
            if ids or not names:
                known = await store.outcomes(ids, max_bytes=0)
            if names:
                holders = await store.keys(names)
        except StoreUnavailable:
            raise
        except StoreError as error:
            return {}, {}, f"the store cannot be asked: {error}"
        return known, holders, ""

    def _answer(
        self, some: Sequence[Doubt], known: Mapping[bytes, OutcomeRow], keys: Known, why: str
    ) -> None:
        for doubt in some:
            if not self._queue or self._queue[0] is not doubt:
                continue  # it was dropped meanwhile
            session, message, asks, problem = self._queue.popleft()
            session.doubts.remove(len(message.payload))
            if message.id in self._core.by_id:
                self._take(session, message, asks, keys)
            elif why and (doubt.is_resent or asks):
                _decline(session, message, why)
            elif doubt.is_resent and message.id in known:
                self._was_stored(session, message)
            elif problem:
                session.decline(message.n, "bad-key", problem)
            else:
                self._take(session, message, asks, keys)

    def _was_stored(self, session: Session, message: m.Submit) -> None:
        outcomes = self._core.outcomes
        is_watched = bool(message.flags & m.WATCH)
        if is_watched and not outcomes.has_room(session, (message.id,)):
            _decline(session, message, "this session waits for too many results already")
        else:
            session.post(m.Accepted([message.n]))
            if is_watched:
                outcomes.watch(session, (message.id,))


def _decline(session: Session, message: m.Submit, why: str) -> None:
    """What would become of it is not known, or not to be said."""
    code = "uncertain" if message.flags & m.RESENT else "credit"
    session.decline(message.n, code, why)
