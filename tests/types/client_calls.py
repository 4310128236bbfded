"""What type checkers know of waiting, asking and the blocking client. Never run: mypy and pyright
judge each line, and report an ignore that is not needed.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ParamSpec, TypeVar, assert_type

import creche
from creche import (
    BlockingClient,
    BlockingJobHandle,
    Client,
    JobHandle,
    JobState,
    Priority,
    Task,
    TaskPriority,
    current_job,
    task,
)

P = ParamSpec("P")
R = TypeVar("R")


@task
def count(text: str, *, limit: int = 10) -> int:
    return min(len(text), limit)


@task
async def fetch(url: str) -> bytes:
    return url.encode()


# --- a client's life ----------------------------------------------------------------------------


async def a_client_is_opened_and_gives_itself() -> None:
    async with Client("ws://plane:5570", timeout=None, name="shop") as client:
        assert_type(client, Client)
    client = Client()
    assert_type(await client.start(), None)
    client.stop()
    await client.stop()  # type: ignore[func-returns-value, misc]
    Client(retries=3)  # type: ignore[call-arg]


# --- waiting and asking -------------------------------------------------------------------------


async def a_result_has_the_type_of_its_handle(client: Client) -> None:
    handle = await client.submit(count, "a")
    assert_type(await handle.result(), int)
    assert_type(await client.result(handle), int)
    assert_type(await client.result(handle, timeout=3), int)
    assert_type(await client.result("some id"), Any)
    assert_type(client.job("some id"), JobHandle[Any])
    assert_type(await client.status(handle), JobState)
    assert_type(await client.cancel("some id", "why"), JobState)
    assert_type(await client.cancel_many([handle, "some id"]), list[JobState | None])
    assert_type(await client.ask("health"), Any)
    assert_type(json.dumps({"job": handle}), str)
    found: dict[str, int] = {handle: 1}
    assert_type(found[handle.id], int)


async def handles_come_as_their_jobs_end(client: Client) -> None:
    handles = await client.submit_many(count, [("a",), {"text": "b"}])
    async for handle in client.as_completed(handles, timeout=5):
        assert_type(handle, JobHandle[int])
    async for number in client.map(count, ["a"], ordered=False):
        assert_type(number, int)
    async for anything in client.map("count", [1, "a"]):
        assert_type(anything, Any)


# --- synchronous code ---------------------------------------------------------------------------


def the_blocking_client_knows_the_same_types(client: BlockingClient) -> None:
    handle = client.submit(count, "a", limit=3)
    assert_type(handle, BlockingJobHandle[int])
    assert_type(handle.result(timeout=3), int)
    assert_type(handle.status(), JobState)
    assert_type(handle.cancel(), JobState)
    assert_type(client.result(handle), int)
    assert_type(client.result("some id"), Any)
    assert_type(client.submit(fetch, "a").result(), bytes)
    assert_type(client.delay(count, "a", priority=TaskPriority.CRITICAL), BlockingJobHandle[int])
    assert_type(client.delay("count", "a", priority="high"), BlockingJobHandle[Any])
    assert_type(client.submit_many(fetch, [("a",)]), list[BlockingJobHandle[bytes]])
    assert_type(client.map(fetch, ["a", "b"]), Iterator[bytes])
    assert_type(client.map("fetch", ["a", 2]), Iterator[Any])
    for done in client.as_completed([handle]):
        assert_type(done, BlockingJobHandle[int])
    with BlockingClient() as opened:
        assert_type(opened, BlockingClient)


def wrong_calls_are_rejected(client: BlockingClient) -> None:
    client.submit(count)  # type: ignore[call-arg]
    client.submit(count, 3)  # type: ignore[arg-type]
    client.submit(count, "a", 3)  # type: ignore[call-arg]
    client.submit("count", "a")  # type: ignore[arg-type]
    client.map(count, [1, 2])  # type: ignore[arg-type]
    client.delay(len)  # type: ignore[call-overload]
    client.delay("count", priority=3.5)  # type: ignore[call-overload]
    client.submit(count, "a").result().upper()  # type: ignore[attr-defined]
    client.submit(count.with_options(idempotency_key=5), "a")  # type: ignore[arg-type]
    client.send("count", ["a"], idempotency="k")  # type: ignore[call-overload]
    client.send("count", 3)  # type: ignore[call-overload]
    client.send("count", ["a"], priority="urgent")  # type: ignore[call-overload]
    client.send("count", ["a"], headers="x")  # type: ignore[call-overload]
    client.delay("count", "a", priority="urgent")  # type: ignore[call-overload]
    client.submit_many(count, [("a",)], idempotency_key="k")  # type: ignore[call-overload]
    client.submit(count, "a").is_existing()  # type: ignore[operator]
    client.resize_worker("w", "3")  # type: ignore[arg-type]


async def sending_takes_names_tasks_and_the_options_of_a_view(client: Client) -> None:
    assert_type(await client.send(count, ["a"], idempotency_key="k"), JobHandle[int])
    assert_type(await client.send("count", ["a"], unique=False, priority=5), JobHandle[Any])
    assert_type(await client.delay(count, "a", priority=5), JobHandle[int])


def jobs_submit_as_clients_do() -> None:
    verbs = current_job().blocking
    verbs.delay("count", "a", priority=5)
    verbs.delay("count", "a", priority="urgent")  # type: ignore[call-overload]
    verbs.send("count", ["a"], idempotency_key="k", headers={"a": 1})
    verbs.send("count", ["a"], idempotency="k")  # type: ignore[call-overload]
    assert_type(verbs.result(verbs.submit(count, "a")), int)
    assert_type(verbs.send(count, ["a"]), BlockingJobHandle[int])
    assert_type(verbs.submit_many(count, [("a",)])[0].result(timeout=3), int)
    assert_type(verbs.delay(count, "a").cancel(), JobState)


async def coroutines_submit_as_clients_do() -> None:
    client = current_job().client
    await client.delay("count", "a", priority=5)
    await client.delay("count", "a", priority="urgent")  # type: ignore[call-overload]
    await client.send("count", ["a"], idempotency_key="k")
    await client.send("count", ["a"], idempotency="k")  # type: ignore[call-overload]
    handle = await client.submit(count.with_options(idempotency_key="k"), "a")
    assert_type(handle, JobHandle[int])
    assert_type(handle.is_existing, bool)


def a_helper_of_the_users_own_keeps_the_types(
    client: BlockingClient, job: Task[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    return client.submit(job, *args, **kwargs).result()


# --- the face -----------------------------------------------------------------------------------


def names_are_what_they_are_called() -> None:
    urgent: Priority = TaskPriority.CRITICAL
    assert_type(current_job().priority, Priority)
    print(urgent, creche.Klient)  # type: ignore[attr-defined]


# --- schedules ----------------------------------------------------------------------------------


async def schedules(client: Client) -> None:
    made = await client.create_schedule("nightly", fetch, creche.Schedule(every=60, args=("u",)))
    assert_type(made, creche.ScheduleInfo)
    assert_type(await client.schedules(), list[creche.ScheduleInfo])
    assert_type(await client.run_schedule("nightly"), JobHandle[Any])
    await client.create_schedule("nightly", fetch, "0 3 * * *")  # type: ignore[arg-type]


def blocking_schedules(client: BlockingClient) -> None:
    assert_type(client.pause_schedule("nightly"), creche.ScheduleInfo)
    assert_type(client.run_schedule("nightly"), BlockingJobHandle[Any])


@task(cron="0 3 * * *", tz="Europe/Paris")
def by_cron() -> None: ...
