"""docs/protocol.cddl and the codec agree: what one accepts the other does, and likewise refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycddl import Schema, ValidationError
from tests.unit.wire.cddl import Definition
from tests.unit.wire.strategies import messages, sample

from creche.errors import RemoteProtocolError
from creche.model.failure import Failure
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.payload import encode_call, encode_value

CDDL = (Path(__file__).parents[3] / "docs" / "protocol.cddl").read_text(encoding="utf-8")
RULES = Definition(CDDL).rules
EVERY_CLASS = pytest.mark.parametrize("cls", list(m.KIND_OF), ids=lambda cls: cls.__name__)


def rule_name(cls: type[Any]) -> str:
    """``HandBack`` is ``hand-back`` in the definition."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")


# The validator from PyPI breaks down over choices between arrays: it is asked rule by rule.
BY_VALIDATOR = {cls: Schema(f"this-document = {rule_name(cls)}\n{CDDL}") for cls in m.KIND_OF}


def is_taken(frame: bytes) -> bool:
    try:
        codec.decode_frame(frame)
    except RemoteProtocolError:
        return False
    return True


@given(st.lists(messages(), max_size=4))
def test_every_real_frame_is_valid(sent: list[m.Message]) -> None:
    assert RULES["frame"](cbor2.loads(codec.encode_frame(sent)))
    for message in sent:
        BY_VALIDATOR[type(message)].validate_cbor(codec.encode_message(message))


@EVERY_CLASS
def test_each_message_is_valid_by_its_own_rule_and_no_other(cls: type[Any]) -> None:
    row = cbor2.loads(codec.encode_message(sample(cls)))
    assert [other for other in m.KIND_OF if RULES[rule_name(other)](row)] == [cls]


@EVERY_CLASS
def test_the_definition_has_the_fields_of_the_record_in_order(cls: type[Any]) -> None:
    body = CDDL.partition(f"\n{rule_name(cls)} = [")[2].partition("\n\n")[0]
    at = [body.find(f"{name}: ") for name in cls._fields]
    assert -1 not in at
    assert at == sorted(at)


# What a field is swapped for: some may be in its place, most may not.
STRANGERS = [
    None, True, 0, -1, 2**63 - 1, 2**63, 3, 4, 9, 10, 14, 15, 1.5, "text", b"bytes", b"x" * 16, [],
    [1, 2], [-1], [2**63], [True], ["a"], [b"x" * 15], [b"x" * 16], [[1, 2]], [[1, 2, 3]],
    [[1, 2, -3]], [{}], [{1: 2}], {}, {1: 2}, {"a": 1},
]  # fmt: skip


def mutants(row: list[Any]) -> list[list[Any]]:
    """*row* with a field swapped, left out, or one too many."""
    swapped = [
        [*row[:at], stranger, *row[at + 1 :]] for at in range(len(row)) for stranger in STRANGERS
    ]
    shorter = [[*row[:at], *row[at + 1 :]] for at in range(len(row))]
    return [*swapped, *shorter, [*row, None], [*row, 1], []]


@EVERY_CLASS
def test_a_mutated_message_is_taken_by_both_or_by_neither(cls: type[Any]) -> None:
    refused = 0
    for mutant in mutants([m.KIND_OF[cls], *sample(cls)]):
        if has_odd_key(mutant):  # a body is `any`; that its keys are text is said in words
            continue
        is_right = is_taken(cbor2.dumps([mutant]))
        assert RULES["frame"]([mutant]) == is_right, mutant
        refused += not is_right
    assert refused > len(STRANGERS) / 2


def has_odd_key(value: Any) -> bool:
    if isinstance(value, dict):
        return any(type(key) is not str for key in value)
    return isinstance(value, list) and any(map(has_odd_key, value))


@EVERY_CLASS
def test_the_validator_refuses_what_is_plainly_wrong(cls: type[Any]) -> None:
    row = [m.KIND_OF[cls], *sample(cls)]
    for mutant in ([*row, None], row[:-1], ["text", *row[1:]], [999, *row[1:]], [], None):
        with pytest.raises(ValidationError):
            BY_VALIDATOR[cls].validate_cbor(cbor2.dumps(mutant))


@pytest.mark.parametrize("value", [5, "x", None, {}, [5], [[]], [[999]], [[5, 1], 5]], ids=repr)
def test_what_is_no_frame_is_refused_by_both(value: Any) -> None:
    assert not RULES["frame"](value)
    assert not is_taken(cbor2.dumps(value))


def test_payloads_are_what_the_definition_says() -> None:
    for payload in (encode_call((1, "a"), {}), encode_call((), {"a": [None]})):
        assert RULES["call"](cbor2.loads(payload))
    for value in ([], [1], [[], {1: 2}], [[], {}, 1], {}):
        assert not RULES["call"](value)
    failure = Failure("t", "m", "tb", ("n",))
    assert RULES["failure"](cbor2.loads(encode_value(failure.as_data())))
    assert not RULES["failure"]({"type": "t"})


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("a = [* tstr]", [[], ["x"]], [["x", 1], "x", [b"x"]]),
        ("a = [1, n: 0..3, b]\nb = bool", [[1, 3, True]], [[1, 4, True], [1, 1], [2, 1, True]]),
        ("a = bstr .size 2 / null", [b"xx", None], [b"x", "xx", 0]),
        ('a = "x" / "y"', ["x", "y"], ["z", b"x"]),
        ("a = {* tstr => any}", [{}, {"a": 1}], [{1: 1}, []]),
        ("a = {k: float, l: any} ; why\n", [{"k": 1.0, "l": 1}], [{"k": 1.0}, {"k": 1, "l": 1}]),
    ],
    ids=["repeated", "array", "size", "choice", "facts", "map"],
)
def test_the_reader_of_cddl_reads_it_right(text: str, right: list[Any], wrong: list[Any]) -> None:
    check = Definition(text).rules["a"]
    assert all(map(check, right))
    assert not any(map(check, wrong))


@pytest.mark.parametrize("text", ["a = 1 .le 5", "a = [? 1]", "a = tstr\na = bstr", "a = #6"])
def test_what_the_reader_cannot_read_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"does not read|expected|twice"):
        Definition(text)
