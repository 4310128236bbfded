"""A history, put in order: what belongs to each job, and what may be said of its attempts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from creche.testing.history.events import (
    FINAL,
    FORGOTTEN,
    Accepted,
    Back,
    Cancel,
    CancelAnswered,
    Ended,
    Event,
    Fired,
    Gone,
    HistoryError,
    Joined,
    Limit,
    Lost,
    OneSlot,
    Paused,
    Quiescent,
    Rate,
    Refused,
    Saw,
    Scheduled,
    ScopeClosed,
    ScopeOpened,
    Severed,
    Started,
    Submit,
    Terms,
    Uncertain,
    Woken,
    before,
    place,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How exactly things are judged, in seconds.

    Attributes:
        grace_s: how long something may be on its way: an offer to its worker, an order to stop to
            its body, a lease to the disk.
        travel_s: how long a frame is on its way at the most where nothing is stopped: what a plane
            has sent before it is killed may arrive so long after the next one has come.
        skew_s: by how much the clocks differ by which promises are kept.
        kept_s: how long after its submission an idempotency key is surely known.
        leaves_s: how long a worker that is not stopped may take to find out that it has lost a
            lease, and to have the body leave.
        late_s: how long a job may wait beside a slot that is free.
    """

    grace_s: float = 1.0
    travel_s: float = 0.1
    skew_s: float = 0.001
    kept_s: float = float("inf")
    leaves_s: float = float("inf")
    late_s: float = float("inf")


@dataclass(slots=True)
class Call:
    """What a client did once, and how it ended."""

    submit: Submit
    accepted: Accepted | None = None
    refused: Refused | None = None
    uncertain: Uncertain | None = None


@dataclass(slots=True)
class Run:
    """An attempt whose body has begun."""

    start: Started
    end: Ended | None = None
    lost: Lost | None = None
    gone: Gone | None = None
    """The end of its process."""
    is_doubtful: bool = False
    """Whether the plane was killed when the lease may not have been on disk."""
    is_over: bool = False
    """Whether it has left, though nobody has recorded when: its process could not."""

    @property
    def until(self) -> Event | None:
        """What ends the time in which the attempt has its lease: it leaves, or its lease is
        declared lost; None: it has it still."""
        ends = [event for event in (self.end, self.lost) if event is not None]
        return min(ends, key=place) if ends else self.gone

    @property
    def is_stray(self) -> bool:
        """Whether its lease was declared lost before it began: nobody could reach its worker."""
        return self.lost is not None and not before(self.start, self.lost)

    @property
    def has_snoozed(self) -> bool:
        """Whether it left as it was too early, so that it does not count."""
        return self.end is not None and self.end.outcome == "snoozed"

    @property
    def events(self) -> list[Event]:
        """What is known of it."""
        return [e for e in (self.start, self.end, self.lost, self.gone) if e is not None]

    def overlaps(self, other: Run) -> bool:
        """Whether both surely ran at one time, under their leases."""
        return self.is_running_after(other.start) and other.is_running_after(self.start)

    def is_running_after(self, event: Event) -> bool:
        """Whether it surely had its lease after an event, if it had begun by then."""
        if self.end is None and self.lost is None and self.is_over:
            return False
        return self.until is None or before(event, self.until)

    def last_at(self, end_at: float) -> float:
        """Return the last moment at which its body surely ran under its lease, in a history that
        ends at *end_at*."""
        if self.end is None and self.lost is None and self.is_over:
            return self.start.at
        ends = [event.at for event in (self.until, self.gone) if event is not None]
        return min(ends, default=end_at)


@dataclass(slots=True)
class Job:
    """What belongs to one id."""

    id: str
    calls: list[Call] = field(default_factory=list)
    """Those that have made it, or may have."""
    made: Submit | Fired | None = None
    """What has made it, the first time."""
    terms: Terms = field(default_factory=Terms)
    """What it was submitted with."""
    accepted: list[Accepted] = field(default_factory=list)
    """Whoever was told of it, also as of what was there."""
    fired: list[Fired] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    """Leases, also of attempts whose bodies have never begun."""
    saw: list[Saw] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    answers: list[CancelAnswered] = field(default_factory=list)

    @property
    def finals(self) -> list[Saw]:
        """When it was seen to have ended."""
        return [saw for saw in self.saw if saw.state in FINAL or saw.state == FORGOTTEN]

    @property
    def leased_runs(self) -> list[Run]:
        """The attempts that began under a lease."""
        return [run for run in self.runs if not run.is_stray]


