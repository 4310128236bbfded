"""Values on the command line: text to arguments, and results to text.

An argument is true or false (in any case), an int, a float, or else text; a parameter that its task
announces as `str` keeps its text. What a number would lose keeps it text: the zeros of ``007``, the
plus of ``+49``. A result is printed bare when it is text, else as JSON. What JSON
does not have is written as text: bytes in base64, dates and times in ISO 8601, decimals, fractions
and UUIDs as Python prints them, numbers that are not finite as ``"nan"``, ``"inf"`` and ``"-inf"``;
a set becomes a list.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from datetime import date, time
from typing import Any, NoReturn

from creche.errors import SettingsError
from creche.tasks.signature import Signature

# ASCII on purpose: int() and float() also take underscores, other scripts' digits, "nan" and
# "infinity", and all of those are more likely meant as text.
# Identifiers and telephone numbers begin with zeros or a plus, which a number has not.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,3999})", re.ASCII)
_FLOAT = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)

_KEEPS_TEXT = re.compile(r"(typing\.)?(str|Optional\[str\])|str \| None|None \| str")


def parse_value(text: str) -> bool | int | float | str:
    """Return what *text* stands for: true or false, an int, a float, or the text itself."""
    word = text.lower()
    if word in ("true", "false"):
        return word == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isfinite(number):
            return number
    return text


def parse_arguments(
    args: Sequence[str],
    kwargs: Sequence[str],
    signature: Signature | None,
    *,
    option: str = "--kwargs",
) -> tuple[list[Any], dict[str, Any]]:
    """Return a call's arguments from what was written: *args*, and *kwargs* as ``key=value``.

    *signature* is the task's, None if nobody has announced it. *option* is where *kwargs* stood.

    Raises:
        SettingsError: one of *kwargs* is no ``key=value``, or names its key again.
    """
    values = [_for_parameter(text, i, signature) for i, text in enumerate(args)]
    said = parse_pairs(kwargs, option)
    return values, {key: _for_parameter(value, key, signature) for key, value in said.items()}


def parse_pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Return what was written as ``key=value`` in the place of *option*, with the values as text.

    Raises:
        SettingsError: one is no ``key=value``, or names its key again.
    """
    said: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SettingsError(f"{option} takes key=value, and not {text!r}")
        if key in said:
            raise SettingsError(f"{option} names {key!r} twice")
        said[key] = value
    return said


def _for_parameter(text: str, argument: int | str, signature: Signature | None) -> Any:
    parameter = signature.parameter_for(argument) if signature is not None else None
    if parameter is not None and _KEEPS_TEXT.fullmatch(parameter.annotation or ""):
        return text
    return parse_value(text)


def parse_json_arguments(text: str) -> list[Any] | dict[str, Any]:
    """Return the arguments that ``--json-args`` holds: a list, or an object of keyword arguments.

    Raises:
        SettingsError: it is not JSON, or neither list nor object.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except ValueError as error:
        raise SettingsError(f"--json-args is not JSON: {error}") from None
    except RecursionError:
        raise SettingsError("--json-args is nested too deep") from None
    if isinstance(value, list | dict):
        return value
    raise SettingsError("--json-args takes a list of arguments, or an object of keyword arguments")


def _refuse_constant(name: str) -> NoReturn:
    # Python reads and writes these all the same.
    raise ValueError(f"{name} is no number there")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a float")
    return number


def signature_of(declaration: Any) -> Signature | None:
    """Return the signature in a task's declaration; None where there is none to go by."""
    if not isinstance(declaration, Mapping):
        return None
    try:
        return Signature.from_data(str(declaration.get("name")), declaration.get("signature"))
    except ValueError:
        return None


# --- results ------------------------------------------------------------------------------------


def result_text(value: Any) -> str:
    """Return a result as it is printed: text bare, everything else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return *value* as JSON, by the rules of this module."""
    return json.dumps(as_json_data(value), ensure_ascii=False, indent=indent, allow_nan=False)


def as_json_data(value: Any) -> Any:
    """Return *value* made of what JSON has."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_as_key(key): as_json_data(item) for key, item in value.items()}
    if isinstance(value, Set):
        return [as_json_data(item) for item in sorted(value, key=repr)]
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [as_json_data(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _as_key(key: Any) -> str:
    if isinstance(key, str):
        return key
    data = as_json_data(key)
    return data if isinstance(data, str) else json.dumps(data)
