"""The database file: its lock, what is refused, how its schema is brought forward."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from creche.errors import StoreLocked, StoreUnusable
from creche.store.sqlite_file import (
    APPLICATION_ID,
    LOG_PAGES,
    FileLock,
    check_file,
    lay_out_log,
    migrate,
    migrations,
    open_to_read,
    open_to_write,
)
from creche.store.sqlite_ledger import Ledger
from creche.store.sqlite_tools import backup, verify


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file of *folder* as it is."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def a_database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


# --- the lock -----------------------------------------------------------------------------------


def test_one_file_has_one_lock_by_whatever_name_it_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    path.touch()
    other = tmp_path / "other.db"
    other.symlink_to(path)
    lock = FileLock.take(str(path), 4711)
    with pytest.raises(StoreLocked) as caught:
        FileLock.take(str(other), 4712)
    assert caught.value.pid == 4711
    lock.release()
    FileLock.take(str(other), 4712).release()


def test_a_released_lock_leaves_nothing(tmp_path: Path) -> None:
    FileLock.take(str(tmp_path / "creche.db"), 1).release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_a_crash_left_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / "creche.db.lock").write_text("4711\n")
    lock = FileLock.take(str(tmp_path / "creche.db"), 4712)
    assert (tmp_path / "creche.db.lock").read_text() == "4712\n"
    lock.release()


def test_waiting_for_a_lock_ends_when_it_is_released(tmp_path: Path) -> None:
    path = str(tmp_path / "creche.db")
    first = FileLock.take(path, 1)
    looks = 0

    def release_at_the_third_look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            first.release()
        return False

    FileLock.take(path, 2, wait_s=30.0, give_up=release_at_the_third_look).release()
    assert looks == 3


def test_waiting_for_a_lock_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    path = str(tmp_path / "creche.db")
    lock = FileLock.take(path, 1)
    with pytest.raises(StoreLocked):
        FileLock.take(path, 2, wait_s=3600.0, give_up=lambda: True)
    lock.release()


def test_a_lock_whose_pid_cannot_be_read_is_a_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "creche.db")
    lock = FileLock.take(path, 1)
    (tmp_path / "creche.db.lock").write_text("")
    with pytest.raises(StoreLocked) as caught:
        FileLock.take(path, 2)
    assert caught.value.pid is None
    assert "in use by another plane" in str(caught.value)
    lock.release()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"x", b"garbage " * 4096, b"SQLite format 3\x00", b"\0" * 4096],
    ids=["one byte", "text", "a cut-off header", "zeros"],
)
def test_what_is_no_database_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "creche.db"
    path.write_bytes(content)
    before = all_bytes(tmp_path)
    with pytest.raises(StoreUnusable, match="is not a database"):
        check_file(str(path))
    assert all_bytes(tmp_path) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_database_is_refused_and_not_touched(tmp_path: Path, mode: str) -> None:
    path = a_database(tmp_path / "creche.db", f"PRAGMA journal_mode={mode}", "CREATE TABLE job (a)")
    before = all_bytes(tmp_path)
    check_file(str(path))  # its header says nothing of whose it is
    with pytest.raises(StoreUnusable, match="another program's database"):
        open_to_write(str(path))
    assert all_bytes(tmp_path) == before


def test_a_marked_database_of_another_program_is_refused_by_its_header(tmp_path: Path) -> None:
    path = a_database(tmp_path / "creche.db", "PRAGMA application_id=77", "CREATE TABLE job (a)")
    with pytest.raises(StoreUnusable, match="another program's database"):
        check_file(str(path))


def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    open_to_write(str(path)).close()
    a_database(path, "PRAGMA user_version=9999")
    before = all_bytes(tmp_path)
    with pytest.raises(StoreUnusable, match=r"newer version of Creche.*9999"):
        check_file(str(path))
    assert all_bytes(tmp_path) == before


def test_a_newer_schema_that_is_still_in_the_log_is_refused_and_not_touched(
    tmp_path: Path,
) -> None:
    """As a newer version leaves it that was killed right after its migration."""
    (tmp_path / "living").mkdir()
    (tmp_path / "dead").mkdir()
    living = tmp_path / "living" / "creche.db"
    open_to_write(str(living)).close()
    with closing(sqlite3.connect(living, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version=9999")
        for name in ("creche.db", "creche.db-wal"):
            (tmp_path / "dead" / name).write_bytes((tmp_path / "living" / name).read_bytes())
    dead = tmp_path / "dead" / "creche.db"
    before = all_bytes(dead.parent)
    check_file(str(dead))
    with pytest.raises(StoreUnusable, match="newer version of Creche"):
        open_to_write(str(dead))
    assert all_bytes(dead.parent) == before


def test_a_folder_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="is a folder"):
        check_file(str(tmp_path))
    with pytest.raises(StoreUnusable, match="there is no folder"):
        check_file(str(tmp_path / "nowhere" / "creche.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    open_to_write(str(path)).close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 8000)
    check_file(str(path))
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        open_to_write(str(path))
    with pytest.raises(StoreUnusable, match="cannot be read"):
        open_to_read(str(path))


def test_nothing_is_read_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="there is no store"):
        open_to_read(str(tmp_path / "creche.db"))
    (tmp_path / "creche.db").touch()
    with pytest.raises(StoreUnusable, match="is empty"):
        open_to_read(str(tmp_path / "creche.db"))


def test_a_store_that_was_cut_off_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    path = a_database(tmp_path / "creche.db", "PRAGMA journal_mode=WAL")
    assert path.stat().st_size > 0
    check_file(str(path))
    open_to_write(str(path)).close()
    open_to_read(str(path)).close()


# --- the schema ---------------------------------------------------------------------------------


def test_a_new_store_is_marked_as_ours_and_synced_with_every_commit(tmp_path: Path) -> None:
    with closing(open_to_write(str(tmp_path / "creche.db"))) as connection:
        settings = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode", "synchronous")
        }
    assert settings == {
        "application_id": APPLICATION_ID,
        "user_version": max(migrations()),
        "journal_mode": "wal",
        "synchronous": 2,
    }


def test_migrations_are_numbered_without_gaps() -> None:
    assert list(migrations()) == [*range(1, len(migrations()) + 1)]


def test_a_store_is_brought_forward_by_the_steps_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "0001.sql").write_text("CREATE TABLE a (x); -- one; with a comment\n")
    (tmp_path / "0002.sql").write_text("INSERT INTO a\n  VALUES ('a;b');\nCREATE TABLE b (y);\n")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE a (x)")
        connection.execute("PRAGMA user_version=1")
        migrate(connection, tmp_path)
        migrate(connection, tmp_path)
        assert connection.execute("SELECT x FROM a").fetchall() == [("a;b",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_step_that_fails_leaves_the_one_before_it(tmp_path: Path) -> None:
    (tmp_path / "0001.sql").write_text("CREATE TABLE a (x);\n")
    (tmp_path / "0002.sql").write_text("CREATE TABLE b (y);\nINSERT INTO nowhere VALUES (1);\n")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(connection, tmp_path)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("a",)]


def test_a_store_of_the_first_version_gets_an_id_and_its_backup_another(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "0001.sql").write_text(migrations()[1].read_text("utf-8"))
    path = str(tmp_path / "creche.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        migrate(connection, old)
    copies = [str(tmp_path / name) for name in ("one.db", "two.db")]
    backup(path, copies[0])
    ids = []
    for each in (path, path, copies[0]):
        with closing(open_to_write(each)) as connection:
            ids += connection.execute("SELECT id FROM ledger").fetchone()
    backup(path, copies[1])
    with closing(open_to_write(copies[1])) as connection:
        ids += connection.execute("SELECT id FROM ledger").fetchone()
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert {len(found) for found in ids} == {16}


def test_a_store_from_before_tries_is_sound_and_keeps_its_jobs_when_it_is_opened(
    tmp_path: Path,
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for number in (1, 2):
        (old / f"000{number}.sql").write_text(migrations()[number].read_text("utf-8"))
    path = str(tmp_path / "creche.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        migrate(connection, old)
        for seq, state, stored, ending in ((1, 1, 0, None), (2, 1, 1, None), (3, 11, None, 1)):
            connection.execute(
                "INSERT INTO job (seq, id, task, lane, state, stored, submitted_at, payload_bytes,"
                " ending, payload) VALUES (?, ?, 'echo', 1, ?, ?, 1.0, 1, ?, x'80')",
                (seq, bytes([seq]) * 16, state, stored, ending),
            )
        connection.execute("INSERT INTO ending VALUES (1, 3, 1, 0, 'w1', 1.0, 2.0, 1, x'f6')")
        counts = '{"1": 2, "11": 1}'
        connection.execute("UPDATE ledger SET next_seq=4, kept_bytes=2, counts=?", (counts,))
    assert verify(path) == []
    with closing(open_to_write(path)) as connection:
        ledger = Ledger(connection, 1 << 30)
        assert ledger.open(3.0)[2:5] == (4, [], [(1, 1, 2)])
        assert [(row[0], *row[-3:]) for row in ledger.read_held(0, 9, 999)] == [(1, 0, None, None)]
        assert ledger.outcomes([b"\3" * 16], None) == [(3, b"\3" * 16, 11, b"\xf6", False)]
    assert verify(path) == []


def test_reading_beside_a_writer_sees_its_commits_and_leaves_its_files(tmp_path: Path) -> None:
    path = str(tmp_path / "creche.db")
    with closing(open_to_write(path)) as writer:
        with closing(open_to_read(path)) as reader:
            writer.execute("INSERT INTO task VALUES ('resize', x'00', 1.0)")
            assert reader.execute("SELECT count(*) FROM task").fetchone() == (1,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM task")
        assert os.path.exists(path + "-wal")
    assert [file.name for file in tmp_path.iterdir()] == ["creche.db"]


# --- the log ------------------------------------------------------------------------------------


def kept_after_a_crash(path: Path) -> list[int]:
    """Return what SQLite finds in a copy of the files, as they are under an open connection."""
    there = path.parent / "crashed"
    there.mkdir()
    for file in (path, Path(f"{path}-wal")):
        (there / file.name).write_bytes(file.read_bytes())
    with closing(sqlite3.connect(there / path.name)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [n for (n,) in connection.execute("SELECT n FROM number ORDER BY n")]


def test_a_log_that_was_laid_out_holds_what_was_committed_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    with closing(open_to_write(str(path))) as connection:
        connection.execute("CREATE TABLE number (n)")
        connection.execute("INSERT INTO number VALUES (1)")
        lay_out_log(str(path))
        laid_out = os.path.getsize(f"{path}-wal")
        assert laid_out >= LOG_PAGES * 4096
        lay_out_log(str(path))
        connection.execute("INSERT INTO number VALUES (2)")
        assert os.path.getsize(f"{path}-wal") == laid_out
        assert kept_after_a_crash(path) == [1, 2]


def test_a_log_that_there_is_no_room_for_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    with closing(open_to_write(str(path))) as connection:
        connection.execute("CREATE TABLE number (n)")
        connection.execute("INSERT INTO number VALUES (1)")
        before = os.path.getsize(f"{path}-wal")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        try:
            lay_out_log(str(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os.path.getsize(f"{path}-wal") == before
        connection.execute("INSERT INTO number VALUES (2)")
        assert kept_after_a_crash(path) == [1, 2]
