"""How many workers are wanted: a decision of numbers and moments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.engine.scaling import GROW_S, SHRINK_S, Load, Scale


def load(workers: int, waiting: int = 0, running: int = 0, *, is_settled: bool = True) -> Load:
    """What there is to do for workers of ten slots each."""
    return Load(workers, is_settled, waiting, running, workers * 10)


def test_another_worker_is_wanted_when_jobs_have_waited_for_a_while_and_no_slot_is_free():
    scale = Scale(1, 8)
    assert scale.decide(load(1, 5, 10), 0.0) == 1
    assert scale.decide(load(1, 5, 10), GROW_S - 0.1) == 1
    assert scale.decide(load(1, 5, 10), GROW_S) == 2
    # The next one takes as long again; of many workers, several come at once.
    assert scale.decide(load(2, 5, 20), GROW_S + 1) == 2
    assert scale.decide(load(4, 5, 40), 3 * GROW_S) == 6
    assert scale.decide(load(6, 5, 60), 4 * GROW_S) == 6
    assert scale.decide(load(6, 5, 60), 5 * GROW_S) == 8
    assert scale.decide(load(8, 5, 80), 9 * GROW_S) == 8


@pytest.mark.parametrize("pause", [load(1, 0, 10), load(1, 5, 9), load(1, 5, 10, is_settled=False)])
def test_a_moment_in_which_nothing_waits_begins_the_wait_anew(pause: Load):
    scale = Scale(1, 8)
    scale.decide(load(1, 5, 10), 0.0)
    scale.decide(pause, 1.0)
    scale.decide(load(1, 5, 10), 1.5)
    assert scale.decide(load(1, 5, 10), GROW_S) == 1
    assert scale.decide(load(1, 5, 10), 1.5 + GROW_S) == 2


def test_one_leaves_when_one_less_has_been_enough_for_long():
    scale = Scale(1, 8)
    assert scale.decide(load(3, 0, 10), 0.0) == 3
    assert scale.decide(load(3, 0, 10), SHRINK_S) == 2
    assert scale.decide(load(2, 0, 6), 2 * SHRINK_S) == 2
    assert scale.decide(load(2, 0, 6), 4 * SHRINK_S) == 2
    assert scale.decide(load(2, 0, 5), 5 * SHRINK_S) == 2
    assert scale.decide(load(2, 0, 0), 6 * SHRINK_S) == 1
    assert scale.decide(load(1, 0, 0), 9 * SHRINK_S) == 1


@pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 2), (-1, 5)])
def test_a_range_that_is_none_is_refused(least: int, most: int):
    with pytest.raises(ValueError, match="is no range"):
        Scale(least, most)


@given(
    st.integers(1, 4),
    st.integers(0, 6),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.floats(0, 40), st.booleans())),
)
def test_the_bounds_are_kept_and_it_changes_only_when_all_are_there(least, more, steps):
    scale, workers, now = Scale(least, least + more), least, 0.0
    for waiting, running, pause, is_settled in steps:
        now += pause
        wanted = scale.decide(
            load(workers, waiting, min(running, workers * 10), is_settled=is_settled), now
        )
        assert least <= wanted <= least + more
        if not is_settled:
            assert wanted == workers
        workers = wanted
