"""Stored tails: what is beyond a lane's window waits in the store, and is read back by seq when the
lane runs low."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import trio

from creche.engine.job import Job
from creche.engine.lane import READ_AGAIN_S, Lane
from creche.errors import StoreError, StoreUnavailable
from creche.store.base import LaneCount

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")


class Tails:
    """The lanes that have jobs in the store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._deep: set[Lane] = set()

    def restore(self, counts: Iterable[LaneCount]) -> None:
        """Learn what the store holds, when it is opened."""
        for count in counts:
            lane = self._core.lanes.by_number[count.lane]
            lane.deepen(count.stored)
            lane.read_to = count.first_seq - 1
            self._deep.add(lane)

    async def read_all(self) -> None:
        """Fill the windows, before anyone is listened to: a worker that names an attempt finds its
        job free there."""
        for lane in list(self._deep):
            if lane.has_room:
                try:
                    await self._read_back(lane)
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    self._unreadable(lane, error)

    def deepen(self, lane: Lane) -> None:
        """Count a new job into a lane's stored tail: it goes there with its first commit."""
        lane.deepen()
        lane.arriving += 1
        self._deep.add(lane)

    def spill(self, job: Job) -> None:
        """Move a waiting job from memory to its lane's stored tail; it leaves memory when it is
        there."""
        lane = job.lane
        job.is_stored = True
        lane.deepen()
        lane.spilling += 1
        lane.read_to = min(lane.read_to, job.seq - 1)
        self._deep.add(lane)
        self._core.journal.spill(job)

    def refill(self) -> None:
        """Read jobs back where a lane runs low, and let in those that wait for room."""
        # While it recovers, each lane has its turn, and there is no nursery to read in.
        if self._deep and self._core.is_serving:
            for lane in [lane for lane in self._deep if not lane.stored]:
                self._deep.discard(lane)
            is_tight = self._core.lanes.space.is_tight
            # Once for all lanes, of which there may be thousands.
            heard = self._heard() if is_tight else {}
            for lane in self._deep:
                if lane.is_thirsty and (not is_tight or _is_needed(lane, heard)):
                    lane.is_reading = True
                    self._core.spawn(self._read_back_or_try_again, lane)
        self._core.submissions.admit_waiting()

    def _has_space(self, lane: Lane) -> bool:
        """Whether one more job may be read back into *lane*."""
        return not self._core.lanes.space.is_full or _is_needed(lane, self._heard())

    def _heard(self) -> dict[str, set[str]]:
        """Return by queue which tasks its listeners can run."""
        heard: dict[str, set[str]] = {}
        for worker in self._core.sessions.workers():
            for queue in worker.queues:
                heard.setdefault(queue, set()).update(worker.tasks)
        return heard

    async def _read_back_or_try_again(self, lane: Lane) -> None:
        """A tail that cannot be read holds up its own lane only, and is tried again."""
        while True:
            try:
                await self._read_back(lane)
                return
            except StoreUnavailable:
                raise
            except StoreError as error:
                self._unreadable(lane, error)
            lane.is_read_later = True
            # Whoever waited for what is in it goes on to what is below.
            self._core.dispatch.run()
            self._core.journal.wake()
            await trio.sleep(READ_AGAIN_S)
            while lane.spilling:
                await self._core.journal.wait_drained()
            lane.is_read_later = False

    def _unreadable(self, lane: Lane, error: StoreError) -> None:
        lane.is_unreadable = True
        logger.error("jobs of queue %s cannot be read back: %s", lane.queue, error)

    async def _read_back(self, lane: Lane) -> None:
        """Bring the next stored jobs of *lane* into its window."""
        lane.is_reading = True
        with self._core.reading() as gone:
            try:
                rows = await self._core.store.read_lane(lane.number, lane.read_to, *lane.room)
                lane.is_unreadable = False
            finally:
                lane.is_reading = False
            for row in rows:
                arriving = self._core.by_id.get(row.id)
                if arriving is not None and not arriving.is_committed:
                    # Its commit is done and not answered yet: that comes first.
                    break
                if not self._has_space(lane):
                    # Other lanes were read meanwhile.
                    break
                lane.read_to = row.seq
                if row.damage is not None and not row.id:
                    lane.stored -= self._core.damage.leave(row)
                    continue
                # What is in memory was read before, and something older has been spilled since.
                if row.seq not in self._core.by_seq and row.seq not in gone:
                    lane.stored -= 1
                    job = self._core.revive(row)
                    lane.reserve(len(job.payload))
                    lane.put(job)
            self._core.damage.set_aside()
            self._core.unique.replaced.cancel_revived()
        self._core.dispatch.run()
        self._core.journal.wake()


def _is_needed(lane: Lane, heard: Mapping[str, Collection[str]]) -> bool:
    """Whether somebody waits for what is in *lane*, whatever space is left."""
    tasks = heard.get(lane.queue)
    return tasks is not None and not lane.held and (not lane.park or lane.task in tasks)
