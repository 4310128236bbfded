"""Schedules fire at their moments, once, whatever dies in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.cluster.scripted import START, House, Peer, open_house, wall_clock
from tests.cluster.test_windows import LISTENING, DiskLike

from creche.engine import journal
from creche.engine import schedules as engine_schedules
from creche.engine.schedules import AT_A_TIME, MAX_SCHEDULES, PIECE
from creche.engine.settings import PlaneSettings
from creche.errors import StoreFull, StoreOverLimit
from creche.model.ids import id_from_text, id_to_text, made_at
from creche.model.schedule import Rule, firing_id
from creche.store.base import Batch, ScheduleRow, Store
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.schedules import Schedule
from creche.tasks.task import task
from creche.testing.cluster import open_cluster
from creche.wire import messages as m
from creche.wire.payload import encode_call, encode_value

pytestmark = pytest.mark.trio

CALL = encode_call([7], {})


def patient(**more: Any) -> PlaneSettings:
    """A plane that lets its scripted peers be silent for days."""
    return PlaneSettings(grace_s=1e7, lease_s=2e7, **more)


STORES = pytest.mark.parametrize("make_store", [MemoryStore, DiskLike])


async def create(client: Peer, name: str, **rule: Any) -> dict[str, Any]:
    """Make a schedule of task ``echo`` by command; what is no part of a rule goes beside it."""
    beside = {key: rule.pop(key) for key in ("task", "payload", "queue", "options", "priority",
                                             "request") if key in rule}  # fmt: skip
    params = {"task": "echo", "payload": CALL, "request": name.encode().ljust(16, b".")} | beside
    answer: dict[str, Any] = await client.ask("create-schedule", name=name, rule=rule, **params)
    return answer


async def refused(client: Peer, question: str, **params: Any) -> tuple[str, str]:
    """Ask what is refused; return the code and the sentence."""
    await client.say(m.Ask(9999, question, params))
    failed = await client.hear(m.AskFailed)
    return failed.code, failed.why


async def shown(client: Peer, name: str = "it") -> dict[str, Any]:
    answer: dict[str, Any] = await client.ask("schedule", name=name)
    return answer


def since(moment: float) -> float:
    """Seconds from the start of the test's clock."""
    return round(moment - START, 3)


async def offers(worker: Peer, number: int, *, finish: bool = True) -> list[float]:
    """Run *number* jobs; return the moments that they are for."""
    came = []
    for _ in range(number):
        offer = await worker.hear(m.Offer, 1e6)
        came.append(since(made_at(offer.id)))
        if finish:
            await worker.finish(offer)
    return came


# --- at its moments ------------------------------------------------------------------------------


