"""The jobs whose ends a session waits for: said to the plane, and said again on a reconnect."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from creche.errors import ClientClosed, CrecheError, JobEnded
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.peer.handle import Outcome
from creche.peer.link import Link, fresh
from creche.wire import messages as m

CHUNK = 1000
"""How many ids one `Watch` names after a reconnect."""


class Waits:
    """The outcomes that have not come.

    The plane watches for as many jobs as its welcome allows (`limit`). Whoever waits for more has
    its turn when others have ended; nobody is refused.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._told: dict[bytes, Outcome] = {}
        self._later: dict[bytes, Outcome] = {}
        self.limit = 1

    def __len__(self) -> int:
        return len(self._told) + len(self._later)

    def expect(self, job_id: bytes) -> Outcome | None:
        """A submission will ask for its result; None when the plane watches for enough already."""
        if len(self._told) >= self.limit:
            return None
        outcome = self._told[job_id] = Outcome(is_promised=True)
        return outcome

    def watch(self, job_id: bytes) -> Outcome:
        """Return the outcome of a job that somebody waits for, and have it pushed."""
        outcome = self._told.get(job_id) or self._later.get(job_id)
        if outcome is not None:
            return outcome
        outcome = Outcome()
        if self._link.has_failed:
            error = self._link.failure or ClientClosed("the client is closed")
            outcome.fill(None, None, fresh(error))
        elif len(self._told) < self.limit:
            self._told[job_id] = outcome
            self._link.post(m.Watch([job_id]))
        else:
            self._later[job_id] = outcome
        return outcome

    def abandon(self, job_id: bytes, outcome: Outcome) -> None:
        """Somebody waits no more; if nobody else does, the plane need not push."""
        if outcome.is_promised or outcome.is_awaited or outcome.is_known:
            return
        if self._told.get(job_id) is outcome:
            del self._told[job_id]
            self._link.post(m.Unwatch([job_id]))
            self._tell_more()
        else:
            self._later.pop(job_id, None)

    def forget(self, job_id: bytes) -> None:
        """There is no such job: its submission was not taken."""
        if self._told.pop(job_id, None) is not None:
            self._tell_more()

    def exchange(self, job_id: bytes, other_id: bytes) -> Outcome | None:
        """A submission is another job, which was there already. If it asked for its result, the
        plane pushes that one's end: return its outcome."""
        if self._told.pop(job_id, None) is None:
            return None
        outcome = self._told.get(other_id) or self._later.pop(other_id, None) or Outcome()
        outcome.is_promised = True
        # In the place of the first one, so that no more are watched than may be.
        self._told[other_id] = outcome
        self._tell_more()
        return outcome

    def end(
        self, job_id: bytes, state: int | None, payload: bytes | None, error: CrecheError | None
    ) -> None:
        """The plane says how a job ended, or why it cannot tell."""
        outcome = self._told.pop(job_id, None)
        if outcome is None:
            return
        known: JobState | None = None
        if state is not None:
            try:
                known = JobState(state)
            except ValueError:
                error = JobEnded(id_to_text(job_id), f"ended in a state unknown here, {state}")
        outcome.fill(known, payload, error)
        self._tell_more()

    def resume(self, submitted: Collection[bytes], limit: int) -> Iterator[m.Watch]:
        """Yield what to say on a new connection. Jobs in *submitted* are watched by their
        submissions, which are sent again; asked for by id, they would be unknown."""
        self.limit = limit
        while self._later and len(self._told) < limit:
            self._promote()
        ids = [job_id for job_id in self._told if job_id not in submitted]
        for start in range(0, len(ids), CHUNK):
            yield m.Watch(ids[start : start + CHUNK])

    def fail(self, error: CrecheError) -> None:
        """Nothing will come any more: everybody who waits is told why."""
        outcomes = [*self._told.values(), *self._later.values()]
        self._told.clear()
        self._later.clear()
        for outcome in outcomes:
            outcome.fill(None, None, error)

    def _tell_more(self) -> None:
        while self._later and len(self._told) < self.limit:
            self._link.post(m.Watch([self._promote()]))

    def _promote(self) -> bytes:
        job_id = next(iter(self._later))
        self._told[job_id] = self._later.pop(job_id)
        return job_id
