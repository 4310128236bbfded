"""Hooks around bodies, in each executor: when they are called, with what, and what their own
failures do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from creche import HookInfo, JobCancelled, JobFailed, Retry, Snooze, current_job
from creche.errors import TaskDefinitionError
from creche.tasks.hooks import hook
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster

pytestmark = pytest.mark.trio

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_is_seen() -> None:
    seen.clear()


def note(info: HookInfo) -> None:
    assert current_job().id == info.job.id
    came_to = info.result if info.error is None else type(info.error).__name__
    seen.append((info.moment, info.job.attempt, came_to))


async def note_later(info: HookInfo) -> None:
    await trio.lowlevel.checkpoint()
    note(info)


async def note_on_asyncio(info: HookInfo) -> None:
    await asyncio.sleep(0)
    note(info)


def all_of(function: Any) -> dict[str, Any]:
    return dict.fromkeys(("before", "after", "on_error", "on_retry"), function)


def do(what: str) -> str:
    match what:
        case "fail once" if current_job().attempt == 1:
            raise ConnectionError(what)
        case "fail":
            raise LookupError(what)
        case "snooze" if len(seen) < 2:
            raise Snooze(0)
        case "ask" if current_job().attempt == 1:
            raise Retry(countdown=0)
    return what


NEVER = {"retries": 2, "backoff": 0.0, "never_retry_on": LookupError}


@task(registry=Registry(), **all_of(note), **NEVER)
def in_a_thread(what: str) -> str:
    return do(what)


@task(registry=Registry(), **all_of(note_later), **NEVER)
async def on_trio(what: str) -> str:
    return do(what)


@task(registry=Registry(), executor="asyncio", **all_of(note_on_asyncio), **NEVER)
async def on_asyncio(what: str) -> str:
    return do(what)


EXECUTORS = pytest.mark.parametrize(
    "made", [in_a_thread, on_trio, on_asyncio], ids=lambda made: made.name
)


async def run(made: Any, what: str) -> list[Any]:
    """Run one job to its end, and return what hooks saw."""
    with trio.fail_after(60):
        async with open_cluster([made]) as cluster, cluster.client() as client:
            try:
                assert await (await client.submit(made, what)).result() == what
            except JobFailed:
                assert what == "fail"
    return seen


@EXECUTORS
async def test_before_and_after_a_body_that_succeeds(made):
    assert await run(made, "work") == [("before", 1, None), ("after", 1, "work")]


@EXECUTORS
async def test_on_error_with_what_was_raised_and_nothing_after(made):
    assert await run(made, "fail") == [("before", 1, None), ("on_error", 1, "LookupError")]


@EXECUTORS
@pytest.mark.parametrize(("what", "error"), [("fail once", "ConnectionError"), ("ask", "Retry")])
async def test_on_retry_comes_before_each_further_try(made, what, error):
    assert await run(made, what) == [
        *[("before", 1, None), ("on_error", 1, error)],
        *[("on_retry", 2, None), ("before", 2, None), ("after", 2, what)],
    ]


@EXECUTORS
async def test_a_snooze_is_no_error(made):
    found = await run(made, "snooze")
    assert [moment for moment, *_ in found] == ["before", "before", "after"]


def fails(info: HookInfo) -> None:
    seen.append(info.moment)
    raise ValueError(f"the hook fails {info.moment}")


@task(registry=Registry(), before=fails, on_error=note)
def never_begins() -> None:
    seen.append("began")


async def test_what_a_hook_before_a_body_raises_is_the_bodys_failure():
    async with open_cluster([never_begins]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match="the hook fails before"):
            await (await client.submit(never_begins)).result()
    assert seen == ["before", ("on_error", 1, "ValueError")]


@task(registry=Registry(), after=[fails, note])
def succeeds() -> int:
    return 1


@task(registry=Registry(), after=[fails, note])
async def succeeds_on_trio() -> int:
    return 1


@pytest.mark.parametrize("made", [succeeds, succeeds_on_trio], ids=lambda made: made.name)
async def test_what_a_hook_after_a_body_raises_is_logged_and_changes_nothing(made, caplog):
    async with open_cluster([made]) as cluster, cluster.client() as client:
        assert await (await client.submit(made)).result() == 1
    assert seen == ["after", ("after", 1, 1)]
    assert "test_hooks.fails failed (after, <job" in caplog.text


@task(registry=Registry(), timeout=0.5, **all_of(note_later))
async def too_long() -> None:
    await trio.sleep(10)


async def test_a_time_limit_is_an_error_and_a_cancel_is_none(autojump_clock):
    async with open_cluster([too_long]) as cluster, cluster.client() as client:
        with pytest.raises(JobFailed, match="JobTimedOut"):
            await (await client.submit(too_long)).result()
        assert seen == [("before", 1, None), ("on_error", 1, "JobTimedOut")]
        job = await client.submit(too_long)
        await trio.sleep(0.1)
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()
        assert seen[2:] == [("before", 1, None)]


async def hangs(info: HookInfo) -> None:
    await trio.sleep_forever()


@task(registry=Registry(), after=hangs)
async def whose_hook_hangs() -> int:
    return 1


async def test_hooks_that_are_awaited_are_bounded(autojump_clock, caplog):
    async with open_cluster([whose_hook_hangs], concurrency=1) as cluster:
        async with cluster.client() as client:
            for _ in range(2):
                assert await (await client.submit(whose_hook_hangs)).result() == 1
    assert "hooks of whose_hook_hangs took over 30 s" in caplog.text


async def test_hooks_of_all_tasks_are_called_for_each(autojump_clock):
    registry = Registry()
    hook("before", registry=registry)(note)

    @task(registry=registry, before=note)
    async def has_its_own() -> None: ...

    @task(registry=registry)
    async def has_none() -> None: ...

    async with open_cluster(registry) as cluster, cluster.client() as client:
        await (await client.submit(has_its_own)).result()
        await (await client.submit(has_none)).result()
    assert [moment for moment, *_ in seen] == ["before"] * 3


async def test_one_that_has_to_be_awaited_is_refused_where_nothing_can_be(autojump_clock):
    made = task(registry=Registry(), before=note_later)(do)
    async with open_cluster([made], workers=0) as cluster:
        with pytest.raises(TaskDefinitionError, match="runs with executor='thread', where nothing"):
            await cluster.add_worker()
