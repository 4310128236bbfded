"""What the engine reads back from an SQLite file, as plain tuples in the order of
`creche.store.base`."""

from __future__ import annotations

import sqlite3
from typing import Any

from creche.store.sqlite_keys import KEY_HOLDER
from creche.store.sqlite_rows import (
    ENDED,
    FORGOTTEN,
    QUEUED,
    UNFINISHED,
    UNKNOWN_STATE,
    WAITING,
    Row,
    all_rows,
    by_ids,
    reading,
    standing,
    tolerantly,
)

# A `JobRow`, in its order, and what tells that it is one of an unfinished job.
_FIELDS = (
    "SELECT job.seq, id, task, lane, state, attempt, losses, epoch, holder,"
    " {payload}, options, submitted_at, leased_at, ending, stored, failures, due_at, expires_at"
    " FROM job "
)
_JOB_ROW = (
    _FIELDS.format(payload="coalesce(job.payload, large.payload)")
    + "LEFT JOIN large ON large.seq = job.seq "
)
_JOB_HEAD = _FIELDS.format(payload="x''")
# SQLite would take the index of places, and sort all that is delayed, or look at all that waits.
_DUE_ROW = _JOB_ROW.replace("FROM job ", "FROM job INDEXED BY job_due ")
_HAS_ID = "typeof(id) = 'blob' AND length(id) = 16"
_EXPIRING = "FROM job INDEXED BY job_expiry WHERE stored IS NOT NULL AND expires_at"
# No number is larger, and whatever is no number is: damage must not be taken for a moment.
_IS_MOMENT = "< 9e999"
# What is in none of the places where jobs are looked for, by the indexes of these.
_ASTRAY = (
    "INDEXED BY job_place WHERE stored < 0",
    "INDEXED BY job_place WHERE stored > 0 AND stored < 1",
    "INDEXED BY job_place WHERE stored > 1 AND stored < 2",
    "INDEXED BY job_place WHERE stored > 2",
    "INDEXED BY job_due WHERE stored = 2 AND due_at IS NULL",
    "INDEXED BY job_due WHERE stored = 2 AND due_at >= 9e999",
)
_IN_LANE = "INDEXED BY job_place WHERE stored IN (1, 2) AND lane = ? ORDER BY job.seq"
_NOWHERE = "WHERE stored IS NULL AND ending IS NULL"
# The state of a job beside its end, if they go together; UNKNOWN_STATE if they do not.
_KNOWN_STATE = (
    f"CASE WHEN state = {FORGOTTEN} THEN state"
    f" WHEN n IS NOT NULL THEN CASE WHEN state IN {ENDED} THEN state ELSE {UNKNOWN_STATE} END"
    f" WHEN state IN {UNFINISHED} THEN state"
    f" WHEN ending IS NULL AND state NOT IN {ENDED} THEN {QUEUED} ELSE {UNKNOWN_STATE} END"
)
_KNOWN_OUTCOME = "CASE WHEN typeof(outcome) IN ('blob', 'null') THEN outcome ELSE 0 END"


STORED = 14
"""Where the place of a job is in what is read of it."""


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
        return tolerantly(self._db, lambda: self._read_once(select + where, values, max_bytes))

    def _read_once(self, select: str, values: Row, max_bytes: int) -> list[Row]:
        rows: list[Row] = []
        size = 0
        with reading():
            cursor = self._db.execute(select, values)
            for row in cursor:
                rows.append(row)
                try:
                    size += len(row[9])
                except TypeError:
                    continue  # it is damaged, and no payload
                if size > max_bytes:
                    cursor.close()
                    break
        return rows

    def read_astray(self, lanes: list[Any], placed: int, unfinished: int) -> list[Row]:
        """Return the jobs that no other read finds, without their payloads: those in *lanes*, whose
        numbers are none, and those that are in no place. If only *placed* of *unfinished* jobs are
        in one, the whole history is looked through for the others."""
        found = [row for where in _ASTRAY for row in self._read_heads(where)]
        found += self.read_lanes(lanes)
        if placed + sum(row[STORED] not in (0, 1, 2) for row in found) < unfinished:
            found += self._read_heads(_NOWHERE)
        return list({row[0]: row for row in found}.values())

    def read_lanes(self, lanes: list[Any]) -> list[Row]:
        """Return all stored jobs of *lanes* as `JobRow` tuples, without their payloads."""
        return [row for lane in lanes for row in self._read_heads(_IN_LANE, lane)]

    def _read_heads(self, where: str, *values: Any) -> list[Row]:
        with reading():
            return all_rows(self._db, _JOB_HEAD + where, values)

    def expired(self, now: float, most: int) -> Row:
        """Return the fields of an `Expired`."""
        with reading():
            ids = self._db.execute(
                f"SELECT id {_EXPIRING} <= ? AND state IN {WAITING} AND {_HAS_ID}"
                " ORDER BY expires_at LIMIT ?",
                (now, most),
            ).fetchall()
            return [job_id for (job_id,) in ids], self.next_expiry(now)

    def next_due(self) -> float | None:
        """Return when the time of the first stored delayed job comes."""
        found: float | None = self._db.execute(
            "SELECT min(due_at) FROM job INDEXED BY job_due"
            f" WHERE stored = 2 AND due_at {_IS_MOMENT}"
        ).fetchone()[0]
        return found

    def next_expiry(self, after: float = 0.0) -> float | None:
        """Return when the first unfinished job expires that does so after *after*."""
        found: float | None = self._db.execute(
            f"SELECT min(expires_at) {_EXPIRING} > ? AND expires_at {_IS_MOMENT}", (after,)
        ).fetchone()[0]
        return found

    def read_schedules(self, after: str, most: int, max_bytes: int) -> list[Row]:
        """Return the next schedules by name as `ScheduleRow` tuples, and no further one once they
        are over *max_bytes*."""
        return tolerantly(self._db, lambda: self._read_schedules(after, most, max_bytes))

    def _read_schedules(self, after: str, most: int, max_bytes: int) -> list[Row]:
        rows: list[Row] = []
        size = 0
        with reading():
            for row in self._db.execute(
                "SELECT name, data FROM schedule WHERE name > ? ORDER BY name LIMIT ?",
                (after, most),
            ):
                rows.append(row)
                size += len(row[1]) if isinstance(row[1], bytes) else 0
                if size > max_bytes:
                    break
        return rows

    def outcomes(self, ids: list[bytes], max_bytes: int | None) -> list[Row]:
        """Return the jobs of these ids as `OutcomeRow` tuples."""
        rows: list[Row] = []
        size = 0
        found = by_ids(
            self._db,
            f"SELECT job.seq, id, {_KNOWN_STATE}, {_KNOWN_OUTCOME} FROM job"
            f" LEFT JOIN ending ON n = ending AND ending.seq = job.seq AND state <> {FORGOTTEN}"
            " WHERE id IN ",
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
        select = _JOB_HEAD + "WHERE stored IS NOT NULL AND id IN "
        return tolerantly(self._db, lambda: list(by_ids(self._db, select, ids)))

    def keys(self, names: list[bytes]) -> list[Row]:
        """Return who has these keys as `KeyHolder` tuples."""
        return list(by_ids(self._db, KEY_HOLDER, names))
