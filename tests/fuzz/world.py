"""One run: a plane, its store, its peers, and whatever may happen to them, all drawn from a seed.

Everything happens in one Trio run, on a virtual clock, over memory channels. After a while of
trouble all goes well, and then every accepted job has to come to its one end, and nothing may be
left behind."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing
from tests.fuzz.dead import Graveyard
from tests.fuzz.firings import DECLARATION, DECLARED, Clockwork
from tests.fuzz.peers import Client, Party, Token, Worker, frames_seen
from tests.fuzz.queues import QUEUES, Gatekeeper
from tests.fuzz.stores import DiskLike, Rig, Weather
from tests.fuzz.truth import Known, Truth
from tests.fuzz.twins import DECLARATION as SINGLE
from tests.fuzz.twins import REPLACING, Twins
from trio._core import _run as trio_run

from creche.channel.memory import Fate, Faults, MemoryListener
from creche.engine import journal, plane
from creche.engine.core import Core
from creche.engine.lane import Lane
from creche.engine.settings import PlaneSettings
from creche.errors import StoreError
from creche.model.ids import new_id
from creche.model.limits import TimeLimits
from creche.store.base import Retention, Store
from creche.store.memory import MemoryStore
from creche.store.sqlite_tools import verify
from creche.testing.simulate.disk import InlineSqliteStore
from creche.wire import messages as m
from creche.wire.payload import decode_call, encode_call

START = 1_800_000_000.0
TROUBLE_S = (10.0, 90.0)
"""How long a run has trouble."""

PEACE_S = 3000.0
"""By when all has to have come to its end."""

MOST_PENDING = 60
"""Submissions without an answer of one peer. Being declined all of them fits its outbox."""

DECLARATIONS: dict[str, m.Facts] = {
    "plain": {"name": "plain"},
    "once": {"name": "once", "delivery": "at-most-once"},
    "again": {"name": "again", "retry": {"retries": 2, "backoff": 0.2}},
    "urgent": {"name": "urgent", "queue": "other", "priority": 0},
    "hasty": {"name": "hasty", "limits": {"expires_s": 5.0}},
    "odd": {"name": "odd"},
    "few": {"name": "few", "flow": {"limit": 1}},
    "keyed": {
        "name": "keyed",
        "flow": {
            "limit": 1,
            "key": {"parameter": "k", "position": 2, "path": [], "default": None},
        },
    },
    "slow": {"name": "slow", "flow": {"rate": {"count": 2, "per_s": 1.0}}},
    "single": SINGLE,
    DECLARED: DECLARATION,
}


class World:
    """What a seed makes of it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.declarations = DECLARATIONS
        self.settings = draw_settings(rng)
        self.kind = rng.choice(["disk-like", "disk-like", "memory", "sqlite"])
        self.truth = Truth(self.settings.max_losses)
        self.clockwork = Clockwork(self)
        self.graveyard = Graveyard(self)
        self.twins = Twins(self)
        self.truth.books = [self.graveyard, self.clockwork, self.twins]
        self.truth.openings = [self.clockwork.opened, self.twins.opened]
        self.gatekeeper = Gatekeeper(self)
        self.weather = Weather()
        self.listener = MemoryListener()
        self.core: Core | None = None
        self.clients: list[Client] = []
        self.workers: list[Worker] = []
        self.cuts = 0.0
        """How likely a frame is the last of its connection."""
        self.delay_s = rng.choice([0.0, 0.0, 0.0, 0.02])
        self._path = folder / f"{seed}.db"
        self._memory = MemoryStore() if self.kind == "memory" else DiskLike()
        self._numbers = 0
        self._clock_off_s = 0.0
        self.latest_now = START
        """The latest moment that the clock has shown."""
        self._plane_scope = trio.CancelScope()
        self._plane_gone = trio.Event()
        self._stop = trio.Event()
        self.nursery: trio.Nursery

    def now(self) -> float:
        """UTC seconds, by a clock that is set now and then."""
        now = START + self._clock_off_s + trio.current_time()
        self.latest_now = max(self.latest_now, now)
        return now

    # --- the plane ------------------------------------------------------------------------------

    def make_store(self) -> Store:
        """Make what a plane is given when it starts."""
        inner: Store = InlineSqliteStore(self._path) if self.kind == "sqlite" else self._memory
        return Rig(inner, self.weather, self.truth, self.rng)

    async def start_plane(self) -> None:
        """Start the plane; it may find that its store does not open, and is tried again then."""
        self.truth.note("the plane starts")
        while True:
            self._plane_gone, self._stop = trio.Event(), trio.Event()
            try:
                await self.nursery.start(self._run_plane)
            except* StoreError:
                self.truth.note("it cannot")
            else:
                return

    async def _run_plane(self, task_status: trio.TaskStatus[Any]) -> None:
        try:
            with trio.CancelScope() as self._plane_scope:
                await plane.run_plane(
                    self.make_store,
                    self.listener.serve,
                    self.settings,
                    stop=self._stop,
                    clock=self.now,
                    draw=self.rng.random,
                    subscribers=(self.truth.happens, self.gatekeeper.happens),
                    task_status=task_status,
                )
        finally:
            self._plane_gone.set()

    async def kill_plane(self) -> None:
        """End the plane without a word."""
        self.truth.note("the plane is killed")
        self._plane_scope.cancel()
        self.listener.cut_all()
        await self._plane_gone.wait()

    async def stop_plane(self) -> None:
        """Stop the plane in order."""
        self.truth.note("the plane is stopped")
        self._stop.set()
        with trio.fail_after(200):
            await self._plane_gone.wait()

    @asynccontextmanager
    async def dial(self, party: Party) -> AsyncIterator[Any]:
        """Connect a peer: its connection is looked at, and may be cut at any frame."""
        see = frames_seen(party, self)

        def judge(is_seen: bool, _: int, frame: bytes) -> Fate:
            if is_seen:
                see(frame)
            if self.cuts and self.rng.random() < self.cuts:
                return self.rng.choice([Fate.CUT_BEFORE, Fate.LOSE_AND_CUT, Fate.CUT_AFTER])
            return Fate.DELIVER

        self.listener.to_plane = Faults(hook=partial(judge, False), delay_s=self.delay_s)
        self.listener.to_peer = Faults(hook=partial(judge, True), delay_s=self.delay_s)
        async with self.listener.dial(party.name) as channel:
            yield channel

    # --- jobs -----------------------------------------------------------------------------------

    def submit_one(
        self, party: Party, parent: Token | None = None, key: tuple[str, str] | None = None
    ) -> None:
        """Have a job submitted, or one that somebody has submitted before; or one of a task with a
        unique *key*."""
        rng = self.rng
        if len(party.pending) >= MOST_PENDING:
            return
        if self.truth.jobs and parent is None and key is None and rng.random() < 0.05:
            known = rng.choice(list(self.truth.jobs.values()))
            if "parent" not in (known.submit.options or {}) and not known.is_by_plane:
                party.submit(known.submit)
            return
        number = self.next_number()
        now = self.now()
        task = rng.choice(list(DECLARATIONS))
        options = draw_options(rng, now)
        word = None
        if key is not None:
            task, word = key
        self.twins.draw(options, task, word)
        if parent is not None:
            options["parent"] = list(parent)
        message = m.Submit(
            0,
            new_id(now, rng.randbytes(10)),
            task,
            rng.choice([None, None, *QUEUES]),
            rng.choice([None, None, 0, 1, 2, 3]),
            encode_call([number, "x" * rng.choice([0, 10, 300, 1500]), rng.choice("abc")], {}),
            m.WATCH if rng.random() < 0.6 else 0,
            options or None,
        )
        self.truth.jobs[message.id] = self.known(message, number)
        self.twins.submitted(message)
        party.submit(message)

    def next_number(self) -> int:
        """Return the number of one more job."""
        self._numbers += 1
        return self._numbers

    def known(self, message: m.Submit, number: int, *, is_by_plane: bool = False) -> Known:
        """Return what is known of a job that is submitted like that."""
        options, task = message.options or {}, DECLARATIONS[message.task]
        delivery = options.get("delivery") or task.get("delivery")
        limits = TimeLimits.from_data({**task.get("limits", {}), **options.get("limits", {})})
        retry = {**task.get("retry", {}), **options.get("retry", {})}
        return Known(
            number,
            message,
            is_at_most_once=delivery == "at-most-once",
            retries=retry.get("retries", 0),
            may_expire=limits.expires_s is not None or limits.deadline_at is not None,
            is_by_plane=is_by_plane,
        )

    # --- peers ----------------------------------------------------------------------------------

    async def add_client(self) -> Client:
        """Have one more client."""
        client = Client(self, f"client-{len(self.clients)}")
        self.clients.append(client)
        await self.nursery.start(client.live)
        return client

    async def add_worker(self, name: str | None = None) -> Worker:
        """Have one more worker, or a new process of one."""
        rng = self.rng
        tasks = rng.sample(list(DECLARATIONS), rng.randint(1, len(DECLARATIONS)))
        queues = rng.sample(QUEUES, rng.randint(1, len(QUEUES)))
        worker = Worker(
            self, name or f"worker-{len(self.workers)}", tasks, queues, rng.randint(0, 3)
        )
        self.truth.note(f"{worker.name} comes: {queues}, {tasks}, {worker.slots} slots")
        self.workers.append(worker)
        await self.nursery.start(worker.live)
        return worker

    @property
    def living(self) -> list[Worker]:
        """The workers that have not left."""
        return [worker for worker in self.workers if not worker.is_leaving]

    # --- a run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Have trouble, then peace, and look at what is left."""
        async with trio.open_nursery() as self.nursery:
            await self.start_plane()
            for _ in range(self.rng.randint(1, 3)):
                await self.add_client()
            self.cuts = self.rng.choice([0.0, 0.002, 0.02])
            ends_at = trio.current_time() + self.rng.uniform(*TROUBLE_S)
            busy_s = self.rng.choice([0.1, 0.5, 2.0])
            while trio.current_time() < ends_at:
                await trio.sleep(self.rng.expovariate(1 / busy_s))
                await self._happen()
            await self._make_peace()
            await self._wait_for_the_end()
            self._check_nothing_is_left()
            self.clockwork.check_end()
            await self.graveyard.check_end()
            await self.stop_plane()
            self.nursery.cancel_scope.cancel()
        if self.kind == "sqlite":
            self.truth.check(verify(self._path) == [], "the file is sound")

    async def _happen(self) -> None:
        """Have something happen."""
        rng, weather = self.rng, self.weather
        clients, living = self.clients, self.living
        what = rng.choices(*zip(*HAPPENINGS.items(), strict=True))[0]
        worker = rng.choice(living) if living else None
        client = rng.choice(clients)
        match what:
            case "submit":
                for _ in range(rng.choice([1, 1, 3, 10])):
                    self.submit_one(client)
            case "replace":
                key = (
                    rng.choice(["plain", "again"]),
                    f"{rng.choice(REPLACING)}{rng.randint(1, 3)}",
                )
                for _ in range(rng.choice([1, 2, 3])):
                    self.submit_one(client, key=key)
                if rng.random() < 0.4:
                    weather.loss = "after"
            case "cancel" if self.truth.jobs:
                some = list(self.truth.jobs)[-30:]
                client.cancel(rng.sample(some, min(len(some), rng.choice([1, 1, 5]))))
            case "cancel all":
                client.cancel(list(self.truth.jobs))
            case "worker comes" if len(living) < 4:
                await self.add_worker()
            case "worker leaves" if worker:
                self.truth.note(f"{worker.name} leaves")
                worker.say_goodbye()
            case "worker dies" if worker:
                self.truth.note(f"{worker.name} dies")
                worker.vanish()
                if rng.random() < 0.6:
                    await worker.gone.wait()
                    await self.add_worker(worker.name)
            case "worker is deaf" if worker:
                self.truth.note(f"{worker.name} is deaf")
                worker.deafen(rng.uniform(0.5, 10.0))
            case "worker announces" if worker:
                worker.announce(rng.sample(list(DECLARATIONS), rng.randint(1, len(DECLARATIONS))))
            case "worker resizes" if worker:
                worker.resize(rng.randint(0, 4))
            case "worker hands back" if worker:
                worker.hand_back()
            case "worker misreports" if worker:
                worker.misreport()
            case "client unwatches" if client.watching:
                some = rng.sample(sorted(client.watching), min(3, len(client.watching)))
                client.watching.difference_update(some)
                client.post(m.Unwatch(some))
            case "cut":
                if self.listener.connections:
                    rng.choice(self.listener.connections).cut()
            case "cut all":
                self.listener.cut_all(deliver_in_flight=rng.random() < 0.5)
            case "ask":
                question = rng.choice(["health", "queues", "overview", "jobs", "workers"])
                client.post(m.Ask(10**9, question, {}))
            case "follow":
                client.post(m.Subscribe(10**9, "overview", 10.0))
            case "clock":
                self._clock_off_s += rng.uniform(-20.0, 20.0)
                self.truth.note(f"the clock is off by {self._clock_off_s:g} s")
            case "queue is set":
                self.gatekeeper.set_one(client)
            case "schedule is made":
                self.clockwork.make_one(client)
            case "schedule is meddled with":
                self.clockwork.meddle(client)
            case "dead are retried":
                self.graveyard.retry_some(client)
            case "dead are discarded":
                self.graveyard.discard_some(client)
            case "ask again":
                client.ask_again()
            case "plane dies":
                await self.kill_plane()
                await trio.sleep(rng.choice([0.0, 1.0, 10.0]))
                weather.refused_openings = rng.choice([0, 0, 1])
                await self.start_plane()
            case "plane stops":
                await self.stop_plane()
                await trio.sleep(rng.choice([0.0, 1.0, 10.0]))
                await self.start_plane()
            case "store dies":
                self.truth.note("the store dies soon")
                weather.loss = rng.choice(["before", "after", "read"])
                weather.refused_openings = rng.choice([0, 0, 1, 2])
            case "full" | "over limit" | "slow" | "unreadable" | "nearly full":
                self.nursery.start_soon(self._have_weather, what, rng.uniform(0.1, 8.0))

    async def _have_weather(self, what: str, for_s: float) -> None:
        weather = self.weather
        self.truth.note(f"the store is {what}")
        weather.is_full |= what == "full"
        weather.is_over_limit |= what == "over limit"
        weather.takes_small_only |= what == "nearly full"
        weather.cannot_read |= what == "unreadable"
        weather.slow_s = 0.3 if what == "slow" else weather.slow_s
        await trio.sleep(for_s)
        weather.clear()

    async def _make_peace(self) -> None:
        """From now on all goes well."""
        self.truth.note("PEACE")
        self.cuts = 0.0
        self.weather.clear()
        for client in self.clients:
            client.is_healthy = True
        for worker in self.living:
            worker.is_healthy = True
            self.rng.choice([worker.say_goodbye, worker.vanish])()
        await trio.sleep(10)  # what was begun by then, and clears the weather once more
        self.weather.clear()
        for number in range(2):
            worker = Worker(self, f"good-{number}", list(DECLARATIONS), QUEUES, 3)
            worker.is_healthy = True
            self.workers.append(worker)
            await self.nursery.start(worker.live)
        await trio.sleep(1)
        self.gatekeeper.clear()

    def check_limits(self, offer: m.Offer) -> None:
        """No more run at a time than may: what workers have, counted where the plane counts."""
        assert self.core is not None
        flow = DECLARATIONS[offer.task].get("flow", {})
        if "limit" not in flow:
            return

        def key(payload: bytes) -> Any:
            return decode_call(payload)[0][2] if "key" in flow else None

        out = [
            job
            for worker in self.core.sessions.workers()
            for job in worker.leased.values()
            if job.task == offer.task and key(job.payload) == key(offer.payload)
        ]
        self.truth.check(
            len(out) <= flow["limit"],
            f"no more of {offer.task} run than may: {[self.truth.name(job.id) for job in out]}",
            offer.id,
        )

    async def _wait_for_the_end(self) -> None:
        with trio.move_on_after(PEACE_S):
            while (
                self.truth.unfinished
                or not self.clockwork.is_over
                or any(c.pending or c.watching for c in self.clients)
            ):
                await trio.sleep(1)
        truth = self.truth
        left = [truth.name(job_id) for job_id in truth.unfinished]
        truth.check(not left, f"every job ends: {', '.join(left)}")
        for client in self.clients:
            left = [truth.name(message.id) for message in client.pending.values()]
            truth.check(not left, f"every submission is answered: {client.name}, {left}")
            left = [truth.name(job_id) for job_id in client.watching]
            truth.check(not left, f"who waits for a result gets it: {client.name}, {left}")
        for job_id, known in truth.jobs.items():
            truth.check(
                not known.is_accepted or known.end is not None,
                "an accepted job has come to its end",
                job_id,
            )
            truth.check(
                known.is_accepted or known.may_be_stored or job_id not in truth.stored,
                "what was declined is not stored",
                job_id,
            )
        # Sessions end, leases are written, whatever was forgotten comes up.
        await trio.sleep(100)

    def _check_nothing_is_left(self) -> None:
        core = self.core
        assert core is not None
        left: dict[str, object] = {
            **self.twins.left(core),
            "by_id": core.by_id,
            "by_seq": core.by_seq,
            "reads": core._reads,
            "delays.held": core.delays.held,
            "delays.held_bytes": core.delays.held_bytes,
            "delays.stored": core.delays.stored,
            "space": core.lanes.space.held_bytes,
            "orphans": core.leases._orphans,
            "claims": core.submissions.claims,
            "waiting": core.submissions._waiting,
            "full": core.submissions._full,
            "watchers": core.outcomes._watchers,
            "looked up": core.outcomes._unknown,
            "young": core.journal._young,
            "old": core.journal._old,
            "failing": core.journal.failing,
        }
        for name, gate in core.limits._gates.items():
            left[f"running of {name}"] = getattr(gate, "running", None)
            left[f"waiting for {name}"] = gate.has_waiters
        for lane in core.lanes.by_number.values():
            for name in (
                "held", "held_bytes", "stored", "delayed", "delayed_bytes", "arriving", "spilling",
                "waiting", "is_reading", "is_read_later",
            ):  # fmt: skip
                left[f"lane {lane.number} {lane.key} {name}"] = getattr(lane, name)
        for session in core.sessions:
            for name in (
                "leased", "load_s", "coming_bytes", "unaccepted", "claims", "doubts", "watching",
                "owed", "open_asks",
            ):  # fmt: skip
                left[f"{session.name} {name}"] = getattr(session, name)
        left = {name: what for name, what in left.items() if what}
        self.truth.check(not left, f"nothing is left behind: {left}")


