"""Who waits for a result gets it, through cuts, prunes, duplicates and a store that fails to read;
and nothing is kept for ever for somebody who does not come for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
import trio
from tests.cluster.scripted import House, Peer, job_id, open_house
from tests.cluster.test_windows import LISTENING, DiskLike

from creche.engine.core import PRUNE_EVERY_S
from creche.engine.settings import PlaneSettings
from creche.errors import JobCancelled, StoreError, StoreFull
from creche.model.job import JobState
from creche.store.base import Batch, OutcomeRow, Retention
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import decode_value

pytestmark = pytest.mark.trio
KEEP_ONE = PlaneSettings(retention=Retention(1, None, None))
FIRST_PRUNE, SECOND_PRUNE = PRUNE_EVERY_S, 2 * PRUNE_EVERY_S
"""When results are pruned, on the clock that begins with the plane."""


async def finish_all(worker: Peer, number: int) -> None:
    for _ in range(number):
        await worker.finish(await worker.hear(m.Offer), "r")


async def kept(house: House, jobs: Collection[m.Submit]) -> int:
    """How many of these jobs' results the store still has."""
    rows = await house.core.store.outcomes([job.id for job in jobs])
    return sum(row.state is JobState.SUCCEEDED for row in rows.values())


# --- away, and back again -------------------------------------------------------------------------


@pytest.mark.parametrize("back_at", [FIRST_PRUNE - 0.5, FIRST_PRUNE + 0.5])
async def test_what_ended_while_its_client_was_away_is_not_pruned_before_it_asks(
    autojump_clock, back_at
):
    """The prune comes between the client's return and its first words, or while it is away."""
    async with open_house(KEEP_ONE) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        client = house.client()
        await trio.sleep_until(FIRST_PRUNE - 10)
        async with client.connected():
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
        await finish_all(worker, 3)
        await trio.sleep_until(back_at)
        async with client.connected():
            await trio.sleep(1)
            await client.say(m.Watch([job.id for job in jobs]))
            for _ in jobs:
                assert decode_value((await client.hear(m.Ended, 5)).outcome) == "r"


