"""The set of dead jobs in an SQLite store: what ended without a result, and what became of it.

A row comes with the end of such a job, and goes when the job is forgotten, or when the set has
become too large or the row too old. Other jobs have none, and cost nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from creche.store.sqlite_rows import AMONG, bounded, total

DEAD_STATES = (11, 13, 14)
"""The states that `JobState.is_dead` says."""

TRIM_ROWS = 2000
"""Dead jobs that leave the set in one call."""

SIZE = "j.payload_bytes + j.tries_bytes + coalesce(e.outcome_bytes, 0)"
"""What an ended job takes up."""

# A job's row in `dead`, from what is known of its end.
_INSERT = (
    "INSERT INTO dead (seq, ended_at, size, fate, judged_at, retried_as)"
    f" SELECT j.seq, e.ended_at, {bounded(SIZE)},"
    " ?, ?, ? FROM job j JOIN ending e ON e.n = j.ending AND j.state < 20 WHERE j.seq"
)
_JUDGED = (
    "ON CONFLICT (seq) DO UPDATE SET fate = excluded.fate, judged_at = excluded.judged_at,"
    " retried_as = excluded.retried_as"
)


class Totals(NamedTuple):
    """The dead jobs that nobody has looked after yet."""

    jobs: int
    size_bytes: int


class DeadJobs:
    """The set, in the database of *connection*; used within the ledger's transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, seqs: Sequence[int]) -> None:
        """Take in jobs that have just ended dead."""
        self._db.execute(f"{_INSERT} IN {AMONG}", (0, None, None, str(list(seqs))))

    def judge(self, verdicts: Iterable[tuple[int, int, float, bytes | None]]) -> None:
        """Note what becomes of ended jobs; those that are not there are passed over."""
        self._db.executemany(
            f"{_INSERT} = ? {_JUDGED}",
            [(fate, at, retried_as, seq) for seq, fate, at, retried_as in verdicts],
        )

    def forget(self, seqs: str) -> None:
        """The jobs of these seqs (a JSON list) are forgotten."""
        self._db.execute(f"DELETE FROM dead WHERE seq IN {AMONG}", (seqs,))

    def totals(self) -> Totals:
        """Return how many there are, and what they take up."""
        row = self._db.execute(
            f"SELECT count(*), {total('size')} FROM dead INDEXED BY dead_set WHERE fate = 0"
        ).fetchone()
        return Totals(*row)

    def trim(self, now: float, limits: Sequence[Any]) -> int:
        """Let the oldest leave the set while it is over its limits; return how many did."""
        over = self.over(now, limits, TRIM_ROWS)
        if over:
            self.forget(str(over))
        return len(over)

    def over(self, now: float, limits: Sequence[Any], most: int) -> list[int]:
        """Return the seqs of those that are over the limits, *most* of them, oldest end first."""
        max_count, max_bytes, max_age_s = limits
        jobs, size_bytes = self.totals()
        over_count = 0 if max_count is None else jobs - max_count
        over_bytes = 0 if max_bytes is None else size_bytes - max_bytes
        too_old_at = -1.0 if max_age_s is None else now - max_age_s
        over: list[int] = []
        cursor = self._db.execute(
            # What is larger than any number is no moment: a damaged row leaves with its job.
            f"SELECT seq, ended_at, {bounded('size + 0')} FROM dead INDEXED BY dead_set"
            " WHERE fate = 0 AND ended_at < 9e999 ORDER BY ended_at, seq LIMIT ?",
            (most,),
        )
        for seq, ended_at, size in cursor:
            if over_count <= 0 and over_bytes <= 0 and ended_at > too_old_at:
                break
            over.append(seq)
            over_count -= 1
            over_bytes -= size
        cursor.close()
        return over
