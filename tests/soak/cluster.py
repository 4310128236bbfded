"""A cluster of real processes with peers that come and go, and what it is measured by."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import trio
from tests.faults.site import Child, Programs, Site, children_of, open_site
from tests.soak import caller
from tests.soak.figures import Line, Sample

from creche import Client
from creche.errors import CrecheError

RESULT_S = 15.0
"""How long a result is kept: then its job is let go of, and soon after that its id."""
STEADY_PER_S = 25.0
"""Jobs that the client which stays submits in a second."""
MOST_WORKERS = 3
"""Workers beside the one that stays."""

KIB = 1024.0
LINES: Mapping[str, Line] = {
    "plane: memory": Line(600.0, "KiB"),
    "plane: descriptors": Line(0.5),
    "plane: Trio tasks": Line(0.5),
    "plane: threads": Line(0.3),
    "plane: processes": Line(0.3),
    "store: memory": Line(400.0, "KiB"),
    "store: descriptors": Line(0.3),
    "store: size": Line(300.0, "KiB"),
    "worker: memory": Line(600.0, "KiB"),
    "worker: descriptors": Line(0.5),
    "worker: threads": Line(0.3),
    "worker: processes": Line(0.3),
    "client: memory": Line(600.0, "KiB"),
    "client: descriptors": Line(0.3),
}
"""By how much each figure may grow in a minute. With 30 jobs a second, 600 KiB are 340 bytes a
job."""


class Soak:
    """Measures a cluster while it is worked on and its peers come and go."""

    def __init__(self, site: Site, seed: int) -> None:
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)
        self.jobs = 0
        """How many there were, by the number of the last one."""
        self.came: defaultdict[str, int] = defaultdict(int)
        """What became of peers, and how often."""
        self.gone: list[str] = []
        """Who was to stay, and has ended."""
        self._site = site
        self._rng = Random(seed)
        self._passing_workers: list[Child] = []
        self._passing_clients: list[Child] = []
        self._began_at = time.monotonic()

    async def start(self) -> None:
        """Start what stays: a plane, a worker, a client."""
        await self._site.start_plane()
        await self._site.start_worker()
        await self._site.start_client(partial(caller.command, jobs=0, per_s=STEADY_PER_S))

    # --- churn ----------------------------------------------------------------------------------

    async def churn(self, every_s: float) -> None:
        """Have peers come and go, until cancelled."""
        while True:
            self._passing_workers = [child for child in self._passing_workers if child.is_alive]
            self._passing_clients = [child for child in self._passing_clients if child.is_alive]
            await self._one_change()
            await trio.sleep(every_s)

    async def _one_change(self) -> None:
        rng, site = self._rng, self._site
        what = rng.choice(("worker", "client", "client", "stranger"))
        if what == "worker":
            if len(self._passing_workers) < MOST_WORKERS:
                self._passing_workers.append(await site.start_worker())
                self.came["workers came"] += 1
                return
            self._end(self._passing_workers.pop(rng.randrange(MOST_WORKERS)), "workers")
        elif what == "client":
            if len(self._passing_clients) >= 2 and rng.random() < 0.3:
                self._end(self._passing_clients.pop(0), "clients")
                return
            words = partial(caller.command, jobs=rng.randrange(20, 100), per_s=20.0)
            self._passing_clients.append(await site.start_client(words))
            self.came["clients came"] += 1
        else:
            await self._be_a_stranger()
            self.came["strangers came"] += 1

    def _end(self, child: Child, kind: str) -> None:
        with suppress(ProcessLookupError):
            if self._rng.random() < 0.5:
                child.process.kill()
                self.came[f"{kind} were killed"] += 1
            else:
                child.process.terminate()
                self.came[f"{kind} were stopped"] += 1

    async def _be_a_stranger(self) -> None:
        """Connect, and say nothing, or what nobody understands."""
        with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(2):
            async with await trio.open_tcp_stream("127.0.0.1", self._site.port) as stream:
                if self._rng.random() < 0.7:
                    await stream.send_all(self._rng.randbytes(200))
                    await stream.receive_some()

    # --- figures --------------------------------------------------------------------------------

    async def measure(self, every_s: float) -> None:
        """Take samples until cancelled."""
        while True:
            with suppress(CrecheError):
                async with self._site.client() as client:
                    while True:
                        await self._sample(client)
                        await trio.sleep(every_s)
            await trio.sleep(every_s)

    async def _sample(self, client: Client) -> None:
        site = self._site
        assert site.plane is not None
        health = await client.ask("health")
        found: dict[str, float] = {"plane: Trio tasks": health["trio_tasks"]}
        found |= _of_process("plane", site.plane.pid)
        found |= _of_process("worker", site.workers[0].pid)
        found |= _of_process("client", site.clients[0].pid)
        store = site.store_pid()
        if store is not None:
            found |= _of_process("store", store)
        found["store: size"] = sum(f.stat().st_size for f in site.folder.glob("jobs.db*")) / KIB
        at = time.monotonic() - self._began_at
        for name, value in found.items():
            self.samples[name].append(Sample(at, value))
        newest = await client.jobs(limit=1)
        self.jobs = max(self.jobs, newest[0]["seq"] if newest else 0)

    def note_who_is_gone(self) -> None:
        """Note which of those that were to stay have not."""
        stay = (self._site.plane, self._site.workers[0], self._site.clients[0])
        self.gone = [child.name for child in stay if child is not None and not child.is_alive]


def _of_process(name: str, pid: int) -> dict[str, float]:
    """What the kernel says of a process; nothing if it is gone."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return {}
    return {
        f"{name}: memory": float(status["VmRSS"].split()[0]),
        f"{name}: descriptors": float(descriptors),
        f"{name}: threads": float(status["Threads"]),
        f"{name}: processes": float(len(children_of(pid))),
    }


async def soak(
    folder: Path, *, minutes: float, seed: int, sample_s: float, churn_s: float, plant: str = ""
) -> Soak:
    """Run a cluster for so long, and return what was measured."""
    programs = Programs(
        plane="tests.soak.plane",
        plane_options=("--result-cache-ttl", f"{RESULT_S:g}"),
        tasks="tests.soak.tasks",
        environment={"CRECHE_SOAK_PLANT": plant} if plant else {},
    )
    async with open_site(folder, workers=1, programs=programs) as site:
        found = Soak(site, seed)
        await found.start()
        with trio.move_on_after(minutes * 60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(found.churn, churn_s)
                nursery.start_soon(found.measure, sample_s)
        found.note_who_is_gone()
    return found
