"""A real plane and a real worker in a thread of their own, reached over a real WebSocket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from creche.channel import trio_ws
from creche.engine.plane import run_plane
from creche.engine.settings import PlaneSettings
from creche.errors import ChannelBroken
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.worker.runner import Worker


class RealPlane:
    """What `real_plane` gives. Methods may be called from any thread but the plane's own."""

    def __init__(self) -> None:
        self.url = ""
        self.running: Any = None
        self._token: trio.lowlevel.TrioToken
        self._ready = threading.Event()
        self._stop: trio.Event
        self.error: BaseException | None = None

    def call(self, function: Callable[[], Any]) -> Any:
        """Run *function* in the plane's thread."""
        # Not trio.from_thread: the caller may run an event loop itself, even Trio's.
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)

        self._token.run_sync_soon(run)
        return answer.result(20)

    def clients(self) -> list[str]:
        """The names of the clients that are connected."""
        return self.call(
            lambda: sorted(
                session.name
                for session in self.running.core.sessions
                if not session.is_worker and session.is_connected
            )
        )

    def known(self) -> list[str]:
        """The names of the clients whose sessions are not over, connected or not."""
        return self.call(lambda: [s.name for s in self.running.core.sessions if not s.is_worker])

    def sessions(self) -> set[bytes]:
        """The ids of the clients' sessions, connected or not."""
        return self.call(lambda: {s.id for s in self.running.core.sessions if not s.is_worker})

    def cut_clients(self) -> None:
        """Cut every client's connection."""

        def cut() -> None:
            for session in self.running.core.sessions:
                if not session.is_worker and session.cut is not None:
                    session.cut(ChannelBroken("for the test's sake"))

        self.call(cut)

    async def _run(self, registry: Registry, settings: PlaneSettings, concurrency: int) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            listen = partial(trio_ws.serve, host="127.0.0.1", port=0)
            self.running = await nursery.start(partial(run_plane, MemoryStore, listen, settings))
            self.url = self.running.addresses[0]
            worker = Worker(
                registry,
                dial=partial(trio_ws.dial, self.url),
                url=self.url,
                worker_id="worker",
                concurrency=concurrency,
            )
            await nursery.start(worker.run)
            self._ready.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def _main(self, *args: Any) -> None:
        try:
            trio.run(self._run, *args)
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()


@contextmanager
def real_plane(
    registry: Registry, settings: PlaneSettings | None = None, *, concurrency: int = 10
) -> Iterator[RealPlane]:
    """Run a plane on a free port while the block does."""
    plane = RealPlane()
    thread = threading.Thread(
        target=plane._main, args=(registry, settings or PlaneSettings(), concurrency), daemon=True
    )
    thread.start()
    assert plane._ready.wait(20)
    try:
        if plane.error is None:
            yield plane
            plane.call(plane._stop.set)
    finally:
        thread.join(20)
    if plane.error is not None:
        raise plane.error
    assert not thread.is_alive()
