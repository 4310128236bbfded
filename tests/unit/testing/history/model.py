"""A job queue as it should be, in memory and in one go: whatever is drawn, it keeps every promise,
and records the history of it.

What takes time is in two steps with others in between: a submission is sent, decided and answered,
an attempt is leased, begins, leaves, and its report is heard. Whoever records is in one place, so
of one moment the order is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from creche.testing.history import (
    Accepted,
    Back,
    Cancel,
    CancelAnswered,
    Ended,
    Event,
    Fired,
    Gone,
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
    Started,
    Submit,
    Terms,
    Uncertain,
    Woken,
)

GRACE_S = 1.0
"""The grace that the checker is given: an offer is on its way no longer."""

LONG_S = 1000.0
"""Longer than anything takes that has to come about some time."""

MOMENTS = tuple(5.0 * n for n in range(1, 9))
TICK_S = 0.25


@dataclass(eq=False)
class Lease:
    job: ModelJob
    attempt: str
    worker: str
    leased_at: float
    is_begun: bool = False
    started_at: float = 0.0
    end: Ended | None = None
    is_lost: bool = False
    """Whether its report does not count any more."""


@dataclass(eq=False)
class ModelJob:
    id: str
    seq: int
    call: str
    terms: Terms
    made_at: float
    due_at: float
    state: str = "queued"
    value: Any = None
    failures: int = 0
    attempts: int = 0
    has_begun: bool = False
    is_cancelled: bool = False
    lease: Lease | None = None

    @property
    def has_ended(self) -> bool:
        return self.state not in ("queued", "running", "cancelling")


@dataclass(eq=False)
class ModelCall:
    submit: Submit
    answer: tuple[type[Event], dict[str, Any]] | None = None
    may_decide: bool = True


@dataclass(eq=False)
class ModelScope:
    parent: str | None
    is_closing: bool = False
    is_closed: bool = False


@dataclass(eq=False)
class Model:
    rng: Random
    now: float = 0.0
    events: list[Event] = field(default_factory=list)
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    calls: list[ModelCall] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    """Those whose bodies may still begin or leave, lost or not."""
    later: list[tuple[type[Event], dict[str, Any]]] = field(default_factory=list)
    """Answers that are on their way."""
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    scopes: dict[str, ModelScope] = field(default_factory=dict)
    is_up: bool = True
    paused: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    workers: int = 2
    limit: int | None = 2
    tokens: float = 2.0
    tokens_at: float = 0.0
    fired_until: float = 0.0
    counted: int = 0

    def tell(self, kind: type[Event], *, process: str = "client", **said: Any) -> Any:
        event = kind(at=self.now, process=process, n=len(self.events), **said)
        self.events.append(event)
        return event

    def name(self, kind: str) -> str:
        self.counted += 1
        return f"{kind}{self.counted}"

    # --- the run --------------------------------------------------------------------------------

    def run(self, steps: int) -> list[Event]:
        self.tell(Limit, gate="queue:two", most=2)
        self.tell(Rate, gate="task:few", count=2, per_s=8.0)
        self.tell(OneSlot, queue="one", is_by_priority=True)
        self.tell(Scheduled, schedule="s", moments=MOMENTS)
        often = {
            self.submit: 6, self.decide: 10, self.answer: 8, self.lease: 4, self.begin: 4,
            self.leave: 4, self.report: 4, self.advance: 5, self.look: 2, self.come_back: 3,
            self.wake: 3,
        }  # fmt: skip
        seldom = [
            self.cancel, self.cancel, self.lose, self.crash, self.pause, self.kill,
            self.open_scope, self.close_scope, self.set_limit,
        ]  # fmt: skip
        acts = [act for act, weight in often.items() for _ in range(5 * weight)]
        acts += self.rng.choice([0, 1, 3]) * seldom
        for _ in range(steps):
            self.rng.choice(acts)()
        self.settle()
        return self.events

    def settle(self) -> None:
        """End all faults, and let everything come to its end."""
        self.come_back()
        for worker in sorted(self.paused):
            self.wake(worker)
        for scope in self.scopes.values():
            scope.is_closing = True
        while self.now < MOMENTS[-1] + 2 * GRACE_S or self._is_unfinished():
            for act in (self.decide, self.answer, self.lease, self.begin, self.leave, self.report):
                act()
            for lease in [each for each in self.leases if each.worker in self.dead]:
                self.lose(lease)
            self.close_scope()
            self.advance()
        self.tell(Quiescent)
        for job in self.jobs.values():
            self.look(job)

    def _is_unfinished(self) -> bool:
        waits = self.calls or self.later or self.leases
        return bool(waits) or any(not job.has_ended for job in self.jobs.values())

    def advance(self) -> None:
        """Let time pass, but not the grace of an offer, nor the limit of a body."""
        step_s = self.rng.choice([0, TICK_S, TICK_S, 1.0, 3.0])
        for lease in list(self.leases):
            if lease.worker in self.paused or lease.worker in self.dead:
                continue
            if not lease.is_begun and self.now + step_s > lease.leased_at + GRACE_S:
                if lease.is_lost:
                    self.leases.remove(lease)
                else:
                    self.begin(lease)
            if lease.is_begun and lease.end is None:
                ends = [lease.job.terms.deadline_at or 1e9]
                if lease.job.terms.timeout_s is not None:
                    ends.append(lease.started_at + lease.job.terms.timeout_s)
                if self.now + step_s > min(ends):
                    self.leave(lease)
        self.now += step_s
        if self.is_up:
            self.fire()
            for job in self.jobs.values():
                self._expire(job)

    def _expire(self, job: ModelJob) -> None:
        terms, ends = job.terms, [1e9]
        if terms.expires_s is not None and not job.has_begun:
            ends.append(job.made_at + terms.expires_s)
        if terms.deadline_at is not None:
            ends.append(terms.deadline_at)
        if job.state == "queued" and self.now > min(ends):
            job.state = "expired"

    # --- submissions ----------------------------------------------------------------------------

    def submit(self) -> None:
        rng, call = self.rng, self.name("c")
        some = rng.random
        terms: dict[str, Any] = {"task": rng.choice(["plain", "few", "keyed"])}
        terms["queue"] = rng.choice(["two", "one", "default"])
        terms["priority"] = rng.choice(["high", "normal"])
        if some() < 0.2:
            terms["is_at_most_once"] = True
        else:
            terms |= {"retries": rng.choice([0, 1, 3, None]), "backoff_s": rng.choice([0, 0.5])}
        if some() < 0.2:
            terms["delay_s"] = 2.0
        elif some() < 0.2:
            terms["not_before_at"] = self.now + 2.0
        if some() < 0.2:
            terms["expires_s"] = 4.0
        if some() < 0.2:
            terms["deadline_at"] = self.now + 9.0
        if some() < 0.2:
            terms["timeout_s"] = 2.0
        if some() < 0.2:
            terms["idempotency_key"] = rng.choice("xy")
        if some() < 0.4 and terms["task"] == "keyed":
            rule = rng.choice(["existing", "reject", "replace", "cancel"])
            terms |= {"unique_key": rule, "on_duplicate": rule}
        if some() < 0.3 and self.scopes:
            terms["scope"] = rng.choice(sorted(self.scopes))
        job = self.name("j") if some() < 0.5 else None
        self.calls.append(ModelCall(self.tell(Submit, call=call, job=job, terms=Terms(**terms))))

    def decide(self, call: ModelCall | None = None) -> None:
        """The plane decides what becomes of a submission; or it has never reached it."""
        waiting = [each for each in self.calls if each.answer is None]
        if not waiting or not self.is_up:
            return
        call = self.rng.choice(waiting)
        call.answer = (Uncertain, {"call": call.submit.call})
        if not call.may_decide or self.rng.random() < 0.05:
            return
        answer = self._decided(call)
        if self.rng.random() < 0.95:
            call.answer = answer

    def _decided(self, call: ModelCall) -> tuple[type[Event], dict[str, Any]]:
        terms, name = call.submit.terms, call.submit.call
        refusal: tuple[type[Event], dict[str, Any]] = (Refused, {"call": name, "why": "no"})
        chain = self._chain(terms.scope)
        if self.rng.random() < 0.1 or any(self.scopes[s].is_closing for s in chain):
            return refusal
        twin = self.keys.get(("idempotency", f"{terms.task} {terms.idempotency_key}"))
        if terms.idempotency_key is not None and twin is not None:
            return Accepted, {"call": name, "job": twin, "is_existing": True}
        older = self.jobs.get(self.keys.get(("unique", f"{terms.unique_key}"), ""))
        if terms.unique_key and older and older.state in ("queued", "running"):
            if terms.on_duplicate == "existing":
                self._take_key(terms, older.id)
                return Accepted, {"call": name, "job": older.id, "is_existing": True}
            if terms.on_duplicate == "reject":
                return refusal
            if terms.on_duplicate == "cancel" or older.state == "queued":
                self._cancel(older)
        job = self._make(terms, call.submit.job or self.name("j"), name)
        if terms.unique_key:
            self.keys["unique", terms.unique_key] = job.id
        self._take_key(terms, job.id)
        return Accepted, {"call": name, "job": job.id}

    def _take_key(self, terms: Terms, job_id: str) -> None:
        if terms.idempotency_key is not None:
            self.keys["idempotency", f"{terms.task} {terms.idempotency_key}"] = job_id

    def _make(self, terms: Terms, job_id: str, call: str) -> ModelJob:
        due_at = max(self.now + terms.delay_s, terms.not_before_at or 0.0)
        job = ModelJob(job_id, len(self.jobs), call, terms, self.now, due_at)
        self.jobs[job_id] = job
        return job

    def answer(self) -> None:
        """Something that was decided is heard."""
        answered = [each for each in self.calls if each.answer is not None]
        if answered and (self.rng.random() < 0.7 or not self.later):
            call = self.rng.choice(answered)
            self.calls.remove(call)
            assert call.answer is not None
            self.tell(call.answer[0], **call.answer[1])
        elif self.later:
            kind, said = self.later.pop(self.rng.randrange(len(self.later)))
            self.tell(kind, **said)

    def fire(self) -> None:
        due = [moment for moment in MOMENTS if self.fired_until < moment <= self.now]
        if due:
            self.fired_until = due[-1]
            terms = Terms(task="plain", queue="two")
            job = self._make(terms, self.name("j"), "")
            self.tell(Fired, schedule="s", moment=due[-1], job=job.id, terms=terms)

    # --- attempts -------------------------------------------------------------------------------

    def lease(self) -> None:
        ready = [job for job in self.jobs.values() if self._is_ready(job)]
        alive = [f"w{n}" for n in range(self.workers) if f"w{n}" not in self.dead]
        if not ready or not self.is_up or not alive:
            return
        job = self.rng.choice(ready)
        if job.terms.queue == "one":
            lane = [each for each in ready if each.terms.queue == "one"]
            job = min(lane, key=lambda each: (each.terms.priority, each.seq))
        if job.terms.task == "few":
            self.tokens -= 1
        job.attempts += 1
        job.state = "running"
        worker = "single" if job.terms.queue == "one" else self.rng.choice(alive)
        job.lease = Lease(job, f"{job.attempts}", worker, self.now)
        self.leases.append(job.lease)

    def _is_ready(self, job: ModelJob) -> bool:
        self._expire(job)
        if job.state != "queued" or job.due_at > self.now:
            return False
        held = [each for each in self.jobs.values() if each.lease is not None]
        if job.terms.queue == "one":
            busy = [each for each in self.leases if each.worker == "single"]
            if busy:
                return False
        if job.terms.queue == "two" and self.limit is not None:
            out = [each for each in held if each.terms.queue == "two"]
            if len(out) >= self.limit:
                return False
        if job.terms.task == "few":
            back = (self.now - self.tokens_at) * 2 / 8.0
            self.tokens, self.tokens_at = min(2.0, self.tokens + back), self.now
            return self.tokens >= 1
        return True

    def begin(self, lease: Lease | None = None) -> None:
        lease = lease or self._some(lambda each: not each.is_begun)
        if lease is None:
            return
        if lease.is_lost and self.rng.random() < 0.5:
            self.leases.remove(lease)  # it was told in time
            return
        lease.is_begun = lease.job.has_begun = True
        lease.started_at = self.now
        said = {"call": lease.job.call} if lease.job.call else {}
        self.tell(Started, process=lease.worker, job=lease.job.id, attempt=lease.attempt, **said)

    def leave(self, lease: Lease | None = None) -> None:
        lease = lease or self._some(lambda each: each.is_begun and each.end is None)
        if lease is None:
            return
        outcome = self.rng.choice(["succeeded", "succeeded", "failed", "snoozed", "left"])
        may_leave = lease.is_lost or lease.job.state == "cancelling"
        if outcome == "left" and not may_leave:
            outcome = "failed"
        said: dict[str, Any] = {}
        if outcome == "succeeded":
            said["value"] = f"{lease.job.id}.{lease.attempt}"
        elif outcome == "snoozed" or (outcome == "failed" and self.rng.random() < 0.3):
            said["delay_s"] = 1.5
        lease.end = self.tell(
            Ended,
            process=lease.worker,
            job=lease.job.id,
            attempt=lease.attempt,
            outcome=outcome,
            **said,
        )
        if lease.is_lost:
            self.leases.remove(lease)

    def _some(self, fits: Any) -> Lease | None:
        """Return a lease whose worker does something."""
        still = self.paused | self.dead
        found = [each for each in self.leases if fits(each) and each.worker not in still]
        return self.rng.choice(found) if found else None

    def report(self) -> None:
        lease = self._some(lambda each: each.end is not None and not each.is_lost)
        if lease is None or not self.is_up:
            return
        assert lease.end is not None
        job, outcome = lease.job, lease.end.outcome
        self.leases.remove(lease)
        job.lease = None
        if outcome == "succeeded":
            job.state, job.value = "succeeded", lease.end.value
        elif outcome == "left" or (job.state == "cancelling" and outcome == "snoozed"):
            job.state = "cancelled"
        elif outcome == "snoozed":
            job.state, job.due_at = "queued", self.now + 1.5
        else:
            job.failures += 1
            retries = job.terms.retries
            is_spent = retries is not None and job.failures > retries
            wait_s = job.terms.backoff_s * 2.0 ** min(job.failures - 1, 4)
            job.due_at = self.now + (lease.end.delay_s or wait_s)
            is_over = is_spent or job.state == "cancelling" or job.terms.is_at_most_once
            job.state = "failed" if is_over or job.failures > 5 else "queued"
            if job.state == "queued" and job.failures > 4:
                job.state = "failed"

    def lose(self, lease: Lease | None = None) -> None:
        """A lease is declared lost; its worker may hear of it later, or never."""
        alive = [each for each in self.leases if not each.is_lost]
        if lease is None:
            lease = self.rng.choice(alive) if alive and self.is_up else None
        if lease is None:
            return
        if not lease.is_lost:
            self.tell(Lost, process="plane", job=lease.job.id, attempt=lease.attempt)
            self._free(lease)
        if lease.end is not None or lease.worker in self.dead:
            self.leases.remove(lease)

    def _free(self, lease: Lease) -> None:
        lease.is_lost = True
        job = lease.job
        job.lease = None
        if job.state == "cancelling":
            job.state = "cancelled"
        else:
            job.state = "lost" if job.terms.is_at_most_once else "queued"

    # --- what is asked --------------------------------------------------------------------------

    def cancel(self) -> None:
        jobs = [job for job in self.jobs.values() if not job.has_ended]
        if not jobs or not self.is_up:
            return
        job = self.rng.choice(jobs)
        self.tell(Cancel, job=job.id)
        self._cancel(job)
        self.later.append((CancelAnswered, {"job": job.id, "state": job.state}))

    def _cancel(self, job: ModelJob) -> None:
        if job.state == "queued":
            job.state = "cancelled"
        elif job.state == "running":
            job.state = "cancelling"

    def look(self, job: ModelJob | None = None) -> None:
        if not self.is_up or not (job or self.jobs):
            return
        last = job is not None
        job = job or self.rng.choice(list(self.jobs.values()))
        value = job.value if last or self.rng.random() < 0.5 else None
        said = {"job": job.id, "state": job.state, "value": value, "asked_at": self.now}
        if last or self.rng.random() < 0.5:
            self.tell(Saw, **said)
        else:
            self.later.append((Saw, said))

    def _chain(self, scope: str | None) -> list[str]:
        chain = []
        while scope is not None:
            chain.append(scope)
            scope = self.scopes[scope].parent
        return chain

    def open_scope(self) -> None:
        free = [name for name, scope in self.scopes.items() if not scope.is_closing]
        parent = self.rng.choice([None, *free])
        name = self.name("s")
        self.tell(ScopeOpened, scope=name, parent=parent)
        self.scopes[name] = ModelScope(parent)

    def close_scope(self) -> None:
        """Begin to close a scope, or see that nothing is left of one."""
        if not self.is_up:
            return
        for name in reversed(self.scopes):
            scope = self.scopes[name]
            scope.is_closing |= self.rng.random() < 0.2
            if scope.is_closed or not scope.is_closing:
                continue
            below = [job for job in self.jobs.values() if name in self._chain(job.terms.scope)]
            for job in below:
                self._cancel(job)
            if all(job.has_ended for job in below):
                scope.is_closed = True
                self.tell(ScopeClosed, scope=name)

    def set_limit(self) -> None:
        if self.is_up:
            self.limit = self.rng.choice([None, 1, 3])
            asked_at = self.now
            self.tell(Limit, gate="queue:two", most=self.limit, asked_at=asked_at)

    # --- faults ---------------------------------------------------------------------------------

    def crash(self) -> None:
        """The plane is killed: what has not been decided is not known, and leases that were made
        just now may not have been on disk."""
        if not self.is_up:
            return
        self.is_up = False
        self.tell(Gone, who="plane", role="plane")
        for call in self.calls:
            call.may_decide = False
            if call.answer is None or self.rng.random() < 0.5:
                call.answer = (Uncertain, {"call": call.submit.call})
        for lease in list(self.leases):
            is_new = self.now - lease.leased_at <= TICK_S and not lease.is_lost
            is_free = is_new and not lease.job.terms.is_at_most_once
            if is_free and lease.job.state == "running" and self.rng.random() < 0.5:
                self._free(lease)
                if lease.end is not None:
                    self.leases.remove(lease)

    def come_back(self) -> None:
        if not self.is_up:
            for lease in list(self.leases):
                if not lease.is_begun and lease.worker not in self.paused | self.dead:
                    self.begin(lease)  # what the old plane has given out has arrived
            self.is_up = True
            self.tokens, self.tokens_at = 2.0, self.now
            self.tell(Back, who="plane", role="plane")
            self.fire()

    def pause(self) -> None:
        name = f"w{self.rng.randrange(self.workers)}"
        if name not in self.paused | self.dead:
            self.paused.add(name)
            self.tell(Paused, who=name, role="worker")

    def wake(self, name: str | None = None) -> None:
        if name is None and self.paused:
            name = self.rng.choice(sorted(self.paused))
        if name is not None:
            self.paused.discard(name)
            self.tell(Woken, who=name, role="worker")
            for lease in [each for each in self.leases if each.worker == name]:
                if not lease.is_begun and not lease.is_lost:
                    self.begin(lease)
                if lease.end is None and not lease.is_lost:
                    self.leave(lease)  # whose time may be up

    def kill(self) -> None:
        """A worker is killed: its bodies say nothing any more. Another one comes instead."""
        name = f"w{self.rng.randrange(self.workers)}"
        if name in self.dead | self.paused:
            return
        self.dead.add(name)
        self.workers += 1
        self.tell(Gone, who=name, role="worker")
        for lease in [each for each in self.leases if each.worker == name and each.is_lost]:
            self.leases.remove(lease)
