"""A store that fails: it is full when it is opened again, some of it cannot be read, or it would be
given too much at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import pytest
import trio
import trio.lowlevel
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_windows import LISTENING, DiskLike, number, run_all

from creche.engine import journal
from creche.engine.settings import PlaneSettings
from creche.engine.space import JOB_BYTES
from creche.errors import (
    CrecheError,
    StoreError,
    StoreFull,
    StoreOverLimit,
    StoreUnavailable,
    StoreUnusable,
)
from creche.store.base import Batch, Retention
from creche.wire import messages as m

pytestmark = pytest.mark.trio


class Fragile(DiskLike):
    """A store whose process can be lost, and which may not be opened again at once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_lost = False
        self.why_not: Callable[[], StoreError | None] = lambda: None
        self.openings = 0

    async def lose(self, client: Peer) -> None:
        """Be gone at the next commit, and wait until that ends the client's connection."""
        self.is_lost = True
        await client.say(client.submit(999))
        await client.hears_the_end()

    async def open(self, now: float):
        self.openings += 1
        if (error := self.why_not()) is not None:
            await trio.lowlevel.checkpoint()
            raise error
        self.is_lost = False
        return await super().open(now)

    async def commit(self, batch: Batch):
        if self.is_lost:
            await self.aclose()
            raise StoreUnavailable("its process is gone")
        return await super().commit(batch)


@pytest.mark.parametrize(
    "error", [StoreFull("no space left"), StoreUnusable("disk I/O error"), StoreError("damaged")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_a_core_that_cannot_start_again_is_tried_until_it_can(autojump_clock, error):
    store = Fragile()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
        store.why_not = lambda: error if store.openings < 8 else None
        await store.lose(client)
        await trio.sleep(120)
        async with house.client().connected() as again:
            assert (await again.ask("health"))["jobs"] == {"parked": 1}
        assert store.openings == 8


async def test_tries_to_start_again_become_rarer(autojump_clock):
    store = Fragile()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        store.why_not = lambda: StoreFull("no space left") if store.openings > 1 else None
        await store.lose(client)
        await trio.sleep(1000)
        assert 100 <= store.openings <= 110


async def test_a_plane_whose_store_does_not_open_again_can_be_stopped(autojump_clock):
    store = Fragile()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        store.why_not = lambda: StoreUnavailable("gone") if store.openings > 1 else None
        await store.lose(client)
        await trio.sleep(5)
        house.stop.set()
        await trio.sleep(1)
        openings = store.openings
        await trio.sleep(600)
        assert store.openings == openings


class BadTail(DiskLike):
    """One lane's stored jobs cannot be read."""

    bad: int | None = None

    async def read_lane(self, lane: int, *args):
        if lane == self.bad:
            await trio.lowlevel.checkpoint()
            raise StoreError("disk I/O error")
        return await super().read_lane(lane, *args)


@pytest.mark.parametrize("where", [{"queue": "first", "priority": 3}, {"queue": "second"}])
async def test_a_tail_that_cannot_be_read_holds_up_its_own_lane_only(autojump_clock, where):
    store = BadTail()
    settings = PlaneSettings(window=2)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
    ):
        async with house.worker().connected(queues=["first", "second"]) as worker:
            await worker.ready("echo", slots=0)
            for i in range(6):
                await client.submitted(i, queue="first", priority=1)
            (level,) = [level for level in house.core.lanes.queues["first"] if level is not None]
            assert level.main is not None
            store.bad = level.main.number
            await client.submitted(100, **where)
            await worker.say(m.Capacity(1, 0))
            assert await run_all(worker, 3) == [0, 1, 100]
            await worker.hears_nothing(m.Offer, 30)
            store.bad = None
            assert await run_all(worker, 4) == [2, 3, 4, 5]


async def test_a_plane_starts_with_a_tail_that_cannot_be_read(autojump_clock):
    store = BadTail()
    settings = PlaneSettings(window=2)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(6):
            await client.submitted(i)
        (lane,) = (number for number in house.core.lanes.by_number)
        store.bad = lane
        await worker.say(m.Capacity(1, 0))
        assert await run_all(worker, 2) == [0, 1]
        await trio.sleep(1)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(queues=["default", "other"]) as worker,
    ):
        await worker.ready("echo", slots=1)
        await client.submitted(7, queue="other")
        assert await run_all(worker, 1) == [7]
        store.bad = None
        assert await run_all(worker, 4) == [2, 3, 4, 5]


