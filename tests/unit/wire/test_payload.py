"""Payloads: what survives, what is refused and where it is, and that nothing in them acts."""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import datetime as dt
import email.message
import enum
import ipaddress
import math
import pathlib
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from threading import Lock
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.errors import NotEncodable, RemoteProtocolError
from creche.wire.codec import KNOWN_TAGS
from creche.wire.payload import (
    ALLOWED_TAGS,
    MAX_DEPTH,
    MAX_DIGITS,
    decode_call,
    decode_value,
    encode_call,
    encode_value,
)

UTC = dt.UTC
INDIA = dt.timezone(dt.timedelta(hours=5, minutes=30))

SURVIVE = [
    None, True, False, 0, -1, 2**63, -(2**64), 2**200, -(2**200), 1.5, -0.0, math.inf, -math.inf,
    "", "grüße \U0001f980", b"", b"\x00\xff", [], [1, [2]], {}, {"a": {"b": [1]}},
    {1: "int", None: 0, (1, 2): "pair", b"x": 1, 1.5: 2},
    dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), dt.datetime(2026, 1, 2, tzinfo=INDIA),
    dt.date(2026, 1, 2), dt.date.min, dt.datetime.max.replace(tzinfo=UTC),
    Decimal("1.50"), Decimal("-1E+30"), Decimal("1E-400"), Decimal(10) ** 100 + 1,
    Fraction(-1, 3), uuid.UUID(int=7), {1}, set(),
]  # fmt: skip

Pair = collections.namedtuple("Pair", "a b")


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


BECOME = [
    ((), []),
    ((1, (2,)), [1, [2]]),
    (Pair(1, 2), [1, 2]),
    (range(3), [0, 1, 2]),
    (collections.deque([1]), [1]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.Counter("a"), {"a": 1}),
    (collections.ChainMap({"a": 1}), {"a": 1}),
    (frozenset({1}), {1}),
    (bytearray(b"x"), b"x"),
    (array.array("i", [1]), [1]),
    (Colour.RED, "red"),
    (Number.ONE, 1),
    (Decimal("Infinity"), math.inf),
]


@dataclasses.dataclass
class Point:
    x: int = 1


class Shade(enum.Enum):
    DARK = 1


REFUSED = [
    (object(), "object: cannot encode"),
    (lambda: 1, "function: cannot encode"),
    (dt.datetime(2026, 1, 1), "datetime.datetime: it has no time zone"),  # noqa: DTZ001
    (dt.timedelta(1), "datetime.timedelta: send its total_seconds()"),
    (dt.time(1), "datetime.time: cannot encode"),
    (pathlib.Path("x"), "send it as text"),
    (Shade.DARK, "Shade: send its name or its value"),
    (Point(), "Point: send dataclasses.asdict(value)"),
    (re.compile("a"), "re.Pattern: payloads do not carry this type"),
    (ipaddress.ip_address("1.2.3.4"), "IPv4Address: payloads do not carry this type"),
    (ipaddress.ip_address("::1"), "IPv6Address: payloads do not carry this type"),
    (ipaddress.ip_network("10.0.0.0/8"), "IPv4Network: payloads do not carry this type"),
    (ipaddress.ip_interface("::1/8"), "IPv6Interface: payloads do not carry this type"),
    (email.message.Message(), "Message: payloads do not carry this type"),
    (1j, "complex: payloads do not carry this type"),
    (cbor2.CBORTag(35, "a"), "CBORTag: payloads do not carry this type"),
    ("\ud800", "surrogates not allowed"),
    (Decimal("1" * (MAX_DIGITS + 1)), "digits"),
    (Fraction(1, 10**MAX_DIGITS), "digits"),
]


def named(values: list[Any]) -> Any:
    return pytest.mark.parametrize("value", values, ids=lambda value: repr(value)[:40])


# --- what survives -------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(SURVIVE)), ids=lambda at: repr(SURVIVE[at])[:40])
def test_these_arrive_as_they_were(at: int) -> None:
    value = SURVIVE[at]
    arrived = decode_value(encode_value(value))
    assert arrived == value
    assert type(arrived) is type(value)
    assert repr(arrived) == repr(value)


def test_not_a_number_arrives_as_such() -> None:
    assert math.isnan(decode_value(encode_value(math.nan)))
    assert math.isnan(decode_value(encode_value(Decimal("NaN"))))


@pytest.mark.parametrize(("value", "arrived"), BECOME, ids=[repr(pair[0])[:30] for pair in BECOME])
def test_these_arrive_as_plainer_types(value: Any, arrived: Any) -> None:
    decoded = decode_value(encode_value(value))
    assert decoded == arrived
    assert type(decoded) is type(arrived)


PORTABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.fractions(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.text() | st.integers() | st.dates())
    ),
    max_leaves=15,
)


@given(PORTABLE)
def test_any_value_of_these_types_arrives_as_it_was(value: Any) -> None:
    assert decode_value(encode_value(value)) == value


@given(st.lists(PORTABLE, max_size=3), st.dictionaries(st.text(), PORTABLE, max_size=3))
def test_a_call_arrives_as_it_was(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert decode_call(encode_call(args, kwargs)) == (args, kwargs)


def test_a_call_is_args_or_args_and_kwargs() -> None:
    assert cbor2.loads(encode_call((1, "a"), {})) == [[1, "a"]]
    assert cbor2.loads(encode_call((), {"a": 1})) == [[], {"a": 1}]
    assert decode_call(cbor2.dumps([[1], {}])) == ([1], {})


@named([5, None, [], [1], [[], [], {}], [{}, {}], [[], []], [[], {1: 2}], {"a": 1}, "args"])
def test_another_shape_is_no_call(value: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="payload is"):
        decode_call(cbor2.dumps(value))


# --- what is refused before it is sent -----------------------------------------------------------


@pytest.mark.parametrize("at", range(len(REFUSED)), ids=lambda at: type(REFUSED[at][0]).__name__)
def test_these_are_refused_with_a_reason_and_never_sent(at: int) -> None:
    value, why = REFUSED[at]
    for nested in (value, [value], {"a": {"b": (value,)}}, {"s": [[1], value]}):
        with pytest.raises(NotEncodable, match=re.escape(why)):
            encode_value(nested)


def test_a_decimal_may_have_so_many_digits() -> None:
    most = Decimal("9" * MAX_DIGITS)
    assert decode_value(encode_value(most)) == most
    half = Fraction(1, 10**MAX_DIGITS - 1)
    assert decode_value(encode_value(half)) == half


BAD = object()
PATHS = [
    ((BAD,), {}, "args[0]"),
    ((1, [0, {"a": BAD}]), {}, "args[1][1]['a']"),
    ((), {"when": BAD}, "argument 'when'"),
    ((), {"when": {"from": (1, BAD)}}, "argument 'when'['from'][1]"),
    (({Shade.DARK: 1},), {}, "args[0], key <Shade.DARK: 1>"),
    (({(1, Shade.DARK): 1},), {}, "args[0], key (1, <Shade.DARK: 1>)[1]"),
    ((1, {2: {3: BAD}}), {}, "args[1][2][3]"),
    (("ok", "\ud800"), {}, "args[1]"),
]


@pytest.mark.parametrize(("args", "kwargs", "path"), PATHS, ids=[path for *_, path in PATHS])
def test_the_error_names_the_place(
    args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> None:
    with pytest.raises(NotEncodable) as caught:
        encode_call(args, kwargs)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} cannot be sent: ")


def test_the_error_of_a_result_begins_with_what_it_is() -> None:
    with pytest.raises(NotEncodable) as caught:
        encode_value({"rows": [1, BAD]}, "the result")
    assert caught.value.path == "the result['rows'][1]"


@pytest.mark.parametrize(
    "encode",
    [lambda: encode_call([{"a": [Lock()]}], {}), lambda: encode_value([Lock()])],
    ids=["call", "value"],
)
def test_the_error_is_told_without_those_that_led_to_it(encode: Callable[[], bytes]) -> None:
    with pytest.raises(NotEncodable) as caught:
        encode()
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_a_keyword_that_is_no_text_utf_8_knows_is_refused() -> None:
    with pytest.raises(NotEncodable, match="the arguments cannot be sent"):
        encode_call((), {"\ud800": 1})


def loops() -> list[Any]:
    alone: list[Any] = []
    alone.append(alone)
    double: list[Any] = []
    double += [double, double]
    mapping: dict[str, Any] = {}
    mapping["self"] = [mapping]
    return [alone, double, mapping]


@pytest.mark.parametrize("at", [0, 1, 2], ids=["list", "twice", "dict"])
def test_a_value_that_holds_itself_is_refused(at: int) -> None:
    with pytest.raises(NotEncodable, match=r"args\[1\] cannot be sent: .*holds itself"):
        encode_call((1, loops()[at]), {})


@pytest.mark.parametrize("kind", [list, tuple, dict, collections.deque, collections.OrderedDict])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000, 100_000])
def test_a_value_nested_too_deep_is_refused_and_does_not_end_the_process(
    kind: type[Any], depth: int
) -> None:
    value: Any = 1
    for _ in range(depth):
        value = kind({"a": value}) if issubclass(kind, dict) else kind([value])
    with pytest.raises(NotEncodable, match="nested over 200 deep"):
        encode_value(value)
    if depth == MAX_DEPTH + 1:  # one less is fine
        inner = value["a"] if issubclass(kind, dict) else value[0]
        assert decode_value(encode_value(inner)) is not None
    while not isinstance(value, int):  # taken apart here: freeing it recurses in C too
        value = value["a"] if isinstance(value, dict) else value[0]


