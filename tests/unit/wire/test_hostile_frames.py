"""Whatever bytes a peer sends: one error and nothing else, and memory within bounds."""

from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.judge import (
    LIMITS,
    LISTENERS,
    MAGIC,
    corpus,
    grammar_in,
    judge,
    mutants,
)
from tests.unit.wire.strategies import messages, sample

from creche.engine.conversation import MAX_ITEMS
from creche.errors import RemoteProtocolError
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.session import MOVES, Grammar, Phase, Role

OF_THE_PLANE = codec.Limits(items=MAX_ITEMS)

FRAME_FACTOR, ITEM_BYTES, FIXED_BYTES = 4, 120, 100_000
"""What decoding may take in memory: the frame a few times, and so much for each of its values."""


# --- any bytes -----------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    judge(data)


@given(st.sampled_from(corpus()), st.data())
def test_a_good_frame_with_anything_in_it_is_taken_or_refused(frame: bytes, data: Any) -> None:
    at = data.draw(st.integers(0, len(frame)))
    end = data.draw(st.integers(at, min(len(frame), at + 10)))
    judge(frame[:at] + data.draw(st.sampled_from(MAGIC) | st.binary(max_size=20)) + frame[end:])


@pytest.mark.parametrize("seed", range(3))
def test_damaged_frames_are_taken_or_refused(seed: int) -> None:
    outcomes = [judge(mutant) > 0 for mutant in mutants(seed, 700)]
    # A driver that only makes garbage, or only good frames, would find nothing.
    assert 0.05 < sum(outcomes) / len(outcomes) < 0.95


def test_the_judge_takes_what_is_good_and_sees_what_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert all(map(judge, corpus()))
    shape = codec._SHAPES[m.KIND_OF[m.Ping]]

    def build(row: list[Any]) -> m.Message:
        raise KeyError(row[1])

    monkeypatch.setattr(shape, "build", build)
    with pytest.raises(KeyError):
        judge(codec.encode_frame([m.Ping(1)]))


def test_the_mutations_of_a_seed_are_the_same_each_time() -> None:
    assert list(mutants(7, 50)) == list(mutants(7, 50)) != list(mutants(8, 50))


# --- messages of wrong types, sizes and values ---------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.binary(max_size=20), st.just(cbor2.undefined), st.just(cbor2.CBORSimpleValue(99)),
    st.lists(st.integers(-1, 2), max_size=4),
    st.dictionaries(st.integers() | st.text(), st.none(), max_size=2),
    st.builds(cbor2.CBORTag, st.integers(0, 300), st.integers() | st.text(max_size=3)),
    st.sampled_from([math.nan, math.inf, -math.inf, 2**63, 2**64, -1, "x" * 3000, b"x" * 3000]),
)  # fmt: skip


@given(messages(), st.lists(st.tuples(st.integers(0, 9), ODD), min_size=1, max_size=3))
def test_a_message_with_odd_fields_is_taken_or_refused(
    message: m.Message, changes: list[tuple[int, Any]]
) -> None:
    row: list[Any] = [m.KIND_OF[type(message)], *message]
    for at, odd in changes:
        row[at % len(row)] = odd
    judge(cbor2.dumps([row]))
    judge(cbor2.dumps([row] * 20))


@given(st.lists(st.lists(messages(), max_size=3), max_size=6), st.sampled_from(LISTENERS))
def test_any_row_of_messages_is_heard_by_the_table_or_refused(
    frames: list[list[m.Message]], listener: tuple[Role, Role, Phase]
) -> None:
    role, peer, phase = listener
    grammar = grammar_in(phase, role, peer)
    for frame in frames:
        before = grammar.phase
        try:
            arrived = grammar.receive(codec.encode_frame(frame))
        except RemoteProtocolError:
            assert grammar.phase is before
            return
        legal = {kind for who, _, kind in MOVES if who is peer}
        assert {type(message) for message in arrived} <= legal


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.binary(max_size=9)), max_size=30))
def test_any_row_of_pieces_is_put_together_or_refused_and_stays_small(
    pieces: list[tuple[int, bool, bytes]],
) -> None:
    assembler = codec.Assembler(codec.Limits(message_bytes=20, streams=3))
    for stream, is_last, data in pieces:
        try:
            assembler.add(m.Piece(stream, is_last, data))
        except RemoteProtocolError:
            return
        assert len(assembler._streams) <= 3
        assert all(len(some) <= 20 for some in assembler._streams.values())


