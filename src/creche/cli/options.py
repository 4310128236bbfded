"""Options that several commands share: their names, meaning and checks, written once."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from creche.model.priority import Priority

DEFAULT_URL = "ws://127.0.0.1:5570"


def _url(type_: Any, tokens: list[Token]) -> str:
    """Return a plane's address in full: ``127.0.0.1:5570`` and ``ws://127.0.0.1:5570`` are the
    same."""
    text = tokens[0].value.strip()
    url = text if "://" in text else f"ws://{text}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{text!r} is no address of a plane: write it as {DEFAULT_URL}")
    return url


def _names(type_: Any, tokens: list[Token]) -> list[str]:
    """Return a list that was given as several words, with commas, or both."""
    found = [name.strip() for token in tokens for name in token.value.split(",")]
    return [name for name in found if name]


def _priority(type_: Any, tokens: list[Token]) -> Priority:
    return Priority.parse(tokens[0].value)


FLAG = Parameter(negative=(), show_default=False)
"""A flag that is only ever switched on."""

Connect: TypeAlias = Annotated[
    str,
    Parameter(
        name=("--connect", "-c"), converter=_url, help="Where the plane listens.", metavar="URL"
    ),
]
ListenOption: TypeAlias = Annotated[
    str,
    Parameter(
        converter=_url,
        help="Where to listen; port 0 takes a free one.",
        metavar="URL",
    ),
]
Json: TypeAlias = Annotated[
    bool, FLAG, Parameter(name="--json", help='Print one JSON document with "v": 1.')
]
Names: TypeAlias = Annotated[
    list[str], Parameter(converter=_names, consume_multiple=True, negative=(), metavar="NAME")
]
"""Several words, or one with commas, or both."""

PriorityOption: TypeAlias = Annotated[
    Priority | None,
    Parameter(converter=_priority, help="One of critical, high, normal, low.", metavar="WORD"),
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"],
    Parameter(help="What is logged on stderr."),
]
Seconds: TypeAlias = Annotated[float, Parameter(validator=Number(gt=0), metavar="S")]
Count: TypeAlias = Annotated[int, Parameter(validator=Number(gte=1), metavar="N")]
CountOrNone: TypeAlias = Annotated[int, Parameter(validator=Number(gte=0), metavar="N")]
Port: TypeAlias = Annotated[int, Parameter(validator=Number(gte=0, lte=65535), metavar="PORT")]

JobId: TypeAlias = Annotated[
    str,
    Parameter(
        name=("--job-id", "--task-id"),
        show_env_var=False,
        help="The job's id, as `creche submit --non-blocking` prints it.",
        metavar="ID",
    ),
]
"""FastWorker calls it ``--task-id``."""
