"""Headers: what travels with a job beside its arguments, as a trace's id, and is not for its
function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from creche.model.maps import is_number

Header: TypeAlias = str | int | float | bool | None

MAX_HEADERS_BYTES = 8 * 1024
"""What the headers of one job may take: their names and texts in UTF-8, and 9 for each other
value."""

_VALUE_BYTES = 9


def checked_headers(data: Any) -> dict[str, Header]:
    """Return *data* if it can be the headers of a job.

    Raises:
        ValueError: it cannot; the sentence names what is wrong.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"headers are a map of names to plain values, not {data!r:.80}")
    size = 0
    for name, value in data.items():
        if type(name) is not str or not name:
            raise ValueError(f"a header's name is text that is not empty, not {name!r:.80}")
        if not (value is None or type(value) in (str, bool) or _fits(value)):
            raise ValueError(f"header {name!r:.80} is text, a number, true, false or null")
        try:
            size += len(name.encode())
            size += len(value.encode()) if type(value) is str else _VALUE_BYTES
        except UnicodeEncodeError:
            raise ValueError(f"header {name!r:.80} is not text that UTF-8 can carry") from None
    if size > MAX_HEADERS_BYTES:
        raise ValueError(
            f"these headers take {size:,} bytes, and {MAX_HEADERS_BYTES:,} is the limit: what is "
            "large belongs into the arguments"
        )
    return dict(data)


def _fits(value: object) -> bool:
    return is_number(value) and (type(value) is float or -(2**63) <= value < 2**63)
