"""A cluster of real processes in a folder: a plane, its store's process, workers and clients.

Whoever runs it records what is done to its processes; workers, clients and the plane record the
rest, each into a file of its own in the same folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
from tests.faults.proxy import Proxy

from creche import Client
from creche.pipe import environment
from creche.testing import history as h

ROOT = Path(__file__).parents[2]
KEEP_ALIVE_S, GRACE_S, LEASE_S, DRAIN_S = 0.5, 2.0, 5.0, 3.0
QUICK = (
    "--keep-alive", f"{KEEP_ALIVE_S}", "--grace", f"{GRACE_S}", "--lease", f"{LEASE_S}",
    "--drain-timeout", f"{DRAIN_S}",
)  # fmt: skip
READY_S = 60.0
"""How long a process may take to be ready, on a machine that has much else to do."""


@dataclass(slots=True)
class Child:
    """A process of the cluster."""

    name: str
    role: h.events.Role
    process: trio.Process
    gone: trio.Event

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return not self.gone.is_set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What the processes of a cluster run."""

    plane: str = "tests.faults.recorded_plane"
    """A module that is given the words of `creche`."""
    plane_options: tuple[str, ...] = ()
    tasks: str = "tests.faults.jobs"
    environment: Mapping[str, str] = field(default_factory=dict)


class Site:
    """The processes of one cluster. Those that end are started again by `mend`, as a service
    manager would; the plane's store is its child, and is started by the plane."""

    def __init__(
        self,
        folder: Path,
        nursery: trio.Nursery,
        *,
        store: str = "sqlite:jobs.db",
        workers: int = 2,
        programs: Programs = Programs(),
    ) -> None:
        self.folder = folder
        self.record = folder / "recorded"
        self.recorder = h.FileRecorder(self.record, "harness")
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.plane: Child | None = None
        self.workers: list[Child] = []
        self.clients: list[Child] = []
        self.to_workers: str = self.url
        """Where the first worker dials; and where the first client does."""
        self.to_clients: str = self.url
        self.proxies: list[Proxy] = []
        self._wanted = workers
        self._store = store
        self._programs = programs
        self._nursery = nursery
        self._named = 0
        self._children: list[Child] = []
        self._counts = _Counts(self.record)
        self._pipe, self._parent_pipe = os.pipe()

    # --- starting -------------------------------------------------------------------------------

    async def start_plane(self) -> Child:
        """Start the plane, and return when it is ready."""
        told, tells = os.pipe()
        words = (
            sys.executable, "-P", "-m", self._programs.plane, "control-plane",
            "--listen", self.url, "--store", self._store, "--no-gui", "--workers", "0", *QUICK,
            *self._programs.plane_options,
            "--ready-fd", str(tells), "--parent-pipe", str(self._pipe),
        )  # fmt: skip
        was_there = self.plane is not None
        async with trio.lowlevel.FdStream(told) as stream:
            try:
                child = await self._start("plane", "plane", words, (tells,))
            finally:
                os.close(tells)
            self.plane = child
            with trio.fail_after(READY_S):
                text = b"".join([piece async for piece in stream])
        if text and was_there:
            json.loads(text)
            self.recorder.note(h.Back, who="plane", role="plane")
        return child

    async def start_worker(self) -> Child:
        """Start a worker under a name that none has had."""
        self._named += 1
        name = f"w{self._named}"
        words = (
            sys.executable, "-P", "-m", "creche", "worker",
            "--connect", self.to_workers if self._named == 1 else self.url,
            "--task-modules", self._programs.tasks, "--worker-id", name, "--concurrency", "8",
            "--drain-timeout", f"{DRAIN_S}", "--parent-pipe", str(self._pipe),
        )  # fmt: skip
        child = await self._start(name, "worker", words)
        self.workers.append(child)
        return child

    async def start_client(self, words: Callable[[str, str], list[str]]) -> Child:
        """Start a client, whose command follows from its name and where it dials."""
        name = f"c{len(self.clients) + 1}"
        url = self.url if self.clients else self.to_clients
        child = await self._start(name, "client", words(name, url))
        self.clients.append(child)
        return child

    async def _start(
        self,
        name: str,
        role: h.events.Role,
        words: tuple[str, ...] | list[str],
        inherited: tuple[int, ...] = (),
    ) -> Child:
        with (self.folder / f"{name}.log").open("ab") as sink:
            process = await trio.lowlevel.open_process(
                list(words),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=(self._pipe, *inherited),
                start_new_session=True,
            )
        child = Child(name, role, process, trio.Event())
        self._children.append(child)
        self._nursery.start_soon(self._until_gone, child)
        return child

    def _environment(self) -> Mapping[str, str]:
        found = {k: v for k, v in environment().items() if not k.startswith("CRECHE_")}
        found["PYTHONPATH"] = os.pathsep.join(
            (str(ROOT), *filter(None, (found.get("PYTHONPATH"),)))
        )
        ours = {"CRECHE_FAULTS_RECORD": str(self.record), "CRECHE_FAULTS_PIPE": str(self._pipe)}
        return {**found, **self._programs.environment, **ours}

    async def _until_gone(self, child: Child) -> None:
        await child.process.wait()
        self.recorder.note(h.Gone, who=child.name, role=child.role)
        child.gone.set()

    async def mend(self) -> None:
        """Have a plane and as many workers as there are to be, started anew where they are gone."""
        if self.plane is None or not self.plane.is_alive:
            await self.start_plane()
        for _ in range(self._wanted - sum(worker.is_alive for worker in self.workers)):
            await self.start_worker()

    # --- looking --------------------------------------------------------------------------------

    @property
    def counts(self) -> Counter[str]:
        """How many events of each kind have been recorded so far, in all (`Started`) and by a
        process (`Started by w1`); `failed` of those that ended."""
        return self._counts.read()

    def store_pid(self) -> int | None:
        """The process that holds the store's file, if there is one."""
        if self.plane is None:
            return None
        for pid in children_of(self.plane.pid):
            with suppress(OSError):
                if b"sqlite_child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def said(self) -> str:
        """What the processes have said, the end of it."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-1500:]}"
            for log in sorted(self.folder.glob("*.log"))
            if log.stat().st_size
        )

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client of the one who watches, which records nothing by itself."""
        async with Client(self.url, timeout=READY_S, name="watcher") as client:
            yield client

    # --- ending ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """Kill what is left, and wait until it is gone."""
        for child in self._children:
            if child.is_alive:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
        with trio.move_on_after(READY_S):
            for child in self._children:
                await child.gone.wait()
        for number in (self._pipe, self._parent_pipe):
            os.close(number)
        self.recorder.close()


