"""What kind of value each column of an SQLite store holds, and which rows hold another one.

SQLite itself puts any value in any column. `sqlite_damage` says what a plane makes of such rows."""

from __future__ import annotations

import sqlite3

from creche.store.sqlite_rows import ENDED, FORGOTTEN, MOST_COUNTED, UNFINISHED

# Of each kind, what a value of another one fulfils.
_ID = "typeof({0}) <> 'blob' OR length({0}) <> 16"
_WHOLE = f"typeof({{0}}) <> 'integer' OR {{0}} NOT BETWEEN 0 AND {MOST_COUNTED}"
_WHOLE_IF_ANY = (
    f"typeof({{0}}) NOT IN ('integer', 'null') OR {{0}} NOT BETWEEN 0 AND {MOST_COUNTED}"
)
_MOMENT = "typeof({0}) NOT IN ('real', 'integer')"
_MOMENT_IF_ANY = "typeof({0}) NOT IN ('real', 'integer', 'null')"
_BYTES = "typeof({0}) <> 'blob'"
_BYTES_IF_ANY = "typeof({0}) NOT IN ('blob', 'null')"
_TEXT = "typeof({0}) <> 'text' OR is_broken(CAST({0} AS BLOB))"
_TEXT_IF_ANY = "typeof({0}) NOT IN ('text', 'null') OR is_broken(CAST({0} AS BLOB))"
_STATE = f"{{0}} NOT IN {(*UNFINISHED, *ENDED, FORGOTTEN)}"

_KINDS: dict[str, dict[str, str]] = {
    "job": {
        "id": _ID,
        "task": _TEXT,
        "lane": _WHOLE,
        "state": _STATE,
        "stored": "{0} NOT IN (0, 1, 2)",
        "submitted_at": _MOMENT,
        "payload_bytes": _WHOLE,
        "tries_bytes": _WHOLE,
        "attempt": _WHOLE,
        "losses": _WHOLE,
        "failures": _WHOLE,
        "epoch": _WHOLE,
        "holder": _TEXT_IF_ANY,
        "leased_at": _MOMENT_IF_ANY,
        "ending": _WHOLE_IF_ANY,
        "options": _BYTES_IF_ANY,
        "payload": _BYTES_IF_ANY,
        "due_at": _MOMENT_IF_ANY,
        "expires_at": _MOMENT_IF_ANY,
    },
    "lane": {
        "lane": _WHOLE,
        "queue": _TEXT_IF_ANY,
        "priority": "typeof({0}) <> 'null' AND {0} NOT IN (0, 1, 2, 3)",
        "park": _TEXT,
    },
    "ending": {
        "n": _WHOLE,
        "seq": _WHOLE,
        "attempt": _WHOLE,
        "losses": _WHOLE,
        "failures": _WHOLE,
        "holder": _TEXT_IF_ANY,
        "started_at": _MOMENT_IF_ANY,
        "ended_at": _MOMENT,
        "outcome_bytes": _WHOLE_IF_ANY,
        "outcome": _BYTES_IF_ANY,
    },
    "tombstone": {
        "n": _WHOLE,
        "seq": _WHOLE,
        "attempt": _WHOLE,
        "losses": _WHOLE,
        "failures": _WHOLE,
        "holder": _TEXT_IF_ANY,
        "started_at": _MOMENT_IF_ANY,
        "ended_at": _MOMENT,
        "forgotten_at": _MOMENT,
    },
    "large": {"payload": _BYTES},
    "try": {
        "seq": _WHOLE,
        "attempt": _WHOLE,
        "state": _STATE,
        "holder": _TEXT_IF_ANY,
        "started_at": _MOMENT_IF_ANY,
        "ended_at": _MOMENT,
        "outcome": _BYTES_IF_ANY,
    },
    "task": {"name": _TEXT, "declaration": _BYTES, "announced_at": _MOMENT},
    "queue": {"name": _TEXT, "settings": _BYTES},
    "schedule": {"name": _TEXT, "data": _BYTES},
    "ousted": {"attempt": _WHOLE, "running": "{0} NOT IN (0, 1)"},
    "dead": {
        "ended_at": _MOMENT,
        "size": _WHOLE,
        "fate": "{0} NOT IN (0, 1, 2)",
        "judged_at": _MOMENT_IF_ANY,
        "retried_as": "typeof({0}) <> 'null' AND (" + _ID + ")",
    },
}
_ROW_OF = {"job": "seq", "lane": "lane", "ending": "seq", "tombstone": "seq", "large": "seq",
           "try": "seq", "ousted": "seq", "dead": "seq"}  # fmt: skip
"""What tells which row of a table it is; the others have names, which may be what is damaged."""


def damaged_columns(connection: sqlite3.Connection) -> list[str]:
    """Return a sentence for each column of which some rows cannot be read. Each table is looked
    through once; one that an older schema does not have, or a column, is passed over."""
    connection.create_function("is_broken", 1, _is_broken, deterministic=True)
    problems: list[str] = []
    for table, kinds in _KINDS.items():
        there = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
        columns = [column for column in kinds if column in there]
        if not columns:
            continue
        tests = {column: kinds[column].format(f'"{table}"."{column}"') for column in columns}
        sums = ", ".join(f"coalesce(sum({test}), 0)" for test in tests.values())
        counted = connection.execute(f'SELECT {sums} FROM "{table}"').fetchone()
        for (column, test), found in zip(tests.items(), counted, strict=True):
            if found:
                problems.append(f"{found:,} rows of {table} have a damaged `{column}`")
                if table in _ROW_OF:
                    first = f'SELECT min({_ROW_OF[table]}) FROM "{table}" WHERE {test}'
                    (row,) = connection.execute(first).fetchone()
                    problems[-1] += f" (the first: {_ROW_OF[table]} {row})"
    return problems


def _is_broken(text: bytes | None) -> bool:
    try:
        return text is not None and text.decode("utf-8") is None
    except UnicodeDecodeError:
        return True
