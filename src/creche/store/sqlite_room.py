"""How large an SQLite store's file may become by what is submitted."""

from __future__ import annotations

import sqlite3

from creche.errors import StoreOverLimit
from creche.store.sqlite_rows import Columns, reading

MEASURE_EVERY = 1024 * 1024
"""How much may be added between two looks at the size of the file."""

_JOB_BYTES = 250
"""About what a job takes in the file beside its payload."""


class Room:
    """The bytes that the file has in use, measured now and then.

    Args:
        max_bytes: when more than this is in use, new jobs are refused.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._db = connection
        self._max_bytes = max_bytes
        self._unmeasured_bytes = MEASURE_EVERY

    def take(self, rows: int, size_bytes: int) -> None:
        """Count in what is added, whether there is room for it or not."""
        self._unmeasured_bytes += rows * _JOB_BYTES + size_bytes

    def check(self, jobs: Columns) -> None:
        """Refuse new jobs in a file that is over its limit. It is looked at now and then: that
        takes as long as a small commit does beside the disk."""
        self.take(len(jobs[0]), sum(map(len, jobs[6])))
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
        with reading():
            pages, free, size = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)
