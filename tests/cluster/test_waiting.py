"""Whoever asks for a job that waits is told what holds it up."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_limits import BY_USER, announce, declared, offered, submit_for
from tests.cluster.test_windows import LISTENING

from creche.engine.settings import PlaneSettings
from creche.model.flow import Flow, Rate
from creche.wire import messages as m

pytestmark = pytest.mark.trio
ONE_EACH = PlaneSettings(look_ahead=0)


async def held_up_by(client: Peer, job: m.Submit) -> list[tuple[str, str]]:
    """What is said of a job: reasons and texts."""
    job = await client.ask("job", id=job.id)
    return [(each["reason"], each["text"]) for each in job["held_up_by"]]


async def test_a_job_that_no_worker_can_run_says_which_part_is_missing(autojump_clock):
    async with open_house(ONE_EACH) as house, house.client().connected() as client:
        job_1 = await client.submitted(1)
        assert await held_up_by(client, job_1) == [("no-worker", "no worker is connected")]
        async with (
            house.worker("a").connected(**LISTENING) as a,
            house.worker("b").connected(queues=["bulk"]) as b,
        ):
            await announce(a, declared(name="resize"))
            await announce(b, declared(name="index"))
            job_2 = await client.submitted(2, task="resise")
            job_3 = await client.submitted(3, task="index")
            job_4 = await client.submitted(4, task="resize", queue="mail")
            assert await held_up_by(client, job_2) == [
                ("unknown-task", "no connected worker knows task 'resise': did you mean 'resize'?")
            ]
            assert await held_up_by(client, job_3) == [
                (
                    "unheard-queue",
                    "no connected worker both knows task 'index' and listens on queue 'default'",
                )
            ]
            assert await held_up_by(client, job_4) == [
                (
                    "unheard-queue",
                    "no connected worker listens on queue 'mail': they listen on bulk, default",
                )
            ]


async def test_a_job_of_a_queue_that_is_paused_or_limited_says_so(autojump_clock):
    async with open_house(ONE_EACH) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared())
            await client.ask("set-queue", queue="default", paused=True)
            job_1 = await client.submitted(1)
            assert await held_up_by(client, job_1) == [("paused", "queue 'default' is paused")]
            rate = Rate(1, 60.0).as_data()
            await client.ask("set-queue", queue="default", paused=False, limit=1, rate=rate)
            (offer,) = await offered(worker)
            assert await held_up_by(client, job_1) == []
            job_2 = await client.submitted(2)
            assert await held_up_by(client, job_2) == [
                ("limit", "queue 'default' may have 1 running at a time, and has"),
                ("rate", "queue 'default' may begin 1/m, and has"),
            ]
            await worker.finish(offer)
            await trio.sleep(1)
            job = await client.ask("job", id=job_2.id)
            (rated,) = job["held_up_by"]
            assert rated["reason"] == "rate"
            assert house.core.now() < rated["until_at"] < house.core.now() + 60


async def test_a_job_behind_a_limit_of_its_task_names_the_limit_and_its_key(autojump_clock):
    async with open_house(ONE_EACH) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, declared(Flow(limit=1, key=BY_USER)))
            await submit_for(client, 0, "ann")
            job_1 = await submit_for(client, 1, "ann")
            job_2 = await submit_for(client, 2, "bob")
            assert len(await offered(worker)) == 2
            assert await held_up_by(client, job_1) == [
                ("limit", "task 'echo' and key 'ann' may have 1 running at a time, and has")
            ]
            assert await held_up_by(client, job_2) == []


async def test_a_job_waits_for_its_time_or_a_slot_and_says_for_which(autojump_clock):
    async with open_house(ONE_EACH) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            job_1 = await client.submitted(1, options={"retry": {"retries": 1}})
            job_2 = await client.submitted(2)
            job_3 = await client.submitted(3, options={"delay_s": 60.0})
            (offer,) = await offered(worker)
            assert await held_up_by(client, job_2) == [
                ("busy", "the one slot is taken by other jobs"),
            ]
            job = await client.ask("job", id=job_3.id)
            assert job["held_up_by"] == [
                {"reason": "moment", "text": "its time has not come", "until_at": job["due_at"]}
            ]
            await worker.ready("echo", slots=0)
            await worker.try_again(offer, 60_000_000)
            await trio.sleep(1)
            assert await held_up_by(client, job_1) == [("moment", "its next attempt has not come")]
            assert await held_up_by(client, job_2) == [
                ("drained", "the worker that could run it is drained, and takes nothing"),
            ]