# --- memory --------------------------------------------------------------------------------------


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that *call* had allocated at a time. It is taken or refused."""
    tracemalloc.start()
    try:
        call()
    except RemoteProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def long(opening: bytes, number: int) -> bytes:
    """The head of an array, text and so on of *number* entries or bytes."""
    return bytes([opening[0] | 26]) + struct.pack(">I", number)


def asking(value: bytes) -> bytes:
    """A message whose one open place holds *value*."""
    return b"\x84\x14\x01\x61x\xa1\x61a" + value


def of_size(size: int, what: str) -> bytes:
    """What takes much more in memory than on the wire, of *size* bytes."""
    match what:
        case "arrays":
            return long(b"\x80", size) + b"\x80" * size
        case "maps":
            return long(b"\x80", size) + b"\xa0" * size
        case "numbers":
            return long(b"\x80", size // 5) + b"\x1a\xff\xff\xff\xff" * (size // 5)
        case "texts":
            return long(b"\x80", size // 2) + b"\x61\xff" * (size // 2)
        case "words":
            return long(b"\x80", size // 3) + b"\x62ab" * (size // 3)
        case "floats":
            return long(b"\x80", size // 3) + b"\xf9\x3c\x01" * (size // 3)
        case "pairs":
            return long(b"\x80", size // 4) + b"\xa1\x61a\x80" * (size // 4)
        case "keys":
            entries = b"".join(
                b"\x64%04x\x80" % (n & 0xFFFF) for n in range(min(size // 6, 60_000))
            )
            return long(b"\xa0", min(size // 6, 60_000)) + entries
        case _:
            return long(b"\x40", size) + b"x" * size


KINDS = ["arrays", "maps", "numbers", "texts", "words", "floats", "pairs", "keys", "bytes"]


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("size", [1_000, 190_000, 1_000_000])
def test_a_frame_takes_memory_by_its_bytes_and_by_the_values_it_may_hold(
    what: str, size: int
) -> None:
    frame = b"\x81" + asking(of_size(size, what))
    bound = FRAME_FACTOR * len(frame) + ITEM_BYTES * min(len(frame), MAX_ITEMS) + FIXED_BYTES
    assert peak_bytes(lambda: codec.decode_frame(frame, OF_THE_PLANE)) < bound


@pytest.mark.parametrize("what", KINDS)
def test_a_message_in_pieces_of_the_full_size_takes_no_more_than_that(what: str) -> None:
    message = asking(of_size(OF_THE_PLANE.message_bytes - 20, what))
    bound = FRAME_FACTOR * len(message) + ITEM_BYTES * MAX_ITEMS + FIXED_BYTES
    assert peak_bytes(lambda: codec.decode_message(message, OF_THE_PLANE)) < bound


def test_a_frame_of_one_value_too_many_is_refused_before_any_is_made() -> None:
    limits = codec.Limits(items=1_000)
    # Beside the texts: the frame, the message with four fields, a key and a list.
    for number, is_taken in ((1_000 - 8, True), (1_000 - 7, False)):
        frame = codec.encode_frame([m.Ask(1, "x", {"a": ["\u20ac" * 70] * number})])
        if is_taken:
            assert codec.decode_frame(frame, limits)
        else:
            with pytest.raises(RemoteProtocolError, match="over 1,000 values"):
                codec.decode_frame(frame, limits)


@given(messages())
def test_values_are_counted_as_they_are_made(message: m.Message) -> None:
    def values(value: Any) -> int:
        if isinstance(value, dict):
            return 1 + sum(1 + values(entry) for entry in value.values())
        if isinstance(value, list | tuple):
            return 1 + sum(map(values, value))
        return 1

    frame = codec.encode_frame([message] * 5)
    count = 1 + 5 * (values(message) + 1)
    assert codec.decode_frame(frame, codec.Limits(items=count))
    if len(frame) > count - 1:
        with pytest.raises(RemoteProtocolError, match="values is over the limit"):
            codec.decode_frame(frame, codec.Limits(items=count - 1))


@pytest.mark.parametrize(
    "opening", [b"\x40", b"\x60", b"\x80", b"\xa0"], ids=["bytes", "text", "array", "map"]
)
@pytest.mark.parametrize("length", [2**16, 2**32, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("inside", ["frame", "field", "pieces"])
def test_a_huge_length_that_is_only_said_takes_no_memory(
    opening: bytes, length: int, inside: str
) -> None:
    said = bytes([opening[0] | 27]) + struct.pack(">Q", length) + b"abc"
    if inside == "pieces":
        plane = grammar_in(Phase.READY, Role.PLANE, Role.CLIENT)
        frame = codec.encode_frame(codec.cut(1, asking(said), 7))
        assert peak_bytes(lambda: plane.receive(frame)) < FIXED_BYTES
    else:
        frame = said if inside == "frame" else b"\x81" + asking(said)
        assert peak_bytes(lambda: codec.decode_frame(frame, OF_THE_PLANE)) < FIXED_BYTES


def test_pieces_that_never_end_hold_what_the_limits_say_and_no_more() -> None:
    plane = Grammar(Role.PLANE, Role.CLIENT, LIMITS)
    plane.receive(codec.encode_frame([sample(m.Hello)]))
    plane.send([sample(m.Welcome)])

    def flood() -> None:
        for n in range(4_000):
            plane.receive(codec.encode_frame([m.Piece(n % LIMITS.streams, False, bytes(100))]))

    most = LIMITS.streams * LIMITS.message_bytes
    assert peak_bytes(flood) < 2 * most + FIXED_BYTES
