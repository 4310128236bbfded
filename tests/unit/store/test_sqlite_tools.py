"""What can be done with a store's file from outside the plane."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from creche.errors import StoreFull, StoreLocked, StoreUnusable
from creche.model.job import JobState
from creche.store.base import Batch, Retention, Store
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_tools import backup, compact, info, verify
from creche.testing.store_rows import NOW, bounded, change, end, made, new_job, prune_all

pytestmark = pytest.mark.trio


def names(folder: Path) -> list[str]:
    """Return what is in *folder*."""
    return sorted(os.listdir(folder))


async def a_busy_store(path: Path) -> Store:
    """Return an open store that has jobs of every kind."""
    store = bounded(SqliteStore(path))
    await store.open(NOW)
    jobs = [
        new_job(n, stored=n > 80, payload=b"x" * (5000 if n % 7 == 0 else 20))
        for n in range(1, 101)
    ]
    await store.commit(Batch(jobs=jobs))
    await store.commit(Batch(ends=[end(n) for n in range(1, 31)]))
    await store.prune(NOW, Retention(10, None, None), ())
    await store.commit(
        Batch(changes=[change(n) for n in range(31, 51)], tries=[made(31, 1), made(31, 2)])
    )
    await store.commit(Batch(changes=[change(99, state=JobState.DELAYED, stored=True)]))
    return store


async def test_facts_are_read_with_and_without_a_plane(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    store = await a_busy_store(path)
    running = info(path)
    assert running == {name: fact for name, fact in (await store.info()).items() if name != "pid"}
    await store.aclose()
    closed = info(path)
    assert closed["wal_bytes"] == 0
    counted = {name: closed[name] for name in ("jobs", "unfinished", "ended", "tombstones")}
    assert counted == {"jobs": 100, "unfinished": 70, "ended": 10, "tombstones": 20}


async def test_a_question_to_the_plane_leaves_its_log_locked_against_the_tools(
    tmp_path: Path,
) -> None:
    path = tmp_path / "creche.db"
    store = await a_busy_store(path)
    await store.jobs(limit=1)
    assert verify(path) == []
    info(path)
    backup(path, tmp_path / "copy.db")
    assert {"creche.db-wal", "creche.db-shm"} <= set(names(tmp_path))
    await store.aclose()


async def test_a_sound_store_has_no_problems_with_and_without_a_plane(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    store = await a_busy_store(path)
    assert verify(path) == []
    await store.aclose()
    assert verify(path) == []


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("DELETE FROM ending WHERE seq = 25", "ended jobs have no end"),
        ("DELETE FROM tombstone WHERE seq = 5", "forgotten jobs have no tombstone"),
        ("UPDATE job SET stored = NULL WHERE seq = 60", "unfinished jobs have an end"),
        ("UPDATE job SET stored = 1 WHERE seq = 25", "or wait in a lane"),
        ("DELETE FROM job WHERE seq = 25", "ends are nobody's"),
        ("DELETE FROM job WHERE seq = 5", "tombstones are nobody's"),
        ("DELETE FROM large WHERE seq = 70", "jobs have lost their payload"),
        ("INSERT INTO large VALUES (3, x'00')", "large payloads are nobody's"),
        ("UPDATE ending SET outcome = x'00' WHERE seq = 25", "another size"),
        ("UPDATE job SET state = 17 WHERE seq = 60", "a state that does not exist"),
        ("DELETE FROM try WHERE seq = 31 AND attempt = 1", "tries of another size"),
        ("UPDATE try SET seq = 77 WHERE seq = 31 AND attempt = 1", "tries of another size"),
        ("INSERT INTO dead VALUES (60, 1.0, 20, 0, NULL, NULL)", "dead jobs are not dead"),
        ("INSERT INTO dead VALUES (29, 1.0, 31, 0, NULL, NULL)", "dead jobs are not dead"),
        ("INSERT INTO unique_key VALUES (randomblob(16), 999, 1.0)", "unique keys are of"),
        ("INSERT INTO unique_key VALUES (randomblob(16), 29, 'x')", "unique keys are of"),
        ("INSERT INTO ousted VALUES (999, 0, 0)", "are to be cancelled as replaced"),
        ("INSERT INTO dead VALUES (29, 1.0, 7, 2, NULL, NULL)", "or of another size"),
        ("UPDATE job SET stored = 1 WHERE seq = 99", "others for their time"),
        ("UPDATE job SET stored = 2 WHERE seq = 98", "others for their time"),
        ("UPDATE ledger SET next_seq = 7", "would be given again"),
        ("UPDATE ledger SET counts = '{}'", "the jobs by state"),
        ("UPDATE ledger SET kept_bytes = 1", "ended jobs take"),
        *(
            (f"UPDATE ledger SET {column} = {value}", f"{column} of the ledger is ")
            for column in ("epoch", "next_seq", "kept_bytes", "opened_at")
            for value in ("'x'", "x'ff'", "CAST(x'ff41' AS TEXT)")
        ),
        ("UPDATE ledger SET epoch = 9223372036854775807", "no plane can open this store"),
        ("UPDATE ledger SET next_seq = 9223372036854775807", "no plane can open this store"),
        ("UPDATE ledger SET kept_bytes = -1", "no number of bytes"),
        ('UPDATE ledger SET counts = \'{"1": "many"}\'', "recorded as"),
        ("UPDATE ledger SET counts = CAST(x'ff41' AS TEXT)", "the ledger cannot be read"),
        ("UPDATE job SET payload_bytes = 9223372036854775807 WHERE seq = 99", "damaged `payload_b"),
        ("UPDATE ledger SET counts = 'nonsense'", "the ledger cannot be read"),
        ("UPDATE ledger SET counts = '[]'", "the ledger cannot be read"),
        ("DELETE FROM ledger", "the ledger cannot be read"),
    ],
)
async def test_each_harm_done_to_a_store_is_found(tmp_path: Path, harm: str, said: str) -> None:
    path = tmp_path / "creche.db"
    await (await a_busy_store(path)).aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(harm).rowcount == 1
    assert any(said in problem for problem in verify(path)), verify(path)


async def test_a_torn_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    await (await a_busy_store(path)).aclose()
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'job'"
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    assert verify(path)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.0])
async def test_a_store_that_was_cut_off_is_found(tmp_path: Path, share: float) -> None:
    path = tmp_path / "creche.db"
    await (await a_busy_store(path)).aclose()
    os.truncate(path, max(100, int(path.stat().st_size * share)))
    (problem, *_) = verify(path)
    assert "cannot be read" in problem or "page" in problem.lower()


async def test_a_store_without_its_tables_is_found(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    await (await a_busy_store(path)).aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE ledger")
    assert verify(path) == ["the file cannot be read: no such table: ledger (SQLITE_ERROR)"]


async def test_a_backup_beside_a_plane_is_the_store_of_one_moment(tmp_path: Path) -> None:
    path, target = tmp_path / "creche.db", tmp_path / "copy.db"
    store = await a_busy_store(path)
    assert backup(path, target) == target.stat().st_size
    await store.commit(Batch(jobs=[new_job(500)]))
    await store.aclose()
    assert verify(target) == []
    restored = bounded(SqliteStore(target))
    found = await restored.open(NOW)
    assert (found.epoch, found.next_seq, found.ended, len(found.held)) == (2, 101, 10, 50)
    await restored.aclose()
    # Both go on from here, and give the same numbers to other jobs.
    original = bounded(SqliteStore(path))
    assert (await original.open(NOW)).id != found.id
    await original.aclose()
    assert names(tmp_path) == ["copy.db", "creche.db"]


async def test_a_backup_replaces_nothing(tmp_path: Path) -> None:
    path, target = tmp_path / "creche.db", tmp_path / "copy.db"
    await (await a_busy_store(path)).aclose()
    target.write_text("precious")
    with pytest.raises(StoreUnusable, match="is there already"):
        backup(path, target)
    assert target.read_text() == "precious"


async def test_a_backup_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    await (await a_busy_store(path)).aclose()
    with pytest.raises(StoreUnusable):
        backup(path, tmp_path / "nowhere" / "copy.db")
    assert names(tmp_path) == ["creche.db"]


@contextmanager
def files_no_longer_than(limit: int) -> Iterator[None]:
    """Have this process write no further into any file, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_backup_for_which_there_is_no_room_blames_its_target(tmp_path: Path) -> None:
    path, target = tmp_path / "creche.db", tmp_path / "copy.db"
    await (await a_busy_store(path)).aclose()
    with files_no_longer_than(50_000):
        with pytest.raises(StoreFull) as caught:
            backup(path, target)
    assert str(caught.value).startswith(f"the backup {target} cannot be written: ")
    assert names(tmp_path) == ["creche.db"]


