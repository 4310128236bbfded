"""The ledger in an SQLite file: what the store's process does with each of the engine's calls.

Plain synchronous code over one connection, put together from parts: what a batch says of jobs
(`sqlite_moves`), what is read back (`sqlite_reading`), what is let go of (`sqlite_pruning`), keys
and the dead. Rows come as columns (see `sqlite_pipe`) and go back as plain tuples in the order of
`creche.store.base`. Whatever fails is rolled back and raised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Sequence
from typing import Any

from creche.store.sqlite_dead import DeadJobs
from creche.store.sqlite_keys import UniqueKeys
from creche.store.sqlite_moves import Moves
from creche.store.sqlite_pruning import Pruning
from creche.store.sqlite_reading import Reading
from creche.store.sqlite_room import Room
from creche.store.sqlite_rows import Columns, Row, all_rows, standing, tolerantly
from creche.store.sqlite_tally import Counts

MANY_LANES = 20_000
"""With more lanes than this those that no job names are removed when the store is opened: queues of
one tenant or user each leave many. It takes a look at every job, so it is not done each time."""


class Ledger:
    """The ledger ``main`` of an open database; the one writer there is.

    Args:
        max_bytes: when more than this is in use, new jobs are refused.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._db = connection
        self._counts = Counts(connection)
        self._room = Room(connection, max_bytes)
        self._dead = DeadJobs(connection)
        self._keys = UniqueKeys(connection)
        self._moves = Moves(connection, self._dead)
        self._reading = reading = Reading(connection)
        pruning = Pruning(connection, self._counts, self._dead, self._keys)
        # Calls that its parts answer as they are.
        self.read_held = reading.read_held
        self.read_lane = reading.read_lane
        self.read_lanes = reading.read_lanes
        self.read_due = reading.read_due
        self.read_schedules = reading.read_schedules
        self.expired = reading.expired
        self.outcomes = reading.outcomes
        self.find = reading.find
        self.keys = reading.keys
        self.is_over = pruning.is_over
        self.prune = pruning.prune

    def open(self, now: float) -> Row:
        """Start a new epoch; return the fields of a `Recovery` but the ledger's name and what is
        held, which is asked for in pieces."""
        execute = self._db.execute
        self._counts.check()
        with self._counts.transaction():
            execute(
                "UPDATE ledger SET epoch = epoch + 1, opened_at = ? WHERE name = 'main'", (now,)
            )
            (lanes,) = execute("SELECT count(*) FROM lane").fetchone()
            if lanes > MANY_LANES:
                # Now and not later: the plane may give a lane's number to a job without naming the
                # lane again.
                execute("DELETE FROM lane WHERE lane NOT IN (SELECT lane FROM job)")
        ledger_id, epoch = self._counts.restore()

        def rows(select: str) -> list[Row]:
            return all_rows(self._db, select)

        return (
            ledger_id,
            epoch,
            self._counts.next_seq,
            rows("SELECT lane, queue, priority, park FROM lane ORDER BY lane"),
            rows("SELECT lane, count(*), min(seq) FROM job WHERE stored = 1 GROUP BY lane"),
            rows("SELECT name, declaration, announced_at FROM task ORDER BY name"),
            self._counts.ended,
            rows("SELECT lane, count(*) FROM job WHERE stored = 2 GROUP BY lane"),
            self._reading.next_due(),
            self._reading.next_expiry(),
            rows("SELECT name, settings FROM queue ORDER BY name"),
            tolerantly(self._db, self._keys.ousted),
        )

    def read_astray(self, lanes: list[Any], placed: int) -> list[Row]:
        """Return the jobs that are in none of the places where they are looked for, or in *lanes*,
        whose numbers are none; *placed* are in a place."""
        return self._reading.read_astray(lanes, placed, self._counts.unfinished)

    def counts(self) -> dict[int, int]:
        """Return how many jobs are in each state: known here, so that whoever asks how the plane is
        waits behind no question of history."""
        return self._counts.by_state

    def commit(
        self,
        lanes: list[Row],
        tasks: list[Row],
        jobs: Columns,
        changes: Columns,
        tries: list[Row],
        ends: Columns,
        queues: Sequence[Row] = (),
        schedules: Sequence[Row] = (),
        verdicts: Sequence[Row] = (),
        keys: Sequence[Row] = (),
        options: Sequence[Row] = (),
        ousts: Sequence[Row] = (),
    ) -> list[Row]:
        """Make a batch durable; return its duplicates as (seq, existing, state)."""
        if ends:
            self._room.take(0, sum(len(outcome) for outcome in ends[7] if outcome))
        if tries:
            self._room.take(len(tries), sum(len(row[6] or b"") for row in tries))
        if jobs:
            self._room.check(jobs)
        with self._counts.transaction() as tally:
            if lanes:
                self._db.executemany("INSERT OR REPLACE INTO lane VALUES (?,?,?,?)", lanes)
            if tasks:
                self._set_tasks(tasks)
            if queues:
                self._set_queues(queues)
            repeats: dict[int, bytes] = {}
            if jobs:
                repeats = self._moves.insert(jobs, tally)
                if repeats:
                    changes = _without(changes, repeats)
                    ends = _without(ends, repeats)
                    tries = [row for row in tries if row[0] not in repeats]
                    keys = [row for row in keys if row[1] not in repeats]
                    ousts = [row for row in ousts if row[1] not in repeats]
            if keys:
                self._keys.take(keys)
            if changes:
                self._moves.change(changes, tally)
            if tries:
                self._moves.keep_tries(tries)
            ousted: set[int] = set()
            if ends:
                self._moves.end(ends, tally)
                ousted = self._keys.end(ends[0])
            if schedules:
                self._set_schedules(schedules)
            if verdicts:
                self._dead.judge(verdicts)
            if options:
                self._db.executemany("UPDATE job SET options = ?2 WHERE seq = ?1", options)
            if ousts:
                self._keys.oust(ousts)
            existing = standing(self._db, repeats.values()) if repeats else {}
        if ousted:
            self._keys.have_ended(ousted)
        return [(seq, *existing[job_id]) for seq, job_id in repeats.items()]

    def _set_tasks(self, tasks: Sequence[Row]) -> None:
        said = [row for row in tasks if row[1] is not None]
        self._db.executemany("INSERT OR REPLACE INTO task VALUES (?,?,?)", said)
        self._db.executemany(
            "DELETE FROM task WHERE name = ?", [row[:1] for row in tasks if row[1] is None]
        )

    def _set_queues(self, queues: Sequence[Row]) -> None:
        said = [row for row in queues if row[1] is not None]
        self._db.executemany("INSERT OR REPLACE INTO queue VALUES (?,?)", said)
        self._db.executemany(
            "DELETE FROM queue WHERE name = ?", [row[:1] for row in queues if row[1] is None]
        )

    def _set_schedules(self, rows: Sequence[Row]) -> None:
        kept = [row for row in rows if row[1] is not None]
        self._db.executemany("INSERT OR REPLACE INTO schedule VALUES (?,?)", kept)
        removed = [row[:1] for row in rows if row[1] is None]
        self._db.executemany("DELETE FROM schedule WHERE name = ?", removed)
        self._room.take(0, sum(len(data) for _, data in kept))


def _without(columns: Columns, seqs: Container[int]) -> Columns:
    """Return the rows whose seq (the first column) is not among *seqs*."""
    if not columns:
        return columns
    rows = [row for row in zip(*columns, strict=True) if row[0] not in seqs]
    return list(zip(*rows, strict=True))
