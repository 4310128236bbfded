"""Lanes by themselves: what is looked into, and goes on when lanes are let go of meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.cluster.scripted import job_id

from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.lanes import Lanes
from creche.engine.parks import park_by_limit
from creche.engine.space import Space
from creche.model.job import JobState
from creche.store.base import LaneRow


def make_lanes(fairness: int | None = None) -> Lanes:
    return Lanes(100, 1 << 20, Space(1 << 20, spills=False), fairness, lambda lane: None)


def waiting(lane: Lane, seq: int) -> Job:
    job = Job(seq, job_id(seq), "few", lane, JobState.PARKED, b"x", None, 0.0)
    lane.put_back(job)
    return job


class Refuses:
    """Lets nobody pass: a job waits where it was, and its lane is shut; and others are let go of,
    as happens when there are too many."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.looks = 0
        self.is_tired = False

    def lets_pass(self, job: Job, tasks: object) -> bool:
        self.looks += 1
        assert self.looks < 10, "it looks for ever"
        self.lanes.retire({job.lane})
        job.lane.put_back(job)
        job.lane.shut()
        return False


async def _look_while_lanes_are_let_go_of() -> None:
    lanes = make_lanes()
    lane = lanes.get(("other", 3, park_by_limit("few", ("", ""))), ("other", 3))
    idle = [lanes.get((f"queue {n}", 2, ""), (f"queue {n}", 2)) for n in range(5)]
    assert lanes.by_number.keys() == {lane.number, *(one.number for one in idle)}
    waiting(lane, 1)
    level = lanes.queues["other"][3]
    assert level is not None
    turnstile = Refuses(lanes)
    assert level.take({"few"}, turnstile) is None
    assert turnstile.looks == 1
    assert list(lanes.by_number) == [lane.number]
    assert list(lanes.queues) == ["other"]
    # Opened again it is where it was.
    lane.open()
    assert lanes.queues["other"][3] is level
    job = lane.take()
    assert job is not None
    assert job.seq == 1


def test_a_look_into_the_lanes_ends_though_some_are_let_go_of_in_the_middle() -> None:
    trio.run(_look_while_lanes_are_let_go_of)


async def _let_go_of_one_of_two_lanes_of_a_key(park: str, kept: int) -> None:
    """As there are when a key was used again, and the plane starts: the newer one counts."""
    lanes = make_lanes()
    rows = [LaneRow(1, "other", 2, park), LaneRow(2, "other", 2, park)]
    lanes.restore(rows, {1, 2}, 10, lambda key: ("other", 2))
    older = lanes.by_number[kept]
    waiting(older, 1)
    lanes.retire(set())
    assert (list(lanes.by_number), lanes.by_key) == ([kept], {("other", 2, park): older})
    level = lanes.queues["other"][2]
    assert level is not None
    assert (level.main or level.parked["few"][0]) is older
    lanes.retire(set())
    older.take()
    lanes.retire(set())
    assert not lanes.by_number
    assert not lanes.by_key
    assert not lanes.queues


@pytest.mark.parametrize("kept", [1, 2])
@pytest.mark.parametrize("park", ["", park_by_limit("few", ("", ""))])
def test_of_two_lanes_of_a_key_one_can_be_let_go_of(park: str, kept: int) -> None:
    trio.run(_let_go_of_one_of_two_lanes_of_a_key, park, kept)


class LetsPass:
    """Lets everybody pass."""

    is_tired = False

    def lets_pass(self, job: Job, tasks: object) -> bool:
        return True


async def _take_for_a_full_worker(fairness: int | None) -> list[tuple[int, bool]]:
    lanes = make_lanes(fairness)
    for priority, jobs in ((1, 4), (2, 1), (3, 2)):
        lane = lanes.get(("default", priority, ""), ("default", priority))
        for n in range(jobs):
            waiting(lane, 10 * priority + n)
    worker: Any = SimpleNamespace(queues=("default",), tasks={"few"})
    taken = []
    while (job := lanes.take_above(worker, 2, LetsPass())) is not None:
        taken.append((job.lane.priority, job.let_pass))
    return taken


def test_what_is_sent_past_those_a_full_worker_has_overtakes_those_in_their_lanes() -> None:
    assert trio.run(_take_for_a_full_worker, None) == [(1, False)] * 4
    # Those whose turn has come are sent, too, if anything more urgent is.
    taken = trio.run(_take_for_a_full_worker, 2)
    assert taken == [(1, False), (1, False), (2, True), (3, True), (1, False), (1, False)]
