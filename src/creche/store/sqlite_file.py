"""The database file: who may open it, what it must be, and how it is opened.

Nothing here changes a file that Creche cannot use: what can be told from its first 100 bytes is
told from them, without SQLite, which would leave its own files beside it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from creche.errors import StoreFull, StoreLocked, StoreUnusable

MIGRATIONS = Path(__file__).with_name("migrations")

APPLICATION_ID = 0x43726368
"""``Crch``: says in the file's header whose it is."""

LOCK_POLL_S = 0.05

LOG_PAGES = 4000
"""How long the write-ahead log grows before it is moved into the file and written anew: 16 MB."""

_LOG_FRAME_BYTES = 24 + 4096
_ZEROS = bytes(1024 * 1024)

# SQLite's file format, section 1.3: where the header has these, 4 bytes each, big-endian.
_MAGIC = b"SQLite format 3\x00"
_USER_VERSION = slice(60, 64)
_APPLICATION_ID = slice(68, 72)

# Results that say "this could not be written", not "this is wrong".
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}


class FileLock:
    """The right to open a database: an exclusive lock on a file beside it, named ``….lock``.

    It ends with the process at the latest. The file holds the pid of whoever asked, and is removed
    when the lock is released, so that only a crash leaves it (and a lock file alone locks nothing).
    """

    def __init__(self, fd: int, lock_path: str) -> None:
        self._fd = fd
        self._path = lock_path

    @classmethod
    def take(
        cls,
        path: str,
        pid: int,
        wait_s: float = 0.0,
        give_up: Callable[[], bool] = lambda: False,
    ) -> FileLock:
        """Take the lock of the database at *path* for process *pid*.

        Raises:
            StoreLocked: somebody held it for all of *wait_s*, or *give_up* said so meanwhile.
            StoreUnusable: no file can be written there.
        """
        # One file has one lock, by whatever links it is reached.
        lock_path = os.path.realpath(path) + ".lock"
        ends_at = time.monotonic() + wait_s
        while True:
            fd = _try_lock(path, lock_path)
            if fd is not None:
                break
            if time.monotonic() >= ends_at or give_up():
                raise StoreLocked(path, _read_pid(lock_path))
            time.sleep(LOCK_POLL_S)
        lock = cls(fd, lock_path)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % pid, 0)
        except OSError as error:
            lock.release()
            raise StoreUnusable(f"{path} cannot be used: {lock_path}: {error.strerror}") from error
        return lock

    def release(self) -> None:
        """Give the lock back."""
        # Removed while it is still held: whoever opened it meanwhile sees that it is not the file
        # of that name any more, and tries again.
        Path(self._path).unlink(missing_ok=True)
        os.close(self._fd)


