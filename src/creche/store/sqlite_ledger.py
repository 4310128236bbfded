"""The ledger in an SQLite file: what the store's process does with each of the engine's calls.

Plain synchronous code over one connection. Rows come as columns (see `sqlite_pipe`) and go back as
plain tuples in the order of `creche.store.base`. Whatever fails is rolled back and raised; what is
kept in memory here (the counts) changes only after a commit.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias

from creche.errors import StoreError, StoreOverLimit
from creche.store.base import MAX_TRIES
from creche.store.sqlite_dead import DEAD_STATES, DeadJobs
from creche.store.sqlite_file import as_store_full, describe, is_unwritable, roll_back
from creche.store.sqlite_keys import KEY_HOLDER, UniqueKeys

Row: TypeAlias = tuple[Any, ...]
Columns: TypeAlias = Sequence[Sequence[Any]]

INLINE_BYTES = 1024
"""Payloads up to this size are kept in the job's row, which is written anew with every change."""

INSERT_ROWS = 64
"""Rows an INSERT at most: as quick as 512, and the rest of a batch takes fewer statements."""

MEASURE_EVERY = 1024 * 1024
"""How much may be added between two looks at the size of the file."""
_JOB_BYTES = 250
"""About what a job takes in the file beside its payload."""

LOOK_UP_IDS = 256
PRUNE_ROWS = 2000
"""Outcomes (and tombstones) that one call of `prune` lets go of: about 10 ms."""

MANY_LANES = 20_000
"""With more lanes than this those that no job names are removed when the store is opened: queues of
one tenant or user each leave many. It takes a look at every job, so it is not done each time."""

FEW = 4
"""Changes that have so few equals are updated one by one."""

# The states (`JobState`) by what the statements below ask of them.
UNFINISHED = (1, 2, 3, 4, 5)
WAITING = (1, 2, 3)
FORGOTTEN = 20

DELAYED = 3

_JOB_COLUMNS = "seq, id, task, lane, state, stored, submitted_at, payload_bytes, options, payload"
_TIMED_COLUMNS = f"{_JOB_COLUMNS}, due_at, expires_at"
_ENDING_COLUMNS = (
    "n, seq, attempt, losses, holder, started_at, ended_at, failures, outcome_bytes, outcome"
)
_CHANGING = (
    "state=?, attempt=?, losses=?, epoch=?, holder=?, leased_at=?, failures=?, due_at=?,"
    " expires_at=?"
)
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
_COUNT_BY_STATE = ", ".join(f"coalesce(sum(state = {state}), 0)" for state in UNFINISHED)
_AMONG = "(SELECT value FROM json_each(?))"

_PICK = (
    "SELECT e.n, e.seq, e.ended_at,"
    " j.payload_bytes + j.tries_bytes + coalesce(e.outcome_bytes, 0), j.state"
    " FROM ending e CROSS JOIN job j ON j.seq = e.seq"
    # The dead have limits of their own while they are in the set.
    " LEFT JOIN dead d ON d.seq = e.seq AND d.fate = 0 WHERE d.seq IS NULL ORDER BY e.n"
)


class Contradiction(StoreError):
    """A batch says what cannot be: nothing of it was kept."""


