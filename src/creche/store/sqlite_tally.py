"""One transaction of an SQLite ledger, and what is counted beside its rows.

The counts are kept in memory and in the ledger's row, so that nobody ever counts millions of jobs;
in memory they change only after the commit.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from creche.errors import StoreError, StoreUnusable
from creche.store.sqlite_damage import show
from creche.store.sqlite_file import as_store_full, describe, is_unwritable, roll_back
from creche.store.sqlite_rows import (
    ENDED,
    FORGOTTEN,
    MOST_COUNTED,
    UNFINISHED,
    all_rows,
    is_count,
    total,
)


class Contradiction(StoreError):
    """A batch says what cannot be: nothing of it was kept."""


class Tally:
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
        self.is_in_doubt = False
        """Whether some left a state that is none: who was counted in which is to be counted."""

    def has_changed(self, counts: dict[int, int]) -> bool:
        # Whatever moves next_seq or kept_bytes also moves a count: an insert, an end, a pruning.
        return any(self.counts[state] != counts.get(state, 0) for state in self.counts)

    def as_json(self) -> str:
        return json.dumps({state: jobs for state, jobs in self.counts.items() if jobs})


ENDINGS_TO_COME = 2**40
"""As many ends have to find their numbers free: no plane comes to that."""

_KEPT_BYTES = (
    f"SELECT {total('payload_bytes + tries_bytes + coalesce(outcome_bytes, 0)')}"
    " FROM ending JOIN job ON job.seq = ending.seq"
)


def jobs_by_state(db: sqlite3.Connection, recorded: object) -> dict[int, int]:
    """Return how many jobs are in each state, as *recorded* in the ledger, or counted anew if that
    cannot be read."""
    try:
        counts = {int(state): jobs for state, jobs in json.loads(recorded).items()}  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError):
        return _count(db)
    return counts if all(map(is_count, counts.values())) else _count(db)


def _count(db: sqlite3.Connection) -> dict[int, int]:
    """Count the jobs by state, those left out whose state is none. It takes a look at each job."""
    counted: dict[int, int] = dict(db.execute("SELECT state, count(*) FROM job GROUP BY state"))
    return {state: counted[state] for state in (*UNFINISHED, *ENDED, FORGOTTEN) if state in counted}


class Counts:
    """What is counted of the ledger ``main`` of an open database, as it was committed last."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.by_state: dict[int, int] = {}
        """How many jobs are in each state that has any."""
        self.kept_bytes = 0
        """What ended jobs take up: payloads, outcomes, and those of their tries."""
        self.next_seq = 1
        self._next_ending = 1

    @property
    def ended(self) -> int:
        """How many ended jobs have an outcome that is still kept."""
        return sum(
            jobs
            for state, jobs in self.by_state.items()
            if state not in UNFINISHED and state != FORGOTTEN
        )

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended."""
        return sum(self.by_state.get(state, 0) for state in UNFINISHED)

    def check(self) -> None:
        """Refuse a ledger whose numbers cannot be read: nothing else tells what they were.

        Raises:
            StoreUnusable: it is damaged.
        """
        rows = all_rows(self._db, "SELECT epoch, next_seq, id FROM ledger WHERE name = 'main'")
        epoch, next_seq, ledger_id = rows[0] if rows else (None, None, None)
        wrong = ""
        if not is_count(epoch):
            wrong = f"epoch of its ledger is {show(epoch)}, and no whole number from 0 to 2^52"
        elif not is_count(next_seq):
            wrong = (
                f"next_seq of its ledger is {show(next_seq)}, and no whole number from 0 to 2^52"
            )
        elif type(ledger_id) is not str:
            wrong = f"id of its ledger is {show(ledger_id)}, and no text"
        if wrong:
            raise StoreUnusable(f"the store's file is damaged: {wrong}; restore a backup")

    def restore(self) -> tuple[str, int]:
        """Learn what was recorded, when the ledger is opened; return its id and epoch. What can be
        counted anew is, where it cannot be read."""
        ((ledger_id, epoch, self.next_seq, counts, self.kept_bytes),) = all_rows(
            self._db,
            "SELECT id, epoch, next_seq, counts, kept_bytes FROM ledger WHERE name = 'main'",
        )
        self.by_state = jobs_by_state(self._db, counts)
        if not is_count(self.kept_bytes):
            (self.kept_bytes,) = self._db.execute(_KEPT_BYTES).fetchone()
        self._next_ending = self._newest_ending() + 1
        return ledger_id, epoch

    def _newest_ending(self) -> int:
        """Return the number of the last end, 0 if there is none. One that is damaged, or comes
        after such a one, may leave none free for those to come: it is passed over."""
        newest = MOST_COUNTED
        while newest:
            beyond = newest
            (newest,) = self._db.execute(
                "SELECT coalesce(max(n), 0) FROM ending WHERE n BETWEEN 0 AND ?", (beyond - 1,)
            ).fetchone()
            if beyond - newest > ENDINGS_TO_COME:
                break
        return newest

    @contextmanager
    def transaction(self) -> Iterator[Tally]:
        """Commit what is done inside together with the counts, or nothing of it.

        Raises:
            StoreFull: there was no room or no way to write; the connection may be used again.
            StoreError: what was asked for is impossible, or the file is damaged.
        """
        tally = Tally(self.by_state, self.kept_bytes, self.next_seq, self._next_ending)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield tally
            if tally.is_in_doubt:
                tally.counts = defaultdict(int, _count(self._db))
            # Sizes that are damaged may have been added, and not be taken away again.
            tally.kept_bytes = min(max(0, tally.kept_bytes), MOST_COUNTED)
            if tally.has_changed(self.by_state):
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
        self.by_state = {state: jobs for state, jobs in tally.counts.items() if jobs}
        self.kept_bytes = tally.kept_bytes
        self.next_seq = tally.next_seq
        self._next_ending = tally.next_ending
