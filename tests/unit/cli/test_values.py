"""Text on the command line becomes arguments, and results become text."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.cli.values import (
    parse_arguments,
    parse_json_arguments,
    parse_value,
    result_text,
    signature_of,
    to_json,
)
from creche.errors import SettingsError
from creche.tasks.signature import Signature


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("1", 1),
        ("-2", -2),
        ("0", 0),
        ("-0", 0),
        ("+3", "+3"),
        ("007", "007"),
        ("-01", "-01"),
        ("00", "00"),
        ("01.5", "01.5"),
        ("+1.5", "+1.5"),
        ("0.5", 0.5),
        ("1.50", 1.5),
        ("0e1", 0.0),
        ("1\n", "1\n"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1e5", -100000.0),
        ("1E-3", 0.001),
        ("", ""),
        ("yes", "yes"),
        ("none", "none"),
        ("1 ", "1 "),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("0x10", "0x10"),
        ("1,5", "1,5"),
        ("-", "-"),
    ],
    ids=repr,
)
def test_a_word_is_a_bool_an_int_a_float_or_itself(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_a_number_too_long_for_python_to_read_stays_text() -> None:
    assert parse_value("9" * 5000) == "9" * 5000
    assert parse_value("9" * 300) == int("9" * 300)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_what_python_prints_of_a_number_is_read_back(value: float | bool) -> None:
    found = parse_value(str(value))
    assert found == value
    assert type(found) is type(value)


def send(user: str, /, times: int, *more: str, note: str | None = None, **rest: str) -> None: ...


SEND = Signature.of("send", send)


def test_a_parameter_announced_as_str_keeps_its_text() -> None:
    args, kwargs = parse_arguments(["12", "3", "true", "1.5"], ["note=7", "other=8"], SEND)
    assert args == ["12", 3, "true", "1.5"]
    assert kwargs == {"note": "7", "other": "8"}


def test_without_a_signature_text_becomes_what_it_looks_like() -> None:
    assert parse_arguments(["12", "x"], ["a=1", "b=x=y", "c="], None) == (
        [12, "x"],
        {"a": 1, "b": "x=y", "c": ""},
    )


def test_annotations_that_only_look_like_str_do_not_keep_text() -> None:
    def store(key: "stream", names: list[str], size: int | str) -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    args, _ = parse_arguments(["1", "2", "3"], [], Signature.of("store", store))
    assert args == [1, 2, 3]


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [(["a"], "key=value"), (["=1"], "key=value"), (["a=1", "a=2"], "'a' twice")],
    ids=["no equals", "no key", "twice"],
)
def test_what_is_no_key_and_value_is_refused(kwargs: list[str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse_arguments([], kwargs, None)


def test_json_arguments_are_a_list_or_an_object() -> None:
    assert parse_json_arguments('[1, "2", null]') == [1, "2", None]
    assert parse_json_arguments('{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize(
    "text",
    ["", "[1", "3", '"a"', "null", "[NaN]", "[Infinity]", '{"a": -Infinity}', "[1e999]"],
)
def test_other_json_is_no_arguments(text: str) -> None:
    with pytest.raises(SettingsError, match="--json-args"):
        parse_json_arguments(text)


def test_json_that_is_nested_beyond_measure_is_refused() -> None:
    with pytest.raises(SettingsError, match="nested too deep"):
        parse_json_arguments("[" * 200_000)


@pytest.mark.parametrize("declaration", [None, {}, {"name": "a", "signature": 3}, [], "x"])
def test_a_declaration_that_makes_no_sense_has_no_signature(declaration: Any) -> None:
    assert signature_of(declaration) is None


def test_a_text_result_is_bare_and_everything_else_is_json() -> None:
    assert result_text("a\nb") == "a\nb"
    assert result_text(3) == "3"
    assert result_text(None) == "null"
    assert result_text(True) == "true"
    assert result_text(["ä", 1.5]) == '["ä", 1.5]'
    assert result_text(b"ab") == '"YWI="'


def test_what_json_does_not_have_is_written_as_text() -> None:
    value = {
        1: b"ab",
        "at": datetime(2026, 11, 23, 12, tzinfo=UTC),
        "on": date(2026, 11, 23),
        "price": Decimal("1.10"),
        "share": Fraction(1, 3),
        "id": UUID(int=1),
        "odd": [math.nan, -math.inf],
        "set": {2, 1},
        (1, 2): None,
    }
    assert json.loads(to_json(value)) == {
        "1": "YWI=",
        "at": "2026-11-23T12:00:00+00:00",
        "on": "2026-11-23",
        "price": "1.10",
        "share": "1/3",
        "id": str(UUID(int=1)),
        "odd": ["nan", "-inf"],
        "set": [1, 2],
        "[1, 2]": None,
    }