async def test_a_plane_that_was_restarted_waits_for_its_clients_before_it_prunes(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr("creche.engine.core.PRUNE_EVERY_ENDS", 1)
    store = MemoryStore()
    async with open_house(KEEP_ONE, make_store=lambda: store) as house:
        client = house.client()
        async with client.connected():
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            await finish_all(worker, 3)
            await worker.hear(m.Settled)
    async with open_house(KEEP_ONE, make_store=lambda: store) as house:
        client.listener = house.listener
        async with house.worker().connected(**LISTENING) as worker, house.client().connected() as b:
            await worker.ready("echo")
            await b.submitted(9)
            await finish_all(worker, 1)
            await trio.sleep(house.settings.grace_s - 5)
            async with client.connected():
                await client.say(m.Watch([job.id for job in jobs]))
                for _ in jobs:
                    assert decode_value((await client.hear(m.Ended, 5)).outcome) == "r"
                await client.say(client.received(3))
                await trio.sleep(house.settings.grace_s)
                assert await kept(house, jobs) == 0


async def test_what_was_sent_and_not_received_outlives_the_connection(autojump_clock):
    async with open_house(KEEP_ONE) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        client = house.client()
        await trio.sleep_until(FIRST_PRUNE - 10)
        async with client.connected():
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
            await finish_all(worker, 3)
            for _ in jobs:
                await client.hear(m.Ended)
        async with client.connected():
            await trio.sleep_until(FIRST_PRUNE + 1)
            assert await kept(house, jobs) == 3


async def test_what_is_not_named_again_is_kept_for_twice_the_grace_and_no_longer(autojump_clock):
    async with open_house(KEEP_ONE) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        client = house.client()
        await trio.sleep_until(FIRST_PRUNE - 2 * house.settings.grace_s + 1)
        async with client.connected():
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
        await finish_all(worker, 3)
        async with client.connected():
            await trio.sleep_until(FIRST_PRUNE + 0.5)
            assert await kept(house, jobs) == 3
            await trio.sleep_until(SECOND_PRUNE + 0.5)
            assert house.core.outcomes.pinned == set()
            assert await kept(house, jobs) == 1


async def test_who_comes_back_again_and_again_and_names_nothing_pins_nothing_for_ever(
    autojump_clock,
):
    async with open_house(KEEP_ONE) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        client = house.client()
        async with client.connected():
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
        await finish_all(worker, 3)
        for _ in range(20):
            await trio.sleep(5)
            async with client.connected():
                pass
        assert house.core.outcomes.pinned == set()
        assert await kept(house, jobs) == 1


async def test_a_result_is_let_go_of_when_it_was_received(autojump_clock):
    async with open_house(KEEP_ONE) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        async with house.client().connected() as client:
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
            await finish_all(worker, 3)
            for _ in jobs:
                await client.hear(m.Ended)
            await client.say(client.received(2))
            await trio.sleep_until(FIRST_PRUNE + 1)
            assert await kept(house, jobs) == 1
            assert len(house.core.outcomes.pinned) == 1


async def test_a_session_that_is_over_pins_nothing(autojump_clock):
    async with open_house(KEEP_ONE) as house, house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        client = house.client()
        async with client.connected():
            jobs = [await client.submitted(i, flags=m.WATCH) for i in range(3)]
        await finish_all(worker, 3)
        await trio.sleep_until(FIRST_PRUNE + 1)
        assert house.core.outcomes.pinned == set()
        assert await kept(house, jobs) == 1


# --- one id, many who wait ------------------------------------------------------------------------


async def test_an_id_that_is_submitted_twice_and_was_there_long_before_is_answered_twice(
    autojump_clock,
):
    """As when a client is cut off twice: the second resend meets the first on its way to the disk,
    and the job that they name has ended."""

    class Slow(DiskLike):
        async def commit(self, batch: Batch):
            await trio.sleep(0.5)
            return await super().commit(batch)

    async with open_house(make_store=Slow) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            job = await client.submitted(1, flags=m.WATCH)
            await finish_all(worker, 1)
            await client.hear(m.Ended)
            again = job._replace(flags=m.WATCH | m.RESENT)
            others = [house.client(), house.client()]
            async with others[0].connected(), others[1].connected():
                await others[0].say(again)
                await trio.sleep(0.1)
                await others[1].say(m.Watch([job.id]))
                await client.say(again)
                await client.hear(m.Accepted)
                await others[0].hear(m.Accepted)
                for peer in (client, *others):
                    assert decode_value((await peer.hear(m.Ended, 30)).outcome) == "r"
            sessions = [s for s in house.core.sessions if not s.is_worker]
            assert not any(session.watching or session.claims for session in sessions)


async def test_who_waits_for_a_job_that_the_store_does_not_take_is_told_that_there_is_none(
    autojump_clock,
):
    class Full(DiskLike):
        async def commit(self, batch: Batch):
            if batch.jobs:
                await trio.sleep(0.5)
                raise StoreFull("no space left")
            return await super().commit(batch)

    async with open_house(make_store=Full) as house, house.client().connected() as client:
        async with house.client("other").connected() as other:
            job = client.submit(1, flags=m.WATCH)
            await client.say(job)
            await trio.sleep(0.1)
            await other.say(m.Watch([job.id]))
            assert (await client.hear(m.Declined)).n == job.n
            assert not (await other.hear(m.Missing, 30)).is_forgotten
            assert not any(session.watching for session in house.core.sessions)


async def test_who_repeats_a_job_to_a_full_disk_is_told_of_the_job_that_is_there(autojump_clock):
    class Full(DiskLike):
        is_full = False

        async def commit(self, batch: Batch):
            if self.is_full and batch.jobs:
                await trio.lowlevel.checkpoint()
                raise StoreFull("no space left")
            return await super().commit(batch)

    store = Full()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        job = await client.submitted(1)
        await finish_all(worker, 1)
        await worker.hear(m.Settled)
        store.is_full = True
        again = client.submit(1, id=job.id, flags=m.WATCH)
        await client.say(again)
        assert (await client.hear(m.Declined)).n == again.n
        assert (await client.hear(m.Ended)).id == job.id
        assert not any(isinstance(heard, m.Missing) for heard in client.heard)
        store.is_full = False


async def test_a_job_that_is_submitted_while_its_id_is_looked_up_is_missing_to_nobody(
    autojump_clock,
):
    """The store was asked before it knew the job, and answers when somebody waits for it."""

    class SlowReader(DiskLike):
        async def outcomes(
            self, ids: Collection[bytes], max_bytes=None
        ) -> Mapping[bytes, OutcomeRow]:
            rows = await super().outcomes(ids, max_bytes)
            await trio.sleep(1)
            return rows

    async with open_house(make_store=SlowReader) as house, house.client().connected() as client:
        async with house.client("other").connected() as other:
            job = client.submit(1, flags=m.WATCH)
            await other.say(m.Watch([job.id]))
            await trio.sleep(0.1)
            await client.say(job)
            await client.hear(m.Accepted)
            await trio.sleep(2)
            async with house.worker().connected(**LISTENING) as worker:
                await worker.ready("echo")
                await finish_all(worker, 1)
                for peer in (client, other):
                    assert (await peer.hear(m.Ended, 5)).id == job.id
                    await peer.hears_nothing(m.Missing, 1)


async def test_a_stored_job_that_is_waited_for_no_more_is_not_pushed(autojump_clock):
    settings = PlaneSettings(window=1, watches=3)
    async with open_house(settings, DiskLike) as house, house.client().connected() as client:
        jobs = [await client.submitted(i) for i in range(4)]
        for _ in range(10):
            await client.say(m.Watch([job.id for job in jobs[1:]]))
            await trio.sleep(1)
            await client.say(m.Unwatch([job.id for job in jobs[1:]]))
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            await finish_all(worker, 4)
            await client.hears_nothing(m.Ended, 5)


# --- looking up -----------------------------------------------------------------------------------


class Counting(DiskLike):
    """Notes how many ids it is asked for at a time; each answer takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.under_way = self.most_at_once = 0

    async def outcomes(self, ids: Collection[bytes], max_bytes=None) -> Mapping[bytes, OutcomeRow]:
        self.asked.append(len(ids))
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await trio.sleep(1)
        self.under_way -= 1
        return await super().outcomes(ids, max_bytes)


async def test_ids_that_are_asked_for_while_others_are_looked_up_are_looked_up_together(
    autojump_clock,
):
    store = Counting()
    async with open_house(make_store=lambda: store) as house:
        async with house.client().connected() as client, house.client().connected() as other:
            await client.say(*(m.Watch([job_id(n)]) for n in range(2500)))
            await other.say(*(m.Watch([job_id(n)]) for n in range(2000, 3500)))
            for _ in range(2500):
                await client.hear(m.Missing)
            for _ in range(1500):
                await other.hear(m.Missing)
            assert store.most_at_once == 1
            assert len(store.asked) <= 6
            assert max(store.asked) <= 1000


async def test_ids_that_nobody_waits_for_any_more_are_not_looked_up(autojump_clock):
    store = Counting()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        for n in range(100):
            ids = [job_id(n * 100 + i) for i in range(100)]
            await client.say(m.Watch(ids), m.Unwatch(ids))
        await client.say(m.Watch([job_id(1)]))
        await client.hear(m.Missing)
        await trio.sleep(10)
        assert sum(store.asked) <= 1 + 1000


class Damaged(MemoryStore):
    """Cannot read one job."""

    unreadable = b""

    async def outcomes(self, ids: Collection[bytes], max_bytes=None) -> Mapping[bytes, OutcomeRow]:
        if self.unreadable in ids:
            await trio.lowlevel.checkpoint()
            raise StoreError("the store's file cannot be used: malformed")
        return await super().outcomes(ids, max_bytes)


async def test_a_job_that_the_store_cannot_read_costs_only_those_who_wait_for_it(autojump_clock):
    store = Damaged()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            jobs = [await client.submitted(i) for i in range(3)]
            await finish_all(worker, 3)
            await trio.sleep(1)
            store.unreadable = jobs[1].id
            bad, good = house.client("bad"), house.client("good")
            async with bad.connected(), good.connected():
                await bad.say(m.Watch([jobs[1].id]))
                await good.say(m.Watch([jobs[0].id, jobs[2].id]))
                assert {(await good.hear(m.Ended)).id for _ in range(2)} == {jobs[0].id, jobs[2].id}
                refusal = await bad.hear(m.Refusal)
                assert refusal.code == "store"
                assert "malformed" in refusal.why
                await bad.hears_the_end()
            async with bad.connected():
                assert bad.welcome is not None
                assert bad.welcome.is_resumed
                await bad.submitted(4)
            assert (await client.ask("health"))["ready"]


async def test_a_cancel_that_the_store_cannot_look_up_fails_alone(autojump_clock):
    store = Damaged()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        store.unreadable = job_id(1)
        await client.say(m.Cancel(7, [job_id(1)], ""))
        failed = await client.hear(m.AskFailed)
        assert (failed.ref, failed.code) == (7, "store")
        await client.submitted(2)


# --- why it was cancelled -------------------------------------------------------------------------


async def test_the_reason_of_a_cancel_is_the_jobs_outcome(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        job = await client.submitted(1, flags=m.WATCH)
        await client.say(m.Cancel(7, [job.id], "wrong customer"))
        ended = await client.hear(m.Ended)
        assert ended.state == JobState.CANCELLED
        failure = decode_value(ended.outcome)
        assert (failure["type"], failure["message"]) == ("creche.Cancelled", "wrong customer")


async def test_a_long_reason_is_cut_and_none_is_no_outcome(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        for number, why in enumerate(("", "x" * 5000)):
            job = await client.submitted(number, flags=m.WATCH)
            await client.say(m.Cancel(number, [job.id], why))
            ended = await client.hear(m.Ended)
            if why:
                assert len(decode_value(ended.outcome)["message"]) == 1000
            else:
                assert ended.outcome is None


@task(registry=Registry())
async def never() -> None:
    raise AssertionError("no worker knows this task")


async def test_whoever_waits_for_a_cancelled_job_is_told_why(autojump_clock):
    async with open_cluster([], workers=0) as cluster, cluster.client() as client:
        handle = await client.submit(never)
        assert await client.job(str(handle)).cancel("wrong customer") is JobState.CANCELLED
        for asked in (handle, client.job(str(handle))):
            with pytest.raises(JobCancelled, match="was cancelled: wrong customer"):
                await asked.result(30)


async def test_a_receipt_is_for_the_results_it_names(autojump_clock):
    """A large result travels in pieces, and has arrived after a small one that was sent later."""
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            seqs, ended = [], []
            for number in range(2):
                await client.say(client.submit(number, flags=m.WATCH))
                offer = await worker.hear(m.Offer)
                await worker.finish(offer)
                seqs.append(offer.seq)
                ended.append(await client.hear(m.Ended))
            assert house.core.outcomes.pinned == set(seqs)
            await client.say(m.Received([ended[1].id, b"never sent to it"]))
            await trio.sleep(1)
            assert house.core.outcomes.pinned == {seqs[0]}
