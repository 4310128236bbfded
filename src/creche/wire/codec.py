"""Frames to bytes and back. A frame is one WebSocket message: a CBOR array of messages.

Decoding takes hostile bytes: it raises `RemoteProtocolError` and nothing else, and its memory is
bounded by the frame it was given, and by how many values that may hold. No tag is allowed in a
frame; payloads are byte strings in it, and what is inside them is decoded by whoever asked for it
(`creche.wire.payload`). The keys of maps are strings: they cannot be chosen to collide, and every
language has such maps.
"""

from __future__ import annotations

import io
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from operator import itemgetter
from typing import Any, NoReturn, get_args, get_type_hints

import cbor2

from creche.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from creche.model.ids import ID_BYTES
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.wire import messages as m

KIB = 1024
MIB = 1024 * KIB

_KIND_OF = m.KIND_OF


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may carry.

    `frame_bytes` bounds one frame; a message over `piece_bytes` travels in pieces of that size, so
    that a ping or a cancel waits behind one piece at most; `message_bytes` bounds what pieces may
    add up to, and `streams` how many messages may be under way in pieces. The
    frame's limit leaves room for a frame of small messages beside a piece. `items` bounds the
    values in a frame, or in a message that came in pieces: an empty map is one byte there, and
    takes seventy in memory, and time to be made.
    """

    frame_bytes: int = 1 * MIB
    piece_bytes: int = 64 * KIB
    message_bytes: int = 16 * MIB + 64 * KIB
    payload_bytes: int = 16 * MIB
    messages: int = 50_000
    items: int = 2_000_000
    depth: int = 32
    streams: int = 4


DEFAULT_LIMITS = Limits()


def encode_frame(messages: Iterable[m.Message]) -> bytes:
    """Return the frame that carries *messages* in this order.

    Raises:
        LocalProtocolError: a message holds what CBOR cannot carry.
    """
    return _encode([(_KIND_OF[type(message)], *message) for message in messages])


def encode_message(message: m.Message) -> bytes:
    """Return one message alone, as pieces carry it.

    Raises:
        LocalProtocolError: it holds what CBOR cannot carry.
        MessageTooLarge: no peer would take it in.
    """
    data = _encode((_KIND_OF[type(message)], *message))
    # What the other side takes in may be less (a plane says so of payloads), but not more.
    if len(data) > DEFAULT_LIMITS.message_bytes:
        raise MessageTooLarge(type(message).__name__, len(data), DEFAULT_LIMITS.message_bytes)
    return data


def _encode(rows: Any) -> bytes:
    try:
        return cbor2.dumps(rows)
    except UnicodeEncodeError:
        # A lone surrogate (a file name that is not UTF-8, in a reason) is sent as its escape: one
        # odd text must not cost the rest of the frame.
        return cbor2.dumps(rows, encoders={str: _encode_odd_text})
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise LocalProtocolError(f"a message cannot be encoded: {error}") from error


def _encode_odd_text(encoder: cbor2.CBOREncoder, text: str) -> None:
    encoder.encode_string(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def size_hint(message: m.Message) -> int:
    """Return about how many bytes *message* takes, cheaply: its largest byte string and change.

    Only messages that can be large are looked into; the answers to questions are measured by
    encoding them.
    """
    kind = type(message)
    if kind is m.Submit or kind is m.Offer:
        if message.options is not None:  # type: ignore[union-attr]
            return len(encode_message(message))
        return len(message.payload) + 128  # type: ignore[union-attr]
    if kind is m.Finished or kind is m.Ended or kind is m.TryAgain:
        outcome = message.outcome  # type: ignore[union-attr]
        return 64 if outcome is None else len(outcome) + 64
    if kind is m.Accepted or kind is m.Settled:
        return len(message.ns) * 9 + 64  # type: ignore[union-attr]
    if kind in _OPEN_ENDED:
        return len(encode_message(message))
    return 128


_OPEN_ENDED = frozenset(
    {m.Hello, m.Welcome, m.Answer, m.AskFailed, m.View, m.Announce, m.Watch, m.Unwatch, m.Cancel,
     m.Ask, m.HandBack, m.Declined, m.Warned, m.Stop}
)  # fmt: skip


def cut(stream: int, data: bytes, piece_bytes: int) -> Iterator[m.Piece]:
    """Cut an encoded message into the pieces of *stream*."""
    last = max(0, len(data) - 1) // piece_bytes * piece_bytes
    for start in range(0, last + 1, piece_bytes):
        yield m.Piece(stream, start == last, data[start : start + piece_bytes])


# --- decoding -----------------------------------------------------------------------------------


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not allowed in a frame")


# Every tag that the library gives a meaning to; unknown ones reach the tag hook.
KNOWN_TAGS = (
    0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 43, 52, 54, 100, 256, 258, 260, 261, 1004, 43000,
    55799,
)  # fmt: skip
_NO_TAGS: dict[int, Callable[[Any, bool], Any]] = dict.fromkeys(KNOWN_TAGS, _refuse_tag)


# By the first byte of a value: how many bytes it takes with its text or byte string, if that byte
# tells; else how many bytes after it tell of it. Neither: the value is none that a frame may hold.
_STEP = [0] * 256
_LENGTH_BYTES = [0] * 256
for _first in range(256):
    _major, _info = _first >> 5, _first & 31
    if _major in (2, 3):
        if _info < 24:
            _STEP[_first] = 1 + _info
        elif _info < 28:
            _LENGTH_BYTES[_first] = 1 << _info - 24
    elif _info < 28:
        _STEP[_first] = 1 if _info < 24 else 1 + (1 << _info - 24)


def _check_items(data: bytes, most: int) -> None:
    """Refuse what holds more than *most* values, before any of them is made. Whatever else is wrong
    with it is found out when it is decoded."""
    if len(data) <= most:
        return  # A value has a byte at least. It is so of nearly every frame.
    at = items = 0
    try:
        while items <= most:
            first = data[at]
            step = _STEP[first]
            if not step:
                length_bytes = _LENGTH_BYTES[first]
                if not length_bytes:
                    return
                start = at + 1 + length_bytes
                step = start - at + int.from_bytes(data[at + 1 : start], "big")
            at += step
            items += 1
    except IndexError:
        return  # This is its end.
    raise RemoteProtocolError(f"a frame or message of over {most:,} values is over the limit")


def _decode(data: bytes, limits: Limits) -> Any:
    _check_items(data, limits.items)
    try:
        decoder = cbor2.CBORDecoder(
            io.BytesIO(data),
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
            max_depth=limits.depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        value = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise RemoteProtocolError(f"not a frame: {error}") from None
    except (ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        # The library documents CBORDecodeError only; hostile bytes must not depend on that.
        raise RemoteProtocolError(f"not a frame: {type(error).__name__}") from None
    try:
        decoder.read(1)
    except cbor2.CBORDecodeEOF:
        return value
    raise RemoteProtocolError("not a frame: there are bytes after its end")


def decode_frame(data: bytes, limits: Limits = DEFAULT_LIMITS) -> list[m.Message]:
    """Return the messages of a frame, each checked field by field.

    Raises:
        RemoteProtocolError: and nothing else, whatever the bytes are.
    """
    if len(data) > limits.frame_bytes:
        raise RemoteProtocolError(
            f"a frame of {len(data):,} bytes is over the limit of {limits.frame_bytes:,}"
        )
    rows = _decode(data, limits)
    if type(rows) is not list:
        raise RemoteProtocolError("a frame is an array of messages")
    if len(rows) > limits.messages:
        raise RemoteProtocolError(f"a frame of {len(rows):,} messages is over the limit")
    if {list}.issuperset(map(type, rows)) and all(rows):
        made: list[m.Message] = []
        for kind, run in groupby(rows, itemgetter(0)):
            made += _messages(kind, list(run))
        return made
    return [_message(row) for row in rows]


def decode_message(data: bytes, limits: Limits = DEFAULT_LIMITS) -> m.Message:
    """Return a message that came in pieces."""
    return _message(_decode(data, limits))


def _messages(kind: Any, rows: list[list[Any]]) -> Iterable[m.Message]:
    """Return the messages of rows that begin with the same kind."""
    if len(rows) >= _MANY and type(kind) is int and (shape := _SHAPES.get(kind)) is not None:
        made = shape.build_all(rows)
        if made is not None:
            return made
    # Few, or something is wrong with one of them, and it is said what.
    return map(_message, rows)


def _message(row: Any) -> m.Message:
    if type(row) is not list or not row or type(row[0]) is not int:
        raise RemoteProtocolError("a message is an array that begins with its kind")
    shape = _SHAPES.get(row[0])
    if shape is None:
        raise RemoteProtocolError(f"there is no message of kind {row[0]}")
    return shape.build(row)


_MANY = 16
"""Rows of one kind that are checked a column at a time."""

MAX_INT = 2**63 - 1
"""Every integer field is between 0 and this: what stores and other languages hold in 64 bits."""

# What a field of this name holds beside what its type says. It holds wherever the name is used.
_RANGES = {
    "priority": (min(Priority), max(Priority)),
    "state": (JobState.SUCCEEDED, JobState.EXPIRED),  # said of ends only
}
_LENGTHS = {"id": ID_BYTES, "session": 16, "incarnation": 16}
_PEERS = ("client", "worker")
_TOKEN_INTS = 3

_new_tuple = tuple.__new__


class _Shape:
    """What the fields of one message class may hold, read from its annotations."""

    def __init__(self, cls: type[Any]) -> None:
        hints = get_type_hints(cls)
        self._cls = cls
        self._names: Sequence[str] = cls._fields
        self._allowed = [_plain_types(hints[name]) for name in self._names]
        self._ints: list[tuple[int, int, int]] = []
        self._lengths: list[tuple[int, int]] = []
        self._more: list[tuple[int, Callable[[Any], str | None]]] = []
        for at, name in enumerate(self._names, start=1):
            if int in (self._allowed[at - 1] or ()) and hints[name] is not float:
                self._ints.append((at, *_RANGES.get(name, (0, MAX_INT))))
            elif name in _LENGTHS:
                self._lengths.append((at, _LENGTHS[name]))
            elif name == "role":
                self._more.append((at, _wrong_role))
            elif (check := _closer_look(hints[name])) is not None:
                self._more.append((at, check))
        # Rows of the same types are common: the ones seen to be right are looked up. There are only
        # finitely many right ones, so a peer cannot make this grow.
        self._seen: set[tuple[type[Any], ...]] = set()

    def build_all(self, rows: list[list[Any]]) -> Iterable[m.Message] | None:
        """Return the messages of many rows, checked a column at a time, which costs half as much;
        None if something is wrong with any of them."""
        if {1 + len(self._names)} != set(map(len, rows)):
            return None
        columns = list(zip(*rows, strict=True))
        if set(map(type, columns[0])) != {int}:
            return None
        for allowed, column in zip(self._allowed, columns[1:], strict=True):
            if allowed is not None and not set(map(type, column)).issubset(allowed):
                return None
        for at, least, most in self._ints:
            values = columns[at]
            if None in values:
                values = tuple(value for value in values if value is not None)
            if values and not least <= min(values) <= max(values) <= most:
                return None
        for at, length in self._lengths:
            if set(map(len, columns[at])) != {length}:
                return None
        for at, check in self._more:
            if any(value is not None and check(value) is not None for value in columns[at]):
                return None
        return map(_new_tuple, repeat(self._cls), zip(*columns[1:], strict=True))

    def build(self, row: list[Any]) -> m.Message:
        types_of_row = tuple(map(type, row))
        if types_of_row not in self._seen:
            self._check_types(row)
            self._seen.add(types_of_row)
        for at, least, most in self._ints:
            value = row[at]
            if value is not None and not least <= value <= most:
                raise self._wrong(at, f"is between {least} and {most}")
        for at, length in self._lengths:
            if len(row[at]) != length:
                raise self._wrong(at, f"has {length} bytes")
        for at, check in self._more:
            value = row[at]
            if value is not None and (wrong := check(value)) is not None:
                raise self._wrong(at, wrong)
        made: m.Message = _new_tuple(self._cls, row[1:])
        return made

    def _wrong(self, at: int, why: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self._cls.__name__}.{self._names[at - 1]} {why}")

    def _check_types(self, row: list[Any]) -> None:
        name = self._cls.__name__
        if len(row) != 1 + len(self._names):
            raise RemoteProtocolError(f"{name} has {len(self._names)} fields, not {len(row) - 1}")
        for field, allowed, value in zip(self._names, self._allowed, row[1:], strict=True):
            if allowed is not None and type(value) not in allowed:
                raise RemoteProtocolError(f"{name}.{field} cannot be {type(value).__name__}")


def _plain_types(hint: Any) -> tuple[type[Any], ...] | None:
    if hint is Any:
        return None
    if isinstance(hint, types.UnionType):
        members = [_plain_types(arg) for arg in get_args(hint)]
        return tuple(t for some in members if some is not None for t in some)
    if hint is float:
        return (float, int)
    return (getattr(hint, "__origin__", hint),)


def _closer_look(hint: Any) -> Callable[[Any], str | None] | None:
    """Return what checks a value whose type is right already; it says what is wrong, or None."""
    if isinstance(hint, types.UnionType):
        return next(filter(None, map(_closer_look, get_args(hint))), None)
    if hint is float:
        return _wrong_number
    if hint == m.Facts:
        return _wrong_facts
    return _LISTS[hint] if getattr(hint, "__origin__", None) is list else None


def _wrong_role(role: str) -> str | None:
    return None if role in _PEERS else f"is one of {', '.join(_PEERS)}"


def _wrong_number(value: float) -> str | None:
    return None if 0 < value <= MAX_INT else "is above 0, and finite"  # NaN is neither


def _wrong_facts(facts: dict[Any, Any]) -> str | None:
    return None if {str}.issuperset(map(type, facts)) else "is a map of text to values"


def _wrong_ints(numbers: list[Any]) -> str | None:
    if not {int}.issuperset(map(type, numbers)):
        return "is a list of integers"
    if numbers and not 0 <= min(numbers) <= max(numbers) <= MAX_INT:
        return f"is a list of integers between 0 and {MAX_INT}"
    return None


def _wrong_texts(texts: list[Any]) -> str | None:
    return None if {str}.issuperset(map(type, texts)) else "is a list of texts"


def _wrong_ids(ids: list[Any]) -> str | None:
    if {bytes}.issuperset(map(type, ids)) and {ID_BYTES}.issuperset(map(len, ids)):
        return None
    return f"is a list of byte strings of {ID_BYTES} bytes"


def _wrong_tokens(tokens: list[Any]) -> str | None:
    for token in tokens:
        if type(token) is not list or len(token) != _TOKEN_INTS or _wrong_ints(token) is not None:
            return "is a list of tokens, [seq, epoch, attempt] each"
    return None


def _wrong_declarations(tasks: list[Any]) -> str | None:
    if {dict}.issuperset(map(type, tasks)) and not any(map(_wrong_facts, tasks)):
        return None
    return "is a list of maps of text to values"


_LISTS: dict[Any, Callable[[list[Any]], str | None]] = {
    list[int]: _wrong_ints,
    list[str]: _wrong_texts,
    list[bytes]: _wrong_ids,
    list[list[int]]: _wrong_tokens,
    list[m.Facts]: _wrong_declarations,
}

_SHAPES = {kind: _Shape(cls) for kind, cls in m.BY_KIND.items()}


class Assembler:
    """Puts pieces together again. Memory is bounded: by one message a stream, and few streams."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._streams: dict[int, bytearray] = {}

    @property
    def size_bytes(self) -> int:
        """What has come of messages whose last piece has not."""
        return sum(map(len, self._streams.values()))

    def add(self, piece: m.Piece) -> m.Message | None:
        """Take a piece; return the message when this was its last one.

        Raises:
            RemoteProtocolError: too much, or not a message.
        """
        so_far = self._streams.get(piece.stream)
        if so_far is None:
            if len(self._streams) >= self._limits.streams:
                raise RemoteProtocolError("too many messages in pieces at the same time")
            so_far = self._streams[piece.stream] = bytearray()
        if len(so_far) + len(piece.data) > self._limits.message_bytes:
            raise RemoteProtocolError(
                f"a message in pieces is over the limit of {self._limits.message_bytes:,} bytes"
            )
        so_far += piece.data
        if not piece.is_last:
            return None
        del self._streams[piece.stream]
        return decode_message(bytes(so_far), self._limits)
