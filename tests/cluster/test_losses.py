"""What is lost on the way, and what is not: leases, resumption, fencing, restarts."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_windows import DiskLike

from creche.engine.settings import PlaneSettings
from creche.model.failure import Failure
from creche.model.job import JobState
from creche.store.base import Batch
from creche.store.memory import MemoryStore
from creche.wire import messages as m
from creche.wire.payload import decode_call, decode_value
from creche.wire.session import Grammar, Role

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}


def token(offer: m.Offer) -> list[int]:
    """What fences an offered attempt."""
    return [offer.seq, offer.epoch, offer.attempt]


async def test_a_cut_connection_is_not_a_lost_worker(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        job = await client.submitted(1, flags=m.WATCH)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            offer = await worker.hear(m.Offer)
        await trio.sleep(house.settings.grace_s - 1)
        async with worker.connected(**LISTENING, held=[token(offer)]):
            assert worker.welcome is not None
            assert worker.welcome.is_resumed
            await worker.ready("echo")
            await worker.hears_nothing(m.Offer, 5)
            await worker.finish(offer, "same attempt")
            ended = await client.hear(m.Ended)
            assert (ended.id, decode_value(ended.outcome)) == (job.id, "same attempt")
            record = await client.ask("job", id=job.id)
            assert (record["attempt"], record["losses"]) == (1, 0)


async def test_after_the_grace_the_job_runs_elsewhere_and_the_late_result_is_not_seen(
    autojump_clock,
):
    async with open_house() as house, house.client().connected() as client:
        job = await client.submitted(1, flags=m.WATCH)
        gone, other = house.worker("gone"), house.worker("other")
        async with gone.connected(**LISTENING):
            await gone.ready("echo")
            offer = await gone.hear(m.Offer)
        async with other.connected(**LISTENING):
            await other.ready("echo")
            await other.hears_nothing(m.Offer, house.settings.grace_s - 1)
            again = await other.hear(m.Offer)
            assert (again.id, again.attempt) == (job.id, 2)
            async with gone.connected(**LISTENING, held=[token(offer)]):
                stop = await gone.hear(m.Stop)
                assert [stop.seq, stop.epoch, stop.attempt] == token(offer)
                n = await gone.finish(offer, "late")
                assert (await gone.hear(m.Settled)).ns == [n]
                await other.finish(again, "right")
                assert decode_value((await client.hear(m.Ended)).outcome) == "right"
                record = await client.ask("job", id=job.id)
                assert (record["attempt"], record["losses"]) == (2, 1)


async def test_an_open_but_silent_worker_keeps_its_job_until_the_lease_ends(autojump_clock):
    async with open_house() as house:
        silent, other = house.worker("silent"), house.worker("other")
        async with house.client().connected() as client, silent.connected(**LISTENING):
            await silent.ready("echo")
            await client.submitted(1)
            await silent.hear(m.Offer)
            async with other.connected(**LISTENING):
                await other.ready("echo")
                for _ in range(11):
                    await other.hears_nothing(m.Offer, 5)
                    await other.say(m.Ping(1))
                await client.say(m.Ping(1))
                assert (await other.hear(m.Offer)).attempt == 2


async def test_a_new_process_under_an_old_name_has_lost_what_the_old_one_held(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        job = await client.submitted(1)
        old, new = house.worker("w"), house.worker("w")
        async with old.connected(**LISTENING):
            await old.ready("echo")
            await old.hear(m.Offer)
        async with new.connected(**LISTENING):
            await new.ready("echo")
            offer = await new.hear(m.Offer)
            assert (offer.id, offer.attempt) == (job.id, 2)
            assert (await client.ask("job", id=job.id))["losses"] == 1


async def test_two_workers_cannot_have_one_name(autojump_clock):
    async with open_house() as house, house.worker("w").connected(**LISTENING):
        refusal = await house.worker("w").is_refused(**LISTENING)
        assert refusal.code == "name-taken"


async def test_what_a_worker_does_not_name_was_lost_on_the_way_and_is_offered_uncounted(
    autojump_clock,
):
    async with open_house() as house, house.client().connected() as client:
        job = await client.submitted(1)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            first = await worker.hear(m.Offer)
        async with worker.connected(**LISTENING, held=[]):
            await worker.ready("echo")
            again = await worker.hear(m.Offer)
            assert again.id == job.id
            assert token(again) != token(first)
            assert (await client.ask("job", id=job.id))["losses"] == 0
            await worker.finish(again)
            await worker.hear(m.Settled)
            record = await client.ask("job", id=job.id)
            assert (record["losses"], record["attempt"], again.attempt) == (0, 1, 2)


async def test_a_job_that_loses_worker_after_worker_is_set_aside_with_its_reason(autojump_clock):
    settings = PlaneSettings(max_losses=2)
    async with open_house(settings) as house, house.client().connected() as client:
        job = await client.submitted(1, flags=m.WATCH)
        for name in "ab":
            worker = house.worker(name)
            async with worker.connected(**LISTENING):
                await worker.ready("echo")
                await worker.hear(m.Offer)
            await client.say(m.Ping(1))
            await trio.sleep(settings.grace_s + 1)
        ended = await client.hear(m.Ended)
        assert (ended.id, ended.state) == (job.id, JobState.FAILED)
        failure = Failure.from_data(decode_value(ended.outcome))
        assert failure.type == "creche.WorkerLost"
        assert "2 workers" in failure.message
        record = await client.ask("job", id=job.id)
        assert (record["losses"], record["attempt"]) == (2, 2)
        assert [made["attempt"] for made in record["attempts"]] == [1]


async def test_an_at_most_once_job_is_never_run_twice(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        once = {"delivery": "at-most-once"}
        await client.submitted(1, flags=m.WATCH, options=once)
        worker, other = house.worker("w"), house.worker("other")
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            await worker.hear(m.Offer)
        async with other.connected(**LISTENING):
            await other.ready("echo")
            await client.say(m.Ping(1))
            ended = await client.hear(m.Ended)
            assert ended.state == JobState.LOST
            await other.hears_nothing(m.Offer, 5)


async def test_a_task_announced_as_at_most_once_after_its_job_arrived_is_so(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        await client.submitted(1, flags=m.WATCH)
        worker = house.worker("w")
        async with worker.connected(**LISTENING):
            once = {"name": "echo", "delivery": "at-most-once"}
            await worker.say(m.Announce([once]), m.Capacity(1, 0))
            await worker.hear(m.Offer)
        await client.say(m.Ping(1))
        assert (await client.hear(m.Ended)).state == JobState.LOST


async def test_a_goodbye_gives_back_at_once_and_uncounted(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        job = await client.submitted(1)
        async with house.worker("leaving").connected(**LISTENING) as leaving:
            await leaving.ready("echo")
            await leaving.hear(m.Offer)
            await leaving.say(m.Goodbye("done for today"))
            await leaving.hears_the_end()
        async with house.worker("next").connected(**LISTENING) as following:
            await following.ready("echo")
            assert (await following.hear(m.Offer)).id == job.id
            assert (await client.ask("job", id=job.id))["losses"] == 0


async def test_a_report_said_again_after_a_cut_counts_once(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        await client.submitted(1, flags=m.WATCH)
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            offer = await worker.hear(m.Offer)
            await worker.finish(offer, "first")
        async with worker.connected(**LISTENING, held=[token(offer)]):
            await worker.ready("echo")
            n = await worker.finish(offer, "said again")
            assert n in (await worker.hear(m.Settled)).ns
            assert decode_value((await client.hear(m.Ended)).outcome) == "first"
            await client.hears_nothing(m.Ended, 5)


async def test_after_a_restart_leased_jobs_wait_for_their_worker_and_others_run(autojump_clock):
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            held = await client.submitted(1)
            worker = house.worker()
            async with worker.connected(**LISTENING):
                await worker.ready("echo", slots=1)
                offer = await worker.hear(m.Offer)
                free = await client.submitted(2)
                await trio.sleep(1)
    async with open_house(make_store=lambda: store) as house:
        worker.listener = house.listener
        other = house.worker("other")
        async with house.client().connected() as client, other.connected(**LISTENING):
            await other.ready("echo")
            assert (await other.hear(m.Offer)).id == free.id
            await other.hears_nothing(m.Offer, 5)
            async with worker.connected(**LISTENING, held=[token(offer)]):
                await worker.ready("echo", slots=1)
                await client.say(m.Watch([held.id]))
                await worker.finish(offer, "through it all")
                assert decode_value((await client.hear(m.Ended)).outcome) == "through it all"
                assert (await client.ask("job", id=held.id))["losses"] == 0


async def test_after_a_restart_what_nobody_names_runs_again_when_the_grace_ends(autojump_clock):
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            job = await client.submitted(1)
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                await worker.hear(m.Offer)
                await trio.sleep(1)
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            async with house.worker("other").connected(**LISTENING) as other:
                await other.ready("echo")
                await other.hears_nothing(m.Offer, house.settings.grace_s - 1)
                offer = await other.hear(m.Offer)
                assert (offer.id, offer.attempt) == (job.id, 2)
                assert (await client.ask("job", id=job.id))["losses"] == 1


async def test_an_attempt_whose_lease_was_never_committed_is_adopted_if_the_job_is_free(
    autojump_clock,
):
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            job = await client.submitted(1)
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client:
            worker = house.worker()
            async with worker.connected(**LISTENING, held=[[1, 1, 1]]):
                await worker.ready("echo")
                await worker.hears_nothing(m.Offer, 5)
                await client.say(m.Watch([job.id]))
                lost_lease = m.Offer(1, 1, 1, job.id, "echo", 2, b"", None)
                await worker.finish(lost_lease, "adopted")
                assert decode_value((await client.hear(m.Ended)).outcome) == "adopted"


async def test_a_client_that_comes_back_is_told_what_ended_meanwhile(autojump_clock):
    async with open_house() as house:
        client, worker = house.client(), house.worker()
        async with worker.connected(**LISTENING):
            async with client.connected():
                job = await client.submitted(1, flags=m.WATCH)
            await worker.ready("echo")
            await worker.finish(await worker.hear(m.Offer), "meanwhile")
            await worker.hear(m.Settled)
            async with client.connected():
                await client.say(m.Watch([job.id]))
                assert decode_value((await client.hear(m.Ended)).outcome) == "meanwhile"


async def test_a_stopping_plane_refuses_what_is_new_and_lets_running_work_finish(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        await client.submitted(1, flags=m.WATCH)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            await client.submitted(2)
            house.stop.set()
            await trio.sleep(1)
            refused = client.submit(3)
            await client.say(refused)
            assert (await client.hear(m.Declined)).code == "stopping"
            await worker.finish(offer, "in time")
            assert decode_value((await client.hear(m.Ended)).outcome) == "in time"
            await worker.hear(m.Goodbye)
            assert not [o for o in worker.heard if isinstance(o, m.Offer)]


class SlowDisk(DiskLike):
    """Takes its time with every commit."""

    async def commit(self, batch: Batch):
        await trio.sleep(0.5)
        return await super().commit(batch)


async def test_what_ends_last_is_settled_before_a_stopping_plane_says_goodbye(autojump_clock):
    async with (
        open_house(make_store=SlowDisk) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        job = await client.submitted(1, flags=m.WATCH)
        await worker.ready("echo", slots=1)
        offer = await worker.hear(m.Offer)
        house.stop.set()
        await trio.sleep(2)
        n = await worker.finish(offer, "at the last moment")
        # Whatever else happens meanwhile.
        await worker.say(m.Capacity(1, 0))
        assert (await worker.hear(m.Settled)).ns == [n]
        assert (await client.hear(m.Ended)).id == job.id
        await worker.hear(m.Goodbye)


async def test_who_dials_a_stopping_plane_again_and_again_is_told_of_once(autojump_clock, caplog):
    async with open_house() as house, house.client().connected() as client:
        await client.submitted(1)
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            house.stop.set()
            await trio.sleep(1)
            other = house.client()
            for _ in range(5):
                assert (await other.is_refused()).code == "stopping"
            await worker.finish(offer, "in time")
            await worker.hear(m.Goodbye)
    assert caplog.text.count("was sent away (stopping)") == 1


async def test_an_old_process_that_is_back_does_not_replace_what_a_newer_one_has_announced(
    autojump_clock,
):
    def declared(queue: str) -> m.Announce:
        return m.Announce([{"name": "echo", "queue": queue}])

    async with open_house() as house:
        old, new = house.worker("old"), house.worker("new")
        facts = {"queues": ["default", "old", "new"]}
        async with old.connected(**facts, age_s=100.0):
            await old.say(declared("old"))
            await trio.sleep(1)
            assert house.core.catalog.defaults("echo").queue == "old"
            async with new.connected(**facts, age_s=0.0):
                await new.say(declared("new"))
                await trio.sleep(50)
        async with old.connected(**facts, age_s=151.0):
            await old.say(declared("old"))
            await trio.sleep(1)
            assert house.core.catalog.defaults("echo").queue == "new"
            assert "echo" in house.core.sessions.worker("old").tasks
            # The same process may say something else, and so may one that is newer still.
            async with new.connected(**facts, age_s=51.0):
                await new.say(declared("newer"))
                await trio.sleep(1)
                assert house.core.catalog.defaults("echo").queue == "newer"


@pytest.mark.parametrize("age_s", [-1, float("nan"), float("inf"), "old", True, None])
async def test_an_age_is_a_number_of_seconds(autojump_clock, age_s):
    async with open_house() as house:
        assert (await house.worker().is_refused(**LISTENING, age_s=age_s)).code == "protocol"


async def test_a_hello_that_was_overtaken_takes_nothing_away(autojump_clock):
    """A worker gave up on a connection whose Hello was stuck somewhere, and dialled again."""
    async with open_house() as house, house.client().connected() as client:
        worker = house.worker()
        async with house.listener.dial("late") as late:
            stuck = worker.hello(**LISTENING, held=[], connection=1)
            async with worker.connected(**LISTENING, connection=2):
                await worker.ready("echo")
                await client.submitted(1, flags=m.WATCH)
                offer = await worker.hear(m.Offer)
                grammar = Grammar(Role.WORKER, Role.PLANE)
                await late.send(grammar.send([stuck]))
                (refusal,) = grammar.receive(await late.receive())
                assert isinstance(refusal, m.Refusal)
                assert refusal.code == "overtaken"
                await worker.hears_nothing(m.Stop, 5)
                await worker.finish(offer, "run once")
                assert decode_value((await client.hear(m.Ended)).outcome) == "run once"


@pytest.mark.parametrize("connection", [-1, 1.5, "1", True, None])
async def test_a_connection_has_a_whole_number(autojump_clock, connection):
    async with open_house() as house:
        refusal = await house.worker().is_refused(**LISTENING, connection=connection)
        assert refusal.code == "protocol"


async def test_a_worker_without_a_slot_is_given_nothing_however_urgent(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=2)
            for i in range(2):
                await client.submitted(i)
                await worker.hear(m.Offer)
            await worker.say(m.Capacity(0, 0))
            await client.submitted(9, priority=0)
            await worker.hears_nothing(m.Offer, 5)
            await worker.say(m.Capacity(1, 0))
            assert decode_call((await worker.hear(m.Offer)).payload) == ([9], {})
