"""The checker, against a queue that keeps every promise, whatever happens to it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.testing.history.model import GRACE_S, LONG_S, Model
from tests.unit.testing.history.mutations import MUTATIONS, Mutation, Past
from tests.unit.testing.history.plants import PLANTS

from creche.testing.history import Bounds, Event, Violation, check

BOUNDS = Bounds(grace_s=GRACE_S, travel_s=GRACE_S, leaves_s=LONG_S, late_s=LONG_S)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 300))
def test_what_a_correct_queue_does_is_accepted(seed: int, steps: int) -> None:
    found = check(Model(Random(seed)).run(steps), BOUNDS)
    assert not found, "\n".join(map(str, found))


def mutated(seed: int, steps: int, mutation: Mutation) -> list[Event] | None:
    """Return a history in which one promise is broken, None if there was nothing to break."""
    rng = Random(seed)
    return mutation(Past(Model(rng).run(steps), BOUNDS, rng))


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(50, 300), breaking=st.sampled_from(MUTATIONS))
def test_what_breaks_a_promise_is_refused(
    seed: int, steps: int, breaking: tuple[type[Violation], Mutation]
) -> None:
    violation, mutation = breaking
    events = mutated(seed, steps, mutation)
    if events is not None:
        assert violation in {type(found) for found in check(events, BOUNDS)}


@pytest.mark.parametrize(
    ("violation", "mutation"), MUTATIONS, ids=[mutation.__name__ for _, mutation in MUTATIONS]
)
def test_each_way_to_break_a_promise_is_refused_in_many_histories(
    violation: type[Violation], mutation: Mutation
) -> None:
    refused = 0
    for seed in range(400):
        events = mutated(seed, 250, mutation)
        if events is not None:
            found = check(events, BOUNDS)
            assert violation in {type(one) for one in found}, f"seed {seed}: {found}"
            refused += 1
        if refused == 10:
            return
    raise AssertionError(f"only {refused} histories had something to break")


def test_there_is_a_way_to_break_each_promise() -> None:
    assert {violation for violation, _ in MUTATIONS} == {v for v, _ in PLANTS.values()}
