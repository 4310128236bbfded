"""What is done to a cluster, and how it is taken back."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio
from tests.faults import jobs
from tests.faults.proxy import Rules
from tests.faults.site import LEASE_S, Child, Site

from creche import Client
from creche.errors import CrecheError, StoreFullError
from creche.testing import history as h

STOPPED_S = LEASE_S + 2.0
"""How long what is stopped or cut off stays so: longer than a lease."""
SHORT_S = 3.0
DISK_BYTES = 12 * 1024 * 1024
FILE_BYTES = 64 * 1024
BALLAST_BYTES = 400_000
CROWD = 60
"""Connections that want a descriptor of a plane that has none left."""


class Fault:
    """One thing that is done to a cluster. `why_not` says why this machine cannot do it."""

    name: str
    lasts_s: float = 0.0
    store: str = "sqlite:jobs.db"
    is_proxied: bool = False
    needs_network: bool = False
    """Whether the cluster has a network of its own, which may be broken."""

    def why_not(self) -> str | None:
        return None

    def prepare(self, folder: Path) -> None:
        """Before the cluster starts there."""

    def tidy(self, folder: Path) -> None:
        """When nothing runs there any more."""

    async def strike(self, site: Site) -> None:
        """Do it."""
        raise NotImplementedError

    async def press(self, site: Site) -> None:
        """Go on with what makes it felt, until cancelled."""

    async def heal(self, site: Site) -> None:
        """Take it back, where it does not end by itself."""

    def complaint(self, site: Site) -> str | None:
        """Say what the cluster should have done, beside losing nothing, and has not."""
        return None


# --- processes ----------------------------------------------------------------------------------


def _victim(site: Site, role: str) -> Child | None:
    return {
        "plane": site.plane,
        "worker": site.workers[0] if site.workers else None,
        "client": site.clients[0] if site.clients else None,
    }[role]


class Kill(Fault):
    """SIGKILL."""

    def __init__(self, role: str) -> None:
        self.name = f"kill the {role}"
        self.role = role

    async def strike(self, site: Site) -> None:
        if self.role == "store":
            await _kill_store(site)
            return
        victim = _victim(site, self.role)
        if victim is not None and victim.is_alive:
            victim.process.kill()
            await victim.gone.wait()


async def _kill_store(site: Site) -> None:
    """Kill the process that holds the file; the plane starts another by itself."""
    pid = site.store_pid()
    if pid is None:
        return
    os.kill(pid, signal.SIGKILL)
    site.recorder.note(h.Gone, who="store", role="store")
    plane = site.plane
    while plane is not None and plane.is_alive:
        if site.store_pid() not in (None, pid):
            site.recorder.note(h.Back, who="store", role="store")
            return
        await trio.sleep(0.01)


class Stop(Fault):
    """SIGSTOP, for longer than a lease, then SIGCONT."""

    lasts_s = STOPPED_S

    def __init__(self, role: h.events.Role) -> None:
        self.name = f"stop the {role}"
        self.role = role
        self._stopped: tuple[str, int] | None = None

    async def strike(self, site: Site) -> None:
        if self.role == "store":
            name, pid = "store", site.store_pid()
        else:
            victim = _victim(site, self.role)
            is_there = victim is not None and victim.is_alive
            name, pid = (victim.name, victim.pid) if victim and is_there else ("", None)
        if pid is not None:
            site.recorder.note(h.Paused, who=name, role=self.role)
            os.kill(pid, signal.SIGSTOP)
            self._stopped = name, pid

    async def heal(self, site: Site) -> None:
        if self._stopped is not None:
            name, pid = self._stopped
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            site.recorder.note(h.Woken, who=name, role=self.role)


# --- the network --------------------------------------------------------------------------------


class Cut(Fault):
    """Connections of a worker and a client to the plane are cut, slowed or held up on their way."""

    is_proxied = True

    def __init__(
        self,
        name: str,
        lasts_s: float,
        *,
        up: Rules | None = None,
        down: Rules | None = None,
        is_half_closed: bool = False,
    ) -> None:
        self.name = name
        self.lasts_s = lasts_s
        self._up, self._down, self._is_half_closed = up, down, is_half_closed

    async def strike(self, site: Site) -> None:
        _say_unreachable(site, h.Paused, (0,))
        for proxy in site.proxies:
            proxy.set(up=self._up, down=self._down)
            if self._is_half_closed:
                await proxy.half_close()

    async def heal(self, site: Site) -> None:
        for proxy in site.proxies:
            proxy.set()
        _say_unreachable(site, h.Woken, (0,))


class LinkDown(Fault):
    """The network interface between all of them is set down: packets have nowhere to go."""

    name = "take the link down"
    lasts_s = STOPPED_S
    needs_network = True

    def why_not(self) -> str | None:
        if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
            return "a network of its own needs root, unshare and ip"
        answer = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
        return None if answer.returncode == 0 else "a network of its own is not allowed here"

    async def strike(self, site: Site) -> None:
        _say_unreachable(site, h.Paused, range(len(site.workers)))
        await trio.run_process(["ip", "link", "set", "lo", "down"])

    async def heal(self, site: Site) -> None:
        await trio.run_process(["ip", "link", "set", "lo", "up"])
        _say_unreachable(site, h.Woken, range(len(site.workers)))


def _say_unreachable(
    site: Site, kind: type[h.Paused | h.Woken], workers: range | tuple[int, ...]
) -> None:
    """Say of workers that the plane cannot reach them: an order to stop, or an offer, is late."""
    for n in workers:
        site.recorder.note(kind, who=site.workers[n].name, role="worker")


# --- the disk -----------------------------------------------------------------------------------


class DiskFault(Fault):
    """The store can write no more, and then it can again: the plane says so, and lives."""

    lasts_s = SHORT_S

    def __init__(self) -> None:
        self._is_told = False
        self._plane: Child | None = None

    async def strike(self, site: Site) -> None:
        self._plane = site.plane
        await self.fill(site)

    async def fill(self, site: Site) -> None:
        raise NotImplementedError

    async def press(self, site: Site) -> None:
        """Submit what has no room, and see what is said of that."""
        while True:
            with suppress(CrecheError):
                async with Client(site.url, timeout=5, name="ballast") as client:
                    while True:
                        try:
                            await client.submit(jobs.ballast, bytes(BALLAST_BYTES))
                        except StoreFullError:
                            health = await client.ask("health")
                            self._is_told |= bool(health["failing"])
                        await trio.sleep(0.05)
            await trio.sleep(0.1)

    def complaint(self, site: Site) -> str | None:
        if not self._is_told:
            return "the plane has not said that its disk is full"
        if self._plane is None or self._plane is not site.plane or not self._plane.is_alive:
            return "the plane has not outlived a full disk"
        return None


class DiskFull(DiskFault):
    """The store is on a file system of a few MiB, and that is full."""

    name = "fill the disk"
    store = "sqlite:disk/jobs.db"

    def why_not(self) -> str | None:
        return None if os.geteuid() == 0 else "a file system of its own needs root"

    def prepare(self, folder: Path) -> None:
        (folder / "disk").mkdir()
        options = f"size={DISK_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder / "disk"], check=True)

    def tidy(self, folder: Path) -> None:
        subprocess.run(["umount", "--lazy", folder / "disk"], check=False)

    async def fill(self, site: Site) -> None:
        filler = os.open(site.folder / "disk" / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            for size in (64 * 1024, 4096, 1):
                with suppress(OSError):
                    while True:
                        os.write(filler, bytes(size))
        finally:
            os.close(filler)

    async def heal(self, site: Site) -> None:
        (site.folder / "disk" / "filler").unlink()


class FileLimit(DiskFault):
    """The store's process may write nothing beyond a few pages of a file (RLIMIT_FSIZE)."""

    name = "limit the file's size"

    async def fill(self, site: Site) -> None:
        pid = site.store_pid()
        if pid is not None:
            _limit(pid, resource.RLIMIT_FSIZE, FILE_BYTES)

    async def heal(self, site: Site) -> None:
        pid = site.store_pid()
        if pid is not None:
            _unlimit(pid, resource.RLIMIT_FSIZE)


