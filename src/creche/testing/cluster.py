"""A whole cluster in one Trio run: plane, workers and clients, over memory channels.

With pytest-trio's ``autojump_clock`` time costs nothing, and `creche.channel.memory.Faults` lose,
delay, duplicate or cut whatever frame a test chooses::

    async def test_it(autojump_clock):
        async with open_cluster([echo]) as cluster, cluster.client() as client:
            job = await client.submit(echo, 7)
            assert await job.result() == 7

Only coroutine tasks go with a mock clock: it does not wait for threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from creche.channel.memory import Faults, MemoryListener
from creche.client.client import Client
from creche.engine.plane import Running, run_plane
from creche.engine.settings import PlaneSettings
from creche.host import Host
from creche.store.base import Store
from creche.store.memory import MemoryStore
from creche.tasks.options import AsyncExecutor
from creche.tasks.registry import Registry
from creche.tasks.task import Task
from creche.worker.runner import Worker
from creche.worker.settings import WorkerSettings

START_AT = 1_800_000_000.0
"""UTC seconds at which a cluster's wall clock begins; it goes on with Trio's clock."""

_DEFAULTS = PlaneSettings()
_WORKER_DEFAULTS = WorkerSettings()


def wall_clock() -> float:
    """Return UTC seconds that go with Trio's clock."""
    return START_AT + trio.current_time()


class Cluster:
    """What `open_cluster` gives: the parts, and the doors between them.

    Attributes:
        listener: where peers dial in; its faults are those of clients.
        worker_listener: the same door for workers, with faults of its own.
    """

    def __init__(
        self,
        tasks: Iterable[Task[..., Any]],
        settings: PlaneSettings,
        make_store: Callable[[], Store],
        nursery: trio.Nursery,
    ) -> None:
        self.registry = _as_registry(tasks)
        self.settings = settings
        self.make_store = make_store
        self.listener = MemoryListener()
        self.worker_faults: tuple[Faults | None, Faults | None] = (None, None)
        """To the plane and to the worker, of the connections that workers make from now on."""
        self.client_faults: tuple[Faults | None, Faults | None] = (None, None)
        self.running: Running | None = None
        self._nursery = nursery
        self._plane_scope: trio.CancelScope | None = None
        self._plane_gone = trio.Event()

    def client(self, *, timeout: float | None = 30.0, name: str = "client") -> Client:
        """Return a client of this cluster's plane, to be entered."""
        return Client(
            "memory:plane", dial=partial(self._dial, name, "client"), timeout=timeout, name=name
        )

    async def add_worker(
        self,
        name: str = "worker",
        *,
        queues: Sequence[str] = ("default",),
        concurrency: int = 10,
        async_executor: AsyncExecutor = "coroutine",
        worker_settings: WorkerSettings = _WORKER_DEFAULTS,
        is_burst: bool = False,
        tasks: Iterable[Task[..., Any]] | None = None,
    ) -> Worker:
        """Start a worker and return it when the plane has welcomed it. It runs until drained, or
        until the cluster ends."""
        registry = self.registry
        if tasks is not None:
            registry = _as_registry(tasks)
        worker = Worker(
            registry,
            dial=partial(self._dial, name, "worker"),
            url="memory:plane",
            worker_id=name,
            queues=queues,
            concurrency=concurrency,
            async_executor=async_executor,
            settings=worker_settings,
            is_burst=is_burst,
            host=Host(draw=lambda: 0.5),
        )
        await self._nursery.start(worker.run)
        return worker

    async def start_plane(self) -> None:
        """Start the plane; when it returns, it has recovered and listens."""
        self._plane_gone = trio.Event()
        self.running = await self._nursery.start(self._run_plane)

    async def kill_plane(self) -> None:
        """End the plane without a word, as a crash does: connections are cut, and what was not
        committed is gone. `start_plane` brings it back if `make_store` gives the same store."""
        if self._plane_scope is not None:
            self._plane_scope.cancel()
        self.listener.cut_all()
        await self._plane_gone.wait()

    async def _run_plane(self, task_status: trio.TaskStatus[Running]) -> None:
        try:
            with trio.CancelScope() as self._plane_scope:
                await run_plane(
                    self.make_store,
                    self.listener.serve,
                    self.settings,
                    clock=wall_clock,
                    task_status=task_status,
                )
        finally:
            self._plane_gone.set()

    @asynccontextmanager
    async def _dial(self, name: str, role: str) -> AsyncIterator[Any]:
        faults = self.worker_faults if role == "worker" else self.client_faults
        # No checkpoint between the two: the listener's faults are those of the next connection.
        self.listener.to_plane, self.listener.to_peer = faults
        async with self.listener.dial(name) as channel:
            yield channel


def _as_registry(tasks: Iterable[Task[..., Any]]) -> Registry:
    if isinstance(tasks, Registry):
        return tasks
    made = Registry()
    for task in tasks:
        made.register(task)
    return made


@asynccontextmanager
async def open_cluster(
    tasks: Iterable[Task[..., Any]] = (),
    *,
    workers: int = 1,
    concurrency: int = 10,
    settings: PlaneSettings = _DEFAULTS,
    make_store: Callable[[], Store] | None = None,
    faults: Callable[[Cluster], None] | None = None,
) -> AsyncIterator[Cluster]:
    """Run a plane with *workers* workers that know *tasks*, while the block does. A `Registry`, for
    one, brings its lifespans along.

    *make_store* makes the plane's store, for each of its starts; a memory store by default.
    *faults* may set the cluster's faults before anyone connects. At the end of the block everything
    is cancelled, nothing is drained. What the block raises comes out as it is.
    """
    store = MemoryStore()
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        cluster = Cluster(tasks, settings, make_store or (lambda: store), nursery)
        if faults is not None:
            faults(cluster)
        await cluster.start_plane()
        for number in range(workers):
            await cluster.add_worker(f"worker-{number + 1}", concurrency=concurrency)
        try:
            yield cluster
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
