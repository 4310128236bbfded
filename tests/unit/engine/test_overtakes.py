"""How many were sent past what a worker was given ahead of its slots."""

from __future__ import annotations

from typing import Any

import pytest

from creche.engine.job import Job
from creche.engine.overtakes import Overtakes
from creche.model.job import JobState

LANE: Any = None  # nothing here asks for it


def job(seq: int, priority: int, overtaken: int = 0) -> Job:
    made = Job(seq, b"", "echo", LANE, JobState.RUNNING, b"", None, 0.0)
    made.leased_priority, made.overtaken = priority, overtaken
    return made


@pytest.mark.parametrize("before", [0, 1, 2])
def test_so_many_are_sent_past_one_whatever_had_overtaken_it_before(before: int) -> None:
    overtakes = Overtakes(3)
    low = job(1, 3, before)
    overtakes.sent(low)
    for seq in range(before, 3):
        assert not overtakes.is_full
        overtakes.sent(job(10 + seq, 1))
    assert overtakes.is_full
    overtakes.left(low)
    assert low.overtaken == 3
    assert not overtakes.is_full


def test_what_is_as_urgent_or_less_overtakes_nobody() -> None:
    overtakes = Overtakes(1)
    waiting = job(1, 2)
    overtakes.sent(waiting)
    for seq, priority in enumerate([2, 3, 3, 2], 2):
        overtakes.sent(job(seq, priority))
    overtakes.left(waiting)
    assert waiting.overtaken == 0


def test_one_that_is_to_pass_keeps_nothing_back() -> None:
    overtakes = Overtakes(1)
    overtakes.sent(job(1, 0, 5))
    assert not overtakes.is_full


def test_what_has_begun_is_not_overtaken_and_may_wait_where_there_are_fewer_slots() -> None:
    overtakes = Overtakes(1)
    low, high = job(1, 3), job(2, 1)
    overtakes.sent(low)
    overtakes.sent(high)
    assert overtakes.is_full
    overtakes.all_have_begun()
    assert not overtakes.is_full
    overtakes.may_all_wait([low, high])
    assert not overtakes.is_full
    overtakes.sent(job(3, 2))
    assert overtakes.is_full
    overtakes.left(low)
    assert low.overtaken == 1