# --- descriptors and memory ---------------------------------------------------------------------


def _limit(pid: int, what: int, most: int) -> None:
    _, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, hard))


def _unlimit(pid: int, what: int) -> None:
    _, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (hard, hard))


class Limited(Fault):
    """A process may open nothing more, or have no more memory, and then it may again. Should it
    end of that, it is started again."""

    lasts_s = SHORT_S

    def __init__(self, role: str, what: str) -> None:
        self.name = f"limit the {role}'s {what}"
        self.role, self.what = role, what
        self._number = resource.RLIMIT_AS if what == "memory" else resource.RLIMIT_NOFILE
        self._victim: Child | None = None
        self.is_proxied = what == "descriptors"

    async def strike(self, site: Site) -> None:
        self._victim = victim = _victim(site, self.role)
        if victim is None or not victim.is_alive:
            return
        with suppress(ProcessLookupError, FileNotFoundError):
            _limit(victim.pid, self._number, self._now(victim.pid))

    def _now(self, pid: int) -> int:
        if self.what == "memory":
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
            return pages * resource.getpagesize() + 1024 * 1024
        return max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1

    async def press(self, site: Site) -> None:
        """Have it want what it cannot have."""
        async with trio.open_nursery() as nursery:
            if self.what == "memory":
                for n in range(4):
                    nursery.start_soon(_ballast, site, n)
            elif self.role == "plane":
                for _ in range(CROWD):
                    nursery.start_soon(_hold_connection, site.port)
            for proxy in site.proxies:
                await trio.sleep(0.3)
                await proxy.reset_all()

    async def heal(self, site: Site) -> None:
        if self._victim is not None and self._victim.is_alive:
            with suppress(ProcessLookupError):
                _unlimit(self._victim.pid, self._number)