class Ledger:
    """The ledger ``main`` of an open database; the one writer there is.

    Args:
        max_bytes: when more than this is in use, new jobs are refused.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._db = connection
        self._dead = DeadJobs(connection)
        self._keys = UniqueKeys(connection)
        self._max_bytes = max_bytes
        self._unmeasured_bytes = MEASURE_EVERY
        self._counts: dict[int, int] = {}
        self._kept_bytes = 0
        self._next_seq = 1
        self._next_ending = 1

    def open(self, now: float) -> Row:
        """Start a new epoch; return the fields of a `Recovery` but the ledger's name and what is
        held, which is asked for in pieces."""
        execute = self._db.execute
        with self._transaction():
            execute(
                "UPDATE ledger SET epoch = epoch + 1, opened_at = ? WHERE name = 'main'", (now,)
            )
            (lanes,) = execute("SELECT count(*) FROM lane").fetchone()
            if lanes > MANY_LANES:
                # Now and not later: the plane may give a lane's number to a job without naming the
                # lane again.
                execute("DELETE FROM lane WHERE lane NOT IN (SELECT lane FROM job)")
        ledger_id, epoch, self._next_seq, counts, self._kept_bytes = execute(
            "SELECT id, epoch, next_seq, counts, kept_bytes FROM ledger WHERE name = 'main'"
        ).fetchone()
        self._counts = {int(state): jobs for state, jobs in json.loads(counts).items()}
        (newest,) = execute("SELECT max(n) FROM ending").fetchone()
        self._next_ending = (newest or 0) + 1
        return (
            ledger_id,
            epoch,
            self._next_seq,
            execute("SELECT lane, queue, priority, park FROM lane ORDER BY lane").fetchall(),
            execute(
                "SELECT lane, count(*), min(seq) FROM job WHERE stored = 1 GROUP BY lane"
            ).fetchall(),
            execute("SELECT name, declaration, announced_at FROM task ORDER BY name").fetchall(),
            sum(
                jobs
                for state, jobs in self._counts.items()
                if state not in UNFINISHED and state != FORGOTTEN
            ),
            execute("SELECT lane, count(*) FROM job WHERE stored = 2 GROUP BY lane").fetchall(),
            self._next_due(),
            self._next_expiry(),
            execute("SELECT name, settings FROM queue ORDER BY name").fetchall(),
            self._keys.ousted(),
        )

    # --- committing -----------------------------------------------------------------------------

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
    ) -> list[Row]:
        """Make a batch durable; return its duplicates as (seq, existing, state)."""
        if ends:
            self._unmeasured_bytes += sum(len(outcome) for outcome in ends[7] if outcome)
        if tries:
            self._unmeasured_bytes += sum(len(row[6] or b"") + _JOB_BYTES for row in tries)
        if jobs:
            self._check_size(jobs)
        with self._transaction() as tally:
            if lanes:
                self._db.executemany("INSERT OR REPLACE INTO lane VALUES (?,?,?,?)", lanes)
            if tasks:
                self._db.executemany("INSERT OR REPLACE INTO task VALUES (?,?,?)", tasks)
            if queues:
                self._set_queues(queues)
            repeats: dict[int, bytes] = {}
            if jobs:
                repeats = self._insert_jobs(jobs, tally)
                if repeats:
                    changes = _without(changes, repeats)
                    ends = _without(ends, repeats)
                    tries = [row for row in tries if row[0] not in repeats]
                    keys = [row for row in keys if row[1] not in repeats]
            if keys:
                self._keys.take(keys)
            if changes:
                self._change(changes, tally)
            if tries:
                self._try(tries)
            if ends:
                self._end(ends, tally)
            if schedules:
                self._schedule(schedules)
            if verdicts:
                self._dead.judge(verdicts)
            if options:
                self._db.executemany("UPDATE job SET options = ?2 WHERE seq = ?1", options)
            existing = self._standing(repeats.values()) if repeats else {}
        return [(seq, *existing[job_id]) for seq, job_id in repeats.items()]

    def _set_queues(self, queues: Sequence[Row]) -> None:
        said = [row for row in queues if row[1] is not None]
        self._db.executemany("INSERT OR REPLACE INTO queue VALUES (?,?)", said)
        self._db.executemany(
            "DELETE FROM queue WHERE name = ?", [row[:1] for row in queues if row[1] is None]
        )

    def _check_size(self, jobs: Columns) -> None:
        """Refuse new jobs in a file that is over its limit. It is looked at now and then: that
        takes as long as a small commit does beside the disk."""
        self._unmeasured_bytes += len(jobs[0]) * _JOB_BYTES + sum(map(len, jobs[6]))
        if self._unmeasured_bytes < MEASURE_EVERY:
            return
        used = self._size_bytes()
        if used <= self._max_bytes:
            self._unmeasured_bytes = 0
        else:
            raise StoreOverLimit(
                f"the store's file has {used:,} bytes in use, over its limit of "
                f"{self._max_bytes:,}: keep fewer results, or allow it more"
            )

    def _size_bytes(self) -> int:
        """Return how many bytes of the file are in use."""
        with _reading():
            pages, free, size = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)

    def _insert_jobs(self, jobs: Columns, tally: _Tally) -> dict[int, bytes]:
        """Insert what is new; return the ids of what is not, by the seqs that were refused."""
        seqs, ids, tasks, lanes, states, stored, payloads, options, submitted, *times = jobs
        inline: Sequence[bytes | None] = payloads
        sizes = list(map(len, payloads))
        large = max(sizes) > INLINE_BYTES
        if large:
            inline = [payload if len(payload) <= INLINE_BYTES else None for payload in payloads]
        if DELAYED in states:
            stored = [_place(*at) for at in zip(stored, states, strict=True)]
        columns = [seqs, ids, tasks, lanes, states, stored, submitted, sizes, options, inline]
        names = _JOB_COLUMNS
        if any(moments.count(None) != len(moments) for moments in times):
            columns += times
            names = _TIMED_COLUMNS
        inserted = self._insert_rows(
            f"INSERT INTO job ({names}) VALUES",
            zip(*columns, strict=True),
            "ON CONFLICT (id) DO NOTHING",
        )
        repeats: dict[int, bytes] = {}
        if inserted != len(seqs):
            standing = self._standing(ids)
            repeats = {
                seq: job_id
                for seq, job_id in zip(seqs, ids, strict=True)
                if standing[job_id][0] != seq
            }
        for seq, state in zip(seqs, states, strict=True):
            if seq not in repeats:
                tally.counts[state] += 1
                tally.next_seq = max(tally.next_seq, seq + 1)
        if large:
            self._db.executemany(
                "INSERT INTO large VALUES (?,?)",
                (
                    (seq, payload)
                    for seq, payload, size in zip(seqs, payloads, sizes, strict=True)
                    if size > INLINE_BYTES and seq not in repeats
                ),
            )
        return repeats

    def _insert_rows(self, insert: str, rows: Iterable[Row], conflict: str = "") -> int:
        """Insert *rows* in few statements, which come in few sizes so that they stay compiled;
        return how many were."""
        listed = list(rows)
        done = inserted = 0
        size = INSERT_ROWS
        places = f"({','.join('?' * len(listed[0]))})"
        while done < len(listed):
            while size > len(listed) - done:
                size //= 2
            statement = f"{insert} {','.join([places] * size)} {conflict}"
            values = list(chain.from_iterable(listed[done : done + size]))
            inserted += self._db.execute(statement, values).rowcount
            done += size
        return inserted

    def _change(self, changes: Columns, tally: _Tally) -> None:
        """Update what changed, together what is equal: most of a batch was leased together."""
        seqs, states, lanes, stored, *others = changes
        groups: dict[Row, list[int]] = defaultdict(list)
        if DELAYED in states:
            stored = [_place(*at) for at in zip(stored, states, strict=True)]
        for seq, *becomes in zip(seqs, lanes, stored, states, *others, strict=True):
            groups[tuple(becomes)].append(seq)
        alone: list[Row] = []
        for values, members in groups.items():
            if len(members) < FEW:
                alone.extend((*values, seq) for seq in members)
                continue
            among = str(members)
            # A job that stays where it is keeps its place in the index: half the cost.
            moved = self._leave_states(members, tally, *values[:2])
            sets = f"lane=?, stored=?, {_CHANGING}" if moved else _CHANGING
            self._db.execute(
                f"UPDATE job SET {sets} WHERE seq IN {_AMONG}",
                (*(values if moved else values[2:]), among),
            )
        if alone:
            self._leave_states([row[-1] for row in alone], tally)
            self._db.executemany(
                f"UPDATE job SET lane=?, stored=?, {_CHANGING} WHERE seq=?",
                alone,
            )
        for state in states:
            tally.counts[state] += 1

    def _leave_states(self, seqs: list[int], tally: _Tally, lane: int = 0, stored: int = 0) -> bool:
        """Count unfinished jobs out of the states they are in; say if any of them is elsewhere
        than *lane* and *stored*."""
        *by_state, elsewhere, payload_bytes = self._db.execute(
            f"SELECT {_COUNT_BY_STATE}, coalesce(sum(lane <> ? OR stored <> ?), 0),"
            f" coalesce(sum(payload_bytes + tries_bytes), 0) FROM job WHERE seq IN {_AMONG}",
            (lane, stored, str(seqs)),
        ).fetchone()
        if sum(by_state) != len(seqs):
            raise Contradiction(
                "a change or an end names a job that is not there, or has ended already"
            )
        for state, jobs in zip(UNFINISHED, by_state, strict=True):
            tally.counts[state] -= jobs
        tally.left_bytes = payload_bytes
        return bool(elsewhere)

    def _try(self, tries: list[Row]) -> None:
        """Keep what became of attempts that were not the last, and drop the oldest of too many."""
        execute, executemany = self._db.execute, self._db.executemany
        among = str([row[0] for row in tries])
        (unfinished,) = execute(
            f"SELECT count(*) FROM job WHERE stored IS NOT NULL AND seq IN {_AMONG}", (among,)
        ).fetchone()
        if unfinished != len({row[0] for row in tries}):
            raise Contradiction("a try names a job that is not there, or has ended already")
        executemany("INSERT OR REPLACE INTO try VALUES (?,?,?,?,?,?,?)", tries)
        executemany(
            "DELETE FROM try WHERE seq = ?1 AND attempt <= (SELECT attempt FROM try"
            f" WHERE seq = ?1 ORDER BY attempt DESC LIMIT 1 OFFSET {MAX_TRIES})",
            ((row[0],) for row in tries),
        )
        execute(
            "UPDATE job SET tries_bytes = t.size FROM"
            " (SELECT seq, sum(coalesce(length(outcome), 0)) AS size"
            f" FROM try WHERE seq IN {_AMONG} GROUP BY seq) t WHERE job.seq = t.seq",
            (among,),
        )

    def _end(self, ends: Columns, tally: _Tally) -> None:
        seqs, states, attempts, losses, holders, started, ended, outcomes, failures = ends
        by_state: dict[int, list[int]] = defaultdict(list)
        for place, state in enumerate(states):
            by_state[state].append(place)
        sizes = [None if outcome is None else len(outcome) for outcome in outcomes]
        first = tally.next_ending
        for state, places in by_state.items():
            members = [seqs[place] for place in places]
            self._leave_states(members, tally)
            tally.kept_bytes += tally.left_bytes + sum(sizes[place] or 0 for place in places)
            tally.counts[state] += len(places)
            among = set(places)
            # With nulls, which equal nothing, for the others: a key is then a place in the batch.
            sparse = [seq if place in among else None for place, seq in enumerate(seqs)]
            self._db.execute(
                "UPDATE job SET state=?, stored=NULL, ending=? + e.key"
                " FROM json_each(?) e WHERE job.seq = e.value",
                (state, first, str(sparse).replace("None", "null")),
            )
        tally.next_ending = first + len(seqs)
        self._insert_rows(
            f"INSERT INTO ending ({_ENDING_COLUMNS}) VALUES",
            zip(
                *(range(first, tally.next_ending), seqs, attempts, losses, holders),
                *(started, ended, failures, sizes, outcomes),
                strict=True,
            ),
        )
        dead = [seqs[place] for state in DEAD_STATES for place in by_state.get(state, ())]
        if dead:
            self._dead.add(dead)

    def _schedule(self, rows: Sequence[Row]) -> None:
        kept = [row for row in rows if row[1] is not None]
        self._db.executemany("INSERT OR REPLACE INTO schedule VALUES (?,?)", kept)
        removed = [row[:1] for row in rows if row[1] is None]
        self._db.executemany("DELETE FROM schedule WHERE name = ?", removed)
        self._unmeasured_bytes += sum(len(data) for _, data in kept)

    # --- reading --------------------------------------------------------------------------------

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
        with _reading():
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
        with _reading():
            ids = self._db.execute(
                f"SELECT id {_EXPIRING} <= ? AND state IN {WAITING} ORDER BY expires_at LIMIT ?",
                (now, most),
            ).fetchall()
            return [job_id for (job_id,) in ids], self._next_expiry(now)

    def _next_due(self) -> float | None:
        found: float | None = self._db.execute(
            "SELECT min(due_at) FROM job INDEXED BY job_due WHERE stored = 2"
        ).fetchone()[0]
        return found

    def _next_expiry(self, after: float = 0.0) -> float | None:
        found: float | None = self._db.execute(
            f"SELECT min(expires_at) {_EXPIRING} > ?", (after,)
        ).fetchone()[0]
        return found

    def read_schedules(self, after: str, most: int, max_bytes: int) -> list[Row]:
        """Return the next schedules by name as `ScheduleRow` tuples, and no further one once they
        are over *max_bytes*."""
        rows: list[Row] = []
        size = 0
        with _reading():
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
        reading = self._by_ids(
            "SELECT job.seq, id, state, outcome FROM job"
            f" LEFT JOIN ending ON n = ending AND state <> {FORGOTTEN} WHERE id IN ",
            ids,
        )
        for row in reading:
            rows.append((*row, False))
            size += len(row[3] or b"")
            if max_bytes is not None and size > max_bytes:
                reading.close()
                break
        else:
            return rows
        seen = {row[1] for row in rows}
        left = self._standing(job_id for job_id in ids if job_id not in seen)
        for job_id, (seq, state) in left.items():
            rows.append((seq, job_id, state, None, state not in (*UNFINISHED, FORGOTTEN)))
        return rows

    def find(self, ids: list[bytes]) -> list[Row]:
        """Return the unfinished jobs of these ids as `JobRow` tuples, without their payloads."""
        return list(self._by_ids(_JOB_HEAD + "WHERE stored IS NOT NULL AND id IN ", ids))

    def keys(self, names: list[bytes]) -> list[Row]:
        """Return who has these keys as `KeyHolder` tuples."""
        return list(self._by_ids(KEY_HOLDER, names))

    def counts(self) -> dict[int, int]:
        """Return how many jobs are in each state: known here, so that whoever asks how the plane is
        waits behind no question of history."""
        return self._counts

    def _standing(self, ids: Iterable[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return (seq, state) of the jobs of these ids, by id."""
        rows = self._by_ids("SELECT id, seq, state FROM job WHERE id IN ", list(ids))
        return {job_id: (seq, state) for job_id, seq, state in rows}

    def _by_ids(self, select: str, ids: list[bytes]) -> Generator[Row, None, None]:
        # Blobs do not go through json_each. The last statement is filled up with NULLs, which
        # equal nothing, so that two compiled ones do for any number.
        for first in range(0, len(ids), LOOK_UP_IDS):
            some = ids[first : first + LOOK_UP_IDS]
            places = 8 if len(some) <= 8 else LOOK_UP_IDS
            values = [*some, *[None] * (places - len(some))]
            with _reading():
                yield from self._db.execute(f"{select} ({','.join('?' * places)})", values)

    # --- pruning --------------------------------------------------------------------------------

    def is_over(self, now: float, retention: Row) -> bool:
        """Whether a `prune` that keeps nothing on purpose would find anything."""
        max_count, max_bytes, max_age_s, tombstone_s, *dead = retention
        too_old_at = None if max_age_s is None else now - max_age_s
        with _reading():
            if self._dead.over(now, dead, 1):
                return True
            if self._pick(max_count, max_bytes, too_old_at, frozenset(), 1):
                return True
            oldest = self._db.execute(
                "SELECT forgotten_at FROM tombstone ORDER BY n LIMIT 1"
            ).fetchone()
        return oldest is not None and oldest[0] <= now - tombstone_s

    def prune(self, now: float, retention: Row, keep: Sequence[int]) -> Row:
        """Let go of a bounded number of outcomes and tombstones; return how many."""
        max_count, max_bytes, max_age_s, tombstone_s, *dead = retention
        with self._transaction() as tally:
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
        kept = sum(
            jobs
            for state, jobs in self._counts.items()
            if state not in UNFINISHED and state != FORGOTTEN
        )
        dead, dead_bytes = self._dead.totals()
        over_count = 0 if max_count is None else kept - dead - max_count
        over_bytes = 0 if max_bytes is None else self._kept_bytes - dead_bytes - max_bytes
        picked: list[Row] = []
        cursor = self._db.execute(_PICK)
        for row in cursor:
            _, seq, ended_at, size, _ = row
            if seq in keep:
                continue
            is_old = too_old_at is not None and ended_at <= too_old_at
            if over_count <= 0 and over_bytes <= 0 and not is_old:
                break
            picked.append(row)
            over_count -= 1
            over_bytes -= size
            if len(picked) == most:
                break
        cursor.close()
        return picked

    def _forget(self, now: float, picked: list[Row], tally: _Tally) -> None:
        execute = self._db.execute
        endings = str([row[0] for row in picked])
        (newest,) = execute("SELECT coalesce(max(n), 0) FROM tombstone").fetchone()
        execute(
            "INSERT INTO tombstone (seq, attempt, losses, holder, started_at, ended_at, failures,"
            " forgotten_at) SELECT seq, attempt, losses, holder, started_at, ended_at, failures, ?"
            f" FROM ending WHERE n IN {_AMONG} ORDER BY n",
            (now, endings),
        )
        execute(f"DELETE FROM ending WHERE n IN {_AMONG}", (endings,))
        seqs = str([row[1] for row in picked])
        execute(f"DELETE FROM large WHERE seq IN {_AMONG}", (seqs,))
        execute(f"DELETE FROM try WHERE seq IN {_AMONG}", (seqs,))
        self._dead.forget(seqs)
        execute(
            f"UPDATE job SET state={FORGOTTEN}, options=NULL, payload=NULL, payload_bytes=0,"
            " tries_bytes=0, ending=t.n FROM tombstone t WHERE t.n > ? AND job.seq = t.seq",
            (newest,),
        )
        for _, _, _, size, state in picked:
            tally.kept_bytes -= size
            tally.counts[state] -= 1
        tally.counts[FORGOTTEN] += len(picked)

    def _remove_tombstones(self, forgotten_until: float, tally: _Tally) -> int:
        execute = self._db.execute
        rows = execute(
            "SELECT n, seq, forgotten_at FROM tombstone ORDER BY n LIMIT ?", (PRUNE_ROWS,)
        ).fetchall()
        over = []
        for n, seq, forgotten_at in rows:
            if forgotten_at > forgotten_until:
                break
            over.append((n, seq))
        if over:
            execute("DELETE FROM tombstone WHERE n <= ?", (over[-1][0],))
            seqs = str([seq for _, seq in over])
            execute(f"DELETE FROM job WHERE seq IN {_AMONG}", (seqs,))
            self._keys.forget(seqs)
            tally.counts[FORGOTTEN] -= len(over)
        return len(over)

    # --- the transaction ------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[_Tally]:
        """Commit what is done inside together with the counts, or nothing of it.

        Raises:
            StoreFull: there was no room or no way to write; the connection may be used again.
            StoreError: what was asked for is impossible, or the file is damaged.
        """
        tally = _Tally(self._counts, self._kept_bytes, self._next_seq, self._next_ending)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield tally
            if tally.has_changed(self._counts):
                self._db.execute(
                    "UPDATE ledger SET next_seq=?, counts=?, kept_bytes=? WHERE name='main'",
                    (tally.next_seq, tally.as_json(), tally.kept_bytes),
                )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            roll_back(self._db)
            if is_unwritable(error):
                raise as_store_full(error) from error
            if isinstance(error, sqlite3.IntegrityError):
                raise Contradiction(f"a new job has the seq of another one: {error}") from error
            raise StoreError(f"the store's file cannot be used: {describe(error)}") from error
        except BaseException:
            roll_back(self._db)
            raise
        self._counts = {state: jobs for state, jobs in tally.counts.items() if jobs}
        self._kept_bytes = tally.kept_bytes
        self._next_seq = tally.next_seq
        self._next_ending = tally.next_ending


