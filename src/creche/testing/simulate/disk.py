"""The disk of a simulation: what the plane's store does when the disk is full, slow, or loses its
power in the middle of a write.

The store is the real one, in an SQLite file, but in this process: another would not wait for a
virtual clock.
"""

from __future__ import annotations

import random
import shutil
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import trio

from creche.errors import StoreFull, StoreUnavailable
from creche.pipe import pack, unpack
from creche.store.base import Batch, Duplicate, Durability, Recovery, Store
from creche.store.memory import MemoryStore
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_file import open_to_read, open_to_write
from creche.store.sqlite_history import History
from creche.store.sqlite_ledger import Ledger

T = TypeVar("T")

Loss: TypeAlias = Literal["before", "after", "read"]
"""When the store's process is killed: before or after a commit is done, or as it reads."""

MAX_BYTES = 1 << 40


class DiskLikeStore(MemoryStore):
    """Keeps what it is given while its object lives, as a store on disk does."""

    durability = Durability.DISK

    async def open(self, now: float) -> Recovery:
        """See `LedgerStore.open`. Whoever had it open before was killed, and could not close it."""
        self._is_open = False
        return await super().open(now)


class InlineSqliteStore(SqliteStore):
    """The store in an SQLite file, without its process. What is asked of it and what it answers go
    through the same bytes as over the process's pipe. The ledger is called *ledger_id*; None: what
    it is called already."""

    def __init__(self, path: Path, ledger_id: str | None = None) -> None:
        super().__init__(path)
        self._ledger_id = ledger_id
        self._line: _Inline | None = None

    async def _start(self) -> None:
        self._line = _Inline(self.path, self._ledger_id)
        self._calls = self._questions = self._line  # type: ignore[assignment]

    async def aclose(self) -> None:
        """See `LedgerStore.aclose`."""
        if self._line is not None:
            self._line.end()
        await trio.lowlevel.checkpoint()


class _Inline:
    """Answers at once what the process would answer."""

    def __init__(self, path: str, ledger_id: str | None) -> None:
        self._db = open_to_write(path)
        if ledger_id is not None:
            self._db.execute("UPDATE ledger SET id = ?", (ledger_id,))
        # What is written is seen by whoever opens the file next; there is no power to fail.
        self._db.execute("PRAGMA synchronous=OFF")
        self._ledger = Ledger(self._db, MAX_BYTES)
        self._history = History(open_to_read(path, is_open_here=True), path, 1e9)
        self._is_open = True

    async def ask(self, name: str, *arguments: Any) -> Any:
        if not self._is_open:
            raise StoreUnavailable("it is closed")
        if name == "open":
            arguments = arguments[:1]  # without the lock: a simulated process holds none
        of = self._ledger if hasattr(self._ledger, name) else self._history
        plain = unpack(pack(arguments)[4:])
        answer = unpack(pack(getattr(of, name)(*plain))[4:])
        await trio.lowlevel.checkpoint()
        return answer

    def end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._history.close()
            self._db.close()


