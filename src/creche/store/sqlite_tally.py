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

from creche.errors import StoreError
from creche.store.sqlite_file import as_store_full, describe, is_unwritable, roll_back
from creche.store.sqlite_rows import FORGOTTEN, UNFINISHED


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

    def has_changed(self, counts: dict[int, int]) -> bool:
        # Whatever moves next_seq or kept_bytes also moves a count: an insert, an end, a pruning.
        return any(self.counts[state] != counts.get(state, 0) for state in self.counts)

    def as_json(self) -> str:
        return json.dumps({state: jobs for state, jobs in self.counts.items() if jobs})


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

    def restore(self, next_seq: int, counts: str, kept_bytes: int) -> None:
        """Learn what was recorded, when the ledger is opened."""
        self.by_state = {int(state): jobs for state, jobs in json.loads(counts).items()}
        self.kept_bytes = kept_bytes
        self.next_seq = next_seq
        (newest,) = self._db.execute("SELECT max(n) FROM ending").fetchone()
        self._next_ending = (newest or 0) + 1

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
