"""Job ids are UUIDs of version 7: they sort by time, and survive as text."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.ids import ID_BYTES, id_following, id_from_text, id_to_text, made_at, new_id

MOMENTS = st.floats(0, 2**47 / 1000)
RANDOM = st.binary(min_size=10, max_size=10)
IDS = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)


@given(MOMENTS, RANDOM)
def test_an_id_is_a_uuid_of_version_7(now_s: float, random: bytes) -> None:
    job_id = new_id(now_s, random)
    assert len(job_id) == ID_BYTES
    as_uuid = uuid.UUID(bytes=job_id)
    assert as_uuid.version == 7
    assert as_uuid.variant == uuid.RFC_4122
    assert made_at(job_id) == int(now_s * 1000) / 1000


def test_every_other_bit_is_random() -> None:
    low, high = new_id(0, b"\x00" * 10), new_id(0, b"\xff" * 10)
    differ = int.from_bytes(low, "big") ^ int.from_bytes(high, "big")
    assert differ.bit_count() == 128 - 48 - 4 - 2


@given(st.integers(0, 2**40), RANDOM, st.integers(1, 2**40), RANDOM)
def test_an_id_made_a_millisecond_later_sorts_later(
    ms: int, random: bytes, more: int, other: bytes
) -> None:
    earlier, later = new_id(ms / 1000 + 0.0001, random), new_id((ms + more) / 1000 + 0.0001, other)
    assert earlier < later
    assert id_to_text(earlier) < id_to_text(later)


@given(IDS)
def test_text_is_the_usual_one_and_comes_back(job_id: bytes) -> None:
    text = id_to_text(job_id)
    assert text == str(uuid.UUID(bytes=job_id))
    for way in (text, text.upper(), text.replace("-", ""), f" {text}\n"):
        assert id_from_text(way) == job_id


@pytest.mark.parametrize(
    "text",
    [
        "", "no", "-" * 36, "g" * 32, "0" * 31, "0" * 33, "00 " * 10 + "00", "\u0661" * 32,
        "0x" + "0" * 30, "{01890000-0000-7000-8000-00000000000}", "0" * 31 + "\n0",
        "00\t" * 10 + "00",
    ],
    ids=repr,
)  # fmt: skip
def test_other_text_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="is no job id: it has 32 hexadecimal digits"):
        id_from_text(text)


@given(st.text())
def test_any_text_is_an_id_or_one_error(text: str) -> None:
    job_id = b""
    with contextlib.suppress(ValueError):
        job_id = id_from_text(text)
    assert len(job_id) in (0, ID_BYTES)


def test_the_id_of_a_job_once_more_follows_from_it_and_its_arguments() -> None:
    first = new_id(1_800_000_000.0, bytes(range(10)))
    again = id_following(first, b"arguments")
    assert again == id_following(first, b"arguments")
    others = {first, again, id_following(first, b"others"), id_following(again, b"arguments")}
    assert len(others) == 4
    assert made_at(again) == made_at(first)
    assert uuid.UUID(bytes=again).version == 7
    assert uuid.UUID(bytes=again).variant == uuid.RFC_4122
