"""The checker, on histories in which one promise is broken."""

from __future__ import annotations

import pytest
from tests.unit.testing.history.plants import PLANTS, Plant

from creche.testing import history as h
from creche.testing.history.events import from_line, to_line

BOUNDS = h.Bounds(leaves_s=30, late_s=30)

TYPES = {
    kind for kind in vars(h).values() if isinstance(kind, type) and issubclass(kind, h.Violation)
} - {h.Violation}


@pytest.mark.parametrize(("violation", "plant"), PLANTS.values(), ids=PLANTS)
def test_a_broken_promise_is_refused_and_nothing_else_is(
    violation: type[h.Violation], plant: Plant
) -> None:
    found = h.check(plant().events, BOUNDS)
    assert [type(one) for one in found] == [violation], "\n".join(map(str, found))
    assert found[0].events
    assert found[0].job or violation is h.NotFired
    assert all(event in plant().events for event in found[0].events), "they prove it"


@pytest.mark.parametrize(("violation", "plant"), PLANTS.values(), ids=PLANTS)
def test_it_is_refused_as_well_when_it_comes_from_a_file_in_any_order(
    violation: type[h.Violation], plant: Plant
) -> None:
    lines = [to_line(event) for event in reversed(plant().events)]
    assert [type(one) for one in h.check(map(from_line, lines), BOUNDS)] == [violation]


def test_each_violation_is_planted() -> None:
    assert {violation for violation, _ in PLANTS.values()} == TYPES
    assert len(h.RULES) == len(TYPES)


def test_each_rule_says_which_promise_was_broken() -> None:
    for kind in TYPES:
        assert kind.__doc__
        assert kind.__doc__.endswith(".")
