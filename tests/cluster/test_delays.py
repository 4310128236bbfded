"""Jobs that wait for their time: in memory, in the store, over restarts, and cancelled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.lowlevel
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_windows import LISTENING, DiskLike, number

from creche.engine import delays
from creche.engine.settings import PlaneSettings
from creche.engine.space import JOB_BYTES
from creche.engine.timers import LOOK_S
from creche.errors import StoreError
from creche.model.job import JobState
from creche.store.memory import MemoryStore
from creche.testing.cluster import wall_clock
from creche.wire import messages as m

pytestmark = pytest.mark.trio


def patient(**more: Any) -> PlaneSettings:
    """A plane that lets its scripted peers be silent for long."""
    return PlaneSettings(grace_s=10_000, lease_s=20_000, **more)


async def submitted_later(client: Peer, i: int, delay_s: float, **more: Any) -> m.Submit:
    """Submit job *i* to be run in *delay_s* seconds."""
    return await client.submitted(i, options={"delay_s": delay_s}, **more)


async def arrivals(worker: Peer, count: int) -> list[tuple[int, float]]:
    """Run *count* jobs; return what came, and when."""
    came = []
    for _ in range(count):
        offer = await worker.hear(m.Offer, 1000)
        came.append((number(offer), round(trio.current_time(), 1)))
        await worker.finish(offer)
    return came


async def ran(worker: Peer, count: int) -> list[int]:
    """Run *count* jobs, however long that takes; return their arguments in order."""
    return [n for n, _ in await arrivals(worker, count)]


@pytest.mark.parametrize("store", [MemoryStore, DiskLike])
async def test_a_delayed_job_runs_at_its_time_and_blocks_nobody(autojump_clock, store):
    async with (
        open_house(patient(), store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        began_at = trio.current_time()
        job = await submitted_later(client, 1, 60.0)
        await submitted_later(client, 2, 30.0)
        await client.submitted(3, options={"due_at": wall_clock() + 45.0})
        await client.submitted(4)
        record = await client.ask("job", id=job.id)
        assert record["state"] == "delayed"
        assert record["due_at"] == pytest.approx(wall_clock() + 60.0, abs=1)
        (queue,) = (await client.ask("queues"))["queues"]
        assert [lane["delayed"] for lane in queue["lanes"]] == [3]
        assert (await client.ask("health"))["jobs"]["delayed"] == 3
        came = [(n, at - began_at) for n, at in await arrivals(worker, 4)]
        assert came == [(4, 0), (2, 30), (3, 45), (1, 60)]
        await trio.sleep(1)
        assert house.core.delays.held == house.core.delays.stored == 0
        assert house.core.lanes.space.held_bytes == 0


async def test_a_moment_that_has_passed_is_now(autojump_clock):
    async with open_house(patient()) as house, house.client().connected() as client:
        job = await client.submitted(1, options={"due_at": wall_clock() - 5})
        await client.submitted(2, options={"delay_s": 0})
        assert (await client.ask("job", id=job.id))["state"] == "parked"
        assert (await client.ask("health"))["jobs"] == {"parked": 2}


@pytest.mark.parametrize(
    "options",
    [
        {"delay_s": -1}, {"delay_s": "soon"}, {"delay_s": float("nan")}, {"delay_s": True},
        {"delay_s": 366 * 24 * 3600 + 1}, {"due_at": -1.0}, {"due_at": 1e30}, {"due_at": "now"},
        {"delay_s": 1, "due_at": 1}, {"retry": 5}, {"retry": {"retries": -1}},
        {"retry": {"tries": 1}},
    ],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_time_and_no_policy_is_declined(autojump_clock, options):
    async with open_house(patient()) as house, house.client().connected() as client:
        await client.say(client.submit(1, options=options))
        assert (await client.hear(m.Declined)).code in ("bad-delay", "bad-retry")
        await client.submitted(2)


async def test_what_has_no_room_in_memory_waits_in_the_store(autojump_clock):
    settings = patient(delays=10)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        began_at = trio.current_time()
        # The later ones first, so that those in the store come between those in memory.
        for i in reversed(range(100)):
            await submitted_later(client, i, 20.0 + i / 4)
        assert (house.core.delays.held, house.core.delays.stored) == (10, 90)
        assert len(house.core.by_id) == 10
        came = await arrivals(worker, 100)
        assert [n for n, _ in came] == list(range(100))
        for n, at in came:
            assert at - began_at == pytest.approx(20.0 + n / 4, abs=0.2)
        await trio.sleep(1)
        assert house.core.delays.held == house.core.delays.stored == len(house.core.by_id) == 0


async def test_very_many_that_are_due_together_come_in_order_and_by_windows(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(delays, "PIECE_JOBS", 7)
    settings = patient(delays=5, window=10)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(200):
            await client.submitted(i, options={"due_at": wall_clock() + 100 - trio.current_time()})
        await trio.sleep(200)
        assert len(house.core.by_id) <= 40
        await worker.say(m.Ping(1), m.Capacity(1, 0))
        assert sorted(await ran(worker, 200)) == list(range(200))


async def test_delayed_jobs_outlive_a_restart_in_memory_and_in_the_store(autojump_clock):
    store = DiskLike()
    settings = patient(delays=3)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        for i in range(6):
            await submitted_later(client, i, 100.0 + 10 * i)
        began_at = trio.current_time()
    await trio.sleep(105)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        assert house.core.delays.held + house.core.delays.stored >= 5
        await worker.ready("echo", slots=1)
        came = [(n, at - began_at) for n, at in await arrivals(worker, 6)]
        assert came[0][0] == 0
        assert came[1:] == [(i, 100.0 + 10 * i) for i in range(1, 6)]
        await worker.hears_nothing(m.Offer, 100)
        assert (await client.ask("health"))["jobs"] == {"succeeded": 6}


@pytest.mark.parametrize("room", [1, 100])
async def test_a_delayed_job_is_cancelled_wherever_it_waits(autojump_clock, room):
    store = DiskLike()
    settings = patient(delays=room)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        jobs = [await submitted_later(client, i, 100.0 + i) for i in range(5)]
        await client.say(m.Cancel(7, [job.id for job in jobs[:4]], "no need any more"))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED] * 4
        assert await ran(worker, 1) == [4]
        await worker.hears_nothing(m.Offer, 200)
        assert house.core.delays.held == house.core.delays.stored == 0
        assert house.core.lanes.space.held_bytes == 0


async def test_a_lane_whose_jobs_are_delayed_is_not_let_go_of(autojump_clock):
    settings = patient(lanes=3)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(queues=["mail"]) as worker,
    ):
        await worker.ready("echo", slots=1)
        await submitted_later(client, 1, 100.0, queue="mail")
        for i in range(20):
            other = await client.submitted(2 + i, queue=f"q{i}")
            await client.say(m.Cancel(7, [other.id], ""))
            await client.hear(m.Answer)
            await trio.sleep(2)
        assert await ran(worker, 1) == [1]


async def test_where_there_is_no_disk_what_is_delayed_takes_up_room(autojump_clock):
    settings = patient(window=3)
    async with (
        open_house(settings) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        for i in range(3):
            await submitted_later(client, i, 100.0)
        await client.say(client.submit(3))
        await client.hears_nothing(m.Accepted, 50)
        assert sorted(await ran(worker, 4)) == [0, 1, 2, 3]
        await client.hear(m.Accepted)


class Unreadable(DiskLike):
    """Delayed jobs cannot be read for a while."""

    is_bad = False

    async def read_due(self, *args):
        if self.is_bad:
            await trio.lowlevel.checkpoint()
            raise StoreError("disk I/O error")
        return await super().read_due(*args)


async def test_delayed_jobs_that_cannot_be_read_are_late_and_hold_up_nobody(autojump_clock):
    store = Unreadable()
    settings = patient(delays=1)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        for i in range(4):
            await submitted_later(client, i, 50.0)
        store.is_bad = True
        await trio.sleep(60)
        await client.submitted(9)
        assert await ran(worker, 2) == [0, 9]
        await worker.hears_nothing(m.Offer, 30)
        store.is_bad = False
        assert await ran(worker, 3) == [1, 2, 3]


async def test_a_clock_that_is_set_forward_is_noticed(autojump_clock, monkeypatch):
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        await submitted_later(client, 1, 7200.0)
        await trio.sleep(10)
        house.core.now = lambda: wall_clock() + 7200.0
        set_at = trio.current_time()
        offer = await worker.hear(m.Offer, 40)
        assert trio.current_time() - set_at <= LOOK_S
        await worker.finish(offer)
        assert (await worker.hear(m.Settled)).ns == [1]


class SlowReads(DiskLike):
    """Its answers may come later than those to what it was asked afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = lambda until: False
        self.asked, self.may_answer = trio.Event(), trio.Event()

    async def read_due(self, after, until, *args):
        rows = await super().read_due(after, until, *args)
        if self.is_slow(until) and not self.may_answer.is_set():
            self.asked.set()
            await self.may_answer.wait()
        return rows


