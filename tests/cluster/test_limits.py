"""Limits: how many jobs run at a time and how often they begin, wherever they run."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_delays import patient
from tests.cluster.test_windows import LISTENING, DiskLike

from creche.engine import dispatch, level, limits
from creche.engine.settings import PlaneSettings
from creche.model.flow import Flow, Key, Rate
from creche.model.job import JobState
from creche.wire import messages as m
from creche.wire.payload import decode_call, decode_value, encode_call

pytestmark = pytest.mark.trio
BY_USER = Key("user", 0)


def declared(flow: Flow | None = None, name: str = "echo"):
    return {"name": name} if flow is None else {"name": name, "flow": flow.as_data()}


async def announce(worker: Peer, *declarations, slots: int = 100) -> None:
    await worker.say(m.Announce(list(declarations)), m.Capacity(slots, 0))


async def submit_for(client: Peer, number: int, user, **changes) -> m.Submit:
    return await client.submitted(number, payload=encode_call([user], {}), **changes)


async def offered(worker: Peer, for_s: float = 0.1) -> list[m.Offer]:
    """Return what the worker is offered within a while."""
    offers = []
    while True:
        try:
            offers.append(await worker.hear(m.Offer, for_s))
        except trio.TooSlowError:
            return offers


def nothing_is_left(house: House) -> bool:
    core = house.core
    held = [
        (lane.key, lane.held, lane.stored, lane.delayed) for lane in core.lanes.by_number.values()
    ]
    assert not any(any(counts) for _, *counts in held), held
    assert not core.by_id
    assert not core.by_seq
    assert core.lanes.space.held_bytes == 0
    return True


async def test_as_many_jobs_of_a_task_run_as_it_says_and_others_pass(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with (
            house.worker("a").connected(**LISTENING) as a,
            house.worker("b").connected(**LISTENING) as b,
        ):
            for worker in (a, b):
                await announce(worker, declared(Flow(limit=2)), declared(name="free"))
            for n in range(6):
                await client.submitted(n)
            free = await client.submitted(99, task="free")
            offers = [(w, o) for w in (a, b) for o in await offered(w)]
            assert Counter(o.task for _, o in offers) == {"echo": 2, "free": 1}
            assert [o.id for _, o in offers if o.task == "free"] == [free.id]
            job = await client.ask("jobs", filter="state:parked")
            assert [row["parked"] for row in job["jobs"]] == ["limit:echo"] * 4
            done = []
            while offers:
                worker, offer = offers.pop(0)
                await worker.finish(offer)
                done.append(offer.seq if offer.task == "echo" else 0)
                offers += [(w, o) for w in (a, b) for o in await offered(w)]
                assert sum(o.task == "echo" for _, o in offers) <= 2
            assert sorted(done) == [0, 1, 2, 3, 4, 5, 6]
            assert nothing_is_left(house)


async def test_a_limit_by_key_holds_for_each_key_apart_and_is_told_from_the_arguments(
    autojump_clock,
):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, key=BY_USER)))
            for n, user in enumerate(["ann", "ann", "bob", "ann", "bob", 7, "7"]):
                await submit_for(client, n, user)
            first = await offered(worker)
            assert [o.seq for o in first] == [1, 3, 6]
            parked = (await client.ask("jobs", filter="state:parked"))["jobs"]
            assert sorted(row["parked"] for row in parked) == [
                "limit:echo (7)", "limit:echo (ann)", "limit:echo (ann)", "limit:echo (bob)",
            ]  # fmt: skip
            await worker.finish(first[0])
            second = await offered(worker)
            assert [o.seq for o in second] == [2]
            for offer in (*first[1:], *second):
                await worker.finish(offer)
            third = await offered(worker)
            assert sorted(o.seq for o in third) == [4, 5, 7]
            for offer in third:
                await worker.finish(offer)
            await trio.sleep(1)
            assert nothing_is_left(house)


async def test_the_key_that_a_submitter_tells_goes_before_the_arguments(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, key=Key(is_code=True))))
            await client.say(client.submit(1))
            assert (await client.hear(m.Declined)).code == "bad-key"
            for n, key in enumerate(["x", "x", "y"], 2):
                await client.submitted(n, options={"keys": [key, ""]})
            assert len(await offered(worker)) == 2
            await client.say(client.submit(9, options={"keys": ["x"]}))
            assert (await client.hear(m.Declined)).code == "bad-key"


async def test_a_limited_job_that_is_more_urgent_goes_first(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)))
            for n in range(5):
                await client.submitted(n, priority=3)
            (running,) = await offered(worker)
            urgent = await client.submitted(10, priority=0)
            await worker.finish(running)
            (following,) = await offered(worker)
            assert following.id == urgent.id


async def test_jobs_begin_at_the_rate_that_their_task_says(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(rate=Rate(3, 30.0))))
            for n in range(8):
                await client.submitted(n)
            began = trio.current_time()
            moments = []
            for _ in range(8):
                offer = await worker.hear(m.Offer)
                moments.append(round(trio.current_time() - began))
                await worker.finish(offer)
            assert moments == [0, 0, 0, 10, 20, 30, 40, 50]
            await trio.sleep(1)
            assert nothing_is_left(house)


async def test_a_token_of_a_job_that_was_handed_back_is_there_again(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(rate=Rate(1, 1000.0))), slots=1)
            await client.submitted(1)
            offer = await worker.hear(m.Offer)
            await worker.say(m.HandBack([[offer.seq, offer.epoch, offer.attempt]]))
            assert (await worker.hear(m.Offer, 10.0)).seq == offer.seq


async def test_a_task_with_a_limit_by_key_and_a_rate_keeps_both(autojump_clock):
    flow = Flow(limit=1, key=BY_USER, rate=Rate(2, 20.0))
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(flow))
            for n in range(12):
                await submit_for(client, n, n % 3)
            began, moments = trio.current_time(), []
            running: dict[int, m.Offer] = {}
            for _ in range(12):
                offer = await worker.hear(m.Offer)
                user = decode_value(offer.payload)[0][0]
                assert user not in running
                moments.append(round(trio.current_time() - began))
                running[user] = offer
                if len(running) == 2:
                    # The third user's turn comes, though it came after these.
                    for one in running.values():
                        await worker.finish(one)
                    running.clear()
            assert moments == [0, 0, *range(10, 110, 10)]
            await trio.sleep(1)
            assert nothing_is_left(house)


async def test_thousands_of_keys_behind_one_rate_cost_a_look_only_when_it_is_their_turn(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(level, "LISTED", 5)
    flow = Flow(limit=1, key=BY_USER, rate=Rate(1, 1.0))
    async with (
        open_house(PlaneSettings(look_ahead=0)) as house,
        house.client().connected() as client,
    ):
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(flow))
            for n in range(100):
                await submit_for(client, n, n)
            looks = 0
            admit = house.core.limits.admit

            def counted(job):
                nonlocal looks
                looks += 1
                return admit(job)

            house.core.limits.admit = counted
            order = []
            for _ in range(100):
                offer = await worker.hear(m.Offer)
                order.append(decode_value(offer.payload)[0][0])
                await worker.finish(offer)
            assert order == list(range(100))
            assert looks < 500
            await trio.sleep(1)
            assert nothing_is_left(house)


async def test_a_job_that_is_cancelled_while_it_had_room_leaves_the_room_to_others(
    autojump_clock,
):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)), declared(name="free"), slots=2)
            low = await client.submitted(1, priority=3)
            (running,) = await offered(worker)
            assert running.id == low.id
            high = await client.submitted(2, priority=1)
            await client.submitted(3, priority=2)
            await client.submitted(4, priority=0, task="free")
            (free,) = await offered(worker)
            # No slot is free when the limit has room again, and then that job is cancelled.
            await worker.say(m.Capacity(0, 0))
            await worker.finish(running)
            await trio.sleep(0.1)
            await client.say(m.Cancel(1, [high.id], ""))
            await client.hear(m.Answer)
            await worker.say(m.Capacity(2, 0))
            (offer,) = await offered(worker)
            assert offer.seq == 3
            await worker.finish(offer)
            await worker.finish(free)
            await trio.sleep(1)
            assert nothing_is_left(house)


async def test_a_queue_without_listeners_does_not_keep_the_room_from_others(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)))
            async with house.worker("other").connected(queues=["elsewhere"]) as other:
                await announce(other, declared(Flow(limit=1)))
                await client.submitted(1)
                (running,) = await offered(worker)
                await client.submitted(2, queue="elsewhere", priority=0)
                await client.submitted(3)
                await trio.sleep(0.1)
            await trio.sleep(30)
            await worker.finish(running)
            (offer,) = await offered(worker)
            assert offer.seq == 3


async def test_what_runs_counts_after_a_restart_of_the_core_and_when_a_limit_changes(
    autojump_clock,
):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared())
            for n in range(10):
                await client.submitted(n)
            running = await offered(worker)
            assert len(running) == 10
            for n in range(10, 20):
                await client.submitted(n)
            running += await offered(worker)
            await announce(worker, declared(Flow(limit=5)))
            for n in range(20, 25):
                await client.submitted(n)
            for offer in running[:15]:
                await worker.finish(offer)
            assert await offered(worker) == []
            await worker.finish(running[15])
            assert len(await offered(worker)) == 1
            await announce(worker, declared())
            assert len(await offered(worker)) == 4


async def test_the_tail_of_a_limited_task_is_in_the_store_and_moves_once(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(dispatch, "MAX_PARKED", 7)
    settings = PlaneSettings(window=10, look_ahead=0)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        for n in range(60):
            await client.submitted(n)
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)), declared(name="free"))
            for n in range(60, 100):
                await client.submitted(n)
            free = await client.submitted(100, task="free")
            order = []
            while len(order) < 101:
                offer = await worker.hear(m.Offer)
                order.append(offer.seq)
                assert sum(lane.held for lane in house.core.lanes.by_number.values()) <= 30
                await worker.finish(offer)
            assert order.index(101) < 70
            order.remove(101)
            assert order == list(range(1, 101))
            assert free.id not in house.core.by_id
            await trio.sleep(1)
            assert nothing_is_left(house)


@pytest.mark.parametrize("what", ["lanes", "gates"])
async def test_where_there_is_no_room_for_one_more_key_its_jobs_wait_a_while(
    autojump_clock, monkeypatch, what
):
    settings = PlaneSettings(lanes=3 if what == "lanes" else 100)
    if what == "gates":
        monkeypatch.setattr(limits, "MAX_GATES", 3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, key=BY_USER)))
            for n in range(20):
                await submit_for(client, n, n // 2)
            ran = set()
            while len(ran) < 20:
                offer = await worker.hear(m.Offer)
                assert offer.seq not in ran
                ran.add(offer.seq)
                await worker.finish(offer)
            await trio.sleep(5)
            assert nothing_is_left(house)


# --- queues -----------------------------------------------------------------------------------


async def test_nothing_is_taken_from_a_paused_queue_until_it_is_resumed(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(queues=["default", "mail"]) as worker:
            await announce(worker, declared())
            said = await client.ask("set-queue", queue="mail", paused=True)
            assert said == {"queue": "mail", "paused": True, "limit": None, "rate": None}
            await client.submitted(1, queue="mail", priority=0)
            await client.submitted(2)
            assert [o.seq for o in await offered(worker)] == [2]
            await client.ask("set-queue", queue="mail", paused=False)
            assert [o.seq for o in await offered(worker)] == [1]


async def test_a_paused_queue_is_paused_after_a_restart(autojump_clock):
    store = DiskLike()

    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.ask("set-queue", queue="mail", paused=True, limit=7, is_new=True)
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            (queue,) = (await client.ask("queues"))["queues"]
            assert (queue["queue"], queue["paused"], queue["limit"]) == ("mail", True, 7)
            async with house.worker().connected(queues=["mail"]) as worker:
                await announce(worker, declared())
                await client.submitted(1, queue="mail")
                assert await offered(worker) == []


async def test_as_many_jobs_of_a_queue_run_as_is_said_of_it(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(), declared(name="other"))
            for n in range(10):
                await client.submitted(n, task="echo" if n % 2 else "other", priority=n % 4)
            running = await offered(worker)
            assert len(running) == 10
            await client.ask("set-queue", queue="default", limit=3)
            for n in range(10, 20):
                await client.submitted(n)
            for offer in running[:7]:
                await worker.finish(offer)
            assert await offered(worker) == []
            await worker.finish(running[7])
            assert len(await offered(worker)) == 1
            await client.ask("set-queue", queue="default", limit=None)
            assert len(await offered(worker)) == 9


async def test_jobs_of_a_queue_begin_at_the_rate_that_is_said_of_it(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared())
            rate = {"count": 2, "per_s": 10.0}
            await client.ask("set-queue", queue="default", rate=rate)
            began = trio.current_time()
            for n in range(6):
                await client.submitted(n)
            moments = []
            for _ in range(6):
                await worker.hear(m.Offer)
                moments.append(round(trio.current_time() - began))
            assert moments == [0, 0, 5, 10, 15, 20]


async def test_tokens_are_spent_though_other_things_are_said(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            rate = Rate(1, 1000.0)
            await announce(worker, declared(Flow(rate=rate)), declared(name="free"))
            await client.ask("set-queue", queue="default", rate={"count": 2, "per_s": 1000})
            for n in range(3):
                await client.submitted(n)
            await client.submitted(3, task="free")
            assert len(await offered(worker)) == 2
            await client.ask("set-queue", queue="default", paused=True)
            await client.ask("set-queue", queue="default", paused=False)
            assert await offered(worker) == []
            await client.ask("set-queue", queue="default", rate=None)
            assert await offered(worker) == []
            await announce(worker, declared(Flow(limit=5, rate=rate)), declared(name="free"))
            assert await offered(worker) == []
            await announce(worker, declared(Flow(limit=5)), declared(name="free"))
            assert len(await offered(worker)) == 2


async def test_an_unknown_queue_is_refused_with_near_names(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(queues=["mail"]) as worker:
            await announce(worker, declared())
            await trio.sleep(0.1)
            await client.say(m.Ask(1, "set-queue", {"queue": "mial", "paused": True}))
            failed = await client.hear(m.AskFailed)
            assert failed.code == "unknown-queue"
            assert "'mail'" in failed.why
            for wrong in ({"limit": 0}, {"rate": {"count": 0, "per_s": 1}}, {"rate": 7}):
                await client.say(m.Ask(1, "set-queue", {"queue": "mail", **wrong}))
                assert (await client.hear(m.AskFailed)).code == "bad-question"


async def test_a_job_of_a_full_task_is_none_that_overtakes(autojump_clock):
    settings = PlaneSettings(fairness=3)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1)), declared(name="free"), slots=1)
            await client.submitted(0)
            (first,) = await offered(worker)
            for n in range(1, 6):
                await client.submitted(n, priority=0)
            low = await client.submitted(100, task="free", priority=3)
            assert house.core.lanes.by_number
            await worker.say(m.Capacity(2, 0))
            (offer,) = await offered(worker)
            assert offer.id == low.id
            await worker.finish(offer)
            await worker.finish(first)
            record = await client.ask("job", id=low.id)
            assert record["state"] == JobState.SUCCEEDED.word


# --- where limits meet other things -------------------------------------------------------------


async def test_a_task_with_a_limit_and_a_rate_of_one_key_goes_on(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, rate=Rate(1, 10.0))))
            for n in range(5):
                await client.submitted(n)
            began, moments = trio.current_time(), []
            for _ in range(5):
                offer = await worker.hear(m.Offer, 30)
                moments.append(round(trio.current_time() - began))
                await trio.sleep(1)
                await worker.finish(offer)
            assert moments == [0, 10, 20, 30, 40]
            await trio.sleep(1)
            assert nothing_is_left(house)


async def test_a_queue_has_its_slots_back_though_the_lane_is_anothers_by_then(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        await client.ask("set-queue", queue="a", limit=1, is_new=True)
        await client.submitted(1)
        async with house.worker("old").connected(queues=["a"], age_s=10.0) as old:
            await announce(old, {"name": "echo", "queue": "a"})
            (offer,) = await offered(old)
            async with house.worker("new").connected(queues=["b"]) as new:
                await announce(new, {"name": "echo", "queue": "b"})
                await client.ask("set-queue", queue="b", limit=3)
                await old.finish(offer)
                await client.submitted(2, queue="a")
                (following,) = await offered(old)
                assert following.seq == 2


async def test_jobs_that_wait_are_counted_by_the_keys_of_the_newest_announcement(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, key=BY_USER)))
            for n in range(9):
                await submit_for(client, n, n % 3)
            running = await offered(worker)
            assert len(running) == 3
            await announce(worker, declared(Flow(limit=1)))
            done = 0
            while running:
                await worker.finish(running.pop())
                done += 1
                running += await offered(worker)
                assert len(running) <= max(1, 3 - done)
            assert done == 9
            assert nothing_is_left(house)


async def test_what_let_a_job_pass_counts_though_there_is_no_room_to_keep_it_in_mind(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(limits, "MAX_GATES", 5)
    flow = Flow(limit=1, key=BY_USER, rate=Rate(1, 1000.0), rate_key=BY_USER)
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(flow))
            for n in range(4):
                await submit_for(client, n, n)
            for n in range(4, 8):
                await submit_for(client, n, "ann")
            running = Counter(decode_value(o.payload)[0][0] for o in await offered(worker, 5))
            assert all(number == 1 for number in running.values()), running


async def test_what_is_cancelled_before_it_was_offered_gives_its_token_back(autojump_clock):
    class Slow(DiskLike):
        pause_s = 0.0

        async def commit(self, batch):
            await trio.sleep(self.pause_s)
            return await super().commit(batch)

    store = Slow()
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            async with house.worker().connected(**LISTENING) as worker:
                once = {**declared(Flow(rate=Rate(1, 1000.0))), "delivery": "at-most-once"}
                await announce(worker, once, slots=0)
                first = await client.submitted(1)
                await client.submitted(2)
                store.pause_s = 1.0
                await worker.say(m.Capacity(1, 0))
                await trio.sleep(0.5)
                await client.say(m.Cancel(1, [first.id], ""))
                await client.hear(m.Answer)
                store.pause_s = 0.0
                (offer,) = await offered(worker, 5)
                assert offer.seq == 2


async def test_what_ran_when_its_limit_came_takes_no_token_and_gives_none_back(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared())
            await client.submitted(1)
            (offer,) = await offered(worker)
            await announce(worker, declared(Flow(rate=Rate(2, 1000.0))))
            for n in range(2, 8):
                await client.submitted(n)
            assert len(await offered(worker)) == 2
            await worker.say(m.HandBack([[offer.seq, offer.epoch, offer.attempt]]))
            assert await offered(worker) == []


async def test_lanes_of_limits_leave_lanes_for_others(autojump_clock):
    async with open_house(PlaneSettings(lanes=10)) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, key=BY_USER)))
            for n in range(40):
                await submit_for(client, n, n // 2)
            running = await offered(worker)
            assert len(running) == 20
            await client.submitted(100, queue="other")
            ran = set()
            while running:
                offer = running.pop()
                ran.add(offer.seq)
                await worker.finish(offer)
                running += await offered(worker, 0.01)
                if not running:
                    running += await offered(worker, 3)
            assert len(ran) == 40


async def test_the_arguments_of_a_submission_by_name_are_read_once_for_its_keys(
    autojump_clock, monkeypatch
):
    read = []

    def counting(payload):
        read.append(payload)
        return decode_call(payload)

    monkeypatch.setattr(limits, "decode_call", counting)
    keyed = Flow(limit=5, key=Key("user", 0), rate=Rate(100, 1.0), rate_key=Key("user", 0))
    async with open_house(patient(window=3), DiskLike) as house:
        client, worker = house.client(), house.worker()
        async with client.connected(), worker.connected(queues=["default"]):
            await announce(worker, declared(keyed), slots=0)
            await trio.sleep(1)
            for number in range(6):
                await submit_for(client, number, f"user {number}")
            await client.submitted(7, options={"keys": ["told", "told"]})
            await worker.say(m.Capacity(1, 0))
            for _ in range(7):
                await worker.finish(await worker.hear(m.Offer))
            # Those beyond the window were read once when they came, and once when they were back.
            assert len(read) == 6 + 3
            assert [read.count(payload) for payload in read[:3]] == [1, 1, 1]


async def test_keys_of_what_is_on_its_way_to_the_disk_follow_a_new_announcement(autojump_clock):
    class Slow(DiskLike):
        async def commit(self, batch):
            await trio.sleep(2)
            return await super().commit(batch)

    async with open_house(patient(), Slow) as house:
        client, worker = house.client(), house.worker()
        async with client.connected(), worker.connected(queues=["default"]):
            await announce(worker, declared(Flow(limit=1)))
            await trio.sleep(5)
            for number in range(3):
                payload = encode_call([f"user {number}"], {})
                await client.say(client.submit(number, payload=payload))
            await trio.sleep(1)
            await announce(worker, declared(Flow(limit=1, key=Key("user", 0))))
            assert len(await offered(worker, 20)) == 3
