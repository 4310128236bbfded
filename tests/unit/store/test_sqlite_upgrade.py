"""Stores of earlier versions: what they hold is there after an upgrade, and means the same."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
import trio

from creche.model.job import JobState
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_file import MIGRATIONS, migrate, migrations, open_to_write
from creche.store.sqlite_tools import verify

RUNNING, DELAYED = int(JobState.RUNNING), int(JobState.DELAYED)
SUCCEEDED, FAILED, LOST = int(JobState.SUCCEEDED), int(JobState.FAILED), int(JobState.LOST)


def store_of_version(path: Path, version: int) -> sqlite3.Connection:
    """Make a store as that version of the schema had it."""
    connection = sqlite3.connect(path, isolation_level=None)
    folder = path.parent / f"version-{version}"
    folder.mkdir()
    for number, file in migrations(MIGRATIONS).items():
        if number <= version:
            (folder / file.name).write_text(file.read_text("utf-8"), "utf-8")
    migrate(connection, folder)
    connection.execute("INSERT INTO lane VALUES (1, 'default', 2, '')")
    return connection


def add_job(
    store: sqlite3.Connection, seq: int, state: int, *, attempt: int, failures: int, losses: int
) -> None:
    columns = {row[1]: row for row in store.execute("PRAGMA table_info(job)")}
    values = {
        "seq": seq, "id": seq.to_bytes(16, "big"), "task": "echo", "lane": 1, "state": state,
        "stored": 0 if state < 10 else None, "attempt": attempt, "losses": losses, "epoch": 1,
        "holder": None, "leased_at": None, "payload": b"\x80", "payload_bytes": 1,
        "options": None, "submitted_at": 1.0, "ending": seq if state >= 10 else None,
        "failures": failures, "due_at": 5.0 if state == DELAYED else None,
    }  # fmt: skip
    names = [name for name in values if name in columns]
    marks = ", ".join("?" * len(names))
    store.execute(
        f"INSERT INTO job ({', '.join(names)}) VALUES ({marks})", [values[name] for name in names]
    )
    if state >= 10:
        store.execute(
            "INSERT INTO ending (n, seq, attempt, losses, failures, started_at, ended_at)"
            " VALUES (?1, ?1, ?2, ?3, ?4, 2.0, 3.0)",
            (seq, attempt, losses, failures),
        )


def add_try(store: sqlite3.Connection, seq: int, attempt: int, state: int) -> None:
    store.execute(
        "INSERT INTO try (seq, attempt, state, ended_at) VALUES (?, ?, ?, ?)",
        (seq, attempt, state, 1.0 + attempt),
    )


def numbers(store: sqlite3.Connection, seq: int) -> list[tuple[int, float]]:
    rows = "SELECT attempt, ended_at FROM try WHERE seq = ? ORDER BY attempt"
    return store.execute(rows, (seq,)).fetchall()


def last_of(store: sqlite3.Connection, seq: int) -> int:
    (attempt,) = store.execute("SELECT attempt FROM ending WHERE seq = ?", (seq,)).fetchone()
    return int(attempt)


@pytest.mark.parametrize("version", [3, 6, 7])
def test_attempts_that_were_told_by_their_leases_are_counted(tmp_path: Path, version: int) -> None:
    path = tmp_path / "store.db"
    with closing(store_of_version(path, version)) as old:
        # Twice snoozed or handed back, then failed; handed back; then its worker was lost.
        add_job(old, 1, DELAYED, attempt=5, failures=1, losses=1)
        add_try(old, 1, 3, FAILED)
        add_try(old, 1, 5, LOST)
        # Failed for the first time at its second lease, and then for good.
        add_job(old, 2, FAILED, attempt=4, failures=2, losses=0)
        add_try(old, 2, 2, FAILED)
        # Its first ones are not kept any more.
        add_job(old, 3, SUCCEEDED, attempt=40, failures=30, losses=0)
        add_try(old, 3, 37, FAILED)
        add_try(old, 3, 39, FAILED)
        add_job(old, 4, SUCCEEDED, attempt=1, failures=0, losses=0)
        add_job(old, 5, RUNNING, attempt=2, failures=0, losses=0)
    with closing(open_to_write(str(path))) as new:
        assert numbers(new, 1) == [(1, 4.0), (2, 6.0)]
        assert numbers(new, 2) == [(1, 3.0)]
        assert numbers(new, 3) == [(29, 38.0), (30, 40.0)]
        assert [last_of(new, seq) for seq in (2, 3, 4)] == [2, 31, 1]
        # The lease's own number, which goes on.
        leases = new.execute("SELECT attempt FROM job WHERE seq IN (1, 5) ORDER BY seq").fetchall()
        assert leases == [(5,), (2,)]


def test_what_was_to_be_cancelled_as_replaced_is_after_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(store_of_version(path, 7)) as old:
        waiting = [(seq, DELAYED, 0) for seq in (1, 2, 5)]
        for seq, state, attempt in (*waiting, (3, RUNNING, 1), (4, RUNNING, 1), (6, SUCCEEDED, 1)):
            add_job(old, seq, state, attempt=attempt, failures=0, losses=0)
        for seq, ousts, running in ((2, 1, 0), (5, 3, 1), (4, 6, 1), (1, None, 0)):
            row = (seq.to_bytes(16, "big"), seq, 1.0, ousts, running)
            old.execute("INSERT INTO unique_key VALUES (?, ?, ?, ?, ?)", row)
    with closing(open_to_write(str(path))) as new:
        assert new.execute("SELECT * FROM ousted").fetchall() == [(1, 0, 0), (3, 1, 1)]
        assert new.execute("SELECT count(*) FROM unique_key").fetchone() == (4,)
        columns = [row[1] for row in new.execute("PRAGMA table_info(unique_key)")]
        assert columns == ["name", "seq", "since"]


@pytest.mark.trio
async def test_a_store_that_is_brought_along_is_told_of_before_and_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "creche.plane")
    path = tmp_path / "store.db"
    store_of_version(path, 7).close()
    for told in (2, 2):
        with trio.fail_after(60):
            store = SqliteStore(path)
            await store.open(1.0)
            await store.aclose()
        assert len(caplog.messages) == told
    assert "is brought from version 7 of its schema to 8" in caplog.messages[0]
    assert caplog.messages[1].endswith("is at version 8 now")


def test_a_store_of_an_earlier_version_is_verified_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store_of_version(path, 7).close()
    assert verify(path) == []


ODD = [
    "9223372036854775807", "-9223372036854775808", "1e300", "9e999", "2.5", "-1", "'x'", "x'ff'",
    "CAST(x'ff' AS TEXT)",
]  # fmt: skip
TABLES = ["job", "ending", "try", "unique_key", "tombstone"]
"""What 0008 looks into."""


def sample(path: Path) -> sqlite3.Connection:
    """Make a store of version 7 with something in each table of which 0008 reads."""
    old = store_of_version(path, 7)
    for seq, state in ((1, DELAYED), (2, FAILED), (3, SUCCEEDED), (4, LOST), (5, RUNNING)):
        add_job(old, seq, state, attempt=6, failures=2, losses=1)
        for attempt in (2, 3, 5):
            add_try(old, seq, attempt, FAILED)
    add_try(old, 99, 1, FAILED)  # of no job
    add_try(old, 99, 2, FAILED)
    old.execute("INSERT INTO unique_key VALUES (zeroblob(16), 5, 1.0, 1, 0)")
    old.execute("INSERT INTO tombstone VALUES (1, 90, 1, 0, NULL, 1.0, 2.0, 3.0, 0)")
    return old


@pytest.mark.parametrize("table", TABLES)
def test_a_store_is_brought_along_whatever_stands_in_a_damaged_row(
    tmp_path: Path, table: str
) -> None:
    tried = 0
    with closing(sample(tmp_path / "store.db")) as old:
        columns = [row[1] for row in old.execute(f'PRAGMA table_info("{table}")')]
        first = "seq" if "seq" in columns else columns[0]
        one = f' WHERE "{first}" = (SELECT min("{first}") FROM "{table}")'
        for column, value, where in product(columns, ODD, ("", one)):
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as damaged:
                old.backup(damaged)
                try:
                    damaged.execute(f'UPDATE "{table}" SET "{column}" = {value}{where}')
                except sqlite3.IntegrityError:
                    continue  # SQLite has no such row
                migrate(damaged)
                assert damaged.execute("PRAGMA user_version").fetchone() == (8,)
                tried += 1
                if table in ("job", "ending") and where:
                    assert numbers(damaged, 5) == [(1, 3.0), (2, 4.0), (3, 6.0)]
    assert tried


@pytest.mark.parametrize("value", ["9223372036854775807", "9e999", "'x'", "-5"])
def test_where_a_count_is_damaged_attempts_are_numbered_by_those_that_are_kept(
    tmp_path: Path, value: str
) -> None:
    with closing(sample(tmp_path / "store.db")) as old:
        old.execute(f"UPDATE job SET failures = {value}, losses = {value} WHERE seq = 1")
        old.execute(f"UPDATE ending SET failures = {value}, losses = {value} WHERE seq = 2")
        migrate(old)
        for seq in (1, 2):
            assert numbers(old, seq) == [(1, 3.0), (2, 4.0), (3, 6.0)]
