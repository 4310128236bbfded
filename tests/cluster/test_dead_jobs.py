"""Dead jobs: what is one, how long it is kept, and how it runs again or is let be."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_delays import patient
from tests.cluster.test_windows import LISTENING, DiskLike, number

from creche import JobFailed, JobNotDead, JobState, ResultForgotten, UnknownJob
from creche.engine import journal
from creche.engine.settings import PlaneSettings
from creche.errors import BadFilter, InvalidArguments, StoreFull, SubmissionRefused
from creche.model.ids import id_from_text
from creche.peer import dead as commands
from creche.store.base import Batch, Retention
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import decode_call

pytestmark = pytest.mark.trio

BROKEN = {"type": "builtins.ValueError", "message": "bad"}

began: list[tuple[float, Any]] = []
is_broken = True


@pytest.fixture(autouse=True)
def _as_it_was() -> None:
    global is_broken
    is_broken = True
    began.clear()


@task(registry=Registry(), timeout=50)
async def fetch(host: str, port: int = 80) -> str:
    began.append((trio.current_time(), host))
    if is_broken:
        raise ConnectionError(f"no route to {host}")
    return f"{host}:{port}"


def mend() -> None:
    global is_broken
    is_broken = False


async def fail(client: Any, *hosts: str) -> list[Any]:
    jobs = [await client.submit(fetch, host) for host in hosts]
    for job in jobs:
        with pytest.raises(JobFailed):
            await job.result(600)
    return jobs


async def test_failed_lost_and_expired_jobs_are_dead_and_cancelled_ones_are_not(
    autojump_clock: object,
) -> None:
    settings = PlaneSettings(max_losses=1)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        await client.submitted(1, options={"limits": {"expires_s": 5.0}}, task="nobody's")
        cancelled = await client.submitted(2, task="nobody's")
        await client.say(m.Cancel(1, [cancelled.id], ""))
        once = {"delivery": "at-most-once"}
        await client.submitted(3)
        await client.submitted(4)
        await client.submitted(5, options=once)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo", slots=3)
            offers = [await worker.hear(m.Offer) for _ in range(3)]
            failed = next(offer for offer in offers if number(offer) == 3)
            await worker.finish(failed, BROKEN, state=JobState.FAILED)
        await trio.sleep(100)
        async with house.client("asker").connected() as asker:
            jobs = (await asker.ask("jobs", filter="fate:dead"))["jobs"]
        assert [(job["state"], job["fate"]) for job in jobs] == [
            ("lost", "dead"), ("failed", "dead"), ("failed", "dead"), ("expired", "dead"),
        ]  # fmt: skip
        assert [job["error"].partition(":")[0] for job in jobs] == [
            "creche.JobLost", "creche.WorkerLost", "builtins.ValueError", "creche.Expired",
        ]  # fmt: skip
        assert "set aside: 1 workers were lost with it" in jobs[1]["error"]
        assert jobs[1]["losses"] == 1


async def test_a_dead_job_that_is_retried_runs_as_a_new_job_that_both_name(
    autojump_clock: object,
) -> None:
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        (job,) = await fail(client, "mars")
        (dead,) = await client.dead_jobs()
        assert dead["id"] == job.id
        assert dead["error"] == "ConnectionError: no route to mars"
        mend()
        again = await client.retry(job)
        assert again.id != job.id
        assert await again.result(60) == "mars:80"
        assert await client.dead_jobs() == []
        # The old one stays as it ended, for whoever waits for it.
        with pytest.raises(JobFailed):
            await client.job(job.id).result(60)
        (old,) = await client.jobs(f"id:{job.id} fate:retried")
        assert (old["state"], old["retried_as"]) == ("failed", again.id)
        new = await client.ask("job", {"id": id_from_text(again.id)})
        assert new["options"]["retry_of"] == job.id
        assert (new["attempt"], new["losses"]) == (1, 0)


async def test_a_retry_that_is_said_again_makes_no_second_job(autojump_clock: object) -> None:
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        (job,) = await fail(client, "mars")
        mend()
        first = await client.retry(job)
        await first.result(60)
        assert (await client.retry(job)).id == first.id
        both = [None, None]

        async def retry(place: int) -> None:
            both[place] = (await client.retry(job)).id

        async with trio.open_nursery() as nursery:
            nursery.start_soon(retry, 0)
            nursery.start_soon(retry, 1)
        assert both == [first.id] * 2
        assert [host for _, host in began] == ["mars", "mars"]


async def test_a_retry_may_have_other_arguments_once(autojump_clock: object) -> None:
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        (job,) = await fail(client, "mars")
        mend()
        again = await client.retry(job, args=["venus"], kwargs={"port": 8080})
        assert await again.result(60) == "venus:8080"
        assert (await client.retry(job, args=["venus"], kwargs={"port": 8080})).id == again.id
        for others in ({}, {"args": ["pluto"]}):
            with pytest.raises(JobNotDead, match=f"with other arguments, as {again.id}"):
                await client.retry(job, **others)
        assert [host for _, host in began] == ["mars", "venus"]


async def test_a_job_that_fails_again_is_dead_again_and_can_be_retried(
    autojump_clock: object,
) -> None:
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        (job,) = await fail(client, "mars")
        second = await client.retry(job)
        with pytest.raises(JobFailed):
            await second.result(60)
        (dead,) = await client.dead_jobs("error:mars")
        assert dead["id"] == second.id
        mend()
        third = await client.retry(second)
        assert await third.result(60) == "mars:80"
        assert len({job.id, second.id, third.id}) == 3


async def test_what_cannot_be_retried_says_why(autojump_clock: object) -> None:
    settings = PlaneSettings(retention=Retention(0, None, None, dead_max_count=0, tombstone_s=1e6))
    async with open_cluster([fetch], settings=settings) as cluster, cluster.client() as client:
        (job,) = await fail(client, "mars")
        mend()
        waiting = await client.delay("nobody's")
        done = await client.submit(fetch, "venus")
        await done.result(60)
        with pytest.raises(JobNotDead, match="it has not ended"):
            await client.retry(waiting)
        with pytest.raises(JobNotDead, match="it has a result"):
            await client.retry(done)
        with pytest.raises(JobNotDead, match="not one of the dead"):
            await client.discard(waiting)
        unknown = "01a3185c-5000-7000-8000-000000000001"
        for verb in (client.retry, client.discard):
            with pytest.raises(UnknownJob, match=unknown):
                await verb(unknown)
            with pytest.raises(UnknownJob):
                await verb("no id")
        with pytest.raises(BadFilter, match="there is no key 'host'"):
            await client.retry_dead("host:mars")
        # A shell, or a program, has nothing in a variable that was not set.
        for in_bulk in (client.retry_dead, client.discard_dead):
            for blank in ("", " "):
                with pytest.raises(BadFilter, match="it is blank, and would mean every dead job"):
                    await in_bulk(blank)
        await trio.sleep(100)  # it is pruned, as this plane keeps nothing
        for verb in (client.retry, client.discard):
            with pytest.raises(ResultForgotten):
                await verb(job)


async def test_a_job_that_was_set_aside_begins_anew_without_losses(
    autojump_clock: object,
) -> None:
    settings = PlaneSettings(max_losses=2)
    async with open_house(settings, DiskLike) as house:
        async with house.client().connected() as client:
            await client.submitted(1)
            for incarnation in range(2):
                worker = house.worker(f"worker-{incarnation}")
                async with worker.connected(**LISTENING):
                    await worker.ready("echo")
                    await worker.hear(m.Offer)
                await trio.sleep(16)
        async with house.client("later").connected() as client:
            (dead,) = (await client.ask("jobs", filter="fate:dead losses:2"))["jobs"]
            assert "set aside: 2 workers were lost with it" in dead["error"]
            (answer,) = (await client.ask("retry", ids=[id_from_text(dead["id"])]))["jobs"]
            worker = house.worker("worker-3")
            async with worker.connected(**LISTENING):
                await worker.ready("echo")
                offer = await worker.hear(m.Offer)
                assert (offer.id, offer.attempt) == (id_from_text(answer["retried_as"]), 1)
            await trio.sleep(16)
            # One loss is one: it is offered again.
            assert (await client.ask("jobs", filter="fate:dead"))["jobs"] == []
            (again,) = (await client.ask("jobs", filter="state:queued,parked"))["jobs"]
            assert again["losses"] == 1


async def test_a_cancelled_job_can_be_retried_by_its_id(autojump_clock: object) -> None:
    mend()
    async with open_cluster([fetch], workers=0) as cluster, cluster.client() as client:
        job = await client.submit(fetch, "mars")
        assert await job.cancel() is JobState.CANCELLED
        assert await client.dead_jobs() == []
        await cluster.add_worker()
        assert await (await client.retry(job)).result(60) == "mars:80"


async def test_a_discarded_job_leaves_the_set_and_keeps_its_record(
    autojump_clock: object,
) -> None:
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        jobs = await fail(client, "mars", "venus", "pluto")
        await client.discard(jobs[0])
        await client.discard(jobs[0])
        assert [dead["id"] for dead in await client.dead_jobs()] == [jobs[2].id, jobs[1].id]
        (old,) = await client.jobs("fate:discarded")
        assert (old["id"], old["state"]) == (jobs[0].id, "failed")
        assert await client.discard_dead("error:VENUS,mars") == 1
        assert [dead["id"] for dead in await client.dead_jobs()] == [jobs[2].id]
        mend()
        assert await (await client.retry(jobs[0])).result(60) == "mars:80"


async def test_many_dead_jobs_are_retried_by_a_filter_at_a_set_rate(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PAGE", 50)
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        hosts = [f"{'mars' if n % 2 else 'venus'}-{n}" for n in range(130)]
        await fail(client, *hosts)
        assert len(await client.dead_jobs(limit=5000)) == 130
        mend()
        began.clear()
        start = trio.current_time()
        assert await client.retry_dead("error:mars", rate=10) == 65
        while len(await client.jobs("state:succeeded", limit=1000)) < 65:
            await trio.sleep(1)
        lags = [at - start - place / 10 for place, (at, _) in enumerate(sorted(began))]
        assert all(-0.2 <= lag <= 2 for lag in lags), (min(lags), max(lags))
        assert {host.partition("-")[0] for _, host in began} == {"mars"}
        assert len(began) == len({host for _, host in began}) == 65
        assert len(await client.dead_jobs(limit=5000)) == 65
        with pytest.raises(InvalidArguments, match="rate: '50' is no rate: write a number"):
            await client.retry_dead(rate="50")
        assert await client.retry_dead(rate="6000/m") == 65
        assert await client.retry_dead() == 0


async def test_a_retry_that_was_answered_outlives_the_plane(autojump_clock: object) -> None:
    async with open_cluster([fetch]) as cluster, cluster.client() as client:
        (job,) = await fail(client, "mars")
        mend()
        again = await client.retry(job)
        await cluster.kill_plane()
        await cluster.start_plane()
        assert await again.result(120) == "mars:80"
        assert (await client.retry(job)).id == again.id
        assert (await client.jobs("fate:retried"))[0]["id"] == job.id


class Full(DiskLike):
    """A disk that takes no new jobs while it is full."""

    is_small = False

    async def commit(self, batch: Batch) -> Any:
        if self.is_small and batch.jobs:
            await trio.lowlevel.checkpoint()
            raise StoreFull("no space left")
        return await super().commit(batch)


@pytest.mark.parametrize("batch_bytes", [1, journal.BATCH_BYTES], ids=["small", "usual"])
async def test_what_a_full_disk_does_not_take_stays_dead(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, batch_bytes: int
) -> None:
    monkeypatch.setattr(journal, "BATCH_BYTES", batch_bytes)
    stores: list[Full] = []

    def make() -> Full:
        stores.append(Full())
        return stores[-1]

    async with open_house(patient(), make) as house, house.client().connected() as client:
        await client.submitted(1)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            offer = await worker.hear(m.Offer)
            await worker.finish(offer, BROKEN, state=JobState.FAILED)
            await trio.sleep(1)
            stores[-1].is_small = True
            answer = await client.ask("retry", ids=[offer.id])
            assert answer == {"jobs": [{"why": "store-full"}]}
            stores[-1].is_small = False
            assert len((await client.ask("jobs", filter="fate:dead"))["jobs"]) == 1
            await trio.sleep(5)
            (answer,) = (await client.ask("retry", ids=[offer.id]))["jobs"]
            assert answer["is_new"]
            offer = await worker.hear(m.Offer)
            assert id_from_text(answer["retried_as"]) == offer.id
            assert decode_call(offer.payload) == decode_call(client.submit(1).payload)


@pytest.mark.parametrize(
    ("question", "params", "why"),
    [
        ("retry", {"ids": []}, "1 to 1,000"),
        ("retry", {"ids": [b"x"]}, "16 bytes"),
        ("retry", {"ids": [b"x" * 16] * 2}, "twice"),
        ("retry", {"ids": [b"x" * 16, b"y" * 16], "payload": b""}, "name one id"),
        ("retry", {"ids": [b"x" * 16], "payload": "text"}, "payload is the arguments"),
        ("retry", {"ids": [b"x" * 16], "rate": 0}, "rate is a number of jobs a second"),
        ("retry", {"ids": [b"x" * 16], "after_s": -1}, "after_s is a number of seconds"),
        ("retry", {"ids": [b"x" * 16], "keys": ["a", "b"]}, "keys are two texts"),
        ("retry", {"ids": [b"x" * 16], "payload": b"", "keys": ["a"]}, "keys are two texts"),
        ("retry", {"ids": [b"x" * 16], "payload": b"", "keys": 5}, "keys are two texts"),
        ("retry", {"ids": [b"x" * 16], "unique": {"key": "a"}}, "unique is what tells"),
        ("retry", {"ids": [b"x" * 16], "payload": b"", "unique": 5}, "unique has a key"),
        (
            "retry",
            {"filter": "state:failed"},
            "retry takes ids, payload, keys, unique, rate, after_s",
        ),
        ("discard", {"ids": [b"x" * 16], "rate": 5}, "discard takes ids"),
    ],
)
async def test_a_command_that_cannot_be_is_refused(
    autojump_clock: object, question: str, params: dict[str, Any], why: str
) -> None:
    async with open_house() as house, house.client().connected() as client:
        await client.say(m.Ask(1, question, params))
        failed = await client.hear(m.AskFailed)
        assert failed.code == "bad-question"
        assert why in failed.why


async def test_a_retried_job_leaves_behind_what_was_said_of_the_first_alone(
    autojump_clock: object,
) -> None:
    async with open_house(patient(), DiskLike) as house, house.client().connected() as client:
        now = house.core.now()
        options = {
            "delay_s": 5.0,
            "limits": {"deadline_at": now + 50, "timeout_s": 9.0},
            "retry": {"retries": 0},
        }
        await client.submitted(1, options=options, priority=1)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            offer = await worker.hear(m.Offer)
            await worker.finish(offer, BROKEN, state=JobState.FAILED)
            await trio.sleep(100)  # its deadline is over
            (answer,) = (await client.ask("retry", ids=[offer.id]))["jobs"]
            new = await worker.hear(m.Offer)
            assert (new.id, new.priority) == (id_from_text(answer["retried_as"]), offer.priority)
            job = await client.ask("job", id=new.id)
            assert job["options"] == {
                "limits": {"timeout_s": 9.0},
                "retry": {"retries": 0},
                "retry_of": (await client.ask("job", id=offer.id))["id"],
            }
            assert number(new) == 1


def by_host(host: str, port: int = 80) -> str:
    return host.upper()


@task(registry=Registry(), limit=1, key=by_host)
async def keyed(host: str, port: int = 80) -> str:
    if host == "mars":
        raise ConnectionError("no route to mars")
    return f"{host}:{port}"


async def test_other_arguments_of_a_task_that_computes_its_key_need_the_task(
    autojump_clock: object,
) -> None:
    async with open_cluster([keyed, fetch]) as cluster, cluster.client() as client:
        job = await client.submit(keyed, "mars")
        with pytest.raises(JobFailed):
            await job.result()
        with pytest.raises(SubmissionRefused, match="task=resize") as refused:
            await client.retry(job, args=["venus"])
        assert refused.value.code == "bad-key"
        with pytest.raises(InvalidArguments, match=r"is one of task '.*keyed', and not of"):
            await client.retry(job, args=["venus"], task=fetch)
        with pytest.raises(InvalidArguments):
            await client.retry(job, args=[], task=keyed)
        # With the arguments that it had, its key is known.
        again = await client.retry(await fail_again(client, job), args=["venus"], task=keyed)
        assert await again.result() == "venus:80"
        shown = await client.ask("job", {"id": id_from_text(again.id)})
        assert shown["options"]["keys"] == ["VENUS", ""]


async def fail_again(client: Any, job: Any) -> Any:
    again = await client.retry(job)
    with pytest.raises(JobFailed):
        await again.result()
    return again
