"""The ledger of an SQLite file, in this process."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from creche.store import sqlite_ledger
from creche.store.sqlite import MAX_BYTES
from creche.store.sqlite_file import open_to_write
from creche.store.sqlite_ledger import Ledger


@pytest.mark.parametrize(("many", "left"), [(99, [1, 7]), (100, list(range(1, 101)))])
def test_of_very_many_lanes_those_that_no_job_names_are_removed_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, left: list[int]
) -> None:
    monkeypatch.setattr(sqlite_ledger, "MANY_LANES", many)
    lanes = [(number, f"queue {number}", 2, "") for number in range(1, 101)]
    jobs = [[1, 2], [b"a" * 16, b"b" * 16], ["echo"] * 2, [1, 7], [0, 0], [0, 1], [b"", b""]]
    with closing(open_to_write(str(tmp_path / "creche.db"))) as connection:
        ledger = Ledger(connection, MAX_BYTES)
        ledger.open(1.0)
        ledger.commit(lanes, [], (*jobs, [None, None], [1.0, 1.0]), (), [], ())
        # Lanes are in the order of their numbers, fourth of what a start tells.
        assert [lane[0] for lane in ledger.open(2.0)[3]] == left


def test_what_is_due_and_what_expires_is_found_without_a_look_at_the_rest(tmp_path: Path) -> None:
    asked: list[str] = []
    with closing(open_to_write(str(tmp_path / "creche.db"))) as connection:
        ledger = Ledger(connection, MAX_BYTES)
        connection.set_trace_callback(asked.append)
        ledger.open(1.0)
        ledger.read_due(0.0, 0, 5.0, 10, 1000)
        ledger.expired(5.0, 10)
        connection.set_trace_callback(None)
        asked = [one for one in asked if "due_at" in one or "expires_at" in one]
        plans = [
            [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {one}")] for one in asked
        ]
    found = [plan[0] for plan in plans if "job_due" in plan[0] or "job_expiry" in plan[0]]
    assert len(found) == 5
    assert not any("TEMP B-TREE" in step or step.startswith("SCAN") for p in plans for step in p)
