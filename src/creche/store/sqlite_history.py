"""Questions about an SQLite store, on a connection that only reads.

The store's process answers them in a thread of its own, so that they never hold up a commit; the
commands that look at a file use the same ones.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from creche.errors import StoreError
from creche.model.filter import Filter
from creche.store.filters import ATTEMPT, ERROR_OF, Condition, add_functions, conditions
from creche.store.sqlite_file import describe
from creche.store.sqlite_rows import Row, all_rows
from creche.store.sqlite_tally import jobs_by_state

STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock: about a millisecond."""

FEW_UNFINISHED = 20_000
"""Up to so many unfinished jobs are looked through all, rather than the history from its end."""

SCAN_ROWS = 10_000
"""Jobs that are looked through between two looks at the clock, where no index finds them."""

_SCAN_SHARE = 0.25
"""Of a question's time, what is spent on looking through jobs before its page is sent as it is."""

LONG_PREFIX = 12
"""Digits of an id that are its moment: who gives as many means few jobs."""

_UNFINISHED = frozenset({1, 2, 3, 4, 5})
_LEASED = frozenset({4, 5})

# A `JobRecord`, in its order. Only one of e and t is there, and none while the job is unfinished.
_RECORD = f"""
SELECT j.seq, j.id, j.task, l.queue, l.priority, coalesce(l.park, ''), j.state,
  CASE WHEN j.ending IS NULL THEN {ATTEMPT} ELSE coalesce(e.attempt, t.attempt) END,
  CASE WHEN j.ending IS NULL THEN j.losses ELSE coalesce(e.losses, t.losses) END,
  CASE WHEN j.ending IS NULL THEN j.holder ELSE coalesce(e.holder, t.holder) END,
  j.submitted_at,
  CASE WHEN j.ending IS NULL THEN j.leased_at ELSE coalesce(e.started_at, t.started_at) END,
  coalesce(e.ended_at, t.ended_at), j.payload_bytes, e.outcome_bytes, {{payload}}, {{outcome}},
  CASE WHEN j.ending IS NULL THEN j.failures ELSE coalesce(e.failures, t.failures) END,
  j.due_at, j.expires_at, j.options, {{error}}, d.fate, d.retried_as
FROM job j {{index}}
LEFT JOIN lane l ON l.lane = j.lane
LEFT JOIN ending e ON e.n = j.ending AND j.state <> 20
LEFT JOIN tombstone t ON t.n = j.ending AND j.state = 20
LEFT JOIN dead d ON d.seq = j.seq
{{large}} WHERE {{where}}
"""