class _Tally:
    """The counts as they will be once the transaction is committed."""

    def __init__(
        self, counts: dict[int, int], kept_bytes: int, next_seq: int, next_ending: int
    ) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int, counts)
        self.kept_bytes = kept_bytes
        self.next_seq = next_seq
        self.next_ending = next_ending
        self.left_bytes = 0
        """The payloads of the jobs that were counted out last."""

    def has_changed(self, counts: dict[int, int]) -> bool:
        # Whatever moves next_seq or kept_bytes also moves a count: an insert, an end, a pruning.
        return any(self.counts[state] != counts.get(state, 0) for state in self.counts)

    def as_json(self) -> str:
        return json.dumps({state: jobs for state, jobs in self.counts.items() if jobs})


@contextmanager
def _reading() -> Iterator[None]:
    """Raise a StoreError where the file cannot be read: that question's affair, and not the end of
    the process."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the store's file cannot be read: {describe(error)}") from error


def _place(stored: int, state: int) -> int:
    """Return what the column `stored` is to say: 2 for what waits for its time in the store."""
    return 2 if stored and state == DELAYED else stored


def _without(columns: Columns, seqs: Container[int]) -> Columns:
    """Return the rows whose seq (the first column) is not among *seqs*."""
    if not columns:
        return columns
    rows = [row for row in zip(*columns, strict=True) if row[0] not in seqs]
    return list(zip(*rows, strict=True))
