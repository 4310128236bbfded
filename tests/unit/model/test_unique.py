"""Which submissions are one, and what becomes of them: rules, keys and decisions as plain data."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.flow import MAX_KEY_LENGTH, Key, shortened
from creche.model.job import JobState
from creche.model.unique import (
    EVERY,
    SAME_JOB,
    STATES,
    Decision,
    Holder,
    Rule,
    Verdict,
    counts,
    decide,
    is_idempotency_key,
    key_name,
    value_text,
)
from creche.wire.payload import decode_value, encode_value

NOW = 1000.0

ARGUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.dates()
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=12,
)


@given(ARGUMENTS)
def test_an_argument_reads_the_same_before_and_after_it_has_travelled(value):
    assert value_text(decode_value(encode_value(value))) == value_text(value)


@given(ARGUMENTS, ARGUMENTS)
def test_two_arguments_read_the_same_only_if_they_are_sent_the_same(one, other):
    if value_text(one) == value_text(other):
        assert decode_value(encode_value(one)) == decode_value(encode_value(other))


def test_what_python_calls_equal_can_be_two_keys_and_tuples_are_lists():
    texts = [value_text(value) for value in (7, "7", 7.0, True, None, b"7", Decimal(7), [7], {7})]
    assert len(set(texts)) == len(texts)
    assert value_text((1, [2])) == value_text([1, (2,)]) == "[1, [2]]"
    assert value_text({"b": 1, "a": 2}) == value_text({"a": 2, "b": 1})
    assert value_text({3, 1, 2}) == value_text(frozenset([2, 3, 1]))
    assert value_text(date(2027, 1, 2)) != value_text("2027-01-02")
    assert value_text(datetime(2027, 1, 2, tzinfo=UTC)) == "datetime(2027-01-02 00:00:00+00:00)"
    assert value_text(UUID(int=1)).startswith("UUID(")
    with pytest.raises(ValueError, match="not of type 'object'"):
        value_text(object())


def test_a_key_names_its_parts_and_what_is_left_out_has_its_default():
    rule = Rule(by=(Key("user", 0), Key("order", 1, ("id", "0"), "3")))
    assert rule.key_of(["ann", {"id": [7]}], {}) == "user='ann', order.id.0=7"
    assert rule.key_of([], {"order": {"id": [7]}, "user": "ann"}) == "user='ann', order.id.0=7"
    assert rule.key_of(["ann"], {}) == "user='ann', order.id.0=3"
    # Two calls that have nothing there are not one for that.
    assert rule.key_of(["ann", 5], {}) is None
    assert rule.key_of(["ann", {"id": []}], {}) is None
    assert rule.key_of(["ann", {"id": [None]}], {}) == "user='ann', order.id.0=null"
    assert rule.key_of(["", {"id": [""]}], {}) == "user='', order.id.0=''"
    assert Rule().key_of([1, 2], {"a": 3}) == ""


def test_the_rest_of_a_call_can_belong_to_its_key():
    rule = Rule(by=(Key("first", 0),), rest=True)
    assert rule.key_of([1, 2, 3], {"b": 5, "a": 4}) == "first=1, 2, 3, a=4, b=5"
    assert rule.key_of([], {"first": 1}) == rule.key_of([1], {}) == "first=1"
    assert rule.key_of([1], {"a": 4}) != rule.key_of([1], {"b": 4})
    # A name that a position has taken is free for what is given by name.
    assert rule.key_of([1], {"first": 2}) == "first=1, first=2"
    assert rule.key_of([1], {"b=1, c": 2}) == "first=1, 'b=1, c'=2"


def test_a_key_is_made_of_so_many_values():
    rule = Rule(by=(Key("a", 0), Key("b", 1)))
    assert len(rule.key_of([[1] * 200, {"x": [1] * 200}], {})) <= MAX_KEY_LENGTH
    with pytest.raises(ValueError, match="over 500 values in it: name a part of them"):
        rule.key_of([[1] * 300, [1] * 300], {})
    assert rule.key_of(["x" * 100_000, 1], {})


def test_a_long_key_is_kept_as_its_beginning_and_a_digest():
    long = "x" * 1000
    assert shortened(long) == shortened(long) != shortened(long + "y")
    assert len(shortened(long)) <= MAX_KEY_LENGTH
    assert shortened("a\nb\0") == "a\\nb\\x00"
    assert shortened("é") == "é"


def test_names_of_keys_differ_by_kind_and_task_and_key():
    names = {
        key_name("unique", "a", "k"),
        key_name("idempotency", "a", "k"),
        key_name("unique", "b", "k"),
        key_name("unique", "a", "l"),
    }
    assert len(names) == 4
    assert {len(name) for name in names} == {16}
    assert key_name("unique", "a", "\ud800")


@pytest.mark.parametrize(("key", "is_one"), [
    ("order 17", True), ("", False), (" ", False), ("x" * 200, True), ("x" * 201, False),
    ("a\n", False), (7, False), (None, False),
])  # fmt: skip
def test_what_an_idempotency_key_can_be(key, is_one):
    assert is_idempotency_key(key) is is_one


def test_a_rule_travels_as_data():
    rules = [
        Rule(),
        SAME_JOB,
        Rule(
            (Key("a", 0), Key(is_code=True)), True, ("waiting", "running", "failed"), 5.0, "reject"
        ),
        Rule(states=("waiting",), on_duplicate="replace", delay_s=5.0, max_delay_s=60.0),
    ]
    for rule in rules:
        assert Rule.from_data(rule.as_data()) == rule
        assert Rule.from_data(decode_value(encode_value(rule.as_data()))) == rule
    assert Rule.from_data({}) == Rule()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([], "a rule of unique jobs is a map"),
        ({"colour": 1}, "has no 'colour'"),
        ({"by": "user"}, "by is a list"),
        ({"by": [{"parameter": ""}]}, "a key names a parameter"),
        ({"by": [{"is_code": True}] * 51}, "a list of up to 50 keys"),
        ({"by": [{"parameter": "x" * 201}]}, "a key names a parameter"),
        ({"by": [{"parameter": "x", "path": ["a"] * 11}]}, "up to 10 steps"),
        ({"by": [{"parameter": "x", "path": ["a" * 201]}]}, "up to 10 steps"),
        ({"states": ["waiting"] * 6}, "at most 5 words"),
        ({"states": ["waiting", "waiting"]}, "each once"),
        ({"states": ["running"]}, "states without 'waiting'"),
        ({"states": ["waiting", "succeeded"]}, "states without 'running'"),
        ({"states": "waiting"}, "states is a list of words"),
        ({"states": []}, "states are some of"),
        ({"states": ["queued"]}, "not 'queued'"),
        ({"on_duplicate": "ignore"}, "one of existing, reject, replace, cancel"),
        (
            {"on_duplicate": "replace", "states": ["waiting", "running", "failed"]},
            "leave states out",
        ),
        ({"on_duplicate": "cancel", "states": list(EVERY)}, "leave states out"),
        ({"period_s": 0}, "period is a number of seconds above 0"),
        ({"period_s": True}, "period is a number"),
        ({"delay_s": 1e12}, "delay is a number"),
        ({"delay_s": 10.0, "max_delay_s": 5.0}, "is shorter than the delay"),
    ],
)
def test_a_rule_that_is_none_says_what_is_wrong(data, why):
    with pytest.raises(ValueError, match=why):
        Rule.from_data(data)


def held(state: JobState, at: float = NOW - 10, since: float = NOW - 20) -> Holder:
    return Holder(state, at, since)


@pytest.mark.parametrize("state", JobState)
def test_a_job_counts_in_the_states_that_its_rule_names(state):
    unfinished = STATES["waiting"] | STATES["running"]
    assert counts(Rule(states=("waiting",)), held(state), NOW) is (state in STATES["waiting"])
    assert counts(Rule(), held(state), NOW) is (state in unfinished)
    for word in ("succeeded", "failed", "cancelled"):
        expected = state in unfinished | STATES[word]
        expected |= state is JobState.FORGOTTEN and word == "succeeded"
        assert counts(Rule(states=("waiting", "running", word)), held(state), NOW) is expected
    assert counts(Rule(states=EVERY), held(state), NOW)  # one that is being cancelled, too


def test_a_job_counts_for_a_period_from_its_submission():
    rule = Rule(period_s=10.0)
    assert counts(rule, held(JobState.QUEUED, NOW - 9.9), NOW)
    assert not counts(rule, held(JobState.QUEUED, NOW - 10), NOW)
    assert counts(rule, held(JobState.QUEUED, NOW + 50), NOW)  # a clock was set back


@pytest.mark.parametrize(
    ("policy", "waiting", "running", "ended"),
    [
        ("existing", Verdict.EXISTING, Verdict.EXISTING, Verdict.NEW),
        ("reject", Verdict.REJECTED, Verdict.REJECTED, Verdict.NEW),
        ("replace", Verdict.REPLACES, Verdict.NEW, Verdict.NEW),
        ("cancel", Verdict.REPLACES, Verdict.REPLACES, Verdict.NEW),
    ],
)
def test_what_becomes_of_a_submission(policy, waiting, running, ended):
    rule = Rule(on_duplicate=policy)
    for state, verdict in {
        JobState.QUEUED: waiting,
        JobState.PARKED: waiting,
        JobState.DELAYED: waiting,
        JobState.RUNNING: running,
        JobState.CANCELLING: Verdict.NEW,
        JobState.SUCCEEDED: ended,
        JobState.FORGOTTEN: ended,
    }.items():
        assert decide(rule, held(state), NOW).verdict is verdict
    assert decide(rule, None, NOW) == Decision(Verdict.NEW, None, NOW)


def test_a_debounced_job_is_due_after_the_last_submission_but_not_put_off_for_ever():
    rule = Rule(states=("waiting",), on_duplicate="replace", delay_s=5.0, max_delay_s=30.0)
    assert decide(rule, None, NOW) == Decision(Verdict.NEW, NOW + 5, NOW)
    waits = held(JobState.DELAYED, since=NOW - 20)
    assert decide(rule, waits, NOW) == Decision(Verdict.REPLACES, NOW + 5, NOW - 20)
    assert decide(rule, waits, NOW + 8) == Decision(Verdict.REPLACES, NOW + 10, NOW - 20)
    assert decide(rule, waits, NOW + 99) == Decision(Verdict.REPLACES, NOW + 99, NOW - 20)
    runs = held(JobState.RUNNING, since=NOW - 20)
    assert decide(rule, runs, NOW) == Decision(Verdict.NEW, NOW + 5, NOW)