def _try_lock(path: str, lock_path: str) -> int | None:
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be used: {lock_path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        here, there = os.fstat(fd), os.stat(lock_path)
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or released and removed just now
    os.close(fd)
    return None


def check_free(path: str) -> None:
    """Refuse a database that somebody has at this moment, without making a file or waiting.

    Raises:
        StoreLocked: somebody has.
    """
    lock_path = os.path.realpath(path) + ".lock"
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # nobody, or nobody can tell; who opens the store is told why
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreLocked(path, _read_pid(lock_path)) from None
    finally:
        os.close(fd)


def _read_pid(lock_path: str) -> int | None:
    try:
        return int(Path(lock_path).read_text("ascii"))
    except (OSError, ValueError):
        return None  # its holder is about to write it, or has just gone


def check_file(path: str, *, to_write: bool = True) -> None:
    """Refuse a file that cannot be a store of ours, from its header and its permissions alone.

    A file that is not there, or is empty, is fine if *to_write*: it becomes a new store.

    Raises:
        StoreUnusable: the sentence says why, and what the file seems to be.
    """
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise StoreUnusable(f"{path} is a folder: name a file in it")
    if not os.path.isdir(folder):
        raise StoreUnusable(f"{path} cannot be made: there is no folder {folder}")
    try:
        with open(path, "rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        if not to_write:
            raise StoreUnusable(f"there is no store at {path}") from None
        header = b""
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be read: {error.strerror}") from None
    if header:
        _check_header(path, header)
    elif not to_write:
        raise StoreUnusable(f"{path} is empty: no store has been made there yet")
    if to_write:
        if os.path.exists(path) and not os.access(path, os.W_OK, effective_ids=True):
            raise StoreUnusable(f"{path} is not writable by this user")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise StoreUnusable(
                f"{path} cannot be used: this user may not write to its folder {folder}, "
                "and a store keeps files beside it"
            )


def _check_header(path: str, header: bytes) -> None:
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreUnusable(f"{path} is not a database: it is something else, and was not touched")
    application_id = int.from_bytes(header[_APPLICATION_ID], "big")
    # 0 may be a store whose making was cut off before its first commit: `open_to_write` sees.
    if application_id not in (0, APPLICATION_ID):
        raise StoreUnusable(f"{path} is another program's database")
    check_version(path, int.from_bytes(header[_USER_VERSION], "big"))


def schema_behind(path: str) -> tuple[int, int] | None:
    """Return the version of the schema of the store at *path* and this version's, if opening it is
    going to bring it along; None if it is not, or there is no store of ours."""
    if not os.path.isfile(path):  # a pipe would have us wait for whoever writes into it
        return None
    try:
        with open(path, "rb") as file:
            header = file.read(100)
    except OSError:
        return None
    version, newest = int.from_bytes(header[_USER_VERSION], "big"), max(migrations())
    is_ours = int.from_bytes(header[_APPLICATION_ID], "big") == APPLICATION_ID
    return (version, newest) if is_ours and 0 < version < newest else None


def check_version(path: str, version: int) -> None:
    """Refuse a schema that is newer than this version of Creche knows.

    Raises:
        StoreUnusable: it is.
    """
    newest = max(migrations())
    if version > newest:
        raise StoreUnusable(
            f"{path} is from a newer version of Creche (its schema is {version}, this one knows "
            f"{newest}): upgrade Creche, or choose another --store"
        )


def migrations(folder: Path = MIGRATIONS) -> dict[int, Path]:
    """Return the migrations by the version of the schema that each leads to."""
    return {int(file.stem): file for file in sorted(folder.glob("[0-9]*.sql"))}


def open_to_write(path: str) -> sqlite3.Connection:
    """Open (or make) the store at *path* and bring it to this version's schema. The caller holds
    the lock and has called `check_file`.

    Raises:
        StoreUnusable: it is damaged, another program's, of a newer version, or cannot be written.
    """
    is_new = not os.path.exists(path)
    connection: sqlite3.Connection | None = None
    try:
        _check_behind_log(path)
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        _settle(path, connection)
        migrate(connection)
        return connection
    except BaseException as error:
        if connection is not None:
            connection.close()
        if is_new:
            for file in (path, path + "-wal", path + "-shm"):
                Path(file).unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise StoreUnusable(f"{path} cannot be opened: {describe(error)}") from error
        raise


def _settle(path: str, connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise StoreUnusable(f"{path} is on a file system where SQLite has no write-ahead log")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-65536")
    connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
    connection.execute("PRAGMA mmap_size=0")
    # Whoever else has the file open only reads (a backup); it never blocks us for long.
    connection.execute("PRAGMA busy_timeout=5000")


def lay_out_log(path: str) -> None:
    """Write the log's whole space once, behind what it holds: a commit that makes the log longer
    waits about twice as long for the disk as one that overwrites.

    SQLite reads a log until a frame's checksum is wrong (file format, section 4.1), and zeros are.
    Where there is no room for that, the log is left as it was.
    """
    with suppress(OSError), open(path + "-wal", "r+b", buffering=0) as log:
        end = log.seek(0, os.SEEK_END)
        missing = LOG_PAGES * _LOG_FRAME_BYTES - end
        try:
            while missing > 0:
                missing -= log.write(_ZEROS[:missing]) or 0
            os.fdatasync(log.fileno())
        except OSError:
            log.truncate(end)


def _check_behind_log(path: str) -> None:
    """Look again at whose database it is, and of which version, through SQLite: the log of a
    process that was killed may hold a newer header than the file does."""
    has_log = os.path.exists(path + "-wal") and os.path.getsize(path + "-wal") > 0
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return
    had_index = os.path.exists(path + "-shm")
    # Without a log to read, `immutable` keeps SQLite from making files of its own.
    connection = sqlite3.connect(_uri(path, "mode=ro" if has_log else "immutable=1"), uri=True)
    try:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application_id != APPLICATION_ID and tables:
            raise StoreUnusable(f"{path} is another program's database")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        check_version(path, version)
    finally:
        connection.close()
        if not had_index:
            Path(path + "-shm").unlink(missing_ok=True)


def open_to_read(path: str, *, is_open_here: bool = False) -> sqlite3.Connection:
    """Open the store at *path* for questions, beside a plane that may be running.

    *is_open_here* says that this process has it open to write. Its file is then opened by nobody
    but SQLite: closing it ends all locks that the process has on it (POSIX), and the next program
    that looks at the store would take the log for abandoned and remove it under the writer.

    Raises:
        StoreUnusable: there is none, or it is not ours.
    """
    if not is_open_here:
        check_file(path, to_write=False)
    folder = os.path.dirname(os.path.realpath(path))
    if all(os.access(place, os.W_OK, effective_ids=True) for place in (path, folder)):
        # Able to write, so that it can tidy up the log of a killed plane; it writes nothing else.
        query = "mode=rw"
    elif os.path.exists(path + "-wal"):
        query = "mode=ro"
    else:
        query = "immutable=1"
    connection = sqlite3.connect(
        _uri(path, query), uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only=1")
        # One connection checkpoints, and it is not this one (SQLite's WAL-reset bug, fixed in
        # 3.51.3, takes two).
        connection.execute("PRAGMA wal_autocheckpoint=0")
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID:
            raise StoreUnusable(f"{path} is another program's database")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        check_version(path, version)
        connection.execute("SELECT typeof(epoch) FROM ledger").fetchone()
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise StoreUnusable(f"{path} cannot be read: {describe(error)}") from error
        raise
    return connection


def migrate(connection: sqlite3.Connection, folder: Path = MIGRATIONS) -> None:
    """Bring the schema to the newest version: each step whole or not at all."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, file in migrations(folder).items():
        if number <= version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(file.read_text("utf-8")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise


def renew_id(connection: sqlite3.Connection) -> None:
    """Make a copy of a ledger another ledger. One of a schema that has no ids gets its own when it
    is migrated."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= 2:
        with connection:
            connection.execute("UPDATE ledger SET id = lower(hex(randomblob(8)))")


def _statements(script: str) -> list[str]:
    """Split *script*; sqlite3's own `executescript` would commit before it begins."""
    found, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that failed. SQLite may have ended it already, for want of room."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        pass


def describe(error: sqlite3.Error) -> str:
    """Return what *error* says, with SQLite's name for it where there is one."""
    name = getattr(error, "sqlite_errorname", None)
    return f"{error} ({name})" if name else str(error)


def is_unwritable(error: sqlite3.Error) -> bool:
    """Say whether *error* means that there was no room or no way to write, for now."""
    # The low byte is the primary result; the rest says which read or write it was.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE


def has_no_room(error: BaseException | None) -> bool:
    """Say whether *error* means that the disk, a quota or a limit leaves no room to write."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    code = getattr(error, "sqlite_errorcode", 0)
    # The second: the index of the log, a file beside the database, cannot be made.
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def as_store_full(error: sqlite3.Error) -> StoreFull:
    """Return the error that tells the plane to try again when there is room."""
    return StoreFull(f"the store could not write to its disk: {describe(error)}")


def _uri(path: str, query: str) -> str:
    return f"file:{quote(os.path.abspath(path))}?{query}"
