"""What a body can know of its job: headers, deadline, logger, and that it should come to an end."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_delays import patient
from tests.cluster.test_windows import LISTENING, DiskLike

from creche import JobCancelled
from creche.errors import TaskDefinitionError
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.worker.context import current_job

pytestmark = pytest.mark.trio


@task(registry=Registry(), retries=1, backoff=5)
async def headers_at_last() -> dict[str, Any]:
    job = current_job()
    if job.attempt == 1:
        raise ConnectionError("not yet")
    return job.headers


@task(registry=Registry())
def headers_in_a_thread() -> dict[str, Any]:
    return current_job().headers


@task(registry=Registry())
async def logs(name: str) -> None:
    job = current_job()
    assert job.scope is None
    job.logger.info("hello %s", name)
    job.logger.warning("100 % done", extra={"step": 3})


begun = threading.Event()


@task(registry=Registry())
def looks_whether_it_is_late() -> str:
    begun.set()
    while not current_job().is_late:
        threading.Event().wait(0.001)
    return "came to an end"


@task(registry=Registry())
def double(n: int) -> int:
    return 2 * n


@task(registry=Registry())
def asks_its_handles(n: int) -> list[Any]:
    verbs = current_job().blocking
    first = verbs.submit(double, n)
    sent = verbs.send("double", [n + 1], idempotency_key="k", priority=5)
    again = verbs.send(double.with_options(idempotency_key="k"), [n + 1])
    (third,) = verbs.submit_many(double, [(n + 2,)])
    results = [job.result(timeout=60) for job in (first, sent, third)]
    return [*results, first.status().name, verbs.cancel(third.id).name, again == sent]


HEADERS = {"trace": "abc", "tenant": 7}


async def test_headers_reach_the_body_in_each_try_and_stand_in_the_record(autojump_clock):
    async with open_cluster([headers_at_last]) as cluster, cluster.client() as client:
        view = headers_at_last.with_options(headers={"trace": "x"}).with_options(headers=HEADERS)
        job = await client.submit(view)
        assert await job.result() == HEADERS
        record = await client.ask("job", {"id": job.id_bytes})
        assert record["headers"] == HEADERS
        plain = await client.submit(headers_at_last)
        assert await plain.result() == {}
        assert (await client.ask("job", {"id": plain.id_bytes}))["headers"] == {}


fences: list[tuple[int, int]] = []


@task(registry=Registry(), retries=2, backoff=1)
async def is_fenced() -> None:
    fences.append(current_job().fence)
    if len(fences) < 3:
        raise ConnectionError("not yet")


async def test_each_attempt_has_a_greater_fence_than_the_one_before(autojump_clock):
    fences.clear()
    async with open_cluster([is_fenced]) as cluster, cluster.client() as client:
        job = await client.submit(is_fenced)
        await trio.sleep(1)
        await cluster.kill_plane()
        await cluster.start_plane()
        await job.result()
    assert len(fences) == 3
    assert fences[0] < fences[1] < fences[2]


async def test_a_thread_sees_them_too():
    async with open_cluster([headers_in_a_thread]) as cluster, cluster.client() as client:
        job = await client.submit(headers_in_a_thread.with_options(headers=HEADERS))
        assert await job.result() == HEADERS


async def test_headers_of_a_job_that_waited_in_the_store_are_still_there(autojump_clock):
    options = {"headers": HEADERS}
    async with (
        open_house(patient(window=1), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        for number in range(5):
            await client.submitted(number, options=options)
        await worker.ready("echo", slots=5)
        offers = [await worker.hear(m.Offer) for _ in range(5)]
        assert [offer.options for offer in offers] == [options] * 5


@pytest.mark.parametrize("headers", [5, {"a": [1]}, {"a": "x" * 10_000}], ids=["5", "list", "long"])
async def test_what_are_no_headers_is_refused_at_both_ends(autojump_clock, headers):
    with pytest.raises(TaskDefinitionError, match="header"):
        logs.with_options(headers=headers)
    async with open_house() as house, house.client().connected() as client:
        await client.say(client.submit(1, options={"headers": headers}))
        assert (await client.hear(m.Declined)).code == "bad-headers"
        await client.submitted(2)


async def test_the_jobs_logger_names_task_job_and_attempt(autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    async with open_cluster([logs]) as cluster, cluster.client() as client:
        job = await client.submit(logs, "you")
        await job.result()
    records = [record for record in caplog.records if record.name == "creche.job"]
    assert [record.getMessage() for record in records] == [
        f"logs {job} (attempt 1): hello you",
        f"logs {job} (attempt 1): 100 % done",
    ]
    facts = vars(records[1])
    assert (facts["task"], facts["job_id"], facts["attempt"]) == ("logs", str(job), 1)
    assert facts["step"] == 3


async def test_a_thread_that_asks_whether_it_is_late_has_seen_that_it_was_cancelled():
    begun.clear()
    async with open_cluster([looks_whether_it_is_late]) as cluster, cluster.client() as client:
        job = await client.submit(looks_whether_it_is_late)
        with trio.fail_after(60):
            await trio.to_thread.run_sync(begun.wait)
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result()


async def test_a_handle_of_a_thread_blocks_as_those_of_a_blocking_client_do():
    async with open_cluster([asks_its_handles, double]) as cluster, cluster.client() as client:
        job = await client.submit(asks_its_handles, 1)
        assert await job.result() == [2, 4, 6, "SUCCEEDED", "SUCCEEDED", True]
