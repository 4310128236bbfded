"""However much a peer asks of the store, the questions of others are answered in a moment."""

from __future__ import annotations

from contextlib import AsyncExitStack
from statistics import median

import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house

from creche.engine.doors import TokenDoor
from creche.model.access import AccessRole, Token, digest_of, new_word
from creche.store.memory import MemoryStore
from creche.wire import messages as m

pytestmark = pytest.mark.trio

LONG_S, SHORT_S = 0.2, 0.01
SEARCH = {"filter": "error:zzz", "limit": 1000}


class SlowReader(MemoryStore):
    """A store whose reader takes its time, and answers one question after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.line = trio.StrictFIFOLock()
        self.searches = 0

    async def jobs(self, filter, *, before_seq=None, limit=50):
        async with self.line:
            self.searches += limit == 1000
            await trio.sleep(LONG_S if limit == 1000 else SHORT_S)
            return await super().jobs(filter, before_seq=before_seq, limit=limit)


async def search(peer: Peer, number: int = 32, what: m.Facts = SEARCH) -> None:
    await peer.say(*(m.Ask(n, "jobs", what) for n in range(number)))


async def short_question_s(peer: Peer) -> float:
    began = trio.current_time()
    await peer.ask("jobs", limit=10)
    return trio.current_time() - began


async def search_for_ever(house: House, what: m.Facts = SEARCH) -> None:
    async with house.client("attacker").connected() as attacker:
        await search(attacker, 32, what)
        while True:
            await attacker.hear(m.Answer)
            await search(attacker, 1, what)


def searches(house: House) -> int:
    store = house.core.store
    assert isinstance(store, SlowReader)
    return store.searches


async def test_what_somebody_asked_who_has_gone_is_not_looked_up(autojump_clock):
    async with open_house(make_store=SlowReader) as house, house.client().connected() as client:
        async with AsyncExitStack() as stack:
            for n in range(20):
                attacker = house.client(f"attacker{n}")
                await stack.enter_async_context(attacker.connected())
                await search(attacker)
            await trio.sleep(0.1)
        assert await short_question_s(client) < 2 * LONG_S
        await trio.sleep(60)
        assert searches(house) < 5
        assert trio.lowlevel.current_statistics().tasks_living < 60


async def test_questions_take_no_longer_while_others_search_without_end(autojump_clock):
    async with open_house(make_store=SlowReader) as house, house.client().connected() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(search_for_ever, house)
            await trio.sleep(20 * LONG_S + 1)  # each of them has one before it is known for it
            took_s = []
            for _ in range(100):
                took_s.append(await short_question_s(client))
                await trio.sleep(1)
            assert median(took_s) < 2 * SHORT_S
            assert max(took_s) < LONG_S + 2 * SHORT_S
            # Nor is anybody left without an answer.
            before = searches(house)
            await trio.sleep(30)
            assert searches(house) > before + 20
            nursery.cancel_scope.cancel()


async def test_many_who_share_the_reader_are_not_each_taken_to_ask_little(autojump_clock):
    async with open_house(make_store=SlowReader) as house, house.client().connected() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(search_for_ever, house, {"limit": 10})
            await trio.sleep(10)
            took_s = []
            for _ in range(100):
                took_s.append(await short_question_s(client))
                await trio.sleep(1)
            assert median(took_s) < 2 * SHORT_S
            assert max(took_s) < 10 * SHORT_S
            nursery.cancel_scope.cancel()


async def test_the_questions_of_many_sessions_of_one_token_are_one_peers(autojump_clock):
    words = {}
    tokens = {}
    for n, role in enumerate((AccessRole.VIEW, AccessRole.ADMIN)):
        token_id, words[role] = new_word(bytes([n]) * 38)
        tokens[token_id] = Token(token_id, digest_of(words[role]), frozenset({role}), None)

    def holder(house: House, role: AccessRole) -> Peer:
        peer = house.client(role.value)
        peer.credential = words[role]
        return peer

    async with open_house(make_store=SlowReader, door=TokenDoor(tokens)) as house:
        async with AsyncExitStack() as stack:
            for _ in range(100):
                viewer = holder(house, AccessRole.VIEW)
                await stack.enter_async_context(viewer.connected())
                await search(viewer, 1)
            await trio.sleep(1)
            admin = holder(house, AccessRole.ADMIN)
            await stack.enter_async_context(admin.connected())
            for _ in range(3):
                assert await short_question_s(admin) < LONG_S + 2 * SHORT_S


async def test_who_asks_alone_may_ask_as_much_as_it_likes(autojump_clock):
    async with open_house(make_store=SlowReader) as house, house.client().connected() as client:
        began = trio.current_time()
        for _ in range(50):
            await client.ask("jobs", **SEARCH)
        assert trio.current_time() - began == pytest.approx(50 * LONG_S, rel=0.01)


async def test_a_question_that_was_not_answered_is_asked_again_over_the_next_connection(
    autojump_clock,
):
    async with open_house(make_store=SlowReader) as house:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search_for_ever, house)
            client = house.client()
            async with client.connected():
                await trio.sleep(LONG_S / 2)
                await client.say(m.Ask(7, "jobs", {"limit": 10}))
            async with client.connected():
                await client.say(m.Ask(7, "jobs", {"limit": 10}))
                assert (await client.hear(m.Answer)).ref == 7
                await client.hears_nothing(m.Answer, 5)
            nursery.cancel_scope.cancel()
