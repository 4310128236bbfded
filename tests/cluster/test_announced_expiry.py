"""By when a job must have begun, said by a task that was announced after the job was accepted."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_delays import arrivals, patient
from tests.cluster.test_time_limits import states
from tests.cluster.test_windows import LISTENING, DiskLike

from creche.engine.expiries import Expiries
from creche.store.memory import MemoryStore
from creche.wire import messages as m

pytestmark = pytest.mark.trio


async def announce(worker: Peer, slots: int, expires_s: float | None = 50.0) -> None:
    """Say that jobs of `echo` must begin within *expires_s* seconds."""
    limits = None if expires_s is None else {"expires_s": expires_s}
    await worker.say(m.Announce([{"name": "echo", "limits": limits}]), m.Capacity(slots, 0))


def saying(**limits: float) -> dict[str, Any]:
    return {"options": {"limits": limits}}


@pytest.mark.parametrize("store", [MemoryStore, DiskLike])
async def test_what_was_accepted_before_its_task_was_announced_expires_wherever_it_waits(
    autojump_clock, store
):
    async with (
        open_house(patient(window=4 if store is DiskLike else 40, delays=1), store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        jobs = [await client.submitted(i) for i in range(10)]
        jobs += [await client.submitted(20 + i, options={"delay_s": 90.0}) for i in range(3)]
        lasting = await client.submitted(30, **saying(expires_s=1000.0))
        other = await client.submitted(40, task="another")
        await trio.sleep(20)
        await announce(worker, slots=0)
        await trio.sleep(29)
        expected = ["parked", "queued", "delayed"]
        assert all(state in expected for state in await states(client, jobs))
        await trio.sleep(5)
        assert await states(client, jobs[:10]) == ["expired"] * 10
        # What waits in the store for a moment far from now is looked at when it is read back.
        await trio.sleep(40)
        assert await states(client, jobs) == ["expired"] * 13
        assert await states(client, [lasting, other]) == ["parked", "parked"]
        await worker.say(m.Ping(1), m.Capacity(1, 0))
        assert [n for n, _ in await arrivals(worker, 1)] == [30]
        await worker.hears_nothing(m.Offer, 200)


@pytest.mark.parametrize("store", [MemoryStore, DiskLike])
async def test_what_is_overdue_when_its_task_is_announced_does_not_run(autojump_clock, store):
    async with (
        open_house(patient(window=4 if store is DiskLike else 40), store) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        jobs = [await client.submitted(i) for i in range(10)]
        await trio.sleep(60)
        await announce(worker, slots=5)
        await worker.hears_nothing(m.Offer, 10)
        assert await states(client, jobs) == ["expired"] * 10
        assert not house.core.by_id


async def test_what_is_not_looked_for_is_not_offered_either(autojump_clock, monkeypatch):
    monkeypatch.setattr(Expiries, "_look", lambda self: None)
    async with (
        open_house(patient(window=4), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        jobs = [await client.submitted(i) for i in range(10)]
        await trio.sleep(60)
        await announce(worker, slots=5)
        await worker.hears_nothing(m.Offer, 10)
        assert await states(client, jobs) == ["expired"] * 10


async def test_a_job_on_its_way_to_the_disk_when_its_task_is_announced_expires_too(autojump_clock):
    class Slow(DiskLike):
        async def commit(self, batch):
            await trio.sleep(2)
            return await super().commit(batch)

    async with (
        open_house(patient(), Slow) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        job = client.submit(1)
        await client.say(job)
        await trio.sleep(1)
        await announce(worker, slots=0)
        await client.hear(m.Accepted)
        await trio.sleep(60)
        assert await states(client, [job]) == ["expired"]


async def test_it_holds_over_a_restart(autojump_clock):
    store, settings = DiskLike(), patient(window=2)
    async with (
        open_house(settings, lambda: store) as house,
        house.client().connected() as client,
    ):
        jobs = [await client.submitted(i) for i in range(5)]
        async with house.worker().connected(**LISTENING) as worker:
            await announce(worker, slots=0)
            await trio.sleep(10)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        await trio.sleep(60)
        assert await states(client, jobs) == ["expired"] * 5


async def test_what_was_given_to_a_worker_has_begun_in_time(autojump_clock):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await announce(worker, slots=1, expires_s=None)
        await client.submitted(1)
        offer = await worker.hear(m.Offer)
        await worker.try_again(offer, 90_000_000, is_counted=False)
        await trio.sleep(1)
        await announce(worker, slots=1)
        await worker.finish(await worker.hear(m.Offer, 100))


async def test_what_it_was_accepted_with_is_never_prolonged(autojump_clock):
    async with (
        open_house(patient(), DiskLike) as house,
        house.client().connected() as client,
        house.worker().connected(**LISTENING) as worker,
    ):
        await announce(worker, slots=0)
        job = await client.submitted(1)
        await announce(worker, slots=0, expires_s=1000.0)
        await trio.sleep(55)
        assert await states(client, [job]) == ["expired"]
