"""What a task says of its unique jobs, and the keys of its calls."""

from __future__ import annotations

import pytest

from creche import Debounce, Throttle, Unique, task
from creche.errors import InvalidArguments, TaskDefinitionError
from creche.model.flow import Key
from creche.model.unique import EVERY, Rule
from creche.tasks.options import submission_options
from creche.tasks.registry import Registry


def made(function, **options):
    return task(registry=Registry(), **options)(function)


def call(user, *, order=None, tags=("a",)):
    return user


async def async_key(user): ...


def open_ended(first, *others, **named): ...


ALL = (Key("user", 0), Key("order", None, (), "null"), Key("tags", None, (), "['a']"))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"unique": True}, Rule(by=ALL)),
        ({"unique": "user"}, Rule(by=ALL[:1])),
        ({"unique": ["user", "order.id"]}, Rule(by=(ALL[0], Key("order", None, ("id",), "")))),
        ({"unique": ()}, Rule()),
        ({"unique": Unique()}, Rule(by=ALL)),
        (
            {"unique": Unique((), period=60)},
            Rule(period_s=60, states=("waiting", "running", "succeeded")),
        ),
        (
            {"unique": Unique((), period=60, on_duplicate="replace")},
            Rule(period_s=60, on_duplicate="replace"),
        ),
        ({"unique": Unique((), states={"running", "waiting"})}, Rule()),
        (
            {"debounce": 5},
            Rule(by=ALL, states=("waiting",), on_duplicate="replace", delay_s=5),
        ),
        (
            {"debounce": Debounce(5, (), most=60)},
            Rule(states=("waiting",), on_duplicate="replace", delay_s=5, max_delay_s=60),
        ),
        ({"throttle": 60}, Rule(by=ALL, states=EVERY, period_s=60)),
        ({"throttle": Throttle(60, "user")}, Rule(by=ALL[:1], states=EVERY, period_s=60)),
    ],
)
def test_a_rule_is_announced_as_data(options, rule):
    unique = made(call, **options)
    assert Rule.from_data(unique.declaration()["unique"]) == rule
    assert unique.unique.rule == rule


def test_a_task_that_says_nothing_is_not_unique():
    for options in ({}, {"unique": None}, {"unique": False}):
        plain = made(call, **options)
        assert "unique" not in plain.declaration()
        assert plain.facts_of([1], {}) == {}


def test_a_submission_says_its_key_and_its_rule():
    unique = made(call, unique=Unique("user", on_duplicate="reject"))
    assert unique.facts_of([7], {"order": 3}) == {
        "unique": {"key": "user=7", "states": ["waiting", "running"], "on_duplicate": "reject"}
    }
    whole = made(call, unique=True)
    keys = {
        whole.facts_of(args, kwargs)["unique"]["key"]
        for args, kwargs in [
            ([7], {}), ([], {"user": 7}), ([7], {"order": None}), ([7], {"tags": ["a"]}),
        ]
    }  # fmt: skip
    assert keys == {"user=7, order=null, tags=['a']"}
    rest = made(open_ended, unique=True)
    assert rest.facts_of([1, 2], {"x": 3})["unique"]["key"] == "first=1, 2, x=3"


def test_a_key_can_be_computed():
    unique = made(call, unique=lambda user, **_: {"name": user.lower()})
    assert unique.facts_of(["ANN"], {})["unique"]["key"] == "{'name': 'ann'}"
    with pytest.raises(InvalidArguments, match="unique key cannot be told: Attribute"):
        unique.facts_of([7], {})
    odd = made(call, unique=lambda user, **_: object())
    with pytest.raises(InvalidArguments, match="not of type 'object'"):
        odd.facts_of([1], {})


def test_what_a_worker_hands_to_a_body_is_no_part_of_a_key():
    def charge(db: dict, user, cache: set, order): ...

    whole = made(charge, unique=True)
    whole.look_for_resources([dict, set])
    assert whole.facts_of(["ann", 7], {})["unique"]["key"] == "user='ann', order=7"
    assert [part["parameter"] for part in whole.declaration()["unique"]["by"]] == ["user", "order"]
    handed = made(charge, unique=("user", "db"))
    with pytest.raises(TaskDefinitionError, match="a key names 'db', which its worker hands it"):
        handed.look_for_resources([dict])
    view = whole.with_options(unique="order")
    assert view.facts_of(["ann", 7], {})["unique"]["key"] == "order=7"
    assert whole.facts_of(["ann", 7], {})["unique"]["key"] == "user='ann', order=7"


