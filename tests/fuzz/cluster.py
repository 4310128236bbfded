"""One run with real clients and real workers: whatever becomes of connections, processes and the
disk, who submits gets the one right answer.

`tests.fuzz.world` has peers that do odd things to the plane; here the plane's own peers are tried.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio
import trio.testing
from tests.fuzz.stores import DiskLike, Rig, Weather
from tests.fuzz.truth import Truth
from trio._core import _run as trio_run

from creche.channel.memory import Fate, Faults
from creche.client.client import Client
from creche.engine.settings import PlaneSettings
from creche.errors import (
    CrecheError,
    JobFailed,
    JobLost,
    SubmissionRefused,
    SubmissionUncertain,
)
from creche.host import Host
from creche.peer.handle import JobHandle
from creche.store.base import Batch, Duplicate, Recovery, Store
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import Task, task
from creche.testing.cluster import Cluster, open_cluster
from creche.worker.runner import Worker

JOBS = 60
RETRIES = 3
ANSWERED_S = 5000.0
"""By when everybody has an answer."""


class Blind(Truth):
    """Looks at nothing that is committed: here it counts what those see who submit."""

    def opened(self, recovery: Recovery) -> None:
        self.note(f"epoch {recovery.epoch} begins")

    def committed(self, batch: Batch, duplicates: Sequence[Duplicate]) -> None:
        pass


class Town:
    """A cluster, and what its tasks have done."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.truth = Blind(50)
        self.weather = Weather()
        self.begun: Counter[int] = Counter()
        self.failures = {n: rng.choice([0, 0, 1, 2, 5]) for n in range(JOBS)}
        self.hopeless = {n for n, fails in self.failures.items() if fails > RETRIES}
        self.cuts = rng.choice([0.0, 0.005, 0.03])
        self.tasks = self._make_tasks()
        self.answers: Counter[str] = Counter()
        self.keyed: dict[str, set[int]] = {name: set() for name in self.tasks}
        """Jobs that were submitted with a key, by their tasks: each may be one with another."""
        self.ids: dict[tuple[str, str], str] = {}
        """The job of each idempotency key, by its task and the key."""
        self.results: dict[str, int] = {}
        """By the ids of jobs."""
        self.is_at_peace = False
        self.inner: Store = MemoryStore() if rng.random() < 0.3 else DiskLike()
        self.settings = PlaneSettings(
            keep_alive_s=1.0, grace_s=3.0, lease_s=6.0, drain_s=2.0, max_losses=10**6,
            window=rng.choice([1, 4, 1000]), delays=rng.choice([1, 1000]),
            unaccepted=rng.choice([2, 1000]),
        )  # fmt: skip

    def _make_tasks(self) -> dict[str, Task[[int], int]]:
        registry, town = Registry(), self

        @task(registry=registry)
        async def echo(n: int) -> int:
            await town.work(n)
            return n

        @task(registry=registry, delivery="at-most-once")
        async def once(n: int) -> int:
            await town.work(n)
            return n

        @task(registry=registry, retries=RETRIES, backoff=0.5)
        async def again(n: int) -> int:
            await town.work(n)
            if town.failures[n] > 0:
                town.failures[n] -= 1
                raise ConnectionError(f"job {n}")
            return n

        return {"echo": echo, "once": once, "again": again}

    async def work(self, n: int) -> None:
        """A body: it takes its time."""
        self.begun[n] += 1
        self.truth.note(f"job {n} begins")
        await trio.sleep(self.rng.choice([0.0, 0.05, 0.5, 3.0]))

    def make_store(self) -> Store:
        """Make what a plane is given when it starts."""
        return Rig(self.inner, self.weather, self.truth, self.rng)

    def judge(self, _: int, frame: bytes) -> Fate:
        """Cut connections now and then."""
        if not self.is_at_peace and self.rng.random() < self.cuts:
            return self.rng.choice([Fate.CUT_BEFORE, Fate.LOSE_AND_CUT, Fate.CUT_AFTER])
        return Fate.DELIVER

    def set_faults(self, cluster: Cluster) -> None:
        """Have all connections cut now and then."""
        cluster.worker_faults = (Faults(hook=self.judge), Faults(hook=self.judge))
        cluster.client_faults = (Faults(hook=self.judge), Faults(hook=self.judge))

    async def run(self) -> None:
        """Have everybody submit amid trouble, and look at their answers."""
        async with open_cluster(
            self.tasks.values(),
            workers=0,
            settings=self.settings,
            make_store=self.make_store,
            faults=self.set_faults,
        ) as cluster:
            with trio.fail_after(ANSWERED_S):
                async with trio.open_nursery() as nursery:
                    trouble = await nursery.start(self._make_trouble, cluster)
                    async with trio.open_nursery() as submitting:
                        for part in range(2):
                            submitting.start_soon(self._submit_some, cluster, part)
                    trouble.cancel()
        self.truth.counts = dict(self.answers)

    async def _submit_some(self, cluster: Cluster, part: int) -> None:
        async with cluster.client(timeout=None, name=f"client-{part}") as client:
            async with trio.open_nursery() as nursery:
                for n in range(part, JOBS, 2):
                    nursery.start_soon(self._submit_one, client, n)
                    await trio.sleep(self.rng.expovariate(2.0))

    async def _submit_one(self, client: Client, n: int) -> None:
        rng, truth = self.rng, self.truth
        name = rng.choice(list(self.tasks))
        said = self.tasks[name]
        if rng.random() < 0.3:
            said = said.with_options(countdown=rng.choice([0.1, 1.0, 5.0, 70.0]))
        said, key = self._draw_keys(said, name, n)
        may_be = {n}
        try:
            handle = await client.submit(said, n)
            met = "one with" if handle.is_existing else "accepted as"
            truth.note(f"job {n} ({name}) is {met} {handle}")
            self._look_at_id(name, n, key, handle)
            if handle.is_existing:
                may_be = self.keyed[name] - {n}
            result = await handle.result()
        except SubmissionUncertain:
            answer = "uncertain"
        except SubmissionRefused:
            answer = "refused"
            # Nothing of it is there, and nothing comes of it later.
            await trio.sleep(100)
            truth.check(not self.begun[n], f"what was refused does not run: job {n}")
        except JobLost:
            answer = "lost"
            truth.check(name == "once", f"only what runs at most once is lost: job {n}")
        except JobFailed as error:
            answer = "failed"
            truth.check(
                name == "again" and not self.hopeless.isdisjoint(may_be),
                f"job {n} ({name}) fails for a reason: {error}",
            )
        else:
            answer = "done"
            truth.check(result in may_be, f"everybody gets their own answer: job {n}, not {result}")
            truth.check(self.begun[result] > 0, f"what has a result has run: job {result}")
            truth.check(
                name != "again" or self.failures[result] == 0,
                f"what failed is tried again: job {result}",
            )
            same = self.results.setdefault(str(handle), result) == result
            truth.check(same, f"one job has one result: job {n}, {result}")
        truth.note(f"job {n} ({name}): {answer}")
        self.answers[answer] += 1
        if n not in may_be:
            self.answers["one with another"] += 1
            truth.check(not self.begun[n], f"what is one with another job does not run: job {n}")
        if name == "once":
            truth.check(self.begun[n] <= 1, f"what runs at most once runs once: job {n}")

    def _draw_keys(
        self, said: Task[[int], int], name: str, n: int
    ) -> tuple[Task[[int], int], str | None]:
        """Have a submission say what it may be one with, now and then; return its idempotency key
        too."""
        rng, key = self.rng, None
        if rng.random() < 0.3:
            key = f"order {rng.randint(1, 4)}"
            said = said.with_options(idempotency_key=key)
            self.truth.note(f"job {n} says {key}")
        if rng.random() < 0.3:
            said = said.with_options(unique=lambda n: str(n % 4))
        elif key is None:
            return said, None
        self.keyed[name].add(n)
        return said, key

    def _look_at_id(self, name: str, n: int, key: str | None, handle: JobHandle[int]) -> None:
        if key is not None:
            same = self.ids.setdefault((name, key), str(handle)) == str(handle)
            self.truth.check(same, f"one idempotency key is one job: job {n}, {key}")

    # --- trouble --------------------------------------------------------------------------------

    async def _make_trouble(
        self, cluster: Cluster, task_status: trio.TaskStatus[trio.CancelScope]
    ) -> None:
        rng = self.rng
        async with trio.open_nursery() as nursery:
            task_status.started(nursery.cancel_scope)
            workers: dict[str, trio.CancelScope] = {}
            until = trio.current_time() + rng.uniform(10, 60)
            while trio.current_time() < until:
                await trio.sleep(rng.expovariate(0.7))
                await self._happen(cluster, nursery, workers)
            self.truth.note("PEACE")
            self.is_at_peace = True
            self.weather.clear()
            await nursery.start(self._work, cluster, "good", {})
            await trio.sleep_forever()

    async def _happen(
        self, cluster: Cluster, nursery: trio.Nursery, workers: dict[str, trio.CancelScope]
    ) -> None:
        rng, weather = self.rng, self.weather
        what = rng.choices(*zip(*HAPPENINGS.items(), strict=True))[0]
        self.truth.note(what)
        match what:
            case "worker comes":
                free = [name for name in ("a", "b", "c") if name not in workers]
                if free:
                    nursery.start_soon(partial(self._work, cluster, free[0], workers))
            case "worker dies" if workers:
                workers[rng.choice(list(workers))].cancel()
            case "cut":
                cluster.listener.cut_all(deliver_in_flight=rng.random() < 0.5)
            case "plane dies":
                await cluster.kill_plane()
                await trio.sleep(rng.choice([0.0, 1.0, 8.0]))
                await cluster.start_plane()
            case "store dies":
                weather.loss = rng.choice(["before", "after", "read"])
            case "full" | "slow":
                weather.is_full = what == "full"
                weather.slow_s = 0.3 if what == "slow" else 0.0
                await trio.sleep(rng.uniform(0.1, 3.0))
                weather.is_full, weather.slow_s = False, 0.0

    async def _work(
        self,
        cluster: Cluster,
        name: str,
        workers: dict[str, trio.CancelScope],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """A worker's process, until it is killed, drained, or sent away."""
        registry = Registry()
        for each in self.tasks.values():
            registry.register(each)
        worker = Worker(
            registry,
            dial=partial(cluster._dial, name, "worker"),
            url="memory:plane",
            worker_id=name,
            concurrency=self.rng.randint(1, 3),
            host=Host(draw=self.rng.random),
        )
        task_status.started()
        try:
            with trio.CancelScope() as workers[name]:
                await worker.run()
        except CrecheError as error:
            self.truth.note(f"worker {name} is sent away: {error}")
        finally:
            del workers[name]


HAPPENINGS: dict[str, Any] = {
    "worker comes": 8, "worker dies": 3, "cut": 5, "plane dies": 1.5, "store dies": 1.5, "full": 1,
    "slow": 2,
}  # fmt: skip


def run_peers(seed: int) -> Truth:
    """Run one seed with real peers, and return what became of it.

    Raises:
        BaseException: a promise was broken; the notes say what came before.
    """
    town = Town(seed)
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        trio.run(town.run, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        error.add_note(town.truth.tell())
        raise
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
    return town.truth
