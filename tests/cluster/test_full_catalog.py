"""The tasks that workers announce are bounded, and nobody keeps others out of the bound for good:
what nobody needs makes room, and one token has a share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house
from tests.cluster.test_doors import guarded_house, made, nap, real_client, registry, with_token
from tests.cluster.test_windows import DiskLike

from creche.engine import catalog
from creche.engine.announcing import LOOK_AGAIN_S
from creche.engine.settings import PlaneSettings
from creche.errors import StoreError
from creche.model.access import AccessRole
from creche.store.memory import MemoryStore
from creche.wire import messages as m
from creche.worker.runner import Worker

pytestmark = pytest.mark.trio

VIEW, SUBMIT, WORK, OPERATE, ADMIN = AccessRole
LISTENING = {"queues": ["default"]}
MAIL = {"queues": ["mail.x"]}
admin_word, ADMIN_TOKEN = made(1 << 264, ADMIN)
shop_word, SHOP_TOKEN = made(2 << 264, WORK, queues=("default",))
mail_word, MAIL_TOKEN = made(3 << 264, WORK, queues=("mail.*",))
TOKENS = (ADMIN_TOKEN, SHOP_TOKEN, MAIL_TOKEN)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_TASKS", 20)


def names(letter: str, numbers: Iterable[int]) -> list[str]:
    return [f"{letter}-{n}" for n in numbers]


async def announced(peer: Peer, *tasks: str) -> None:
    """Announce tasks, and wait until that was taken."""
    await peer.ready(*tasks)
    await peer.ask("health")


async def known(house: House) -> list[str]:
    client = house.client()
    client.credential = admin_word
    async with client.connected():
        return [row["name"] for row in (await client.ask("tasks"))["tasks"]]


async def fill(house: House, tasks: list[str]) -> None:
    """Have the catalog be full of tasks of workers that have left, the first one first."""
    for start in range(0, len(tasks), 5):
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await announced(worker, *tasks[start : start + 5])
            await worker.say(m.Goodbye(""))
            await worker.hears_the_end()
        await trio.sleep(1)


async def comes_in(worker: Peer, *tasks: str) -> None:
    """Announce what there is no room for, over one connection and then the next."""
    async with worker.connected(**LISTENING):
        await worker.ready(*tasks)
        await worker.hears_the_end()
        assert not any(isinstance(message, m.Refusal) for message in worker.heard)
    async with worker.connected(**LISTENING):
        await announced(worker, *tasks)


async def test_tasks_that_nobody_needs_make_room_the_oldest_first_and_for_good(
    autojump_clock,
) -> None:
    store = MemoryStore()
    async with open_house(make_store=lambda: store) as house:
        await fill(house, names("old", range(20)))
        # One that is announced again is as new as any.
        async with house.worker().connected(**LISTENING) as again:
            await announced(again, "old-0")
            await again.say(m.Goodbye(""))
            await again.hears_the_end()
        await comes_in(house.worker("new"), *names("new", range(3)))
        there = sorted([*names("new", range(3)), "old-0", *names("old", range(4, 20))])
        assert await known(house) == there
    async with open_house(make_store=lambda: store) as house:
        assert await known(house) == there


async def test_a_worker_whose_tasks_find_no_room_at_first_comes_in_by_itself(
    autojump_clock,
) -> None:
    async with open_house() as house, trio.open_nursery() as nursery:
        await fill(house, names("old", range(20)))
        dial = partial(house.listener.dial, "worker")
        worker = Worker(registry(nap), dial=dial, url="memory:plane", worker_id="worker")
        await nursery.start(worker.run)
        async with real_client(house, None) as client:
            assert await (await client.submit(nap, 1.0)).result(timeout=60) == "slept"
        nursery.cancel_scope.cancel()


async def test_tasks_with_a_worker_a_job_or_a_schedule_stay(autojump_clock) -> None:
    settings = PlaneSettings(window=2)
    async with (
        open_house(settings, DiskLike) as house,
        house.client().connected() as client,
    ):
        every = {"rule": {"every": 3600.0}, "payload": client.submit(1).payload.hex()}
        away = house.worker("away")
        async with away.connected(**LISTENING):
            scheduled = {"name": "with-schedule", "schedule": every}
            await away.say(m.Announce([scheduled, {"name": "stored"}, {"name": "held"}]))
            await away.ask("health")
            await away.say(m.Goodbye(""))
            await away.hears_the_end()
        # The last ones are beyond the window of the lane that they share with others.
        for n, task in enumerate(("held", "held", "stored", "stored")):
            await client.submitted(n, task=task)
        assert {job.task for job in house.core.by_seq.values()} == {"held"}
        async with house.worker("here").connected(**LISTENING) as here:
            await announced(here, "of-one-here")
            async with away.connected(**LISTENING):
                await announced(away, "of-one-away")
            await fill(house, names("old", range(15)))
            await comes_in(house.worker("new"), *names("new", range(4)))
            kept = {"with-schedule", "stored", "held", "of-one-here", "of-one-away"}
            assert kept <= set(await known(house))


async def test_where_all_tasks_are_needed_one_more_is_refused_with_what_to_do(
    autojump_clock,
) -> None:
    async with open_house() as house, house.worker("a").connected(**LISTENING) as here:
        await announced(here, *names("a", range(18)))
        await fill(house, names("old", range(2)))
        new = house.worker("b")
        async with new.connected(**LISTENING):
            await new.ready(*names("b", range(3)))
            await new.hears_the_end()
        async with new.connected(**LISTENING):
            await new.ready(*names("b", range(3)))
            refusal = await new.hear(m.Refusal)
            assert "there may be 20 tasks" in refusal.why
            assert "stop workers whose tasks are not needed" in refusal.why
        async with new.connected(**LISTENING):
            await new.ready(*names("b", range(21)))
            assert "there may be 20 tasks" in (await new.hear(m.Refusal)).why
        assert set(names("a", range(18))) <= set(await known(house))


async def test_where_the_store_cannot_tell_whose_jobs_wait_no_task_is_forgotten(
    autojump_clock,
) -> None:
    class Slow(MemoryStore):
        is_slow = True

        async def tasks_in_use(self):
            if self.is_slow:
                raise StoreError("the question took too long")
            return await super().tasks_in_use()

    store = Slow()
    async with open_house(make_store=lambda: store) as house:
        await fill(house, names("old", range(20)))
        new = house.worker("new")
        async with new.connected(**LISTENING):
            await new.ready("new")
            await new.hears_the_end()
        async with new.connected(**LISTENING):
            await new.ready("new")
            assert "there may be 20 tasks" in (await new.hear(m.Refusal)).why
        assert await known(house) == sorted(names("old", range(20)))
        store.is_slow = False
        await trio.sleep(LOOK_AGAIN_S)
        await comes_in(new, "new")
        assert "new" in await known(house)


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_the_workers_of_one_token_fill_no_more_than_its_share_of_the_catalog(
    autojump_clock, is_restarted: bool
) -> None:
    store = MemoryStore()
    schedule = {"rule": {"every": 3600.0}, "payload": "8280a0"}
    async with guarded_house(*TOKENS, make_store=lambda: store) as (house, _):
        # Their schedules keep them from being forgotten.
        for start in range(0, 10, 5):
            hostile = with_token(house.worker(f"x{start}"), mail_word)
            async with hostile.connected(**MAIL):
                some = names("x", range(start, start + 5))
                await hostile.say(m.Announce([{"name": n, "schedule": schedule} for n in some]))
                await hostile.ask("health")
        if not is_restarted:
            await keeps_its_share(house)
    if is_restarted:
        async with guarded_house(*TOKENS, make_store=lambda: store) as (house, _):
            await keeps_its_share(house)


async def keeps_its_share(house: House) -> None:
    hostile = with_token(house.worker("x9"), mail_word)
    async with hostile.connected(**MAIL):
        await hostile.ready("one-more")
        refusal = await hostile.hear(m.Refusal)
        assert "there may be 10 tasks" in refusal.why
        assert f"of token {MAIL_TOKEN.id}" in refusal.why
    honest = with_token(house.worker("shop-1"), shop_word)
    async with honest.connected(**LISTENING):
        await announced(honest, *names("shop", range(10)))
    assert len(await known(house)) == 20


async def test_a_token_for_everything_has_no_share(autojump_clock) -> None:
    async with guarded_house(*TOKENS) as (house, _):
        worker = with_token(house.worker(), admin_word)
        async with worker.connected(**LISTENING):
            await announced(worker, *names("a", range(20)))
            assert len(await known(house)) == 20


async def test_what_others_announce_in_the_same_words_counts_once(autojump_clock) -> None:
    async with guarded_house(*TOKENS) as (house, _):
        shop, mail = (
            with_token(house.worker("shop-1"), shop_word),
            with_token(house.worker("mail-1"), mail_word),
        )
        async with shop.connected(**LISTENING), mail.connected(**MAIL):
            await announced(shop, *names("a", range(10)))
            await announced(mail, *names("a", range(10)), *names("b", range(10)))
            assert len(await known(house)) == 20


async def test_a_token_at_its_share_forgets_what_it_needs_no_more(autojump_clock) -> None:
    async with guarded_house(*TOKENS) as (house, _):
        worker = with_token(house.worker("shop-1"), shop_word)
        async with worker.connected(**LISTENING):
            await announced(worker, *names("a", range(10)))
            # A worker that was deployed anew has other tasks.
            await announced(worker, "a-9")
            await worker.ready(*names("b", range(4)))
            await worker.hears_the_end()
        async with worker.connected(**LISTENING):
            await announced(worker, *names("b", range(4)))
        assert await known(house) == sorted(names("a", range(4, 10)) + names("b", range(4)))
