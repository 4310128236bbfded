"""What type checkers know of a submission. Never run: mypy and pyright judge each line.

A call that must be rejected carries an ignore; a checker that accepts it reports the ignore.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from pathlib import Path
from typing import Any, ParamSpec, TypeVar, assert_type

from creche import Client, JobHandle, JobState, Task, TaskPriority, task

P = ParamSpec("P")
R = TypeVar("R")


@task
def resize(path: str, width: int = 200, *, quality: float = 0.5) -> Path:
    return Path(path)


@task(queue="net")
async def fetch(url: str) -> bytes:
    return url.encode()


@task("add")
def total(*numbers: int) -> int:
    return sum(numbers)


@task
def forget(user_id: int) -> None: ...


async def results_have_the_type_of_the_task(client: Client) -> None:
    assert_type(await client.submit(resize, "a", quality=0.1), JobHandle[Path])
    assert_type(await (await client.submit(resize, "a", 3)).result(timeout=5), Path)
    # Of an async def, what awaiting it gives.
    assert_type(await client.submit(fetch, "a"), JobHandle[bytes])
    assert_type(await client.result(await client.submit(fetch, url="a")), bytes)
    assert_type(await client.submit(total, 1, 2, 3), JobHandle[int])
    assert_type(await client.submit(forget, 1), JobHandle[None])
    assert_type(
        await client.submit(resize.with_options(priority=TaskPriority.HIGH), "a"), JobHandle[Path]
    )


async def wrong_arguments_are_rejected(client: Client) -> None:
    await client.submit(resize)  # type: ignore[call-arg]
    await client.submit(resize, 3)  # type: ignore[arg-type]
    await client.submit(resize, "a", "b")  # type: ignore[arg-type]
    await client.submit(resize, "a", 3, 0.1)  # type: ignore[call-arg]
    await client.submit(resize, "a", widht=3)  # type: ignore[call-arg]
    await client.submit(resize, "a", priority="high")  # type: ignore[call-arg]
    await client.submit(fetch, b"a")  # type: ignore[arg-type]
    await client.submit(total, 1, "2")  # type: ignore[arg-type]
    await client.submit(resize.with_options(queue="fast"), 3)  # type: ignore[arg-type]
    # A function that is no task, and a name, which `delay` takes.
    await client.submit(len, "a")  # type: ignore[arg-type]
    await client.submit("resize", "a")  # type: ignore[arg-type]


async def results_are_not_taken_for_something_else(client: Client) -> None:
    handle = await client.submit(fetch, "a")
    (await handle.result()).encode()  # type: ignore[attr-defined]
    wrong: JobHandle[str] = handle  # type: ignore[assignment]
    text: str = handle  # a handle is the job's id
    assert_type(await handle.status(), JobState)
    print(wrong, text)


async def submitting_by_name_knows_no_types(client: Client) -> None:
    assert_type(await client.delay("resize", 1, anything=2), JobHandle[Any])
    assert_type(await client.delay(resize, "a", priority="high"), JobHandle[Path])
    assert_type(await client.delay(fetch, "a", queue="fast"), JobHandle[bytes])
    await client.delay(3)  # type: ignore[call-overload]


async def many_at_once(client: Client) -> None:
    assert_type(await client.submit_many(fetch, [("a",), ("b",)]), list[JobHandle[bytes]])
    async for page in client.map(fetch, ["a", "b"]):
        assert_type(page, bytes)
    client.map(fetch, [1, 2])  # type: ignore[arg-type]


async def a_helper_of_the_users_own_keeps_the_types(
    client: Client, job: Task[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    return await (await client.submit(job, *args, **kwargs)).result()
