"""Tables: drawn to the width of a terminal, and plain columns elsewhere that nothing is cut from.

On a terminal that is too narrow, nothing is lost in silence: what is shortened ends in an ellipsis,
and a column that is left out is named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from creche.cli.output import moment_text, printable, say

Row = Mapping[str, Any]

GAP = 2
"""Characters between two columns."""


class Narrow(Enum):
    """What becomes of a column's text on a narrow terminal; `least` is the width it keeps."""

    KEPT = auto()
    """It stays whole: ids, states, numbers."""
    CUT = auto()
    """It ends in an ellipsis."""
    SENTENCE = auto()
    """It ends in an ellipsis, and as much is kept of it as tells what it is about."""
    FOLDED = auto()
    """It goes on in the next line."""

    def least(self, widest: int) -> int:
        """Return how narrow a column may become whose widest cell has *widest* characters."""
        match self:
            case Narrow.KEPT:
                return widest
            case Narrow.CUT:
                return min(widest, 8)  # enough to tell cells apart
            case Narrow.SENTENCE:
                return min(widest, 24)  # the type of most exceptions, and a word or two
            case Narrow.FOLDED:
                return min(widest, 40)  # most signatures


class Column(NamedTuple):
    """One column of a table. `text` makes a row's cell. Where there is no room for all columns,
    the one of the highest `rank` goes first, and those of rank 0 never."""

    title: str
    text: Callable[[Row], str]
    rank: int = 0
    narrow: Narrow = Narrow.KEPT
    is_number: bool = False


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


def fit(columns: Sequence[Column], widest: Sequence[int], width: int) -> dict[int, int]:
    """Return how wide each column becomes, by its place: in *widest* are the widths that they would
    need, *width* is what there is. What is not in the answer is left out."""
    least = {i: column.narrow.least(widest[i]) for i, column in enumerate(columns)}
    expendable = sorted((i for i in least if columns[i].rank), key=lambda i: columns[i].rank)
    while expendable and _total(least) > width:
        del least[expendable.pop()]
    # What is left goes to those who want least first, so that as many as possible are whole.
    for i in sorted(least, key=lambda i: widest[i] - least[i]):
        least[i] += max(0, min(widest[i] - least[i], width - _total(least)))
    return least


def drawn_lines(
    columns: Sequence[Column], rows: Iterable[Row], width: int | None
) -> tuple[list[str], list[str]]:
    """Return the lines of a table that is drawn anew again and again, none of which goes on in the
    next, and the titles of the columns that *width* has no room for; None: it has room for all."""
    from rich.cells import cell_len, set_cell_size

    cells = [[printable(column.text(row)) for column in columns] for row in rows]
    lines = [[column.title for column in columns], *cells]
    widest = [max(cell_len(line[i]) for line in lines) for i in range(len(columns))]
    widths = dict(enumerate(widest)) if width is None else fit(columns, widest, width)

    def sized(text: str, i: int) -> str:
        size = cell_len(text)
        if size > widths[i]:
            return set_cell_size(text, widths[i] - 1) + "…"
        room = " " * (widths[i] - size)
        return room + text if columns[i].is_number else text + room

    drawn = [(" " * GAP).join(sized(line[i], i) for i in widths).rstrip() for line in lines]
    return drawn, [column.title for i, column in enumerate(columns) if i not in widths]


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _print_drawn(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widest = [
        max(cell_len(column.title), *(cell_len(row[i]) for row in cells))
        for i, column in enumerate(columns)
    ]
    widths = fit(columns, widest, console.width)
    # The box has one of the characters between two columns; a bare edge has none.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), show_edge=False, pad_edge=False)
    for i, width in widths.items():
        column = columns[i]
        is_folded = column.narrow is Narrow.FOLDED
        table.add_column(
            column.title,
            header_style="bold",
            justify="right" if column.is_number else "left",
            no_wrap=not is_folded,
            overflow="fold" if is_folded else "ellipsis",
            width=width,
        )
    for row in cells:
        table.add_row(*(Text(row[i], style=_style(columns[i], row[i])) for i in widths))
    # Wider than the terminal if need be: it wraps then, which loses nothing.
    console.width = max(console.width, _total(widths))
    console.print(table)
    gone = [column.title for i, column in enumerate(columns) if i not in widths]
    if gone:
        say("hint", f"no room for {', '.join(gone)}: --json, a pipe or a wider terminal has all")


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
    "drained": "yellow",
    "leaving": "yellow",
}


def _style(column: Column, cell: str) -> str:
    return _STYLES.get(cell, "") if column.title == "STATE" else ""


def _print_plain(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    lines = [[column.title for column in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        padded = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print((" " * GAP).join(padded).rstrip())


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
