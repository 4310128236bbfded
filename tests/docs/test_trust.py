"""`docs/trust.md` is true where it can be compared: the rules, their promises, and their plants."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.moments import MOMENTS
from tests.unit.testing.history.mutations import MUTATIONS
from tests.unit.testing.history.plants import PLANTS

from creche.testing import history
from creche.testing.history import Event, Terms, Violation
from creche.testing.history.events import KINDS

TEXT = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")
_, _, RULES = TEXT.partition("\n### The rules\n")
ROWS = re.findall(r"^\| (.+) \| `(\w+)` \| (.+) \| (.+) \|$", RULES, re.MULTILINE)


def test_each_rule_is_there_with_its_promise_and_its_plants() -> None:
    types = {violation.__name__: violation for violation, _ in PLANTS.values()}
    assert sorted(name for _, name, _, _ in ROWS) == sorted(types)
    for promise, name, _, planted in ROWS:
        assert f"{promise}." == " ".join((types[name].__doc__ or "").split())
        there = [plant for plant, (violation, _) in PLANTS.items() if violation is types[name]]
        assert re.findall(r"`(\w+)`", planted) == there


def test_what_a_rule_needs_can_be_recorded() -> None:
    names = {*KINDS, *Terms.__dataclass_fields__}
    for kind in KINDS.values():
        names |= {*kind.__dataclass_fields__}
    names |= {*history.Bounds.__dataclass_fields__}
    for _, name, needs, _ in ROWS:
        named = re.findall(r"`(\w+)`", needs)
        assert named, name
        assert {*named} <= names, name


def test_each_kind_of_event_has_its_moment() -> None:
    _, _, table = TEXT.partition("\n| event | it is recorded |\n")
    cells = re.findall(r"^\| (`.+?) \|", table.partition("\n\n")[0], re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(KINDS)


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"each of {len(MUTATIONS)}\n" in TEXT
    assert set(re.findall(r"(\d+) rules", TEXT)) == {f"{len(history.RULES)}"}
    bounds = history.Bounds()
    found = (bounds.grace_s, bounds.travel_s, bounds.skew_s, bounds.kept_s)
    assert found == (1.0, 0.1, 0.001, float("inf"))


def test_what_is_public_is_named_once() -> None:
    public = {name for name, value in vars(history).items() if isinstance(value, type)}
    of_ours = {name for name in public if issubclass(vars(history)[name], Event | Violation)}
    assert of_ours <= {*history.__all__}
    assert len(history.__all__) == len({*history.__all__})


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_fault_matrix_has_a_row_for_each_fault_and_each_case_was_found_good() -> None:
    _, start, after = TEXT.partition("| fault | lasts |")
    head, _, *rows = f"{start}{after}".partition("\n\n")[0].splitlines()
    assert _cells(head) == ["fault", "lasts", *MOMENTS]
    assert [_cells(row)[0] for row in rows] == list(FAULTS)
    for name, lasts, *cells in map(_cells, rows):
        lasts_s = FAULTS[name]().lasts_s
        assert lasts == (f"{lasts_s:g} s" if lasts_s else "")
        assert len(cells) == len(MOMENTS), name
        for cell in cells:
            assert re.fullmatch(r"\d+\.\d s(, \d+ again)?(, \d+ told lost)?", cell), (name, cell)
