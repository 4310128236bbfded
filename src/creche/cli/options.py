"""Options that several commands share: their names, meaning and checks, written once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from cyclopts import Group, Parameter, Token

from creche.channel.handshake import WHY_NO_SECRET, has_secret
from creche.model.priority import Priority

DEFAULT_URL = "ws://127.0.0.1:5570"


def _plane(type_: Any, tokens: list[Token]) -> str:
    """Return a plane's address in full: ``127.0.0.1:5570`` and ``ws://127.0.0.1:5570`` are the
    same."""
    text = tokens[0].value.strip()
    if has_secret(text):
        raise ValueError(WHY_NO_SECRET)
    # A name alone would be dialled at a web server's port, where no plane is.
    if "://" not in text and not text.rpartition(":")[1]:
        raise ValueError(f"{text!r} is no address of a plane: {_WRITE}")
    return _url(text)


def _listener(type_: Any, tokens: list[Token]) -> str:
    return _url(tokens[0].value.strip())


_WRITE = f"write HOST:PORT, or {DEFAULT_URL} in full"


def _url(text: str) -> str:
    url = text if "://" in text else f"ws://{text}"
    if has_secret(url):
        raise ValueError(WHY_NO_SECRET)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        raise ValueError(f"{text!r} is no address of a plane: {_WRITE}") from None
    has_colon = parts.netloc.endswith(":")
    if parts.scheme not in ("ws", "wss") or not host or has_colon:
        raise ValueError(f"{text!r} is no address of a plane: {_WRITE}")
    return url


def _names(type_: Any, tokens: list[Token]) -> list[str]:
    """Return a list that was given as several words, with commas, or both."""
    found = [name.strip() for token in tokens for name in token.value.split(",")]
    names = [name for name in found if name]
    if not names:
        raise ValueError("it names nothing: give a name, or leave the option out")
    return names


def _priority(type_: Any, tokens: list[Token]) -> Priority:
    text = tokens[0].value.strip()
    return Priority.parse(int(text) if _DIGITS.fullmatch(text) else text)


def _job_id(type_: Any, tokens: list[Token]) -> str:
    text = tokens[0].value.strip()
    if not text:
        raise ValueError("it is empty: give a job's id, as `creche jobs ls` lists them")
    return text


def _seconds(is_zero_fine: bool) -> Callable[[Any, list[Token]], float]:
    def convert(type_: Any, tokens: list[Token]) -> float:
        text = tokens[0].value
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (number == 0 and not is_zero_fine):
            least = "0 or more" if is_zero_fine else "above 0"
            raise ValueError(f"it takes a number of seconds, {least}, and not {text!r}")
        return number

    return convert


def _moment(type_: Any, tokens: list[Token]) -> datetime:
    """Return a moment that was written as ISO 8601 has it; without an offset, in local time."""
    text = tokens[0].value.strip()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no moment: write it as in 2027-01-31T18:30, local time, or with an "
            "offset, 2027-01-31T18:30+01:00"
        ) from None
    return moment if moment.tzinfo is not None else moment.astimezone()


def _whole(least: int, most: int | None = None) -> Callable[[Any, list[Token]], int]:
    def convert(type_: Any, tokens: list[Token]) -> int:
        text = tokens[0].value.strip()
        number = int(text) if _DIGITS.fullmatch(text) else least - 1
        if number < least or (most is not None and number > most):
            reach = f"from {least} on" if most is None else f"from {least} to {most}"
            raise ValueError(f"it takes a whole number {reach}, and not {text!r}")
        return number

    return convert


def _bytes(type_: Any, tokens: list[Token]) -> int:
    """Return a size: a number of bytes, or of KiB, MiB or GiB as in ``512MiB``."""
    text = tokens[0].value.strip()
    found = _SIZE.fullmatch(text)
    number = 0 if found is None else int(found[1]) * 1024 ** "bkmg".index((found[2] or "b").lower())
    if number < 1:
        raise ValueError(f"it takes a size above 0, as in 512MiB or 1GiB, and not {text!r}")
    return number


_SIZE = re.compile(r"([0-9]{1,15})\s*(?:([kmg])(?:i?b)?|b)?", re.IGNORECASE)

_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")


FLAG = Parameter(negative=(), show_default=False)
"""A flag that is only ever switched on."""

_ACCESS = Group("Access", sort_key=100)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a plane is, and what it is shown. Secrets are in files, and never words of a command:
    everybody on the machine can read those."""

    url: Annotated[
        str,
        Parameter(
            name=("--connect", "-c"),
            converter=_plane,
            help="Where the plane listens.",
            metavar="URL",
        ),
    ] = DEFAULT_URL
    token_file: Annotated[
        str | None,
        Parameter(
            name="--token-file",
            group=_ACCESS,
            metavar="FILE",
            help="The file with the token that the plane is shown; or the token is CRECHE_TOKEN.",
        ),
    ] = None
    tls_ca: Annotated[
        str | None,
        Parameter(
            name="--tls-ca",
            group=_ACCESS,
            metavar="FILE",
            help="Whose word counts for who the plane is, with wss://; else the system's.",
        ),
    ] = None
    tls_cert: Annotated[
        str | None,
        Parameter(
            name="--tls-cert",
            group=_ACCESS,
            metavar="FILE",
            help="The certificate that the plane is shown.",
        ),
    ] = None
    tls_key: Annotated[
        str | None,
        Parameter(name="--tls-key", group=_ACCESS, metavar="FILE", help="The key of that."),
    ] = None

    def __str__(self) -> str:
        return self.url


HERE = Address()
"""A plane of this machine."""

Connect: TypeAlias = Annotated[Address, Parameter(name="*")]
TlsFile: TypeAlias = Annotated[str | None, Parameter(group=_ACCESS, metavar="FILE")]
ListenOption: TypeAlias = Annotated[
    str,
    Parameter(
        converter=_listener,
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
    Parameter(
        converter=_priority,
        help="One of critical, high, normal, low; or 0 (low) to 10, as Celery counts.",
        metavar="WORD",
        show_choices=False,
    ),
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"],
    Parameter(help="What is logged on stderr."),
]
Seconds: TypeAlias = Annotated[float, Parameter(converter=_seconds(False), metavar="S")]
Moment: TypeAlias = Annotated[datetime, Parameter(converter=_moment, metavar="MOMENT")]
SecondsOrNone: TypeAlias = Annotated[float, Parameter(converter=_seconds(True), metavar="S")]
Count: TypeAlias = Annotated[int, Parameter(converter=_whole(1), metavar="N")]
CountOrNone: TypeAlias = Annotated[int, Parameter(converter=_whole(0), metavar="N")]
Bytes: TypeAlias = Annotated[int, Parameter(converter=_bytes, metavar="SIZE")]
Port: TypeAlias = Annotated[int, Parameter(converter=_whole(0, 65535), metavar="PORT")]

JobId: TypeAlias = Annotated[
    str,
    Parameter(
        name=("--job-id", "--task-id"),
        converter=_job_id,
        show_env_var=False,
        help="The job's id, as `creche submit --non-blocking` prints it.",
        metavar="ID",
    ),
]
"""FastWorker calls it ``--task-id``."""
