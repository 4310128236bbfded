"""Frames: what is sent arrives as it was; garbage raises one error and nothing else."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any, get_type_hints

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.strategies import messages, sample

from creche.errors import LocalProtocolError, RemoteProtocolError
from creche.wire import codec
from creche.wire import messages as m

EVERY_CLASS = pytest.mark.parametrize("cls", list(m.KIND_OF), ids=lambda cls: cls.__name__)
ONE_OF_EACH = [sample(cls) for cls in m.KIND_OF]


def raw(*rows: Any) -> bytes:
    return cbor2.dumps(list(rows))


def refused(frame: bytes, limits: codec.Limits = codec.DEFAULT_LIMITS) -> str:
    """The one error that *frame* raises, as text."""
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_frame(frame, limits)
    return str(caught.value)


def refused_among_many(row: list[Any]) -> str:
    """The one error of a frame in which *row* stands among many good ones of its kind."""
    good = [row[0], *sample(m.BY_KIND[row[0]])]
    said = refused(raw(*[good] * 20, row, *[good] * 20))
    assert said == refused(raw(row))
    return said


def arrives_or_is_refused(frame: bytes) -> None:
    """Any other exception than the one error fails the test."""
    try:
        arrived = codec.decode_frame(frame)
    except RemoteProtocolError:
        return
    assert {type(message) for message in arrived} <= set(m.KIND_OF)


# --- what is sent arrives ------------------------------------------------------------------------


@given(st.lists(messages(), max_size=5))
def test_what_is_sent_arrives_as_it_was(sent: list[m.Message]) -> None:
    arrived = codec.decode_frame(codec.encode_frame(sent))
    assert arrived == sent
    assert [type(message) for message in arrived] == [type(message) for message in sent]


@given(st.lists(messages(), min_size=1, max_size=3), st.integers(15, 40))
def test_many_of_a_kind_arrive_as_they_were(sent: list[m.Message], times: int) -> None:
    many = [message for message in sent for _ in range(times)]
    arrived = codec.decode_frame(codec.encode_frame(many))
    assert arrived == many
    assert [type(message) for message in arrived] == [type(message) for message in many]


@given(messages())
def test_a_message_alone_arrives_as_it_was(sent: m.Message) -> None:
    assert codec.decode_message(codec.encode_message(sent)) == sent


@EVERY_CLASS
def test_every_message_has_its_kind_first_and_its_fields_in_order(cls: type[Any]) -> None:
    message = sample(cls)
    assert cbor2.loads(codec.encode_frame([message])) == [[m.KIND_OF[cls], *message]]


def test_kinds_are_distinct_and_every_message_has_one() -> None:
    assert len(set(m.KIND_OF.values())) == len(m.KIND_OF)
    assert set(m.KIND_OF) == set(m.Message.__args__)  # type: ignore[attr-defined]


def test_an_empty_frame_is_a_frame() -> None:
    assert codec.decode_frame(codec.encode_frame([])) == []


def test_a_lone_surrogate_leaves_as_its_escape_and_costs_nobody_else() -> None:
    sent = [m.Ping(1), m.Declined(2, "store", "cannot write caf\udce9.db"), m.Ping(3)]
    arrived = codec.decode_frame(codec.encode_frame(sent))
    assert arrived == [m.Ping(1), m.Declined(2, "store", "cannot write caf\\udce9.db"), m.Ping(3)]


def test_a_body_that_cbor_cannot_carry_is_a_bug_of_this_side() -> None:
    with pytest.raises(LocalProtocolError, match="cannot encode"):
        codec.encode_frame([m.Answer(1, object())])


@given(messages())
def test_the_size_hint_is_never_far_below_the_size(message: m.Message) -> None:
    # Texts and bytes of these strategies are short; what can be large is what is measured.
    assert len(codec.encode_message(message)) <= codec.size_hint(message) + 256


def test_the_size_hint_sees_what_makes_a_message_large() -> None:
    large = b"x" * 1_000_000
    ids = [b"i" * 16] * 10_000
    for message in (
        m.Submit(1, b"i" * 16, "t", None, None, large, 0, None),
        m.Offer(1, 1, 1, b"i" * 16, "t", 0, large, None),
        m.Finished(1, 1, 1, 1, 10, large, 1),
        m.Ended(b"i" * 16, 10, large),
        m.Answer(1, large),
        m.View(1, 1, large),
        m.Watch(ids),
        m.Cancel(1, ids, ""),
        m.Announce([{"name": "x" * 100_000}]),
        m.Accepted(list(range(2**40, 2**40 + 10_000))),
        m.HandBack([[1, 2, 3]] * 50_000),
    ):
        size = len(codec.encode_message(message))
        assert size - 256 <= codec.size_hint(message) <= size + 256, type(message).__name__


# --- garbage -------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_random_bytes_raise_the_one_error(garbage: bytes) -> None:
    arrives_or_is_refused(garbage)


@given(st.recursive(st.integers() | st.text() | st.binary() | st.none(), st.lists, max_leaves=10))
def test_any_other_cbor_raises_the_one_error(value: Any) -> None:
    arrives_or_is_refused(cbor2.dumps(value))


@EVERY_CLASS
def test_a_frame_cut_anywhere_is_refused(cls: type[Any]) -> None:
    frame = codec.encode_frame([sample(cls), m.Ping(1)])
    for end in range(len(frame)):
        refused(frame[:end])


@EVERY_CLASS
def test_a_flipped_bit_arrives_as_another_message_or_is_refused(cls: type[Any]) -> None:
    frame = codec.encode_frame([sample(cls)])
    for at in range(len(frame)):
        for bit in range(8):
            mutant = bytearray(frame)
            mutant[at] ^= 1 << bit
            arrives_or_is_refused(bytes(mutant))


def test_many_flipped_bytes_raise_the_one_error() -> None:
    frame = codec.encode_frame(ONE_OF_EACH)
    dice = random.Random(20)
    for _ in range(2000):
        mutant = bytearray(frame)
        for _ in range(dice.randint(1, 6)):
            mutant[dice.randrange(len(mutant))] = dice.randrange(256)
        arrives_or_is_refused(bytes(mutant))


def test_bytes_after_the_end_are_refused() -> None:
    frame = codec.encode_frame([m.Ping(1)])
    assert "after its end" in refused(frame + b"\x00")
    assert "after its end" in refused(frame + frame)


@pytest.mark.parametrize(
    "opening", [b"\x81", b"\xa1\x61a", b"\xd8\x20"], ids=["array", "map", "tag"]
)
def test_deep_nesting_is_refused(opening: bytes) -> None:
    for depth in (codec.DEFAULT_LIMITS.depth + 1, 1000, 200_000):
        refused(opening * depth + b"\x00")


def test_a_body_may_be_nested_as_deep_as_the_limit_says() -> None:
    def nested(levels: int) -> Any:
        return [0] if levels == 1 else [nested(levels - 1)]

    fits = codec.DEFAULT_LIMITS.depth - 2  # the frame and the message are two
    answer = m.Answer(1, nested(fits))
    assert codec.decode_frame(codec.encode_frame([answer])) == [answer]
    assert "depth" in refused(codec.encode_frame([m.Answer(1, nested(fits + 1))]))


@pytest.mark.parametrize("major", [2, 3, 4, 5], ids=["bytes", "text", "array", "map"])
@pytest.mark.parametrize("length", [2**16, 2**28, 2**32, 2**40, 2**62, 2**63 - 1, 2**64 - 1])
def test_a_huge_declared_length_takes_no_memory(major: int, length: int) -> None:
    frame = b"\x81\x83\x15\x01" + bytes([major << 5 | 27]) + length.to_bytes(8, "big") + b"abc"
    tracemalloc.start()
    try:
        refused(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "filler", [b"\x80", b"\xa0", b"\x00", b"\x60", b"\x81\x00", b"\xa1\x60\x00"],
    ids=["arrays", "maps", "numbers", "texts", "rows", "entries"],
)  # fmt: skip
def test_a_full_frame_takes_memory_in_proportion(filler: bytes) -> None:
    count = (codec.DEFAULT_LIMITS.frame_bytes - 9) // len(filler)
    frame = b"\x9b" + count.to_bytes(8, "big") + filler * count
    tracemalloc.start()
    try:
        refused(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300 * len(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x9f\x82\x05\x01\xff",
        b"\x81\x9f\x05\x01\xff",
        b"\x81\x82\x04\x7f\x61a\x61b\xff",
        b"\x81\x83\x15\x01\x5f\x41a\x41b\xff",
        b"\x81\x83\x15\x01\xbf\x61a\x01\xff",
    ],
    ids=["frame", "message", "text", "bytes", "map"],
)
def test_indefinite_lengths_are_refused(frame: bytes) -> None:
    assert "indefinite" in refused(frame)


@pytest.mark.parametrize("tag", [*codec.KNOWN_TAGS, 6, 21, 24, 32, 40, 64, 259, 65535, 2**40])
@pytest.mark.parametrize(
    "inner", [0, 1.5, "2020-01-01T00:00:00Z", "x", b"x" * 16, [], [1, 2], {}, None],
    ids=["int", "float", "date", "text", "bytes", "empty", "pair", "map", "null"],
)  # fmt: skip
def test_no_tag_is_allowed_in_a_frame(tag: int, inner: Any) -> None:
    tagged = cbor2.CBORTag(tag, inner)
    refused(cbor2.dumps(tagged))
    refused(raw(tagged))
    refused(raw([m.KIND_OF[m.Answer], 1, tagged]))
    refused(raw([m.KIND_OF[m.Answer], 1, {"a": [tagged]}]))


def test_the_list_of_known_tags_is_the_whole_of_the_library() -> None:
    # A tag that the library knows and we do not would reach a decoder of its own.
    for tag in range(70_000):
        head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
        for inner in (b"\x00", b"\x61x"):
            with pytest.raises(RemoteProtocolError):
                codec.decode_message(b"\x83\x15\x01" + head + inner)


@pytest.mark.parametrize("keys", [{1: 0}, {None: 0}, {(1, 2): 0}, {1.5: 0}, {b"a": 0}, {True: 0}])
def test_facts_have_keys_of_text(keys: dict[Any, Any]) -> None:
    refused(raw([m.KIND_OF[m.Ask], 1, "jobs", keys]))
    refused(raw([m.KIND_OF[m.Announce], [keys]]))


def test_a_key_that_comes_twice_is_refused() -> None:
    refused(b"\x81\x84\x14\x01\x61x\xa2\x61a\x01\x61a\x02")


# --- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        raw(5), raw([]), raw([[]]), raw(["5", 1]), raw([5.0, 1]), raw([True, 1]), raw([None]),
        raw([0]), raw([8, 1]), raw([-5, 1]), raw([2**64 - 1, 1]), raw({"a": 1}), cbor2.dumps({}),
        cbor2.dumps("x"), cbor2.dumps(5),
    ],
)  # fmt: skip
def test_what_is_not_a_message_is_refused(frame: bytes) -> None:
    refused(frame)


@EVERY_CLASS
def test_a_field_too_many_or_too_few_is_refused(cls: type[Any]) -> None:
    row = [m.KIND_OF[cls], *sample(cls)]
    assert "fields" in refused(raw([*row, None]))
    assert "fields" in refused(raw([*row, 1]))
    assert "fields" in refused(raw(row[:-1]))
    assert "fields" in refused_among_many([*row, None])
    assert "fields" in refused_among_many(row[:-1])


INT_FIELDS = [
    (cls, at)
    for cls in m.KIND_OF
    for at, name in enumerate(cls._fields)
    if get_type_hints(cls)[name] in (int, int | None)
]


@pytest.mark.parametrize(
    ("cls", "at"), INT_FIELDS, ids=[f"{cls.__name__}.{cls._fields[at]}" for cls, at in INT_FIELDS]
)
@pytest.mark.parametrize(
    "value", [-1, -(2**63), 2**63, 2**64 - 1, 2**64, True, False, 1.0, "1", b"1"], ids=repr
)
def test_an_integer_is_between_0_and_2_to_the_63(cls: type[Any], at: int, value: Any) -> None:
    row = [m.KIND_OF[cls], *sample(cls)]
    row[1 + at] = value
    refused_among_many(row)


def test_there_are_integer_fields_to_test() -> None:
    assert len(INT_FIELDS) > 25


@pytest.mark.parametrize(
    "row",
    [
        [m.KIND_OF[m.Accepted], [1, True]],
        [m.KIND_OF[m.Accepted], [1, -1]],
        [m.KIND_OF[m.Accepted], [2**63]],
        [m.KIND_OF[m.Accepted], [1.0]],
        [m.KIND_OF[m.Settled], ["1"]],
        [m.KIND_OF[m.HandBack], [[1, 2]]],
        [m.KIND_OF[m.HandBack], [[1, 2, 3, 4]]],
        [m.KIND_OF[m.HandBack], [[1, 2, -3]]],
        [m.KIND_OF[m.HandBack], [[1, 2, "3"]]],
        [m.KIND_OF[m.HandBack], [[]]],
        [m.KIND_OF[m.HandBack], [7]],
        [m.KIND_OF[m.Announce], [[]]],
        [m.KIND_OF[m.Watch], [b"x" * 15]],
        [m.KIND_OF[m.Watch], [b"x" * 16, b""]],
        [m.KIND_OF[m.Watch], ["x" * 16]],
        [m.KIND_OF[m.Unwatch], [b"x" * 17]],
        [m.KIND_OF[m.Cancel], 1, [b"x" * 17], "why"],
        [m.KIND_OF[m.Ended], b"x" * 15, 10, None],
        [m.KIND_OF[m.Ended], b"x" * 17, 10, None],
        [m.KIND_OF[m.Ended], "x" * 16, 10, None],
        [m.KIND_OF[m.Ended], b"x" * 16, 1, None],
        [m.KIND_OF[m.Ended], b"x" * 16, 20, None],
        [m.KIND_OF[m.Missing], b"x" * 16, 1],
        [m.KIND_OF[m.Subscribe], 1, "jobs", float("nan")],
        [m.KIND_OF[m.Subscribe], 1, "jobs", float("inf")],
        [m.KIND_OF[m.Subscribe], 1, "jobs", 0],
        [m.KIND_OF[m.Subscribe], 1, "jobs", -1.5],
        [m.KIND_OF[m.Submit], 1, b"x" * 16, "t", None, 4, b"", 0, None],
        [m.KIND_OF[m.Submit], 1, b"x" * 16, "t", None, None, "", 0, None],
        [m.KIND_OF[m.Submit], 1, b"x" * 16, None, None, None, b"", 0, None],
        [m.KIND_OF[m.Hello], [1], "client", b"x" * 15, "n", b"x" * 16, [], {}, None],
        [m.KIND_OF[m.Hello], [1], "client", b"x" * 16, "n", b"", [], {}, None],
        [m.KIND_OF[m.Hello], [1], "plane", b"x" * 16, "n", b"x" * 16, [], {}, None],
        [m.KIND_OF[m.Hello], ["1"], "client", b"x" * 16, "n", b"x" * 16, [], {}, None],
        [m.KIND_OF[m.Hello], [1], "client", b"x" * 16, "n", b"x" * 16, [1], {}, None],
    ],
)  # fmt: skip
def test_a_field_that_holds_another_thing_is_refused(row: list[Any]) -> None:
    name = m.BY_KIND[row[0]].__name__
    assert name in refused(raw(row))
    # The look-up of rows seen before must not let it through the second time either.
    codec.decode_frame(codec.encode_frame([sample(m.BY_KIND[row[0]])]))
    assert name in refused_among_many(row)


def test_text_is_utf_8() -> None:
    head = b"\x81\x82\x04"
    for text in (b"\x63\xed\xa0\x80", b"\x62\xc3\x28", b"\x61\xff", b"\x64\xf8\x88\x80\x80"):
        refused(head + text)


# --- limits --------------------------------------------------------------------------------------


def test_a_frame_over_its_limit_is_refused_before_it_is_read() -> None:
    limits = codec.Limits(frame_bytes=100)
    message = m.Goodbye("x" * 94)
    frame = codec.encode_frame([message])
    assert len(frame) == 99
    assert codec.decode_frame(frame, limits) == [message]
    assert "over the limit of 100" in refused(b"\xff" * 101, limits)


def test_more_messages_than_the_limit_are_refused() -> None:
    limits = codec.Limits(messages=3)
    assert len(codec.decode_frame(codec.encode_frame([m.Ping(1)] * 3), limits)) == 3
    assert "4 messages" in refused(codec.encode_frame([m.Ping(1)] * 4), limits)
