"""How long a job may take: an attempt, its wait, and all of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_delays import arrivals, patient
from tests.cluster.test_failing_store import Fragile
from tests.cluster.test_windows import LISTENING, DiskLike

from creche import JobExpired, JobFailed, JobState
from creche.engine.dispatch import UNKNOWN_S
from creche.engine.expiries import Expiries
from creche.model.failure import Failure
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import START_AT, open_cluster, wall_clock
from creche.wire import messages as m
from creche.wire.payload import decode_value
from creche.worker.context import current_job

pytestmark = pytest.mark.trio

began: list[float] = []


def token(offer: m.Offer) -> list[int]:
    return [offer.seq, offer.epoch, offer.attempt]


def wall_clock_at(seconds: float) -> float:
    """The wall clock of a cluster so many seconds after it begins."""
    return START_AT + seconds


@pytest.fixture(autouse=True)
def _nothing_has_begun() -> None:
    began.clear()


@task(registry=Registry(), timeout=10)
async def sleeps(seconds: float) -> str:
    began.append(trio.current_time())
    await trio.sleep(seconds)
    return "in time"


@task(registry=Registry(), timeout=10)
async def stubborn(seconds: float) -> str:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    return "late"


@task(registry=Registry(), soft_timeout=5, timeout=10)
async def hands_in(seconds: float) -> str:
    with current_job().soft_scope() as scope:
        await trio.sleep(seconds)
    assert scope.cancelled_caught == current_job().is_late
    return "half of it" if scope.cancelled_caught else "all of it"


@task(registry=Registry(), timeout=0.05)
def blocks(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@task(registry=Registry(), timeout=0.05)
def looks() -> str:
    job = current_job()
    assert job.deadline is not None
    while not job.is_stopping:
        time.sleep(0.002)
    return "done"


@task(registry=Registry(), expires=30)
async def fresh(value: int) -> int:
    return value


async def test_an_attempt_that_takes_too_long_is_stopped_and_has_failed(autojump_clock):
    async with open_cluster([sleeps]) as cluster, cluster.client() as client:
        assert await (await client.submit(sleeps, 9.9)).result() == "in time"
        began_at = trio.current_time()
        with pytest.raises(JobFailed, match="JobTimedOut: the attempt has run for 10 s"):
            await (await client.submit(sleeps, 1000)).result()
        assert trio.current_time() - began_at == pytest.approx(10, abs=0.5)


async def test_the_next_job_on_the_slot_is_not_hit(autojump_clock):
    async with open_cluster([sleeps], concurrency=1) as cluster, cluster.client() as client:
        jobs = await client.submit_many(sleeps, [(s,) for s in (1000, 5, 1000, 5)])
        for job, is_well in zip(jobs, (False, True, False, True), strict=True):
            if is_well:
                assert await job.result() == "in time"
            else:
                with pytest.raises(JobFailed):
                    await job.result()


async def test_a_submission_has_limits_of_its_own(autojump_clock):
    async with open_cluster([sleeps]) as cluster, cluster.client() as client:
        assert await (await client.submit(sleeps.with_options(timeout=50), 40)).result()
        with pytest.raises(JobFailed, match="has run for 2 s"):
            await (await client.submit(sleeps.with_options(timeout=2), 5)).result()


async def test_an_attempt_that_timed_out_is_tried_again_as_any_failed_one(autojump_clock):
    async with open_cluster([sleeps]) as cluster, cluster.client() as client:
        job = await client.submit(sleeps.with_options(retries=2, backoff=5, jitter=0), 1000)
        with pytest.raises(JobFailed, match="JobTimedOut"):
            await job.result()
        assert [round(b - began[0]) for b in began] == [0, 15, 35]


async def test_what_comes_after_the_limit_does_not_count(autojump_clock):
    async with open_cluster([stubborn]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match="JobTimedOut") as caught:
            await (await client.submit(stubborn, 15)).result()
        assert caught.value.__notes__ == ["its body left after 15.0 s: its clean-up took time"]


async def test_a_soft_limit_leaves_time_to_hand_in_what_there_is(autojump_clock):
    async with open_cluster([hands_in]) as cluster, cluster.client() as client:
        assert await (await client.submit(hands_in, 4)).result() == "all of it"
        assert await (await client.submit(hands_in, 1000)).result() == "half of it"
        patiently = hands_in.with_options(soft_timeout=8)
        assert await (await client.submit(patiently, 7)).result() == "all of it"


async def test_a_thread_cannot_be_stopped_and_has_failed_when_it_has_left():
    async with open_cluster([blocks, looks]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match="JobTimedOut") as caught:
            await (await client.submit(blocks, 0.3)).result()
        assert "a thread cannot be stopped" in caught.value.__notes__[0]
        with pytest.raises(JobFailed, match="JobTimedOut"):
            await (await client.submit(looks)).result()


async def test_a_deadline_bounds_all_tries_together(autojump_clock):
    async with open_cluster([sleeps]) as cluster, cluster.client() as client:
        cluster_now = datetime.fromtimestamp(wall_clock(), UTC)
        patiently = sleeps.with_options(
            deadline=cluster_now + timedelta(seconds=31), retries=9, backoff=5, jitter=0, timeout=10
        )
        with pytest.raises(JobFailed, match="has run for 10 s, as long as it may"):
            await (await client.submit(patiently, 1000)).result()
        # At 0 and at 15; the third would begin at 35.
        assert len(began) == 2
        one = sleeps.with_options(deadline=cluster_now + timedelta(seconds=36), timeout=1000)
        with pytest.raises(JobFailed, match=r"has run for \S+ s, until the job's deadline"):
            await (await client.submit(one, 1000)).result()
        assert trio.current_time() < 40


async def test_a_job_that_has_not_begun_in_time_does_not_run(autojump_clock):
    async with (
        open_cluster([sleeps, fresh], concurrency=1) as cluster,
        cluster.client() as client,
    ):
        blocking = await client.submit(sleeps.with_options(timeout=1000), 100)
        late = await client.submit(fresh, 1)
        named = await client.delay("fresh", 1)
        patiently = await client.submit(fresh.with_options(expires=200), 2)
        began_at = trio.current_time()
        for job in (late, named):
            with pytest.raises(JobExpired, match="it had not begun within 30 s"):
                await job.result()
        assert trio.current_time() - began_at == pytest.approx(30, abs=1)
        assert await late.status() is JobState.EXPIRED
        assert await blocking.result() == "in time"
        assert await patiently.result() == 2


EXPIRING: dict[str, Any] = {"limits": {"expires_s": 50.0}}


async def states(client: Peer, jobs: list[m.Submit]) -> list[str]:
    return [(await client.ask("job", id=job.id))["state"] for job in jobs]


@pytest.mark.parametrize("store", [MemoryStore, DiskLike])
async def test_jobs_expire_wherever_they_wait_and_leave_nothing_behind(autojump_clock, store):
    async with (
        open_house(patient(window=4 if store is DiskLike else 40, delays=1), store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        jobs = [await client.submitted(i, options=EXPIRING) for i in range(10)]
        jobs += [await client.submitted(20 + i, task="nobody", options=EXPIRING) for i in range(2)]
        later = EXPIRING | {"delay_s": 45.0}
        jobs += [await client.submitted(30 + i, options=later) for i in range(3)]
        lasting = await client.submitted(99)
        await trio.sleep(51)
        assert await states(client, [*jobs, lasting]) == ["expired"] * 15 + ["queued"]
        await worker.say(m.Ping(1), m.Capacity(1, 0))
        assert [n for n, _ in await arrivals(worker, 1)] == [99]
        await worker.hears_nothing(m.Offer, 200)
        core = house.core
        assert core.delays.held == core.delays.stored == core.lanes.space.held_bytes == 0
        assert not core.by_id


async def test_what_has_begun_does_not_expire_and_neither_does_its_next_try(autojump_clock):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        job = await client.submitted(1, options=EXPIRING)
        offer = await worker.hear(m.Offer)
        assert offer.options is None
        await trio.sleep(60)
        assert await states(client, [job]) == ["running"]
        await worker.try_again(offer, 60_000_000, is_counted=False)
        await worker.finish(await worker.hear(m.Offer, 100))


async def test_what_is_given_back_before_it_began_must_still_begin_in_time(autojump_clock):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        job = await client.submitted(1, options=EXPIRING)
        offer = await worker.hear(m.Offer)
        await worker.say(m.Capacity(0, 0), m.HandBack([token(offer)]))
        await trio.sleep(40)
        assert await states(client, [job]) == ["queued"]
        await trio.sleep(20)
        assert await states(client, [job]) == ["expired"]


async def test_an_attempt_that_outlived_the_plane_has_begun_in_time(autojump_clock):
    store = Fragile()
    async with open_house(patient(), lambda: store) as house:
        worker = house.worker()
        async with house.client().connected() as client, worker.connected(**LISTENING):
            await worker.ready("echo", slots=0)
            job = await client.submitted(1, options=EXPIRING)
            await trio.sleep(1)
            store.is_lost = True
            await worker.say(m.Capacity(1, 0))
            offer = await worker.hear(m.Offer)
            await client.hears_the_end()
        await trio.sleep(5)
        async with (
            house.client().connected() as client,
            worker.connected(**LISTENING, held=[token(offer)]),
        ):
            await worker.ready("echo", slots=1)
            await trio.sleep(60)
            assert await states(client, [job]) == ["running"]
            await worker.finish(offer)
            await worker.hear(m.Settled)


@pytest.mark.parametrize(
    "options",
    [
        {"delay_s": 60.0, "limits": {"expires_s": 5.0}},
        {"due_at": wall_clock_at(60.0), "limits": {"deadline_at": wall_clock_at(50.0)}},
    ],
    ids=["expires", "deadline"],
)
async def test_what_would_expire_before_its_time_is_declined(autojump_clock, options):
    async with open_house() as house, house.client().connected() as client:
        await client.say(client.submit(1, options=options))
        assert "could never run" in (await client.hear(m.Declined)).why


async def test_what_was_cut_short_is_not_measured(autojump_clock):
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        job = await client.submitted(1)
        offer = await worker.hear(m.Offer)
        for i in range(2, 50):
            await client.submitted(i)
        await client.say(m.Cancel(7, [job.id], ""))
        await worker.hear(m.Stop)
        await worker.finish(offer, state=JobState.CANCELLED, run_us=0)
        await worker.hear(m.Offer)
        # Had it been taken for a short run, many would be sent ahead.
        await worker.hears_nothing(m.Offer, 10)
        assert house.core.dispatch.estimate_s("echo") == UNKNOWN_S


async def test_expiry_outlives_a_restart(autojump_clock):
    store = DiskLike()
    settings = patient(window=2)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        jobs = [await client.submitted(i, options=EXPIRING) for i in range(5)]
    await trio.sleep(20)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        assert await states(client, jobs) == ["parked"] * 5
        await trio.sleep(31)
        assert await states(client, jobs) == ["expired"] * 5
        await client.say(m.Watch([jobs[4].id]))
        ended = await client.hear(m.Ended)
        assert ended.state == JobState.EXPIRED
        assert "50 s" in Failure.from_data(decode_value(ended.outcome)).message


async def test_a_job_whose_time_is_up_is_not_offered_even_if_nobody_has_noticed(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(Expiries, "_look", lambda self: None)
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        job = await client.submitted(1, options=EXPIRING)
        await trio.sleep(60)
        await worker.say(m.Ping(1), m.Capacity(1, 0))
        await worker.hears_nothing(m.Offer, 10)
        assert await states(client, [job]) == ["expired"]


async def test_a_worker_is_told_what_is_left(autojump_clock):
    limits = {"timeout_s": 5.0, "soft_timeout_s": 4.0, "deadline_at": wall_clock() + 100.0}
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await client.submitted(1, options={"limits": limits})
        await trio.sleep(30)
        await worker.ready("echo", slots=1)
        offer = await worker.hear(m.Offer)
        assert offer.options is not None
        told = offer.options["limits"]
        assert told.pop("left_s") == pytest.approx(70, abs=1)
        assert told == {"timeout_s": 5.0, "soft_timeout_s": 4.0}


@pytest.mark.parametrize(
    "limits",
    [
        5, {"timeout_s": 0}, {"timeout_s": "5"}, {"soft_timeout_s": -1},
        {"expires_s": float("inf")},
        {"deadline_at": 1e30}, {"patience_s": 5}, {"timeout_s": True},
    ],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_limit_is_declined(autojump_clock, limits):
    async with open_house() as house, house.client().connected() as client:
        await client.say(client.submit(1, options={"limits": limits}))
        assert (await client.hear(m.Declined)).code == "bad-limits"
        await client.submitted(2)


class SlowFind(DiskLike):
    """Takes its time to find jobs."""

    async def find(self, ids):
        await trio.sleep(1)
        return await super().find(ids)


async def test_a_clock_that_is_set_back_loses_nothing_that_had_expired_by_it(autojump_clock):
    async with (
        open_house(patient(window=1), SlowFind) as house,
        house.client().connected() as client,
    ):
        await client.submitted(1)
        stored = await client.submitted(2, options={"limits": {"expires_s": 10.0}})
        await trio.sleep(10.5)
        house.core.now = lambda: wall_clock() - 60.0
        await trio.sleep(5)
        assert await states(client, [stored]) == ["parked"]
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=2)
            for _ in range(2):
                await worker.finish(await worker.hear(m.Offer))


@pytest.mark.parametrize(
    ("announced", "said", "blamed"),
    [
        (None, {"soft_timeout_s": 5, "timeout_s": 5}, ""),
        ({"timeout_s": 4.0}, {"soft_timeout_s": 5}, ": its task says timeout"),
        ({"soft_timeout_s": 30.0}, {"timeout_s": 5}, ": its task says soft_timeout"),
    ],
)
async def test_a_soft_limit_that_is_never_reached_is_declined(
    autojump_clock, announced, said, blamed
):
    async with (
        open_house() as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.say(m.Announce([{"name": "echo", "limits": announced}]), m.Capacity(1, 0))
        await trio.sleep(1)
        await client.say(client.submit(1, options={"limits": said}))
        declined = await client.hear(m.Declined)
        assert declined.code == "bad-limits"
        hard_s = {**(announced or {}), **said}["timeout_s"]
        assert declined.why.endswith(f"has to come before timeout ({hard_s:g} s){blamed}")
        await client.submitted(2, options={"limits": {"soft_timeout_s": 1, "timeout_s": 2}})
        await client.submitted(3, options={"limits": {"expires_s": 100}})


@pytest.mark.parametrize(
    ("announced", "options", "why"),
    [
        (
            {"expires_s": 5.0},
            {"delay_s": 10},
            "in 10 s, and has expired by then: after 5 s, as its",
        ),
        ({"expires_s": 5.0}, {"due_at": 10}, "in 10 s, and has expired by then: after 5 s, as its"),
        (None, {"due_at": 10, "limits": {"expires_s": 5}}, "has expired by then: after 5 s"),
        (None, {"delay_s": 10, "limits": {"deadline_at": 5}}, "its deadline has passed by then"),
    ],
)
async def test_a_moment_that_is_too_late_for_the_job_is_declined_whoever_knows_of_the_limit(
    autojump_clock, announced, options, why
):
    async with (
        open_house() as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.say(m.Announce([{"name": "echo", "limits": announced}]), m.Capacity(1, 0))
        await trio.sleep(1)
        now = house.core.now()
        if "due_at" in options:
            options = {**options, "due_at": now + 10}
        if "deadline_at" in (options.get("limits") or {}):
            options = {**options, "limits": {"deadline_at": now + 5}}
        await client.say(client.submit(1, options=options))
        declined = await client.hear(m.Declined)
        assert declined.code == "bad-limits"
        assert why in declined.why
        await client.submitted(2, options={"delay_s": 4})
        await client.submitted(3, options={"due_at": now + 4})


@pytest.mark.parametrize(
    ("announced", "options", "why"),
    [
        ({"delivery": "at-most-once"}, {"retry": {"retries": 2}}, "runs at most once, and is not"),
        ({}, {"retry": {"backoff": 2}}, "backoff without retries: task 'echo' says none either"),
        (
            {"retry": {"retries": 2, "backoff_max": 5.0}},
            {"retry": {"backoff": 50.0}},
            "backoff (50 s) is longer than backoff_max (5 s) of task 'echo': choose a shorter one",
        ),
        (
            {"retry": {"retries": 2, "backoff": 5.0}},
            {"retry": {"backoff_max": 1.0}},
            "backoff (5 s) is longer than backoff_max (1 s): choose",
        ),
    ],
)
async def test_retries_that_are_none_are_declined(autojump_clock, announced, options, why):
    async with (
        open_house() as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.say(m.Announce([{"name": "echo", **announced}]), m.Capacity(1, 0))
        await trio.sleep(1)
        await client.say(client.submit(1, options=options))
        declined = await client.hear(m.Declined)
        assert declined.code == "bad-retry"
        assert why in declined.why
        await client.submitted(2, options={"retry": {"retries": 0}})
        await client.submitted(3, task="other", options={"retry": {"backoff": 2}})


async def test_of_a_task_that_has_retries_their_delay_alone_may_be_said(autojump_clock):
    async with (
        open_house() as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.say(m.Announce([{"name": "echo", "retry": {"retries": 2}}]), m.Capacity(1, 0))
        await trio.sleep(1)
        await client.submitted(1, options={"retry": {"backoff": 20.0, "jitter": 0}})
        await worker.try_again(await worker.hear(m.Offer))
        await worker.hears_nothing(m.Offer, 19)
        await worker.hear(m.Offer)


async def test_a_job_that_snoozes_past_its_deadline_expires(autojump_clock):
    limits = {"limits": {"deadline_at": wall_clock_at(50.0)}}
    async with (
        open_house(patient(delays=1), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=2)
        jobs = [await client.submitted(i, options=limits) for i in range(2)]
        for _ in range(2):
            await worker.try_again(await worker.hear(m.Offer), 90_000_000, is_counted=False)
        await trio.sleep(30)
        assert await states(client, jobs) == ["delayed"] * 2
        await trio.sleep(30)
        assert await states(client, jobs) == ["expired"] * 2
        await worker.hears_nothing(m.Offer, 100)
        assert house.core.delays.held == house.core.delays.stored == 0
