"""What the commands print: data on stdout, everything else on stderr.

``--json`` prints one document, which always holds ``"v": 1``. Tables are in `creche.cli.table`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TextIO

JSON_VERSION = 1

_KINDS = {"error": "1;31", "warning": "33", "hint": "2", "note": "2"}


def has_colour(stream: TextIO) -> bool:
    """Whether colour is welcome on *stream*: a terminal, and https://no-color.org not asked for."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(kind: str, text: str) -> None:
    """Print *text* on stderr, as an ``error``, ``warning``, ``hint`` or ``note``; or plain, where
    *kind* is empty (a line that begins with one of these words gets its colour). What others wrote
    in it is written out where a terminal would obey it. Secrets of tokens are left out."""
    line = _redacted(printable_lines(f"{kind}: {text}" if kind else text))
    word, colon, _ = line.partition(":")
    code = _KINDS.get(word) if colon else None
    if code is not None:
        line = wrapped(line, sys.stderr)
        if has_colour(sys.stderr):
            line = f"\x1b[{code}m{word}:\x1b[0m{line.removeprefix(word + ':')}"
    _write(line)


def _redacted(text: str) -> str:
    """Return *text* without the secrets of tokens; `creche --help` loads no more than it needs."""
    if "creche_" not in text:
        return text
    from creche.model.access import redacted

    return redacted(text)


def say_bold(text: str) -> None:
    """Print *text* on stderr, bold where that is welcome."""
    text = _redacted(printable_lines(text))
    _write(f"\x1b[1m{text}\x1b[0m" if has_colour(sys.stderr) else text)


def _write(line: str) -> None:
    with suppress(OSError):  # its terminal is closed: nobody is left to be told
        print(line, file=sys.stderr, flush=True)


def wrapped(text: str, stream: TextIO, indent: int = 2) -> str:
    """Return *text* broken between words where *stream* is a terminal, which would break it in the
    middle of one. Each further line is indented, by so many columns."""
    if not stream.isatty():
        return text
    from shutil import get_terminal_size
    from textwrap import TextWrapper

    wrapper = TextWrapper(
        get_terminal_size().columns,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return "\n".join(wrapper.fill(line) if line.strip() else line for line in text.split("\n"))


def print_json(document: Mapping[str, Any]) -> None:
    """Print *document* as the one JSON document of this command."""
    from creche.cli.values import to_json

    is_read_by_people = sys.stdout.isatty()
    print(to_json({"v": JSON_VERSION, **document}, indent=2 if is_read_by_people else None))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print a name and a value a line, the values below each other, and their further lines too."""
    listed = [(name, printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        print(wrapped(f"{name.ljust(width)}  {value}".rstrip(), sys.stdout, width + 2))


def printable(text: str) -> str:
    """Return *text* on one line, with control characters written out: names come from others, and a
    terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """Return the same, with its lines and tabs as they are: of what has several, as tracebacks."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def moment_text(at: float | None, *, is_short: bool = False) -> str:
    """Return a moment (UTC seconds) in local time with its offset, ``-`` for None. The short form
    is to the second, and without the date if that is today's."""
    from datetime import UTC, datetime

    if at is None:
        return "-"
    moment = datetime.fromtimestamp(at, UTC).astimezone()
    if not is_short:
        return moment.isoformat(" ", "milliseconds")
    is_today = moment.date() == datetime.now(moment.tzinfo).date()
    return moment.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M")


def bytes_text(size: float | None) -> str:
    """Return a size as people read it."""
    if size is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
