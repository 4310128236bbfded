"""A client in a process of its own: `python -m tests.faults.caller` submits a load that is drawn
from a seed, and records what it does and what it sees."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import trio
from tests.faults import jobs

from creche import Client, JobEnded, JobHandle
from creche.cli.processes import wait_for_parent_to_end
from creche.errors import (
    CrecheError,
    DuplicateJob,
    SubmissionRefused,
    SubmissionUncertain,
    SubmitTimeout,
    UnknownJob,
)
from creche.testing import history as h

KINDS = ("coroutine", "once", "limited", "on_asyncio", "thread", "process")
PATIENCE_S = 60.0
"""How long a call may take, over whatever is done to the plane meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a client submits: so many jobs, one each *pace_s*, of bodies that take from
    *shortest_s* to *longest_s*. Shares are of 1."""

    jobs: int = 30
    pace_s: float = 0.03
    shortest_s: float = 0.05
    longest_s: float = 0.5
    failing: float = 0.25
    delayed: float = 0.1
    delay_s: float = 1.0
    cancelled: float = 0.1
    size_bytes: int = 0
    weights: tuple[int, ...] = (9, 2, 2, 2, 3, 1)
    """How often each of `KINDS` is drawn."""


class Caller:
    """A client that records what it does, and what it sees."""

    def __init__(self, client: Client, recorder: h.Recorder, load: Load, rng: Random) -> None:
        self._client = client
        self._recorder = recorder
        self._load = load
        self._rng = rng

    async def run(self) -> None:
        """Submit everything, and wait for all that comes of it."""
        async with trio.open_nursery() as nursery:
            for n in range(self._load.jobs):
                nursery.start_soon(self._call, f"{self._recorder.process}-{n}", self._drawn(n))
                await trio.sleep(self._load.pace_s)

    def _drawn(self, n: int) -> tuple[str, str, float, dict[str, Any], h.Terms]:
        """Return a task, what its attempts do, how long each takes, the options of its submission,
        and the terms that go with them."""
        rng, load = self._rng, self._load
        kind = rng.choices(KINDS, load.weights)[0]
        plan = rng.choice(["fs", "rs", "zs", "ffs", "fff"]) if rng.random() < load.failing else "s"
        options: dict[str, Any] = {}
        terms: dict[str, Any] = {"task": kind, "is_at_most_once": kind == "once"}
        terms["max_losses"] = jobs.MAX_LOSSES
        if kind != "once":
            terms |= {"retries": jobs.RETRIES, "backoff_s": jobs.BACKOFF_S}
        if rng.random() < load.delayed:
            options["countdown"] = terms["delay_s"] = load.delay_s
        if rng.random() < 0.1:
            options["expires"] = terms["expires_s"] = load.delay_s + 10.0
        elif rng.random() < 0.1:
            options["deadline"] = datetime.now(UTC) + timedelta(seconds=20)
            terms["deadline_at"] = time.monotonic() + 20
        if kind == "coroutine" and rng.random() < 0.1:
            plan = "hs"
            options["timeout"] = terms["timeout_s"] = load.longest_s + 0.3
        if rng.random() < 0.1:
            options["idempotency_key"] = terms["idempotency_key"] = f"key {rng.randrange(4)}"
        seconds = rng.uniform(load.shortest_s, load.longest_s)
        return kind, plan, seconds, options, h.Terms(**terms)

    async def _call(
        self, call: str, drawn: tuple[str, str, float, dict[str, Any], h.Terms]
    ) -> None:
        kind, plan, seconds, options, terms = drawn
        cancels = self._rng.random() < self._load.cancelled
        work = getattr(jobs, kind).with_options(**options)
        note = self._recorder.note
        note(h.Submit, call=call, terms=terms)
        try:
            job = await self._client.submit(work, call, plan, seconds, self._load.size_bytes)
        except (SubmissionRefused, DuplicateJob, SubmitTimeout) as refused:
            note(h.Refused, call=call, why=str(refused))
            return
        except SubmissionUncertain:
            note(h.Uncertain, call=call)
            return
        note(h.Accepted, call=call, job=job.id, is_existing=job.is_existing)
        if cancels:
            await trio.sleep(seconds / 2)
            await self._cancel(job)
        await self._see_end(job)

    async def _cancel(self, job: JobHandle[Any]) -> None:
        self._recorder.note(h.Cancel, job=job.id)
        try:
            state = (await job.cancel("no need")).word
        except UnknownJob:
            state = "unknown"
        except CrecheError:
            return  # it may have been cancelled, and may be not
        self._recorder.note(h.CancelAnswered, job=job.id, state=state)

    async def _see_end(self, job: JobHandle[Any]) -> None:
        asked_at = time.monotonic()
        try:
            value = (await job.result()).rstrip()
        except UnknownJob:
            return  # the one who asks about every job in the end finds out what of it is known
        except JobEnded:
            asked_at = time.monotonic()
            try:
                state = (await job.status()).word
            except CrecheError:
                return
            self._recorder.note(h.Saw, job=job.id, state=state, asked_at=asked_at)
        else:
            self._recorder.note(
                h.Saw, job=job.id, state="succeeded", value=value, asked_at=asked_at
            )


def command(name: str, url: str, load: Load, seed: int) -> list[str]:
    """Return the words that start such a client."""
    return [
        sys.executable, "-P", "-m", "tests.faults.caller",
        json.dumps({"name": name, "url": url, "load": asdict(load), "seed": seed}),
    ]  # fmt: skip


async def main(said: dict[str, Any]) -> None:
    """Be a client."""
    recorder = h.FileRecorder(os.environ["CRECHE_FAULTS_RECORD"], said["name"])
    load = Load(**{**said["load"], "weights": tuple(said["load"]["weights"])})
    async with Client(said["url"], name=said["name"], timeout=PATIENCE_S) as client:
        await Caller(client, recorder, load, Random(said["seed"])).run()


async def while_parent_lives(run: Callable[[], Awaitable[None]]) -> None:
    """Run something until it ends, or until whoever has started this process is gone."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await wait_for_parent_to_end(int(os.environ["CRECHE_FAULTS_PIPE"]))
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await run()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig()
    trio.run(while_parent_lives, partial(main, json.loads(sys.argv[1])))
