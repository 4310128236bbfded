"""A plane that stops in good order waits for what runs, and lets it go on."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_windows import DiskLike

from creche.wire import messages as m

pytestmark = pytest.mark.trio


async def test_a_running_job_may_submit_more_while_the_plane_stops(autojump_clock):
    async with open_house(make_store=DiskLike) as house, house.client().connected() as client:
        async with house.worker().connected(queues=["default"]) as worker:
            await worker.ready("echo")
            await client.submitted(1)
            offer = await worker.hear(m.Offer)
            house.stop.set()
            await trio.sleep(1)
            await client.say(client.submit(2))
            assert (await client.hear(m.Declined)).code == "stopping"
            token = [offer.seq, offer.epoch, offer.attempt]
            child = await worker.submitted(3, options={"parent": token})
            await worker.hears_nothing(m.Offer, 5)
            assert child.id in await house.core.store.find([child.id])
            await worker.finish(offer)
            await worker.hear(m.Settled)
