"""A whole cluster is recorded, with its plane killed and started again, and the checker finds that
every promise was kept; and what is changed in that record it finds as well."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio
from tests.fuzz.plants import planted

from creche import Client, JobEnded, JobHandle, Snooze, current_job
from creche.errors import DuplicateJob, SubmissionRefused, SubmissionUncertain
from creche.tasks.registry import Registry
from creche.tasks.task import Task, task
from creche.tasks.unique import Unique
from creche.testing import history as h
from creche.testing.cluster import open_cluster

pytestmark = pytest.mark.trio

JOBS = 60


def recorded_task(recorder: h.MemoryRecorder) -> Task[..., Any]:
    turns: Counter[str] = Counter()

    @task(registry=Registry(), retries=1, jitter=0, backoff=2, limit=5)
    async def work(call: str, plan: list[str]) -> str:
        job = current_job()
        told = {"job": job.id, "attempt": f"{job.attempt}", "call": call}
        with recorder.body(**told, process=job.worker) as body:
            turns[call] += 1
            what = plan[min(turns[call], len(plan)) - 1]
            await trio.sleep(0.5 * (1 + len(call) % 3))
            if what == "fails":
                raise ValueError(what)
            if what == "snoozes":
                body.outcome, body.delay_s = "snoozed", 1.5
                raise Snooze(1.5)
            if what == "hangs":
                await trio.sleep_forever()
            body.value = f"{call} in attempt {job.attempt}"
        return body.value

    return work


class Caller:
    """A client that records what it does, and what it sees."""

    def __init__(self, client: Client, recorder: h.MemoryRecorder, rng: Random) -> None:
        self._client = client
        self._recorder = recorder
        self._rng = rng
        self.jobs: set[JobHandle[Any]] = set()

    def _drawn(self, n: int) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        """Return the options of a submission, its terms, and what its attempts do."""
        rng = self._rng
        plan = [rng.choice(["succeeds", "fails", "snoozes"]) for _ in range(3)] + ["succeeds"]
        options: dict[str, Any] = {"retries": rng.choice([0, 1, 4])}
        terms: dict[str, Any] = {**options, "task": "work", "backoff_s": 2.0}
        if rng.random() < 0.2:
            options["countdown"] = terms["delay_s"] = 3.0
        if rng.random() < 0.2:
            options["expires"] = terms["expires_s"] = 4.0
        if rng.random() < 0.3:
            options["timeout"] = terms["timeout_s"] = 2.0
            plan[0] = "hangs"
        if rng.random() < 0.2:
            options["idempotency_key"] = terms["idempotency_key"] = rng.choice("xyz")
        elif rng.random() < 0.3:
            rule = rng.choice(["existing", "reject", "replace", "cancel"])
            options["unique"] = Unique(lambda call, plan, key=rule: key, on_duplicate=rule)
            terms |= {"unique_key": rule, "on_duplicate": rule}
        return options, terms, plan

    async def submit_one(self, work: Task[..., Any], n: int) -> None:
        options, terms, plan = self._drawn(n)
        note, call = self._recorder.note, f"call {n}"
        note(h.Submit, call=call, terms=h.Terms(**terms))
        try:
            job = await self._client.submit(work.with_options(**options), call, plan)
        except (SubmissionRefused, DuplicateJob) as refused:
            note(h.Refused, call=call, why=str(refused))
            return
        except SubmissionUncertain:
            note(h.Uncertain, call=call)
            return
        note(h.Accepted, call=call, job=job, is_existing=job.is_existing)
        self.jobs.add(job)
        await trio.sleep(self._rng.choice([0, 0.5, 1, 3]))
        await self._look(job)
        if self._rng.random() < 0.2:
            note(h.Cancel, job=job)
            note(h.CancelAnswered, job=job, state=(await job.cancel("no need")).word)
        await self.see_end(job)

    async def _look(self, job: JobHandle[Any]) -> None:
        asked_at = trio.current_time()
        state = (await job.status()).word
        self._recorder.note(h.Saw, job=job, state=state, asked_at=asked_at)

    async def see_end(self, job: JobHandle[Any]) -> None:
        try:
            value = await job.result()
        except JobEnded:
            await self._look(job)
        else:
            self._recorder.note(h.Saw, job=job, state="succeeded", value=value)


async def record_a_run(seed: int) -> list[h.Event]:
    rng, recorder = Random(seed), h.MemoryRecorder("client", clock=trio.current_time)
    work = recorded_task(recorder)
    recorder.note(h.Limit, gate="task:work", most=5)
    with trio.move_on_after(120) as patience:
        async with (
            open_cluster([work], workers=2) as cluster,
            cluster.client() as client,
            trio.open_nursery() as nursery,
        ):
            caller = Caller(client, recorder, rng)
            for n in range(JOBS):
                nursery.start_soon(caller.submit_one, work, n)
                await trio.sleep(rng.choice([0, 0, 0.2, 1]))
                if n % 20 == 10:
                    await cluster.kill_plane()
                    recorder.note(h.Gone, who="plane", role="plane")
                    await trio.sleep(rng.choice([0.1, 3]))
                    await cluster.start_plane()
                    recorder.note(h.Back, who="plane", role="plane")
            while nursery.child_tasks:
                await trio.sleep(1)
            recorder.note(h.Quiescent)
            for job in sorted(caller.jobs):
                await caller.see_end(job)
    if patience.cancelled_caught:
        recorder.note(h.Quiescent)  # who waits still would wait for ever
    return recorder.events


@pytest.mark.parametrize("seed", range(5))
async def test_a_run_in_which_the_plane_is_killed_keeps_every_promise(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    events = await record_a_run(seed)
    found = h.check(events)
    assert not found, "\n".join(map(str, found))
    kinds = {type(event) for event in events}
    assert kinds >= {h.Started, h.Ended, h.Accepted, h.Saw, h.CancelAnswered, h.Gone}
    states = {event.state for event in events if isinstance(event, h.Saw)}
    assert states >= {"succeeded", "failed", "cancelled", "running"}


async def test_what_is_changed_in_the_record_of_a_run_is_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    events = await record_a_run(0)
    # Of what was lost before a plane was killed, nobody knows whether that was on disk.
    killed_at = max(e.at for e in events if isinstance(e, h.Gone))
    ended = next(
        e
        for e in events
        if isinstance(e, h.Ended) and e.outcome == "succeeded" and e.at > killed_at
    )
    seen = [e for e in events if isinstance(e, h.Saw) and e.value is not None]
    others = [e for e in events if getattr(e, "job", "") != ended.job]
    assert h.check(others) == []
    changed = {
        h.UnknownResult: [replace(e, value="else") if e is ended else e for e in events],
        h.NoEnd: [e for e in events if not isinstance(e, h.Saw) or e.job != seen[0].job],
        h.OverLimit: [replace(e, most=2) if isinstance(e, h.Limit) else e for e in events],
        h.LateResult: [
            *events,
            h.Lost(at=ended.at, process="plane", job=ended.job, attempt=ended.attempt),
        ],
    }
    for violation, those in changed.items():
        assert violation in {type(found) for found in h.check(those)}


@pytest.mark.parametrize(
    ("mistake", "violations"),
    [
        ("lose-delayed", {h.NoEnd}),
        ("drop-parked", {h.NoEnd}),
        ("two-at-once", {h.KeyIsTwoJobs, h.TwoLiveJobs}),
    ],
)
async def test_a_mistake_in_the_engine_is_found(
    autojump_clock: trio.testing.MockClock, mistake: str, violations: set[type[h.Violation]]
) -> None:
    for seed in range(20):
        with planted(mistake):
            events = await record_a_run(seed)
        if violations & {type(found) for found in h.check(events)}:
            return
    raise AssertionError("twenty runs have not shown it")
