"""Jobs that not every worker can run are parked beside their lane: none is lost on the way there,
through the store and back, and they fill no memory."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_windows import LISTENING, DiskLike, run_all

from creche.engine.settings import PlaneSettings
from creche.model.job import JobState
from creche.store.base import Batch
from creche.wire import messages as m

pytestmark = pytest.mark.trio


class OneAtATime(DiskLike):
    """Serves calls in the order they were made, each in a while of its own, as the store's process
    does; answers that are ready together reach those who wait in any order."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._turn = trio.StrictFIFOLock()
        self._random = random.Random(seed)

    async def _serve(self, call, *args):
        async with self._turn:
            await trio.sleep(self._random.choice((0.0001, 0.001, 0.005)))
            answer = await call(*args)
        await trio.sleep(self._random.choice((0, 0, 0.001)))
        return answer

    async def commit(self, batch: Batch):
        return await self._serve(super().commit, batch)

    async def read_lane(self, *args):
        return await self._serve(super().read_lane, *args)

    async def find(self, ids):
        return await self._serve(super().find, ids)

    async def outcomes(self, ids, max_bytes=None):
        return await self._serve(super().outcomes, ids)


class Late(DiskLike):
    """Does what it is asked at once, and answers as late as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = {"commit": trio.Event(), "read_lane": trio.Event()}
        for event in self.may_answer.values():
            event.set()

    async def commit(self, batch: Batch):
        answer = await super().commit(batch)
        await self.may_answer["commit"].wait()
        return answer

    async def read_lane(self, *args):
        answer = await super().read_lane(*args)
        await self.may_answer["read_lane"].wait()
        return answer


async def test_a_job_parked_while_its_lane_is_read_back_is_not_lost(autojump_clock):
    settings = PlaneSettings(window=4, look_ahead=0)
    async with (
        open_house(settings, OneAtATime) as house,
        house.client().connected() as client,
        house.worker("a").connected(**LISTENING) as a,
        house.worker("b").connected(**LISTENING) as b,
    ):
        await a.ready("echo", slots=1)
        await b.ready("echo", slots=0)
        for n in range(20):
            await client.submitted(n)
        await b.say(m.Announce([{"name": "other"}]))
        await trio.sleep(0.1)
        for n in range(20, 30):
            await client.submitted(n)
        # The parked lane is thirsty, and jobs of the main lane are parked, at the same time.
        await a.say(m.Capacity(7, 0))
        await trio.sleep(0.001)
        await b.say(m.Capacity(10, 0))
        assert sorted(await run_all(a, 30)) == list(range(30))
        await trio.sleep(1)
        assert not house.core.by_id
        assert [lane.ready for lane in house.core.lanes.by_number.values()] == [0, 0]


async def test_jobs_parked_after_younger_ones_were_read_back_fill_no_memory(autojump_clock):
    settings = PlaneSettings(window=4, look_ahead=0)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker("a").connected(**LISTENING) as a,
        house.worker("b").connected(**LISTENING) as b,
    ):
        await a.ready("echo", slots=1)
        await b.ready("echo", slots=0)
        for n in range(200):
            await client.submitted(n)
        await b.say(m.Announce([{"name": "other"}]))
        await trio.sleep(0.1)
        for n in range(200, 210):
            await client.submitted(n)
        await a.say(m.Capacity(20, 0))
        await trio.sleep(0.1)
        await b.say(m.Capacity(10, 0))
        await trio.sleep(1)
        assert max(lane.held for lane in house.core.lanes.by_number.values()) <= 3 * 4
        assert len(house.core.by_seq) <= 4 * 4 + 20
        assert sorted(await run_all(a, 210)) == list(range(210))


async def test_cancelled_jobs_leave_memory_though_nobody_takes_from_their_lane(autojump_clock):
    settings = PlaneSettings(window=10)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        kept = [await client.submitted(n) for n in range(5)]
        for n in range(5, 200):
            job = await client.submitted(n)
            await client.say(m.Cancel(n, [job.id], ""))
            await client.hear(m.Answer)
        (lane,) = house.core.lanes.by_number.values()
        seen = lane.statistics()
        assert (lane.held, lane.ready) == (5, 5)
        assert seen["front"] + seen["channel"]["current_buffer_used"] <= 10
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 5) == list(range(len(kept)))
            await worker.hears_nothing(m.Offer, 1)


async def test_a_job_that_is_read_before_its_commit_is_answered_is_one_job(autojump_clock):
    store = Late()
    settings = PlaneSettings(window=2, look_ahead=0)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        for n in range(3):
            await client.submitted(n)
        store.may_answer["commit"] = trio.Event()
        fourth = client.submit(3)
        await client.say(fourth)
        await trio.sleep(1)
        # Two are taken, so the lane reads on: the fourth is there, and its submitter not answered.
        await worker.say(m.Capacity(2, 0))
        await trio.sleep(1)
        store.may_answer["commit"].set()
        await trio.sleep(1)
        await client.say(m.Cancel(7, [fourth.id], ""))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED]
        (lane,) = house.core.lanes.by_number.values()
        assert (lane.held, lane.stored, lane.arriving) == (1, 0, 0)
        assert await run_all(worker, 3) == [0, 1, 2]
        await worker.hears_nothing(m.Offer, 5)


async def test_a_job_cancelled_while_its_tail_is_read_does_not_come_back(autojump_clock):
    store = Late()
    settings = PlaneSettings(window=2, look_ahead=0)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        jobs = [await client.submitted(n) for n in range(4)]
        store.may_answer["read_lane"] = trio.Event()
        await worker.ready("echo", slots=2)
        await trio.sleep(1)
        await client.say(m.Cancel(7, [jobs[2].id], ""))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED]
        await trio.sleep(1)
        store.may_answer["read_lane"].set()
        assert await run_all(worker, 3) == [0, 1, 3]
        await worker.hears_nothing(m.Offer, 5)
        assert not house.core.by_seq


async def test_empty_parked_lanes_are_not_looked_into(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        names = [f"t{n}" for n in range(50)]
        for n, name in enumerate(names):
            await client.submitted(n, task=name)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready(*names, slots=1)
            assert await run_all(worker, 50) == list(range(50))
            await client.submitted(50, task="t1")
            assert await run_all(worker, 1) == [50]
            (levels,) = house.core.lanes.queues.values()
            assert not any(level.parked for level in levels if level is not None)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_workers_announce_meanwhile_every_job_runs_once(autojump_clock, seed):
    """Submissions, cancellations and hand-backs, while workers change what they know and how much
    they take: in the end every job ran once or was cancelled, and every count is back at zero."""
    chance = random.Random(seed)
    tasks = ["one", "two", "three"]
    settings = PlaneSettings(window=chance.choice((2, 5)), look_ahead=chance.choice((0, 4)))
    ran: Counter[bytes] = Counter()
    submitted: dict[bytes, int] = {}
    cancelled: set[bytes] = set()
    stopping: set[bytes] = set()
    """These were cancelled when a worker had them: it may have run them, or handed them back."""

    async def work(worker: Peer) -> None:
        while True:
            offer = await worker.hear(m.Offer, 10_000)
            if chance.random() < 0.1:
                await worker.say(m.HandBack([[offer.seq, offer.epoch, offer.attempt]]))
                continue
            await trio.sleep(chance.choice((0, 0.001, 0.01)))
            ran[offer.id] += 1
            await worker.finish(offer)

    async def wander(worker: Peer) -> None:
        for _ in range(30):
            known = chance.sample(tasks, chance.randint(1, 3))
            await worker.say(m.Announce([{"name": name} for name in known]))
            await worker.say(m.Capacity(chance.randint(0, 6), 0))
            await trio.sleep(chance.choice((0.001, 0.01, 0.05)))

    async def submit(client: Peer) -> None:
        for n in range(300):
            job = await client.submitted(
                n, task=chance.choice(tasks), priority=chance.randint(1, 2)
            )
            submitted[job.id] = n
            if chance.random() < 0.1:
                gone = chance.choice(list(submitted))
                await client.say(m.Cancel(n, [gone], ""))
                (state,) = (await client.hear(m.Answer)).body
                if state == JobState.CANCELLED:
                    cancelled.add(gone)
                elif state == JobState.CANCELLING:
                    stopping.add(gone)

    async with (
        open_house(settings, lambda: OneAtATime(seed)) as house,
        house.client().connected() as client,
        house.worker("a").connected(**LISTENING) as a,
        house.worker("b").connected(**LISTENING) as b,
        trio.open_nursery() as nursery,
    ):
        for worker in (a, b):
            nursery.start_soon(work, worker)
        async with trio.open_nursery() as busy:
            for worker in (a, b):
                busy.start_soon(wander, worker)
            busy.start_soon(submit, client)
        for worker in (a, b):
            await worker.say(m.Announce([{"name": name} for name in tasks]), m.Capacity(3, 0))
        with trio.fail_after(600):
            while len(ran.keys() | cancelled | stopping) < len(submitted):
                await trio.sleep(0.1)
        await trio.sleep(5)
        assert ran.keys() | cancelled | stopping == submitted.keys()
        assert not ran.keys() & (cancelled - stopping)
        assert set(ran.values()) == {1}
        core = house.core
        assert not core.by_id
        assert not core.by_seq
        for lane in core.lanes.by_number.values():
            assert (lane.held, lane.held_bytes, lane.stored) == (0, 0, 0)
            assert (lane.arriving, lane.spilling, lane.is_reading) == (0, 0, False)
        nursery.cancel_scope.cancel()
