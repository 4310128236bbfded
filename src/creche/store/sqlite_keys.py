"""Unique keys in an SQLite file: part of what `sqlite_ledger` does within its transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from creche.store.sqlite_rows import AMONG, Row

KEY_HOLDER = (
    "SELECT name, since, job.seq, id, state, submitted_at FROM unique_key"
    " JOIN job ON job.seq = unique_key.seq WHERE name IN "
)
"""A `KeyHolder`, in its order; the names follow."""


class UniqueKeys:
    """Which job has which key."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def take(self, keys: Sequence[Row]) -> None:
        """Give keys to those jobs that are there by now."""
        self._db.executemany(
            "INSERT OR REPLACE INTO unique_key SELECT ?1, seq, ?3, ?4, ?5 FROM job WHERE seq = ?2",
            keys,
        )

    def ousted(self) -> list[Row]:
        """Return the unfinished jobs that others replace as `Ousted` tuples. One that had begun was
        let go on."""
        return self._db.execute(
            "SELECT id, oust_running FROM unique_key JOIN job ON job.seq = ousts"
            " WHERE ousts IS NOT NULL AND stored IS NOT NULL AND (oust_running OR attempt = 0)"
            " ORDER BY job.seq"
        ).fetchall()

    def forget(self, seqs: str) -> None:
        """Drop the keys of jobs that are known no more; *seqs* is a JSON list."""
        self._db.execute(f"DELETE FROM unique_key WHERE seq IN {AMONG}", (seqs,))
