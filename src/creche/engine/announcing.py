"""Announcements: what workers say of their tasks, and room for it in the catalog.

A catalog that is full lets go of what nobody needs: of tasks that no worker which is here has
announced, and that have neither an unfinished job nor a schedule. Who announces such a task again
has it back. Whether there are jobs only the store can tell, so the announcement that finds no room
has its connection ended, and its worker says it again over the next.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from creche.engine.catalog import CatalogFull
from creche.engine.sessions import Session
from creche.errors import ChannelBroken, StoreError, StoreUnavailable
from creche.store.base import TaskRow
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

LOOK_AGAIN_S = 10.0
"""How long after a look for tasks that nobody needs the next one is: it takes a look at every
unfinished job."""

MAX_LOOKS = 1000
"""Tokens of which it is remembered when that was."""


class Announcements:
    """Takes announcements into the catalog, and makes room there."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._is_looking = False
        self._looked_at: dict[str | None, float] = {}
        """When it was looked for tasks that nobody needs (Trio's clock): of all, or of a token."""

    def take(self, session: Session, declarations: list[m.Facts]) -> list[TaskRow]:
        """Take what a worker says of its tasks; return the rows that are new or different.

        Raises:
            RemoteProtocolError: a declaration is not one, or there is no room; nothing was taken.
            ChannelBroken: there may be room soon; nothing was taken.
        """
        core, access = self._core, session.access
        by = None if access.token is None or access.is_full else access.token.id
        try:
            return core.catalog.announce(declarations, core.now(), session.began, by)
        except CatalogFull as full:
            if not self._may_make_room(full):
                raise
        raise ChannelBroken("there is no room yet for what its worker announces")

    def _may_make_room(self, full: CatalogFull) -> bool:
        """Whether there may be room soon: it is being looked for, from now on if need be."""
        if self._is_looking:
            return True
        now = trio.current_time()
        looked_at = self._looked_at.get(full.by, -math.inf)
        if now < looked_at + LOOK_AGAIN_S or not self._unneeded(full):
            return False
        if len(self._looked_at) >= MAX_LOOKS:
            self._looked_at.clear()
        self._looked_at[full.by] = now
        self._is_looking = True
        self._core.spawn(self._make_room, full)
        return True

    def _unneeded(self, full: CatalogFull) -> Sequence[str]:
        """Return the tasks that may go for it, oldest first, if they have no jobs."""
        core = self._core
        needed = {schedule.work.task for schedule in core.schedules.by_name.values()}
        needed.update(*(worker.tasks for worker in core.sessions.workers()))
        return [name for name in core.catalog.oldest(full.by) if name not in needed]

    async def _make_room(self, full: CatalogFull) -> None:
        core = self._core
        try:
            in_use = await core.store.tasks_in_use()
        except StoreUnavailable:
            raise
        except StoreError as error:
            logger.warning(
                "no task can be forgotten, as it is not known which have jobs: %s", error
            )
            return
        finally:
            self._is_looking = False
        # No checkpoint below. What has come since the store was asked is in memory, but for a job
        # that went on to the store: that one lacks nothing, as who runs it announces its task.
        here = {job.task for job in (*core.by_seq.values(), *core.by_id.values())}
        free = [n for n in self._unneeded(full) if n not in in_use and n not in here]
        gone = core.catalog.forget(free, full)
        if gone:
            logger.info("forgot %d tasks that no worker announces any more", len(gone))
        for name in gone:
            core.journal.task(TaskRow(name, None, core.now()))
        core.limits.announced(gone)
        core.unique.said.announced(gone)
        core.workers_changed()
        core.journal.wake()
