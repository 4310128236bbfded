"""What must hold of any bytes at all, in one function, whoever makes them up: hypothesis, the plain
mutations here, or atheris (`nox -s fuzz-wire`)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.unit.wire.strategies import sample

from creche.errors import RemoteProtocolError
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.payload import decode_call, decode_value, encode_call
from creche.wire.session import Grammar, Phase, Role

LIMITS = codec.Limits(frame_bytes=64 * codec.KIB, message_bytes=16 * codec.KIB, items=5_000)
"""Small ones, so that what is drawn can be over them."""

LISTENERS = (
    (Role.PLANE, Role.CLIENT, Phase.OPENING),
    (Role.PLANE, Role.CLIENT, Phase.READY),
    (Role.PLANE, Role.WORKER, Phase.READY),
    (Role.CLIENT, Role.PLANE, Phase.INTRODUCED),
    (Role.CLIENT, Role.PLANE, Phase.READY),
    (Role.WORKER, Role.PLANE, Phase.READY),
)


_HELLO, _WELCOME = sample(m.Hello), sample(m.Welcome)


def grammar_in(phase: Phase, role: Role, peer: Role) -> Grammar:
    """One side of a connection that has come as far as *phase*."""
    grammar = Grammar(role, peer, LIMITS)
    for who, message in (
        (peer if role is Role.PLANE else role, _HELLO),
        (Role.PLANE, _WELCOME),
    ):
        if grammar.phase is phase:
            break
        if who is role:
            grammar.send([message])
        else:
            grammar.receive(codec.encode_frame([message]))
    assert grammar.phase is phase
    return grammar


def judge(data: bytes) -> int:
    """Have everything that takes bytes from a peer take *data*; return how many took it as good.

    Whatever is raised but the one error comes out, and so does an error that changed anything.
    """
    taken = 0
    for decode in (_decode_frame, _decode_message, decode_value, decode_call):
        try:
            decode(data)
        except RemoteProtocolError:
            continue
        taken += 1
    for role, peer, phase in LISTENERS:
        for frame in (data, _in_pieces(data)):
            grammar = grammar_in(phase, role, peer)
            try:
                arrived = grammar.receive(frame)
            except RemoteProtocolError:
                assert grammar.phase is phase, "a frame that was refused has moved the phase"
                continue
            assert {type(message) for message in arrived} <= set(m.KIND_OF)
            taken += 1
    return taken


def _decode_frame(data: bytes) -> None:
    messages = codec.decode_frame(data, LIMITS)
    # What was understood can be said again, and means the same.
    assert repr(codec.decode_frame(codec.encode_frame(messages))) == repr(messages)


def _decode_message(data: bytes) -> None:
    codec.decode_message(data, LIMITS)


def _in_pieces(data: bytes) -> bytes:
    return codec.encode_frame(codec.cut(1, data, 1 + len(data) // 3))


# --- mutations ------------------------------------------------------------------------------------

MAGIC = (
    b"\xff", b"\x9f", b"\xbf", b"\x5f\x41a\xff", b"\x7f\x61a\xff", b"\xfb" + b"\xff" * 8,
    b"\xf9\x7e\x00", b"\xf9\x7c\x00", b"\xfa\x7f\x80\x00\x00", b"\x1b" + b"\xff" * 8,
    b"\x3b" + b"\xff" * 8, b"\x9b" + b"\xff" * 8, b"\xbb" + b"\x7f" * 8, b"\x5b" + b"\x7f" * 8,
    b"\x7b\x00\x00\x00\x01\x00\x00\x00\x00", b"\xc2\x49" + b"\xff" * 9, b"\xc3\x49" + b"\xff" * 9,
    b"\xc4\x82\x1b\x7f" + b"\xff" * 7 + b"\x01", b"\xd8\x1c\x80", b"\xd8\x1d\x00",
    b"\xd8\x1e\x82\x01\x00",
    b"\xd9\x01\x00\x81\x61a", b"\xd8\x19\x00", b"\xd9\xd9\xf7", b"\xa2\x61a\x00\x61a\x01",
    b"\x62\xc3\x28", b"\x63\xed\xa0\x80", b"\x81" * 33, b"\xa1\x61a" * 33, b"\xa1\xf6\x00",
    b"\xa1\x80\x00", b"\xf7", b"\xe0", b"\xf8\x20", b"\xf8\xff", b"\x00", b"\x80", b"\xa0", b"\x60",
)  # fmt: skip
"""Beginnings of what a decoder can stumble over: lengths without end, indefinite ones, numbers of
any size, tags that share and refer, keys that come twice or cannot be any, texts that are none."""


def corpus() -> list[bytes]:
    """One good frame of each message, one of all, and a payload."""
    each = [sample(cls) for cls in m.KIND_OF]
    frames = [codec.encode_frame([message]) for message in each]
    return [*frames, codec.encode_frame(each), encode_call([1, "a", b"b", None], {"key": [1.5]})]


def mutants(seed: int, number: int) -> Iterator[bytes]:
    """Yield *number* damaged ones of the corpus, the same for a seed each time."""
    dice = random.Random(seed)
    good = corpus()
    for _ in range(number):
        data = bytearray(dice.choice(good))
        for _ in range(dice.randint(1, 4)):
            _damage(dice, data, good)
        yield bytes(data)


def _damage(dice: random.Random, data: bytearray, good: list[bytes]) -> None:
    at = dice.randrange(len(data) + 1)
    end = min(len(data), at + dice.choice((1, 1, 2, 8)))
    match dice.randrange(7):
        case 0 if at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        case 1:
            data[at:end] = dice.randbytes(end - at)
        case 2:
            data[at:at] = dice.choice(MAGIC)
        case 3:
            data[at:end] = dice.choice(MAGIC)
        case 4:
            del data[at:]
        case 5:
            data[at:at] = data[at:end] * dice.choice((1, 3, 40))
        case _:
            other = dice.choice(good)
            data[at:] = other[dice.randrange(len(other)) :]
