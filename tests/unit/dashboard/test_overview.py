"""The page's data: whatever a plane says, it is plain, bounded and safe to show."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.dashboard.overview import (
    MAX_PARKED,
    MAX_QUEUES,
    MAX_TEXT,
    MAX_WORKERS,
    make_overview,
    unreachable,
)

URL = "ws://127.0.0.1:5570"

# What CBOR can bring in any place.
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def lane(priority: str, **fields: Any) -> dict[str, Any]:
    return {"priority": priority, "parked": "", "ready": 0, "stored": 0, "window": 10, **fields}


def shown(**view: Any) -> dict[str, Any]:
    return make_overview(view, URL, 1000.0)


def test_a_queue_shows_all_four_priorities_most_urgent_first() -> None:
    overview = shown(queues=[{"queue": "mail", "running": 3, "lanes": [lane("low", ready=7)]}])
    (queue,) = overview["queues"]
    assert (queue["queue"], queue["running"]) == ("mail", 3)
    assert [each["priority"] for each in queue["lanes"]] == ["critical", "high", "normal", "low"]
    assert [each["ready"] for each in queue["lanes"]] == [0, 0, 0, 7]


def test_a_queue_says_whether_it_is_taken_from_and_what_was_said_of_it() -> None:
    lanes = [lane("low", shut=True), lane("high", shut=False)]
    free = {"queue": "mail", "running": 3, "paused": False, "limit": None, "rate": None}
    overview = shown(
        queues=[
            free,
            {**free, "lanes": lanes, "paused": True, "limit": 1200},
            {**free, "lanes": lanes, "rate": "10/m"},
        ]
    )
    assert [queue["state"] for queue in overview["queues"]] == [
        "",
        "paused, 1,200 at a time",
        "limited, 10/m",
    ]


def test_parked_jobs_are_counted_beside_their_lane_with_the_reason() -> None:
    lanes = [
        lane("high", ready=2, stored=1),
        lane("high", parked="task:mails.send", ready=5),
        lane("high", parked="task:other", ready=1),
        lane("high", parked="task:done", ready=0),
    ]
    overview = shown(queues=[{"queue": "q", "running": 0, "lanes": lanes}])
    high = overview["queues"][0]["lanes"][1]
    assert (high["ready"], high["stored"], high["parked"]) == (2, 1, 6)
    assert high["parked_by"] == [
        {"reason": "for a worker that knows mails.send", "jobs": 5},
        {"reason": "for a worker that knows other", "jobs": 1},
    ]


def test_what_is_left_out_is_counted() -> None:
    parked = [lane("low", parked=f"task:t{n}", ready=1) for n in range(MAX_PARKED + 3)]
    queues = [{"queue": f"q{n}", "running": 0, "lanes": parked} for n in range(MAX_QUEUES + 4)]
    overview = shown(queues=queues, workers=[{"name": str(n)} for n in range(MAX_WORKERS + 5)])
    assert overview["left_out"] == {"queues": 4, "workers": 5}
    low = overview["queues"][0]["lanes"][3]
    assert (len(low["parked_by"]), low["parked_by_left_out"]) == (MAX_PARKED, 3)
    assert low["parked"] == MAX_PARKED + 3


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("a\nb\x00c", "a�b�c"),
        ("file\u202egpj.exe", "file�gpj.exe"),
        ("x" * 300, "x" * (MAX_TEXT - 1) + "…"),
        (b"bytes", ""),
        (7, ""),
    ],
    ids=["control", "direction", "long", "bytes", "number"],
)
def test_a_name_is_bounded_and_printable(said: object, text: str) -> None:
    assert shown(jobs=[{"task": said}])["jobs"][0]["task"] == text


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, "1", True], ids=str)
def test_a_moment_that_is_none_is_left_out(value: object) -> None:
    assert shown(jobs=[{"submitted_at": value}])["jobs"][0]["submitted_at"] is None


def test_what_was_seen_stays_when_the_plane_goes_away() -> None:
    overview = shown(jobs=[{"task": "t"}])
    away = unreachable(overview, "connection refused", 2000.0)
    assert (away["reachable"], away["why"]) == (False, "connection refused")
    assert (away["at"], away["seen_at"]) == (2000.0, 1000.0)
    assert away["jobs"] == overview["jobs"]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "health": ANYTHING | st.fixed_dictionaries({"jobs": ANYTHING, "failing": ANYTHING}),
            "queues": ANYTHING
            | st.lists(
                st.fixed_dictionaries(
                    {"queue": ANYTHING, "lanes": st.lists(st.just({"priority": "low"}) | ANYTHING)}
                ),
                max_size=3,
            ),
            "workers": ANYTHING
            | st.lists(st.dictionaries(st.sampled_from(["tasks", "pid", "queues"]), ANYTHING)),
            "jobs": ANYTHING
            | st.lists(st.dictionaries(st.sampled_from(["id", "parked", "started_at"]), ANYTHING)),
        },
    )
    | ANYTHING
)
def test_anything_at_all_becomes_plain_data(view: Any) -> None:
    json.dumps(make_overview(view, URL, 1000.0), allow_nan=False).encode("ascii")
