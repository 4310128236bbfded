"""The gauge passes on all that it is given, a few frames at a time, and ends what never ends."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.channel import gauge
from creche.channel.gauge import Gauge, TooManyParts
from creche.cli.bench_attacks import websocket_frame

PING, PONG, MORE, DATA = 9, 10, 0, 2


def passed(gauge: Gauge, data: bytes) -> list[bytes]:
    """What is passed on of *data*, piece by piece."""
    pieces: list[bytes] = []
    while data:
        taken = gauge.take(data)
        assert 0 < taken <= len(data)
        pieces.append(data[:taken])
        data = data[taken:]
    return pieces


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([PING, PONG, MORE, DATA]),
        st.sampled_from([0, 1, 5, 125, 126, 500, 65535, 65536, 70000]),
        st.booleans(),
    ),
    max_size=12,
)


@given(FRAMES, st.lists(st.integers(1, 80_000), min_size=1, max_size=30))
def test_however_it_comes_all_of_it_is_passed_on_in_order(
    frames: list[tuple[int, int, bool]], sizes: list[int]
) -> None:
    data = b"".join(websocket_frame(bytes(n), op, is_last=last) for op, n, last in frames)
    followed, got, at = Gauge(), b"", 0
    for size in [*sizes, len(data) + 1]:
        got += b"".join(passed(followed, data[at : at + size]))
        at += size
    assert got == data
    assert followed._skip == 0
    assert followed._head == b""


def test_frames_that_come_together_are_passed_on_a_few_at_a_time() -> None:
    pieces = passed(Gauge(), websocket_frame(b"", PONG) * 1000)
    assert {len(piece) // 6 for piece in pieces} <= {gauge.AT_A_TIME, 1000 % gauge.AT_A_TIME}


def test_a_byte_at_a_time_is_understood_as_well() -> None:
    followed = Gauge()
    for byte in websocket_frame(bytes(300), DATA) + websocket_frame(b"x", DATA):
        assert followed.take(bytes([byte])) == 1
    assert (followed._skip, followed._head) == (0, b"")


@pytest.mark.parametrize("content", [b"", b"x"], ids=["empty", "a byte"])
def test_a_message_in_parts_without_end_is_ended(content: bytes) -> None:
    followed = Gauge()
    passed(followed, websocket_frame(content, DATA, is_last=False))
    part = websocket_frame(content, MORE, is_last=False)
    passed(followed, part * (gauge.MAX_PARTS - 1))
    with pytest.raises(TooManyParts):
        followed.take(part)


def test_a_frame_that_comes_a_byte_at_a_time_is_ended_too() -> None:
    followed = Gauge()
    followed.take(websocket_frame(bytes(100_000), DATA)[:14])
    with pytest.raises(TooManyParts):
        for _ in range(100_000):
            followed.take(b"x")


def test_messages_in_a_few_parts_go_on_for_ever_and_are_never_slowed_down() -> None:
    followed = Gauge()
    message = websocket_frame(b"ab", DATA, is_last=False) + websocket_frame(b"c", MORE)
    for _ in range(3 * gauge.MAX_PARTS):
        followed.take(message)
        assert followed.wait_s == 0


def test_who_sends_what_says_nothing_is_slowed_down_and_what_says_something_makes_up_for_it() -> (
    None
):
    followed = Gauge()
    passed(followed, websocket_frame(b"", PING) * gauge.SMALL_FRAMES)
    assert followed.wait_s == 0
    followed.take(websocket_frame(b"", PING) * 10)
    assert followed.wait_s == pytest.approx(10 * gauge.SMALL_FRAME_S)
    followed.take(websocket_frame(b"a message", DATA))
    assert followed.wait_s == 0


def test_a_length_of_which_nothing_comes_is_waited_for_and_takes_nothing() -> None:
    followed = Gauge()
    assert followed.take(b"\x82\xff" + struct.pack(">Q", 2**63 - 1) + bytes(4)) == 14
    assert followed.take(bytes(70_000)) == 70_000
