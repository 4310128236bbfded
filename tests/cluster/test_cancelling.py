"""A job is cancelled while it runs: the body is told, the slot is free when it has left, and the
record says how."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_delays import patient, submitted_later
from tests.cluster.test_windows import LISTENING, DiskLike

from creche import JobCancelled, JobFailed, JobHandle, JobState, Snooze, SubmissionUncertain
from creche.client.client import Client
from creche.model.failure import Failure
from creche.store.base import Batch, Duplicate
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import decode_value
from creche.worker.context import current_job

pytestmark = pytest.mark.trio

seen: list[str] = []
"""What bodies have noted."""


@pytest.fixture(autouse=True)
def _nothing_is_seen() -> None:
    seen.clear()


@task(registry=Registry())
async def echo(value: int) -> int:
    return value


@task(registry=Registry())
async def long(name: str = "") -> None:
    seen.append(f"{name} began")
    try:
        await trio.sleep(10_000)
    finally:
        seen.append(f"{name} left")


@task(registry=Registry())
async def tidy(seconds: float) -> None:
    seen.append("began")
    try:
        await trio.sleep(10_000)
    finally:
        with current_job().cleanup(5):
            await trio.sleep(seconds)
            seen.append("tidied up")


@task(registry=Registry())
async def breaks() -> None:
    seen.append("began")
    try:
        await trio.sleep(10_000)
    finally:
        raise ValueError("broken on the way out")


@task(registry=Registry())
async def lingers() -> None:
    seen.append("began")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)


@task(registry=Registry())
async def stays() -> str:
    seen.append("began")
    with trio.CancelScope(shield=True):
        await trio.sleep(20)
    return "all of it"


@task(registry=Registry())
async def again() -> None:
    seen.append("began")
    with suppress(trio.Cancelled):
        await trio.sleep(10_000)
    raise Snooze(5)


@task(registry=Registry())
def polls() -> str:
    seen.append("began")
    while not current_job().cancelled:
        time.sleep(0.002)
    return "half of it"


@task(registry=Registry())
def raises() -> str:
    seen.append("began")
    while True:
        current_job().raise_if_cancelled()
        time.sleep(0.002)


@task(registry=Registry())
def deaf() -> str:
    seen.append("began")
    while "go on" not in seen:
        time.sleep(0.002)
    return "all of it"


@task(registry=Registry())
def waits() -> None:
    job = current_job()
    seen.append("began")
    job.blocking.result(job.blocking.submit(long, "child"))


async def has_begun(number: int = 1) -> None:
    """Wait until so many bodies have begun."""
    while sum("began" in word for word in seen) < number:
        await trio.sleep(0.01)


async def how(client: Client, job: JobHandle[object]) -> list[str]:
    """Return the notes of a job that was cancelled."""
    with pytest.raises(JobCancelled) as caught:
        await job.result()
    return list(caught.value.__notes__)


async def test_a_coroutine_is_cancelled_and_its_slot_is_free(autojump_clock):
    async with open_cluster([long, echo], concurrency=1) as cluster, cluster.client() as client:
        job = await client.submit(long, "it")
        await has_begun()
        assert await job.cancel("no need any more") is JobState.CANCELLING
        with pytest.raises(JobCancelled, match="was cancelled: no need any more") as caught:
            await job.result()
        assert caught.value.__notes__ == ["its coroutine was cancelled"]
        assert seen == ["it began", "it left"]
        assert await (await client.submit(echo, 5)).result() == 5
        assert await job.cancel() is JobState.CANCELLED


async def test_clean_up_runs_under_a_shield_and_the_slot_is_taken_until_it_is_done(autojump_clock):
    async with open_cluster([tidy, echo], concurrency=1) as cluster, cluster.client() as client:
        job = await client.submit(tidy, 3.0)
        await has_begun()
        waiting = await client.submit(echo, 1)
        await job.cancel()
        await trio.sleep(2)
        assert await job.status() is JobState.CANCELLING
        assert await waiting.status() is JobState.QUEUED
        assert await how(client, job) == ["its coroutine was cancelled"]
        assert "tidied up" in seen
        assert await waiting.result() == 1


async def test_clean_up_has_a_bound(autojump_clock):
    async with open_cluster([tidy]) as cluster, cluster.client() as client:
        job = await client.submit(tidy, 1000.0)
        await has_begun()
        began_at = trio.current_time()
        await job.cancel()
        assert await how(client, job)
        assert trio.current_time() - began_at < 6
        assert "tidied up" not in seen


async def test_what_a_body_raises_on_its_way_out_is_how_it_has_failed(autojump_clock):
    async with open_cluster([breaks]) as cluster, cluster.client() as client:
        job = await client.submit(breaks.with_options(retries=5))
        await has_begun()
        await job.cancel()
        with pytest.raises(JobFailed, match="broken on the way out"):
            await job.result()


async def test_who_asks_to_run_again_and_is_cancelled_does_not(autojump_clock):
    async with open_cluster([again]) as cluster, cluster.client() as client:
        job = await client.submit(again)
        await has_begun()
        await job.cancel("enough")
        with pytest.raises(JobCancelled, match="was cancelled: enough"):
            await job.result()
        await trio.sleep(60)
        assert seen == ["began"]


async def test_a_thread_that_sees_it_leaves_and_is_recorded_as_cancelled():
    async with open_cluster([polls, raises]) as cluster, cluster.client() as client:
        for number, one in enumerate((polls, raises), 1):
            job = await client.submit(one)
            await has_begun(number)
            assert await job.cancel() is JobState.CANCELLING
            assert await how(client, job) == ["its thread saw that it was cancelled, and left"]


async def test_a_thread_that_never_looks_is_done_all_the_same():
    async with open_cluster([deaf, echo], concurrency=1) as cluster, cluster.client() as client:
        job = await client.submit(deaf)
        await has_begun()
        assert await job.cancel() is JobState.CANCELLING
        waiting = await client.submit(echo, 1)
        assert await waiting.status() is JobState.QUEUED
        seen.append("go on")
        assert await job.result() == "all of it"
        assert await waiting.result() == 1


async def test_the_record_of_a_job_whose_body_ignores_its_cancel_says_so(autojump_clock):
    async with open_cluster([stays, breaks]) as cluster, cluster.client() as client:
        for number, (one, state, why) in enumerate(
            [(stays, "succeeded", "not wanted"), (breaks, "failed", "")], 1
        ):
            job = await client.submit(one)
            await has_begun(number)
            assert (await client.ask("job", {"id": job.id_bytes}))["cancelled"] is None
            assert await job.cancel(why) is JobState.CANCELLING
            with suppress(JobFailed):
                assert await job.result() == "all of it"
            shown = await client.ask("job", {"id": job.id_bytes})
            assert (shown["state"], shown["cancelled"]) == (state, why)
            assert "cancelled" not in shown["options"]


async def test_a_worker_warns_once_of_a_body_that_has_not_left_in_its_time(autojump_clock, caplog):
    async with open_cluster([stays, tidy]) as cluster, cluster.client() as client:
        jobs = [await client.submit(stays), await client.submit(tidy, 1.0)]
        await has_begun(2)
        for job in jobs:
            await job.cancel("not wanted")
        await jobs[0].result()
        said = [record.message for record in caplog.records if "has not left" in record.message]
        (warning,) = said
        assert warning.startswith(
            f"stays (job {jobs[0].id}) was cancelled (not wanted), and its body has not left 5 s"
        )


@pytest.mark.parametrize("after_s", [0.0, 2.0])
async def test_a_worker_warns_once_of_a_body_that_it_is_told_of_again_by_a_plane_that_restarts(
    autojump_clock, caplog, after_s
):
    async with open_cluster([lingers]) as cluster, cluster.client() as client:
        job = await client.submit(lingers)
        await has_begun()
        await job.cancel("not wanted")
        await trio.sleep(after_s)
        await cluster.kill_plane()
        await cluster.start_plane()
        with pytest.raises(JobCancelled):
            await job.result()
        said = [record for record in caplog.records if "has not left" in record.message]
        assert len(said) == 1


async def test_a_thread_that_waits_for_a_job_of_its_own_is_woken():
    async with open_cluster([waits, long]) as cluster, cluster.client() as client:
        job = await client.submit(waits)
        await has_begun(2)
        await job.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            await job.result()


async def test_an_attempt_that_has_not_begun_is_cancelled_at_once(autojump_clock):
    async with open_cluster([long, echo], concurrency=1) as cluster, cluster.client() as client:
        for _ in range(50):
            await (await client.submit(echo, 1)).result()
        first = await client.submit(long)
        await has_begun()
        jobs = await client.submit_many(echo, [(i,) for i in range(5)])
        for job in jobs:
            assert await job.cancel() in (JobState.CANCELLED, JobState.CANCELLING)
            with pytest.raises(JobCancelled):
                await job.result()
        await first.cancel()


async def test_a_thousand_running_jobs_on_two_workers_all_see_it_and_free_their_slots(
    autojump_clock,
):
    async with (
        open_cluster([long, echo], workers=2, concurrency=500) as cluster,
        cluster.client() as client,
    ):
        jobs = await client.submit_many(long, [(str(i),) for i in range(1000)])
        await has_begun(1000)
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job.cancel)
        for job in jobs:
            with pytest.raises(JobCancelled):
                await job.result()
        assert sum("left" in word for word in seen) == 1000
        echoes = await client.submit_many(echo, [(i,) for i in range(1000)])
        assert [await job.result() for job in echoes] == list(range(1000))


async def test_a_cancel_outlives_a_restart_of_the_plane(autojump_clock):
    async with open_cluster([tidy]) as cluster, cluster.client() as client:
        job = await client.submit(tidy, 4.0)
        await has_begun()
        assert await job.cancel("in the middle") is JobState.CANCELLING
        await cluster.kill_plane()
        await cluster.start_plane()
        with pytest.raises(JobCancelled, match="in the middle"):
            await job.result()


async def test_a_withdrawal_leaves_alone_what_was_accepted_whether_it_runs_or_waits(autojump_clock):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        runs = await client.submitted(1, flags=m.WATCH)
        await worker.ready("echo", slots=1)
        offer = await worker.hear(m.Offer)
        waits = await client.submitted(2, flags=m.WATCH)
        await client.say(m.Cancel(7, [runs.id, waits.id, b"x" * 16], "late", is_withdrawal=True))
        answer = await client.hear(m.Answer)
        assert answer.body == [JobState.RUNNING, JobState.QUEUED, None]
        await worker.hears_nothing(m.Stop, 10)
        await worker.finish(offer)
        await worker.finish(await worker.hear(m.Offer))
        for job in (runs, waits):
            ended = await client.hear(m.Ended)
            assert (ended.id, ended.state) == (job.id, JobState.SUCCEEDED)


async def test_a_withdrawal_leaves_what_waits_in_the_store_there(autojump_clock):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        job = await submitted_later(client, 1, 100.0)
        await client.say(m.Cancel(7, [job.id], "late", is_withdrawal=True))
        assert (await client.hear(m.Answer)).body == [JobState.DELAYED]
        await worker.ready("echo", slots=1)
        assert (await worker.hear(m.Offer)).seq == 1


class SlowDisk(DiskLike):
    """Takes so long for each commit."""

    seconds = 0.0

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        await trio.sleep(self.seconds)
        return await super().commit(batch)


async def test_a_submission_that_is_accepted_while_it_is_withdrawn_runs(autojump_clock):
    store = SlowDisk()
    async with (
        open_cluster([echo], make_store=lambda: store, workers=0) as cluster,
        cluster.client(timeout=30.0) as client,
    ):
        store.seconds = 31.5
        handle = await client.submit(echo, 7)
        store.seconds = 0.0
        await cluster.add_worker()
        assert await handle.result(timeout=300) == 7


async def test_who_gives_up_a_unique_job_takes_it_from_nobody_else(autojump_clock):
    one = echo.with_options(unique=True)
    store = SlowDisk()
    async with (
        open_cluster([echo], make_store=lambda: store, workers=0) as cluster,
        cluster.client(timeout=1.0) as hasty,
        cluster.client(timeout=60.0) as patient,
    ):
        store.seconds = 2.0

        async def give_up() -> None:
            with suppress(SubmissionUncertain):
                await hasty.submit(one, 7)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.sleep(0.1)
            handle = await patient.submit(one, 7)
        await cluster.add_worker()
        assert await handle.result(timeout=300) == 7


@pytest.mark.parametrize("is_back", [True, False])
async def test_a_cancel_reaches_a_worker_that_is_away_or_ends_with_it(autojump_clock, is_back):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
    ):
        job = await client.submitted(1, flags=m.WATCH)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
        await client.say(m.Cancel(7, [job.id], "not wanted"))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLING]
        held = [[offer.seq, offer.epoch, offer.attempt]] if is_back else []
        async with worker.connected(**LISTENING, held=held):
            await worker.ready("echo", slots=1)
            if is_back:
                stop = await worker.hear(m.Stop)
                assert (stop.seq, stop.why) == (offer.seq, "not wanted")
                await worker.finish(offer, state=JobState.CANCELLED)
            ended = await client.hear(m.Ended)
            assert ended.state == JobState.CANCELLED
            if not is_back:
                failure = Failure.from_data(decode_value(ended.outcome))
                assert failure.message == "not wanted"
            await worker.hears_nothing(m.Offer, 100)


@pytest.mark.parametrize("is_back", [True, False])
async def test_why_a_running_job_was_cancelled_outlives_the_plane(autojump_clock, is_back):
    store = DiskLike()
    options = {"headers": {"of": "mine"}}
    async with open_house(patient(), lambda: store) as house:
        worker = house.worker()
        async with house.client().connected() as client:
            async with worker.connected(**LISTENING):
                await worker.ready("echo", slots=1)
                job = await client.submitted(1, options=options)
                offer = await worker.hear(m.Offer)
            await client.say(m.Cancel(7, [job.id], "not wanted"))
            assert (await client.hear(m.Answer)).body == [JobState.CANCELLING]
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        shown = await client.ask("job", id=job.id)
        assert (shown["state"], shown["headers"]) == ("cancelling", {"of": "mine"})
        worker.listener = house.listener
        held = [[offer.seq, offer.epoch, offer.attempt]] if is_back else []
        async with worker.connected(**LISTENING, held=held):
            await client.say(m.Watch([job.id]))
            await worker.ready("echo", slots=1)
            if is_back:
                assert (await worker.hear(m.Stop)).why == "not wanted"
                await worker.finish(offer, state=JobState.CANCELLED)
            ended = await client.hear(m.Ended)
            assert ended.state == JobState.CANCELLED
            if not is_back:
                failure = Failure.from_data(decode_value(ended.outcome))
                assert failure.message == "not wanted"
            # It was said of this job, and holds of no other that is made of it.
            await client.ask("retry", ids=[job.id])
            again = await worker.hear(m.Offer)
            assert again.options == {"headers": {"of": "mine"}}


async def test_an_at_most_once_job_that_is_cancelled_before_it_is_offered_is_not(autojump_clock):
    store = DiskLike()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=0)
        job = await client.submitted(1, options={"delivery": "at-most-once"})
        store.is_full = True
        await worker.say(m.Capacity(1, 0))
        await trio.sleep(0.5)
        await client.say(m.Cancel(7, [job.id], ""))
        await trio.sleep(5)
        store.is_full = False
        assert (await client.hear(m.Answer)).body[0] in (JobState.CANCELLING, JobState.CANCELLED)
        await worker.hears_nothing(m.Offer, 10)
        assert (await client.ask("job", id=job.id))["state"] == "cancelled"


@pytest.mark.parametrize("name", ["polls", "raises"])
async def test_a_thread_that_leaves_because_its_worker_does_runs_again_elsewhere(name):
    async with open_cluster([polls, raises], workers=0) as cluster, cluster.client() as client:
        first = await cluster.add_worker("first")
        job = await client.delay(name)
        await has_begun()
        first.begin_drain("a new version is out")
        first.begin_drain("at once")
        await cluster.add_worker("second")
        await has_begun(2)
        assert await job.cancel() is JobState.CANCELLING
        with pytest.raises(JobCancelled):
            await job.result()
