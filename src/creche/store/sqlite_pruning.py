"""What an SQLite store lets go of: outcomes over the retention, and then ids. Part of what
`sqlite_ledger` does."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from creche.store.sqlite_dead import SIZE, DeadJobs
from creche.store.sqlite_keys import UniqueKeys
from creche.store.sqlite_rows import AMONG, ENDED, FORGOTTEN, Row, bounded, reading
from creche.store.sqlite_tally import Counts, Tally

PRUNE_ROWS = 2000
"""Outcomes (and tombstones) that one call of `prune` lets go of: about 10 ms."""

_PICK = (
    f"SELECT e.n, e.seq, e.ended_at, {bounded(SIZE)}, j.state"
    " FROM ending e CROSS JOIN job j ON j.seq = e.seq"
    # The dead have limits of their own while they are in the set.
    " LEFT JOIN dead d ON d.seq = e.seq AND d.fate = 0 WHERE d.seq IS NULL ORDER BY e.n"
)


class Pruning:
    """Decides what is over, and lets go of it."""

    def __init__(
        self, connection: sqlite3.Connection, counts: Counts, dead: DeadJobs, keys: UniqueKeys
    ) -> None:
        self._db = connection
        self._counts = counts
        self._dead = dead
        self._keys = keys

    def is_over(self, now: float, retention: Row) -> bool:
        """Whether a `prune` that keeps nothing on purpose would find anything."""
        max_count, max_bytes, max_age_s, tombstone_s, *dead = retention
        too_old_at = None if max_age_s is None else now - max_age_s
        with reading():
            if self._dead.over(now, dead, 1):
                return True
            if self._pick(max_count, max_bytes, too_old_at, frozenset(), 1):
                return True
            oldest = self._db.execute(
                "SELECT forgotten_at FROM tombstone WHERE forgotten_at < 9e999 ORDER BY n LIMIT 1"
            ).fetchone()
        return oldest is not None and oldest[0] <= now - tombstone_s

    def prune(self, now: float, retention: Row, keep: Sequence[int]) -> Row:
        """Let go of a bounded number of outcomes and tombstones; return how many."""
        max_count, max_bytes, max_age_s, tombstone_s, *dead = retention
        with self._counts.transaction() as tally:
            trimmed = self._dead.trim(now, dead)
            too_old_at = None if max_age_s is None else now - max_age_s
            picked = self._pick(max_count, max_bytes, too_old_at, frozenset(keep), PRUNE_ROWS)
            if picked:
                self._forget(now, picked, tally)
            removed = self._remove_tombstones(now - tombstone_s, tally)
        return len(picked), removed, 0.0, trimmed

    def _pick(
        self,
        max_count: int | None,
        max_bytes: int | None,
        too_old_at: float | None,
        keep: frozenset[int],
        most: int,
    ) -> list[Row]:
        dead, dead_bytes = self._dead.totals()
        over_count = 0 if max_count is None else self._counts.ended - dead - max_count
        over_bytes = 0 if max_bytes is None else self._counts.kept_bytes - dead_bytes - max_bytes
        picked: list[Row] = []
        cursor = self._db.execute(_PICK)
        for row in cursor:
            _, seq, ended_at, size, _ = row
            if seq in keep:
                continue
            try:
                is_old = too_old_at is not None and ended_at <= too_old_at
            except TypeError:
                # Damaged: nobody knows how old it is, so its age neither keeps nor ends it.
                if over_count <= 0 and over_bytes <= 0:
                    continue
                is_old = False
            if over_count <= 0 and over_bytes <= 0 and not is_old:
                break
            picked.append(row)
            over_count -= 1
            over_bytes -= size
            if len(picked) == most:
                break
        cursor.close()
        return picked

    def _forget(self, now: float, picked: list[Row], tally: Tally) -> None:
        execute = self._db.execute
        endings = str([row[0] for row in picked])
        (newest,) = execute("SELECT coalesce(max(n), 0) FROM tombstone").fetchone()
        execute(
            "INSERT INTO tombstone (seq, attempt, losses, holder, started_at, ended_at, failures,"
            " forgotten_at) SELECT seq, attempt, losses, holder, started_at, ended_at, failures, ?"
            f" FROM ending WHERE n IN {AMONG} ORDER BY n",
            (now, endings),
        )
        execute(f"DELETE FROM ending WHERE n IN {AMONG}", (endings,))
        seqs = str([row[1] for row in picked])
        execute(f"DELETE FROM large WHERE seq IN {AMONG}", (seqs,))
        execute(f"DELETE FROM try WHERE seq IN {AMONG}", (seqs,))
        self._dead.forget(seqs)
        execute(
            f"UPDATE job SET state={FORGOTTEN}, options=NULL, payload=NULL, payload_bytes=0,"
            " tries_bytes=0, ending=t.n FROM tombstone t WHERE t.n > ? AND job.seq = t.seq",
            (newest,),
        )
        for _, _, _, size, state in picked:
            tally.kept_bytes -= size
            if state in ENDED:
                tally.counts[state] -= 1
            else:
                tally.is_in_doubt = True
        tally.counts[FORGOTTEN] += len(picked)

    def _remove_tombstones(self, forgotten_until: float, tally: Tally) -> int:
        execute = self._db.execute
        rows = execute(
            "SELECT n, seq, forgotten_at FROM tombstone ORDER BY n LIMIT ?", (PRUNE_ROWS,)
        ).fetchall()
        over = []
        for n, seq, forgotten_at in rows:
            is_known = isinstance(forgotten_at, (int, float))
            if is_known and forgotten_at > forgotten_until:
                break
            over.append((n, seq, is_known))
        # One that is damaged goes when one goes that was forgotten later.
        while over and not over[-1][2]:
            over.pop()
        if over:
            execute("DELETE FROM tombstone WHERE n <= ?", (over[-1][0],))
            seqs = str([seq for _, seq, _ in over])
            execute(f"DELETE FROM job WHERE seq IN {AMONG}", (seqs,))
            self._keys.forget(seqs)
            tally.counts[FORGOTTEN] -= len(over)
        return len(over)
