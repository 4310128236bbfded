"""What a plane in memory still knows of jobs whose results it has forgotten is bounded."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import open_house

from creche.engine.settings import PlaneSettings
from creche.store import memory_pruning
from creche.store.base import Retention
from creche.wire import messages as m

pytestmark = pytest.mark.trio


async def test_of_ids_that_may_have_been_known_nobody_says_that_they_are_new(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(memory_pruning, "MAX_TOMBSTONES", 3)
    settings = PlaneSettings(retention=Retention(1, None, None, tombstone_s=3600.0))
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(queues=["default"]) as worker:
            await worker.ready("echo")
            jobs = []
            for number in range(10):
                jobs.append(await client.submitted(number))
                await worker.finish(await worker.hear(m.Offer))
                await trio.sleep(1)
            for _ in range(5):
                await trio.sleep(20)
                await worker.say(m.Ping(1))
                await client.say(m.Ping(1))
            info = await house.core.store.info()
            assert (info["ended"], info["tombstones"]) == (1, 3)
            for number, job in enumerate(jobs):
                await client.say(job._replace(flags=m.RESENT))
                if number < 6:
                    assert (await client.hear(m.Declined)).code == "uncertain"
                else:
                    assert (await client.hear(m.Accepted)).ns == [job.n]
            new = client.submit(11, flags=m.RESENT)
            await client.say(new)
            assert (await client.hear(m.Accepted)).ns == [new.n]
            assert (await worker.hear(m.Offer)).id == new.id
            await worker.hears_nothing(m.Offer, 5)
