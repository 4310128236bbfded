"""What the modules of an SQLite ledger share: rows, columns, and states as the file has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias, TypeVar

from creche.errors import StoreError
from creche.store.sqlite_file import describe

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Columns: TypeAlias = Sequence[Sequence[Any]]

# The states (`JobState`) by what the statements ask of them.
UNFINISHED = (1, 2, 3, 4, 5)
WAITING = (1, 2, 3)
QUEUED = 1
DELAYED = 3
ENDED = (10, 11, 12, 13, 14)
FORGOTTEN = 20
UNKNOWN_STATE = -1
"""Stands for that of a job whose state and end contradict each other."""

MOST_COUNTED = 2**52
"""No count, number or size in a store comes to that. What is beyond it is damage, and not reckoned
with: what is taken from a file is gone on from, and there has to be room for that below 2^53, up to
which numbers are told apart by all who read them, and in SQLite, which goes to 2^63."""

AMONG = "(SELECT value FROM json_each(?))"
"""The numbers of a JSON list."""

INSERT_ROWS = 64
"""Rows an INSERT at most: as quick as 512, and the rest of a batch takes fewer statements."""

LOOK_UP_IDS = 256


def is_count(value: object) -> bool:
    """Whether a value of a file is a count, a number given out, or a size."""
    return type(value) is int and 0 <= value <= MOST_COUNTED


def bounded(size: str) -> str:
    """Return SQL for the size of one thing, 0 where that is damaged."""
    return f"CAST(iif({size} BETWEEN 0 AND {MOST_COUNTED}, {size}, 0) AS INTEGER)"


def total(size: str) -> str:
    """Return SQL for the sum of the sizes of many, without those that are damaged."""
    return f"min({MOST_COUNTED}, CAST(total({bounded(size)}) AS INTEGER))"


def tolerantly(db: sqlite3.Connection, ask: Callable[[], T]) -> T:
    """Return the answer of *ask*. If that fails, it is asked once more, and texts that are none (no
    UTF-8), which are errors otherwise, are their bytes in a tuple."""
    try:
        return ask()
    except (StoreError, sqlite3.OperationalError):
        usual, db.text_factory = db.text_factory, _text_or_bytes
        try:
            return ask()
        finally:
            db.text_factory = usual


def _text_or_bytes(data: bytes) -> str | tuple[bytes]:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return (data,)


def all_rows(db: sqlite3.Connection, select: str, values: Row = ()) -> list[Row]:
    """Return the rows of *select*, whatever is in them."""
    return tolerantly(db, lambda: db.execute(select, values).fetchall())


def insert_rows(
    db: sqlite3.Connection, insert: str, rows: Iterable[Row], conflict: str = ""
) -> int:
    """Insert *rows* in few statements, which come in few sizes so that they stay compiled;
    return how many were."""
    listed = list(rows)
    done = inserted = 0
    size = INSERT_ROWS
    places = f"({','.join('?' * len(listed[0]))})"
    while done < len(listed):
        while size > len(listed) - done:
            size //= 2
        statement = f"{insert} {','.join([places] * size)} {conflict}"
        values = list(chain.from_iterable(listed[done : done + size]))
        inserted += db.execute(statement, values).rowcount
        done += size
    return inserted


@contextmanager
def reading() -> Iterator[None]:
    """Raise a StoreError where the file cannot be read: that question's affair, and not the end of
    the process."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the store's file cannot be read: {describe(error)}") from error


def by_ids(db: sqlite3.Connection, select: str, ids: list[bytes]) -> Generator[Row, None, None]:
    """Return the rows of *select*, which ends where the ids (or other blobs) follow."""
    # Blobs do not go through json_each. The last statement is filled up with NULLs, which
    # equal nothing, so that two compiled ones do for any number.
    for first in range(0, len(ids), LOOK_UP_IDS):
        some = ids[first : first + LOOK_UP_IDS]
        places = 8 if len(some) <= 8 else LOOK_UP_IDS
        values = [*some, *[None] * (places - len(some))]
        with reading():
            yield from db.execute(f"{select} ({','.join('?' * places)})", values)


def standing(db: sqlite3.Connection, ids: Iterable[bytes]) -> dict[bytes, tuple[int, int]]:
    """Return (seq, state) of the jobs of these ids, by id."""
    rows = by_ids(db, "SELECT id, seq, state FROM job WHERE id IN ", list(ids))
    return {job_id: (seq, state) for job_id, seq, state in rows}
