"""One case of the matrix: a cluster under load, one fault at one moment, and what is found."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from tests.faults import jobs
from tests.faults.caller import command
from tests.faults.faults import FAULTS, Fault
from tests.faults.moments import MOMENTS, REACHED_S, Moment
from tests.faults.site import Site, open_site

from creche import Client, JobEnded
from creche.errors import CrecheError, UnknownJob
from creche.testing import history as h
from creche.testing.history.view import History

CLIENTS = 2
SETTLED_S = 120.0
"""How long everything may take to come to its end when the fault is over."""
BOUNDS = h.Bounds(grace_s=3.0)
"""Processes share a machine with others, and what is on its way to a body may be for long."""
ENDED = ("succeeded", "failed", "cancelled", "lost", "expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a case."""

    fault: str
    moment: str
    jobs: int
    """How many were accepted."""
    violations: tuple[str, ...]
    complaints: tuple[str, ...] = ()
    again: int = 0
    """Attempts that were made because one before had lost its lease."""
    given_up: int = 0
    """Jobs that may run at most once, and are told as lost."""
    recovered_s: float = 0.0
    """How long after the beginning of the fault a new job was taken and its result told, and all
    that was taken from a worker had begun again."""
    took_s: float = 0.0

    @property
    def is_good(self) -> bool:
        return not self.violations and not self.complaints


async def run_case(fault_name: str, moment_name: str, folder: Path, seed: int = 1) -> Finding:
    """Run a case in a folder of its own.

    Raises:
        TooSlowError: the moment was not reached, or what was to be healed was not.
    """
    fault, moment = FAULTS[fault_name](), MOMENTS[moment_name]
    fault.prepare(folder)
    try:
        async with open_site(folder, store=fault.store, is_proxied=fault.is_proxied) as site:
            await _start(site, moment, seed)
            struck_at, recovered_at = await _under(fault, moment, site)
            await _settle(site)
            complaint = None if moment.ends_plane else fault.complaint(site)
            said = site.said()
    finally:
        fault.tidy(folder)
    finding = judge(fault, moment, folder / "recorded", struck_at, recovered_at, complaint)
    if not finding.is_good:
        (folder / "said.log").write_text(said)
    return finding


async def _start(site: Site, moment: Moment, seed: int) -> None:
    await site.start_plane()
    for _ in range(2):
        await site.start_worker()
    async with site.client() as client:
        with trio.fail_after(REACHED_S):
            while (await client.ask("health"))["workers"] < 2:
                await trio.sleep(0.05)
    site.recorder.note(h.Limit, gate="task:limited", most=jobs.LIMIT)
    await moment.before(site)
    for n in range(CLIENTS):
        await site.start_client(partial(command, load=moment.load, seed=seed * 100 + n))


async def _under(fault: Fault, moment: Moment, site: Site) -> tuple[float, float]:
    """Do the fault at its moment, and take it back; return when it began, and when a job that was
    submitted after that had run."""
    with trio.fail_after(REACHED_S):
        await moment.reach(site)
    answered = trio.Event()
    answered_at = 0.0

    async def probe() -> None:
        nonlocal answered_at
        await _probe(site)
        answered_at = time.monotonic()
        answered.set()

    struck_at = time.monotonic()
    async with trio.open_nursery() as nursery:
        await fault.strike(site)
        with trio.fail_after(SETTLED_S):
            async with trio.open_nursery() as pressing:
                nursery.start_soon(probe)
                pressing.start_soon(fault.press, site)
                await trio.sleep(fault.lasts_s)
                pressing.cancel_scope.cancel()
            await fault.heal(site)
            await moment.before_mending(site)
            await site.mend()
            await answered.wait()
            await moment.after(site)
    return struck_at, answered_at


async def _probe(site: Site) -> None:
    """Return when a job has been taken and run."""
    while True:
        with trio.move_on_after(20):
            try:
                async with Client(site.to_clients, timeout=20, name="probe") as client:
                    await (await client.submit(jobs.probe)).result()
                    return
            except CrecheError:
                pass
        await trio.sleep(0.1)


async def _settle(site: Site) -> None:
    """Wait until all clients have what they wait for and all jobs have ended, which is bounded;
    then ask about every job."""
    with trio.move_on_after(SETTLED_S):
        for client in site.clients:
            await client.gone.wait()
        async with site.client() as watcher:
            while not await _is_settled(watcher):
                await site.mend()
                await trio.sleep(0.1)
    site.recorder.note(h.Quiescent)
    accepted = {e.job for e in h.read_history(site.record) if isinstance(e, h.Accepted)}
    async with site.client() as watcher:
        with trio.fail_after(SETTLED_S):
            for job in sorted(accepted | await _all_jobs(watcher)):
                await _look(watcher, site.recorder, job)


async def _is_settled(client: Client) -> bool:
    try:
        counts = (await client.ask("health"))["jobs"]
    except CrecheError:
        return False
    return not set(counts) - set(ENDED)


async def _all_jobs(client: Client) -> set[str]:
    """The ids of all jobs that were recorded by somebody, as the plane has them."""
    found: set[str] = set()
    before: int | None = None
    while True:
        params = {"limit": 500} if before is None else {"limit": 500, "before_seq": before}
        page = await client.ask("jobs", params)
        found |= {job["id"] for job in page["jobs"] if job["queue"] == "default"}
        before = page["before_seq"]
        if before is None:
            return found


async def _look(client: Client, recorder: h.Recorder, job: str) -> None:
    asked_at = time.monotonic()
    value = None
    try:
        state = (await client.status(job)).word
        if state == "succeeded":
            value = (await client.result(job, 30)).rstrip()
    except UnknownJob:
        state = "unknown"
    except JobEnded:
        pass  # what it says of a job that has succeeded is for the rules
    recorder.note(h.Saw, job=job, state=state, value=value, asked_at=asked_at)


# --- what is found ------------------------------------------------------------------------------


def judge(
    fault: Fault,
    moment: Moment,
    recorded: Path,
    struck_at: float,
    answered_at: float,
    complaint: str | None = None,
) -> Finding:
    """Have the checker judge what was recorded, and measure it."""
    events = h.read_history(recorded)
    history = History(events, BOUNDS)
    began_again = list(_begun_again(history))
    recovered_at = max([answered_at, *(at for at in began_again if at > struck_at)])
    return Finding(
        fault=fault.name,
        moment=moment.name,
        jobs=len({event.job for event in events if isinstance(event, h.Accepted)}),
        violations=tuple(map(str, h.check(events, BOUNDS))),
        complaints=(complaint,) if complaint else (),
        again=len(began_again),
        given_up=sum(any(saw.state == "lost" for saw in job.saw) for job in history.jobs.values()),
        recovered_s=recovered_at - struck_at,
        took_s=history.end_at - min(event.at for event in events),
    )


def _begun_again(history: History) -> Iterable[float]:
    """When attempts began that were made because the one before them had lost its lease."""
    for job in history.jobs.values():
        for run, after in zip(job.runs, job.runs[1:], strict=False):
            if run.lost or run.end is None or run.end.outcome == "succeeded":
                yield after.start.at