class History:
    """Everything that was recorded, in the order of its moments.

    Raises:
        HistoryError: events contradict each other in a way that no job queue can be blamed for.
    """

    def __init__(self, events: Iterable[Event], bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.events = sorted(events, key=place)
        self.jobs: dict[str, Job] = {}
        self.calls: dict[str, Call] = {}
        self.limits: defaultdict[str, list[Limit]] = defaultdict(list)
        self.rates: defaultdict[str, list[Rate]] = defaultdict(list)
        self.one_slots: dict[str, OneSlot] = {}
        self.scopes: dict[str, ScopeOpened] = {}
        self.closed: dict[str, ScopeClosed] = {}
        self.schedules: dict[str, Scheduled] = {}
        self.fired: defaultdict[str, list[Fired]] = defaultdict(list)
        self.quiescent: Quiescent | None = None
        self.troubles: list[Gone | Back | Paused | Woken] = []
        self.plane_troubles: list[Gone | Back | Paused | Woken] = []
        """What was done to the plane, of which its store is a part."""
        self._begun: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
        self._gone: defaultdict[str, list[Gone]] = defaultdict(list)
        self._paused: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._links: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """When each had a connection."""
        for event in self.events:  # first, as of one moment an end may be read before its beginning
            if isinstance(event, Submit | Started):
                self._take_beginning(event)
        for event in self.events:
            self._take(event)
        self._name_makers()
        self._judge_runs()
        submitted = (call.submit.terms for call in self.calls.values())
        self._replaced_keys = {
            (terms.task, terms.unique_key)
            for terms in submitted
            if terms.unique_key is not None and terms.on_duplicate in ("replace", "cancel")
        }

    def job(self, job_id: str) -> Job:
        """Return what is known of a job, which may be nothing."""
        if job_id not in self.jobs:
            self.jobs[job_id] = Job(job_id)
        return self.jobs[job_id]

    @property
    def end_at(self) -> float:
        """The moment of its last event."""
        return self.events[-1].at if self.events else 0.0

    def was_paused(self, process: str, since: float, until: float) -> bool:
        """Whether nobody could reach a process for some of this time."""
        return any(a <= until and since <= b for a, b in self._paused[process])

    def offered_since(self, start: Started) -> float:
        """Return the earliest moment at which an attempt may have been given out: the grace before
        it began, but if nobody could reach its worker then, the grace before that."""
        since = start.at - self.bounds.grace_s
        for a, b in reversed(self._paused[start.process]):
            if a <= start.at and since <= b:
                since = a - self.bounds.grace_s
        return since

    def written_by(self, start: Started) -> float:
        """Return the moment at which the lease of an attempt is surely on disk: the grace after it
        began, but if nobody could reach the plane or its store then, the grace after that."""
        by = start.at + self.bounds.grace_s
        those = {trouble.who for trouble in self.plane_troubles}
        for a, b in sorted(span for who in those for span in self._paused[who]):
            if a <= by and start.at <= b:
                by = max(by, b + self.bounds.grace_s)
        return by

    def may_be_unwritten(self, start: Started, until_at: float = float("inf")) -> bool:
        """Whether the plane was killed, until a moment, when the lease of an attempt may not have
        been on disk, so that its job was free without a word. What a plane has given out arrives
        before the next plane comes or soon after, unless its worker could not be reached."""
        since = self.offered_since(start)
        until_at = min(until_at, self.written_by(start))
        n = bisect_right(self.plane_troubles, until_at, key=lambda trouble: trouble.at)
        is_paused = self.was_paused(start.process, since, start.at)
        for trouble in (self.plane_troubles[i] for i in range(n - 1, -1, -1)):
            is_next = isinstance(trouble, Back) and start.at - trouble.at > self.bounds.travel_s
            if trouble.at < since or (is_next and not is_paused):
                return False
            if isinstance(trouble, Gone):
                return True
        return False

    def was_reachable(self, process: str, since: float, until: float) -> bool:
        """Whether a process surely had one connection for all of this time, to a plane and a store
        to which nothing was done meanwhile, nor to itself."""
        if not any(a <= since and until <= b for a, b in self._links[process]):
            return False
        those = {trouble.who for trouble in self.plane_troubles} | {process}
        return not any(self.was_paused(who, since, until) for who in those) and not any(
            since <= trouble.at <= until for trouble in self.troubles if trouble.who in those
        )

    def plane_was_killed(self, since_at: float, until_at: float) -> bool:
        """Whether the plane or its store was killed within a time."""
        return any(
            isinstance(trouble, Gone) and since_at <= trouble.at <= until_at
            for trouble in self.plane_troubles
        )

    def may_be_cancelled(self, job: Job) -> bool:
        """Whether somebody has cancelled a job, or something that was submitted may have."""
        key = job.terms.task, job.terms.unique_key
        schedules = (self.schedules.get(fired.schedule) for fired in job.fired)
        return (
            bool(job.cancels)
            or job.terms.scope is not None
            or key in self._replaced_keys
            or any(schedule.overlap == "replace" for schedule in schedules if schedule)
        )

    # --- reading --------------------------------------------------------------------------------

    def _take_beginning(self, event: Submit | Started) -> None:
        if isinstance(event, Started):
            run = Run(event)
            self.job(event.job).runs.append(run)
            self._begun[event.job, event.attempt].append(run)
        elif event.call in self.calls:
            raise HistoryError(f"a call of this name was made before: {event}")
        else:
            self.calls[event.call] = Call(event)

    def _take(self, event: Event) -> None:
        match event:
            case Accepted():
                self._call(event.call, event).accepted = event
                self.job(event.job).accepted.append(event)
            case Refused():
                self._call(event.call, event).refused = event
            case Uncertain():
                self._call(event.call, event).uncertain = event
            case Cancel():
                self.job(event.job).cancels.append(event)
            case CancelAnswered():
                self.job(event.job).answers.append(event)
            case Saw():
                self.job(event.job).saw.append(event)
            case Ended():
                self._run_that_ended(event).end = event
            case Lost():
                self.job(event.job).lost.append(event)
                runs = self._begun[event.job, event.attempt]
                begun = [run for run in runs if before(run.start, event)]
                for run in begun[-1:] or runs[:1]:
                    run.lost = run.lost or event
            case Limit():
                self.limits[event.gate].append(event)
            case Rate():
                self.rates[event.gate].append(event)
            case OneSlot():
                self.one_slots[event.queue] = event
            case ScopeOpened():
                self.scopes[event.scope] = event
            case ScopeClosed():
                self.closed[event.scope] = event
            case Scheduled():
                self.schedules[event.schedule] = event
            case Fired():
                self.fired[event.schedule].append(event)
                self.job(event.job).fired.append(event)
            case Gone() | Back() | Paused() | Woken():
                self._take_trouble(event)
            case Joined() | Severed():
                self._take_link(event)
            case Quiescent():
                self.quiescent = event

    def _call(self, call: str, event: Event) -> Call:
        if call not in self.calls:
            raise HistoryError(f"nobody has made call {call}: {event}")
        return self.calls[call]

    def _run_that_ended(self, event: Ended) -> Run:
        """Return the attempt of this name, or of several the one that this process has begun."""
        runs = [run for run in self._begun[event.job, event.attempt] if run.end is None]
        if not runs:
            raise HistoryError(f"what has not begun cannot end: {event}")
        return next((run for run in runs if run.start.process == event.process), runs[0])

    def _take_trouble(self, event: Gone | Back | Paused | Woken) -> None:
        self.troubles.append(event)
        if event.role in ("plane", "store"):
            self.plane_troubles.append(event)
        if isinstance(event, Gone):
            self._gone[event.who].append(event)
        elif isinstance(event, Paused):
            self._paused[event.who].append((event.at, float("inf")))
        elif isinstance(event, Woken) and self._paused[event.who]:
            self._paused[event.who][-1] = (self._paused[event.who][-1][0], event.at)

    def _take_link(self, event: Joined | Severed) -> None:
        links = self._links[event.who]
        if isinstance(event, Joined):
            links.append((event.at, float("inf")))
        elif links:
            links[-1] = (links[-1][0], min(links[-1][1], event.at))

    # --- what follows ---------------------------------------------------------------------------

    def _name_makers(self) -> None:
        """Find out which calls have made which jobs: by the id that the client has made, by the
        answer, or by what the body found in its arguments."""
        begun = (run.start for runs in self._begun.values() for run in runs)
        told = {start.job: start.call for start in begun if start.call}
        for call in self.calls.values():
            made = call.submit.job
            if made is None and call.accepted is not None and not call.accepted.is_existing:
                made = call.accepted.job
            if made is not None:
                self.job(made).calls.append(call)
        for job_id, name in told.items():
            job = self.jobs[job_id]
            if name in self.calls and not job.calls and self.calls[name].submit.job is None:
                job.calls.append(self.calls[name])
        for job in self.jobs.values():
            makers: list[Submit | Fired] = [*(call.submit for call in job.calls), *job.fired]
            job.made = min(makers, key=place, default=None)
            if job.made is not None:
                job.terms = job.made.terms

    def _judge_runs(self) -> None:
        for job in self.jobs.values():
            last_final = max(job.finals, key=place, default=None)
            for n, run in enumerate(job.runs, 1):
                if run.end is None:
                    run.gone = next(_after(self._gone[run.start.process], run.start.at), None)
                run.is_doubtful = self.may_be_unwritten(run.start)
                run.is_over = n < len(job.runs) or (
                    last_final is not None and before(run.start, last_final)
                )


def _after(events: list[Gone], at: float) -> Iterator[Gone]:
    yield from events[bisect_left(events, at, key=lambda event: event.at) :]
