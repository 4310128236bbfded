"""A failure travels as plain data, bounded, and is read whatever another process wrote."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.failure import MAX_TEXT, Failure, shortened
from creche.wire.payload import decode_value, encode_value

TEXT = st.text(max_size=50)


@given(st.builds(Failure, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple)))
def test_a_failure_arrives_as_it_was(failure: Failure) -> None:
    assert Failure.from_data(decode_value(encode_value(failure.as_data()))) == failure


def test_its_data_has_these_keys() -> None:
    assert Failure("builtins.ValueError", "no", "Traceback", ("try 5",)).as_data() == {
        "type": "builtins.ValueError", "message": "no", "traceback": "Traceback",
        "notes": ["try 5"],
    }  # fmt: skip


JSON = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


@given(JSON | st.dictionaries(st.sampled_from(["type", "message", "traceback", "notes"]), JSON))
def test_whatever_arrives_is_read_as_a_failure(data: Any) -> None:
    failure = Failure.from_data(data)
    assert all(type(part) is str for part in (failure.type, failure.message, failure.traceback))
    assert all(type(note) is str for note in failure.notes)


@pytest.mark.parametrize("size", [0, MAX_TEXT, MAX_TEXT + 1, 10 * MAX_TEXT])
def test_a_long_text_keeps_its_ends(size: int) -> None:
    text = "<" + "x" * (size - 2) + ">" if size else ""
    short = shortened(text)
    assert len(short) <= MAX_TEXT + 50
    assert (short[:1], short[-1:]) == (text[:1], text[-1:])
    assert (short == text) == (size <= MAX_TEXT)


def test_all_of_a_failure_is_bounded() -> None:
    data = Failure("t", "m" * 10**6, "t" * 10**6, ("n" * 10**6,) * 200).as_data()
    assert len(data["notes"]) == 100
    assert all(len(text) <= MAX_TEXT + 50 for text in (data["message"], data["traceback"]))


def test_what_cannot_be_written_as_text_is_no_error() -> None:
    failure = Failure.from_data({"type": 10**5000, "message": [10**5000], "notes": [10**5000]})
    assert failure.type == failure.message == failure.notes[0] == "(what was said cannot be shown)"
    assert "cannot be shown" in Failure.from_data(10**5000).message
