"""What can be done with the file of an SQLite store from outside the plane.

Synchronous, and run where they are called: `info`, `verify` and `backup` work beside a plane that
has the file, `compact` needs it alone. A backup is a store like any other; verifying it is the
check that it can be restored, and restoring is copying it to where the plane looks.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from creche.errors import StoreError, StoreFull, StoreUnusable
from creche.model.maps import is_number
from creche.store.sqlite_damage import show
from creche.store.sqlite_file import (
    FileLock,
    check_file,
    describe,
    has_no_room,
    is_unwritable,
    open_to_read,
    open_to_write,
    renew_id,
)
from creche.store.sqlite_history import History
from creche.store.sqlite_kinds import damaged_columns
from creche.store.sqlite_rows import all_rows, is_count, total

INFO_S = 10.0
"""How long `info` may take (seconds)."""

# What must hold in every store, each as a query for what breaks it, with how many there are first.
_INVARIANTS = {
    "unfinished jobs have an end": (
        "SELECT count(*) FROM job WHERE state < 10 AND (ending IS NOT NULL OR stored IS NULL)"
    ),
    "ended jobs have no end, or wait in a lane": (
        "SELECT count(*) FROM job LEFT JOIN ending e ON e.n = job.ending WHERE state >= 10"
        " AND state < 20 AND (e.seq IS NOT job.seq OR stored IS NOT NULL)"
    ),
    "forgotten jobs have no tombstone, or a payload": (
        "SELECT count(*) FROM job LEFT JOIN tombstone t ON t.n = job.ending WHERE state >= 20"
        " AND (t.seq IS NOT job.seq OR stored IS NOT NULL OR payload IS NOT NULL)"
    ),
    "ends are nobody's": (
        "SELECT (SELECT count(*) FROM ending)"
        " - (SELECT count(*) FROM job WHERE state >= 10 AND state < 20)"
    ),
    "tombstones are nobody's": (
        "SELECT (SELECT count(*) FROM tombstone) - (SELECT count(*) FROM job WHERE state = 20)"
    ),
    "jobs are in a state that does not exist": (
        "SELECT count(*) FROM job WHERE state NOT IN (1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 20)"
    ),
    "delayed jobs wait in a lane, or others for their time": (
        "SELECT count(*) FROM job WHERE stored > 0 AND (stored = 2) <> (state = 3)"
    ),
    "jobs have lost their payload": (
        "SELECT count(*) FROM job LEFT JOIN large ON large.seq = job.seq WHERE state < 20"
        " AND coalesce(length(job.payload), length(large.payload)) IS NOT payload_bytes"
    ),
    "large payloads are nobody's": (
        "SELECT count(*) FROM large LEFT JOIN job ON job.seq = large.seq"
        " WHERE job.seq IS NULL OR job.payload IS NOT NULL OR state = 20"
    ),
    "outcomes have another size than is recorded": (
        "SELECT count(*) FROM ending WHERE length(outcome) IS NOT outcome_bytes"
    ),
    "jobs have a seq that would be given again": (
        "SELECT count(*) FROM job WHERE seq >= (SELECT next_seq FROM ledger WHERE name = 'main')"
    ),
}


IDS_SINCE = 2
"""The version of the schema from which on a ledger has an id."""

TRIES_SINCE = 3
"""The version of the schema from which on tries are kept. An older store can be looked at too."""

DEAD_SINCE = 6
"""The version of the schema from which on there is a set of dead jobs."""

KEYS_SINCE = 7
"""The version of the schema from which on there are unique keys."""

OUSTED_SINCE = 8
"""The version of the schema from which on jobs that others replace have a table of their own."""

_WRONG_DEAD = (
    "SELECT count(*) FROM dead d"
    " LEFT JOIN job j ON j.seq = d.seq LEFT JOIN ending e ON e.n = j.ending"
    " WHERE j.seq IS NULL OR e.seq IS NOT d.seq OR j.state NOT BETWEEN 10 AND 14"
    " OR (d.fate = 0 AND j.state NOT IN (11, 13, 14)) OR d.size"
    " <> j.payload_bytes + j.tries_bytes + coalesce(e.outcome_bytes, 0)"
)

_WRONG_TRIES = (
    "SELECT count(*) FROM (SELECT seq FROM try UNION SELECT seq FROM job WHERE tries_bytes > 0) s"
    " LEFT JOIN job j ON j.seq = s.seq WHERE j.tries_bytes IS NOT"
    " (SELECT coalesce(sum(length(outcome)), 0) FROM try WHERE try.seq = s.seq)"
)

_OF_LEDGER = "epoch, next_seq, opened_at, counts, kept_bytes"

_WRONG_OUSTED = (
    "SELECT count(*) FROM ousted o LEFT JOIN job j ON j.seq = o.seq"
    " WHERE j.seq IS NULL OR j.state NOT IN (1, 2, 3, 4, 5)"
)


def info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return facts about the store at *path*, as `HistoryStore.info` does.

    Raises:
        StoreUnusable: there is no store of ours.
        StoreError: it cannot be read.
    """
    path = os.path.abspath(path)
    with closing(open_to_read(path)) as connection:
        return History(connection, path, INFO_S).info()


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Return what is wrong with the store at *path*, a sentence each: nothing if it is sound.

    Looks at every page and every job; a million jobs take some seconds.

    Raises:
        StoreUnusable: there is no store of ours, or this user may not read it.
    """
    path = os.path.abspath(path)
    try:
        opened = open_to_read(path)
    except StoreUnusable as error:
        if isinstance(error.__cause__, sqlite3.Error) and _is_damage(error.__cause__):
            return [f"the file cannot be read: {describe(error.__cause__)}"]
        raise
    with closing(opened) as connection:
        try:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            if problems != ["ok"]:
                return problems
            # One transaction: a plane may be writing meanwhile.
            connection.execute("BEGIN")
            return _broken_invariants(connection)
        except sqlite3.Error as error:
            return [f"the file cannot be read: {describe(error)}"]


def _is_damage(error: sqlite3.Error) -> bool:
    """Say whether *error*, from opening a file with the header of a store, is about what is behind
    the header, and not about whether one may look at it."""
    # The low byte is the primary result. A table that is not there is a plain error.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_ERROR,
}


def _broken_invariants(connection: sqlite3.Connection) -> list[str]:
    problems = damaged_columns(connection)
    for sentence, query in _INVARIANTS.items():
        (found,) = connection.execute(query).fetchone()
        if found:
            problems.append(f"{found:,} {sentence}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    columns = f"{_OF_LEDGER}{', id' if version >= IDS_SINCE else ''}"
    rows = all_rows(connection, f"SELECT {columns} FROM ledger WHERE name = 'main'")
    try:
        epoch, next_seq, opened_at, counts, kept_bytes, *ids = rows[0]
        recorded = {int(state): jobs for state, jobs in json.loads(counts).items()}
    except (IndexError, TypeError, ValueError, AttributeError):
        return [*problems, "the ledger cannot be read: what was recorded of the store is lost"]
    for name, value in (("epoch", epoch), ("next_seq", next_seq)):
        if not is_count(value):
            problems.append(
                f"{name} of the ledger is {show(value)}, and no whole number from 0 to 2^52: no"
                " plane can open this store; restore a backup"
            )
    if not all(type(ledger_id) is str for ledger_id in ids):
        problems.append(
            f"id of the ledger is {show(ids[0])}, and no text: no plane can open this store;"
            " restore a backup"
        )
    if not is_number(opened_at):
        problems.append(f"opened_at of the ledger is {show(opened_at)}, and no moment")
    counted = dict(connection.execute("SELECT state, count(*) FROM job GROUP BY state"))
    if recorded != counted:
        problems.append(f"the jobs by state are {counted}, and recorded as {recorded}")
    has_tries = version >= TRIES_SINCE
    sizes = f"payload_bytes + coalesce(outcome_bytes, 0) {'+ tries_bytes' if has_tries else ''}"
    (size,) = connection.execute(
        f"SELECT {total(sizes)} FROM ending JOIN job ON job.seq = ending.seq"
    ).fetchone()
    if not is_count(kept_bytes):
        problems.append(f"kept_bytes of the ledger is {show(kept_bytes)}, and no number of bytes")
    elif size != kept_bytes:
        problems.append(f"ended jobs take {size:,} bytes, recorded as {kept_bytes:,}")
    if has_tries:
        (found,) = connection.execute(_WRONG_TRIES).fetchone()
        if found:
            problems.append(f"{found:,} jobs have tries of another size than is recorded")
    if version >= DEAD_SINCE:
        (found,) = connection.execute(_WRONG_DEAD).fetchone()
        if found:
            problems.append(
                f"{found:,} dead jobs are not dead, or of another size than is recorded"
            )
    if version >= KEYS_SINCE:
        (found,) = connection.execute(
            "SELECT count(*) FROM unique_key WHERE seq NOT IN (SELECT seq FROM job)"
            " OR typeof(since) <> 'real' OR length(name) <> 16"
        ).fetchone()
        if found:
            problems.append(f"{found:,} unique keys are of jobs that are not there, or are damaged")
    if version >= OUSTED_SINCE:
        (found,) = connection.execute(_WRONG_OUSTED).fetchone()
        if found:
            problems.append(
                f"{found:,} jobs are to be cancelled as replaced, and have ended or are not there"
            )
    return problems


def backup(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Copy the store at *path*, as it is at one moment, to the new file *target*; return its size
    in bytes. A plane may go on writing; its log grows until the copy is done.

    The copy is another ledger from then on: what workers run for this one is none of its business.
    Nothing appears at *target* before it is whole and on disk.

    Raises:
        StoreUnusable: there is no store of ours, or *target* is there already.
        StoreFull: the copy could not be written; nothing is left of it.
    """
    target = os.path.abspath(target)
    if os.path.lexists(target):
        raise StoreUnusable(f"{target} is there already: name a new file for the backup")
    folder = os.path.dirname(target)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise StoreUnusable(f"{target} cannot be made: its folder is not there, or not writable")
    part = Path(f"{target}.part")
    with closing(open_to_read(os.path.abspath(path))) as source:
        try:
            part.unlink(missing_ok=True)
            with closing(sqlite3.connect(part)) as copy:
                # All pages in one step: in several, every commit between them would start it anew.
                source.backup(copy, pages=-1)
                renew_id(copy)
            _sync(part)
            part.rename(target)
        except (sqlite3.Error, OSError) as error:
            raise _not_copied(error, target) from error
        finally:
            part.unlink(missing_ok=True)
    _sync(Path(target).parent)
    return os.path.getsize(target)


