"""Lanes are bounded, and nobody uses them up for others: one token has a share."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.cluster.scripted import House, Peer
from tests.cluster.test_doors import guarded_house, made, with_token

from creche.engine.lane_shares import COUNT_S
from creche.engine.settings import PlaneSettings
from creche.model.access import AccessRole
from creche.store.memory import MemoryStore
from creche.wire import messages as m

pytestmark = pytest.mark.trio

VIEW, SUBMIT, WORK, OPERATE, ADMIN = AccessRole
LISTENING = {"queues": ["default", "other"]}
MAIL = {"queues": ["mail.x", "mail.y"]}
SETTINGS = PlaneSettings(lanes=20)

admin_word, ADMIN_TOKEN = made(1 << 264, ADMIN)
mail_word, MAIL_TOKEN = made(2 << 264, SUBMIT, WORK, queues=("mail.*",))
shop_word, SHOP_TOKEN = made(3 << 264, SUBMIT, queues=("default", "other"))
all_word, ALL_TOKEN = made(4 << 264, SUBMIT)
TOKENS = (ADMIN_TOKEN, MAIL_TOKEN, SHOP_TOKEN, ALL_TOKEN)


async def taken(client: Peer, *numbers: int, **each: Any) -> int:
    """Submit jobs for lanes of their own, and return how many were taken; the others were declined
    for want of lanes."""
    changes = [{key: said.format(n) for key, said in each.items()} for n in numbers]
    messages = [client.submit(n, **said) for n, said in zip(numbers, changes, strict=True)]
    await client.say(*messages)
    accepted, declined = set(), set()
    while len(accepted) + len(declined) < len(messages):
        answers, client.heard = client.heard, []
        for answer in answers:
            if isinstance(answer, m.Accepted):
                accepted.update(answer.ns)
            elif isinstance(answer, m.Declined):
                assert answer.code == "lanes", answer
                declined.add(answer.n)
                client.why = answer.why  # type: ignore[attr-defined]
        if not answers:
            await client._listen()
    return len(accepted)


def client_of(house: House, word: str) -> Peer:
    return with_token(house.client(), word)


@pytest.mark.parametrize(
    "each", [{"task": "junk-{}", "queue": "mail.x"}, {"task": "echo", "queue": "mail.{}"}]
)
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_token_uses_no_more_than_its_share_of_the_lanes_whatever_it_makes_up(
    autojump_clock, each: dict[str, str], is_restarted: bool
) -> None:
    store = MemoryStore()
    async with guarded_house(*TOKENS, settings=SETTINGS, make_store=lambda: store) as (house, _):
        async with client_of(house, mail_word).connected() as hostile:
            assert await taken(hostile, *range(30), **each) == 5
            why = hostile.why  # type: ignore[attr-defined]
            assert why == (
                "of 20 lanes, a token for these queues may use 5 for tasks that no worker has "
                "announced and queues that none listens on, and they are in use: name fewer"
            )
            # What has a lane is taken as before.
            assert await taken(hostile, 50, **{k: v.format(0) for k, v in each.items()}) == 1
        if not is_restarted:
            await others_have_lanes(house, each)
    if is_restarted:
        async with guarded_house(*TOKENS, settings=SETTINGS, make_store=lambda: store) as (
            house, _,
        ):  # fmt: skip
            await others_have_lanes(house, each)


async def others_have_lanes(house: House, each: dict[str, str]) -> None:
    async with client_of(house, mail_word).connected() as hostile:
        assert await taken(hostile, 60, 61, **each) == 0
    async with client_of(house, shop_word).connected() as client:
        assert await taken(client, 70, 71, task="new-{}", queue="default") == 2
        worker = with_token(house.worker(), admin_word)
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            assert await taken(client, 72, task="echo", queue="other") == 1
            assert (await worker.hear(m.Offer)).task == "echo"
    async with client_of(house, all_word).connected() as client:
        assert await taken(client, 80, 81, task="newer-{}", queue="default") == 2


async def test_a_token_for_all_queues_leaves_lanes_for_what_workers_know(autojump_clock) -> None:
    async with guarded_house(*TOKENS, settings=SETTINGS) as (house, _):
        worker = with_token(house.worker(), admin_word)
        async with client_of(house, all_word).connected() as hostile:
            async with worker.connected(**LISTENING):
                await worker.ready("echo", slots=0)
                assert await taken(hostile, *range(30), task="junk-{}", queue="made-up-{}") == 10
                # Both the queue and the task are somebody's.
                assert await taken(hostile, 40, task="echo", queue="default") == 1
                async with client_of(house, admin_word).connected() as admin:
                    assert await taken(admin, *range(50, 59), task="junk-{}") == 9


async def test_who_works_for_its_own_queues_too_uses_half_of_the_lanes_at_most(
    autojump_clock,
) -> None:
    tasks = [f"known-{n}" for n in range(30)]
    async with guarded_house(*TOKENS, settings=SETTINGS) as (house, _):
        one, other = (with_token(house.worker(name), mail_word) for name in "ab")
        async with one.connected(**MAIL), other.connected(**MAIL):
            # Not every worker knows them: each has a lane of its own.
            await one.ready(*tasks, slots=0)
            await other.ready("something", slots=0)
            await other.ask("health")
            async with client_of(house, mail_word).connected() as hostile:
                assert await taken(hostile, *range(50, 60), task="junk-{}", queue="mail.x") == 5
                assert await taken(hostile, *range(30), task="known-{}", queue="mail.x") == 5
                assert "a token for these queues may use 10" in hostile.why  # type: ignore[attr-defined]
            async with client_of(house, shop_word).connected() as client:
                assert await taken(client, 70, 71, task="new-{}", queue="default") == 2


async def test_lanes_where_nothing_waits_any_more_count_no_longer(autojump_clock) -> None:
    async with guarded_house(*TOKENS, settings=SETTINGS) as (house, _):
        async with client_of(house, mail_word).connected() as client:
            assert await taken(client, *range(6), task="junk-{}", queue="mail.x") == 5
            await client.say(m.Cancel(7, list(house.core.by_id)[:3], ""))
            await client.hear(m.Answer)
            await trio.sleep(COUNT_S)
            assert await taken(client, *range(10, 16), task="junk-{}", queue="mail.x") == 3


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_lanes_that_were_made_up_in_turn_are_not_all_used_at_once(
    autojump_clock, is_restarted: bool
) -> None:
    store = MemoryStore()
    async with guarded_house(*TOKENS, settings=SETTINGS, make_store=lambda: store) as (house, _):
        async with client_of(house, mail_word).connected() as hostile:
            for start in range(0, 15, 5):
                numbers = range(start, start + 5)
                assert await taken(hostile, *numbers, task="junk-{}", queue="mail.x") == 5
                await hostile.say(m.Cancel(start, list(house.core.by_id), ""))
                await hostile.hear(m.Answer)
                await trio.sleep(COUNT_S)
            if not is_restarted:
                assert await taken(hostile, *range(15), task="junk-{}", queue="mail.x") == 5
    if is_restarted:
        async with guarded_house(*TOKENS, settings=SETTINGS, make_store=lambda: store) as (
            house, _,
        ):  # fmt: skip
            async with client_of(house, mail_word).connected() as hostile:
                assert await taken(hostile, *range(15), task="junk-{}", queue="mail.x") == 5


async def test_jobs_of_tasks_that_become_known_keep_their_order_and_are_run(
    autojump_clock,
) -> None:
    async with guarded_house(*TOKENS, settings=SETTINGS) as (house, _):
        async with client_of(house, mail_word).connected() as client:
            for n in range(6):
                await taken(client, n, task=f"new-{n % 3}", queue="mail.x")
            worker = with_token(house.worker(), mail_word)
            async with worker.connected(**MAIL):
                await worker.ready("new-0", "new-1", "new-2")
                offers = [await worker.hear(m.Offer) for _ in range(6)]
                assert [offer.task for offer in offers] == [f"new-{n % 3}" for n in range(6)]
