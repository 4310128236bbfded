"""The SQLite store as processes: killed, hung, out of room, without rights, in each other's way."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import creche
from creche import pipe
from creche.errors import (
    StoreError,
    StoreFull,
    StoreLocked,
    StoreOverLimit,
    StoreUnavailable,
    StoreUnusable,
)
from creche.model.filter import Filter
from creche.model.job import JobState
from creche.store import sqlite, sqlite_pipe
from creche.store.base import Batch, Store
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_file import open_to_write
from creche.store.sqlite_tools import verify
from creche.testing.store_rows import (
    KEEP_NONE,
    NOW,
    as_row,
    bounded,
    change,
    end,
    job_id,
    new_job,
    prune_all,
)

pytestmark = pytest.mark.trio

BOUND_S = 60.0

needs_prlimit = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="another process's limits can be set on Linux only"
)


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file of *folder* as it is."""
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


@asynccontextmanager
async def opened(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    await bounded(store).open(NOW)
    try:
        yield store
    finally:
        await store.aclose()


def process_of(store: SqliteStore) -> int:
    assert store.pid is not None
    return store.pid


def stop(pid: int) -> None:
    """Stop a child of this process, and return when it has stopped: a signal takes its time."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Script:
    """A Python program of its own, that says a line when it is ready."""

    def __init__(self, code: str, *args: str, preexec: Callable[[], None] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *args],
            env=os.environ | {"PYTHONPATH": str(Path(creche.__file__).parent.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,
        )
        self.pid = self._process.pid

    async def line(self) -> str:
        """Wait for the next line it says."""
        assert self._process.stdout is not None
        with trio.fail_after(BOUND_S):
            return (await trio.to_thread.run_sync(self._process.stdout.readline)).strip()

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def without_rights() -> None:
    """Let root obey file permissions like anybody: what this process executes has no capability.

    Not another user, to whom the interpreter itself may be out of reach.
    """
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        drop_from_bounding_set = 24
        number = 0
        while prctl(drop_from_bounding_set, number, 0, 0, 0) == 0:
            number += 1
        if number == 0:
            raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


# --- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(6))
async def test_a_killed_process_keeps_every_batch_it_acknowledged_and_no_half_one(
    tmp_path: Path, steps: int
) -> None:
    path, size = tmp_path / "creche.db", 50
    acknowledged: list[int] = []
    started = 0

    def batch(number: int) -> Batch:
        seqs = range(number * size + 1, (number + 1) * size + 1)
        return Batch(jobs=[new_job(n, payload=b"x" * 500, stored=n % 2 == 0) for n in seqs])

    async with opened(SqliteStore(path)) as store:
        pid = process_of(store)
        killed = trio.Event()

        async def submit() -> None:
            nonlocal started
            with pytest.raises(StoreUnavailable):
                for number in range(1000):
                    started = number + 1
                    await store.commit(batch(number))
                    acknowledged.append(number)
                    if number == 4:
                        killed.set()

        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit)
                await killed.wait()
                for _ in range(steps):  # into the next commit, more or less
                    await trio.lowlevel.checkpoint()
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match=f"pid {pid}"):
            await store.counts()

    assert verify(path) == []
    async with opened(SqliteStore(path)) as store:
        for number in range(started):
            ids = [job.id for job in batch(number).jobs]
            found = len(await store.find(ids))
            assert found == size if number in acknowledged else found in (0, size)
        assert 5 <= len(acknowledged) <= started


async def test_every_call_that_waits_learns_that_the_process_is_gone(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "creche.db")) as store:
        failed: list[str] = []

        async def wait_for(name: str, *args: object) -> None:
            with pytest.raises(StoreUnavailable):
                await getattr(store, name)(*args)
            failed.append(name)

        stop(process_of(store))
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                for call in (("commit", Batch()), ("find", [job_id(1)]), ("counts",), ("info",)):
                    nursery.start_soon(wait_for, *call)
                await trio.testing.wait_all_tasks_blocked()
                assert failed == []
                os.kill(process_of(store), signal.SIGKILL)
        assert sorted(failed) == ["commit", "counts", "find", "info"]
        with pytest.raises(StoreUnavailable):
            await store.commit(Batch())


async def test_a_plane_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    plane = """
        import sys, trio
        from creche.store.sqlite import SqliteStore

        async def main():
            store = SqliteStore(sys.argv[1])
            await store.open(0.0)
            print(store.pid, flush=True)
            await trio.sleep_forever()

        trio.run(main)
    """
    with Script(plane, str(tmp_path / "creche.db")) as script:
        pid = int(await script.line())
        ended = os.pidfd_open(pid)
        try:
            script.kill()
            with trio.fail_after(BOUND_S):
                await trio.lowlevel.wait_readable(ended)
        finally:
            os.close(ended)
    async with opened(SqliteStore(tmp_path / "creche.db")):
        pass  # and it held nothing


async def test_the_terminals_signals_are_the_planes_affair(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "creche.db")) as store:
        pid = process_of(store)
        assert os.getsid(pid) == os.getpgid(pid) == pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        await bounded(store).commit(Batch(jobs=[new_job(1)]))


# --- ended --------------------------------------------------------------------------------------


async def test_closing_leaves_one_file_and_no_process(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "creche.db")) as store:
        pid = process_of(store)
        await store.commit(Batch(jobs=[new_job(1)]))
        await store.counts()
    assert store.pid is None
    assert not is_there(pid)
    assert list(all_bytes(tmp_path)) == ["creche.db"]


async def test_closing_a_process_that_hangs_kills_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "creche.db", close_wait_s=0.1)
    await bounded(store).open(NOW)
    pid = process_of(store)
    os.kill(pid, signal.SIGSTOP)
    await bounded(store).aclose()
    assert not is_there(pid)


async def test_closing_is_not_cut_short_by_cancelling(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "creche.db")
    await bounded(store).open(NOW)
    pid = process_of(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.aclose()
    assert not is_there(pid)
    assert list(all_bytes(tmp_path)) == ["creche.db"]


async def test_an_opening_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    async with opened(SqliteStore(path)):
        second = SqliteStore(path, lock_wait_s=3600.0)
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.open, NOW)
                while second.pid is None:
                    await trio.lowlevel.checkpoint()
                pid = second.pid
                nursery.cancel_scope.cancel()
        assert second.pid is None
        assert not is_there(pid)


# --- in each other's way ------------------------------------------------------------------------


async def test_a_second_plane_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = str(tmp_path / "creche.db")
    plane = """
        import sys, trio
        from creche.store.sqlite import SqliteStore

        async def main():
            store = SqliteStore(sys.argv[1])
            await store.open(0.0)
            print("ready", flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)

        trio.run(main)
    """
    with Script(plane, path) as script:
        assert await script.line() == "ready"
        with pytest.raises(StoreLocked) as caught:
            await bounded(SqliteStore(path, lock_wait_s=0.0)).open(NOW)
        assert (caught.value.path, caught.value.pid) == (path, script.pid)


async def test_a_second_plane_waits_for_the_first_to_leave(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    first, second = SqliteStore(path), SqliteStore(path, lock_wait_s=3600.0)
    await bounded(first).open(NOW)
    epochs: list[int] = []

    async def open_second() -> None:
        epochs.append((await second.open(NOW)).epoch)

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_second)
            while second.pid is None:
                await trio.lowlevel.checkpoint()
            await first.commit(Batch(jobs=[new_job(1)]))
            assert epochs == []
            await first.aclose()
    assert epochs == [2]
    assert len(await second.find([job_id(1)])) == 1
    await second.aclose()


# --- unusable -----------------------------------------------------------------------------------


async def refused(path: Path) -> str:
    """Return why the store at *path* cannot be opened; nothing beside it may have changed."""
    before = all_bytes(path.parent)
    store = SqliteStore(path)
    with pytest.raises(StoreUnusable) as caught:
        await bounded(store).open(NOW)
    assert all_bytes(path.parent) == before
    assert store.pid is None
    return str(caught.value)


async def test_garbage_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    path.write_bytes(b"these are my notes, not a database\n" * 1000)
    assert "is not a database" in await refused(path)


async def test_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "creche.db"
    connection = open_to_write(str(path))
    connection.execute("PRAGMA user_version=77")
    connection.close()
    assert "newer version of Creche" in await refused(path)


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_a_user_may_not_write_is_refused_and_not_touched(
    tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    path = folder / "creche.db"
    async with opened(SqliteStore(path)):
        pass
    before = all_bytes(folder)
    plane = """
        import sys, trio
        from creche.errors import StoreUnusable
        from creche.store.sqlite import SqliteStore

        try:
            trio.run(SqliteStore(sys.argv[1]).open, 0.0)
        except StoreUnusable as error:
            print(error, flush=True)
    """
    target = path if what == "file" else folder
    mode = target.stat().st_mode
    target.chmod(0o444 if what == "file" else 0o555)
    try:
        with Script(plane, str(path), preexec=without_rights) as script:
            said = await script.line()
    finally:
        target.chmod(mode)
    assert ("is not writable" if what == "file" else "may not write to its folder") in said
    assert all_bytes(folder) == before


# --- out of room --------------------------------------------------------------------------------


async def fill_the_disk(path: Path) -> None:
    """Commit until there is no room (`RLIMIT_FSIZE`), then make room and go on."""
    async with opened(SqliteStore(path)) as plain:
        store: Store = bounded(plain)
        pid = process_of(plain)
        await store.commit(Batch(jobs=[new_job(1)]))
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        first = 2
        for _ in range(100):
            batch = Batch(jobs=[new_job(n, payload=b"x" * 1000) for n in range(first, first + 100)])
            try:
                await store.commit(batch)
            except StoreFull:
                break
            first += 100
        else:
            raise AssertionError("the limit was never met")
        # Nothing of the batch is there, all of the others is, and it says so again and again.
        with pytest.raises(StoreFull):
            await store.commit(batch)
        assert dict(await store.counts()) == {JobState.QUEUED: first - 1}
        assert list(await store.find([job.id for job in batch.jobs])) == []
        assert len(await store.find([job_id(n) for n in range(1, first)])) == first - 1
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        await store.commit(batch)
        assert process_of(plain) == pid
        assert len(await store.find([job.id for job in batch.jobs])) == 100
    assert verify(path) == []


@needs_prlimit
async def test_a_full_disk_refuses_whole_batches_until_there_is_room(tmp_path: Path) -> None:
    await fill_the_disk(tmp_path / "creche.db")


@needs_prlimit
async def test_a_full_disk_is_the_same_for_an_unprivileged_user(tmp_path: Path) -> None:
    plane = f"""
        import importlib.util, pathlib, sys, trio
        spec = importlib.util.spec_from_file_location("scenario", {__file__!r})
        scenario = importlib.util.module_from_spec(spec)
        sys.modules["scenario"] = scenario
        spec.loader.exec_module(scenario)
        trio.run(scenario.fill_the_disk, pathlib.Path(sys.argv[1]))
        print("went on", flush=True)
    """
    with Script(plane, str(tmp_path / "creche.db"), preexec=without_rights) as script:
        assert await script.line() == "went on"


async def test_a_store_that_finds_no_room_from_the_start_leaves_nothing(tmp_path: Path) -> None:
    plane = """
        import resource, sys, trio
        from creche.errors import StoreUnusable
        from creche.store.sqlite import SqliteStore

        limit = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            trio.run(SqliteStore(sys.argv[1]).open, 0.0)
        except StoreUnusable as error:
            print("refused:", error, flush=True)
    """
    for limit in ("0", "5000"):  # no lock file can be written, and no schema
        with Script(plane, str(tmp_path / "creche.db"), limit) as script:
            assert (await script.line()).startswith("refused:")
        assert all_bytes(tmp_path) == {}


# --- questions ----------------------------------------------------------------------------------


async def test_a_question_that_takes_too_long_is_given_up_and_nothing_else_is(
    tmp_path: Path,
) -> None:
    async with opened(SqliteStore(tmp_path / "creche.db", question_s=0.0)) as store:
        for first in range(1, 20_001, 4000):
            await store.commit(Batch(jobs=[new_job(n) for n in range(first, first + 4000)]))
        with pytest.raises(StoreError, match="took longer"):
            await store.jobs(Filter.parse("task:nobody's"))
        assert (await store.counts())[JobState.QUEUED] == 20_000
        assert len((await store.jobs(limit=5)).records) == 5
        await store.commit(Batch(jobs=[new_job(30_000)]))


async def test_a_question_that_the_file_cannot_answer_fails_alone(tmp_path):
    store = SqliteStore(tmp_path / "creche.db")
    await store.open(1.0)
    try:
        with sqlite3.connect(tmp_path / "creche.db") as connection:
            connection.execute("ALTER TABLE ending RENAME TO gone")
        connection.close()
        with pytest.raises(StoreError, match="cannot be read") as caught:
            await store.outcomes([b"x" * 16])
        assert not isinstance(caught.value, StoreUnavailable)
        assert dict(await store.find([b"x" * 16])) == {}
    finally:
        await store.aclose()


async def test_counts_do_not_wait_behind_questions_of_history(tmp_path):
    async with opened(SqliteStore(tmp_path / "creche.db")) as store:
        order: list[str] = []

        async def ask(name: str, **filters: object) -> None:
            await getattr(store, name)(**filters)
            order.append(name)

        await store.commit(Batch(jobs=[new_job(seq) for seq in range(1, 20_001)]))
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(partial(ask, "jobs", filter=Filter.parse("task:none")))
                await trio.testing.wait_all_tasks_blocked()
                await ask("counts")
        assert order.index("counts") < 100


# --- how much at a time -------------------------------------------------------------------------


async def test_what_was_held_comes_back_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "PIECE_BYTES", 5000)
    jobs = [new_job(n, payload=b"x" * 2000, stored=n % 3 == 0) for n in range(1, 31)]
    async with opened(SqliteStore(tmp_path / "creche.db")) as store:
        await store.commit(Batch(jobs=jobs))
    again = SqliteStore(tmp_path / "creche.db")
    found = await again.open(NOW)
    assert list(found.held) == [as_row(job) for job in jobs if not job.stored]
    await again.aclose()


async def test_a_request_that_is_too_long_is_an_error_of_its_own(tmp_path, monkeypatch):
    async with opened(SqliteStore(tmp_path / "creche.db")) as store:
        monkeypatch.setattr(pipe, "MAX_BYTES", 10_000)
        with pytest.raises(StoreError, match="too much for one message") as caught:
            await store.commit(Batch(jobs=[new_job(1, payload=b"x" * 20_000)]))
        assert not isinstance(caught.value, StoreUnavailable)
        await store.commit(Batch(jobs=[new_job(1)]))


async def test_an_answer_that_is_too_long_is_an_error_instead(monkeypatch):
    monkeypatch.setattr(pipe, "MAX_BYTES", 100)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        end = sqlite_pipe.AnsweringEnd(ours)
        end.send((sqlite_pipe.OK, b"x" * 200))
        end.send((sqlite_pipe.OK, b"short"))
        other = sqlite_pipe.AnsweringEnd(theirs)
        kind, why = other.receive()
        assert kind == sqlite_pipe.ERROR
        assert "too much" in why
        assert other.receive() == (sqlite_pipe.OK, b"short")


async def test_a_file_over_its_limit_takes_no_new_jobs_until_results_were_let_go_of(tmp_path):
    async with opened(SqliteStore(tmp_path / "creche.db", max_bytes=8_000_000)) as store:
        taken = 0
        with pytest.raises(StoreOverLimit, match="over its limit of 8,000,000"):
            while taken < 100:
                await store.commit(Batch(jobs=[new_job(taken + 1, payload=b"x" * 500_000)]))
                taken += 1
        assert 10 <= taken <= 20
        # What is there goes on.
        await store.commit(Batch(changes=[change(1)]))
        await store.commit(Batch(ends=[end(n) for n in range(1, taken + 1)]))
        with pytest.raises(StoreOverLimit):
            await store.commit(Batch(jobs=[new_job(99)]))
        await prune_all(store, NOW, KEEP_NONE)
        await store.commit(Batch(jobs=[new_job(99, payload=b"x" * 500_000)]))


async def test_results_make_a_file_reach_its_limit_too(tmp_path):
    async with opened(SqliteStore(tmp_path / "creche.db", max_bytes=8_000_000)) as store:
        taken = 0
        with pytest.raises(StoreOverLimit):
            while taken < 100:
                taken += 1
                await store.commit(Batch(jobs=[new_job(taken)]))
                await store.commit(Batch(ends=[end(taken, outcome=b"x" * 500_000)]))
        assert 10 <= taken <= 20