@pytest.mark.parametrize("delay_s", [0.9, 60.0])
@pytest.mark.parametrize("what", ["what is due soon", "what is due next"])
async def test_what_comes_to_the_store_while_it_is_read_is_not_forgotten(
    autojump_clock, monkeypatch, what, delay_s
):
    monkeypatch.setattr(delays, "HOLD_S", 1e9)
    store = SlowReads()
    store.is_slow = lambda until: (until == math.inf) == (what == "what is due next")
    async with (
        open_house(patient(delays=1), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        first = await submitted_later(client, 1, 100_000.0)
        await submitted_later(client, 2, 10.0)
        await store.asked.wait()
        await submitted_later(client, 3, delay_s)
        await client.say(m.Cancel(7, [first.id], ""))
        await client.hear(m.Answer)
        store.may_answer.set()
        assert sorted(await ran(worker, 2)) == [2, 3]
        assert house.core.delays.held == house.core.delays.stored == 0


async def test_a_delayed_job_whose_id_is_submitted_again_while_it_is_read_runs_once(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(delays, "HOLD_S", 1e9)
    store = SlowReads()
    async with (
        open_house(patient(delays=1), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        await submitted_later(client, 1, 100_000.0)
        job = await submitted_later(client, 2, 10.0)
        # There is no room for it ahead of its time: it is read when that has come.
        await trio.sleep(9.5)
        store.is_slow = lambda until: until < math.inf
        await store.asked.wait()
        commit = store.commit

        async def take_time(batch):
            found = await commit(batch)
            await trio.sleep(0.5)
            return found

        store.commit = take_time
        await client.say(job._replace(n=99))
        await trio.sleep(0.1)
        store.may_answer.set()
        assert await ran(worker, 1) == [2]
        await worker.hears_nothing(m.Offer, 100)


async def test_what_is_due_tomorrow_takes_no_room_from_what_is_due_today(autojump_clock):
    settings = patient(delays=100, windows_bytes=100_000)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        for i in range(50):
            await submitted_later(client, i, 86_400.0, payload=b"x" * 2000)
            await submitted_later(client, 100 + i, 50.0, payload=b"x" * 2000)
        held = house.core.delays.held
        assert 0 < held * (2000 + JOB_BYTES) <= 100_000 / 4 + 2000 + JOB_BYTES
        assert house.core.delays.stored == 100 - held
        for i in range(200, 220):
            await client.submitted(i)
        (lane,) = house.core.lanes.by_number.values()
        assert lane.held == 20


async def test_where_there_is_no_disk_delayed_jobs_are_bounded_in_bytes_too(autojump_clock):
    settings = patient(windows_bytes=20_000, window_bytes=20_000)
    async with open_house(settings) as house, house.client().connected() as client:
        jobs = [
            client.submit(i, options={"delay_s": 5000.0}, payload=b"x" * 5000) for i in range(20)
        ]
        await client.say(*jobs)
        await trio.sleep(10)
        assert house.core.lanes.space.held_bytes <= 20_000 + 5000 + JOB_BYTES


async def test_timers_that_nothing_comes_of_are_not_kept(autojump_clock):
    async with open_house(patient()) as house, house.client().connected() as client:
        for i in range(2000):
            await submitted_later(client, i, 50.0 - i / 100)
        assert len(house.core.timers) < 200


@pytest.mark.parametrize("store", [MemoryStore, DiskLike])
async def test_a_job_whose_time_has_come_waits_for_no_disk(autojump_clock, store):
    """Most are written once then, as ended; and one that a slow disk has not heard of runs."""

    class Slow(store):
        may_commit = trio.Event()
        changes = 0

        async def commit(self, batch):
            await self.may_commit.wait()
            Slow.changes += len(batch.changes)
            return await super().commit(batch)

    Slow.may_commit.set()
    async with (
        open_house(patient(), Slow) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await submitted_later(client, 1, 60.0)
        Slow.may_commit = trio.Event()
        offer = await worker.hear(m.Offer)
        await worker.finish(offer)
        await trio.lowlevel.checkpoint()
        Slow.may_commit.set()
        await worker.hear(m.Settled)
        assert (await client.ask("health"))["jobs"] == {"succeeded": 1}
        assert Slow.changes <= 1


async def test_an_attempt_at_a_job_that_was_due_is_adopted_after_a_crash(autojump_clock):
    """The disk knows it as delayed still, and the clock says that its time has come."""
    store = DiskLike()
    async with open_house(patient(), lambda: store) as house:
        async with house.client().connected() as client:
            job = await submitted_later(client, 1, 5.0)
    await trio.sleep(6)
    async with open_house(patient(), lambda: store) as house:
        async with house.client().connected() as client:
            worker = house.worker()
            async with worker.connected(**LISTENING, held=[[1, 1, 1]]):
                await worker.ready("echo")
                await worker.hears_nothing(m.Offer, 5)
                await client.say(m.Watch([job.id]))
                await worker.finish(m.Offer(1, 1, 1, job.id, "echo", 2, b"", None), "adopted")
                assert (await client.hear(m.Ended)).id == job.id
        assert house.core.delays.held == 0


async def test_what_came_due_while_the_plane_was_away_finds_room_in_the_window(autojump_clock):
    store = DiskLike()
    settings = patient(window=2)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        for i in range(8):
            await submitted_later(client, i, 5.0 + i / 10)
    await trio.sleep(60)
    async with (
        open_house(settings, lambda: store) as house,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        assert sorted(await ran(worker, 8)) == list(range(8))
        await trio.sleep(1)
        assert not house.core.by_seq
        assert (house.core.delays.held, house.core.delays.stored) == (0, 0)


async def test_of_very_many_with_a_moment_each_some_go_together_and_none_too_early(autojump_clock):
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1000)
        due_at = {n: wall_clock() + 10 + n / 5000 for n in range(500)}
        for n, moment in due_at.items():
            await client.say(client.submit(n, options={"due_at": moment}))
        came: dict[int, float] = {}
        while len(came) < len(due_at):
            offer = await worker.hear(m.Offer, 1000)
            came[number(offer)] = wall_clock()
        late = [came[n] - moment for n, moment in due_at.items()]
        assert min(late) >= -1e-6
        assert max(late) <= delays.LET_GO_S + 1e-6
        # 0.1 s has 20 times LET_GO_S.
        assert len(set(came.values())) <= 21 * (delays.LET_GO_TIMES + 1)
        # One that is due alone goes at once.
        await submitted_later(client, 1000, 5.0)
        at = wall_clock()
        await worker.hear(m.Offer, 10)
        assert wall_clock() - at == pytest.approx(5.0, abs=1e-6)
