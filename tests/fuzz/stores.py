"""Stores as a run of the fuzz has them: all kinds, and whatever a disk can do to a plane."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import trio
from tests.fuzz.truth import Truth

from creche.errors import StoreError, StoreFull, StoreOverLimit, StoreUnavailable
from creche.store.base import Batch, Duplicate, Durability, Recovery, Store
from creche.store.memory import MemoryStore

T = TypeVar("T")


class DiskLike(MemoryStore):
    """Keeps what it is given, as a store on disk does: what is beyond the window is spilled."""

    durability = Durability.DISK


class Weather:
    """What the disk does at the moment; all fair to begin with."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """All goes well from now on."""
        self.is_full = self.is_over_limit = self.cannot_read = self.takes_small_only = False
        self.slow_s = 0.0
        self.loss: str | None = None
        """When the store's process goes: "before" or "after" the next commit, or at any "read"."""
        self.refused_openings = 0


class Rig:
    """A store under a weather. `Truth` is told what is committed, and checks it.

    Calls are served one after the other, in the order in which they were made; their answers may
    be late, and then pass one another."""

    def __init__(self, inner: Store, weather: Weather, truth: Truth, rng: random.Random) -> None:
        self.inner = inner
        self.durability = inner.durability
        self._weather = weather
        self._truth = truth
        self._rng = rng
        self._line = trio.StrictFIFOLock()
        self._is_lost = False

    async def open(self, now: float) -> Recovery:
        if self._weather.refused_openings:
            self._weather.refused_openings -= 1
            await trio.lowlevel.checkpoint()
            raise StoreError(Truth.OURS)
        recovery = await self.inner.open(now)
        self._truth.opened(recovery)
        return recovery

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        return await self._serve(lambda: self._commit(batch))

    async def _commit(self, batch: Batch) -> Sequence[Duplicate]:
        weather = self._weather
        self._lose("before")
        size = len(batch.jobs) + len(batch.ends) + len(batch.changes)
        if weather.is_full or (weather.takes_small_only and size > 1):
            await trio.lowlevel.checkpoint()
            raise StoreFull("no space left")
        if weather.is_over_limit and batch.jobs:
            await trio.lowlevel.checkpoint()
            raise StoreOverLimit("the file is over its limit")
        with trio.CancelScope(shield=True):  # that it is done and that we know of it is one
            duplicates = await self.inner.commit(batch)
            self._truth.committed(batch, duplicates)
        self._lose("after")
        return duplicates

    def _lose(self, at: str) -> None:
        if self._weather.loss == at:
            self._weather.loss = None
            self._is_lost = True
            raise StoreUnavailable(Truth.OURS)

    async def _serve(self, call: Callable[[], Awaitable[T]], *, is_read: bool = False) -> T:
        weather, rng = self._weather, self._rng
        async with self._line:
            if self._is_lost:
                raise StoreUnavailable(Truth.OURS)
            if weather.slow_s and rng.random() < 0.7:
                await trio.sleep(rng.uniform(0.0, weather.slow_s))
            if is_read:
                self._lose("read")
                if weather.cannot_read and rng.random() < 0.7:
                    await trio.lowlevel.checkpoint()
                    raise StoreError("disk I/O error")
            answer = await call()
        if weather.slow_s and is_read and rng.random() < 0.5:
            await trio.sleep(rng.uniform(0.0, weather.slow_s))
        return answer

    def _read(self, name: str, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return self._serve(lambda: getattr(self.inner, name)(*args, **kwargs), is_read=True)

    async def read_lane(self, *args: Any) -> Any:
        return await self._read("read_lane", *args)

    async def read_due(self, *args: Any) -> Any:
        return await self._read("read_due", *args)

    async def expired(self, *args: Any) -> Any:
        return await self._read("expired", *args)

    async def outcomes(self, ids: Collection[bytes], max_bytes: int | None = None) -> Any:
        return await self._read("outcomes", ids, max_bytes)

    async def find(self, ids: Collection[bytes]) -> Mapping[bytes, Any]:
        found: Mapping[bytes, Any] = await self._read("find", ids)
        return found

    async def is_over(self, *args: Any) -> Any:
        return await self._read("is_over", *args)

    async def prune(self, *args: Any) -> Any:
        return await self._serve(lambda: self.inner.prune(*args))

    async def aclose(self) -> None:
        await self.inner.aclose()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a store is asked is a question."""

        async def ask(*args: Any, **kwargs: Any) -> Any:
            return await self._read(name, *args, **kwargs)

        return ask
