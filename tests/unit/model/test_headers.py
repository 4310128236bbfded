"""What can be the headers of a job."""

from __future__ import annotations

from typing import Any

import pytest

from creche.model.headers import MAX_HEADERS_BYTES, checked_headers


def test_plain_values_under_names_are_headers() -> None:
    headers = {"trace": "abc", "tenant": 7, "weight": 0.5, "is_test": True, "none": None}
    assert checked_headers(headers) == headers


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (5, "headers are a map of names to plain values, not 5"),
        ([("a", 1)], "headers are a map"),
        ({1: "a"}, "a header's name is text that is not empty, not 1"),
        ({"": "a"}, "not ''"),
        ({"a": [1]}, "header 'a' is text, a number, true, false or null"),
        ({"a": b"x"}, "header 'a' is text"),
        ({"a": float("nan")}, "header 'a' is text"),
        ({"a": 2**64}, "header 'a' is text"),
        ({"a": "\ud800"}, "header 'a' is not text that UTF-8 can carry"),
        ({"a": "x" * MAX_HEADERS_BYTES}, "take 8,193 bytes, and 8,192 is the limit"),
        ({f"{n:04}": n for n in range(1000)}, "take 13,000 bytes"),
    ],
    ids=[
        *("number", "list", "name", "empty", "nested", "bytes", "nan", "large", "surrogate"),
        *("long", "many"),
    ],
)
def test_what_is_none_is_refused_with_what_and_why(headers: Any, words: str) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        checked_headers(headers)
    assert words in str(caught.value)


def test_headers_that_just_fit_are_taken() -> None:
    assert checked_headers({"a": "x" * (MAX_HEADERS_BYTES - 1)})
