"""Cancels of single jobs, gathered: those that are asked for at the same moment are one question.

A thousand jobs that are cancelled by a thousand callers, as when a nursery around them ends, would
otherwise be a thousand questions, of which few may be open at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel

from creche.errors import CrecheError
from creche.peer.link import fresh

MOST = 10_000
"""Jobs that are cancelled by one question."""

Ask = Callable[[list[bytes], str], Awaitable[Sequence[int | None]]]


class _Batch:
    """Some jobs that are cancelled for the same reason, and what became of them."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.states: Sequence[int | None] | None = None
        self.error: CrecheError | None = None
        self.is_over = anyio.Event()

    def add(self, job_id: bytes) -> int:
        """Add a job, and return its place."""
        self.ids.append(job_id)
        return len(self.ids) - 1


class Cancels:
    """Gathers what many callers cancel.

    Args:
        ask: asks the plane to cancel jobs for a reason; returns the state of each.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._gathering: dict[str, _Batch] = {}
        """By reason, what has yet to be asked."""

    async def cancel(self, job_id: bytes, reason: str) -> int | None:
        """Cancel a job; return its state then, None if the plane does not know it.

        If cancelled itself, the job may be cancelled or not; others who have joined ask again.

        Raises:
            CrecheError: as *ask* does.
        """
        while True:
            batch = self._gathering.get(reason)
            if batch is None:
                return await self._lead(job_id, reason)
            place = batch.add(job_id)
            if len(batch.ids) >= MOST:
                del self._gathering[reason]
            await batch.is_over.wait()
            if batch.error is not None:
                raise fresh(batch.error)
            if batch.states is not None:
                return batch.states[place]
            # Who asked for all of us was cancelled.

    async def _lead(self, job_id: bytes, reason: str) -> int | None:
        batch = self._gathering[reason] = _Batch()
        place = batch.add(job_id)
        try:
            # Whoever is about to cancel for the same reason joins.
            await anyio.lowlevel.checkpoint()
            self._close(batch, reason)
            states = batch.states = await self._ask(batch.ids, reason)
        except CrecheError as error:
            batch.error = error
            raise
        finally:
            self._close(batch, reason)
            batch.is_over.set()
        return states[place]

    def _close(self, batch: _Batch, reason: str) -> None:
        if self._gathering.get(reason) is batch:
            del self._gathering[reason]