class Disk:
    """The plane's disk, which outlives the plane.

    Args:
        folder: where its file is; None: nothing is written, and no write can be torn.
        seed: what its delays are made from.

    Attributes:
        is_full: whether nothing more can be written.
        slow_s: how long a call may take.
        loss: when the store's process is killed next.
        tear: how much of the log's last write is on the disk when the power fails, from 0 to 1;
            None: it does not fail.
        on_power_failure: called when it does; everything of the plane's machine has to stop.
        on_store_gone, on_store_back: called when the store's process is killed, and when there is
            one again.
    """

    def __init__(self, folder: Path | None, seed: str) -> None:
        self._folder = folder
        self._memory = DiskLikeStore()
        self._rng = random.Random(seed)
        self._ledger_id = self._memory._id = self._rng.randbytes(8).hex()
        self._generation = 0
        self.is_full = False
        self.slow_s = 0.0
        self.loss: Loss | None = None
        self.tear: float | None = None
        self.on_power_failure: Callable[[], None] = lambda: None
        self.on_store_gone: Callable[[], None] = lambda: None
        self.on_store_back: Callable[[], None] = lambda: None

    @property
    def path(self) -> Path | None:
        """Where the file is now."""
        return None if self._folder is None else self._folder / f"{self._generation}.db"

    def make_store(self) -> Store:
        """Return the store that a plane is given when it starts."""
        inner = self._memory if self.path is None else InlineSqliteStore(self.path, self._ledger_id)
        return cast("Store", _OnDisk(inner, self, self._rng))

    def heal(self) -> None:
        """From now on it does nothing wrong."""
        self.is_full, self.slow_s, self.loss, self.tear = False, 0.0, None, None

    async def fail_at(self, commit: Callable[[], Awaitable[object]], written: float) -> None:
        """Do *commit*, and have the power fail when so much of it was *written*: what is on disk
        afterwards is another file, which the next plane finds."""
        path = self.path
        if path is None:
            if written >= 1.0:
                await commit()
        else:
            log = path.with_name(f"{path.name}-wal")
            before = log.read_bytes() if log.exists() else b""
            self._generation += 1
            new = self.path
            assert new is not None
            shutil.copyfile(path, new)
            await commit()
            torn = tear(before, log.read_bytes(), written)
            new.with_name(f"{new.name}-wal").write_bytes(torn)
        self.on_power_failure()
        await trio.sleep_forever()


def tear(before: bytes, after: bytes, written: float) -> bytes:
    """Return a file that was *before* and would have been *after*, had not only a part of what is
    new reached the disk, in order: *written*, from 0 to 1, of it."""
    lengths = range(min(len(before), len(after)) + 1)
    same = bisect_left(lengths, True, key=lambda n: before[:n] != after[:n]) - 1
    upto = same + round((len(after) - same) * written)
    return after[:upto] + before[upto:]


class _OnDisk:
    """A store on a disk. Calls are served one after the other, in the order in which they were
    made; answers may be late, and then pass one another."""

    def __init__(self, inner: Store, disk: Disk, rng: random.Random) -> None:
        self.durability = inner.durability
        self._inner = inner
        self._disk = disk
        self._rng = rng
        self._line = trio.StrictFIFOLock()
        self._is_lost = False

    async def open(self, now: float) -> Recovery:
        recovery = await self._inner.open(now)
        self._disk.on_store_back()
        return recovery

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        return await self._serve(lambda: self._commit(batch))

    async def prune(self, *args: Any) -> Any:
        return await self._serve(lambda: self._inner.prune(*args))

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a store is asked is a question."""

        async def ask(*args: Any, **kwargs: Any) -> Any:
            return await self._serve(
                lambda: getattr(self._inner, name)(*args, **kwargs), is_read=True
            )

        return ask

    async def _commit(self, batch: Batch) -> Sequence[Duplicate]:
        disk = self._disk
        self._lose("before")
        if disk.tear is not None:
            written, disk.tear = disk.tear, None
            await disk.fail_at(lambda: self._inner.commit(batch), written)
        if disk.is_full:
            await trio.lowlevel.checkpoint()
            raise StoreFull("no space left on the simulated disk")
        duplicates: Sequence[Duplicate] = ()
        with trio.CancelScope(shield=True):  # that it is done and that it is known are one
            duplicates = await self._inner.commit(batch)
        self._lose("after")
        return duplicates

    async def _serve(self, call: Callable[[], Awaitable[T]], *, is_read: bool = False) -> T:
        disk, rng = self._disk, self._rng
        try:
            self._line.acquire_nowait()
        except trio.WouldBlock:
            await self._line.acquire()
        try:
            if self._is_lost:
                raise StoreUnavailable("the store's process was killed")
            if disk.slow_s:
                await trio.sleep(rng.uniform(0.0, disk.slow_s))
            if is_read:
                self._lose("read")
            answer = await call()
        finally:
            self._line.release()
        if disk.slow_s and is_read and rng.random() < 0.5:
            await trio.sleep(rng.uniform(0.0, disk.slow_s))
        return answer

    def _lose(self, at: Loss) -> None:
        if self._disk.loss == at:
            self._disk.loss = None
            self._is_lost = True
            self._disk.on_store_gone()
            raise StoreUnavailable("the store's process was killed")
