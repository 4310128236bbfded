"""An illegal move changes nothing, whoever asks for it: a peer that speaks of attempts and jobs as
they are not, or the engine itself by mistake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cluster.scripted import House, Peer, job_id, open_house
from tests.cluster.test_windows import DiskLike

from creche.engine.core import Core
from creche.engine.job import Job
from creche.engine.settings import PlaneSettings
from creche.model.job import MOVES, IllegalMove, JobState
from creche.wire import messages as m
from creche.wire.payload import encode_value

PATIENT = PlaneSettings(grace_s=10_000, lease_s=20_000, window=4)
STATES = [
    "running", "cancelling", "queued", "parked", "delayed", "succeeded", "failed", "cancelled",
    "expired", "lost",
]  # fmt: skip


@dataclass
class Scene:
    """A plane with a job in every state, and those who may speak of them."""

    house: House
    client: Peer
    holder: Peer
    """Runs what is running and cancelling."""
    other: Peer
    """Listens to the same queue, and holds nothing."""
    jobs: dict[str, m.Submit]
    offers: dict[str, m.Offer]

    async def look(self) -> Any:
        """Return everything that a move could change: in the store, and in memory."""
        core = self.house.core
        await core.journal.wait_drained()
        records = (await core.store.jobs(limit=1000)).records
        return (
            records,
            {seq: (job.state, job.token, job.holder) for seq, job in core.by_seq.items()},
            [lane.statistics() for lane in core.lanes.by_number.values()],
            [(list(s.leased), s.load_s, s.done, s.failed) for s in core.sessions],
            (core.delays.held, core.delays.stored, core.delays.held_bytes),
            core.lanes.space.held_bytes,
        )


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """Bring jobs into every state there is, some of them beyond the window."""
    async with (
        open_house(PATIENT, DiskLike) as house,
        house.client().connected() as client,
        house.worker("holder").connected(queues=["default"]) as holder,
        house.worker("other").connected(queues=["default"]) as other,
    ):
        await holder.ready("echo", slots=10)
        await other.ready("echo", slots=0)
        jobs: dict[str, m.Submit] = {}
        offers: dict[str, m.Offer] = {}
        for i, word in enumerate(["succeeded", "failed", "lost", "cancelling", "running"]):
            once = {"delivery": "at-most-once"} if word == "lost" else None
            jobs[word] = await client.submitted(i, options=once)
            offers[word] = await holder.hear(m.Offer)
        await holder.finish(offers["succeeded"], 1)
        await holder.finish(offers["failed"], state=JobState.FAILED)
        await holder.finish(offers["lost"], state=JobState.LOST)
        await holder.say(m.Capacity(0, 0))
        await trio.sleep(1)
        jobs["cancelled"] = await client.submitted(10)
        await client.say(m.Cancel(1, [jobs["cancelled"].id, jobs["cancelling"].id], "no more"))
        await client.hear(m.Answer)
        limits = {"limits": {"expires_s": 1.0}}
        jobs["expired"] = await client.submitted(11, options=limits)
        await trio.sleep(5)
        jobs["parked"] = await client.submitted(12, task="nobody-s")
        jobs["delayed"] = await client.submitted(13, options={"delay_s": 1000})
        for i in range(20, 28):
            jobs["queued"] = await client.submitted(i)
        scene = Scene(house, client, holder, other, jobs, offers)
        records = {record.id: record.state.word for record in (await scene.look())[0]}
        assert {word: records[job.id] for word, job in jobs.items()} == {w: w for w in STATES}
        yield scene


def draw_illegal(data: st.DataObject, scene: Scene, seqs: dict[str, int]) -> tuple[Peer, Any]:
    """Draw what a peer may say of an attempt or a job that is not so."""
    word = data.draw(st.sampled_from(STATES))
    seq = seqs[word]
    kind = data.draw(st.sampled_from(["finished", "try again", "hand back", "cancel"]))
    if kind == "cancel":
        over = data.draw(st.sampled_from(["succeeded", "failed", "cancelled", "expired", "lost"]))
        ids = [scene.jobs[over].id, scene.jobs["cancelling"].id, job_id(10**6)]
        return scene.client, m.Cancel(7, [data.draw(st.sampled_from(ids))], "again")
    epoch, attempt = scene.house.core.epoch, 1
    peer = scene.other
    if word not in ("running", "cancelling") and data.draw(st.booleans()):
        peer = scene.holder
    match data.draw(st.integers(0, 4)):
        case 0:
            epoch += data.draw(st.sampled_from([-1, 1]))
        case 1:
            attempt += data.draw(st.sampled_from([-1, 1, 10**6]))
        case 2:
            seq += 10**6
        case _:
            pass
    if (epoch, attempt, seq) != (scene.house.core.epoch, 1, seqs[word]):
        peer = data.draw(st.sampled_from([scene.other, scene.holder]))
    n, token = data.draw(st.integers(1000, 2000)), (seq, epoch, attempt)
    if kind == "hand back":
        return scene.other, m.HandBack([list(token)])
    if kind == "try again":
        return peer, m.TryAgain(n, *token, encode_value(None), 5, 0, data.draw(st.booleans()))
    state = data.draw(st.sampled_from([10, 11, 12, 13]))
    return peer, m.Finished(n, *token, state, encode_value("not so"), 5)


async def say_what_is_not_so(data: st.DataObject) -> None:
    with trio.fail_after(10_000):
        async with open_scene() as scene:
            before = await scene.look()
            seqs = dict.fromkeys(STATES, 0)
            for record in before[0]:
                for word, job in scene.jobs.items():
                    if job.id == record.id:
                        seqs[word] = record.seq
            for _ in range(data.draw(st.integers(1, 12))):
                peer, message = draw_illegal(data, scene, seqs)
                await peer.say(message)
                await trio.sleep(0.1)
                assert await scene.look() == before, message
            await scene.holder.finish(scene.offers["running"], "so it is")
            await trio.sleep(1)
            assert await scene.look() != before


@settings(max_examples=30)
@given(st.data())
def test_who_speaks_of_an_attempt_or_a_job_that_is_not_so_changes_nothing(
    data: st.DataObject,
) -> None:
    trio.run(say_what_is_not_so, data, clock=trio.testing.MockClock(autojump_threshold=0))


OPERATIONS: dict[str, tuple[Callable[[Core, Job], None], JobState]] = {
    "succeed": (lambda c, j: c.end(j, JobState.SUCCEEDED, None, None), JobState.SUCCEEDED),
    "fail": (lambda c, j: c.end(j, JobState.FAILED, None, None), JobState.FAILED),
    "cancel": (lambda c, j: c.end_waiting(j, JobState.CANCELLED, None), JobState.CANCELLED),
    "expire": (lambda c, j: c.end_waiting(j, JobState.EXPIRED, None), JobState.EXPIRED),
    "stop": (lambda c, j: c.leases.cancel(j, "why"), JobState.CANCELLING),
}


@pytest.mark.trio
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_move_that_the_engine_must_not_make_raises_and_changes_nothing(
    autojump_clock, operation
):
    act, there = OPERATIONS[operation]
    async with open_scene() as scene:
        core = scene.house.core
        before = await scene.look()
        for job in list(core.by_seq.values()):
            if there not in MOVES[job.state]:
                with pytest.raises(IllegalMove):
                    act(core, job)
                assert await scene.look() == before, job.state.word
