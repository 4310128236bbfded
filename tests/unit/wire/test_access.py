"""The table of roles: the whole of it, and that it is about everything there is."""

from __future__ import annotations

import pytest

from creche.engine.views import Views
from creche.model.access import AccessRole, Token
from creche.wire import access as table
from creche.wire.access import EVERYTHING, Access, access_of
from creche.wire.session import MOVES, Phase, Role

VIEW, SUBMIT, WORK, OPERATE, ADMIN = AccessRole

# Written again on purpose: v view, s submit, w work, o operate, a admin.
MESSAGES = {
    "Goodbye": "vswoa", "Ping": "vswoa", "Pong": "vswoa", "Piece": "vswoa",
    "Ask": "vswoa", "Subscribe": "vswoa", "Unsubscribe": "vswoa",
    "Watch": "vswoa", "Unwatch": "vswoa", "Received": "vswoa",
    "Submit": "swoa", "Cancel": "swoa",
    "Announce": "wa", "Capacity": "wa", "Finished": "wa", "TryAgain": "wa", "HandBack": "wa",
}  # fmt: skip
QUESTIONS = {
    "health": "vswoa", "job": "vswoa", "task": "vswoa", "tasks": "vswoa",
    "jobs": "voa", "queues": "voa", "workers": "voa", "store": "voa", "overview": "voa",
    "schedules": "voa", "schedule": "voa", "work": "vwoa",
    "set-queue": "oa", "set-worker": "oa", "create-schedule": "oa", "change-schedule": "oa",
    "pause-schedule": "oa", "resume-schedule": "oa", "delete-schedule": "oa",
    "run-schedule": "oa", "retry": "oa", "discard": "oa",
}  # fmt: skip
TOPICS = {"overview": "voa", "events": "voa"}
PEERS = {"client": "vswoa", "worker": "wa"}


def letters(roles: frozenset[AccessRole]) -> str:
    return "".join(role.value[0] for role in AccessRole if role in roles)


def test_the_table_of_roles_is_this_one() -> None:
    assert {kind.__name__: letters(roles) for kind, roles in table.MESSAGES.items()} == MESSAGES
    assert {name: letters(roles) for name, roles in table.QUESTIONS.items()} == QUESTIONS
    assert {name: letters(roles) for name, roles in table.TOPICS.items()} == TOPICS
    assert {role.value: letters(roles) for role, roles in table.PEERS.items()} == PEERS
    assert letters(table.FREELY) == "soa"


def test_every_message_of_a_peer_is_in_it() -> None:
    said = {kind for role, phase, kind in MOVES if role is not Role.PLANE and phase is Phase.READY}
    assert set(table.MESSAGES) == said


def test_every_question_and_every_topic_is_in_it() -> None:
    views = Views(None)  # type: ignore[arg-type]
    assert set(table.QUESTIONS) == set(views._questions)
    assert set(table.TOPICS) == set(views._topics)


def test_an_admin_may_do_everything_and_operate_all_but_work() -> None:
    tables = (table.MESSAGES, table.QUESTIONS, table.TOPICS, table.PEERS)
    for roles in [roles for each in tables for roles in each.values()]:
        assert ADMIN in roles
        assert OPERATE in roles or roles == {WORK, ADMIN}


def test_who_may_do_everything_has_no_queues_to_mind() -> None:
    assert EVERYTHING.is_full
    assert not Access(frozenset({OPERATE})).is_full
    assert not Access(frozenset(AccessRole) - {ADMIN}).is_full
    assert Access(frozenset({ADMIN, SUBMIT})).is_full


@pytest.mark.parametrize(
    ("queues", "queue", "may"),
    [(None, "any", True), (("a", "b.*"), "b.c", True), (("a", "b.*"), "b", False)],
)
def test_a_token_for_some_queues_is_for_those(
    queues: tuple[str, ...] | None, queue: str, may: bool
) -> None:
    token = Token("abcd12", "0" * 64, frozenset({SUBMIT}), queues)
    assert access_of(token).may_use(queue) is may


def test_what_it_may_not_do_is_said_with_who_it_is_and_who_may() -> None:
    access = access_of(Token("abcd12", "0" * 64, frozenset({SUBMIT, WORK}), ("a", "b")))
    assert access.why_not("set-queue", table.QUESTIONS["set-queue"]) == (
        "token abcd12 (submit and work) is not for this: set-queue takes operate or admin"
    )
    assert access.why_no_queue("c") == (
        "token abcd12 (submit and work) is not for queue 'c': it is for a, b"
    )
