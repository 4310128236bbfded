"""A schedule as the store keeps it: whatever became of its row, the plane goes on without it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.engine.schedule import Schedule, Standing, Work
from creche.model.schedule import Rule
from creche.store.base import ScheduleRow
from creche.wire.payload import encode_call, encode_value

NOON = 1_800_000_000.0
WORK = ["echo", encode_call([1], {}), None, None, None]
STANDING = [NOON, 0, 0, 0, None, None, None]


def said(**changes: Any) -> bytes:
    return encode_value(
        {
            "source": "api",
            "rule": {"every": 60.0},
            "work": WORK,
            "module": "",
            "declared_at": 0.0,
            "undeclared_at": None,
            "made_at": NOON,
            "paused_at": None,
            "request": b"",
            "standing": STANDING,
            **changes,
        }
    )


def test_what_was_kept_is_read_again() -> None:
    before = Schedule("news", "api", Rule.from_data({"every": 60.0}), Work("echo", b"\x80"), NOON)
    before.standing = Standing(NOON + 60, 3, 2, 1, NOON + 60, NOON + 61, bytes(16), b"+" * 16)
    after = Schedule.from_row(before.row())
    assert after.problem is None
    assert after.describe() == before.describe()
    assert after.standing == before.standing


def test_what_an_earlier_version_did_not_say_is_as_it_was_then() -> None:
    schedule = Schedule.from_row(
        ScheduleRow(
            "news",
            encode_value({"rule": {"every": 60.0}, "work": WORK[:3], "standing": STANDING[:2]}),
        )
    )
    assert schedule.problem is None
    assert schedule.next_due_at() == NOON + 60


def test_one_that_an_earlier_version_wrote_is_read() -> None:
    schedule = Schedule.from_row(
        ScheduleRow("news", said(standing=[NOON, 1, 0, 0, NOON, NOON, bytes(16)]))
    )
    assert schedule.problem is None
    assert schedule.standing.last_jobs == (bytes(16),)


@pytest.mark.parametrize(
    "changes",
    [
        {"standing": ["x", *STANDING[1:]]},
        {"standing": [None]},
        {"standing": []},
        {"standing": [math.inf, *STANDING[1:]]},
        {"standing": [math.nan, *STANDING[1:]]},
        {"standing": [2.0**60, *STANDING[1:]]},  # where a minute more is the same moment
        {"standing": [NOON, "x", *STANDING[2:]], "rule": {"every": 60.0, "count": 3}},
        {"standing": [*STANDING[:6], 7]},
        {"standing": [*STANDING, b"short"]},
        {"made_at": "x"},
        {"made_at": None},
        {"declared_at": "x", "source": "code"},
        {"paused_at": "x"},
        {"source": 5},
        {"rule": [1]},
        {"rule": None},
        {"work": [5, 5]},
        {"work": [*WORK[:4], 7]},
        {"work": [*WORK[:3], "x", None]},
        {"work": [*WORK[:4], {"limits": 5}]},
        {"request": 5},
    ],
    ids=repr,
)
def test_a_row_that_is_damaged_does_not_fire_and_says_why(changes: dict[str, Any]) -> None:
    schedule = Schedule.from_row(ScheduleRow("news", said(**changes)))
    assert (schedule.state, schedule.next_due_at()) == ("broken", math.inf)
    assert schedule.describe()["problem"]


@pytest.mark.parametrize("data", [encode_value(5), encode_value({}), b"\xff", b""])
def test_a_row_that_is_none_does_not_fire(data: bytes) -> None:
    assert Schedule.from_row(ScheduleRow("news", data)).state == "broken"


@given(st.integers(0, len(said()) * 8 - 1))
def test_whichever_bit_of_a_row_is_wrong_it_can_be_looked_at(bit: int) -> None:
    data = bytearray(said())
    data[bit // 8] ^= 1 << bit % 8
    schedule = Schedule.from_row(ScheduleRow("news", bytes(data)))
    schedule.describe()
    assert schedule.next_due_at() > 0