class Measuring(DiskLike):
    """Notes how much it was given at a time, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def commit(self, batch: Batch):
        self.sizes.append(
            sum(len(job.payload) for job in batch.jobs)
            + sum(len(end.outcome or b"") for end in batch.ends)
        )
        await trio.sleep(0.1)
        return await super().commit(batch)


async def test_a_batch_is_bounded_in_bytes(autojump_clock, monkeypatch):
    monkeypatch.setattr(journal, "BATCH_BYTES", 10_000)
    store = Measuring()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=100)
        jobs = [client.submit(i, payload=b"x" * 3000, flags=m.WATCH) for i in range(40)]
        await client.say(*jobs)
        accepted: set[int] = set()
        while len(accepted) < 40:
            accepted.update((await client.hear(m.Accepted)).ns)
        offers = [await worker.hear(m.Offer) for _ in range(40)]
        assert [offer.id for offer in offers] == [job.id for job in jobs]
        for offer in offers:
            await worker.finish(offer, "y" * 4000)
        ended = {(await client.hear(m.Ended)).id for _ in range(40)}
        assert ended == {job.id for job in jobs}
        assert max(store.sizes) <= 10_000 + 4100
        assert (await client.ask("health"))["jobs"] == {"succeeded": 40}


async def test_a_full_disk_declines_what_waits_in_closed_batches_too(autojump_clock, monkeypatch):
    monkeypatch.setattr(journal, "BATCH_BYTES", 10_000)
    store = Measuring()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(99)
        store.is_full = True
        jobs = [client.submit(i, payload=b"x" * 3000) for i in range(40)]
        await client.say(*jobs)
        declined = {(await client.hear(m.Declined, 5)).n for _ in range(40)}
        assert declined == {job.n for job in jobs}
        store.is_full = False
        await trio.sleep(5)
        await client.say(client.submit(50, payload=b"x" * 3000))
        await client.hear(m.Accepted)
        assert sum((await client.ask("health"))["jobs"].values()) == 2


class SlowFind(DiskLike):
    """Answers and commits when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = trio.Event()
        self.may_commit = trio.Event()
        self.may_commit.set()

    async def find(self, ids):
        found = await super().find(ids)
        await self.may_answer.wait()
        return found

    async def commit(self, batch: Batch):
        await self.may_commit.wait()
        return await super().commit(batch)


async def test_a_stored_job_is_cancelled_though_its_id_is_submitted_again(autojump_clock):
    store = SlowFind()
    settings = PlaneSettings(window=2)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
    ):
        jobs = [await client.submitted(i) for i in range(6)]
        await client.say(m.Cancel(77, [jobs[5].id], ""))
        await trio.sleep(1)
        store.may_commit = trio.Event()
        await client.say(client.submit(5, id=jobs[5].id))
        await trio.sleep(1)
        store.may_answer.set()
        await trio.sleep(1)
        store.may_commit.set()
        assert (await client.hear(m.Answer)).body == [12]
        assert (await client.ask("health"))["jobs"] == {"parked": 5, "cancelled": 1}


async def ask_on_and_on(peer: Peer) -> None:
    """Ask questions, and read their answers, for as long as the connection lasts."""
    with suppress(CrecheError):
        async with peer.connected(), trio.open_nursery() as both:

            async def until_it_ends(step: Callable[[], Awaitable[object]]) -> None:
                with suppress(CrecheError):
                    while True:
                        await step()
                        peer.heard.clear()
                both.cancel_scope.cancel()

            both.start_soon(until_it_ends, partial(peer.say, m.Ask(1, "health", {})))
            both.start_soon(until_it_ends, partial(peer.hear, m.Answer))


