"""Where there is no disk, submissions wait for room: whoever submitted an id is answered, however
many did, and whatever becomes of the first of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_windows import LISTENING, number

from creche.engine.settings import PlaneSettings
from creche.errors import SubmitTimeout
from creche.model.job import JobState
from creche.store.base import Store
from creche.store.memory import MemoryStore
from creche.testing.cluster import open_cluster
from creche.wire import messages as m

pytestmark = pytest.mark.trio
SMALL = PlaneSettings(window=1)


@asynccontextmanager
async def full_house(
    settings: PlaneSettings = SMALL, make_store: Callable[[], Store] | None = None
) -> AsyncIterator[tuple[House, Peer, Peer, m.Offer]]:
    """A plane whose one lane is full, a client, and a worker that runs the job before it."""
    async with (
        open_house(settings, make_store) as house,
        house.client("first").connected() as client,
    ):
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            await client.submitted(1)
            offer = await worker.hear(m.Offer)
            await client.submitted(2)
            yield house, client, worker, offer


async def run_the_rest(worker: Peer, offer: m.Offer) -> list[int]:
    """Finish jobs until no more are offered, and return their numbers in order."""
    ran = [number(offer)]
    await worker.finish(offer)
    try:
        while True:
            offer = await worker.hear(m.Offer, 30)
            ran.append(number(offer))
            await worker.finish(offer, number(offer))
    except trio.TooSlowError:
        return ran


def nothing_is_left(house: House) -> bool:
    """Whether no session is thought to wait for an answer."""
    return not any(s.unaccepted or s.claims or s.watching for s in house.core.sessions)


async def test_who_submits_an_id_that_waits_already_is_accepted_with_it(autojump_clock):
    async with full_house() as (house, first, worker, offer):
        async with house.client("second").connected() as second:
            job = first.submit(3)
            await first.say(job)
            await trio.sleep(1)
            for n in (50, 51):
                await second.say(job._replace(n=n, flags=m.WATCH))
            await second.hears_nothing(m.Accepted, 1)
            assert await run_the_rest(worker, offer) == [1, 2, 3]
            assert job.n in (await first.hear(m.Accepted)).ns
            assert set((await second.hear(m.Accepted)).ns) == {50, 51}
            assert (await second.hear(m.Ended)).id == job.id
            await second.hears_nothing(m.Ended, 5)
            assert nothing_is_left(house)


async def test_a_submission_that_is_sent_again_while_it_waits_is_accepted_once(autojump_clock):
    """As after a reconnect: the same number, said again."""
    async with full_house() as (house, _, worker, offer):
        again = house.client("again")
        job = again.submit(3, flags=m.WATCH)
        async with again.connected():
            await again.say(job)
            await trio.sleep(1)
        async with again.connected():
            await again.say(job._replace(flags=m.WATCH | m.RESENT))
            await trio.sleep(1)
            assert await run_the_rest(worker, offer) == [1, 2, 3]
            assert (await again.hear(m.Accepted)).ns == [job.n]
            await again.hears_nothing(m.Accepted, 1)
            assert (await again.hear(m.Ended)).id == job.id
            assert nothing_is_left(house)


async def test_the_second_submitter_takes_the_place_of_the_first_when_that_leaves(autojump_clock):
    async with full_house() as (house, first, worker, offer):
        leaving = house.client("leaving")
        async with house.client("second").connected() as second:
            async with leaving.connected():
                job = leaving.submit(3)
                await leaving.say(job, leaving.submit(4))
                await trio.sleep(1)
                await second.say(job._replace(n=50))
                await trio.sleep(1)
                last = first.submit(5)
                await first.say(last)
                await leaving.say(m.Goodbye("I have changed my mind"))
                await leaving.hears_the_end()
            assert await run_the_rest(worker, offer) == [1, 2, 3, 5]
            assert (await second.hear(m.Accepted)).ns == [50]
            assert nothing_is_left(house)


async def test_a_second_submitter_that_leaves_is_forgotten(autojump_clock):
    async with full_house() as (house, first, worker, offer):
        job = first.submit(3)
        await first.say(job)
        for _ in range(3):
            async with house.client().connected() as second:
                await second.say(job._replace(n=50))
                await second.say(m.Goodbye("no matter"))
                await second.hears_the_end()
        assert not house.core.submissions.claims
        assert await run_the_rest(worker, offer) == [1, 2, 3]
        assert nothing_is_left(house)


async def test_a_cancel_of_what_waits_declines_it_to_all_who_submitted_it(autojump_clock):
    async with full_house() as (house, first, worker, offer):
        async with house.client("second").connected() as second:
            job = first.submit(3)
            await first.say(job)
            await trio.sleep(1)
            await second.say(job._replace(n=50))
            await trio.sleep(1)
            await second.say(m.Cancel(7, [job.id], "not wanted"))
            assert (await second.hear(m.Answer)).body == [JobState.CANCELLED]
            for peer, n in ((first, job.n), (second, 50)):
                declined = await peer.hear(m.Declined)
                assert (declined.n, declined.code) == (n, "cancelled")
            assert await run_the_rest(worker, offer) == [1, 2]
            assert nothing_is_left(house)


async def test_what_was_withdrawn_may_be_submitted_again(autojump_clock):
    async with full_house() as (house, first, worker, offer):
        job = first.submit(3)
        for _ in range(3):
            await first.say(job, m.Cancel(7, [job.id], ""))
            assert (await first.hear(m.Declined)).code == "cancelled"
        await first.say(job)
        assert await run_the_rest(worker, offer) == [1, 2, 3]
        assert nothing_is_left(house)


async def test_repeating_what_waits_is_bounded(autojump_clock):
    async with full_house(PlaneSettings(window=1, unaccepted=5)) as (house, first, worker, offer):
        job = first.submit(3)
        await first.say(job)
        await trio.sleep(1)
        await first.say(*(job._replace(n=100 + n) for n in range(7)))
        declined = [await first.hear(m.Declined) for _ in range(2)]
        assert [(d.n, d.code) for d in declined] == [(105, "credit"), (106, "credit")]
        assert await run_the_rest(worker, offer) == [1, 2, 3]
        accepted: set[int] = set()
        while len(accepted) < 6:
            accepted.update((await first.hear(m.Accepted, 5)).ns)
        assert accepted == {job.n, *range(100, 105)}
        assert nothing_is_left(house)


async def test_what_waits_is_let_in_in_order_whoever_withdraws(autojump_clock):
    async with full_house() as (house, first, worker, offer):
        jobs = [first.submit(n) for n in range(3, 103)]
        await first.say(*jobs)
        await first.say(m.Cancel(7, [job.id for job in jobs[::2]], ""))
        assert (await first.hear(m.Answer)).body == [JobState.CANCELLED] * 50
        assert await run_the_rest(worker, offer) == [1, 2, *range(4, 103, 2)]
        assert nothing_is_left(house)


async def test_a_cancel_finds_the_channel_full_behind_a_job_that_was_taken_out_of_it(
    autojump_clock,
):
    """Nested submissions take what room the channel has, and the job that was looked at before an
    older one came back is beside it: one more than the channel has room for is swept."""
    window = 3
    async with open_house(PlaneSettings(window=window)) as house:
        async with house.worker().connected(**LISTENING) as worker:
            async with house.client().connected() as client:
                await worker.ready("echo", slots=1)
                await client.submitted(1)
                offer = await worker.hear(m.Offer)
                for n in range(2, 2 + window):
                    await client.submitted(n)
                for _ in range(2):
                    await worker.say(m.HandBack([[offer.seq, offer.epoch, offer.attempt]]))
                    offer = await worker.hear(m.Offer)
                parent = {"parent": [offer.seq, offer.epoch, offer.attempt]}
                nested = [await worker.submitted(n, options=parent) for n in range(10, 28)]
                (lane,) = house.core.lanes.by_number.values()
                full = lane.statistics()
                assert full["channel"]["current_buffer_used"] == window
                assert full["front"] > len(nested) - window
                await client.say(m.Cancel(1, [job.id for job in nested[window:]], ""))
                answer = await client.hear(m.Answer)
                assert answer.body == [int(JobState.CANCELLED)] * (len(nested) - window)
                ran = await run_the_rest(worker, offer)
                assert ran == [1, *range(2, 2 + window), *range(10, 10 + window)]


class Steps(trio.abc.Instrument):
    """Counts how often anybody is resumed, and stops a run that never rests."""

    def __init__(self, scope: trio.CancelScope, most: int) -> None:
        self._scope = scope
        self._left = most

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def test_who_submits_many_rests_while_the_last_of_them_wait_for_room(autojump_clock):
    """All that were begun were accepted once, in the middle: that is not news any more."""
    settings = PlaneSettings(window=10, unaccepted=10)
    async with open_cluster([], workers=0, settings=settings) as cluster:
        async with cluster.client(timeout=3.0) as client:
            with trio.CancelScope() as scope:
                steps = Steps(scope, 20_000)
                trio.lowlevel.add_instrument(steps)
                try:
                    with pytest.raises(SubmitTimeout):
                        await client.submit_many("noop", [(i,) for i in range(15)])
                finally:
                    trio.lowlevel.remove_instrument(steps)
            assert not scope.cancelled_caught, "it never rests"


async def test_what_waits_and_is_sent_again_is_answered_once_though_there_is_no_credit_left(
    autojump_clock,
):
    settings = PlaneSettings(window=1, unaccepted=1)
    async with open_house(settings) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo", slots=1)
        client = house.client()
        async with client.connected():
            await client.submitted(1)
            offer = await worker.hear(m.Offer)
            await client.submitted(2)
            job = client.submit(3, flags=m.WATCH)
            await client.say(job)
            await trio.sleep(1)
        async with client.connected():
            await client.say(job._replace(flags=m.RESENT | m.WATCH))
            await client.hears_nothing(m.Declined, 5)
            assert await run_the_rest(worker, offer) == [1, 2, 3]
            assert (await client.hear(m.Accepted)).ns == [job.n]
            assert (await client.hear(m.Ended)).id == job.id
            assert not any(isinstance(heard, m.Declined) for heard in client.heard)


async def test_what_is_cancelled_while_it_waits_is_not_taken_for_being_sent_again(autojump_clock):
    class Slow(MemoryStore):
        async def outcomes(self, ids, max_bytes=None):
            await trio.sleep(5)
            return await super().outcomes(ids, max_bytes)

    async with open_house(SMALL, Slow) as house, house.client("other").connected() as other:
        client = house.client()
        async with client.connected():
            await client.submitted(1)
            job = client.submit(2)
            await client.say(job)
            await trio.sleep(1)
        async with client.connected():
            await client.say(job._replace(flags=m.RESENT))
            await trio.sleep(1)
            await other.say(m.Cancel(7, [job.id], ""))
            assert (await client.hear(m.Declined)).code == "cancelled"
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo", slots=1)
                await worker.finish(await worker.hear(m.Offer))
                await worker.hears_nothing(m.Offer, 30)
            assert not any(isinstance(heard, m.Accepted) for heard in client.heard)
