"""A scenario with a little of everything: what Creche itself is simulated with."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import trio

from creche import errors
from creche.client.client import Client
from creche.engine.settings import PlaneSettings
from creche.errors import (
    CrecheError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobLost,
    ResultForgotten,
    SubmissionUncertain,
    UnknownJob,
)
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.model.schedule import Missed, firing_id
from creche.peer.handle import JobHandle
from creche.peer.submitter import Submitter
from creche.tasks.registry import Registry
from creche.tasks.schedules import Schedule
from creche.tasks.task import Task, task
from creche.testing.history import (
    Accepted,
    Cancel,
    CancelAnswered,
    Fired,
    Limit,
    OneSlot,
    Quiescent,
    Rate,
    Refused,
    Saw,
    Scheduled,
    Submit,
    Terms,
    Uncertain,
)
from creche.testing.simulate.machines import START_AT
from creche.testing.simulate.script import Cast
from creche.testing.simulate.town import Town
from creche.worker.context import current_job

USERS = ("ada", "ben", "cy")
KINDS = {
    "plain": 6, "once": 3, "again": 3, "limited": 4, "keyed": 3, "rated": 1, "single": 2,
    "hasty": 2, "bounded": 1, "ordered": 2, "parent": 1,
}  # fmt: skip
"""The tasks, and how often each is called against the others."""

SOLO = "solo"
"""A queue, and the only worker that listens on it; it has one slot."""

TICKS, TICK_S = "ticks", 3.0
"""A schedule, and how often it fires."""

TICKS_AT = [START_AT + 2.0 + n * TICK_S for n in range(8)]
"""When it fires, in UTC seconds."""

MAX_LOSSES = 1000
"""So many workers are lost with no job here."""

REST_S = 5.0
"""How often it is asked whether everything has ended."""

_UNFINISHED = {state.word for state in JobState if not state.has_ended}

_STATES: tuple[tuple[type[CrecheError], str], ...] = (
    (JobFailed, "failed"),
    (JobCancelled, "cancelled"),
    (JobExpired, "expired"),
    (JobLost, "lost"),
    (ResultForgotten, "forgotten"),
    (UnknownJob, "unknown"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """What a client is to do once."""

    name: str
    after_s: float
    """How long after the one before."""
    kind: str
    user: str
    takes_s: float
    """How long its body takes."""
    fails: int
    """How often that fails before it succeeds."""
    options: dict[str, Any]
    waits: bool
    """Whether it waits for the result."""
    cancel_after_s: float | None


@dataclass
class Mixed:
    """Clients that submit *jobs* jobs of all kinds, wait for some and cancel some; all of it is
    drawn from *seed*.

    Attributes:
        for_s: how long they submit, about.
    """

    seed: int
    jobs: int = 200
    for_s: float = field(init=False)
    cast: Cast = field(init=False)
    settings: PlaneSettings = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(f"mixed {self.seed}")
        self.for_s = rng.choice([3.0, 10.0])
        self.cast = Cast(
            [*(f"worker-{n}" for n in range(1, rng.randint(1, 3) + 1)), SOLO],
            [f"client-{n}" for n in range(1, rng.randint(1, 3) + 1)],
        )
        self.settings = _draw_settings(rng)
        self._slots = {name: rng.choice([1, 2, 5]) for name in self.cast.workers} | {SOLO: 1}
        self._missed: Missed = rng.choice(("once", "all"))
        self._firings = {id_to_text(firing_id(TICKS, at)): at - START_AT for at in TICKS_AT}
        self._calls = {name: self._draw_calls(rng, name) for name in self.cast.clients}
        self._begun: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._tasks: dict[str, Task[Any, Any]] = {}

    def _draw_calls(self, rng: random.Random, client: str) -> list[Call]:
        # Half of a parent's children each, on the average.
        number = round(self.jobs / len(self.cast.clients) * 0.93)
        burst = rng.choice([3, 20, 50])
        kinds = rng.choices(list(KINDS), list(KINDS.values()), k=number)
        return [self._draw_call(rng, f"{client}/{n}", k, burst) for n, k in enumerate(kinds)]

    def _draw_call(self, rng: random.Random, name: str, kind: str, burst: int) -> Call:
        options: dict[str, Any] = {}
        pause_s = burst * self.for_s * len(self.cast.clients) / self.jobs
        if rng.random() < 0.2:
            options["countdown"] = rng.choice([0.1, 1.0, 3.0 if kind == "hasty" else 10.0])
        if rng.random() < 0.2:
            options["priority"] = rng.choice(["critical", "high", "low"])
        if kind in ("plain", "again") and rng.random() < 0.15:
            options["idempotency_key"] = f"key {rng.randrange(5)}"
        return Call(
            name,
            rng.expovariate(1 / pause_s) if rng.random() < 1 / burst else 0.0,
            kind,
            rng.choice(USERS),
            rng.choice([0.0, 0.0, 0.05, 0.5, 4.0]),
            rng.choice([0, 1, 2, 5]) if kind == "again" else int(rng.random() < 0.05),
            options,
            rng.random() < 0.6,
            rng.choice([0.0, 0.3, 3.0]) if rng.random() < 0.15 else None,
        )

    # --- workers --------------------------------------------------------------------------------

    def concurrency(self, worker: str) -> int:
        """See `Scenario.concurrency`."""
        return self._slots[worker]

    def queues(self, worker: str) -> Sequence[str]:
        """See `Scenario.queues`."""
        return (SOLO,) if worker == SOLO else ("default",)

    def registry(self, town: Town, worker: str) -> Registry:
        """See `Scenario.registry`."""
        registry = Registry()
        work = self._work

        @task(registry=registry)
        async def plain(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, delivery="at-most-once")
        async def once(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, retries=3, backoff=0.5, jitter=0.0)
        async def again(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, limit=2)
        async def limited(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, limit=1, key="user")
        async def keyed(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, rate="2/s")
        async def rated(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, unique="user")
        async def single(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, expires=5.0)
        async def hasty(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, timeout=2.0)
        async def bounded(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s, fails)

        @task(registry=registry, queue=SOLO)
        async def ordered(call: str, user: str, takes_s: float, fails: int) -> str:
            return await work(town, call, takes_s / 4, fails)

        @task(registry=registry)
        async def tick() -> None:
            self._tick(town)

        @task(registry=registry)
        async def parent(call: str, user: str, takes_s: float, fails: int) -> str:
            return await self._have_children(town, call, takes_s)

        self._tasks = {each.name: each for each in registry}
        return registry

    async def _work(self, town: Town, call: str, takes_s: float, fails: int) -> str:
        with town.body(call) as body:
            await trio.sleep(takes_s)
            if self._failures[call] < fails:
                self._failures[call] += 1
                raise ConnectionError(f"{call} fails")
            body.value = value = f"{call} by {current_job().fence}"
            return value

    def _tick(self, town: Town) -> None:
        job = current_job().id
        moment = self._firings.get(job, -1.0)
        town.recorder.note(Fired, schedule=TICKS, moment=moment, job=job, terms=Terms(task="tick"))
        with town.body():
            pass

    async def _have_children(self, town: Town, call: str, takes_s: float) -> str:
        with town.body(call) as body:
            job = current_job()
            name = f"{call}/{'.'.join(map(str, job.fence))}"
            for n in range(2):
                child = Call(f"{name}/{n}", 0.0, "plain", "ada", takes_s, 0, {}, True, None)
                await self._do(town, job.client, job.worker, child)
            body.value = value = f"{call} by {job.fence}"
            return value

    # --- clients --------------------------------------------------------------------------------

    async def play(self, town: Town, client: Client, name: str) -> None:
        """See `Scenario.play`. What was begun by a process that crashed is not begun again."""
        if name == self.cast.clients[0]:
            await self._make_schedule(town, client)
        async with trio.open_nursery() as nursery:
            for call in self._calls[name][self._begun[name] :]:
                if call.after_s:
                    await trio.sleep(call.after_s)
                self._begun[name] += 1
                nursery.start_soon(self._do, town, client, name, call)

    async def _make_schedule(self, town: Town, client: Client) -> None:
        start, end = (datetime.fromtimestamp(at, UTC) for at in (TICKS_AT[0], TICKS_AT[-1]))
        within_s = 3600.0 if self._missed == "all" else None
        schedule = Schedule(
            every=TICK_S,
            start=start,
            end=end,
            missed=self._missed,
            missed_within=within_s,
            overlap="allow",
        )
        while True:
            try:
                await client.create_schedule(TICKS, "tick", schedule, if_exists="keep")
                break
            except errors.Refused as refusal:
                if refusal.code == "bad-schedule":
                    return  # It comes too late: all its moments have passed.
                if refusal.code != "store-full":
                    raise
            await trio.sleep(0.5)
        moments = tuple(at - START_AT for at in TICKS_AT)
        # If the plane's clock is set ahead, it has missed what came between.
        judged = "skip" if self._missed == "once" and town.script.skew_s else self._missed
        town.recorder.note(Scheduled, schedule=TICKS, moments=moments, missed=judged)

    async def _do(self, town: Town, client: Client | Submitter, process: str, call: Call) -> None:
        note = town.recorder.note
        said = self._tasks[call.kind]
        if call.options:
            said = said.with_options(**call.options)
        note(Submit, process=process, call=call.name, terms=terms_of(call))
        try:
            handle = await client.submit(said, call.name, call.user, call.takes_s, call.fails)
        except SubmissionUncertain:
            note(Uncertain, process=process, call=call.name)
            return
        except CrecheError as error:
            note(Refused, process=process, call=call.name, why=str(error))
            return
        note(
            Accepted,
            process=process,
            call=call.name,
            job=str(handle),
            is_existing=handle.is_existing,
        )
        async with trio.open_nursery() as nursery:
            if call.cancel_after_s is not None:
                nursery.start_soon(self._cancel, town, process, handle, call.cancel_after_s)
            if call.waits:
                await self._see(town, client, process, handle)

    async def _cancel(
        self, town: Town, process: str, handle: JobHandle[Any], after_s: float
    ) -> None:
        await trio.sleep(after_s)
        town.recorder.note(Cancel, process=process, job=str(handle))
        try:
            state = (await handle.cancel()).word
        except UnknownJob:
            state = "unknown"
        except CrecheError:
            return  # Nobody has said what became of it.
        town.recorder.note(CancelAnswered, process=process, job=str(handle), state=state)

    async def _see(
        self, town: Town, client: Client | Submitter, process: str, job: JobHandle[Any] | str
    ) -> None:
        """Wait for a job's end, and note it."""
        asked_at = trio.current_time()
        state, value = "succeeded", None
        try:
            value = await client.result(job)
        except CrecheError as error:
            ended = [word for kind, word in _STATES if isinstance(error, kind)]
            if not ended:
                return  # It was not told: the session is over.
            (state,) = ended
        town.recorder.note(
            Saw, process=process, job=str(job), state=state, value=value, asked_at=asked_at
        )

    async def audit(self, town: Town, client: Client) -> None:
        """See `Scenario.audit`."""
        await trio.sleep_until(TICKS_AT[-1] - START_AT + town.script.skew_s + 1)
        while _UNFINISHED & (await client.ask("health"))["jobs"].keys():  # noqa: ASYNC110
            await trio.sleep(REST_S)
        town.recorder.note(Quiescent)
        jobs = dict.fromkeys(
            event.job for event in town.recorder.events if isinstance(event, Accepted | Fired)
        )
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(self._see, town, client, "auditor", job)

    def begin(self, town: Town) -> None:
        """Note what holds from the start."""
        note = town.recorder.note
        note(Limit, gate="task:limited", most=2)
        for user in USERS:
            note(Limit, gate=f"key:keyed:{user}", most=1)
        note(Rate, gate="task:rated", count=2, per_s=1.0)
        if not self.settings.look_ahead:
            # What was given ahead and is handed back may be overtaken by what is on its way.
            note(OneSlot, queue=SOLO, is_by_priority=self.settings.fairness is None)


