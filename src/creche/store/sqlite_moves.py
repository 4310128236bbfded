"""What a batch says of jobs, in an SQLite file: part of what `sqlite_ledger` does within its
transactions."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

from creche.store.base import MAX_TRIES
from creche.store.sqlite_dead import DEAD_STATES, DeadJobs
from creche.store.sqlite_rows import (
    AMONG,
    DELAYED,
    UNFINISHED,
    Columns,
    Row,
    insert_rows,
    standing,
    total,
)
from creche.store.sqlite_tally import Contradiction, Tally

INLINE_BYTES = 1024
"""Payloads up to this size are kept in the job's row, which is written anew with every change."""

FEW = 4
"""Changes that have so few equals are updated one by one."""

_JOB_COLUMNS = "seq, id, task, lane, state, stored, submitted_at, payload_bytes, options, payload"
_TIMED_COLUMNS = f"{_JOB_COLUMNS}, due_at, expires_at"
_ENDING_COLUMNS = (
    "n, seq, attempt, losses, holder, started_at, ended_at, failures, outcome_bytes, outcome"
)
_CHANGING = (
    "state=?, attempt=?, losses=?, epoch=?, holder=?, leased_at=?, failures=?, due_at=?,"
    " expires_at=?"
)
_COUNT_BY_STATE = ", ".join(f"coalesce(sum(state = {state}), 0)" for state in UNFINISHED)


class Moves:
    """Inserts jobs, changes them, and ends them."""

    def __init__(self, connection: sqlite3.Connection, dead: DeadJobs) -> None:
        self._db = connection
        self._dead = dead

    def insert(self, jobs: Columns, tally: Tally) -> dict[int, bytes]:
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
        inserted = insert_rows(
            self._db,
            f"INSERT INTO job ({names}) VALUES",
            zip(*columns, strict=True),
            "ON CONFLICT (id) DO NOTHING",
        )
        repeats: dict[int, bytes] = {}
        if inserted != len(seqs):
            there = standing(self._db, ids)
            repeats = {
                seq: job_id
                for seq, job_id in zip(seqs, ids, strict=True)
                if there[job_id][0] != seq
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

    def change(self, changes: Columns, tally: Tally) -> None:
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
                f"UPDATE job SET {sets} WHERE seq IN {AMONG}",
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

    def keep_tries(self, tries: list[Row]) -> None:
        """Keep what became of attempts that were not the last, and drop the oldest of too many."""
        execute, executemany = self._db.execute, self._db.executemany
        among = str([row[0] for row in tries])
        (unfinished,) = execute(
            f"SELECT count(*) FROM job WHERE stored IS NOT NULL AND seq IN {AMONG}", (among,)
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
            f" FROM try WHERE seq IN {AMONG} GROUP BY seq) t WHERE job.seq = t.seq",
            (among,),
        )

    def end(self, ends: Columns, tally: Tally) -> None:
        """Note that jobs have ended, in their order."""
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
        insert_rows(
            self._db,
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

    def _leave_states(self, seqs: list[int], tally: Tally, lane: int = 0, stored: int = 0) -> bool:
        """Count unfinished jobs out of the states they are in; say if any of them is elsewhere
        than *lane* and *stored*."""
        *by_state, elsewhere, payload_bytes = self._db.execute(
            f"SELECT {_COUNT_BY_STATE}, coalesce(sum(lane <> ? OR stored <> ?), 0),"
            f" {total('payload_bytes + tries_bytes')} FROM job WHERE seq IN {AMONG}",
            (lane, stored, str(seqs)),
        ).fetchone()
        if sum(by_state) != len(seqs):
            self._check_unfinished(seqs)
            tally.is_in_doubt = True
        for state, jobs in zip(UNFINISHED, by_state, strict=True):
            tally.counts[state] -= jobs
        tally.left_bytes = payload_bytes
        return bool(elsewhere)

    def _check_unfinished(self, seqs: list[int]) -> None:
        """Refuse what names jobs that are not there, or have an end; others may be in states that
        are none, if their rows are damaged."""
        (unfinished,) = self._db.execute(
            f"SELECT count(*) FROM job WHERE ending IS NULL AND seq IN {AMONG}", (str(seqs),)
        ).fetchone()
        if unfinished != len(seqs):
            raise Contradiction(
                "a change or an end names a job that is not there, or has ended already"
            )


def _place(stored: int, state: int) -> int:
    """Return what the column `stored` is to say: 2 for what waits for its time in the store."""
    return 2 if stored and state == DELAYED else stored
