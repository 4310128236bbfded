"""What waits and what runs: slots are never exceeded, order is kept, nothing is lost or doubled."""

from __future__ import annotations

import math
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.worker.scripted import offer

from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.worker.attempt import Attempt, Home, Stage
from creche.worker.floor import Floor

registry = Registry()


@task(registry=registry)
def work() -> None:
    return None


def make_floor(slots: int = 2, max_lent: int = 3) -> Floor:
    """Return a floor whose lease does not end."""
    floor = Floor(slots, max_lent=max_lent, on_lent=lambda: None)
    floor.lease_until(math.inf)
    return floor


def make_attempt(
    floor: Floor,
    seq: int,
    priority: int = 2,
    is_threaded: bool = True,
    options: dict[str, Any] | None = None,
) -> Attempt:
    """Return an attempt that is not on the floor yet."""
    # The floor asks nobody for a submitter.
    home = Home("w", floor, cast(Any, None))
    known = registry.get("work")
    assert known is not None
    made = offer(seq, "work", priority=priority)._replace(options=options)
    return Attempt(home, known, "thread" if is_threaded else "coroutine", made)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000)), unique_by=lambda x: x[1]))
def test_the_most_urgent_begins_first_and_the_oldest_among_equals(
    jobs: list[tuple[int, int]],
) -> None:
    floor = make_floor(slots=1)
    for priority, seq in jobs:
        floor.add(make_attempt(floor, seq, priority))
    taken: list[tuple[int, int]] = []
    attempt = floor.take()
    while attempt is not None:
        taken.append((attempt.priority, attempt.token[0]))
        attempt = floor.swap(attempt)
    assert taken == sorted(jobs)
    assert floor.running == 0


def test_one_whose_turn_has_come_is_not_overtaken_again() -> None:
    floor = make_floor(slots=1)
    floor.add(make_attempt(floor, 2, priority=0))
    floor.add(make_attempt(floor, 1, priority=3, options={"let_pass": True}))
    attempt = floor.take()
    assert attempt is not None
    assert (attempt.token[0], attempt.priority) == (1, 3)


def test_a_thread_leaves_the_most_urgent_to_the_loop_if_it_is_a_coroutine() -> None:
    floor = make_floor(slots=1)
    first = make_attempt(floor, 1)
    floor.add(first)
    assert floor.take() is first
    floor.add(make_attempt(floor, 2, is_threaded=False))
    floor.add(make_attempt(floor, 3))
    assert floor.swap(first) is None
    second = floor.take()
    assert second is not None
    assert second.token[0] == 2


def test_nothing_begins_out_of_the_lease_or_while_closed() -> None:
    floor = make_floor()
    floor.add(make_attempt(floor, 1))
    floor.lease_until(-math.inf)
    assert floor.take() is None
    floor.lease_until(math.inf)
    floor.open(False)
    assert floor.take() is None
    floor.open(True)
    assert floor.take() is not None


def test_a_wait_inside_a_wait_lends_one_slot_and_the_outer_one_gives_it_back() -> None:
    floor = make_floor(slots=1)
    attempt = make_attempt(floor, 1)
    floor.add(attempt)
    floor.take()
    with attempt.waiting():
        with attempt.waiting():
            assert floor.lent == 1
        assert floor.lent == 1
    assert floor.lent == 0


def test_a_body_that_has_left_lends_nothing() -> None:
    floor = make_floor(slots=1)
    attempt = make_attempt(floor, 1)
    floor.add(attempt)
    floor.take()
    with attempt.waiting():
        floor.leave(attempt)
        assert floor.lent == 0
        with attempt.waiting():
            assert floor.lent == 0
    assert floor.lent == 0
    assert floor.running == 0


def test_who_waits_when_too_many_are_lent_keeps_its_slot() -> None:
    floor = make_floor(slots=1, max_lent=1)
    first, second, third = (make_attempt(floor, seq) for seq in (1, 2, 3))
    for attempt in (first, second, third):
        floor.add(attempt)
    assert floor.take() is first
    with first.waiting():
        assert floor.take() is second
        with second.waiting():
            assert floor.lent == 1
            assert floor.take() is None


def test_what_is_dropped_by_the_thousand_is_not_kept() -> None:
    floor = make_floor(slots=1)
    running = make_attempt(floor, 0)
    floor.add(running)
    floor.take()
    for seq in range(1, 10_001):
        attempt = make_attempt(floor, seq)
        floor.add(attempt)
        assert floor.drop([attempt]) == [attempt]
    assert len(floor._waiting) <= 2


class FloorMachine(RuleBasedStateMachine):
    """Any order of what loop and threads do."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = make_floor(slots=2, max_lent=2)
        self.seq = 0
        self.known: list[Attempt] = []
        self.lenders: list[Attempt] = []

    @rule(priority=st.integers(0, 3), is_threaded=st.booleans())
    def add(self, priority: int, is_threaded: bool) -> None:
        self.seq += 1
        attempt = make_attempt(self.floor, self.seq, priority, is_threaded)
        self.known.append(attempt)
        self.floor.add(attempt)

    @rule()
    def take(self) -> None:
        waiting = self.at(Stage.WAITING)
        has_room = len(self.at(Stage.RUNNING)) - self.floor.lent < 2
        taken = self.floor.take()
        if taken is None:
            assert not (waiting and has_room)
        else:
            assert has_room
            assert (taken.priority, taken.token) == min((a.priority, a.token) for a in waiting)

    @precondition(lambda self: any(a.stage is Stage.RUNNING for a in self.known))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.at(Stage.RUNNING)))
        if attempt in self.lenders:
            self.floor.take_back(attempt)
            self.lenders.remove(attempt)
        if attempt.is_threaded:
            following = self.floor.swap(attempt)
            assert following is None or following.is_threaded
        else:
            self.floor.leave(attempt)
        assert attempt.stage is Stage.LEFT

    @precondition(lambda self: any(a.stage is Stage.RUNNING for a in self.known))
    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.at(Stage.RUNNING)))
        if attempt not in self.lenders:
            self.floor.lend(attempt)
            self.lenders.append(attempt)

    @precondition(lambda self: self.lenders)
    @rule()
    def take_back(self) -> None:
        self.floor.take_back(self.lenders.pop())

    @precondition(lambda self: any(a.stage is Stage.WAITING for a in self.known))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.known), max_size=5, unique=True))
        waiting = [attempt for attempt in some if attempt.stage is Stage.WAITING]
        assert self.floor.drop(some) == waiting

    @rule()
    def drop_all(self) -> None:
        waiting = self.at(Stage.WAITING)
        assert sorted(a.token for a in self.floor.drop_all()) == [a.token for a in waiting]

    def at(self, stage: Stage) -> list[Attempt]:
        return [attempt for attempt in self.known if attempt.stage is stage]

    @invariant()
    def counts_are_right(self) -> None:
        running = self.at(Stage.RUNNING)
        assert self.floor.running == len(running)
        assert self.floor.busy_threads == sum(attempt.is_threaded for attempt in running)
        assert self.floor.lent <= min(2, len(self.lenders))


TestFloorMachine = FloorMachine.TestCase