# --- what is refused when it arrives -------------------------------------------------------------


def refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a payload"):
        decode_value(payload)


INNER = [
    0, -1, 2**64, 1.5, math.nan, math.inf, "x", "a*", "2020-01-01", b"", b"x" * 16, [], [0, 1],
    [1, 0], [2**70, 1], [-(2**62), 1], [2**62, 1], [1.5, 1], [1, 2, 3], {}, {1: 2}, None, True,
]  # fmt: skip


@pytest.mark.parametrize("tag", sorted({*KNOWN_TAGS, 6, 21, 22, 24, 32, 33, 34, 40, 2**40}))
def test_tags_beyond_the_allowed_ones_are_refused(tag: int) -> None:
    for inner in INNER:
        payload = cbor2.dumps([cbor2.CBORTag(tag, inner)])
        if tag not in ALLOWED_TAGS:
            refused(payload)
            continue
        with contextlib.suppress(RemoteProtocolError):
            decode_value(payload)


def test_shared_references_are_refused() -> None:
    shared = cbor2.dumps(loops()[0], value_sharing=True)
    refused(shared)
    refused(cbor2.dumps(["a" * 10] * 3, string_referencing=True))


@pytest.mark.parametrize(
    "payload",
    [
        cbor2.dumps(cbor2.CBORTag(4, [1, 10**MAX_DIGITS])),
        cbor2.dumps(cbor2.CBORTag(4, [1, -(10**MAX_DIGITS)])),
        cbor2.dumps(cbor2.CBORTag(4, [1, 2**8_000_000])),
        cbor2.dumps(cbor2.CBORTag(30, [10**MAX_DIGITS, 1])),
        cbor2.dumps(cbor2.CBORTag(30, [2**8_000_000, 3**1_000_000])),
        cbor2.dumps(cbor2.CBORTag(4, [2**62, 1])),
        cbor2.dumps(cbor2.CBORTag(30, [1, 0])),
    ],
    ids=["digits", "negative", "huge", "numerator", "both", "exponent", "zero"],
)
def test_numbers_that_take_quadratic_time_are_refused_at_once(payload: bytes) -> None:
    refused(payload)


def test_what_follows_a_value_is_refused() -> None:
    for value in (1, "a", [1], {"a": 1}):
        whole = cbor2.dumps(value)
        for after in (b"\x00", b"\xf6", b"\xff", whole, b"\x80" * 100):
            refused(whole + after)
        for end in range(len(whole)):
            refused(whole[:end])


def test_deep_nesting_is_refused_on_arrival() -> None:
    for depth in (MAX_DEPTH + 1, 100_000):
        refused(b"\x81" * depth + b"\x00")
    assert decode_value(b"\x81" * MAX_DEPTH + b"\x00")


PLAIN_TYPES = {
    type(None), bool, int, float, str, bytes, list, dict, set, frozenset, tuple, Decimal, Fraction,
    dt.datetime, dt.date, uuid.UUID, cbor2.undefined.__class__, cbor2.CBORSimpleValue,
}  # fmt: skip


def types_in(value: Any) -> set[type[Any]]:
    found = {type(value)}
    if isinstance(value, dict | getattr(cbor2, "frozendict", dict)):
        found = {dict}
        for key, item in value.items():
            found |= types_in(key) | types_in(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            found |= types_in(item)
    return found


RAW_ITEMS = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(cbor2.CBORTag, st.sampled_from(KNOWN_TAGS) | st.integers(0, 300), inner)
    ),
    max_leaves=6,
)


@given(st.binary(max_size=100) | RAW_ITEMS.map(cbor2.dumps))
def test_whatever_arrives_is_plain_data_or_the_one_error(payload: bytes) -> None:
    try:
        value = decode_value(payload)
    except RemoteProtocolError:
        return
    assert types_in(value) <= PLAIN_TYPES
