"""What happens to a worker's attempts between two connections, moment by moment: whatever ends, is
let go or is lost there, the plane hears of it, and no job stays with a worker that has it no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from creche.channel.base import Channel
from creche.channel.memory import Fate, Faults
from creche.engine.settings import PlaneSettings
from creche.errors import PlaneUnreachable
from creche.host import Host
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import Cluster, open_cluster
from creche.worker.runner import Worker

pytestmark = pytest.mark.trio

BEGUN: Counter[str] = Counter()
"""How often each body began, by what it was called with; a test's own words."""


@task(registry=Registry())
async def hold(word: str, seconds: float) -> str:
    """Leaves when it is told to."""
    BEGUN[word] += 1
    await trio.sleep(seconds)
    return f"{word}: run {BEGUN[word]}"


@task(registry=Registry())
async def hold_deaf(word: str, seconds: float) -> str:
    """Does not hear that it is told to leave, as a thread does not."""
    BEGUN[word] += 1
    run = BEGUN[word]
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    return f"{word}: run {run}"


@task(registry=Registry())
async def hold_then_leave(word: str, seconds: float) -> str:
    """Leaves when it is told to, and takes its time for that."""
    BEGUN[word] += 1
    run = BEGUN[word]
    try:
        await trio.sleep(seconds if run == 1 else 0)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
    return f"{word}: run {run}"


class Gate:
    """A worker's way to its plane: shut, or such that a plane's first words wait at it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.is_shut = False
        self.welcome_may_pass = trio.Event()
        self.welcome_may_pass.set()
        self.welcome_waits = trio.Event()
        """Set while the plane has taken the Hello and its Welcome is on its way."""

    def hold_welcomes(self) -> None:
        """From now on a Welcome is on its way until `welcome_may_pass` is set."""
        self.welcome_may_pass = trio.Event()
        self.welcome_waits = trio.Event()

    def cut(self) -> None:
        """Cut the worker's connections, and no others."""
        for channel in self._cluster.listener.connections:
            if channel.name == "gated":
                channel.cut()

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Channel]:
        """Connect; this is a `Dial`."""
        if self.is_shut:
            await trio.lowlevel.checkpoint()
            raise PlaneUnreachable("memory:plane", "the gate is shut")
        async with self._cluster.listener.dial("gated") as channel:
            yield _Gated(channel, self)


class _Gated:
    def __init__(self, channel: Channel, gate: Gate) -> None:
        self._channel = channel
        self._gate = gate
        self._is_welcomed = False
        self.peer = channel.peer
        self.send = channel.send
        self.aclose = channel.aclose

    async def receive(self) -> bytes:
        frame = await self._channel.receive()
        if not self._is_welcomed:
            self._gate.welcome_waits.set()
            await self._gate.welcome_may_pass.wait()
            self._is_welcomed = True
        return frame


