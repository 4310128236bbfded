"""What the commands print: data on stdout, everything else on stderr.

On a terminal, tables are drawn by rich; elsewhere they are plain columns that nothing is ever cut
from. ``--json`` prints one document, which always holds ``"v": 1``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

JSON_VERSION = 1

Row = Mapping[str, Any]

_KINDS = {"error": "1;31", "warning": "33", "hint": "2", "note": "2"}


def has_colour(stream: TextIO) -> bool:
    """Whether colour is welcome on *stream*: a terminal, and https://no-color.org not asked for."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(kind: str, text: str) -> None:
    """Print *text* on stderr, as an ``error``, ``warning``, ``hint`` or ``note``; or plain, where
    *kind* is empty (a line that begins with one of these words gets its colour)."""
    line = f"{kind}: {text}" if kind else text
    word, colon, rest = line.partition(":")
    code = _KINDS.get(word)
    if colon and code is not None and has_colour(sys.stderr):
        line = f"\x1b[{code}m{word}:\x1b[0m{rest}"
    print(line, file=sys.stderr, flush=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print *document* as the one JSON document of this command."""
    from creche.cli.values import to_json

    is_read_by_people = sys.stdout.isatty()
    print(to_json({"v": JSON_VERSION, **document}, indent=2 if is_read_by_people else None))


LEAST_WIDTH = 8
"""What is left of a column on a narrow terminal: enough to tell its cells apart."""


class Column(NamedTuple):
    """One column of a table. `text` makes a row's cell; `is_whole` is never cut, however narrow the
    terminal is."""

    title: str
    text: Callable[[Row], str]
    is_number: bool = False
    is_whole: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Row], *, empty: str) -> None:
    """Print *rows*; when there are none, say *empty* on stderr."""
    cells = [[printable(column.text(row)) for column in columns] for row in rows]
    if not cells:
        say("", empty)
    if sys.stdout.isatty():
        if cells:
            _print_drawn(columns, cells)
    else:
        _print_plain(columns, cells)


def _print_drawn(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        widest = max(len(column.title), *(len(row[i]) for row in cells))
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=widest if column.is_whole else min(widest, LEAST_WIDTH),
        )
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


_STYLES = {
    "running": "cyan",
    "cancelling": "yellow",
    "parked": "yellow",
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "expired": "red",
    "cancelled": "dim",
    "away": "yellow",
    "draining": "yellow",
}


def _print_plain(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    lines = [[column.title for column in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        padded = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(padded).rstrip())


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print a name and a value a line, the values below each other."""
    listed = [(name, printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        print(f"{name.ljust(width)}  {value}".rstrip())


def printable(text: str) -> str:
    """Return *text* on one line, with control characters written out: names come from others, and a
    terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# --- cells --------------------------------------------------------------------------------------


def cell(key: str) -> Callable[[Row], str]:
    """Return what makes a cell of a row's *key*: a missing or empty value is ``-``."""

    def make(row: Row) -> str:
        value = row.get(key)
        if value is None or value == "" or value == []:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, list):
            return ",".join(map(str, value))
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return make


def moment_cell(key: str) -> Callable[[Row], str]:
    """Return what makes a cell of a moment; on a terminal it is short."""
    return lambda row: moment_text(row.get(key), is_short=sys.stdout.isatty())


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
