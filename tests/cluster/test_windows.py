"""What is beyond a lane's window waits in the store, and what has no store waits at its
submitter."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import Peer, open_house

from creche.engine import core
from creche.engine.settings import PlaneSettings
from creche.errors import StoreError, StoreFull
from creche.model.job import JobState
from creche.store.base import Batch, Durability
from creche.store.memory import MemoryStore
from creche.wire import messages as m
from creche.wire.payload import decode_value

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}


class DiskLike(MemoryStore):
    """Keeps what it is given, as a store on disk does: what is beyond the window is spilled."""

    durability = Durability.DISK
    is_full = False

    async def commit(self, batch: Batch):
        if self.is_full:
            await trio.lowlevel.checkpoint()
            raise StoreFull("no space left")
        return await super().commit(batch)


def number(offer: m.Offer) -> int:
    """The argument of an offered job."""
    return int(decode_value(offer.payload)[0][0])


async def run_all(worker: Peer, count: int) -> list[int]:
    """Run *count* jobs, each as soon as it is offered; return their arguments in order."""
    order = []
    for _ in range(count):
        offer = await worker.hear(m.Offer)
        order.append(number(offer))
        await worker.finish(offer, number(offer))
    return order


async def test_jobs_beyond_the_window_come_back_in_order(autojump_clock):
    settings = PlaneSettings(window=10)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        await client.say(*(client.submit(i) for i in range(205)))
        heard = 0
        while heard < 205:
            heard += len((await client.hear(m.Accepted)).ns)
        (queue,) = (await client.ask("queues"))["queues"]
        (lane,) = queue["lanes"]
        assert (lane["held"], lane["stored"], lane["window"]) == (10, 195, 10)
        assert lane["channel"]["current_buffer_used"] == 10
        assert len(house.core.by_id) == 10
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 205) == list(range(205))
        await trio.sleep(1)
        assert not house.core.by_id
        assert not house.core.by_seq


async def test_arrivals_join_the_tail_as_long_as_there_is_one(autojump_clock):
    settings = PlaneSettings(window=4)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        for i in range(10):
            await client.submitted(i)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            order = await run_all(worker, 3)
            for i in range(10, 16):
                await client.submitted(i)
                order += await run_all(worker, 1)
            order += await run_all(worker, 7)
            assert order == list(range(16))


async def test_the_window_is_bounded_in_bytes_too(autojump_clock):
    settings = PlaneSettings(window_bytes=1000)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        for i in range(8):
            await client.submitted(i, payload=b"x" * 400)
        (queue,) = (await client.ask("queues"))["queues"]
        assert (queue["lanes"][0]["held"], queue["lanes"][0]["stored"]) == (3, 5)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            for _ in range(8):
                await worker.finish(await worker.hear(m.Offer))


async def test_stored_jobs_survive_a_restart_in_order_and_the_window_is_filled_first(
    autojump_clock,
):
    store = DiskLike()
    settings = PlaneSettings(window=5)
    async with open_house(settings, lambda: store) as house:
        async with house.client().connected() as client:
            for i in range(40):
                await client.submitted(i, priority=i % 2)
    async with open_house(settings, lambda: store) as house:
        assert len(house.core.by_id) == 10
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            evens, odds = list(range(0, 40, 2)), list(range(1, 40, 2))
            assert await run_all(worker, 40) == evens + odds


async def test_a_stored_job_is_cancelled_watched_and_found(autojump_clock):
    settings = PlaneSettings(window=2)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        jobs = [await client.submitted(i) for i in range(6)]
        await client.say(m.Watch([jobs[4].id]), m.Cancel(77, [jobs[4].id, jobs[5].id], ""))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED] * 2
        assert (await client.hear(m.Ended)).state == JobState.CANCELLED
        await client.say(m.Watch([jobs[3].id]))
        again = await client.submitted(3, id=jobs[3].id, flags=m.RESENT)
        assert again.id == jobs[3].id
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 4) == [0, 1, 2, 3]
            assert (await client.hear(m.Ended)).id == jobs[3].id
            await worker.hears_nothing(m.Offer, 5)


async def test_parked_jobs_cost_memory_by_window_only(autojump_clock):
    settings = PlaneSettings(window=5)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        for i in range(50):
            await client.submitted(i, task="nobody")
        assert len(house.core.by_id) == 5
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("nobody", slots=1)
            assert await run_all(worker, 50) == list(range(50))


async def test_jobs_of_a_task_whose_workers_left_are_parked_without_filling_memory(autojump_clock):
    settings = PlaneSettings(window=5)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        async with house.worker("knows").connected(**LISTENING) as knows:
            await knows.ready("one", "two", slots=0)
            for i in range(40):
                await client.submitted(i, task="one")
            await client.submitted(99, task="two")
            await knows.say(m.Goodbye("bye"))
            await knows.hears_the_end()
        async with house.worker("other").connected(**LISTENING) as other:
            await other.ready("two", slots=1)
            assert number(await other.hear(m.Offer)) == 99
            assert len(house.core.by_id) <= 12
            async with house.worker("back").connected(**LISTENING) as back:
                await back.ready("one", slots=1)
                assert await run_all(back, 40) == list(range(40))


async def test_without_a_disk_a_full_lane_makes_the_submitter_wait(autojump_clock):
    settings = PlaneSettings(window=3)
    async with open_house(settings) as house, house.client().connected() as client:
        await client.say(*(client.submit(i) for i in range(5)))
        assert (await client.hear(m.Accepted)).ns == [1, 2, 3]
        await client.hears_nothing(m.Accepted, 5)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 5) == [0, 1, 2, 3, 4]


async def test_a_submission_that_waits_for_room_can_be_withdrawn(autojump_clock):
    settings = PlaneSettings(window=1)
    async with open_house(settings) as house, house.client().connected() as client:
        await client.submitted(0)
        waiting = client.submit(1)
        await client.say(waiting)
        await client.say(m.Cancel(5, [waiting.id], "the time is up"))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED]
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 1) == [0]
            await worker.hears_nothing(m.Offer, 5)
            await client.hears_nothing(m.Accepted, 1)


async def test_a_running_job_submits_past_a_full_lane_within_its_bound(autojump_clock):
    settings = PlaneSettings(window=1, max_children=2)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.submitted(0)
            offer = await worker.hear(m.Offer)
            parent = {"parent": [offer.seq, offer.epoch, offer.attempt]}
            await client.submitted(50)
            await worker.submitted(1, options=parent)
            await worker.submitted(2, options=parent)
            third = worker.submit(3, options=parent)
            await worker.say(third)
            assert (await worker.hear(m.Declined)).code == "scope-full"
            await worker.say(m.Capacity(1, 1))
            assert number(await worker.hear(m.Offer)) == 50
            await worker.finish(offer)
            late = worker.submit(4, options=parent)
            await worker.say(late)
            assert (await worker.hear(m.Declined)).code == "scope-closed"


async def test_a_full_disk_refuses_submissions_and_keeps_finished_work_until_there_is_room(
    autojump_clock,
):
    store = DiskLike()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.submitted(1, flags=m.WATCH)
            await client.submitted(2)
            offer = await worker.hear(m.Offer)
            await trio.sleep(1)
            store.is_full = True
            await client.say(client.submit(3))
            assert (await client.hear(m.Declined)).code == "store-full"
            n = await worker.finish(offer, "kept")
            await worker.hears_nothing(m.Settled, 5)
            await client.say(client.submit(3))
            declined = await client.hear(m.Declined)
            assert declined.code == "store-full"
            assert "no space left" in declined.why
            assert (await client.ask("health"))["failing"] == "no space left"
            await worker.hears_nothing(m.Offer, 5)
            store.is_full = False
            assert (await worker.hear(m.Settled)).ns == [n]
            assert decode_value((await client.hear(m.Ended)).outcome) == "kept"
            await run_all(worker, 1)
            await client.submitted(4)
            await run_all(worker, 1)


async def test_a_full_disk_is_given_no_job_to_try_it_with(autojump_clock):
    store = DiskLike()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(5):
            await client.submitted(i)
        await trio.sleep(1)
        store.is_full = True
        await client.say(client.submit(9))
        assert (await client.hear(m.Declined)).code == "store-full"
        await worker.say(m.Capacity(5, 0))
        await worker.hears_nothing(m.Offer, 10)
        assert (await client.ask("health"))["failing"] == "no space left"
        store.is_full = False
        await run_all(worker, 5)
        assert (await client.ask("health"))["failing"] is None


class FillingUp(DiskLike):
    """A disk that takes a while to find that it is full."""

    async def commit(self, batch: Batch):
        if self.is_full:
            await trio.sleep(0.05)
        return await super().commit(batch)


async def test_what_comes_while_a_commit_fails_is_declined_with_it(autojump_clock):
    store = FillingUp()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(0)
        store.is_full = True
        # The row of a new lane has to be written whatever becomes of the submission.
        await client.say(client.submit(1, queue="new"))
        await trio.sleep(0.01)
        late = client.submit(2)
        await client.say(late)
        declined = [await client.hear(m.Declined, 5) for _ in range(2)]
        assert [d.code for d in declined] == ["store-full"] * 2
        assert declined[1].n == late.n
        store.is_full = False
        await trio.sleep(3)
        assert (await client.ask("health"))["jobs"] == {"parked": 1}
        await client.submitted(2)


async def test_results_somebody_waits_for_are_not_pruned(autojump_clock):
    async with open_house() as house:
        away = house.client("away")
        async with house.client().connected() as client:
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                async with away.connected():
                    kept = await away.submitted(1, flags=m.WATCH)
                    await worker.finish(await worker.hear(m.Offer), "kept")
                    await away.hear(m.Ended)
                    for i in range(2, 52):
                        await client.submitted(i)
                        await worker.finish(await worker.hear(m.Offer), i)
                    for _ in range(100):
                        await trio.sleep(40)
                        for peer in (client, worker, away):
                            await peer.say(m.Ping(1))
                    counts = (await client.ask("health"))["jobs"]
                    assert counts == {"succeeded": 1, "forgotten": 50}
                    await away.say(away.received(1))
                    await trio.sleep(35)
                    counts = (await client.ask("health"))["jobs"]
                    assert counts == {"forgotten": 51}
                    assert kept.id


class Unreadable(DiskLike):
    """A store whose tails cannot be read for a while."""

    is_unreadable = False

    async def read_lane(self, lane: int, after_seq: int, max_jobs: int, max_bytes: int):
        if self.is_unreadable:
            await trio.lowlevel.checkpoint()
            raise StoreError("disk I/O error")
        return await super().read_lane(lane, after_seq, max_jobs, max_bytes)


async def test_a_tail_that_cannot_be_read_holds_up_its_own_lane_until_it_can(
    autojump_clock, caplog
):
    store = Unreadable()
    settings = PlaneSettings(window=2)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        for i in range(6):
            await client.submitted(i)
        store.is_unreadable = True
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await run_all(worker, 2)
            await worker.hears_nothing(m.Offer, 20)
            assert "jobs of queue default cannot be read back: disk I/O error" in caplog.text
            await client.submitted(7, queue="other")
            assert (await client.ask("health"))["ready"]
            store.is_unreadable = False
            assert await run_all(worker, 4) == [2, 3, 4, 5]
    caplog.clear()


async def test_many_jobs_are_cancelled_a_piece_at_a_time(autojump_clock, monkeypatch):
    monkeypatch.setattr(core, "CANCEL_AT_A_TIME", 3)
    async with open_house(PlaneSettings(window=4), DiskLike) as house:
        async with house.client().connected() as client:
            jobs = [await client.submitted(i) for i in range(10)]
            await client.say(m.Cancel(1, [*(job.id for job in jobs), b"x" * 16], "enough"))
            answer = await client.hear(m.Answer)
            assert answer.body == [int(JobState.CANCELLED)] * 10 + [None]
            assert (await client.ask("health"))["jobs"] == {"cancelled": 10}