def test_a_view_says_otherwise_and_announces_what_its_task_does():
    unique = made(call, unique="user")
    off = unique.with_options(unique=False)
    assert off.facts_of([1], {}) == {"unique": False}
    assert off.with_options(priority="high").facts_of([1], {}) == {"unique": False}
    on = off.with_options(throttle=60)
    assert on.facts_of([1], {})["unique"]["period_s"] == 60
    assert off.declaration()["unique"] == on.declaration()["unique"]
    keyed = unique.with_options(idempotency_key="a")
    assert keyed.options.idempotency_key == "a"
    assert keyed.with_options(priority="high").options.idempotency_key == "a"
    assert not keyed.options.is_plain


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"unique": "nobody"}, "unique names 'nobody', and there is no such parameter"),
        ({"unique": ["user", "user..x"]}, "is no path"),
        ({"unique": 7}, "unique names parameters, or is a function of the arguments, and not 7"),
        ({"unique": [7]}, "and not \\[7\\]"),
        ({"unique": Unique(period=-1)}, "unique: period is a number of seconds above 0"),
        ({"unique": Unique(states="waiting")}, "states are several"),
        ({"unique": Unique(states=("asleep",))}, "not 'asleep'"),
        ({"unique": Unique(states=())}, "states are some of"),
        ({"unique": Unique(states=("running",))}, "unique: states without 'waiting'"),
        ({"unique": Unique}, r"write Unique\(...\), with its options"),
        ({"unique": Unique(async_key)}, "by a plain def"),
        ({"debounce": False}, "say unique=False for no rule at all"),
        ({"throttle": False}, "say unique=False for no rule at all"),
        ({"debounce": 5, "expires": 3}, r"with debounce=5 it has expired \(expires=3\)"),
        ({"unique": Unique(on_duplicate="shout")}, "on_duplicate is one of"),
        (
            {"unique": Unique(on_duplicate="replace", states=("waiting", "running", "succeeded"))},
            "is about a job that waits or runs: leave states out",
        ),
        ({"debounce": 0}, "debounce: wait is a number of seconds above 0"),
        ({"debounce": "5"}, "debounce: wait is a number"),
        ({"debounce": Debounce(5, most=4)}, "most \\(4 s\\) is shorter than the wait"),
        ({"throttle": -1}, "throttle: period is a number"),
        ({"throttle": 5, "debounce": 5}, "debounce and throttle are each a rule of its own"),
        ({"unique": True, "throttle": 5}, "unique and throttle are each"),
        ({"unique": lambda user: user, "every": 5}, "which the plane does not have"),
    ],
)
def test_options_that_cannot_be_are_refused_where_the_task_is_defined(options, why):
    def ping(user=1): ...

    with pytest.raises(TaskDefinitionError, match=why) as caught:
        made(ping, **options)
    assert "test_unique.py" in str(caught.value)


def test_a_submission_that_cannot_be_is_refused():
    debounced = made(call, debounce=5)
    with pytest.raises(TaskDefinitionError, match="debounce says when it runs"):
        debounced.with_options(countdown=5)
    with pytest.raises(TaskDefinitionError, match="with debounce=5 it has expired"):
        debounced.with_options(expires=0.1)
    for key in ("", 7, "a\n", "x" * 201):
        with pytest.raises(TaskDefinitionError, match="idempotency_key is a text of 1 to 200"):
            debounced.with_options(idempotency_key=key)
    for option in ("unique", "debounce", "throttle"):
        with pytest.raises(TaskDefinitionError, match=f"{option} is about the parameters"):
            submission_options("here", {option: 5}, 0.0)
    assert submission_options("here", {"idempotency_key": "a"}, 0.0).idempotency_key == "a"


def test_a_default_that_is_no_value_tells_calls_apart_from_those_with_another() -> None:
    @task(unique=True, registry=Registry())
    def send(to: str, how: object = object()) -> None: ...

    assert send.facts_of(["ann"], {}) == send.facts_of([], {"to": "ann"})
    assert send.facts_of(["ann"], {})["unique"]["key"] == "to='ann', how=default"
    assert send.facts_of(["ann", "default"], {})["unique"]["key"] == "to='ann', how='default'"


def test_a_call_that_has_nothing_where_its_key_should_be_says_that_it_has_none() -> None:
    @task(unique="order.id", registry=Registry())
    def ship(order: dict[str, int]) -> None: ...

    assert ship.facts_of([{"id": 5}], {})["unique"]["key"] == "order.id=5"
    assert ship.facts_of([{}], {}) == {"unique": False}
