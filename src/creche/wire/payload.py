"""Payloads: arguments, results and failures as CBOR bytes.

They are encoded once, where they are made, and decoded where they are used; whoever carries them
between sees bytes. Beside plain data, a payload may hold dates, decimals, fractions, big integers,
sets and UUIDs. Nothing in a payload can run code: there is no pickle anywhere.

What is encoded here can be decoded here: whatever the decoder refuses (types, depth, numbers whose
decoding would take quadratic time) is refused before it is sent, with the place where it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from email.message import Message
from enum import Enum
from fractions import Fraction
from itertools import chain
from os import PathLike
from typing import Any, NoReturn

import cbor2

from creche.errors import NotEncodable, RemoteProtocolError
from creche.wire.codec import KNOWN_TAGS

ALLOWED_TAGS = frozenset({0, 1, 2, 3, 4, 30, 37, 100, 258, 1004})
"""Date and time, big integers, decimals, fractions, UUID, dates, sets (IANA's registry of tags)."""

MAX_DEPTH = 200
"""How deep the containers of a payload may be nested."""

MAX_DIGITS = 4_000
"""Digits of a decimal, and of each half of a fraction. Decoding takes quadratic time (a second for
100 KB of digits), in which whoever decodes does nothing else; and Python reads 4,300 at most."""
_TOO_LARGE = 10**MAX_DIGITS

_FLAT = frozenset({int, str, float, bool, type(None), bytes})
_FLAT_SHAPES = (str, bytes, bytearray, memoryview)

# The library encodes these as tags that payloads may not hold.
_FOREIGN = (
    re.Pattern, complex, cbor2.CBORTag, Message,
    ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv6Address, ipaddress.IPv6Network,
)  # fmt: skip

_ENCODE_ERRORS = (
    cbor2.CBOREncodeError,
    ValueError,
    TypeError,
    RecursionError,
    OverflowError,
)
_DECODE_ERRORS = (
    ValueError,
    TypeError,
    RecursionError,
    MemoryError,
    ArithmeticError,
)


class _TooDeep(ValueError):
    """Containers are nested too deep, or hold themselves."""


def _encode(value: Any) -> bytes:
    # The library's encoder recurses without a bound and would end the process: look first.
    _look(value, MAX_DEPTH)
    return cbor2.dumps(value)


def _look(value: Any, room: int) -> None:
    """Raise if *value* holds what the decoder refuses, or is nested over *room* deep."""
    kind = type(value)
    if kind is list or kind is tuple:
        items = value
    elif kind is dict:
        for key in value:
            if type(key) is not str:
                _look(key, room - 1)
        items = value.values()
    elif kind in _FLAT:
        return
    else:
        items = _look_closer(value, room)
    if room <= 0:
        raise _TooDeep(f"it is nested over {MAX_DEPTH} deep, or holds itself")
    for item in items:
        if type(item) not in _FLAT:
            _look(item, room - 1)


def _look_closer(value: Any, room: int) -> Iterable[Any]:
    """Look at a value of an uncommon type; return what it holds."""
    if isinstance(value, _FLAT_SHAPES):
        return ()
    if isinstance(value, Mapping):
        return (*value.keys(), *value.values())
    if isinstance(value, Sequence | Set):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        if len(value.as_tuple().digits) > MAX_DIGITS:
            raise ValueError(f"it has more than {MAX_DIGITS:,} digits")
    elif isinstance(value, Fraction):
        if max(abs(value.numerator), value.denominator) >= _TOO_LARGE:
            raise ValueError(f"it has more than {MAX_DIGITS:,} digits")
    elif isinstance(value, _FOREIGN):
        raise TypeError("payloads do not carry this type; send it as text")
    return ()


# --- what the decoder makes of tags --------------------------------------------------------------


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("it holds a tag that payloads may not hold")


def _two_numbers(pair: Any) -> tuple[int, int]:
    first, second = pair
    if type(first) is not int or type(second) is not int:
        raise ValueError("it is not two integers")
    if max(abs(first), abs(second)) >= _TOO_LARGE:
        raise ValueError("it has too many digits")
    return first, second


def _decimal(pair: Any, _is_immutable: bool) -> Decimal:
    exponent, digits = _two_numbers(pair)
    made = Decimal(f"{digits}E{exponent}")
    if not made.is_finite():
        raise ValueError("its exponent is out of range")
    return made


def _fraction(pair: Any, _is_immutable: bool) -> Fraction:
    numerator, denominator = _two_numbers(pair)
    if denominator == 0:
        raise ValueError("its denominator is zero")
    return Fraction(numerator, denominator)


_SEMANTICS: dict[int, Callable[[Any, bool], Any]] = {
    **dict.fromkeys((tag for tag in KNOWN_TAGS if tag not in ALLOWED_TAGS), _refuse_tag),
    4: _decimal,
    30: _fraction,
}

# The library ignores what follows a value. So a value is decoded as the first of two items, and
# the second has to be this one: an integer that nothing but intent puts there.
_PAIR = b"\x82"
_END = 0xC4EC_4E00_7A11_E4D5
_END_BYTES = b"\x1b" + _END.to_bytes(8, "big")


# --- the doors -----------------------------------------------------------------------------------


def encode_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the payload of a call.

    Raises:
        NotEncodable: an argument holds something that CBOR cannot carry; `path` says where.
    """
    try:
        return _encode((args, kwargs) if kwargs else (args,))
    except _ENCODE_ERRORS as error:
        why = str(error)
    culprits = chain(
        (_culprit(f"args[{i}]", value) for i, value in enumerate(args)),
        (_culprit(f"argument {name!r}", value) for name, value in kwargs.items()),
    )
    # Raised where nothing is being handled: what the library said of it is in the sentence.
    raise next(filter(None, culprits), None) or NotEncodable("the arguments", why)


def decode_call(payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that `encode_call` took (tuples come back as lists).

    Raises:
        RemoteProtocolError: the payload is not one of a call.
    """
    call = decode_value(payload)
    if type(call) is list and 1 <= len(call) <= 2 and type(call[0]) is list:
        kwargs = call[1] if len(call) == 2 else {}
        if type(kwargs) is dict and all(type(name) is str for name in kwargs):
            return call[0], kwargs
    raise RemoteProtocolError("a job's payload is [args] or [args, kwargs]")


def encode_value(value: Any, what: str = "the value") -> bytes:
    """Return *value* as a payload; *what* names it in an error.

    Raises:
        NotEncodable: it holds something that CBOR cannot carry.
    """
    try:
        return _encode(value)
    except _ENCODE_ERRORS as error:
        why = str(error)
    raise _culprit(what, value) or NotEncodable(what, why)


def decode_value(payload: bytes) -> Any:
    """Return what a payload holds.

    Raises:
        RemoteProtocolError: it is not CBOR, too deep, or holds a tag that is not allowed.
    """
    try:
        pair = cbor2.loads(
            _PAIR + payload + _END_BYTES,
            tag_hook=_refuse_tag,
            semantic_decoders=_SEMANTICS,
            max_depth=MAX_DEPTH + 1,
        )
    except cbor2.CBORDecodeError as error:
        raise RemoteProtocolError(f"not a payload: {error}") from None
    except _DECODE_ERRORS as error:
        raise RemoteProtocolError(f"not a payload: {type(error).__name__}: {error}") from None
    if pair[1] != _END:
        raise RemoteProtocolError("not a payload: there are bytes after its end")
    return pair[0]


# --- where it is, and what to do -----------------------------------------------------------------


def _culprit(path: str, value: Any, depth: int = 0) -> NotEncodable | None:
    """Return the error of the innermost part of *value* that cannot be encoded; None if there is
    no such part."""
    try:
        _encode(value)
        return None
    except _TooDeep as error:
        # The place is no help here: it is everywhere, down to the limit.
        return NotEncodable(path, f"{_kind(value)}: {error}")
    except _ENCODE_ERRORS as error:
        why = str(error)
    if depth < 24:  # deep enough to point at the place, short enough to read
        for place, part in _parts(path, value):
            if (found := _culprit(place, part, depth + 1)) is not None:
                return found
    return NotEncodable(path, f"{_kind(value)}: {_hint(value) or why}")


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a container holds, each with its place."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}, key {key!r}", key
            yield f"{path}[{key!r}]", item
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield f"{path}[{i}]", item


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _hint(value: Any) -> str | None:
    """What to send instead, for the types that people try first."""
    if isinstance(value, datetime):
        return "it has no time zone; use an aware one, as datetime.now(timezone.utc)"
    if isinstance(value, timedelta):
        return "send its total_seconds()"
    if isinstance(value, PathLike):
        return "send it as text, str(path)"
    if isinstance(value, Enum):
        return "send its name or its value"
    if is_dataclass(value):
        return "send dataclasses.asdict(value)"
    return None
