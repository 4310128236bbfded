"""What a task says of how many of its jobs run, and the keys of its calls."""

from __future__ import annotations

import pytest

from creche import task
from creche.errors import InvalidArguments, TaskDefinitionError
from creche.model.flow import Key, Rate
from creche.tasks.registry import Registry


def made(function, **options):
    return task(registry=Registry(), **options)(function)


def by_user(user, *, order=None, retries=3):
    return user


def any_keyword(first, **others):
    return first


def test_a_limit_and_a_rate_are_announced_as_data():
    limited = made(by_user, limit=2, key="order.customer", rate="10/m", rate_key="retries")
    assert limited.declaration()["flow"] == {
        "limit": 2,
        "key": {
            "parameter": "order",
            "position": None,
            "path": ["customer"],
            "default": "",
        },
        "rate": {"count": 10, "per_s": 60.0},
        "rate_key": {"parameter": "retries", "position": None, "path": [], "default": "3"},
    }
    assert limited.flow.said.rate == Rate(10, 60.0)
    assert "flow" not in made(by_user).declaration()


def test_the_keys_of_a_call_are_those_that_its_task_names():
    limited = made(by_user, limit=2, key="user", rate="1/s", rate_key="order.customer")
    assert limited.flow.keys("by_user", ["ann"], {"order": {"customer": 7}}) == ["ann", "7"]
    assert limited.flow.keys("by_user", [], {"user": "bob"}) == ["bob", ""]
    assert made(by_user, limit=2).flow.keys("by_user", ["ann"], {}) is None
    assert made(any_keyword, limit=1, key="user").flow.said.key == Key("user", None)


def test_what_a_worker_hands_to_a_body_is_no_part_of_a_key():
    def charge(db: dict, user, cache: set, order): ...

    limited = made(charge, limit=1, key="order.id", rate="1/s", rate_key="user")
    limited.look_for_resources([dict, set])
    assert limited.flow.keys("charge", ["ann", {"id": 7}], {}) == ["7", "ann"]
    assert limited.declaration()["flow"]["key"]["position"] == 1
    handed = made(charge, limit=1, key="db")
    with pytest.raises(TaskDefinitionError, match="a key names 'db', which its worker hands it"):
        handed.look_for_resources([dict])


def test_a_key_may_be_a_function_of_the_arguments():
    limited = made(by_user, limit=1, key=lambda user, **rest: user % 10)
    assert limited.declaration()["flow"]["key"] == {"is_code": True}
    assert limited.flow.keys("by_user", [123], {}) == ["3", ""]
    with pytest.raises(InvalidArguments, match=r"its key cannot be told: TypeError"):
        limited.flow.keys("by_user", [None], {})


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_a_call_whose_key_is_no_single_value_is_refused(value):
    for key in ("user", lambda user: user):
        limited = made(by_user, limit=1, key=key)
        with pytest.raises(InvalidArguments, match=r"its key cannot be told: a key is one value"):
            limited.flow.keys("by_user", [value], {})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"limit": 0}, "to let none run, pause the queue"),
        ({"limit": "2"}, "a limit is a whole number"),
        ({"rate": "10"}, "is no rate"),
        ({"rate": 10}, "is no rate"),
        ({"key": "user"}, "key without limit"),
        ({"limit": 1, "rate_key": "user"}, "rate_key without rate"),
        ({"limit": 1, "key": "usr"}, r"no such parameter: it has user, order, retries"),
        ({"limit": 1, "key": "user..id"}, "is no path"),
        ({"limit": 1, "key": ""}, "is no path"),
        ({"limit": 1, "key": 7}, "the name of a parameter, or a function"),
    ],
)
def test_what_cannot_be_is_refused_at_the_definition(options, why):
    with pytest.raises(TaskDefinitionError, match=why):
        made(by_user, **options)
