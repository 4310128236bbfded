"""A failed job is tried again: when, how often, and what is kept of it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_delays import patient
from tests.cluster.test_windows import LISTENING, DiskLike, number

from creche import JobFailed, JobState, Retry, Snooze
from creche.engine.settings import PlaneSettings
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.worker.context import current_job

pytestmark = pytest.mark.trio

began: list[float] = []
"""When each try of the job at hand began."""


@pytest.fixture(autouse=True)
def _nothing_has_begun() -> None:
    began.clear()


def note() -> int:
    """Note that a try begins; return which one it is."""
    began.append(trio.current_time())
    return current_job().attempt


@task(registry=Registry(), retries=3, backoff=10, jitter=0)
async def flaky(good_at: int) -> str:
    attempt = note()
    if attempt < good_at:
        raise ConnectionError(f"try {attempt}")
    return f"done at {attempt}"


@task(registry=Registry())
async def plain(good_at: int) -> str:
    return await flaky(good_at)


@task(
    registry=Registry(), retries=5, backoff=1, jitter=0,
    retry_on=(OSError, ValueError), never_retry_on=FileNotFoundError,
)  # fmt: skip
async def choosy(error: str) -> str:
    if note() > 1:
        return "second"
    if error == "group":
        raise ExceptionGroup("both", [OSError("a"), ValueError("b")])
    if error == "snooze and a bug":
        raise ExceptionGroup("both", [Snooze(5), KeyError("b")])
    if error == "snooze and what may be":
        raise ExceptionGroup("both", [Snooze(500), OSError("b")])
    if error == "mixed group":
        raise ExceptionGroup("both", [OSError("a"), KeyError("b")])
    raise {"OSError": OSError, "KeyError": KeyError, "missing": FileNotFoundError}[error]("bad")


@task(registry=Registry(), retries=2, backoff=1)
async def asks(after: float | None) -> int:
    attempt = note()
    if attempt < 3:
        raise Retry("the service is busy", countdown=after) from ConnectionError("refused")
    return attempt


@task(registry=Registry(), retries=0)
async def asks_in_vain() -> None:
    raise Retry() from ConnectionError("refused")


@task(registry=Registry())
async def snoozes(times: int) -> int:
    attempt = note()
    if len(began) <= times:
        raise Snooze(60)
    return attempt


@task(registry=Registry(), retries=5, backoff=1)
async def hopeless() -> object:
    note()
    return object()


@task(registry=Registry(), retries="forever", backoff=1, backoff_max=64, jitter=0)
async def stubborn() -> str:
    if note() < 12:
        raise TimeoutError
    return "at last"


def delays() -> list[float]:
    """How long it took from one try to the next, in seconds."""
    return [round(b - a, 2) for a, b in pairwise(began)]


async def test_a_failed_job_is_tried_again_after_delays_that_double(autojump_clock):
    async with open_cluster([flaky]) as cluster, cluster.client() as client:
        job = await client.submit(flaky, 4)
        assert await job.result() == "done at 4"
        assert delays() == [10, 20, 40]
        record = await client.ask("job", {"id": job.id_bytes})
        assert (record["failures"], record["attempt"], record["state"]) == (3, 4, "succeeded")
        assert [made["attempt"] for made in record["attempts"]] == [1, 2, 3]
        assert [made["error"]["message"] for made in record["attempts"]] == [
            "try 1",
            "try 2",
            "try 3",
        ]
        assert "raise ConnectionError" in record["attempts"][0]["error"]["traceback"]
        assert record["retry"]["retries"] == 3


async def test_when_retries_are_used_up_the_job_has_failed_as_it_did_last(autojump_clock):
    async with open_cluster([flaky]) as cluster, cluster.client() as client:
        job = await client.submit(flaky, 99)
        with pytest.raises(JobFailed, match="ConnectionError: try 4"):
            await job.result()
        assert len(began) == 4
        record = await client.ask("job", {"id": job.id_bytes})
        assert (record["failures"], len(record["attempts"])) == (4, 3)


async def test_while_it_waits_for_its_next_try_a_job_is_delayed_and_can_be_cancelled(
    autojump_clock,
):
    async with open_cluster([flaky]) as cluster, cluster.client() as client:
        job = await client.submit(flaky, 2)
        await trio.sleep(5)
        assert await job.status() is JobState.DELAYED
        assert await job.cancel() is JobState.CANCELLED
        await trio.sleep(60)
        assert len(began) == 1


async def test_a_submission_has_a_policy_of_its_own(autojump_clock):
    async with open_cluster([flaky, plain]) as cluster, cluster.client() as client:
        job = await client.submit(flaky.with_options(retries=0), 2)
        with pytest.raises(JobFailed):
            await job.result()
        job = await client.submit(flaky.with_options(backoff=3), 3)
        assert await job.result() == "done at 3"
        assert delays()[1:] == [3, 6]
        with pytest.raises(JobFailed):
            await (await client.submit(plain, 2)).result()
        job = await client.submit(plain.with_options(retries=1, backoff=0), 2)
        assert await job.result() == "done at 2"
        # By name, the announcement says it.
        job = await client.delay("flaky", 2)
        assert await job.result() == "done at 2"


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        ("OSError", True), ("KeyError", False), ("missing", False), ("group", True),
        ("mixed group", False), ("snooze and a bug", False), ("snooze and what may be", True),
    ],
)  # fmt: skip
async def test_what_is_raised_decides(autojump_clock, error, is_tried_again):
    async with open_cluster([choosy]) as cluster, cluster.client() as client:
        job = await client.submit(choosy, error)
        if is_tried_again:
            assert await job.result() == "second"
            assert (await client.ask("job", {"id": job.id_bytes}))["failures"] == 1
            assert delays() == [1]
        else:
            with pytest.raises(JobFailed):
                await job.result()
            assert len(began) == 1
            assert (await client.ask("job", {"id": job.id_bytes}))["failures"] == 1


@pytest.mark.parametrize(("after", "waits"), [(7.5, [7.5, 7.5]), (0, [0, 0])])
async def test_a_body_may_say_when_it_is_tried_again(autojump_clock, after, waits):
    async with open_cluster([asks]) as cluster, cluster.client() as client:
        job = await client.submit(asks, after)
        assert await job.result() == 3
        assert delays() == waits
        record = await client.ask("job", {"id": job.id_bytes})
        assert record["attempts"][0]["error"]["type"] == "ConnectionError"


async def test_a_body_that_asks_for_a_try_that_there_is_none_of_has_failed_with_its_cause(
    autojump_clock,
):
    async with open_cluster([asks_in_vain]) as cluster, cluster.client() as client:
        job = await client.submit(asks_in_vain)
        with pytest.raises(JobFailed, match="ConnectionError: refused"):
            await job.result()


async def test_a_snooze_is_no_failure_and_uses_up_no_retries(autojump_clock):
    async with open_cluster([snoozes]) as cluster, cluster.client() as client:
        job = await client.submit(snoozes, 5)
        assert await job.result() == 1
        assert delays() == [60] * 5
        record = await client.ask("job", {"id": job.id_bytes})
        assert (record["failures"], record["attempts"]) == (0, [])


async def test_what_fails_the_same_way_each_time_is_not_tried_again(autojump_clock):
    async with open_cluster([hopeless]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match="NotEncodable"):
            await (await client.submit(hopeless)).result()
        with pytest.raises(JobFailed, match="InvalidArguments"):
            await (await client.delay("hopeless", "too many")).result()
        assert len(began) == 1


async def test_who_is_tried_for_ever_has_said_so(autojump_clock):
    async with open_cluster([stubborn]) as cluster, cluster.client() as client:
        assert await (await client.submit(stubborn)).result() == "at last"
        assert delays() == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 64]


async def test_a_try_that_waits_outlives_the_plane(autojump_clock):
    async with open_cluster([flaky]) as cluster, cluster.client() as client:
        job = await client.submit(flaky, 3)
        await trio.sleep(15)
        await cluster.kill_plane()
        await trio.sleep(2)
        await cluster.start_plane()
        assert await job.result() == "done at 3"
        assert len(began) == 3
        record = await client.ask("job", {"id": job.id_bytes})
        assert [made["attempt"] for made in record["attempts"]] == [1, 2]


@pytest.mark.parametrize(("jobs", "store"), [(2000, None), (10_000, DiskLike)])
async def test_of_many_jobs_of_which_a_third_fail_now_and_then_each_is_tried_as_often_as_is_due(
    autojump_clock, jobs, store
):
    """How often each fails is drawn beforehand: then it is known how many tries there must be."""
    draw = random.Random(7)
    most = 3
    fails = [
        next(n for n in range(most + 2) if n > most or draw.random() > 0.3) for _ in range(jobs)
    ]
    tries: Counter[int] = Counter()

    @task(registry=Registry(), retries=most, backoff=1, backoff_max=8)
    async def drawn(i: int) -> int:
        tries[i] += 1
        assert current_job().attempt == tries[i]
        if tries[i] <= fails[i]:
            raise ConnectionError(f"job {i}, try {tries[i]}")
        return i

    settings = PlaneSettings(window=500, delays=100)
    async with (
        open_cluster([drawn], workers=2, settings=settings, make_store=store) as cluster,
        cluster.client() as client,
    ):
        handles = await client.submit_many(drawn, [(i,) for i in range(jobs)])
        failed = 0
        for i, handle in enumerate(handles):
            try:
                assert await handle.result() == i
            except JobFailed:
                failed += 1
        assert failed == sum(n > most for n in fails)
        assert [tries[i] for i in range(jobs)] == [min(n, most) + 1 for n in fails]
        counts = (await client.ask("health"))["jobs"]
        assert counts == {"succeeded": jobs - failed, "failed": failed}


RETRYING: dict[str, Any] = {"retry": {"retries": 2, "backoff": 5.0, "jitter": 0.0}}


@pytest.mark.parametrize("room", [100, 1])
async def test_a_report_is_settled_when_the_next_try_is_on_disk_and_said_twice_counts_once(
    autojump_clock, room
):
    settings = patient(delays=room)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        await client.submitted(9, options={"delay_s": 1000})
        job = await client.submitted(1, options=RETRYING)
        for tries in (0, 1):
            offer = await worker.hear(m.Offer, 100)
            assert offer.options == ({"tries": tries} if tries else None)
            n = await worker.try_again(offer)
            await worker.try_again(offer)
            while n not in (await worker.hear(m.Settled)).ns:
                pass
            record = await client.ask("job", id=job.id)
            assert (record["state"], record["failures"]) == ("delayed", tries + 1)
        offer = await worker.hear(m.Offer, 100)
        await worker.try_again(offer)
        await trio.sleep(1)
        record = await client.ask("job", id=job.id)
        assert (record["state"], record["failures"]) == ("failed", 3)
        await worker.hears_nothing(m.Offer, 100)
        assert house.core.delays.held + house.core.delays.stored == 1


async def test_an_attempt_that_runs_at_most_once_is_not_tried_again_but_may_snooze(autojump_clock):
    once = {"delivery": "at-most-once"}
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.say(m.Announce([{"name": "echo", **RETRYING}]), m.Capacity(1, 0))
        job = await client.submitted(1, options=once)
        await worker.try_again(await worker.hear(m.Offer), 5_000_000, is_counted=False)
        await worker.try_again(await worker.hear(m.Offer, 100))
        await trio.sleep(1)
        assert (await client.ask("job", id=job.id))["state"] == "failed"


async def test_what_a_worker_says_of_a_try_and_nobody_can_read_disturbs_nobody(autojump_clock):
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1)
        job = await client.submitted(1, options=RETRYING)
        await worker.try_again(await worker.hear(m.Offer), outcome=b"\xff\xff")
        await worker.hear(m.Settled)
        (made,) = (await client.ask("job", id=job.id))["attempts"]
        assert "cannot be read" in made["error"]["message"]


async def test_a_lost_worker_is_kept_among_the_tries(autojump_clock):
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
    ):
        job = await client.submitted(1)
        async with house.worker("a").connected(**LISTENING) as lost:
            await lost.ready("echo", slots=1)
            await lost.hear(m.Offer)
        async with house.worker("a").connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer, 100)
            assert offer.options == {"tries": 1}
            await worker.finish(offer)
            await worker.hear(m.Settled)
        record = await client.ask("job", id=job.id)
        (made,) = record["attempts"]
        assert (made["state"], made["error"]["type"]) == ("lost", "creche.WorkerLost")
        assert number(offer) == 1
