"""Unique keys in an SQLite file, and the jobs that others have replaced: part of what
`sqlite_ledger` does within its transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from creche.store.sqlite_rows import AMONG, UNFINISHED, WAITING, Row, standing

KEY_HOLDER = (
    "SELECT name, since, job.seq, id, state, submitted_at FROM unique_key"
    " JOIN job ON job.seq = unique_key.seq WHERE name IN "
)
"""A `KeyHolder`, in its order; the names follow."""


class UniqueKeys:
    """Which job has which key, and which are replaced."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._ousted: set[int] = set()
        """The seqs of all that are replaced and have not ended, and some that are no more: most
        batches have nothing to do with any of them."""

    def take(self, keys: Sequence[Row]) -> None:
        """Give keys to those jobs that are there by now."""
        self._db.executemany(
            "INSERT OR REPLACE INTO unique_key SELECT ?1, seq, ?3 FROM job WHERE seq = ?2", keys
        )

    def oust(self, rows: Sequence[Row]) -> None:
        """Note which unfinished jobs are replaced, as they stand now."""
        self._db.executemany(
            "INSERT OR REPLACE INTO ousted SELECT seq, attempt, ?3 FROM job WHERE id = ?1"
            f" AND stored IS NOT NULL AND (?3 OR state IN {WAITING})",
            rows,
        )
        there = standing(self._db, [row[0] for row in rows]).values()
        self._ousted.update(seq for seq, state in there if state in UNFINISHED)

    def end(self, seqs: Sequence[int]) -> set[int]:
        """Jobs have ended: nothing more is to become of those among them that are replaced, which
        are returned. `have_ended` is told of these when that is on disk."""
        gone = self._ousted.intersection(seqs) if self._ousted else set()
        if gone:
            self._db.execute(f"DELETE FROM ousted WHERE seq IN {AMONG}", (str(list(gone)),))
        return gone

    def have_ended(self, seqs: set[int]) -> None:
        """That these have ended is on disk."""
        self._ousted -= seqs

    def ousted(self) -> list[Row]:
        """Return the unfinished jobs that others replace as `Ousted` tuples, without those that
        were let go on."""
        seqs = self._db.execute("SELECT seq FROM ousted").fetchall()
        self._ousted = {seq for (seq,) in seqs}
        return self._db.execute(
            "SELECT id, running FROM ousted JOIN job USING (seq)"
            " WHERE stored IS NOT NULL AND (running OR ousted.attempt = job.attempt)"
            " ORDER BY seq"
        ).fetchall()

    def forget(self, seqs: str) -> None:
        """Drop the keys of jobs that are known no more; *seqs* is a JSON list."""
        self._db.execute(f"DELETE FROM unique_key WHERE seq IN {AMONG}", (seqs,))
