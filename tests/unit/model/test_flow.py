"""Limits, rates and keys as data, and the token bucket."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.flow import MAX_KEY_LENGTH, Bucket, Flow, Key, QueueSettings, Rate, key_text


@pytest.mark.parametrize(
    ("text", "count", "per_s", "shown"),
    [
        ("10/m", 10, 60, "10/m"),
        ("5/s", 5, 1, "5/s"),
        ("100/30s", 100, 30, "100/30s"),
        ("5000/day", 5000, 86400, "5000/d"),
        (" 3 / 2 Hours ", 3, 7200, "3/2h"),
        ("1/0.5s", 1, 0.5, "1/0.5s"),
        ("7/secs", 7, 1, "7/s"),
    ],
)
def test_a_rate_is_a_number_and_a_time(text, count, per_s, shown):
    rate = Rate.parse(text)
    assert (rate.count, rate.per_s, str(rate)) == (count, per_s, shown)
    assert Rate.from_data(rate.as_data()) == rate


@pytest.mark.parametrize(
    "text",
    ["", "10", "10/", "/m", "ten/m", "10/y", "0/m", "10/0s", "-1/m", "1/400d", 10, None],
    ids=repr,
)
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match=r"rate|count|time"):
        Rate.parse(text)


@given(
    st.integers(1, 20),
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 50), min_size=1, max_size=200),
)
def test_a_bucket_lets_no_more_pass_than_its_rate_and_one_fill(count, per_s, pauses):
    now, bucket = 1000.0, Bucket(Rate(count, per_s))
    passed: list[float] = []
    for pause in pauses:
        now += pause
        room = bucket.room(now)
        assert (room > 0) == (bucket.next_at(now) <= now)
        for _ in range(room):
            bucket.take(now)
            passed.append(now)
        assert bucket.room(now) == 0
        assert bucket.next_at(now) > now
    for i, since in enumerate(passed):
        for j, until in enumerate(passed[i:], 1):
            assert j <= count + (until - since) * count / per_s + 1e-6


def test_a_bucket_has_room_at_the_moment_that_it_says():
    bucket = Bucket(Rate(3, 10.0))
    for _ in range(3):
        bucket.take(0.0)
    assert bucket.room(3.3) == 0
    bucket.give_back()
    assert bucket.room(3.3) == 1
    bucket.take(3.3)
    assert bucket.room(bucket.next_at(3.3)) == 1
    assert not bucket.is_full(9.9)
    assert bucket.is_full(10.1)
    bucket.give_back()
    assert bucket.room(10.1) == 3


@pytest.mark.parametrize(
    ("key", "args", "kwargs", "found"),
    [
        (Key("user", 0), ["ann"], {}, "ann"),
        (Key("user", 0), [], {"user": 7}, "7"),
        (Key("user", 1, default="nobody"), [1], {}, "nobody"),
        (Key("user", 1), [1], {}, ""),
        (Key("order", 0, ("lines", "0", "sku")), [{"lines": [{"sku": "a"}]}], {}, "a"),
        (Key("order", 0, ("lines", "1")), [{"lines": ["a"]}], {}, ""),
        (Key("order", 0, ("customer",)), ["text"], {}, ""),
        (Key("user", None), ["ann"], {"user": None}, "null"),
    ],
    ids=repr,
)
def test_a_key_is_what_a_call_gives_for_it(key, args, kwargs, found):
    assert key.of(args, kwargs) == found
    assert Key.from_data(key.as_data()) == key


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (7, "7"),
        ("7", "7"),
        (b"\x00\xff", "00ff"),
        (1.5, "1.5"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("a\nb\x1fc", "a\\nb\\x1fc"),
    ],
    ids=repr,
)
def test_keys_are_compared_as_printable_text(value, text):
    assert key_text(value) == text


@given(st.one_of(st.text(), st.integers(), st.binary()))
def test_every_key_is_printable_and_bounded(value):
    text = key_text(value)
    assert text.isprintable()
    assert len(text) <= MAX_KEY_LENGTH


def test_long_keys_differ_though_they_begin_alike():
    assert key_text("x" * 1000) != key_text("x" * 1001)
    assert len(key_text(10**100_000)) <= MAX_KEY_LENGTH


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, object()])
def test_what_is_no_single_value_is_no_key(value):
    with pytest.raises(ValueError, match="a key is one value"):
        key_text(value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"limit": 0}, "pause the queue"),
        ({"limit": True}, "a limit is"),
        ({"limit": 1.5}, "a limit is"),
        ({"key": {"parameter": "x"}}, "path"),
        ({"key": {"parameter": "x", "path": []}}, "key without limit"),
        ({"limit": 1, "rate_key": {"is_code": True}}, "rate_key without rate"),
        ({"limit": 1, "key": {"parameter": "", "path": []}}, "names a parameter"),
        ({"limit": 1, "key": {"parameter": "x", "path": [], "position": -1}}, "position"),
        ({"limit": 1, "key": {"parameter": "x", "path": [], "default": 1}}, "default"),
        ({"rate": {"count": 1}}, "count and per_s"),
        ({"rate": {"count": 1, "per_s": float("inf")}}, "a rate's time"),
        ({"other": 1}, "has no 'other'"),
        ([], "is a map"),
    ],
)
def test_what_is_no_flow_is_refused_with_what_is_wrong(data, why):
    with pytest.raises(ValueError, match=why):
        Flow.from_data(data)


def test_a_flow_is_data():
    flow = Flow(2, Key("a", 0, ("b",), "c"), Rate(3, 4.0), Key(is_code=True))
    assert Flow.from_data(flow.as_data()) == flow
    assert flow.needs_code
    assert not Flow()
    assert not Flow().as_data()


def test_what_is_said_of_a_queue_is_data():
    said = QueueSettings(True, 3, Rate(2, 60.0))
    assert QueueSettings.from_data(said.as_data()) == said
    assert said.as_shown() == {"paused": True, "limit": 3, "rate": "2/m"}
    assert not QueueSettings()
    with pytest.raises(ValueError, match="a limit is"):
        QueueSettings.from_data({"limit": -1})