@STORES
async def test_a_schedule_fires_at_each_moment(
    autojump_clock: object, make_store: Callable[[], Store]
) -> None:
    async with (
        open_house(patient(), make_store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        made = await create(client, "it", every=10)
        assert (made["state"], made["words"]) == ("active", "every 10 s")
        began = trio.current_time()
        for n in (1, 2, 3):
            offer = await worker.hear(m.Offer, 100)
            assert trio.current_time() - began == pytest.approx(10 * n, abs=0.1)
            assert (offer.task, offer.payload) == ("echo", CALL)
            assert offer.id == firing_id("it", made["made_at"] + 10 * n)
            await worker.finish(offer)
        now = await shown(client)
        assert (now["fired"], now["missed"], now["overlapped"]) == (3, 0, 0)
        assert now["last_job"] == id_to_text(offer.id)
        assert now["last_moment"] == made["made_at"] + 30
        assert now["next_at"] == made["made_at"] + 40


async def test_a_cron_rule_fires_when_its_clock_shows_the_time(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        # The test begins on 15 January 2027, 08:00 UTC: that is 13:45 in Kathmandu.
        await create(client, "it", cron="50 13 * * *", tz="Asia/Kathmandu")
        assert await offers(worker, 2) == [300, 300 + 86_400]


async def test_what_fires_goes_where_the_schedule_says(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(queues=["mail"]) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, queue="mail", priority=0, options={
            "retry": {"retries": 2}, "limits": {"timeout_s": 5.0},
        })  # fmt: skip
        offer = await worker.hear(m.Offer)
        assert offer.priority == 0
        assert offer.options is not None
        assert offer.options["limits"]["timeout_s"] == 5.0
        job = await client.ask("job", id=offer.id)
        assert (job["queue"], job["retry"]["retries"]) == ("mail", 2)


async def test_one_moment_fires_once_and_the_schedule_has_ended(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", at=wall_clock() + 100)
        await offers(worker, 1)
        await worker.hears_nothing(m.Offer, 1e5)
        now = await shown(client)
        assert (now["state"], now["fired"], now["next_at"]) == ("ended", 1, None)


async def test_a_count_and_an_end_are_kept_to(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "counted", every=10, count=3)
        await create(client, "bounded", every=10, start=START + 1000, end=START + 1030)
        await create(client, "burst", every=10, count=4, start=START + 5000, overlap="allow",
                     missed="all", missed_within=10_000)  # fmt: skip
        came = await offers(worker, 11)
        assert came[3:7] == [1000, 1010, 1020, 1030]
        assert came[7:] == [5000, 5010, 5020, 5030]
        await worker.hears_nothing(m.Offer, 1e5)
        states = {s["name"]: s["state"] for s in (await client.ask("schedules"))["schedules"]}
        assert set(states.values()) == {"ended"}


async def test_jitter_puts_a_firing_off_by_chance_and_the_same_after_a_restart(
    autojump_clock: object,
) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        made = await create(client, "it", every=100, jitter=50)
        delays = []
        for n in range(1, 20):
            offer = await worker.hear(m.Offer, 1000)
            delays.append(wall_clock() - (made["made_at"] + 100 * n))
            await worker.finish(offer)
        assert all(0 <= delay < 50.1 for delay in delays)
        assert max(delays) - min(delays) > 20
        now = await shown(client)
        assert 0 <= now["next_due_at"] - now["next_at"] < 50


async def test_many_that_are_due_together_all_fire(autojump_clock: object) -> None:
    number = PIECE * 4 + 7
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1000)
        for n in range(number):
            await create(client, f"it-{n:03}", at=START + 1000.0)
        assert await offers(worker, number) == [1000] * number
        page = await client.ask("schedules", after="it-199")
        assert [s["name"] for s in page["schedules"]] == [f"it-{n}" for n in range(200, number)]
        assert {s["fired"] for s in page["schedules"]} == {1}


# --- the plane dies ------------------------------------------------------------------------------


async def run_once(store: Store, until: float, **rule: Any) -> list[float]:
    """Run a plane over *store* up to a moment of the test's clock; return what fired."""
    came: list[float] = []
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        if rule:
            await create(client, "it", **rule)
        with trio.move_on_at(until):
            while True:
                came += await offers(worker, 1)
    return came


@STORES
async def test_under_once_each_due_moment_fires_once_over_restarts(
    autojump_clock: object, make_store: Callable[[], Store]
) -> None:
    store = make_store()
    first = await run_once(store, 105, every=10, start=START + 10)
    assert first == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    await trio.sleep_until(147)
    second = await run_once(store, 165)
    # Three were missed: one firing for all of them, the last one's.
    assert second == [140, 150, 160]
    await trio.sleep_until(166)
    third = await run_once(store, 185)
    assert third == [170, 180]
    counts = await _standing(store)
    assert (counts["fired"], counts["missed"]) == (15, 3)


async def _standing(store: Store) -> dict[str, Any]:
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        return await shown(client)


class SlowDisk(DiskLike):
    """Takes some milliseconds before it has a batch, and as long before it says so."""

    async def commit(self, batch: Batch) -> Any:
        await trio.sleep(0.002)
        found = await super().commit(batch)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.002)
        return found


@pytest.mark.parametrize("overlap", ["allow", "skip", "queue"])
async def test_a_plane_that_dies_at_any_moment_fires_each_moment_once(
    autojump_clock: object, overlap: str
) -> None:
    """Killed half a millisecond later each time: before, while, and after a firing is written."""
    store = SlowDisk()
    number = 40
    await run_once(store, 5, every=10, start=START + 10, missed="all", missed_within=3600,
                   overlap=overlap)  # fmt: skip
    for n in range(1, number + 1):
        await run_once(store, 10 * n - 0.002 + n * 0.0005)
    await run_once(store, 10 * number + 5)
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
    ):
        jobs = (await client.ask("jobs", limit=1000))["jobs"]
        moments = sorted(since(made_at(id_from_text(job["id"]))) for job in jobs)
        now = await shown(client)
        assert moments == [10.0 * n for n in range(1, number + 1)]
        assert (now["fired"], now["missed"], now["overlapped"]) == (number, 0, 0)


@STORES
async def test_missed_moments_are_treated_as_the_rule_says(
    autojump_clock: object, make_store: Callable[[], Store]
) -> None:
    store = make_store()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await create(client, "skip", every=100, start=START + 100, missed="skip")
        await create(client, "once", every=100, start=START + 100)
        await create(client, "all", every=100, start=START + 100, missed="all",
                     missed_within=350, overlap="allow")  # fmt: skip
    await trio.sleep_until(1090)
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        assert sorted(await offers(worker, 4)) == [800, 900, 1000, 1000]
        assert trio.current_time() < 1091
        missed = {s["name"]: s["missed"] for s in (await client.ask("schedules"))["schedules"]}
        assert missed == {"skip": 10, "once": 9, "all": 7}
        assert sorted(await offers(worker, 3)) == [1100, 1100, 1100]


async def test_what_is_too_much_at_a_time_fires_one_piece_after_another(
    autojump_clock: object,
) -> None:
    store = DiskLike()
    number = AT_A_TIME * 2 + 50
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await create(client, "it", every=1, start=START + 1, end=START + number, missed="all",
                     missed_within=86_400, overlap="allow")  # fmt: skip
    await trio.sleep_until(number + 500)
    async with (
        open_house(patient(), lambda: store) as house,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=1000)
        assert await offers(worker, number) == [float(n) for n in range(1, number + 1)]
        await worker.hears_nothing(m.Offer, 1000)


async def test_a_firing_that_the_disk_has_no_room_for_is_made_when_there_is(
    autojump_clock: object,
) -> None:
    class Full(DiskLike):
        is_full = False

        async def commit(self, batch: Batch) -> Any:
            if self.is_full and batch.jobs:
                raise StoreFull("no room")
            return await super().commit(batch)

    store = Full()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10)
        assert await offers(worker, 1) == [10]
        store.is_full = True
        await worker.hears_nothing(m.Offer, 35)
        assert (await shown(client))["fired"] == 1
        store.is_full = False
        assert await offers(worker, 2) == [40, 50]
        assert (await shown(client))["fired"] == 3
    # Nor is it taken for fired where it counts.
    assert (await _standing(store))["fired"] == 3