@pytest.mark.parametrize("limit", [0, 50_000], ids=["lock", "copy"])
async def test_compacting_without_room_says_what_to_do(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "creche.db"
    await (await a_busy_store(path)).aclose()
    before = path.read_bytes()
    with files_no_longer_than(limit):
        with pytest.raises(StoreFull, match="make room on its disk") as caught:
            compact(path)
    assert str(path) in str(caught.value)
    assert verify(path) == []
    assert len(path.read_bytes()) == len(before)


async def test_compacting_gives_back_what_pruning_freed(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    store = await a_busy_store(path)
    await store.commit(Batch(ends=[end(n) for n in range(31, 101)]))
    await prune_all(store, NOW, Retention(0, None, None, tombstone_s=0.0))
    with pytest.raises(StoreLocked) as caught:
        compact(path)
    assert caught.value.pid == os.getpid()
    await store.aclose()
    before, after = compact(path)
    assert path.stat().st_size == after < before
    assert verify(path) == []
    assert names(tmp_path) == ["creche.db"]


@pytest.mark.parametrize("tool", [info, verify, compact, lambda path: backup(path, f"{path}.copy")])
async def test_a_file_that_is_no_store_is_refused_by_every_tool(
    tmp_path: Path, tool: Callable[[Path], object]
) -> None:
    for content in (None, b"", b"garbage" * 1000):
        if content is not None:
            (tmp_path / "creche.db").write_bytes(content)
        with pytest.raises(StoreUnusable):
            tool(tmp_path / "creche.db")
        assert names(tmp_path) == (["creche.db"] if content is not None else [])
