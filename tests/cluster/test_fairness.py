"""`--fairness N`: what is less urgent passes once when N have overtaken it, whatever held it up."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_limits import announce, declared, offered
from tests.cluster.test_windows import LISTENING

from creche.engine.expiries import Expiries
from creche.engine.settings import PlaneSettings
from creche.model.flow import Flow, Key, Rate
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import encode_call

pytestmark = pytest.mark.trio
LOW = 1000
FREE = 2000
WARM_UPS = 60


async def hand_back(worker: Peer, *offers: m.Offer) -> None:
    await worker.say(m.HandBack([[o.seq, o.epoch, o.attempt] for o in offers]))


def overtakers(order: list[int], low: int = LOW) -> int:
    """Return how many others began before the one that is less urgent; *order* begins when it was
    submitted."""
    assert low in order, f"{len(order)} others have overtaken it"
    return order.index(low)


# --- whose turn it is ---------------------------------------------------------------------------


async def test_of_several_priorities_each_has_its_turn(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            for n in range(20):
                for priority in range(4):
                    await client.submitted(100 * priority + n, priority=priority)
            await announce(worker, declared(), slots=1)
            order = []
            for _ in range(24):
                (offer,) = await offered(worker)
                order.append(offer.priority)
                await worker.finish(offer, run_us=10_000_000)
            assert order == [0, 0, 0, 1, 2, 3] * 4


async def test_one_that_passes_has_overtaken_those_below(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            for n in range(10):
                await client.submitted(n, priority=0)
                await client.submitted(100 + n, priority=1)
            await announce(worker, declared(), slots=1)
            order = []
            for n in range(7):
                (offer,) = await offered(worker)
                order.append(offer.priority)
                if n == 2:
                    await client.submitted(LOW, priority=3)
                await worker.finish(offer, run_us=10_000_000)
            assert order == [0, 0, 0, 1, 0, 0, 3]


async def test_one_whose_time_is_up_takes_nobodys_turn_and_overtakes_nobody(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(Expiries, "_arm", lambda self: None)
    hasty = {"options": {"limits": {"expires_s": 5.0}}}
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            for n in range(5):
                await client.submitted(n, priority=0, **hasty)
                await client.submitted(10 + n, priority=1)
                await client.submitted(20 + n, priority=3, **hasty)
            low = await client.submitted(LOW, priority=3)
            await trio.sleep(10)
            await announce(worker, declared(), slots=1)
            order = []
            for _ in range(6):
                (offer,) = await offered(worker)
                order.append(offer.priority)
                if offer.priority == 3:
                    assert offer.id == low.id
                await worker.finish(offer, run_us=10_000_000)
            assert order == [1, 1, 1, 3, 1, 1]


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow",
    [Flow(limit=1), Flow(limit=1, key=Key("user", 0)), Flow(rate=Rate(1, 1.0)),
     Flow(limit=1, rate=Rate(1, 1.0))],
    ids=["limit", "limit by key", "rate", "both"],
)  # fmt: skip
async def test_one_that_waits_for_a_limit_passes_when_so_many_have_overtaken_it(
    autojump_clock, flow
):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(flow))
            ann = encode_call(["ann"], {})
            for n in range(4):
                await client.submitted(n, priority=1, payload=ann)
            running = await offered(worker)
            low = await client.submitted(LOW, priority=3, payload=ann)
            order: list[int] = []
            for n in range(4, 40):
                await client.submitted(n, priority=1, payload=ann)
                for offer in running:
                    await worker.finish(offer)
                running = await offered(worker, 1.0)
                order += [LOW if offer.id == low.id else n for offer in running]
            assert overtakers(order) <= 3


async def test_one_that_waits_for_a_limit_passes_though_others_as_urgent_pass_meanwhile(
    autojump_clock,
):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)), declared(name="free"))
            for n in range(4):
                await client.submitted(n, priority=1)
            running = await offered(worker)
            low = await client.submitted(LOW, priority=3)
            order: list[int] = []
            for n in range(4, 40):
                await client.submitted(n, priority=1)
                await client.submitted(FREE + n, priority=3, task="free")
                for offer in running:
                    await worker.finish(offer)
                running = await offered(worker, 1.0)
                order += [
                    LOW if offer.id == low.id else n for offer in running if offer.task != "free"
                ]
            assert overtakers(order) <= 3


async def test_one_whose_turn_it_was_at_a_limit_has_it_again_when_it_is_handed_back(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)), declared(name="free"))
            for n in range(9):
                await client.submitted(n, priority=1)
            (running,) = await offered(worker)
            low = await client.submitted(LOW, priority=3)
            for n in range(4):
                await client.submitted(FREE + n, priority=3, task="free")
                await worker.finish(running)
                running = next(o for o in await offered(worker, 1.0) if o.task != "free")
            for _ in range(3):
                assert (running.id, running.options) == (low.id, {"let_pass": True})
                # Until that is on disk it is in nobody's way.
                await hand_back(worker, running)
                (meanwhile,) = await offered(worker)
                await worker.finish(meanwhile)
                (running,) = await offered(worker)


async def test_one_that_waits_for_its_queue_passes_when_so_many_have_overtaken_it(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(queues=["other", "default"]) as worker:
            await announce(worker, declared())
            await client.ask("set-queue", queue="default", limit=1)
            for n in range(4):
                await client.submitted(n, priority=1)
            running = await offered(worker)
            low = await client.submitted(LOW, priority=3)
            order: list[int] = []
            for n in range(4, 20):
                await client.submitted(n, priority=1)
                await client.ask("set-queue", queue="default", limit=1, paused=True)
                for offer in running:
                    await worker.finish(offer)
                assert await offered(worker) == []
                await client.ask("set-queue", queue="default", limit=1, paused=False)
                running = await offered(worker)
                order += [LOW if offer.id == low.id else n for offer in running]
            assert overtakers(order) <= 3


# --- what was given ahead -----------------------------------------------------------------------


class Floor:
    """A worker's slots: the most urgent of what it has begins first."""

    def __init__(self, worker: Peer, slots: int) -> None:
        self.worker = worker
        self.slots = slots
        self.running: list[m.Offer] = []
        self.waiting: list[m.Offer] = []
        self.begun: list[m.Offer] = []

    async def take_in(self) -> None:
        self.waiting += await offered(self.worker)
        self._begin()

    async def finish_one(self) -> None:
        left = self.running.pop(0)
        self._begin()
        await self.worker.finish(left, run_us=100)
        await self.take_in()

    def _begin(self) -> None:
        self.waiting.sort(key=lambda o: (0 if o.options else o.priority, o.seq))
        while self.waiting and len(self.running) < self.slots:
            self.running.append(self.waiting.pop(0))
            self.begun.append(self.running[-1])


