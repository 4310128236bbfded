"""Queues in a run of the fuzz: what is said of them while the plane runs holds for every lease."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import trio

from creche.engine.core import Core
from creche.engine.job import Job
from creche.events import QueueSet
from creche.model.flow import QueueSettings, Rate
from creche.model.job import JobState
from creche.wire import messages as m

if TYPE_CHECKING:
    from tests.fuzz.peers import Client
    from tests.fuzz.world import World

QUEUES = ["default", "other"]


class Gatekeeper:
    """Looks at each lease in the moment in which it is made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._begun: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)
        """When jobs of a queue were leased since it was last set, and their seqs."""

    def set_one(self, client: Client) -> None:
        """Have a client say something else of a queue."""
        rng, truth = self._world.rng, self._world.truth
        said: m.Facts = {"paused": rng.random() < 0.3, "limit": rng.choice([None, 1, 3])}
        said |= {"rate": rng.choice([None, {"count": 3, "per_s": 1.0}])}
        params = {"queue": rng.choice(QUEUES), "is_new": True, **said}
        truth.note(f"queue is set: {params}")
        client.post(m.Ask(10**9, "set-queue", params))

    def clear(self) -> None:
        """Have nothing said of any queue."""
        core = self._world.core
        assert core is not None
        for queue in QUEUES:
            core.limits.set_queue(queue, QueueSettings())

    def happens(self, event: Any) -> None:
        """The plane tells of something: for its `Hub`."""
        if isinstance(event, QueueSet):
            self._begun[event.queue].clear()

    def watch(self, core: Core) -> None:
        """Look at the leases of a plane that has just begun."""
        self._begun.clear()
        hold, give_back = core.limits.hold, core.limits.give_back

        def seen_hold(job: Job, *, is_new: bool = True) -> None:
            if is_new:
                self._check(core, job)
            hold(job, is_new=is_new)

        def seen_give_back(job: Job) -> None:
            begun = self._begun[job.lane.queue]
            for one in [one for one in begun if one[1] == job.seq]:
                begun.remove(one)
            give_back(job)

        core.limits.hold = seen_hold  # type: ignore[method-assign]
        core.limits.give_back = seen_give_back  # type: ignore[method-assign]

    def _check(self, core: Core, job: Job) -> None:
        truth, queue = self._world.truth, job.lane.queue
        settings = core.limits.queues.get(queue, QueueSettings())
        truth.check(not settings.is_paused, f"nothing is taken from paused {queue}", job.id)
        if settings.limit is not None:
            runs = (JobState.RUNNING, JobState.CANCELLING)
            out = [
                other
                for other in core.by_seq.values()
                if other.state in runs and other is not job and other.lane.queue == queue
            ]
            truth.check(
                len(out) < settings.limit,
                f"no more of {queue} run than may: {[truth.name(one.id) for one in out]}",
                job.id,
            )
            truth.count("leases in a limited queue")
        if settings.rate is not None:
            self._check_rate(queue, settings.rate, job)

    def _check_rate(self, queue: str, rate: Rate, job: Job) -> None:
        begun, now = self._begun[queue], trio.current_time()
        begun.append((now, job.seq))
        # A full bucket, and what comes back while it is emptied.
        late = [at for at, _ in begun if at > now - rate.per_s]
        self._world.truth.check(
            len(late) <= 2 * rate.count, f"no more of {queue} begin than may: {late}", job.id
        )