async def test_what_fires_together_is_taken_whole_or_decided_anew(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each job would close the batch that it is in."""
    monkeypatch.setattr(journal, "BATCH_BYTES", 1)

    class Choosy(DiskLike):
        jobs_left = 1000

        async def commit(self, batch: Batch) -> Any:
            if len(batch.jobs) > self.jobs_left:
                raise StoreOverLimit("no room for so many")
            self.jobs_left -= len(batch.jobs)
            return await super().commit(batch)

    store = Choosy()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await create(client, "it", every=10, start=START + 10, count=6, missed="all",
                     missed_within=45, overlap="allow")  # fmt: skip
    await trio.sleep_until(51)
    store.jobs_left = 1
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", slots=10)
        await worker.hears_nothing(m.Offer, 20.5)
        assert (await shown(client))["fired"] == 0
        store.jobs_left = 1000
        found = await offers(worker, 6)
        assert found == [30, 40, 50, 60, 70, 80]
        now = await shown(client)
        assert (now["fired"], now["missed"], now["state"]) == (6, 2, "ended")


# --- overlap -------------------------------------------------------------------------------------


async def test_under_skip_nothing_fires_while_the_last_job_is_unfinished(
    autojump_clock: object,
) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10)
        offer = await worker.hear(m.Offer)
        await worker.hears_nothing(m.Offer, 35)
        assert (await shown(client))["overlapped"] == 3
        await worker.finish(offer)
        assert await offers(worker, 1) == [50]


@pytest.mark.parametrize("make_store", [MemoryStore, DiskLike])
async def test_a_last_job_that_nobody_has_taken_is_unfinished(
    autojump_clock: object, make_store: Callable[[], Store]
) -> None:
    """With nobody listening, one job waits and not hundreds; nor does the window matter."""
    async with (
        open_house(patient(window=1), make_store) as house,
        house.client().connected() as client,
    ):
        await client.submitted(1)
        await create(client, "it", every=10, start=START + 10)
        await trio.sleep_until(200)
        jobs = (await client.ask("health"))["jobs"]
        now = await shown(client)
        if make_store is DiskLike:
            assert jobs == {"parked": 2}
            assert (now["fired"], now["overlapped"]) == (1, 19)
        else:
            # There is no room for its job in memory: it waits, and nothing is lost of it.
            assert jobs == {"parked": 1}
            assert (now["fired"], now["overlapped"]) == (0, 0)


async def test_under_queue_the_next_firing_waits_for_the_last_job(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap="queue")
        offer = await worker.hear(m.Offer)
        await worker.hears_nothing(m.Offer, 25)
        now = await shown(client)
        assert now["waits_for"] == id_to_text(offer.id)
        began = trio.current_time()
        await worker.finish(offer)
        assert await offers(worker, 1) == [30]
        assert trio.current_time() == pytest.approx(began, abs=0.5)
        assert (await shown(client))["waits_for"] is None
        assert await offers(worker, 1) == [40]
        assert not house.core.schedules.waiting


async def test_what_was_run_by_hand_counts_as_the_last_job(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10)
        await client.ask("run-schedule", name="it", id=b"0123456789abcdef")
        offer = await worker.hear(m.Offer)
        await worker.hears_nothing(m.Offer, 35)
        assert (await shown(client))["overlapped"] == 3
        await worker.finish(offer)
        assert await offers(worker, 1) == [40]


BY_HAND = [b"%015d." % n for n in range(3)]


@pytest.mark.parametrize("is_rule_last", [True, False])
@pytest.mark.parametrize(("overlap", "then"), [("skip", 50), ("queue", 40)])
async def test_a_job_by_the_rule_is_not_forgotten_for_one_by_hand(
    autojump_clock: object, overlap: str, then: float, is_rule_last: bool
) -> None:
    """Nothing fires beside either of them, whichever ends last."""
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap=overlap)
        jobs = [await worker.hear(m.Offer)]
        for job_id in BY_HAND:
            await client.ask("run-schedule", name="it", id=job_id)
            jobs.append(await worker.hear(m.Offer))
        first, last = (jobs[1:], jobs[0]) if is_rule_last else (jobs[:3], jobs[3])
        for offer in first:
            await worker.finish(offer)
        await worker.hears_nothing(m.Offer, 35)
        now = await shown(client)
        assert now["last_job"] == id_to_text(BY_HAND[-1])
        waits_for = id_to_text(last.id) if overlap == "queue" else None
        assert (now["waits_for"], now["overlapped"]) == (waits_for, 0 if waits_for else 3)
        await worker.finish(last)
        assert await offers(worker, 2) == [then, then + 10]


async def test_a_job_by_the_rule_is_not_forgotten_for_one_by_hand_over_a_restart(
    autojump_clock: object,
) -> None:
    store = DiskLike()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await create(client, "it", every=10, start=START + 10)
        await trio.sleep_until(11)
        await client.ask("run-schedule", name="it", id=BY_HAND[0])
        await worker.ready("echo")
        offers_ = {(offer := await worker.hear(m.Offer)).id: offer for _ in range(2)}
        await worker.finish(offers_[BY_HAND[0]])
        await trio.sleep(1)
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await trio.sleep(20)
        now = await shown(client)
        assert (now["fired"], now["overlapped"]) == (1, 2)


async def test_under_replace_jobs_by_the_rule_and_by_hand_are_cancelled(
    autojump_clock: object,
) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap="replace")
        by_rule = await worker.hear(m.Offer)
        await client.ask("run-schedule", name="it", id=BY_HAND[0])
        by_hand = await worker.hear(m.Offer)
        stopped = {(await worker.hear(m.Stop)).seq for _ in range(2)}
        assert stopped == {by_rule.seq, by_hand.seq}


async def test_under_replace_the_older_job_is_cancelled(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap="replace")
        first = await worker.hear(m.Offer)
        stop = await worker.hear(m.Stop)
        assert (stop.seq, stop.why) == (first.seq, "its schedule fired again")
        second = await worker.hear(m.Offer)
        assert since(made_at(second.id)) == 20
        assert (await client.ask("job", id=first.id))["state"] == "cancelling"


@pytest.mark.parametrize("refusal", [StoreOverLimit, StoreFull])
async def test_under_replace_a_job_goes_on_until_there_is_room_for_the_next_one(
    autojump_clock: object, refusal: type[StoreFull]
) -> None:
    class Refusing(DiskLike):
        is_refusing = False

        async def commit(self, batch: Batch) -> Any:
            if self.is_refusing and (batch.jobs or refusal is StoreFull):
                await trio.lowlevel.checkpoint()
                raise refusal("no room")
            return await super().commit(batch)

    store = Refusing()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap="replace")
        first = await worker.hear(m.Offer)
        store.is_refusing = True
        await worker.hears_nothing(m.Stop, 25)
        store.is_refusing = False
        assert (await worker.hear(m.Stop)).seq == first.seq
        assert since(made_at((await worker.hear(m.Offer)).id)) == 30
        now = await shown(client)
        assert (now["fired"], now["missed"]) == (2, 1)


async def test_under_replace_a_job_is_cancelled_by_the_next_plane_if_this_one_dies_too_soon(
    autojump_clock: object,
) -> None:
    class Deaf(DiskLike):
        async def commit(self, batch: Batch) -> Any:
            found = await super().commit(batch)
            if batch.ousts:
                await trio.sleep_forever()
            return found

    store = Deaf()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await create(client, "it", every=10, start=START + 10, overlap="replace")
        await trio.sleep_until(25)
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        states = {job["id"]: job["state"] for job in (await client.ask("jobs"))["jobs"]}
        assert states == {
            id_to_text(firing_id("it", START + 10)): "cancelled",
            id_to_text(firing_id("it", START + 20)): "parked",
        }


async def test_under_replace_nothing_is_cancelled_where_nothing_fires(
    autojump_clock: object,
) -> None:
    """As the moment is too long ago."""
    store = DiskLike()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await create(client, "it", every=1000, start=START + 10, overlap="replace", missed="skip")
        await trio.sleep_until(25)
    await trio.sleep_until(1500)
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await trio.sleep(5)
        now = await shown(client)
        assert (now["fired"], now["missed"]) == (1, 1)
        assert (await client.ask("health"))["jobs"] == {"parked": 1}


async def test_under_allow_both_run(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap="allow")
        assert await offers(worker, 3, finish=False) == [10, 20, 30]


# --- commands ------------------------------------------------------------------------------------


async def test_a_paused_schedule_does_not_fire_and_catches_up_on_nothing(
    autojump_clock: object,
) -> None:
    store = DiskLike()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
    ):
        await create(client, "it", every=10, start=START + 10, missed="all", missed_within=3600)
        assert (await client.ask("pause-schedule", name="it"))["state"] == "paused"
    await trio.sleep_until(55)
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await worker.hears_nothing(m.Offer, 30)
        assert (await shown(client))["state"] == "paused"
        assert (await client.ask("resume-schedule", name="it"))["state"] == "active"
        assert await offers(worker, 2) == [90, 100]


async def test_a_run_by_hand_is_now_and_once_and_takes_nothing_from_the_rule(
    autojump_clock: object,
) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=100, count=2)
        await client.ask("pause-schedule", name="it")
        wanted = b"0123456789abcdef"
        ran = await client.ask("run-schedule", name="it", id=wanted)
        assert ran["last_job"] == id_to_text(wanted)
        assert ran["last_moment"] is None
        offer = await worker.hear(m.Offer)
        assert offer.id == wanted
        await client.ask("run-schedule", name="it", id=wanted)
        await worker.finish(offer)
        await client.ask("run-schedule", name="it", id=wanted)
        await worker.hears_nothing(m.Offer, 50)
        assert (await shown(client))["fired"] == 0
        await client.ask("resume-schedule", name="it")
        await offers(worker, 2)
        assert (await shown(client))["state"] == "ended"


async def test_a_changed_schedule_keeps_its_history_and_its_pause(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo", "other")
        await create(client, "it", every=10, start=START + 10)
        await offers(worker, 2)
        await client.ask("pause-schedule", name="it")
        changed = await client.ask(
            "change-schedule", name="it", rule={"cron": "* * * * *"}, task="other"
        )
        assert (changed["state"], changed["fired"], changed["task"]) == ("paused", 2, "other")
        await client.ask("resume-schedule", name="it")
        offer = await worker.hear(m.Offer)
        assert (offer.task, offer.payload, since(made_at(offer.id))) == ("other", CALL, 60)


# A firing that waits: "it" for its last job, and "off", put off by 2,130 s, until it is time.
HALF_PAST = {"it": {"overlap": "queue"}, "off": {"jitter": 3000.0}}
MOMENT = START + 3600 + 1800


@asynccontextmanager
async def both_waiting(make_store: Callable[[], Store]) -> AsyncIterator[tuple[Peer, Peer]]:
    """A plane in which two schedules have a firing that waits; with a client and a worker."""
    async with (
        open_house(patient(), make_store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        for name, more in HALF_PAST.items():
            await create(client, name, cron="30 * * * *", **more)
        await worker.hear(m.Offer, 3000)  # which runs on
        await worker.finish(await worker.hear(m.Offer, 3000))
        await trio.sleep_until(MOMENT - START + 60)
        it, off = [await shown(client, name) for name in HALF_PAST]
        assert (it["next_at"], it["waits_for"]) == (MOMENT, it["last_job"])
        assert (off["next_at"], off["next_due_at"] > wall_clock() + 2000) == (MOMENT, True)
        yield client, worker


async def waiting(client: Peer) -> list[tuple[bool, int]]:
    """Of both: whether that firing still waits, and how many are missed."""
    now = [await shown(client, name) for name in HALF_PAST]
    return [(each["next_at"] == MOMENT, each["missed"]) for each in now]


@STORES
async def test_a_firing_that_waits_outlasts_a_pause_in_which_no_other_moment_comes(
    autojump_clock: object, make_store: Callable[[], Store]
) -> None:
    async with both_waiting(make_store) as (client, worker):
        for name in HALF_PAST:
            await client.ask("pause-schedule", name=name)
        await trio.sleep(3000)
        for name in HALF_PAST:
            await client.ask("resume-schedule", name=name)
        assert await waiting(client) == [(True, 0), (False, 0)]
        assert await offers(worker, 1) == [MOMENT - START]  # it has been put off for long enough
        assert (await shown(client, "it"))["waits_for"] is not None


async def test_a_firing_that_waits_is_missed_if_others_come_in_a_pause(
    autojump_clock: object,
) -> None:
    async with both_waiting(MemoryStore) as (client, worker):
        for name in HALF_PAST:
            await client.ask("pause-schedule", name=name)
        await trio.sleep(2.5 * 3600)
        for name in HALF_PAST:
            await client.ask("resume-schedule", name=name)
        assert await waiting(client) == [(False, 1), (False, 1)]
        assert {(await shown(client, name))["next_at"] for name in HALF_PAST} == {MOMENT + 3 * 3600}
        await worker.hears_nothing(m.Offer, 60)


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_firing_that_waits_outlasts_a_change_that_leaves_its_moments(
    autojump_clock: object, is_paused: bool
) -> None:
    async with both_waiting(MemoryStore) as (client, worker):
        for name in HALF_PAST if is_paused else ():
            await client.ask("pause-schedule", name=name)
        for name, more in {"it": {"overlap": "allow"}, "off": {"jitter": 2000.0}}.items():
            rule = {"cron": "30 * * * *", "count": 50, **more}
            await client.ask("change-schedule", name=name, rule=rule)
        for name in HALF_PAST if is_paused else ():
            await client.ask("resume-schedule", name=name)
        # The one need not wait any more, and the other for less long.
        assert await offers(worker, 1) == [MOMENT - START]
        assert await waiting(client) == [(False, 0), (True, 0)]
        assert await offers(worker, 1) == [MOMENT - START]
        assert MOMENT + 1400 < wall_clock() < MOMENT + 1500


async def test_a_firing_that_waits_is_missed_if_its_moment_is_none_any_more(
    autojump_clock: object,
) -> None:
    async with both_waiting(MemoryStore) as (client, worker):
        for name in HALF_PAST:
            rule = {"cron": "45 * * * *", **HALF_PAST[name]}
            await client.ask("change-schedule", name=name, rule=rule)
        assert await waiting(client) == [(False, 1), (False, 1)]
        await worker.hears_nothing(m.Offer, 600)


async def test_what_is_prolonged_catches_up_on_nothing(autojump_clock: object) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        await create(client, "counted", every=10, count=2, overlap="allow")
        await create(client, "bounded", every=10, start=START + 10, end=START + 20, overlap="allow")
        await trio.sleep_until(1005)
        more = {"counted": {"count": 10}, "bounded": {"start": START + 10, "end": START + 5000}}
        for name, rule in more.items():
            rule = {"every": 10, "overlap": "allow", **rule}
            now = await client.ask("change-schedule", name=name, rule=rule)
            assert (now["fired"], now["missed"]) == (2, 0)
            assert now["next_at"] > wall_clock()


async def test_a_deleted_schedule_fires_no_more_and_its_jobs_go_on(autojump_clock: object) -> None:
    store = DiskLike()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await worker.ready("echo")
        await create(client, "it", every=10, start=START + 10, overlap="queue")
        offer = await worker.hear(m.Offer)
        await trio.sleep(20)
        for _ in range(2):
            await client.ask("delete-schedule", name="it", request=b"d" * 16)
        assert (await client.ask("job", id=offer.id))["state"] == "running"
        await worker.finish(offer)
        await worker.hears_nothing(m.Offer, 100)
        assert not house.core.schedules.waiting
        assert house.core.schedules.size_bytes == 0
        await create(client, "it", every=1000, request=b"2" * 16)
    assert [row.name for row in (await store.open(0.0)).schedules] == ["it"]


async def test_making_it_again_by_the_same_request_finds_it_made(autojump_clock: object) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        first = await create(client, "it", every=10)
        assert await create(client, "it", every=10) == first
        code, why = await refused(
            client, "create-schedule", name="it", task="echo", payload=CALL,
            rule={"every": 5}, request=b"x" * 16,
        )  # fmt: skip
        assert (code, why) == (
            "exists", "schedule 'it' exists already: change it, or choose another name",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("params", "code", "why"),
    [
        ({"rule": {"cron": "0 25 * * *"}}, "bad-schedule",
         'cron "0 25 * * *": hour 25 is not in 0 to 23'),
        ({"rule": {"cron": "@daily", "tz": "Paris"}}, "bad-schedule", "'Europe/Paris'"),
        ({"rule": {"at": START - 5}}, "bad-schedule", "at is in the past"),
        ({"rule": {"every": 5, "end": START - 5}}, "bad-schedule", "its end has passed already"),
        ({"rule": 5}, "bad-schedule", "a schedule's rule is a map, not 5"),
        ({"rule": {"cron": "*/5 * * * *", "jitter": 300}}, "bad-schedule",
         "jitter (300 s) has to be shorter than the shortest time between two moments of cron"),
        ({"name": ""}, "bad-question", "name has 1 to 200 printable characters"),
        ({"name": "a\nb"}, "bad-question", "name has 1 to 200 printable characters"),
        ({"task": 5}, "bad-question", "task has 1 to 200 printable characters"),
        ({"payload": "text"}, "bad-question", "payload is a job's encoded arguments"),
        ({"payload": bytes(70_000)}, "too-large", "may have 65,536 bytes, not 70,000"),
        ({"priority": 4}, "bad-question", "priority is a whole number from 0 to 3"),
        ({"queue": 4}, "bad-question", "queue is the name of a queue"),
        ({"queue": "a b"}, "bad-queue", "no spaces and no commas, as 'a b' has"),
        ({"options": {"due_at": 5}}, "bad-question", "a schedule has no option 'due_at'"),
        ({"options": {"retry": {"retries": -1}}}, "bad-retry", "retries is a whole number"),
        ({"options": {"limits": {"deadline_at": 9e9}}}, "bad-question", "use expires"),
        ({"request": b"short"}, "bad-question", "request is 16 bytes"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_wrong_with_a_new_schedule_is_named(
    autojump_clock: object, params: dict[str, Any], code: str, why: str
) -> None:
    usual = {"name": "it", "task": "echo", "payload": CALL, "rule": {"every": 5},
             "request": b"x" * 16}  # fmt: skip
    async with open_house(patient()) as house, house.client().connected() as client:
        said = await refused(client, "create-schedule", **(usual | params))
        assert said[0] == code
        assert why in said[1]
        assert (await client.ask("schedules"))["schedules"] == []


@pytest.mark.parametrize(
    "command",
    ["schedule", "change-schedule", "pause-schedule", "resume-schedule", "delete-schedule",
     "run-schedule"],
)  # fmt: skip
async def test_an_unknown_schedule_is_told_near_names(autojump_clock: object, command: str) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        await create(client, "nightly-report", every=10)
        more = {"request": b"x" * 16, "id": b"x" * 16}
        assert await refused(client, command, name="nightly_report", **more) == (
            "unknown-schedule",
            "there is no schedule 'nightly_report'; did you mean 'nightly-report'?",
        )


async def test_there_may_be_so_many_and_no_more(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_SCHEDULES == 10_000
    monkeypatch.setattr(engine_schedules, "MAX_SCHEDULES", 2)
    async with open_house(patient()) as house, house.client().connected() as client:
        await create(client, "a", every=10)
        await create(client, "b", every=10)
        params = {"task": "echo", "payload": CALL, "rule": {"every": 5}, "request": b"x" * 16}
        code, why = await refused(client, "create-schedule", name="c", **params)
        assert (code, why) == ("full", "there are 2 schedules: delete some that have ended")


async def test_a_command_is_on_disk_when_it_is_answered(autojump_clock: object) -> None:
    class Slow(DiskLike):
        committed: list[ScheduleRow]

        def __init__(self) -> None:
            super().__init__()
            self.committed = []

        async def commit(self, batch: Batch) -> Any:
            await trio.sleep(1)
            found = await super().commit(batch)
            self.committed += batch.schedules
            return found

    store = Slow()
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
    ):
        await create(client, "it", every=1000)
        assert len(store.committed) == 1
        for n, command in enumerate(["pause-schedule", "resume-schedule"], 2):
            await client.ask(command, name="it")
            assert len(store.committed) == n
        await client.ask("change-schedule", name="it", rule={"every": 2000})
        assert len(store.committed) == 4
        await client.ask("delete-schedule", name="it", request=b"d" * 16)
        assert store.committed[-1] == ScheduleRow("it", None)


async def test_what_cannot_be_read_of_a_schedule_does_not_stop_the_plane(
    autojump_clock: object,
) -> None:
    class Open(DiskLike):
        def rows(self) -> list[ScheduleRow]:
            return list(self._schedules.values())

    store = Open()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        good = await create(client, "good", every=10)
    row = next(row for row in (await store.open(0.0)).schedules)
    assert row.data is not None
    other_zone = row.data.replace(b"every", b"evvry")
    await store.commit(
        Batch(schedules=[ScheduleRow("garbage", b"\xff"), ScheduleRow("newer", other_zone),
                         ScheduleRow("odd", encode_value({"work": 5}))])
    )  # fmt: skip
    await store.aclose()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        found = {s["name"]: s for s in (await client.ask("schedules"))["schedules"]}
        assert {name: s["state"] for name, s in found.items()} == {
            "good": "active", "garbage": "broken", "newer": "broken", "odd": "broken",
        }  # fmt: skip
        assert "has no 'evvry'" in found["newer"]["problem"]
        assert found["good"]["made_at"] == good["made_at"]
        # It is kept for a version that can read it, whatever is done to it by this one.
        await client.ask("pause-schedule", name="newer")
        (kept,) = [row for row in store.rows() if row.name == "newer"]
        assert kept.data is not None
        assert b"evvry" in kept.data
        for name in ("garbage", "newer", "odd"):
            await client.ask("delete-schedule", name=name, request=name.encode().ljust(16))


async def test_a_jitter_of_an_earlier_version_that_is_too_long_is_read_and_fires(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskLike()
    with monkeypatch.context() as earlier:
        earlier.setattr(Rule, "check_new", lambda _: None)
        async with (
            open_house(patient(), lambda: store) as house,
            house.client().connected() as client,
        ):
            await create(client, "it", cron="* * * * *", jitter=90)
    async with (
        open_house(patient(), lambda: store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await announce(worker, declares("echo", cron="* * * * *", jitter=90))
        assert {(await shown(client, name))["state"] for name in ("it", "echo")} == {"active"}
        await offers(worker, 10)
        code, why = await refused(
            client, "change-schedule", name="it", rule={"cron": "* * * * *", "jitter": 90}
        )
        assert (code, why.partition(" has ")[0]) == ("bad-schedule", "jitter (90 s)")
        changed = await client.ask(
            "change-schedule", name="it", rule={"cron": "* * * * *", "jitter": 50}
        )
        assert changed["fired"] > 0


# --- declared by code ----------------------------------------------------------------------------


def declares(name: str, module: str = "tasks", **rule: Any) -> dict[str, Any]:
    """An announcement of task *name*, with a schedule if there is a rule."""
    declared: dict[str, Any] = {"name": name, "module": module}
    if rule:
        declared["schedule"] = {"rule": rule, "payload": CALL.hex()}
    return declared


async def announce(worker: Peer, *declarations: dict[str, Any]) -> None:
    await worker.say(m.Announce(list(declarations)), m.Capacity(10, 0))
    await trio.sleep(0.5)


def process(house: House, name: str, age_s: float) -> Any:
    """A worker process that began so long ago."""
    return house.worker(name).connected(**LISTENING, age_s=age_s)


async def test_a_declared_schedule_fires(autojump_clock: object) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await announce(worker, declares("echo", every=10, start=START + 10))
        now = await shown(client, "echo")
        assert (now["source"], now["state"], now["module"]) == ("code", "active", "tasks")
        offer = await worker.hear(m.Offer)
        assert (offer.task, offer.payload) == ("echo", CALL)


async def test_a_rule_that_is_none_is_refused_with_its_task(autojump_clock: object) -> None:
    async with open_house(patient()) as house:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.say(m.Announce([declares("echo", cron="0 25 * * *")]))
            refusal = await worker.hear(m.Refusal)
            assert refusal.why == ("task 'echo': cron \"0 25 * * *\": hour 25 is not in 0 to 23")
        for wrong in ({"rule": {"every": 5}}, {"rule": {"every": 5}, "payload": "zz"}, 5):
            async with house.worker().connected(**LISTENING) as worker:
                await worker.say(m.Announce([{"name": "echo", "schedule": wrong}]))
                assert "task 'echo': " in (await worker.hear(m.Refusal)).why


async def test_a_rule_that_changes_in_code_keeps_history_and_pause(autojump_clock: object) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        async with process(house, "a", 0) as worker:
            await announce(worker, declares("echo", every=10, start=START + 10))
            await offers(worker, 2)
            await client.ask("pause-schedule", name="echo")
        async with process(house, "b", 0) as worker:
            await announce(worker, declares("echo", every=25))
            now = await shown(client, "echo")
            assert (now["words"], now["fired"], now["state"]) == ("every 25 s", 2, "paused")


async def test_a_firing_that_waits_outlasts_what_newer_code_leaves_of_its_rule(
    autojump_clock: object,
) -> None:
    """Also where the code was without it for a moment; else it is missed."""
    async with open_house(patient()) as house, house.client().connected() as client:
        rule: dict[str, Any] = {"cron": "30 * * * *", "overlap": "queue"}
        async with process(house, "a", 0) as worker:
            await announce(worker, declares("echo", **rule))
            first = await worker.hear(m.Offer, 3000)
            await trio.sleep_until(MOMENT - START + 60)
        async with process(house, "b", 0) as worker:
            await announce(worker, declares("echo"))
            assert (await shown(client, "echo"))["state"] == "undeclared"
            rule["count"] = 5
            await announce(worker, declares("echo", **rule))
            now = await shown(client, "echo")
            assert (now["waits_for"], now["missed"]) == (id_to_text(first.id), 0)
            assert now["next_at"] == MOMENT
            rule["cron"] = "45 * * * *"
            await announce(worker, declares("echo", **rule))
            now = await shown(client, "echo")
            assert (now["waits_for"], now["missed"]) == (None, 1)


async def test_a_schedule_that_vanished_from_the_code_does_not_fire_and_is_shown(
    autojump_clock: object,
) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        async with process(house, "a", 0) as worker:
            await announce(
                worker, declares("echo", every=10), declares("gone", every=10), declares("other")
            )
            code, why = await refused(client, "delete-schedule", name="echo", request=b"x" * 16)
            assert code == "declared"
            assert "take it out there, or pause it here" in why
        async with process(house, "b", 0) as worker:
            # The one without its rule, the other without its task, in the same module.
            await announce(worker, declares("echo"), declares("other"))
            for name in ("echo", "gone"):
                now = await shown(client, name)
                assert (now["state"], now["next_at"]) == ("undeclared", None)
            await worker.hears_nothing(m.Offer, 100)
            await client.ask("delete-schedule", name="gone", request=b"x" * 16)
            # It is back in the code: it fires from now on.
            await announce(worker, declares("echo", every=10), declares("other"))
            now = await shown(client, "echo")
            assert now["state"] == "active"
            assert now["next_at"] > wall_clock()


async def test_an_older_process_takes_nothing_away_and_changes_nothing(
    autojump_clock: object,
) -> None:
    store = DiskLike()
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        await trio.sleep(1000)
        # What the newest one declares is nothing new, and that it did counts all the same.
        for name, age_s in (("first", 900), ("new", 10)):
            async with process(house, name, age_s) as worker:
                await announce(worker, declares("echo", every=10), declares("more", every=10))
        async with process(house, "old", 500) as worker:
            await announce(worker, declares("echo", every=99))
            assert (await shown(client, "echo"))["words"] == "every 10 s"
            assert (await shown(client, "more"))["state"] == "active"
    # Nor does it when the plane has started again, and hears of the older one first.
    async with open_house(patient(), lambda: store) as house, house.client().connected() as client:
        async with process(house, "old", 600) as worker:
            await announce(worker, declares("echo", every=99))
            assert (await shown(client, "echo"))["words"] == "every 10 s"
            assert (await shown(client, "more"))["state"] == "active"


async def test_another_module_takes_nothing_away(autojump_clock: object) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        async with process(house, "a", 0) as worker:
            await announce(worker, declares("echo", every=10))
        async with process(house, "b", 0) as worker:
            await announce(worker, declares("send", module="mail"))
        assert (await shown(client, "echo"))["state"] == "active"


async def test_one_that_was_made_at_run_time_is_not_replaced_by_code(
    autojump_clock: object,
) -> None:
    async with (
        open_house(patient()) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await create(client, "echo", every=1000)
        await announce(worker, declares("echo", every=10), declares("two", every=10))
        now = await shown(client, "echo")
        assert (now["source"], now["words"]) == ("api", "every 1000 s")
        code, why = await refused(client, "change-schedule", name="two", rule={"every": 5})
        assert code == "declared"
        assert "is declared in code: change it there" in why
        code, _ = await refused(
            client, "create-schedule", name="two", task="echo", payload=CALL,
            rule={"every": 5}, request=b"x" * 16,
        )  # fmt: skip
        assert code == "exists"


# --- with real workers ---------------------------------------------------------------------------

ran: list[tuple[float, str]] = []


@task(registry=Registry(), schedule=Schedule(every=60, overlap="allow", args=("tick",)))
async def note(text: str) -> None:
    ran.append((trio.current_time(), text))
    await trio.sleep(90)


async def test_a_task_runs_by_the_rule_that_it_declares_over_restarts_of_the_plane(
    autojump_clock: object,
) -> None:
    ran.clear()
    store = DiskLike()
    async with open_cluster([note], make_store=lambda: store) as cluster:
        began = trio.current_time()
        await trio.sleep(70)
        await cluster.kill_plane()
        await trio.sleep(5)
        await cluster.start_plane()
        await trio.sleep(120)
        async with cluster.client() as client:
            (info,) = await client.schedules()
            assert (info.name, info.source, info.fired, info.missed) == ("note", "code", 3, 0)
            paused = await client.pause_schedule("note")
            assert paused.next_at is None
        await trio.sleep(300)
    assert [(round(at - began), text) for at, text in ran] == [
        (60, "tick"), (120, "tick"), (180, "tick"),
    ]  # fmt: skip
