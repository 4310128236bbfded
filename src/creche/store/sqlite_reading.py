"""What the engine reads back from an SQLite file, as plain tuples in the order of
`creche.store.base`."""

from __future__ import annotations

import sqlite3

from creche.store.sqlite_keys import KEY_HOLDER
from creche.store.sqlite_rows import FORGOTTEN, UNFINISHED, WAITING, Row, by_ids, reading, standing

# A `JobRow`, in its order.
_FIELDS = (
    "SELECT job.seq, id, task, lane, state, attempt, losses, epoch, holder,"
    " {payload}, options, submitted_at, leased_at, failures, due_at, expires_at FROM job "
)
_JOB_ROW = (
    _FIELDS.format(payload="coalesce(job.payload, large.payload)")
    + "LEFT JOIN large ON large.seq = job.seq "
)
_JOB_HEAD = _FIELDS.format(payload="x''")
# SQLite would take the index of places, and sort all that is delayed, or look at all that waits.
_DUE_ROW = _JOB_ROW.replace("FROM job ", "FROM job INDEXED BY job_due ")
_EXPIRING = "FROM job INDEXED BY job_expiry WHERE stored IS NOT NULL AND expires_at"


class Reading:
    """Reads jobs and schedules back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def read_held(self, after_seq: int, max_jobs: int, max_bytes: int) -> list[Row]:
        """Return the next jobs that the plane holds as `JobRow` tuples."""
        # By the index of places (the plus signs say so): the table may hold a long history.
        where = "WHERE stored = 0 AND +job.seq > ? ORDER BY +job.seq LIMIT ?"
        return self._read(where, (after_seq, max_jobs), max_bytes)

    def read_lane(self, lane: int, after_seq: int, max_jobs: int, max_bytes: int) -> list[Row]:
        """Return the next stored jobs of *lane* as `JobRow` tuples."""
        where = "WHERE stored = 1 AND lane = ? AND job.seq > ? ORDER BY job.seq LIMIT ?"
        return self._read(where, (lane, after_seq, max_jobs), max_bytes)

    def read_due(
        self, after_at: float, after_seq: int, until: float, max_jobs: int, max_bytes: int
    ) -> list[Row]:
        """Return the next stored delayed jobs as `JobRow` tuples."""
        return self._read(
            "WHERE stored = 2 AND (due_at, job.seq) > (?, ?) AND due_at <= ?"
            " ORDER BY due_at, job.seq LIMIT ?",
            (after_at, after_seq, until, max_jobs),
            max_bytes,
            _DUE_ROW,
        )

    def _read(self, where: str, values: Row, max_bytes: int, select: str = _JOB_ROW) -> list[Row]:
        """Return rows as long as their payloads are not over *max_bytes*, and one more."""
        rows: list[Row] = []
        size = 0
        with reading():
            cursor = self._db.execute(select + where, values)
            for row in cursor:
                rows.append(row)
                size += len(row[9])
                if size > max_bytes:
                    cursor.close()
                    break
        return rows

    def expired(self, now: float, most: int) -> Row:
        """Return the fields of an `Expired`."""
        with reading():
            ids = self._db.execute(
                f"SELECT id {_EXPIRING} <= ? AND state IN {WAITING} ORDER BY expires_at LIMIT ?",
                (now, most),
            ).fetchall()
            return [job_id for (job_id,) in ids], self.next_expiry(now)

    def next_due(self) -> float | None:
        """Return when the time of the first stored delayed job comes."""
        found: float | None = self._db.execute(
            "SELECT min(due_at) FROM job INDEXED BY job_due WHERE stored = 2"
        ).fetchone()[0]
        return found

    def next_expiry(self, after: float = 0.0) -> float | None:
        """Return when the first unfinished job expires that does so after *after*."""
        found: float | None = self._db.execute(
            f"SELECT min(expires_at) {_EXPIRING} > ?", (after,)
        ).fetchone()[0]
        return found

    def read_schedules(self, after: str, most: int, max_bytes: int) -> list[Row]:
        """Return the next schedules by name as `ScheduleRow` tuples, and no further one once they
        are over *max_bytes*."""
        rows: list[Row] = []
        size = 0
        with reading():
            for row in self._db.execute(
                "SELECT name, data FROM schedule WHERE name > ? ORDER BY name LIMIT ?",
                (after, most),
            ):
                rows.append(row)
                size += len(row[1])
                if size > max_bytes:
                    break
        return rows

    def outcomes(self, ids: list[bytes], max_bytes: int | None) -> list[Row]:
        """Return the jobs of these ids as `OutcomeRow` tuples."""
        rows: list[Row] = []
        size = 0
        found = by_ids(
            self._db,
            "SELECT job.seq, id, state, outcome FROM job"
            f" LEFT JOIN ending ON n = ending AND state <> {FORGOTTEN} WHERE id IN ",
            ids,
        )
        for row in found:
            rows.append((*row, False))
            size += len(row[3] or b"")
            if max_bytes is not None and size > max_bytes:
                found.close()
                break
        else:
            return rows
        seen = {row[1] for row in rows}
        left = standing(self._db, [job_id for job_id in ids if job_id not in seen])
        for job_id, (seq, state) in left.items():
            rows.append((seq, job_id, state, None, state not in (*UNFINISHED, FORGOTTEN)))
        return rows

    def find(self, ids: list[bytes]) -> list[Row]:
        """Return the unfinished jobs of these ids as `JobRow` tuples, without their payloads."""
        return list(by_ids(self._db, _JOB_HEAD + "WHERE stored IS NOT NULL AND id IN ", ids))

    def keys(self, names: list[bytes]) -> list[Row]:
        """Return who has these keys as `KeyHolder` tuples."""
        return list(by_ids(self._db, KEY_HOLDER, names))