# Sets of lanes are looked through in an order that a seed decides, and not an address.
Lane.__hash__ = lambda lane: lane.number  # type: ignore[method-assign]

HAPPENINGS = {
    "submit": 30, "replace": 3, "cancel": 8, "cancel all": 0.3, "worker comes": 8,
    "worker leaves": 2, "worker dies": 3, "worker is deaf": 2, "worker announces": 3,
    "worker resizes": 3,
    "worker hands back": 3, "worker misreports": 3, "client unwatches": 2, "queue is set": 2,
    "schedule is made": 2, "schedule is meddled with": 1.5, "dead are retried": 4,
    "dead are discarded": 1, "ask again": 1, "cut": 4, "cut all": 1,
    "ask": 2, "follow": 0.5, "clock": 0.3, "plane dies": 1, "plane stops": 0.3, "store dies": 1,
    "full": 1, "nearly full": 0.5, "over limit": 1, "slow": 2, "unreadable": 1,
}  # fmt: skip
"""What happens, and how often against the others."""


def draw_settings(rng: random.Random) -> PlaneSettings:
    """Small windows, so that everything has to go through the store now and then."""
    retention = Retention(rng.choice([0, 5, 100]), None, None)
    return PlaneSettings(
        keep_alive_s=1.0,
        grace_s=3.0,
        lease_s=6.0,
        drain_s=2.0,
        window=rng.choice([1, 2, 4, 10, 1000]),
        window_bytes=rng.choice([600, 3000, 1 << 25]),
        windows_bytes=rng.choice([1, 4000, 12_000, 1 << 28]),
        delays=rng.choice([1, 3, 1000]),
        lanes=rng.choice([3, 12, 1000, 1000, 1000]),
        fairness=rng.choice([None, None, 1, 3]),
        look_ahead=rng.choice([0, 2, 8]),
        look_ahead_s=rng.choice([0.0, 0.005, 5.0]),
        max_losses=rng.choice([2, 3, 50]),
        max_children=rng.choice([1, 3, 1000]),
        unaccepted=rng.choice([3, 1000, 1000, 1000]),
        watches=rng.choice([1000, 100_000]),
        retention=rng.choice([None, retention]),
        **rng.choice([{}, {}, {"payload_bytes": 2048, "outbox_bytes": 16_384}]),
    )


