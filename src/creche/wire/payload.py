"""Payloads: arguments, results and failures as CBOR bytes.

They are encoded once, where they are made, and decoded where they are used; whoever carries them between
sees bytes. Beside plain data, a payload may hold dates, decimals, fractions, big integers, sets and UUIDs.
Nothing in a payload can run code: there is no pickle anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import cbor2

from creche.errors import NotEncodable, RemoteProtocolError
from creche.wire.codec import KNOWN_TAGS

ALLOWED_TAGS = frozenset({0, 1, 2, 3, 4, 5, 30, 37, 100, 258, 1004})
"""Date and time, big integers, decimals, fractions, UUID, dates, sets (IANA's registry of tags)."""

MAX_DEPTH = 200


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("it holds a tag that payloads may not hold")


_REFUSED: dict[int, Callable[[Any, bool], Any]] = dict.fromkeys(
    (tag for tag in KNOWN_TAGS if tag not in ALLOWED_TAGS), _refuse_tag
)


def encode_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the payload of a call.

    Raises:
        NotEncodable: an argument holds something that CBOR cannot carry; `path` says where.
    """
    try:
        return cbor2.dumps((args, kwargs) if kwargs else (args,))
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        for i, value in enumerate(args):
            _find_culprit(f"args[{i}]", value)
        for name, value in kwargs.items():
            _find_culprit(f"argument {name!r}", value)
        raise NotEncodable("the arguments", str(error)) from None


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
        return cbor2.dumps(value)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        _find_culprit(what, value)
        raise NotEncodable(what, str(error)) from None


def decode_value(payload: bytes) -> Any:
    """Return what a payload holds.

    Raises:
        RemoteProtocolError: it is not CBOR, too deep, or holds a tag that is not allowed.
    """
    try:
        return cbor2.loads(
            payload, tag_hook=_refuse_tag, semantic_decoders=_REFUSED, max_depth=MAX_DEPTH
        )
    except cbor2.CBORDecodeError as error:
        raise RemoteProtocolError(f"not a payload: {error}") from None
    except (ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise RemoteProtocolError(f"not a payload: {type(error).__name__}: {error}") from None


def _find_culprit(path: str, value: Any, depth: int = 0) -> None:
    """Raise for the innermost part of *value* that cannot be encoded; return if there is none."""
    try:
        cbor2.dumps(value)
        return
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        why = str(error)
    if depth < 24:  # deep enough to point at the place, short enough to read
        if isinstance(value, Mapping):
            for key, item in value.items():
                _find_culprit(f"{path}, key {key!r}", key, depth + 1)
                _find_culprit(f"{path}[{key!r}]", item, depth + 1)
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                _find_culprit(f"{path}[{i}]", item, depth + 1)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise NotEncodable(path, f"{kind}: {why}")
