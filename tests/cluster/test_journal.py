"""The journal under a stream of work, and after a disk that was full."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import open_house
from tests.cluster.test_windows import DiskLike

from creche.model.job import JobState
from creche.store.base import Batch
from creche.wire import messages as m

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}


async def test_after_a_full_disk_a_plane_with_nothing_to_write_takes_submissions_again(
    autojump_clock,
):
    store = DiskLike()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        await client.submitted(1)
        store.is_full = True
        await client.say(client.submit(2))
        assert (await client.hear(m.Declined)).code == "store-full"
        store.is_full = False
        await trio.sleep(5)
        assert (await client.ask("health"))["failing"] is None
        await client.submitted(3)


async def test_the_lease_of_a_long_job_is_written_while_short_ones_come_and_go(autojump_clock):
    store = DiskLike()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo", slots=2)
            await client.submitted(1)
            long = await worker.hear(m.Offer)
            for number in range(2, 200):
                await client.submitted(number)
                offer = await worker.hear(m.Offer)
                await trio.sleep(0.004)
                await worker.finish(offer)
            rows = await store.find([long.id])
            assert rows[long.id].state is JobState.RUNNING


class SlowDisk(DiskLike):
    """A store that takes a while for each batch."""

    async def commit(self, batch: Batch):
        await trio.sleep(0.005)
        return await super().commit(batch)


async def test_a_cancel_is_answered_while_others_keep_the_journal_busy(autojump_clock):
    async with open_house(make_store=SlowDisk) as house:
        async with house.client().connected() as busy, house.client("two").connected() as client:
            async with trio.open_nursery() as nursery:

                async def keep_busy() -> None:
                    for number in range(10_000):
                        await busy.say(busy.submit(number))
                        await trio.sleep(0.002)

                async def read() -> None:
                    await busy.hears_nothing(m.Missing, 1000)

                nursery.start_soon(keep_busy)
                nursery.start_soon(read)
                await trio.sleep(0.1)
                waiting = client.submit(99_999, queue="other")
                await client.say(waiting, m.Cancel(7, [waiting.id], ""))
                assert (await client.hear(m.Answer, 5)).body == [JobState.CANCELLED]
                nursery.cancel_scope.cancel()
