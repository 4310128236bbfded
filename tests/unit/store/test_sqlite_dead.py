"""The set of dead jobs in a file: stores from before there was one get it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from creche.model.filter import Filter
from creche.model.job import Fate, JobState
from creche.store.filters import ended_with, error_of
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_dead import DEAD_STATES
from creche.store.sqlite_file import migrate, migrations
from creche.store.sqlite_tools import DEAD_SINCE, verify
from creche.testing.store_rows import NOW, bounded, job_id
from creche.wire.payload import encode_value

pytestmark = pytest.mark.trio


async def test_what_was_dead_before_there_was_a_set_is_in_it(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for number in range(1, DEAD_SINCE):
        file = migrations()[number]
        (old / file.name).write_text(file.read_text("utf-8"), encoding="utf-8")
    path = tmp_path / "creche.db"
    error = encode_value({"type": "builtins.OSError", "message": "no route"})
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        migrate(connection, old)
        for seq, state in enumerate((10, 11, 12, 13, 14), 1):
            connection.execute(
                "INSERT INTO job (seq, id, task, lane, state, stored, submitted_at, payload_bytes,"
                " payload, ending) VALUES (?, ?, 'send', 1, ?, NULL, ?, 3, x'808080', ?)",
                (seq, job_id(seq), state, NOW, seq),
            )
            connection.execute(
                "INSERT INTO ending (n, seq, attempt, losses, ended_at, outcome_bytes, outcome)"
                " VALUES (?, ?, 1, 0, ?, ?, ?)",
                (seq, seq, NOW + seq, len(error), error),
            )
        connection.execute(
            "UPDATE ledger SET next_seq = 6, kept_bytes = ?, counts = ?",
            (5 * (len(error) + 3), '{"10": 1, "11": 1, "12": 1, "13": 1, "14": 1}'),
        )
    assert verify(path) == []
    store = bounded(SqliteStore(path))
    await store.open(NOW)
    records = (await store.jobs(Filter.parse("fate:dead"))).records
    assert [(record.seq, record.fate) for record in records] == [
        (5, Fate.DEAD), (4, Fate.DEAD), (2, Fate.DEAD),
    ]  # fmt: skip
    assert {record.error for record in records} == {"builtins.OSError: no route"}
    await store.aclose()
    assert verify(path) == []


async def test_the_states_that_are_dead_are_those_of_the_model() -> None:
    assert {state for state in JobState if state.is_dead} == set(DEAD_STATES)


async def test_what_a_worker_said_that_is_no_failure_is_no_error() -> None:
    for odd in (b"", b"\xff", b"\x80"):
        assert error_of(JobState.FAILED, odd) is None or odd == b"\x80"
        assert isinstance(ended_with(JobState.FAILED, odd), str)
    result = encode_value({"type": "x", "message": "y"})
    assert error_of(JobState.SUCCEEDED, result) is None
    assert error_of(JobState.FAILED, result) == "x: y"
    long = encode_value({"type": "x", "message": "y" * 500})
    assert len(error_of(JobState.FAILED, long) or "") == 200