class _Counts:
    """What has been recorded, counted without reading anything twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._counts: Counter[str] = Counter()

    def read(self) -> Counter[str]:
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for kind, process in _EVENT.findall(whole.decode()):
                self._counts.update((kind, f"{kind} by {process}"))
            self._counts["failed"] += whole.count(b'"outcome": "failed"')
        return self._counts


_EVENT = re.compile(r'^{"kind": "(\w+)", "at": [\d.]+, "process": "([^"]*)"', re.MULTILINE)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children_of(pid: int) -> list[int]:
    """The children of a process, of any of its threads."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found.extend(int(word) for word in thread.read_text().split())
    return found


@asynccontextmanager
async def open_site(
    folder: Path,
    *,
    store: str = "sqlite:jobs.db",
    workers: int = 2,
    is_proxied: bool = False,
    programs: Programs = Programs(),
) -> AsyncIterator[Site]:
    """A cluster for as long as the block runs. If *is_proxied*, the first worker and the first
    client each reach the plane through a proxy of ours."""
    async with trio.open_nursery() as nursery:
        site = Site(folder, nursery, store=store, workers=workers, programs=programs)
        try:
            if is_proxied:
                for name in ("to_workers", "to_clients"):
                    proxy = Proxy(site.port)
                    port = await nursery.start(proxy.run)
                    setattr(site, name, f"ws://127.0.0.1:{port}")
                    site.proxies.append(proxy)
            yield site
        except BaseException as error:
            error.add_note(site.said())
            raise
        finally:
            with trio.CancelScope(shield=True):
                await site.close()
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], *, step_s: float = 0.02) -> None:
    """Wait until *condition* holds; whoever waits bounds it."""
    while not condition():
        await trio.sleep(step_s)