@pytest.mark.parametrize("slots", [1, 3])
async def test_one_that_was_given_ahead_of_the_slots_is_overtaken_by_so_many_at_most(
    autojump_clock, slots
):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(), slots=slots)
            await _measure(client, worker)
            floor = Floor(worker, slots)
            for n in range(slots):
                await client.submitted(n, priority=1)
            low = await client.submitted(LOW, priority=3)
            await floor.take_in()
            assert [offer.id for offer in floor.waiting] == [low.id]
            for n in range(slots, 20):
                await client.submitted(n, priority=1)
                await floor.take_in()
                await floor.finish_one()
            begun = [offer.id for offer in floor.begun]
            assert begun.index(low.id) == slots + 3
            # And others are given ahead as before.
            await client.submitted(100, priority=1)
            await floor.take_in()
            assert floor.waiting


async def test_one_that_has_begun_keeps_nothing_back(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(), slots=2)
            await _measure(client, worker)
            floor = Floor(worker, 2)
            for n in range(2):
                await client.submitted(n, priority=1)
            low = await client.submitted(LOW, priority=3)
            await floor.take_in()
            await floor.finish_one()
            assert floor.running[-1].id == low.id
            for n in range(2, 20):
                await client.submitted(n, priority=1)
                await floor.take_in()
                assert [offer.seq for offer in floor.waiting] == [WARM_UPS + 2 + n]
                floor.running.sort(key=lambda offer: offer.id == low.id)  # which goes on
                await floor.finish_one()


async def test_a_worker_that_gets_fewer_slots_is_not_sent_more_past_what_has_to_wait_then(
    autojump_clock,
):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(), slots=2)
            await _measure(client, worker)
            floor = Floor(worker, 1)
            await client.submitted(0, priority=1)
            low = await client.submitted(LOW, priority=3)
            await floor.take_in()
            await worker.say(m.Capacity(1, 0))
            for n in range(1, 20):
                await client.submitted(n, priority=1)
                await floor.take_in()
                await floor.finish_one()
            assert [offer.id for offer in floor.begun].index(low.id) == 4


async def test_one_that_is_handed_back_has_still_been_overtaken_by_those_before(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(), slots=1)
            await _measure(client, worker)
            await client.submitted(0, priority=1)
            low = await client.submitted(LOW, priority=3)
            running, waiting = await offered(worker)
            for n in range(1, 20):
                assert waiting.id == low.id
                await hand_back(worker, waiting)
                await client.submitted(n, priority=1)
                await worker.finish(running, run_us=100)
                running, waiting = await offered(worker)
                if running.id == low.id:
                    break
            assert n == 4
            assert running.options == {"let_pass": True}
            # And so it is when it comes back once more.
            await hand_back(worker, running)
            await client.submitted(100, priority=1)
            await worker.finish(waiting, run_us=100)
            first, _ = await offered(worker)
            assert (first.id, first.options) == (low.id, {"let_pass": True})


@pytest.mark.parametrize("run_s", [0.0005, 0.001, 0.005])
async def test_a_real_worker_begins_what_it_was_given_ahead_in_its_turn(autojump_clock, run_s):
    order: list[int] = []

    @task("work", registry=Registry())
    async def work(n: int) -> None:
        order.append(n)
        await trio.sleep(run_s)

    settings = PlaneSettings(fairness=10)
    async with open_cluster([work], concurrency=1, settings=settings) as cluster:
        async with cluster.client() as client:
            for _ in range(WARM_UPS):
                await (await client.submit(work, -1)).result()
            await trio.sleep(1)
            high, low = (work.with_options(priority=word) for word in ("high", "low"))
            await client.submit(high, 0)
            await client.submit(low, LOW)
            began = len(order)
            for n in range(200):
                await client.submit(high, n)
                if n > 4:
                    await trio.sleep(run_s)
            assert overtakers(order[began - 1 :]) <= 12


async def _measure(client: Peer, worker: Peer) -> None:
    """Have the plane learn that a run is short, so that it gives what fits into a few
    milliseconds ahead of the slots."""
    for n in range(WARM_UPS):
        await client.submitted(9000 + n)
        await worker.finish(await worker.hear(m.Offer), run_us=100)