class House:
    """A plane, one worker with one slot behind a gate, and a client."""

    def __init__(self, cluster: Cluster, worker: Worker, gate: Gate, client: Any) -> None:
        self.cluster = cluster
        self.worker = worker
        self.gate = gate
        self.client = client

    async def submit(self, body: Any, word: str, seconds: float = 0.0) -> Any:
        """Submit a job."""
        return await self.client.submit(body, word, seconds)

    def leased(self) -> int:
        """How many attempts the plane thinks are with workers."""
        assert self.cluster.running is not None
        return sum(len(s.leased) for s in self.cluster.running.core.sessions.workers())

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, in virtual time."""
        with trio.fail_after(100):
            while not condition():
                await trio.sleep(0.001)

    async def run(self, body: Any, word: str, seconds: float) -> Any:
        """Submit a job, and return its handle when its body has begun."""
        job = await self.submit(body, word, seconds)
        await self.until(lambda: BEGUN[word])
        return job

    async def away_until_welcome(self, away_s: float = 0.0) -> None:
        """Cut the worker off, keep it away, and return when its Welcome is on its way."""
        self.gate.hold_welcomes()
        self.gate.is_shut = away_s > 0
        self.gate.cut()
        await trio.sleep(away_s)
        self.gate.is_shut = False
        with trio.fail_after(10):
            await self.gate.welcome_waits.wait()

    async def nothing_is_left(self) -> None:
        """Wait until no attempt is with any worker; both sides think so."""
        await self.until(lambda: not self.leased())
        await trio.sleep(1)
        assert self.leased() == 0
        assert self.worker.running == 0


@asynccontextmanager
async def open_house(concurrency: int = 1) -> AsyncIterator[House]:
    BEGUN.clear()
    tasks = [hold, hold_deaf, hold_then_leave]
    # However long this machine takes for the jobs below: the plane looks ahead.
    settings = PlaneSettings(look_ahead_s=60.0)
    async with (
        open_cluster(tasks, workers=0, settings=settings) as cluster,
        cluster.client() as client,
    ):
        gate = Gate(cluster)
        worker = Worker(
            cluster.registry,
            dial=gate.dial,
            url="memory:plane",
            worker_id="gated",
            concurrency=concurrency,
            host=Host(draw=lambda: 0.5),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            # Jobs that take no time: from now on the plane looks ahead.
            for number in range(20):
                await (await client.submit(hold, f"warm {number}", 0.0)).result()
            yield House(cluster, worker, gate, client)
            nursery.cancel_scope.cancel()


async def test_look_ahead_that_is_let_go_between_hello_and_welcome_is_run(autojump_clock):
    async with open_house() as house:
        running = await house.run(hold, "running", 3)
        waiting = [await house.submit(hold, f"waiting {n}") for n in range(3)]
        await house.until(lambda: house.leased() == 4)
        await house.away_until_welcome()
        await trio.sleep(0.5)  # longer than an attempt may wait for a slot
        house.gate.welcome_may_pass.set()
        results = [await job.result(timeout=60) for job in [running, *waiting]]
        assert results == ["running: run 1", *(f"waiting {n}: run 1" for n in range(3))]
        await house.nothing_is_left()


async def test_what_a_drain_lets_go_between_hello_and_welcome_is_run_elsewhere(autojump_clock):
    async with open_house() as house:
        running = await house.run(hold, "running", 3)
        waiting = [await house.submit(hold, f"waiting {n}") for n in range(3)]
        await house.until(lambda: house.leased() == 4)
        await house.away_until_welcome()
        house.worker.begin_drain("a new version is out")
        house.gate.welcome_may_pass.set()
        await house.cluster.add_worker("other")
        with trio.fail_after(2):
            results = [await job.result() for job in waiting]
        assert results == [f"waiting {n}: run 1" for n in range(3)]
        assert await running.result(timeout=60) == "running: run 1"
        await house.nothing_is_left()


async def test_what_ends_between_hello_and_welcome_is_reported_once(autojump_clock):
    async with open_house() as house:
        job = await house.run(hold, "short", 1)
        await house.away_until_welcome()
        await trio.sleep(2)
        house.gate.welcome_may_pass.set()
        assert await job.result(timeout=10) == "short: run 1"
        await house.nothing_is_left()


@pytest.mark.parametrize("body", [hold, hold_then_leave])
async def test_what_loses_its_lease_between_hello_and_welcome_runs_again(autojump_clock, body):
    async with open_house() as house:
        job = await house.run(body, "long", 30)
        # The plane hears the Hello within the grace, and the worker the Welcome beyond it.
        await house.away_until_welcome(away_s=8)
        await trio.sleep(9)
        house.gate.welcome_may_pass.set()
        assert await job.result(timeout=100) == "long: run 2"
        await house.nothing_is_left()


async def test_a_body_that_cannot_be_stopped_is_reported_though_its_lease_seemed_lost(
    autojump_clock,
):
    async with open_house() as house:
        job = await house.run(hold_deaf, "deaf", 40)
        await house.away_until_welcome(away_s=8)
        await trio.sleep(9)
        house.gate.welcome_may_pass.set()
        await trio.sleep(5)
        # Its slot is its own all the while.
        assert house.worker.capacity == (0, 0)
        assert house.leased() == 1
        other = await house.submit(hold, "other")
        assert await job.result(timeout=100) == "deaf: run 1"
        assert await other.result(timeout=100) == "other: run 1"
        await house.nothing_is_left()


async def test_a_hand_back_that_is_lost_with_its_connection_is_made_good_by_the_next(
    autojump_clock,
):
    async with open_house() as house:
        running = await house.run(hold, "running", 3)
        waiting = [await house.submit(hold, f"waiting {n}") for n in range(3)]
        await house.until(lambda: house.leased() == 4)
        await house.away_until_welcome()
        await trio.sleep(0.5)
        # The hand-back is in the worker's first frame after the Hello.
        house.cluster.listener.connections[-1]._out.faults = Faults({1: Fate.LOSE_AND_CUT})
        house.gate.welcome_may_pass.set()
        results = [await job.result(timeout=60) for job in [running, *waiting]]
        assert results == ["running: run 1", *(f"waiting {n}: run 1" for n in range(3))]
        await house.nothing_is_left()


async def test_an_offer_that_is_lost_with_its_connection_is_made_again(autojump_clock):
    async with open_house() as house:
        (near,) = [c for c in house.cluster.listener.connections if c.name == "gated"]
        offers = 0

        def lose_the_first_offer(number: int, frame: bytes) -> Fate:
            nonlocal offers
            offers += b"wanted" in frame
            return Fate.LOSE_AND_CUT if offers == 1 and b"wanted" in frame else Fate.DELIVER

        near._into.faults = Faults(hook=lose_the_first_offer)
        job = await house.submit(hold, "wanted")
        assert await job.result(timeout=10) == "wanted: run 1"
        assert offers == 1
        await house.nothing_is_left()


async def test_an_offer_that_arrives_as_its_connection_ends_is_run_once(autojump_clock):
    async with open_house() as house:
        (near,) = [c for c in house.cluster.listener.connections if c.name == "gated"]
        near._into.faults = Faults(
            hook=lambda number, frame: Fate.CUT_AFTER if b"wanted" in frame else Fate.DELIVER
        )
        job = await house.submit(hold, "wanted", 1)
        assert await job.result(timeout=10) == "wanted: run 1"
        assert BEGUN["wanted"] == 1
        await house.nothing_is_left()


async def test_a_report_that_is_lost_with_its_connection_is_made_again_and_counts_once(
    autojump_clock,
):
    async with open_house() as house:
        job = await house.run(hold, "reported", 1)
        (near,) = [c for c in house.cluster.listener.connections if c.name == "gated"]
        near._out.faults = Faults(
            hook=lambda number, frame: (
                Fate.LOSE_AND_CUT if b"reported: run" in frame else Fate.DELIVER
            )
        )
        assert await job.result(timeout=10) == "reported: run 1"
        assert BEGUN["reported"] == 1
        await house.nothing_is_left()


async def test_a_job_whose_result_is_settled_while_the_worker_is_away_stays_settled(
    autojump_clock,
):
    async with open_house() as house:
        job = await house.run(hold, "settled", 1)
        (near,) = [c for c in house.cluster.listener.connections if c.name == "gated"]
        near._into.faults = Faults(hook=lambda number, frame: Fate.LOSE_AND_CUT)
        assert await job.result(timeout=10) == "settled: run 1"
        await trio.sleep(20)
        assert len(house.worker._reports) == 0
        await house.nothing_is_left()