class History:
    """Answers questions from *connection*, each within *question_s* seconds."""

    def __init__(self, connection: sqlite3.Connection, path: str, question_s: float) -> None:
        self._db = connection
        self._path = path
        self._question_s = question_s
        self._ends_at = 0.0
        connection.set_progress_handler(self._is_late, STEPS)
        add_functions(connection)

    def _is_late(self) -> bool:
        return time.monotonic() > self._ends_at

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        self._ends_at = time.monotonic() + self._question_s
        try:
            # One read transaction: what is said together was true together.
            self._db.execute("BEGIN")
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise StoreError(
                    f"the question took longer than {self._question_s:g} s: ask for fewer jobs, "
                    "or with fewer filters"
                ) from None
            raise StoreError(f"the store cannot be read: {describe(error)}") from error
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be read: {describe(error)}") from error
        finally:
            self._ends_at = time.monotonic() + self._question_s
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def jobs(
        self, filter_text: str, before_seq: int | None, limit: int
    ) -> tuple[list[Row], int | None]:
        """Return jobs as `JobRecord` tuples, newest first, and the seq that asks for more."""
        filter = Filter.parse(filter_text)
        where = conditions(filter)
        with self._bounded():
            index = self._index(filter)
            if index is None:
                return self._scan(where, before_seq, limit)
            if before_seq is not None:
                where.append(Condition("j.seq < ?", [before_seq]))
            rows = self._select(f"{index[0]}", [Condition(index[1], []), *where], limit)
            return rows, rows[-1][0] if len(rows) == limit else None

    def _index(self, filter: Filter) -> tuple[str, str] | None:
        """Return the index by which all that is meant is found at once, and what it takes to use
        it; None where the history has to be looked through."""
        for term in filter.terms:
            if term.key == "id" and not term.is_not and _are_long(term.values):
                return "", "1"
            if term.key == "fate" and not term.is_not:
                return "", f"j.seq IN (SELECT seq FROM dead WHERE fate IN ({_list(term.values)}))"
        states = filter.states
        # Few unfinished jobs behind a long history are found by their index.
        if _LEASED.issuperset(states):
            return "INDEXED BY job_place", "j.stored = 0"
        if _UNFINISHED.issuperset(states):
            counts = self._counts()
            if sum(counts.get(state, 0) for state in _UNFINISHED) <= FEW_UNFINISHED:
                return "INDEXED BY job_place", "j.stored IN (0, 1, 2)"
        return None

    def _scan(
        self, where: list[Condition], before_seq: int | None, limit: int
    ) -> tuple[list[Row], int | None]:
        """Look through the history from its end, some jobs after others, for as long as may be."""
        stop_at = time.monotonic() + self._question_s * _SCAN_SHARE
        found: list[Row] = []
        below = 2**63 - 1 if before_seq is None else before_seq
        while len(found) < limit:
            (newest,) = self._db.execute(
                "SELECT max(seq) FROM job WHERE seq < ?", (below,)
            ).fetchone()
            if newest is None:
                return found, None
            oldest = newest - SCAN_ROWS + 1
            piece = Condition("j.seq BETWEEN ? AND ?", [oldest, newest])
            found += self._select("NOT INDEXED", [piece, *where], limit - len(found))
            below = oldest
            if time.monotonic() > stop_at:
                break
        return found, found[-1][0] if len(found) == limit else below

    def _select(self, index: str, where: list[Condition], limit: int) -> list[Row]:
        select = _RECORD.format(
            payload="NULL",
            outcome="NULL",
            index=index,
            large="",
            error=ERROR_OF,
            where=" AND ".join(condition.sql for condition in where),
        )
        values = [value for condition in where for value in condition.values]
        return all_rows(self._db, f"{select} ORDER BY j.seq DESC LIMIT ?", (*values, limit))

    def job(self, job_id: bytes) -> Row | None:
        """Return one job as a `JobRecord` tuple, or None."""
        select = _RECORD.format(
            payload="coalesce(j.payload, g.payload)",
            outcome="e.outcome",
            error=ERROR_OF,
            index="",
            large="LEFT JOIN large g ON g.seq = j.seq",
            where="j.id = ?",
        )
        with self._bounded():
            rows = all_rows(self._db, select, (job_id,))
            if not rows:
                return None
            (row,) = rows
            tries = "SELECT * FROM try WHERE seq = ? ORDER BY attempt"
            return (*row, all_rows(self._db, tries, row[:1]))

    def tasks_in_use(self) -> list[Any]:
        """Return the tasks that unfinished jobs have; what is no name is damaged."""
        select = "SELECT DISTINCT task FROM job INDEXED BY job_place WHERE stored IS NOT NULL"
        with self._bounded():
            return [task for (task,) in all_rows(self._db, select, ())]

    def _counts(self) -> dict[int, int]:
        (counts,) = self._db.execute("SELECT counts FROM ledger WHERE name = 'main'").fetchone()
        return jobs_by_state(self._db, counts)

    def info(self) -> dict[str, Any]:
        """Return facts about the store; none of them needs a look at every job."""
        with self._bounded():
            epoch, opened_at, next_seq, kept_bytes = self._db.execute(
                "SELECT epoch, opened_at, next_seq, kept_bytes FROM ledger WHERE name = 'main'"
            ).fetchone()
            counts = self._counts()

            def pragma(name: str) -> Any:
                return self._db.execute(f"PRAGMA {name}").fetchone()[0]

            unfinished = sum(counts.get(state, 0) for state in _UNFINISHED)
            return {
                "kind": "sqlite",
                "durability": "disk",
                "path": self._path,
                "ledger": "main",
                "epoch": epoch,
                "opened_at": opened_at,
                "jobs": sum(counts.values()),
                "unfinished": unfinished,
                "ended": sum(counts.values()) - unfinished - counts.get(20, 0),
                "tombstones": counts.get(20, 0),
                "next_seq": next_seq,
                "kept_bytes": kept_bytes,
                "file_bytes": _size(self._path),
                "wal_bytes": _size(self._path + "-wal"),
                "free_bytes": pragma("freelist_count") * pragma("page_size"),
                "page_bytes": pragma("page_size"),
                "journal_mode": pragma("journal_mode"),
                "schema_version": pragma("user_version"),
                "sqlite_version": sqlite3.sqlite_version,
            }


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(str(int(number)) for number in numbers)


def _are_long(prefixes: tuple[str, ...]) -> bool:
    return all(len(digits) >= LONG_PREFIX for digits in prefixes)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
