"""Plain maps that came from elsewhere, to be made into records: what all readers check."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from creche.errors import MAX_COUNTDOWN_S


def checked_map(data: object, what: str, keys: Collection[str]) -> Mapping[str, Any]:
    """Return *data* if it is a map that has none but *keys*. *what*, in the singular, begins the
    sentence of an error.

    Raises:
        ValueError: it is none; the sentence names what is wrong.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is a map, not {data!r}")
    unknown = sorted(str(key) for key in data if key not in keys)
    if unknown:
        raise ValueError(f"{what} has no {unknown[0]!r}: it has {', '.join(keys)}")
    return data


def check_seconds(name: str, value: object) -> None:
    """Raise for what is no duration, in seconds; *name* begins the sentence. None is said of none.

    Raises:
        ValueError: it is none.
    """
    if value is not None and not (is_number(value) and 0 < value <= MAX_COUNTDOWN_S):
        raise ValueError(
            f"{name} is a number of seconds above 0 to {MAX_COUNTDOWN_S:,} (a year), not {value!r}"
        )


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether *value* is a finite number; a bool is none."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number of hundreds of digits
        return False
