"""Who is let in, what it may do there, and who has to leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from tests.cluster.scripted import START, House, Peer, job_id, open_house

from creche.channel.memory import MemoryListener
from creche.client.client import Client
from creche.engine.conversation import Conversations
from creche.engine.doors import LOOK_S, TokenDoor
from creche.engine.plane import Entrance
from creche.engine.views import Views
from creche.errors import Refused, SubmissionRefused
from creche.model.access import AccessRole, Token, digest_of, new_word
from creche.tasks.registry import Registry
from creche.tasks.task import Task, task
from creche.wire import messages as m
from creche.wire.access import MESSAGES, QUESTIONS, TOPICS
from creche.wire.session import Role
from creche.worker.runner import Worker

pytestmark = pytest.mark.trio

VIEW, SUBMIT, WORK, OPERATE, ADMIN = AccessRole
LISTENING = {"queues": ["default"]}


def made(number: int, *roles: AccessRole, **more: Any) -> tuple[str, Token]:
    """The word of a token, and what is kept of it."""
    token_id, word = new_word(number.to_bytes(38, "big"))
    return word, Token(token_id, digest_of(word), frozenset(roles), **more)


def by_id(*tokens: Token) -> dict[str, Token]:
    return {token.id: token for token in tokens}


WORDS: dict[AccessRole, str] = {}
TOKENS: dict[str, Token] = {}
for _n, _role in enumerate(AccessRole):
    # The id is what the entropy begins with.
    _id, WORDS[_role] = new_word(bytes([_n]) * 38)
    TOKENS[_id] = Token(_id, digest_of(WORDS[_role]), frozenset({_role}))


def with_token(peer: Peer, word: str | None) -> Peer:
    peer.credential = word
    return peer


@asynccontextmanager
async def guarded_house(*tokens: Token, **more: Any) -> AsyncIterator[tuple[House, TokenDoor]]:
    """A plane that wants a token: one of these, or one of each role."""
    door = TokenDoor(by_id(*tokens) if tokens else TOKENS)
    async with open_house(door=door, **more) as house:
        yield house, door


async def answer_to(peer: Peer, question: str, **params: Any) -> m.Answer | m.AskFailed:
    """Ask, and return what comes back."""
    peer._n += 1
    await peer.say(m.Ask(peer._n, question, params))
    while True:
        for kind in (m.Answer, m.AskFailed):
            for message in list(peer.heard):
                if isinstance(message, kind) and message.ref == peer._n:
                    peer.heard.remove(message)
                    return message
        await peer._listen()


# --- the door -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (None, "this plane wants a token, and none was shown"),
        ("", "does not know this token"),
        ("open sesame", "does not know this token"),
        (WORDS[ADMIN][:-2], "does not know this token"),
        (new_word(bytes([4]) * 6 + bytes(32))[1], "does not know this token"),
        ("x" * 100_000, "does not know this token"),
    ],
)
async def test_without_a_token_nobody_comes_in(autojump_clock, word: str | None, why: str) -> None:
    async with guarded_house() as (house, _):
        for peer, facts in ((house.client(), {}), (house.worker(), LISTENING)):
            refusal = await with_token(peer, word).is_refused(**facts)
            assert refusal.code == "credential"
            assert why in refusal.why
            assert not word or word not in refusal.why
        assert not len(house.core.sessions)


async def test_a_plane_without_tokens_minds_none(autojump_clock) -> None:
    async with open_house() as house:
        async with with_token(house.client(), "whatever").connected() as client:
            assert (await client.ask("health"))["ready"]


@pytest.mark.parametrize("role", AccessRole)
async def test_only_who_may_work_comes_in_as_a_worker(autojump_clock, role: AccessRole) -> None:
    async with guarded_house() as (house, _):
        worker = with_token(house.worker(), WORDS[role])
        if role in (WORK, ADMIN):
            async with worker.connected(**LISTENING):
                assert house.core.sessions.worker("worker") is not None
        else:
            refusal = await worker.is_refused(**LISTENING)
            assert refusal.code == "forbidden"
            assert "being a worker takes work or admin" in refusal.why


async def test_a_worker_listens_only_where_its_token_is_for(autojump_clock) -> None:
    word, token = made(1, WORK, queues=("images", "mail.*"))
    async with guarded_house(token) as (house, _):
        worker = with_token(house.worker(), word)
        refusal = await worker.is_refused(queues=["images", "default"])
        assert refusal.code == "forbidden"
        assert "is not for queue 'default': it is for images, mail.*" in refusal.why
        async with worker.connected(queues=["images", "mail.out"]):
            pass


async def test_a_token_whose_time_is_over_opens_nothing(autojump_clock) -> None:
    word, token = made(1, SUBMIT, expires_at=START - 1)
    async with guarded_house(token) as (house, _):
        refusal = await with_token(house.client(), word).is_refused()
        assert (refusal.code, refusal.why) == (
            "credential", f"the time of token {token.id} is over",
        )  # fmt: skip


# --- what each role may do ----------------------------------------------------------------------


@pytest.mark.parametrize("role", AccessRole)
async def test_each_question_is_answered_or_forbidden_as_the_table_says(
    autojump_clock, role: AccessRole
) -> None:
    async with guarded_house() as (house, _):
        async with with_token(house.client(), WORDS[role]).connected() as client:
            for question, allowed in QUESTIONS.items():
                answer = await answer_to(client, question)
                is_forbidden = isinstance(answer, m.AskFailed) and answer.code == "forbidden"
                assert is_forbidden is (role not in allowed), question
                if is_forbidden:
                    assert f"({role.value}) is not for this: {question} takes " in answer.why
            unknown = await answer_to(client, "no-such-question")
            assert unknown.code == "unknown-question"  # type: ignore[union-attr]


@pytest.mark.parametrize("role", AccessRole)
async def test_each_topic_is_followed_or_forbidden_as_the_table_says(
    autojump_clock, role: AccessRole
) -> None:
    async with guarded_house() as (house, _):
        async with with_token(house.client(), WORDS[role]).connected() as client:
            for ref, (topic, allowed) in enumerate(TOPICS.items()):
                await client.say(m.Subscribe(ref, topic, 1.0))
                if role in allowed:
                    assert (await client.hear(m.View)).ref == ref
                    await client.say(m.Unsubscribe(ref))
                else:
                    assert (await client.hear(m.AskFailed)).code == "forbidden"


@pytest.mark.parametrize("role", AccessRole)
async def test_submitting_and_cancelling_are_taken_or_forbidden(
    autojump_clock, role: AccessRole
) -> None:
    async with guarded_house() as (house, _):
        async with with_token(house.client(), WORDS[role]).connected() as client:
            message = client.submit(1)
            await client.say(message)
            if role in (SUBMIT, OPERATE, ADMIN):
                await client.hear(m.Accepted)
            else:
                declined = await client.hear(m.Declined)
                assert (declined.n, declined.code) == (message.n, "forbidden")
                assert f"({role.value}) is not for this" in declined.why
                assert not house.core.by_id
            await client.say(m.Cancel(7, [job_id(1)], "no"))
            if role is VIEW:
                assert (await client.hear(m.AskFailed)).code == "forbidden"
            else:
                assert (await client.hear(m.Answer)).ref == 7


async def test_who_may_look_waits_for_results_too(autojump_clock) -> None:
    async with guarded_house() as (house, _):
        async with with_token(house.client(), WORDS[VIEW]).connected() as client:
            await client.say(m.Watch([job_id(9)]))
            assert (await client.hear(m.Missing)).id == job_id(9)
            await client.say(m.Unwatch([job_id(9)]), m.Received([job_id(9)]))
            assert (await client.ask("health"))["ready"]


async def test_every_message_that_is_routed_has_its_roles(autojump_clock) -> None:
    async with open_house() as house:
        routes = Conversations(house.core, Views(house.core))._routes
        assert set(MESSAGES) - set(routes) == {m.Goodbye, m.Piece}
        assert set(routes) <= set(MESSAGES)


async def test_a_worker_submits_for_what_it_runs_and_for_nothing_else(autojump_clock) -> None:
    async with guarded_house() as (house, _):
        client = with_token(house.client(), WORDS[SUBMIT])
        worker = with_token(house.worker(), WORDS[WORK])
        other = with_token(house.worker("other"), WORDS[WORK])
        async with (
            client.connected(),
            worker.connected(**LISTENING),
            other.connected(queues=["elsewhere"]),
        ):
            await worker.ready("echo")
            await client.submitted(1)
            offer = await worker.hear(m.Offer)
            token = [offer.seq, offer.epoch, offer.attempt]
            await worker.submitted(2, options={"parent": token})
            for peer, parent in (
                (worker, None),
                (worker, [offer.seq, offer.epoch, offer.attempt + 1]),
                (worker, [offer.seq + 7, 1, 1]),
                (worker, ["x", None, {}]),
                (worker, 5),
                (other, token),
            ):
                options = None if parent is None else {"parent": parent}
                await peer.say(peer.submit(3, options=options))
                assert (await peer.hear(m.Declined)).code == "forbidden", parent
            assert job_id(3) not in house.core.by_id


async def test_a_token_for_queues_submits_to_those_whoever_names_them(autojump_clock) -> None:
    word, token = made(1, SUBMIT, queues=("images", "mail.*"))
    admin, kept = made(1 << 280, ADMIN)
    async with guarded_house(token, kept) as (house, _):
        client, worker = with_token(house.client(), word), with_token(house.worker(), admin)
        async with client.connected(), worker.connected(queues=["images", "mail.out", "default"]):
            await client.say(client.submit(1, task="shape"))
            declined = await client.hear(m.Declined)
            assert declined.code == "forbidden"
            assert "no worker has announced task 'shape' yet: name the job's queue" in declined.why
            await worker.say(
                m.Announce([{"name": "shape", "queue": "images"}, {"name": "echo"}]),
                m.Capacity(10, 0),
            )
            await worker.ask("health")
            await client.submitted(2, task="shape")
            await client.submitted(3, queue="mail.out")
            await client.submitted(4, task="shape", queue="images")
            for changes in ({}, {"queue": "default"}, {"task": "shape", "queue": "default"}):
                await client.say(client.submit(5, **changes))
                declined = await client.hear(m.Declined)
                assert declined.code == "forbidden"
                assert "is not for queue 'default': it is for images, mail.*" in declined.why


# --- tokens that are taken away -----------------------------------------------------------------


async def test_a_token_that_is_taken_away_ends_the_connections_that_used_it(
    autojump_clock,
) -> None:
    async with guarded_house() as (house, door):
        submitter = with_token(house.client("a"), WORDS[SUBMIT])
        viewer = with_token(house.client("b"), WORDS[VIEW])
        worker = with_token(house.worker(), WORDS[WORK])
        async with submitter.connected(), viewer.connected(), worker.connected(**LISTENING):
            began = trio.current_time()
            gone = {token.id for token in TOKENS.values() if token.roles & {SUBMIT, WORK}}
            door.change({id_: token for id_, token in TOKENS.items() if id_ not in gone})
            for peer in (submitter, worker):
                refusal = await peer.hear(m.Refusal)
                assert refusal.code == "credential"
                assert refusal.why.endswith("was taken away")
                await peer.hears_the_end()
            assert trio.current_time() - began < 1.0
            assert (await viewer.ask("health"))["ready"]
        assert (await submitter.is_refused()).code == "credential"
        # What its sessions held is given away when their grace is over.
        await trio.sleep(house.settings.grace_s + 1)
        assert not len(house.core.sessions)


async def test_another_secret_under_the_same_id_is_another_token(autojump_clock) -> None:
    word, token = made(1, SUBMIT)
    async with guarded_house(token) as (house, door):
        async with with_token(house.client(), word).connected() as client:
            other = Token(token.id, "0" * 64, token.roles)
            door.change(by_id(other))
            assert (await client.hear(m.Refusal)).code == "credential"


async def test_a_token_that_allows_less_from_now_on_does_so_at_once(autojump_clock) -> None:
    word, token = made(1, SUBMIT, OPERATE)
    async with guarded_house(token) as (house, door):
        client = with_token(house.client(), word)
        async with client.connected():
            await client.ask("queues")
            door.change(by_id(Token(token.id, token.digest, frozenset({SUBMIT}))))
            await client.hears_the_end()
        async with client.connected():
            assert client.welcome is not None
            assert client.welcome.is_resumed
            answer = await answer_to(client, "queues")
            assert isinstance(answer, m.AskFailed)
            assert answer.code == "forbidden"


async def test_another_note_disturbs_nobody(autojump_clock) -> None:
    word, token = made(1, SUBMIT)
    async with guarded_house(token) as (house, door):
        async with with_token(house.client(), word).connected() as client:
            door.change(by_id(Token(token.id, token.digest, token.roles, note="the shop's")))
            await client.hears_nothing(m.Refusal, 5.0)
            assert (await client.ask("health"))["ready"]


async def test_a_token_whose_time_comes_ends_its_connections(autojump_clock) -> None:
    word, token = made(1, VIEW, expires_at=START + 20.0)
    async with guarded_house(token) as (house, _):
        async with with_token(house.client(), word).connected() as client:
            refusal = await client.hear(m.Refusal)
            assert refusal.why == f"the time of token {token.id} is over"
            assert 20.0 <= trio.current_time() <= 20.0 + LOOK_S


# --- real peers ---------------------------------------------------------------------------------


@task
async def nap(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slept"


def registry(*tasks: Task[..., Any]) -> Registry:
    found = Registry()
    for each in tasks:
        found.register(each)
    return found


def real_client(house: House, token: Any) -> Client:
    return Client("memory:plane", dial=partial(house.listener.dial, "real"), token=token)


async def test_a_client_is_told_once_that_it_is_not_let_in(autojump_clock) -> None:
    async with guarded_house() as (house, _):
        with pytest.raises(Refused) as caught:
            async with real_client(house, WORDS[ADMIN][:-1] + "_"):
                pass
        assert caught.value.code == "credential"
        assert WORDS[ADMIN][:-1] not in str(caught.value)


async def test_a_forbidden_submission_raises_what_forbids_it(autojump_clock) -> None:
    async with guarded_house() as (house, _):
        async with real_client(house, WORDS[VIEW]) as client:
            with pytest.raises(SubmissionRefused, match="submitting takes submit, oper"):
                await client.submit(nap, 1.0)


async def test_rotation_loses_nothing_and_runs_nothing_again(autojump_clock) -> None:
    """The new token is known, peers get it, the old one is taken away: what runs goes on."""
    old, old_token = made(1, SUBMIT, WORK)
    new, new_token = made(1 << 280, SUBMIT, WORK)
    shown = old
    async with guarded_house(old_token) as (house, door), trio.open_nursery() as nursery:
        worker = Worker(
            registry(nap),
            dial=partial(house.listener.dial, "worker"),
            url="memory:plane",
            worker_id="worker",
            credential=lambda: shown,
        )
        await nursery.start(worker.run)
        async with real_client(house, lambda: shown) as client:
            job = await client.submit(nap, 60.0)
            await trio.sleep(1.0)
            door.change(by_id(old_token, new_token))
            await trio.sleep(1.0)
            shown = new
            door.change(by_id(new_token))
            assert await job.result(timeout=300) == "slept"
            assert trio.current_time() < 70.0
            record = await client.ask("job", {"id": job.id_bytes})
            assert (record["attempt"], record["losses"]) == (1, 0)
        nursery.cancel_scope.cancel()


async def test_a_worker_whose_token_is_taken_away_ends_and_says_why(autojump_clock) -> None:
    word, token = made(1, WORK)
    async with guarded_house(token) as (house, door):
        worker = Worker(
            registry(nap),
            dial=partial(house.listener.dial, "worker"),
            url="memory:plane",
            worker_id="worker",
            credential=lambda: word,
        )
        with pytest.RaisesGroup(Refused):
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                door.change({})


async def test_children_come_in_by_a_door_of_their_own(autojump_clock) -> None:
    inner = MemoryListener()
    word, token = made(1, WORK)
    inside = Entrance(inner.serve, TokenDoor(by_id(token)))
    async with guarded_house(inside=inside) as (house, door):
        child = with_token(Peer(inner, Role.WORKER, "child", 1 << 64), word)
        async with child.connected(**LISTENING):
            # What becomes of the tokens of others is no affair of theirs.
            door.change({})
            await child.hears_nothing(m.Refusal, 5.0)
        # Neither door knows the tokens of the other.
        assert (await with_token(house.worker(), word).is_refused(**LISTENING)).code == "credential"
        outsider = with_token(Peer(inner, Role.WORKER, "outsider", 1 << 65), WORDS[ADMIN])
        assert (await outsider.is_refused(**LISTENING)).code == "credential"