def draw_options(rng: random.Random, now: float) -> m.Facts:
    """What a submission says beside its call."""
    options: m.Facts = {}
    if rng.random() < 0.3:
        options["delay_s"] = rng.choice([0.01, 0.1, 0.5, 2.0, 5.0, 30.0, 70.0])
    if rng.random() < 0.15:
        options["limits"] = {"expires_s": rng.choice([0.5, 5.0, 40.0])}
    if rng.random() < 0.1:
        options.setdefault("limits", {})["deadline_at"] = now + rng.choice([1.0, 10.0, 60.0])
    if rng.random() < 0.3:
        retries = rng.choice([0, 1, 3])
        options["retry"] = {"retries": retries, "backoff": rng.choice([0.0, 0.1, 3.0])}
    if rng.random() < 0.2:
        options["delivery"] = rng.choice(["at-most-once", "at-least-once"])
    return options


class _Ears(logging.Handler):
    """Hears of what the plane finds wrong with itself."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(logging.ERROR)
        self._truth = truth

    def emit(self, record: logging.LogRecord) -> None:
        self._truth.check(record.exc_info is None, f"the plane makes no mistake: {record.msg}")


def run_seed(seed: int, folder: Path) -> Truth:
    """Run one seed, and return what became of it.

    Raises:
        BaseException: a promise was broken; the notes say what came before.
    """
    world = World(seed, folder)

    class Seen(Core):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            world.core = self
            world.gatekeeper.watch(self)

    ears, log = _Ears(world.truth), logging.getLogger("creche.plane")
    batch_bytes = world.rng.choice([500, journal.BATCH_BYTES])
    before = (plane.Core, journal.BATCH_BYTES, trio_run._ALLOW_DETERMINISTIC_SCHEDULING)
    plane.Core, journal.BATCH_BYTES = Seen, batch_bytes  # type: ignore[misc]
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    log.addHandler(ears)
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(world.run, clock=clock)
    except BaseException as error:
        error.add_note(world.truth.tell())
        raise
    finally:
        log.removeHandler(ears)
        plane.Core, journal.BATCH_BYTES = before[:2]  # type: ignore[misc]
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[2]  # type: ignore[misc]
    return world.truth
