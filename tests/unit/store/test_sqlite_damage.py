"""Rows of an SQLite file, whatever stands in them: what is made of them, without a file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.job import JobState
from creche.store.base import JobRow
from creche.store.sqlite_damage import (
    AT_A_TIME,
    delay_counts,
    job_rows,
    lane_rows,
    outcome_row,
    queue_rows,
    record,
    show,
)

SOUND: dict[str, Any] = {
    "seq": 7, "id": b"i" * 16, "task": "echo", "lane": 1, "state": 1, "attempt": 0, "losses": 0,
    "epoch": 0, "holder": None, "payload": b"x", "options": None, "submitted_at": 1.0,
    "leased_at": None, "ending": None, "stored": 0, "failures": 0, "due_at": None,
    "expires_at": None,
}  # fmt: skip
# A whole number never is a float in a column of whole numbers: SQLite sees to that.
BROKEN = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
ANYTHING = st.one_of(
    st.none(), st.integers(-2, 30), st.integers(2**52 - 1, 2**63 - 1), BROKEN,
    st.binary(max_size=20), st.text(max_size=20), st.tuples(st.binary(max_size=5)),
)  # fmt: skip


def raw(**changes: Any) -> tuple[Any, ...]:
    return tuple((SOUND | changes).values())


def test_a_sound_row_is_made_as_it_is() -> None:
    running = raw(seq=9, state=4, attempt=2, epoch=3, holder="w/1", leased_at=5.0, options=b"o")
    first, second = job_rows([raw(), running])
    assert first == JobRow(
        7, b"i" * 16, "echo", 1, JobState.QUEUED, 0, 0, 0, None, b"x", None, 1.0, None
    )
    assert (second.state, second.attempt, second.holder) == (JobState.RUNNING, 2, "w/1")
    assert first.state is JobState.QUEUED
    assert second.damage is None
    assert job_rows([]) == []


@given(st.lists(st.tuples(st.sampled_from(list(SOUND)[1:]), ANYTHING), max_size=4))
def test_whatever_a_row_holds_the_others_are_as_they_were_and_it_is_harmless(
    changes: list[tuple[str, Any]],
) -> None:
    others = [raw(seq=seq) for seq in range(100, 100 + AT_A_TIME)]
    before, row, *after = job_rows([raw(seq=1), raw(**dict(changes)), *others])
    assert [before, *after] == job_rows([raw(seq=1), *others])
    (alone,) = job_rows([raw(**dict(changes))])
    assert row == alone
    assert row.seq == 7
    assert not row.state.has_ended
    counts = (row.attempt, row.losses, row.epoch, row.failures, row.lane)
    assert min(counts) >= 0
    assert max(counts) <= 2**52
    assert isinstance(row.payload, bytes)
    assert row.state is not JobState.DELAYED or row.due_at is not None
    assert len(row.id) == 16 or (not row.id and row.damage is not None)
    if row.damage is not None:
        assert row.damage.startswith("row 7 of job is damaged: ")
        assert any(name in row.damage for name, _ in changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"attempt": "first"},
            "attempt is the text 'first', and not a whole number from 0 to 2^52",
        ),
        (
            {"losses": 2**63 - 1},
            "losses is the number 9223372036854775807, and not a whole number from 0 to 2^52",
        ),
        ({"state": 99}, "state is the number 99, and not that of a job that waits or runs"),
        ({"stored": 1, "state": 4}, "state is the number 4, and not that of a job that waits"),
        ({"stored": 9}, "stored is the number 9, and not that of a job that waits or runs"),
        (
            {"task": (b"\xff",)},
            "task is a text of the bytes ff, which are no UTF-8, and not a text",
        ),
        ({"payload": None}, "payload is nothing, and not bytes"),
        ({"state": 3}, "due_at is nothing, and not a moment"),
        ({"ending": 3}, "ending is the number 3 and stored is the number 0: not both can be"),
    ],
)
def test_the_damage_names_row_column_and_what_is_there(changes: dict[str, Any], told: str) -> None:
    (row,) = job_rows([raw(**changes)])
    assert row.damage is not None
    assert told in row.damage


@pytest.mark.parametrize(
    "changes", [{"id": b"short"}, {"id": "text"}, {"id": 5}, {"ending": 3, "state": 10}]
)
def test_what_is_to_be_left_alone_has_no_id(changes: dict[str, Any]) -> None:
    (row,) = job_rows([raw(**changes)])
    assert row.id == b""
    assert row.damage is not None


def test_a_long_value_is_told_in_part() -> None:
    assert len(show("x" * 10_000)) < 100
    assert len(show(b"x" * 10_000)) < 200


def test_a_lane_that_cannot_be_read_gets_a_queue_of_its_own() -> None:
    wrong: list[str] = []
    rows = lane_rows([(1, "default", 2, ""), (2, "mail", 9, ""), (3, b"x", 1, "")], wrong)
    assert [row.queue for row in rows] == ["default", "damaged-lane-2", "damaged-lane-3"]
    assert (
        "row 2 of lane is damaged: queue is the text 'mail', priority is the number 9" in wrong[0]
    )
    assert len(wrong) == 2


def test_a_lane_whose_number_is_beyond_all_counting_is_none() -> None:
    wrong: list[str] = []
    rows = lane_rows([(1, "default", 2, ""), (2**63 - 1, "mail", 1, "")], wrong)
    assert [row.lane for row in rows] == [1]
    assert wrong == [
        "a row of lane is damaged, and left alone: lane is the number 9223372036854775807"
    ]


def test_a_row_without_a_name_is_left_alone_and_told_once() -> None:
    wrong: list[str] = []
    for _ in range(2):
        rows = queue_rows([(b"x", b"1"), ("mail", 5)], wrong)
    assert [tuple(row) for row in rows] == [("mail", b"")]
    assert wrong == ["a row of queue is damaged, and left alone: name is the bytes 78"]


def test_delayed_jobs_without_a_moment_do_not_count() -> None:
    astray = [raw(stored=2, lane=1), raw(stored=9, lane=2)]
    assert [tuple(row) for row in delay_counts([(1, 1), (2, 3), ("x", 1)], astray)] == [(2, 3)]


@given(st.tuples(*[ANYTHING] * 22))
def test_any_job_can_be_shown(values: tuple[Any, ...]) -> None:
    shown = record((1, b"i" * 16, *values, [(1, *values[:6])]))
    assert isinstance(shown.state, JobState)
    assert (shown.seq, shown.id) == (1, b"i" * 16)
    assert len(shown.tries) == 1


@pytest.mark.parametrize("found", [(-1, b"x"), (10, "text"), (10, 0), ("soon", None)])
def test_an_end_that_cannot_be_read_is_a_failure_that_says_so(found: tuple[Any, Any]) -> None:
    row = outcome_row((5, b"i" * 16, *found, False))
    assert (row.state, row.outcome) == (JobState.FAILED, None)
    assert row.damage is not None
    assert row.damage.startswith("row 5 of job is damaged: ")
