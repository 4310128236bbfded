"""What is known of a run from outside the plane: what peers were told, what is on disk, and what
must hold between the two."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import trio

from creche.events import CoreRestarts, Event, PeerRefused
from creche.model.ids import id_to_text
from creche.model.job import MOVES, JobState
from creche.store.base import Batch, Change, Duplicate, End, NewJob, Recovery
from creche.wire import messages as m
from creche.wire.payload import decode_value

SHOWN = 200
"""How many of the last notes are shown when a run fails."""


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(eq=False)
class Known:
    """A job as those know it who have to do with it."""

    number: int
    submit: m.Submit
    is_at_most_once: bool
    retries: int
    may_expire: bool
    is_accepted: bool = False
    may_be_stored: bool = False
    """Whether somebody has left without an answer, or was told that nobody knows."""
    is_cancelled: bool = False
    """Whether anyone has asked for that."""
    must_not_begin: str = ""
    """Why no attempt may be offered any more."""
    offers: list[tuple[int, int]] = field(default_factory=list)
    begun: int = 0
    snoozes: int = 0
    end: End | None = None
    is_by_plane: bool = False
    """Whether the plane itself has submitted it."""


class Book(Protocol):
    """What is known of jobs that the plane itself submits."""

    def recognise(self, job: NewJob, batch: Batch) -> Known | None:
        """Return what is known of a new job if it is one of these."""

    def committed(self, batch: Batch) -> None:
        """A batch is on disk, and its jobs are known."""


def _reachable() -> dict[JobState, set[JobState]]:
    """Return where a job may come to from each state, in any number of moves within one commit."""
    reached: dict[JobState, set[JobState]] = {}
    for state in JobState:
        found: set[JobState] = {state}
        new = set(MOVES[state])
        while new:
            found |= new
            new = {there for here in new for there in MOVES[here]} - found
        reached[state] = found
    return reached


REACHABLE = _reachable()


class Truth:
    """Everything that is promised, checked while it happens."""

    OURS: ClassVar[str] = "lost by the fuzz"

    def __init__(self, max_losses: int) -> None:
        self._max_losses = max_losses
        self.jobs: dict[bytes, Known] = {}
        self.books: list[Book] = []
        self.openings: list[Callable[[Recovery], None]] = []
        """What else is looked at when a ledger is opened."""
        self.by_seq: dict[int, bytes] = {}
        self.stored: set[bytes] = set()
        """The ids of all that was ever committed."""
        self._standing: dict[int, NewJob | Change] = {}
        self._epoch = 0
        self._notes: list[str] = []
        self._broken: str | None = None
        self.counts: dict[str, int] = {}

    def note(self, what: str) -> None:
        """Remember that something happened."""
        self._notes.append(f"{trio.current_time():9.3f}  {what}")

    def tell(self) -> str:
        """Return what happened last, and before that to the job of which a promise was broken."""
        earlier, last = self._notes[:-SHOWN], self._notes[-SHOWN:]
        about = None if self._broken is None else re.compile(rf"{self._broken}\b")
        told = [note for note in earlier if about is not None and about.search(note)]
        return "\n".join([*told, "...", *last])

    def count(self, what: str) -> None:
        """Count how often the run came to something."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def check(self, holds: bool, promise: str, job_id: bytes | None = None) -> None:
        """Raise unless a promise *holds*."""
        if not holds:
            who = f" (job {self.name(job_id)})" if job_id is not None else ""
            self._broken = None if job_id is None else self.name(job_id)
            self.note(f"BROKEN: {promise}{who}")
            raise Broken(promise + who)

    def name(self, job_id: bytes) -> str:
        """Return what people call a job."""
        known = self.jobs.get(job_id)
        return id_to_text(job_id) if known is None else f"#{known.number}"

    @property
    def unfinished(self) -> list[bytes]:
        """The ids of what is stored and has not ended."""
        return [self.by_seq[seq] for seq in self._standing]

    def state_of(self, job_id: bytes) -> JobState | None:
        """Return the state of a job on disk, None if it has ended or is not there."""
        standing = self.standing_of(job_id)
        return None if standing is None else standing.state

    def standing_of(self, job_id: bytes) -> NewJob | Change | None:
        """Return how a job stands on disk, None if it has ended or is not there."""
        found = (job for seq, job in self._standing.items() if self.by_seq[seq] == job_id)
        return next(found, None)

    # --- the store ------------------------------------------------------------------------------

    def opened(self, recovery: Recovery) -> None:
        """A ledger was opened: it has what was committed."""
        self.note(f"epoch {recovery.epoch} begins")
        self._epoch = recovery.epoch
        held = {row.seq for row in recovery.held}
        there = sum(c.stored for c in recovery.stored) + sum(c.stored for c in recovery.delayed)
        self.check(
            held <= self._standing.keys() and len(held) + there == len(self._standing),
            "what was committed is there when the store is opened again",
        )
        for look in self.openings:
            look(recovery)

    def committed(self, batch: Batch, duplicates: Sequence[Duplicate]) -> None:
        """A batch is on disk."""
        refused = {duplicate.seq for duplicate in duplicates}
        for job in batch.jobs:
            if job.seq not in refused:
                if job.id not in self.jobs:
                    self.jobs[job.id] = self._recognise(job, batch)
                self.by_seq[job.seq] = job.id
                self.stored.add(job.id)
                self._standing[job.seq] = job
                self.note(f"disk: {self.name(job.id)} is {job.state.word}, seq {job.seq}")
        for change in batch.changes:
            if change.seq not in refused:
                self._changed(change)
        for end in batch.ends:
            if end.seq not in refused:
                self._ended(end)
        for book in self.books:
            book.committed(batch)

    def _recognise(self, job: NewJob, batch: Batch) -> Known:
        found = (known for book in self.books if (known := book.recognise(job, batch)) is not None)
        known = next(found, None)
        self.check(known is not None, "somebody has submitted what is stored", job.id)
        assert known is not None
        known.is_accepted = True
        return known

    def _changed(self, change: Change) -> None:
        before = self._standing[change.seq]
        job_id = self.by_seq[change.seq]
        self.note(
            f"disk: {self.name(job_id)} is {change.state.word}, attempt {change.attempt}, lane "
            f"{change.lane}{' (stored)' if change.stored else ''}"
        )
        self.check(change.state in REACHABLE[before.state], "a job moves as the table says", job_id)
        if isinstance(before, Change):
            grows = (before.attempt, before.losses, before.failures)
            grown = (change.attempt, change.losses, change.failures)
            self.check(
                all(a <= b for a, b in zip(grows, grown, strict=True)),
                "attempts, losses and failures only grow",
                job_id,
            )
        self._standing[change.seq] = change

    def _ended(self, end: End) -> None:
        before = self._standing.pop(end.seq)
        job_id = self.by_seq[end.seq]
        known = self.jobs[job_id]
        self.note(f"disk: {self.name(job_id)} has {end.state.word}, attempt {end.attempt}")
        self.count(end.state.word)
        self.check(known.end is None, "a job ends once", job_id)
        known.end = end
        known.must_not_begin = "it has ended"
        self.check(end.state in REACHABLE[before.state], "a job moves as the table says", job_id)
        self.check(end.failures <= known.retries + 1, "a job is tried as often as allowed", job_id)
        self.check(end.losses <= self._max_losses, "no more workers are lost with a job", job_id)
        holds = {
            JobState.CANCELLED: known.is_cancelled,
            JobState.EXPIRED: known.may_expire,
            JobState.LOST: known.is_at_most_once,
            JobState.FAILED: end.failures > 0 or end.losses >= self._max_losses,
            JobState.SUCCEEDED: True,
        }[end.state]
        self.check(holds, f"a job has {end.state.word} only for a reason", job_id)
        if end.state is JobState.SUCCEEDED:
            said = None if end.outcome is None else decode_value(end.outcome)
            self.check(
                said == [end.seq, *known.offers[-1], end.holder],
                f"the result is of the attempt that held the lease: {said} and not "
                f"{end.seq}, {known.offers[-1]}, {end.holder}",
                job_id,
            )

    # --- what the plane says --------------------------------------------------------------------

    def said(self, peer: Any, messages: Iterable[m.Message]) -> None:
        """The plane has sent these to *peer*."""
        for message in messages:
            if isinstance(message, m.Offer):
                self._offered(peer, message)
            elif isinstance(message, m.Accepted):
                for n in message.ns:
                    job_id = peer.submitted[n]
                    self.note(f"{peer.name} is told that {self.name(job_id)} is accepted ({n})")
                    self.check(job_id in self.stored, "accepted means committed", job_id)
            elif isinstance(message, m.Ended):
                end = self.jobs[message.id].end
                self.check(
                    end is not None and (int(end.state), end.outcome) == message[1:],
                    "what is pushed is on disk",
                    message.id,
                )
            elif isinstance(message, m.Settled):
                for n in message.ns:
                    if n in peer.reported:  # what was misreported is nobody's
                        self._settled(peer.reported[n])

    def _offered(self, peer: Any, offer: m.Offer) -> None:
        job_id = offer.id
        known = self.jobs[job_id]
        self.note(f"{peer.name} is offered {self.name(job_id)}, {offer.epoch}.{offer.attempt}")
        self.count("offers")
        why = known.must_not_begin
        self.check(not why, f"no attempt begins any more when {why}", job_id)
        token = (offer.epoch, offer.attempt)
        self.check(not known.offers or known.offers[-1] < token, "a token is given once", job_id)
        known.offers.append(token)
        self.check(self.by_seq.get(offer.seq) == job_id, "what is offered is on disk", job_id)
        if known.is_at_most_once:
            standing = self._standing[offer.seq]
            self.check(
                standing.state is JobState.RUNNING
                and isinstance(standing, Change)
                and (standing.epoch, standing.attempt) == token,
                "an at-most-once job is offered when its lease is on disk",
                job_id,
            )

    def _settled(self, report: m.Finished | m.TryAgain) -> None:
        standing = self._standing.get(report.seq)
        if report.epoch != self._epoch or not isinstance(standing, Change):
            return
        is_out = standing.state in (JobState.RUNNING, JobState.CANCELLING)
        token = (report.epoch, report.attempt)
        self.check(
            not (is_out and (standing.epoch, standing.attempt) == token)
            and standing.attempt >= report.attempt,
            "a report is settled when what it says is on disk",
            self.by_seq[report.seq],
        )

    def begins(self, offer: m.Offer) -> None:
        """A worker runs an attempt's body."""
        known = self.jobs[offer.id]
        known.begun += 1
        self.count("begun")
        self.check(
            not known.is_at_most_once or known.begun <= 1 + known.snoozes,
            "an at-most-once job begins once",
            offer.id,
        )

    def happens(self, event: Event) -> None:
        """The plane tells of something: for its `Hub`."""
        self.note(f"event: {event}")
        if isinstance(event, CoreRestarts):
            self.check(self.OURS in event.why, f"a core ends only with its store: {event.why}")
        if isinstance(event, PeerRefused):
            self.check(
                event.code not in ("protocol", "internal"), f"peers are not refused: {event.why}"
            )