def compact(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Rewrite the store at *path* without its free pages; return its size in bytes before and
    after. Needs as much room again while it runs.

    Raises:
        StoreLocked: a plane has the file.
        StoreUnusable: there is no store of ours, or it is not writable.
        StoreFull: there was no room, not even for the lock's file; the store is as it was.
    """
    path = os.path.abspath(path)
    check_file(path, to_write=False)
    check_file(path)
    try:
        lock = FileLock.take(path, os.getpid())
        try:
            return _compact(path)
        finally:
            lock.release()
    except StoreUnusable as error:
        if not has_no_room(error.__cause__):
            raise
        raise StoreFull(f"{error}; {_MAKE_ROOM}") from error


_MAKE_ROOM = (
    "make room on its disk, as much again as the store has; or `creche store backup` to another "
    "disk, compact the copy, and put it in the store's place"
)


def _compact(path: str) -> tuple[int, int]:
    with closing(open_to_write(path)) as connection:
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            before = os.path.getsize(path)
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            if not is_unwritable(error):
                raise StoreError(f"{path}: {describe(error)}") from error
            why = f"{path} cannot be compacted, and is as it was: {describe(error)}"
            raise StoreFull(f"{why}; {_MAKE_ROOM}") from error
    return before, os.path.getsize(path)


def _not_copied(error: sqlite3.Error | OSError, target: str) -> StoreError:
    """Return what to say of a backup to *target* that failed: the store itself may be well."""
    if isinstance(error, OSError):
        why = f"the backup {target} cannot be written: {error.strerror}"
        return StoreFull(why) if has_no_room(error) else StoreUnusable(why)
    if is_unwritable(error):
        return StoreFull(f"the backup {target} cannot be written: {describe(error)}")
    return StoreError(f"{target}: {describe(error)}")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
