"""Unique jobs: when a submission that meets a job is answered, and what it is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_unique_races import EXISTING, Slow, unique
from tests.cluster.test_windows import LISTENING, DiskLike

from creche import SubmissionRefused, Throttle, current_job
from creche.model.job import JobState
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m

pytestmark = pytest.mark.trio

DELAYED = {"key": "k", "delay_s": 5.0, "on_duplicate": "replace", "states": ["waiting"]}


async def jobs_of(client: Peer) -> list[dict[str, Any]]:
    await client.say(m.Ask(99, "jobs", {"limit": 100}))
    rows: list[dict[str, Any]] = (await client.hear(m.Answer)).body["jobs"]
    return rows


ODD: list[Any] = [5, "x", [1], {"expires_s": "soon"}, {"expires_s": [1]}, math.nan, True, b"\xff"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        lambda odd: {"unique": DELAYED, "limits": odd},
        lambda odd: {"unique": DELAYED, "delay_s": odd},
        lambda odd: {"unique": {"key": "k", "delay_s": odd}},
        lambda odd: {"unique": {"key": "k", "states": [odd]}},
        lambda odd: {"unique": odd, "idempotency_key": odd},
    ],
    ids=["limits", "delay", "rule", "states", "keys"],
)
async def test_whatever_a_peer_says_of_keys_the_plane_goes_on(
    autojump_clock: object, options: Any, odd: Any
) -> None:
    async with (
        open_house(make_store=DiskLike) as house,
        house.client("good").connected() as good,
        house.client("bad").connected() as bad,
    ):
        core = house.core
        await bad.say(bad.submit(2, options=options(odd)))
        await trio.sleep(1)
        await good.submitted(3)
        assert house.core is core


async def test_who_is_one_with_a_job_hears_so_before_it_hears_how_that_ended(
    autojump_clock: object,
) -> None:
    store = Slow()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await client.say(unique(client, 1, EXISTING))
        await client.hear(m.Accepted)
        await worker.ready("echo")
        offer = await worker.hear(m.Offer)
        await trio.sleep(1)
        store.may_commit = trio.Event()
        await client.say(client.submit(9, task="other"))
        await trio.sleep(0.1)
        options = {"unique": EXISTING, "idempotency_key": "K2"}
        await client.say(client.submit(2, options=options, flags=m.WATCH))
        await trio.sleep(0.1)
        await worker.finish(offer, 1)
        await trio.sleep(0.1)
        store.may_commit.set()
        await trio.sleep(1)
        await client.hear(m.Ended)
        assert [x for x in client.heard if isinstance(x, m.Existing)]


@task(registry=Registry(), throttle=Throttle(3600.0, by=()))
async def digest(who: int) -> int:
    return who


async def test_the_result_of_a_job_that_was_there_comes_whatever_key_met_it(
    autojump_clock: object,
) -> None:
    async with open_cluster([digest]) as cluster, cluster.client() as client:
        assert await (await client.submit(digest, 1)).result() == 1
        for n in range(10):
            job = await client.submit(digest.with_options(idempotency_key=f"request {n}"), 1)
            assert job.is_existing
            with trio.fail_after(10):
                assert await job.result() == 1


async def end_and_look(house: House, client: Peer, options: dict[str, Any]) -> list[str]:
    """Submit, cancel, submit again while the body leaves, have it succeed; return how all stand."""
    async with house.worker().connected(**LISTENING) as worker:
        await worker.ready("echo")
        await client.say(first := client.submit(1, options=options))
        await client.hear(m.Accepted)
        offer = await worker.hear(m.Offer)
        await client.say(m.Cancel(7, [first.id], "no"))
        await worker.hear(m.Stop)
        await client.hear(m.Answer)
        await client.say(client.submit(2, options=options))
        await trio.sleep(1)
        await worker.finish(offer, 1)
        await trio.sleep(1)
        return [row["state"] for row in await jobs_of(client)]


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        ({"idempotency_key": "charge 17"}, 1),
        ({"unique": {"key": "k", "period_s": 60.0, "states": [
            "waiting", "running", "succeeded", "failed", "cancelled"]}}, 1),
        ({"unique": EXISTING}, 2),
    ],
    ids=["idempotency key", "throttled", "unique"],
)  # fmt: skip
async def test_a_job_that_is_being_cancelled_is_the_one_where_every_state_counts(
    autojump_clock: object, options: dict[str, Any], jobs: int
) -> None:
    async with open_house(make_store=DiskLike) as house, house.client().connected() as client:
        assert len(await end_and_look(house, client, options)) == jobs


async def test_a_key_that_is_lent_is_told_when_it_is_on_disk(autojump_clock: object) -> None:
    store = Slow()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client("a").connected() as a,
        house.client("b").connected() as b,
    ):
        await a.say(first := unique(a, 1, EXISTING))
        await a.hear(m.Accepted)
        store.may_commit = trio.Event()
        options = {"unique": EXISTING, "idempotency_key": "K"}
        await a.say(a.submit(2, options=options))
        await trio.sleep(1)
        await b.say(b.submit(3, options=options))
        await a.hears_nothing(m.Existing, 1)
        await b.hears_nothing(m.Existing, 1)
        store.may_commit.set()
        assert (await a.hear(m.Existing)).id == first.id
        assert (await b.hear(m.Existing)).id == first.id


async def test_a_key_is_nobody_elses_from_the_moment_in_which_it_is_decided(
    autojump_clock: object,
) -> None:
    """While the job that a submission is one with is on its way to the disk, too."""
    store = Slow()
    async with (
        open_house(make_store=lambda: store) as house,
        house.client("a").connected() as a,
        house.client("b").connected() as b,
    ):
        store.may_commit = trio.Event()
        await a.say(first := unique(a, 1, EXISTING))
        await a.say(a.submit(2, options={"unique": EXISTING, "idempotency_key": "K"}))
        await trio.sleep(1)
        await b.say(b.submit(3, options={"idempotency_key": "K"}))
        await trio.sleep(1)
        store.may_commit.set()
        assert (await b.hear(m.Existing)).id == first.id
        assert len(await jobs_of(a)) == 1


async def test_who_has_such_a_key_and_leaves_gives_it_back(autojump_clock: object) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client("b").connected() as b:
        store.may_commit = trio.Event()
        async with house.client("a").connected() as a, house.client("c").connected() as c:
            await c.say(first := unique(c, 1, EXISTING))
            await trio.sleep(0.1)
            await a.say(a.submit(2, options={"unique": EXISTING, "idempotency_key": "K"}))
            await trio.sleep(0.1)
            await b.say(third := b.submit(3, options={"idempotency_key": "K"}))
            await trio.sleep(0.1)
            await a.say(m.Goodbye("that was it"))
            await trio.sleep(1)
            store.may_commit.set()
            await c.hear(m.Accepted)
            await b.hear(m.Accepted)
        assert {row["id"][-4:] for row in await jobs_of(b)} == {
            job.id.hex()[-4:] for job in (first, third)
        }


async def test_a_key_that_two_have_submitted_as_one_is_kept_when_one_of_them_leaves(
    autojump_clock: object,
) -> None:
    store = Slow()
    async with open_house(make_store=lambda: store) as house, house.client("b").connected() as b:
        store.may_commit = trio.Event()
        async with house.client("a").connected() as a, house.client("c").connected() as c:
            await c.say(first := unique(c, 1, EXISTING))
            await trio.sleep(0.1)
            both = a.submit(2, options={"unique": EXISTING, "idempotency_key": "K"})
            await a.say(both)
            await trio.sleep(0.1)
            await b.say(both._replace(n=77))
            await trio.sleep(0.1)
            await a.say(m.Goodbye("that was it"))
            await trio.sleep(1)
            store.may_commit.set()
            await c.hear(m.Accepted)
            assert (await b.hear(m.Existing)).id == first.id
        await b.say(b.submit(3, options={"idempotency_key": "K"}))
        assert (await b.hear(m.Existing)).id == first.id


async def test_on_a_full_disk_who_lends_a_key_is_declined_as_anybody_is(
    autojump_clock: object,
) -> None:
    store = DiskLike()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.say(first := unique(client, 1, EXISTING))
        await client.hear(m.Accepted)
        store.is_full = True
        options = {"unique": EXISTING, "idempotency_key": "K"}
        await client.say(client.submit(2, options=options))
        assert (await client.hear(m.Declined)).code == "store-full"
        store.is_full = False
        await trio.sleep(30)
        await client.say(client.submit(3, options=options))
        assert (await client.hear(m.Existing)).id == first.id


down_registry = Registry()


@task(registry=down_registry, unique=True)
async def down(depth: int) -> str:
    job = current_job()
    if depth:
        return await (await job.client.submit(up, depth)).result()
    return "never"


@task(registry=down_registry)
async def up(depth: int) -> str:
    again = await current_job().client.submit(down, depth)
    return await again.result()


@task(registry=down_registry, unique=True)
async def itself() -> str:
    left = await current_job().client.delay(itself)
    assert left.is_existing
    try:
        await (await current_job().client.submit(itself)).result()
    except SubmissionRefused as error:
        return str(error)
    return "never"


async def test_a_job_that_would_wait_for_itself_is_told(autojump_clock: object) -> None:
    async with open_cluster(down_registry) as cluster, cluster.client() as client:
        with trio.fail_after(60):
            assert "would wait for itself" in await (await client.submit(itself)).result()
            with pytest.raises(Exception, match="would wait for itself"):
                await (await client.submit(down, 1)).result()


async def test_what_is_cancelled_while_it_is_looked_up_again_is_cancelled_once_it_is_known(
    autojump_clock: object,
) -> None:
    class Late(Slow):
        may_tell = trio.Event()

        async def outcomes(self, ids: Any, max_bytes: Any = None) -> Any:
            found = await super().outcomes(ids, max_bytes)
            await self.may_tell.wait()
            return found

    store = Late()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.say(job := client.submit(1, flags=m.RESENT))
        await trio.sleep(0.1)
        await client.say(m.Cancel(7, [job.id], "gave up"))
        await trio.sleep(0.1)
        store.may_tell.set()
        await client.hear(m.Accepted)
        assert (await client.hear(m.Answer)).body == [JobState.CANCELLED]


async def test_what_waits_to_be_quiet_beyond_its_deadline_is_declined(
    autojump_clock: object,
) -> None:
    async with open_house(make_store=DiskLike) as house, house.client().connected() as client:
        options = {"unique": DELAYED, "limits": {"deadline_at": house.core.now() + 4.0}}
        await client.say(client.submit(1, options=options))
        declined = await client.hear(m.Declined)
        assert (declined.code, "could never run" in declined.why) == ("bad-key", True)
