"""Schedules by client: on asyncio and on Trio, and by the one that blocks; with a real plane."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from tests.client.real_plane import RealPlane, real_plane

from creche import (
    BlockingClient,
    Client,
    InvalidArguments,
    NotEncodable,
    Refused,
    Schedule,
    UnknownSchedule,
    task,
)
from creche.tasks.registry import Registry

registry = Registry()
LATER = datetime(2099, 1, 1, tzinfo=UTC)


@task(registry=registry)
async def double(value: int) -> int:
    return value * 2


@task(registry=registry, schedule=Schedule(at=LATER, args=(4,)))
async def declared(value: int) -> int:
    return value + 1


@pytest.fixture(scope="module")
def plane() -> Iterator[RealPlane]:
    with real_plane(registry) as running:
        yield running


@pytest.mark.anyio
async def test_a_schedule_is_made_looked_at_changed_and_deleted(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            rule = Schedule(cron="0 3 * * *", tz="Europe/Paris", args=(21,))
            view = double.with_options(queue="default", retries=2, timeout=5)
            made = await client.create_schedule("nightly", view, rule)
            assert (made.state, made.source, made.task) == ("active", "api", "double")
            assert made.words == "cron 0 3 * * * Europe/Paris"
            assert made.next_at is not None
            assert made.next_at > datetime.now(UTC)
            assert await client.schedule("nightly") == made
            names = [schedule.name for schedule in await client.schedules()]
            assert names == ["declared", "nightly"]

            assert (await client.pause_schedule("nightly")).state == "paused"
            changed = await client.change_schedule(
                "nightly", schedule=Schedule(every=timedelta(days=1), args=(5,))
            )
            assert (changed.words, changed.state) == ("every 86400 s", "paused")
            assert (changed.task, changed.queue) == ("double", "default")
            job = await client.run_schedule("nightly")
            assert await job.result() == 10
            assert (await client.schedule("nightly")).last_job == job.id
            assert (await client.resume_schedule("nightly")).state == "active"
            other = await client.change_schedule("nightly", task="declared")
            assert (other.task, other.queue) == ("declared", "default")
            assert await (await client.run_schedule("nightly")).result() == 6
            await client.delete_schedule("nightly")
            with pytest.raises(UnknownSchedule, match="there is no schedule 'nightly'"):
                await client.schedule("nightly")


@pytest.mark.anyio
async def test_a_schedule_fires_for_real(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            await client.create_schedule("soon", double, Schedule(every=0.2, count=1, args=(3,)))
            while (info := await client.schedule("soon")).last_job is None:
                await anyio.sleep(0.05)
            assert await client.job(info.last_job).result() == 6
            assert (await client.schedule("soon")).state == "ended"
            await client.delete_schedule("soon")


@pytest.mark.anyio
async def test_what_to_do_with_one_that_exists_is_said(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            first = Schedule(at=LATER, args=(1,))
            second = Schedule(at=LATER + timedelta(days=1), args=(1,))
            made = await client.create_schedule("once", double, first)
            with pytest.raises(Refused, match="'once' exists already"):
                await client.create_schedule("once", double, second)
            kept = await client.create_schedule("once", double, second, if_exists="keep")
            assert kept == made
            replaced = await client.create_schedule("once", double, second, if_exists="replace")
            assert replaced.next_at == LATER + timedelta(days=1)
            await client.delete_schedule("once")


@pytest.mark.anyio
async def test_what_cannot_be_is_refused_before_it_is_sent(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            with pytest.raises(InvalidArguments, match="value"):
                await client.create_schedule("odd", double, Schedule(every=5))
            with pytest.raises(NotEncodable, match=r"args\[0\]"):
                await client.create_schedule("odd", double, Schedule(every=5, args=(object(),)))
            with pytest.raises(InvalidArguments, match="a schedule says when"):
                await client.create_schedule(
                    "odd", double.with_options(countdown=5), Schedule(every=5, args=(1,))
                )
            with pytest.raises(InvalidArguments, match="a schedule's jobs have no headers"):
                await client.create_schedule(
                    "odd", double.with_options(headers={"a": 1}), Schedule(every=5, args=(1,))
                )
            with pytest.raises(Refused, match="at is in the past"):
                await client.create_schedule(
                    "odd", double, Schedule(at=datetime(2020, 1, 1, tzinfo=UTC), args=(1,))
                )
            assert "odd" not in [schedule.name for schedule in await client.schedules()]


@pytest.mark.anyio
async def test_what_code_declares_is_changed_there(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            for attempt in (
                client.change_schedule("declared", schedule=Schedule(every=5)),
                client.delete_schedule("declared"),
            ):
                with pytest.raises(Refused, match="is declared in code"):
                    await attempt
            assert (await client.pause_schedule("declared")).state == "paused"
            assert await (await client.run_schedule("declared")).result() == 5
            assert (await client.resume_schedule("declared")).state == "active"


@pytest.mark.anyio
async def test_a_command_that_was_cut_off_is_done_once(plane: RealPlane) -> None:
    with anyio.fail_after(20):
        async with Client(plane.url) as client:
            async with anyio.create_task_group() as tasks:
                made: list[Any] = []

                async def make() -> None:
                    made.append(
                        await client.create_schedule("cut", double, Schedule(at=LATER, args=(1,)))
                    )

                tasks.start_soon(make)
                plane.cut_clients()
            assert [info.name for info in made] == ["cut"]
            await client.delete_schedule("cut")


def test_the_blocking_client_has_the_same_verbs(plane: RealPlane) -> None:
    with BlockingClient(plane.url) as client:
        made = client.create_schedule("blocking", double, Schedule(at=LATER, args=(4,)))
        assert client.schedule("blocking") == made
        assert [s.name for s in client.schedules()] == ["blocking", "declared"]
        assert client.pause_schedule("blocking").state == "paused"
        assert client.resume_schedule("blocking").state == "active"
        assert client.run_schedule("blocking").result(timeout=20) == 8
        assert client.change_schedule("blocking", task="declared").task == "declared"
        assert client.create_schedule(
            "blocking", double, Schedule(at=LATER, args=(5,)), if_exists="replace"
        ).task == "double"  # fmt: skip
        client.delete_schedule("blocking")
        with pytest.raises(UnknownSchedule):
            client.schedule("blocking")
