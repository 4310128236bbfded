"""When a fault comes: what the cluster does then, and how that is known."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from tests.faults.caller import Load
from tests.faults.site import Site, until

from creche.testing import history as h

REACHED_S = 90.0
QUEUE = "queue:default"


async def _nothing(site: Site) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment in the life of a cluster: a load, and what is waited for while it is worked off."""

    name: str
    load: Load
    before: Callable[[Site], Awaitable[None]] = _nothing
    """What is done before anything is submitted."""
    reach: Callable[[Site], Awaitable[None]]
    """Returns when the moment is there."""
    before_mending: Callable[[Site], Awaitable[None]] = _nothing
    """What is waited for before what is gone is started again."""
    ends_plane: bool = False
    """Whether the plane is on its way out, and need not outlive what is done to it."""
    after: Callable[[Site], Awaitable[None]] = _nothing
    """What is done when the cluster works again."""


async def _submitting(site: Site) -> None:
    await until(lambda: site.counts["Submit"] >= 15 * len(site.clients))


async def _pause(site: Site) -> None:
    """Have the jobs wait in their queue, over whatever comes."""
    asked_at = time.monotonic()
    async with site.client() as client:
        await client.pause_queue("default")
    site.recorder.note(h.Limit, gate=QUEUE, most=0, asked_at=asked_at)


async def _resume(site: Site) -> None:
    asked_at = time.monotonic()
    async with site.client() as client:
        await client.resume_queue("default")
    site.recorder.note(h.Limit, gate=QUEUE, most=None, asked_at=asked_at)


async def _queued(site: Site) -> None:
    wanted = QUEUED.load.jobs * len(site.clients)
    await until(lambda: sum(site.counts[kind] for kind in ("Accepted", "Refused")) >= wanted)


async def _running(site: Site) -> None:
    """Return when bodies run, some of them on the worker to which things are done."""

    def are_running() -> bool:
        counts = site.counts
        on_first = counts["Started by w1"] - counts["Ended by w1"]
        return on_first >= 4 and counts["Started"] - counts["Ended"] >= 8

    await until(are_running)


async def _reporting(site: Site) -> None:
    """Return when bodies have ended of whose results nobody has heard yet."""
    await until(lambda: site.counts["Ended"] >= 12, step_s=0.002)
    await until(
        lambda: site.counts["Ended"] - site.counts["failed"] > site.counts["Saw"] + 1, step_s=0.002
    )


async def _waiting(site: Site) -> None:
    """Return when most jobs wait for their time, or for another attempt."""
    await until(lambda: site.counts["failed"] >= 10 * len(site.clients))


async def _restarting(site: Site) -> None:
    """Return when a plane that was killed is back, and its peers come back to it."""
    await _running(site)
    assert site.plane is not None
    site.plane.process.kill()
    await site.plane.gone.wait()
    await site.start_plane()


async def _stopping(site: Site) -> None:
    """Return when the plane was told to stop, and lets what runs come to its end."""
    await _running(site)
    assert site.plane is not None
    site.plane.process.terminate()
    await trio.sleep(0.2)


async def _stopped(site: Site) -> None:
    """Return when a plane that was told to stop is gone."""
    if site.plane is not None:
        with trio.move_on_after(REACHED_S):
            await site.plane.gone.wait()


LONG = Load(shortest_s=0.4, longest_s=1.5, pace_s=0.01)
QUEUED = Moment(name="queued", load=Load(pace_s=0.01), before=_pause, reach=_queued, after=_resume)

MOMENTS: dict[str, Moment] = {
    moment.name: moment
    for moment in (
        Moment(name="submitting", load=Load(jobs=40, pace_s=0.05), reach=_submitting),
        QUEUED,
        Moment(name="running", load=LONG, reach=_running),
        Moment(
            name="reporting",
            load=Load(size_bytes=100_000, shortest_s=0.01, longest_s=0.1, pace_s=0.02),
            reach=_reporting,
        ),
        Moment(
            name="waiting",
            load=Load(failing=0.9, delayed=0.4, delay_s=2.0, longest_s=0.2, pace_s=0.01),
            reach=_waiting,
        ),
        Moment(name="restarting", load=LONG, reach=_restarting),
        Moment(
            name="stopping", load=LONG, reach=_stopping, before_mending=_stopped, ends_plane=True
        ),
    )
}