async def _ballast(site: Site, n: int) -> None:
    """Submit what takes up memory in the plane, and in a worker."""
    while True:
        with suppress(CrecheError):
            async with Client(site.url, timeout=5, name=f"ballast-{n}") as client:
                while True:
                    await client.submit(jobs.ballast, bytes(BALLAST_BYTES))
        await trio.sleep(0.1)


async def _hold_connection(port: int) -> None:
    with suppress(OSError):
        async with await trio.open_tcp_stream("127.0.0.1", port):
            await trio.sleep_forever()


# --- all of them --------------------------------------------------------------------------------

HELD = Rules(is_held=True)

FAULTS: dict[str, Callable[[], Fault]] = {
    make().name: make
    for make in (
        *(partial(Kill, role) for role in ("plane", "store", "worker", "client")),
        *(partial(Stop, role) for role in ("plane", "store", "worker", "client")),
        partial(
            Cut, "cut connections at a byte", SHORT_S,
            up=Rules(cut_after_bytes=3000), down=Rules(cut_after_bytes=2000),
        ),
        partial(
            Cut, "cut connections at a frame", SHORT_S,
            up=Rules(cut_after_frames=4), down=Rules(cut_after_frames=3),
        ),
        partial(Cut, "delay what is sent", SHORT_S, up=Rules(delay_s=0.4), down=Rules(delay_s=0.4)),
        partial(
            Cut, "throttle connections", SHORT_S,
            up=Rules(bytes_per_s=8000), down=Rules(bytes_per_s=8000),
        ),
        partial(Cut, "swallow what goes to the plane", STOPPED_S, up=HELD),
        partial(Cut, "swallow what comes from the plane", STOPPED_S, down=HELD),
        partial(Cut, "swallow everything", STOPPED_S, up=HELD, down=HELD),
        partial(Cut, "half-close connections", 0.0, is_half_closed=True),
        LinkDown,
        DiskFull,
        FileLimit,
        *(
            partial(Limited, role, what)
            for what in ("descriptors", "memory")
            for role in ("plane", "worker")
        ),
    )
}  # fmt: skip
"""Each fault by its name: it is made anew for each case."""