def terms_of(call: Call) -> Terms:
    """Return what a call may be judged by."""
    options, kind = call.options, call.kind
    return Terms(
        task=kind,
        queue=SOLO if kind == "ordered" else "default",
        priority=options.get("priority", "normal"),
        retries=3 if kind == "again" else 0,
        max_losses=MAX_LOSSES,
        is_at_most_once=kind == "once",
        backoff_s=0.5 if kind == "again" else 0.0,
        delay_s=options.get("countdown", 0.0),
        expires_s=5.0 if kind == "hasty" else None,
        timeout_s=2.0 if kind == "bounded" else None,
        limit_key=call.user if kind == "keyed" else None,
        unique_key=call.user if kind == "single" else None,
        idempotency_key=options.get("idempotency_key"),
    )


def _draw_settings(rng: random.Random) -> PlaneSettings:
    """Draw a plane's settings: small windows, so that everything goes through the store now and
    then, and leases that end while somebody looks."""
    return PlaneSettings(
        keep_alive_s=5.0,
        grace_s=12.0,
        lease_s=25.0,
        drain_s=2.0,
        window=rng.choice([1, 4, 1000]),
        delays=rng.choice([1, 3, 1000]),
        fairness=rng.choice([None, None, 3]),
        look_ahead=rng.choice([0, 8]),
        max_losses=MAX_LOSSES,
    )
