"""What `creche store verify` says of rows that cannot be read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from creche.store.sqlite import MAX_BYTES
from creche.store.sqlite_file import open_to_write
from creche.store.sqlite_kinds import _KINDS, damaged_columns
from creche.store.sqlite_ledger import Ledger
from creche.store.sqlite_tools import verify

KEYS = {("lane", "lane"), ("ending", "n"), ("tombstone", "n")}
"""Columns in which SQLite itself allows nothing but whole numbers."""
EVERY = [(table, column) for table, kinds in _KINDS.items() for column in kinds]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A sound store with something in each table."""
    path = str(tmp_path / "creche.db")
    with closing(open_to_write(path)) as connection:
        ledger = Ledger(connection, MAX_BYTES)
        ledger.open(1.0)
        ids = [bytes([n]) * 16 for n in range(1, 5)]
        jobs = [[1, 2, 3, 4], ids, ["echo"] * 4, [1] * 4, [1] * 4, [0] * 4,
                [b"x", b"y" * 5000, b"z", b"a"], [None] * 4, [1.0] * 4]  # fmt: skip
        ends = [[2, 3], [11, 10], [1, 1], [0, 0], ["w/1"] * 2, [1.0, 1.0], [2.0, 3.0],
                [b"no", b"yes"], [0, 0]]  # fmt: skip
        tries = [(1, 1, 11, "w/1", 1.0, 2.0, b"no")]
        ledger.commit(
            [(1, "default", 2, "")], [("echo", b"x", 1.0)], jobs, (), tries, ends,
            [("default", b"x")], [("news", b"x")], keys=[(b"k" * 16, 4, 1.0)],
            ousts=[(ids[0], 4, False)],
        )  # fmt: skip
        ledger.prune(4.0, (0, None, None, 3600.0, 10, None, None), [])
    assert verify(path) == []
    return path


@pytest.mark.parametrize(("table", "column"), [each for each in EVERY if each not in KEYS])
def test_a_value_of_the_wrong_kind_is_found_in_every_column(
    path: str, table: str, column: str
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()
        wrong = "x'ff'" if column in ("task", "holder", "name", "queue", "park") else "'wrong'"
        connection.execute(
            f'UPDATE "{table}" SET "{column}" = {wrong} WHERE rowid = (SELECT min(rowid) FROM'
            f' "{table}")'
            if table not in ("try", "task", "queue", "schedule")
            else f'UPDATE "{table}" SET "{column}" = {wrong}'
        )
    assert rows[0] >= 1
    assert any(f"1 rows of {table} have a damaged `{column}`" in said for said in verify(path))


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("job", column) for column in ("attempt", "losses", "failures", "epoch", "lane",
                                         "payload_bytes", "tries_bytes")),
        *(("ending", column) for column in ("attempt", "losses", "failures", "outcome_bytes", "n")),
        *(("tombstone", column) for column in ("attempt", "losses", "failures", "n")),
        ("lane", "lane"), ("try", "attempt"), ("try", "seq"), ("dead", "size"),
        ("ousted", "attempt"),
    ],
)  # fmt: skip
def test_a_number_beyond_all_counting_is_found(path: str, table: str, column: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        key = {"try": "seq", "lane": "lane", "ending": "n", "tombstone": "n"}.get(table, "seq")
        connection.execute(
            f'UPDATE "{table}" SET "{column}" = 9223372036854775807 WHERE "{key}" ='
            f' (SELECT min("{key}") FROM "{table}")'
        )
    assert any(f"1 rows of {table} have a damaged `{column}`" in said for said in verify(path))


def test_a_text_that_is_none_is_found(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE job SET task = CAST(x'ff41' AS TEXT) WHERE seq = 3")
        assert damaged_columns(connection) == [
            "1 rows of job have a damaged `task` (the first: seq 3)"
        ]