# Which of the peers' Trio tasks is caught in the middle is a matter of luck.
@pytest.mark.parametrize("_", range(10))
async def test_a_core_that_loses_its_store_while_peers_talk_starts_again(autojump_clock, _):
    store = Fragile()
    async with open_house(make_store=lambda: store) as house:
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(ask_on_and_on, house.client(f"c{n}"))
            await trio.lowlevel.checkpoint()
            async with house.client().connected() as client:
                await client.submitted(1)
                await store.lose(client)
        await trio.sleep(5)
        async with house.client().connected() as again:
            assert (await again.ask("health"))["epoch"] == 2


class Counting(DiskLike):
    """Counts how often lanes are read."""

    reads = 0

    async def read_lane(self, *args):
        self.reads += 1
        return await super().read_lane(*args)


async def test_with_hardly_any_space_left_lanes_are_not_read_for_each_job(autojump_clock):
    store = Counting()
    queues = [f"q{n}" for n in range(20)]
    async with (
        open_house(PlaneSettings(windows_bytes=100_000), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(queues=queues) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(600):
            await client.submitted(i, queue=queues[i // 30])
        store.reads = 0
        await worker.say(m.Capacity(1, 0))
        assert await run_all(worker, 600) == list(range(600))
        assert store.reads < 300


class GatedFind(DiskLike):
    """Takes as long to look for jobs as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_look = trio.Event()
        self.may_look.set()

    async def find(self, ids):
        await self.may_look.wait()
        return await super().find(ids)


async def test_a_job_that_ends_while_another_is_looked_for_is_known_to_a_cancel(autojump_clock):
    store = GatedFind()
    async with (
        open_house(PlaneSettings(window=1), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        running = await client.submitted(1)
        offer = await worker.hear(m.Offer)
        await client.submitted(2)
        stored = await client.submitted(3)
        store.may_look = trio.Event()
        await client.say(m.Cancel(77, [running.id, stored.id], ""))
        await trio.sleep(0.1)
        await worker.say(m.Capacity(0, 0))
        await worker.finish(offer, 1)
        await worker.hear(m.Settled)
        store.may_look.set()
        assert (await client.hear(m.Answer)).body == [10, 12]


class GatedOutcomes(DiskLike):
    """Takes as long to look for outcomes as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_look = trio.Event()

    async def outcomes(self, ids, max_bytes=None):
        await self.may_look.wait()
        return await super().outcomes(ids, max_bytes)


async def test_a_job_that_comes_to_the_disk_while_its_end_is_looked_for_is_cancelled(
    autojump_clock,
):
    store = GatedOutcomes()
    async with (
        open_house(PlaneSettings(window=1), lambda: store) as house,
        house.client().connected() as client,
    ):
        await client.submitted(1)
        coming = client.submit(2)
        await client.say(m.Cancel(77, [coming.id], ""))
        await trio.sleep(0.1)
        await client.say(coming)
        assert (await client.hear(m.Accepted)).ns == [coming.n]
        assert coming.id not in house.core.by_id
        store.may_look.set()
        assert (await client.hear(m.Answer)).body == [12]


async def leave(house: House, worker: AbstractAsyncContextManager[Peer]) -> None:
    """Have a worker come that knows another task, and be gone for good: what waits for its queue
    is parked, and stays so."""
    async with worker as peer:
        await peer.ready("other", slots=1)
        await trio.sleep(1)
    await trio.sleep(house.core.settings.grace_s + 1)


async def test_a_job_that_goes_to_the_disk_while_another_is_looked_for_is_cancelled(
    autojump_clock,
):
    store = GatedFind()
    async with (
        open_house(PlaneSettings(window=2), lambda: store) as house,
        house.client().connected() as client,
        house.worker("b").connected(**LISTENING) as knowing,
    ):
        await knowing.ready("echo", slots=0)
        for i in range(10):
            await client.submitted(i)
        await leave(house, house.worker("a").connected(**LISTENING))
        await knowing.say(m.Ping(1))
        jobs = [await client.submitted(i) for i in (100, 101)]
        store.may_look = trio.Event()
        unknown = client.submit(999).id
        await client.say(m.Cancel(77, [unknown, *(job.id for job in jobs)], ""))
        await trio.sleep(0.1)
        async with house.worker("a2").connected(**LISTENING) as other:
            await other.ready("other", slots=1)
            await trio.sleep(1)
            store.may_look.set()
            assert (await client.hear(m.Answer)).body == [None, 12, 12]


async def test_a_parked_lane_that_cannot_be_read_takes_no_more_into_memory_than_its_window(
    autojump_clock,
):
    store = BadTail()
    async with (
        open_house(PlaneSettings(window=10), lambda: store) as house,
        house.client().connected() as client,
        house.worker("b").connected(**LISTENING) as knowing,
    ):
        await knowing.ready("echo", slots=0)
        for i in range(100):
            await client.submitted(i)
        await leave(house, house.worker("a").connected(**LISTENING))
        for i in range(100, 400):
            await client.submitted(i)
        (parked,) = [lane for lane in house.core.lanes.by_number.values() if lane.park]
        store.bad = parked.number
        await knowing.say(m.Ping(1), m.Capacity(1, 0))
        ran = await run_all(knowing, 10)
        await knowing.say(m.Capacity(0, 0))
        async with house.worker("a2").connected(**LISTENING) as other:
            await other.ready("other", slots=1)
            await trio.sleep(20)
            assert len(house.core.by_seq) <= 30
            store.bad = None
            await knowing.say(m.Ping(2), m.Capacity(1, 0))
            ran += await run_all(knowing, 390)
        assert sorted(ran) == list(range(400))


async def test_lanes_that_no_listener_can_take_from_hold_no_more_than_there_is_space(
    autojump_clock,
):
    settings = PlaneSettings(windows_bytes=10_000, window_bytes=10_000)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        for i in range(50):
            await client.submitted(i, task=f"t{i}", payload=b"x" * 5000)
        await trio.sleep(1)
        assert house.core.lanes.space.held_bytes <= 10_000 + 5000 + JOB_BYTES


async def test_jobs_without_arguments_count_towards_the_space_too(autojump_clock):
    settings = PlaneSettings(windows_bytes=100 * JOB_BYTES)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        for i in range(500):
            await client.submitted(i, queue=f"q{i % 5}", payload=b"")
        assert len(house.core.by_id) <= 101


async def test_many_lanes_are_no_way_round_the_bound_of_one(autojump_clock):
    settings = PlaneSettings(window_bytes=1000, windows_bytes=5000)
    queues = [f"q{n}" for n in range(50)]
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(queues=queues) as worker,
    ):
        await worker.ready("echo", slots=0)
        jobs = [
            await client.submitted(i, queue=queues[i // 4], payload=b"x" * 400) for i in range(200)
        ]
        held = sum(
            lane.held_bytes + lane.held * JOB_BYTES for lane in house.core.lanes.by_number.values()
        )
        # Somebody listens to each of them, so each may hold one more.
        assert held == house.core.lanes.space.held_bytes <= 5000 + 50 * (400 + JOB_BYTES)
        await worker.say(m.Capacity(1, 0))
        order = []
        for _ in range(200):
            offer = await worker.hear(m.Offer)
            order.append(offer.id)
            await worker.finish(offer)
        assert order == [job.id for job in jobs]
        assert house.core.lanes.space.held_bytes == 0


async def test_queues_that_nobody_listens_to_hold_no_more_than_there_is_space(autojump_clock):
    settings = PlaneSettings(window_bytes=1000, windows_bytes=5000)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
    ):
        for i in range(200):
            await client.submitted(i, task="echo", queue=f"q{i // 4}", payload=b"x" * 400)
        assert house.core.lanes.space.held_bytes <= 5400 + JOB_BYTES
        async with house.worker().connected(queues=["q49"]) as worker:
            await worker.ready("echo", slots=1)
            for _ in range(4):
                offer = await worker.hear(m.Offer)
                await worker.finish(offer)


async def test_in_memory_a_lane_that_nobody_empties_does_not_hold_up_the_others(autojump_clock):
    settings = PlaneSettings(windows_bytes=2 * (400 + JOB_BYTES) + 1)
    async with open_house(settings) as house, house.client().connected() as client:
        for i in range(3):
            await client.submitted(i, queue="nobody's", payload=b"x" * 400)
        await client.say(client.submit(3, queue="nobody's"))
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            for i in range(4, 8):
                await client.submitted(i)
                assert number(await worker.hear(m.Offer)) == i
                await worker.say(m.Capacity(i, 0))
        await client.hears_nothing(m.Accepted, 5)


async def test_of_many_lanes_none_is_forgotten_at_a_start(autojump_clock):
    """What finds no space while the plane recovers, or cannot be read then, is read later."""
    store = BadTail()
    queues = [f"q{n}" for n in range(6)]
    # With hardly any space, all but the first job are stored.
    tight = PlaneSettings(window=4, windows_bytes=1)
    async with open_house(tight, lambda: store) as house, house.client().connected() as client:
        for i in range(60):
            await client.submitted(i, queue=queues[i // 10], payload=b"x" * 400)
        store.bad = next(
            lane.number for lane in house.core.lanes.by_number.values() if lane.queue == "q2"
        )
    settings = PlaneSettings(window=4, windows_bytes=7 * (400 + JOB_BYTES))
    async with open_house(settings, lambda: store) as house:
        async with house.worker().connected(queues=queues) as worker:
            await worker.ready("echo", slots=1)
            ran = []
            for n in range(60):
                if n == 45:
                    store.bad = None
                offer = await worker.hear(m.Offer, 30)
                ran.append(offer.seq)
                await worker.finish(offer)
        assert sorted(ran) == list(range(1, 61))


async def test_lanes_that_are_read_back_together_keep_to_the_space_too(autojump_clock):
    settings = PlaneSettings(window=50, window_bytes=20_000, windows_bytes=20_000)
    queues = [f"q{n}" for n in range(20)]
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(queues=["q0"]) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(400):
            await client.submitted(i, queue=queues[i // 20], payload=b"x" * 1000)
        await worker.say(m.Capacity(1, 0))
        most = 0
        for _ in range(20):
            offer = await worker.hear(m.Offer)
            await worker.finish(offer)
            await trio.sleep(0.1)
            most = max(most, house.core.lanes.space.held_bytes)
        # One job goes over it, and so does one of the lane that somebody empties.
        assert most <= 20_000 + 2 * (1000 + JOB_BYTES)


class OverLimit(DiskLike):
    """A file that is as large as it may be: new jobs are refused, and the rest goes on."""

    has_grown = False

    async def commit(self, batch: Batch):
        if self.has_grown and batch.jobs:
            await trio.lowlevel.checkpoint()
            raise StoreOverLimit("the file is over its limit")
        return await super().commit(batch)


async def test_a_file_over_its_limit_refuses_what_is_new_and_holds_nothing_up(autojump_clock):
    store = OverLimit()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(10):
            await client.submitted(i)
        store.has_grown = True
        await worker.say(m.Capacity(1, 0))
        began_at = trio.current_time()
        for i in range(10):
            refused = client.submit(100 + i)
            await client.say(refused)
            declined = await client.hear(m.Declined)
            assert (declined.n, declined.code) == (refused.n, "store-full")
            assert (await client.ask("health"))["failing"] == "the file is over its limit"
            await run_all(worker, 1)
        assert trio.current_time() - began_at < 0.5, "virtual seconds: nothing waits for a disk"
        store.has_grown = False
        await client.submitted(200)
        assert (await client.ask("health"))["failing"] is None


async def test_a_file_over_its_limit_is_thought_well_again_when_results_were_let_go_of(
    autojump_clock,
):
    store = OverLimit()
    settings = PlaneSettings(retention=Retention(None, None, max_age_s=100.0))
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
    ):
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.submitted(1)
            await run_all(worker, 1)
        store.has_grown = True
        await client.say(client.submit(2))
        assert (await client.hear(m.Declined)).code == "store-full"
        # Who asks before sending anything would never send anything.
        for _ in range(20):
            await trio.sleep(10)
            await client.say(m.Ping(1))
        assert (await client.ask("health"))["failing"] is None
