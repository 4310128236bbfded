"""A worker's name, and with it what the worker holds, is taken over by nobody whose token is not
for its queues."""

from __future__ import annotations

import pytest
import trio
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_doors import answer_to, by_id, guarded_house, made, with_token

from creche.engine.doors import TokenDoor
from creche.model.access import AccessRole
from creche.store.memory import MemoryStore
from creche.wire import messages as m

pytestmark = pytest.mark.trio

VIEW, SUBMIT, WORK, OPERATE, ADMIN = AccessRole
LISTENING = {"queues": ["default"]}
MAIL = {"queues": ["mail.x"]}

admin_word, ADMIN_TOKEN = made(1 << 264, ADMIN)
shop_word, SHOP_TOKEN = made(2 << 264, WORK, queues=("default",))
other_shop_word, OTHER_SHOP_TOKEN = made(3 << 264, WORK, queues=("default", "more"))
mail_word, MAIL_TOKEN = made(4 << 264, WORK, queues=("mail.*",))
TOKENS = (ADMIN_TOKEN, SHOP_TOKEN, OTHER_SHOP_TOKEN, MAIL_TOKEN)


async def given(client: Peer, worker: Peer, number: int = 1) -> m.Offer:
    """Submit a job that runs at most once, and return its offer to *worker*."""
    await client.submitted(number, options={"delivery": "at-most-once"})
    return await worker.hear(m.Offer)


def token_of(offer: m.Offer) -> list[int]:
    return [offer.seq, offer.epoch, offer.attempt]


async def test_a_token_for_other_queues_takes_no_name_of_a_worker_that_is_away(
    autojump_clock,
) -> None:
    async with guarded_house(*TOKENS) as (house, _):
        client = with_token(house.client(), admin_word)
        worker = with_token(house.worker("shop-1"), shop_word)
        async with client.connected():
            async with worker.connected(**LISTENING):
                await worker.ready("echo")
                offer = await given(client, worker)
            thief = with_token(house.worker("shop-1"), mail_word)
            refusal = await thief.is_refused(**MAIL)
            assert refusal.code == "name-taken"
            assert "'shop-1'" in refusal.why
            async with worker.connected(**LISTENING, held=[token_of(offer)]):
                assert worker.welcome is not None
                assert worker.welcome.is_resumed
                await worker.finish(offer, "kept")
                await worker.hear(m.Settled)
            record = await client.ask("job", id=offer.id)
            assert (record["state"], record["losses"]) == ("succeeded", 0)


async def test_nor_one_that_has_yet_to_come_back_after_a_restart_of_the_plane(
    autojump_clock,
) -> None:
    store = MemoryStore()
    async with guarded_house(*TOKENS, make_store=lambda: store) as (house, _):
        client = with_token(house.client(), admin_word)
        worker = with_token(house.worker("shop-1"), shop_word)
        async with client.connected(), worker.connected(**LISTENING):
            await worker.ready("echo")
            offer = await given(client, worker)
    async with guarded_house(*TOKENS, make_store=lambda: store) as (house, _):
        thief = with_token(house.worker("shop-1"), mail_word)
        assert (await thief.is_refused(**MAIL)).code == "name-taken"
        worker.listener = client.listener = house.listener
        async with client.connected(), worker.connected(**LISTENING, held=[token_of(offer)]):
            await worker.finish(offer, "kept")
            await worker.hear(m.Settled)
            assert (await client.ask("job", id=offer.id))["state"] == "succeeded"


async def test_a_name_is_free_for_all_when_the_grace_of_its_worker_is_over(autojump_clock) -> None:
    store = MemoryStore()
    async with guarded_house(*TOKENS, make_store=lambda: store) as (house, _):
        client = with_token(house.client(), admin_word)
        worker = with_token(house.worker("shop-1"), shop_word)
        async with client.connected(), worker.connected(**LISTENING):
            await worker.ready("echo")
            await given(client, worker)
    async with guarded_house(*TOKENS, make_store=lambda: store) as (house, _):
        await trio.sleep(house.settings.grace_s + 1)
        for word, facts in ((mail_word, MAIL), (shop_word, LISTENING)):
            anew = with_token(house.worker("shop-1"), word)
            async with anew.connected(**facts):
                assert anew.welcome is not None
                assert not anew.welcome.is_resumed
            await trio.sleep(house.settings.grace_s + 1)


@pytest.mark.parametrize("word", [shop_word, other_shop_word, admin_word])
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_who_may_use_all_its_queues_takes_over_a_name_at_once(
    autojump_clock, word: str, is_restarted: bool
) -> None:
    """A worker that starts anew, with its own token or the one that has replaced it."""
    store = MemoryStore()
    door = TokenDoor(by_id(*TOKENS))
    async with open_house(make_store=lambda: store, door=door) as house:
        client = with_token(house.client(), admin_word)
        async with client.connected():
            worker = with_token(house.worker("shop-1"), shop_word)
            async with worker.connected(**LISTENING):
                await worker.ready("echo")
                await client.submitted(1)
                first = await worker.hear(m.Offer)
                await trio.sleep(1)
            if not is_restarted:
                again = with_token(house.worker("shop-1"), word)
                async with again.connected(**LISTENING):
                    await again.ready("echo")
                    assert (await again.hear(m.Offer)).id == first.id
                return
    async with open_house(make_store=lambda: store, door=door) as house:
        again = with_token(house.worker("shop-1"), word)
        async with again.connected(**LISTENING):
            await again.ready("echo")
            assert (await again.hear(m.Offer)).id == first.id


async def test_the_same_token_may_listen_elsewhere_when_its_worker_starts_anew(
    autojump_clock,
) -> None:
    """As long as the token is the same, what it was for before does not count."""
    wide = made(5 << 264, WORK, queues=("default", "more"))
    narrow = type(wide[1])(wide[1].id, wide[1].digest, wide[1].roles, ("more",))
    async with guarded_house(wide[1]) as (house, door):
        async with with_token(house.worker("shop-1"), wide[0]).connected(**LISTENING):
            pass
        door.change(by_id(narrow))
        async with with_token(house.worker("shop-1"), wide[0]).connected(queues=["more"]):
            assert house.core.sessions.worker("shop-1") is not None


async def test_a_worker_asks_for_its_own_work_and_is_told_no_other_names(autojump_clock) -> None:
    async with guarded_house(*TOKENS) as (house, _):
        shop = with_token(house.worker("shop-1"), shop_word)
        mail = with_token(house.worker("mail-1"), mail_word)
        client = with_token(house.client("zz"), mail_word)
        async with shop.connected(**LISTENING), mail.connected(**MAIL), client.connected():
            assert (await mail.ask("work", worker="mail-1")) == {"ready": 0}
            for peer in (mail, client):
                for name in ("shop-1", "shop-2", "zz"):
                    answer = await answer_to(peer, "work", worker=name)
                    assert isinstance(answer, m.AskFailed)
                    assert answer.code == "forbidden"
                    assert "shop-1" not in answer.why
        async with with_token(house.client(), admin_word).connected() as admin:
            answer = await answer_to(admin, "work", worker="shop-2")
            assert isinstance(answer, m.AskFailed)
            assert "did you mean 'shop-1'?" in answer.why
