"""A job's way through the plane, message by message."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import open_house

from creche.engine.conversation import SLICE
from creche.engine.settings import PlaneSettings
from creche.model.job import JobState
from creche.wire import messages as m
from creche.wire.payload import decode_value

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}


async def test_a_submitted_job_is_run_and_its_result_pushed(autojump_clock):
    async with open_house() as house:
        async with house.client().connected() as client:
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                submission = client.submit(7, flags=m.WATCH)
                await client.say(submission)
                assert (await client.hear(m.Accepted)).ns == [submission.n]
                offer = await worker.hear(m.Offer)
                assert (offer.id, offer.task, offer.attempt) == (submission.id, "echo", 1)
                assert offer.payload == submission.payload
                n = await worker.finish(offer, 7)
                assert (await worker.hear(m.Settled)).ns == [n]
                ended = await client.hear(m.Ended)
                assert ended.id == submission.id
                assert ended.state == JobState.SUCCEEDED
                assert decode_value(ended.outcome) == 7


async def test_a_thousand_submissions_of_one_frame_are_accepted_in_a_few(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        await client.say(*(client.submit(i) for i in range(1000)))
        answers = [await client.hear(m.Accepted)]
        while sum(len(answer.ns) for answer in answers) < 1000:
            answers.append(await client.hear(m.Accepted))
        assert len(answers) <= 1000 // SLICE + 1
        assert [n for answer in answers for n in answer.ns] == list(range(1, 1001))


async def test_the_most_urgent_is_taken_first_and_then_the_oldest(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        for number, priority in enumerate([3, 2, 0, 2, 1, 0]):
            await client.submitted(number, priority=priority)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            order = []
            for _ in range(6):
                offer = await worker.hear(m.Offer)
                order.append(decode_value(offer.payload)[0][0])
                await worker.finish(offer, run_us=5_000_000)
            assert order == [2, 5, 4, 1, 3, 0]


async def test_fairness_lets_a_lower_lane_pass_after_so_many(autojump_clock):
    async with open_house(PlaneSettings(fairness=3)) as house, house.client().connected() as client:
        await client.submitted(100, priority=3)
        for number in range(8):
            await client.submitted(number, priority=0)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            order = []
            for _ in range(9):
                offer = await worker.hear(m.Offer)
                order.append(decode_value(offer.payload)[0][0])
                await worker.finish(offer, run_us=5_000_000)
            assert order == [0, 1, 2, 100, 3, 4, 5, 6, 7]


async def test_a_job_of_an_unknown_task_is_parked_with_near_names_and_blocks_nobody(
    autojump_clock,
):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            slip = client.submit(1, "ehco")
            await client.say(slip)
            assert "'echo'" in (await client.hear(m.Warned)).why
            assert (await client.hear(m.Accepted)).ns == [slip.n]
            await client.submitted(2)
            await client.submitted(3, task="ehco")
            assert not [message for message in client.heard if isinstance(message, m.Warned)]
            assert (await worker.hear(m.Offer)).task == "echo"
            record = await client.ask("job", id=slip.id)
            assert (record["state"], record["parked"]) == ("parked", "task:ehco")
            async with house.worker("other").connected(**LISTENING) as other:
                await other.ready("ehco")
                assert (await other.hear(m.Offer)).id == slip.id


async def test_a_task_that_is_announced_under_another_module_is_near(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("ok", "mail.deliver_all_of_them", "jobs.k")
            for n, (slip, meant) in enumerate(
                [("sj.ok", "'ok'"), ("deliver_all_of_them", "'mail.deliver_all_of_them'"),
                 ("very.long.way.to.k", "'jobs.k'")]
            ):  # fmt: skip
                await client.say(client.submit(n, slip))
                assert f"did you mean {meant}" in (await client.hear(m.Warned)).why


async def test_who_names_a_queue_that_nobody_listens_on_is_told_so_once(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        # With no worker there at all it may be that none was started yet.
        await client.say(client.submit(0, queue="mial"))
        assert (await client.hear(m.Warned)).code == "unknown-task"
        await client.hear(m.Accepted)
        async with house.worker().connected(queues=["mail", "default"]) as worker:
            await worker.ready("echo", slots=0)
            slip = client.submit(1, queue="mial")
            await client.say(slip)
            warned = await client.hear(m.Warned)
            assert (warned.n, warned.code) == (slip.n, "unheard-queue")
            assert "'mial'" in warned.why
            assert "'default', 'mail'" in warned.why
            assert (await client.hear(m.Accepted)).ns == [slip.n]
            for queue in ("mial", "mail", "default", None):
                await client.submitted(2, queue=queue)
            async with house.worker("other").connected(queues=["mial"]) as other:
                await other.ready("echo", slots=1)
                await other.finish(await other.hear(m.Offer))
            assert not [message for message in client.heard if isinstance(message, m.Warned)]


async def test_what_a_submission_leaves_open_is_filled_in_by_a_later_announcement(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        open_one = await client.submitted(1, task="mail")
        await client.submitted(2, task="mail", priority=0)
        async with house.worker().connected(queues=["post"]) as worker:
            await worker.say(
                m.Announce([{"name": "mail", "queue": "post", "priority": 3}]), m.Capacity(1, 0)
            )
            first = await worker.hear(m.Offer)
            assert first.priority == 0
            await worker.finish(first, run_us=9_000_000)
            second = await worker.hear(m.Offer)
            assert (second.id, second.priority) == (open_one.id, 3)


async def test_a_worker_that_does_not_know_a_task_is_passed_by(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with (
            house.worker("a").connected(**LISTENING) as a,
            house.worker("b").connected(**LISTENING) as b,
        ):
            await a.ready("one", slots=1)
            await b.ready("one", "two", slots=1)
            for number in range(4):
                await client.submitted(number, task="two")
            await client.submitted(9, task="one")
            assert (await a.hear(m.Offer)).task == "one"
            assert (await b.hear(m.Offer)).task == "two"
            await a.hears_nothing(m.Offer, 5)


async def test_the_same_id_is_one_job_and_accepted_each_time(autojump_clock):
    async with open_house() as house:
        async with house.client("a").connected() as a, house.client("b").connected() as b:
            first = await a.submitted(1)
            again = await a.submitted(1, id=first.id, flags=m.RESENT)
            other = await b.submitted(1, id=first.id, flags=m.WATCH)
            assert again.id == other.id
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                await worker.finish(await worker.hear(m.Offer), "once")
                assert decode_value((await b.hear(m.Ended)).outcome) == "once"
                await worker.hears_nothing(m.Offer, 5)
                await b.submitted(1, id=first.id, flags=m.WATCH | m.RESENT)
                assert decode_value((await b.hear(m.Ended)).outcome) == "once"
                await worker.hears_nothing(m.Offer, 5)


async def test_a_resend_older_than_tombstones_is_never_run(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        old = client.submit(1, flags=m.RESENT)
        await trio.sleep(1)
        async with house.client("sleeper").connected() as sleeper:
            for _ in range(2500):
                await trio.sleep(40)
                await sleeper.say(m.Ping(1))
                await client.say(m.Ping(1))
        await client.say(old)
        declined = await client.hear(m.Declined)
        assert (declined.n, declined.code) == (old.n, "uncertain")


async def test_a_queued_job_is_cancelled_and_its_waiter_told(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        first = await client.submitted(1, flags=m.WATCH)
        second = await client.submitted(2)
        await client.say(m.Cancel(50, [first.id, b"\0" * 16], "not needed"))
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED, None]
        assert (await client.hear(m.Ended)).state == JobState.CANCELLED
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            assert (await worker.hear(m.Offer)).id == second.id
            await worker.hears_nothing(m.Offer, 5)
            await client.say(m.Cancel(51, [second.id], ""))
            assert (await client.hear(m.Answer)).body == [JobState.CANCELLING]
            assert (await worker.hear(m.Stop)).why == ""


async def test_watching_a_job_tells_ended_unknown_and_forgotten_apart(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            job = await client.submitted(1)
            await worker.finish(await worker.hear(m.Offer), "done")
            await worker.hear(m.Settled)
            async with house.client("late").connected() as late:
                await late.say(m.Watch([job.id, b"\1" * 16]))
                assert decode_value((await late.hear(m.Ended)).outcome) == "done"
                missing = await late.hear(m.Missing)
                assert (missing.id, missing.is_forgotten) == (b"\1" * 16, False)
                await late.say(late.received(1))
            for _ in range(120):
                await trio.sleep(40)
                await client.say(m.Ping(1))
                await worker.say(m.Ping(1))
            await client.say(m.Watch([job.id]))
            assert (await client.hear(m.Missing)).is_forgotten


async def test_an_urgent_job_passes_what_a_worker_only_looks_ahead_to(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.submitted(0)
            await worker.finish(await worker.hear(m.Offer), run_us=100)
            await client.say(*(client.submit(i, priority=3) for i in range(1, 200)))
            await worker.hear(m.Offer)
            await trio.sleep(1)
            urgent = await client.submitted(500, priority=0)
            offers = [await worker.hear(m.Offer)]
            while offers[-1].id != urgent.id:
                offers.append(await worker.hear(m.Offer))
            assert 1 < len(offers) < 150
            assert offers[-1].priority == 0
            later = offers[:-1]
            await worker.say(m.HandBack([[o.seq, o.epoch, o.attempt] for o in later]))
            await worker.hears_nothing(m.Offer, 1)
            await worker.finish(offers[-1])
            again = await worker.hear(m.Offer)
            assert (again.seq, again.attempt) == (later[0].seq, 2)
