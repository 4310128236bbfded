"""`docs/design.md` is true where it can be compared: states, rooms, and the tests it names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from creche.model.job import MOVES, JobState

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "design.md"
TEXT = PAGE.read_text(encoding="utf-8")

PROMISE = re.compile(r"^\| .+ \| (`test_\w+`.*) \|$", re.MULTILINE)
SHOWN = re.compile(r"`(test_\w+)` in \[[^\]]+\]\(([^)]+)\)")


def section(title: str) -> str:
    """The text from the heading of this name to the next one."""
    _, found, rest = TEXT.partition(f"\n## {title}\n")
    assert found, title
    return rest.partition("\n## ")[0]


def test_the_moves_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\w+) \|(.*)\|$", section("Job states"), re.MULTILINE)
    drawn = {
        JobState.parse(here): {JobState.parse(word) for word in there.split(",") if word.strip()}
        for here, there in rows
        if here != "from"
    }
    assert drawn == {here: set(there) for here, there in MOVES.items()}


def test_the_rooms_and_who_may_import_whom_are_those_of_the_contract() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = tool["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["id"] == "rooms")
    package = ROOT / "src" / "creche"
    there = {
        path.stem
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    built = [[room for room in re.findall(r"\w+", layer) if room in there] for layer in layers]
    (drawn,) = re.findall(r"```\n(testing\n.*?)```", section("Rooms"), re.DOTALL)
    assert [line.split(" | ") for line in drawn.splitlines()] == [line for line in built if line]
    described = re.findall(r"^\| `(\w+)` \|", section("Rooms"), re.MULTILINE)
    assert sorted(described) == sorted(room for line in built for room in line)


@pytest.mark.parametrize("shown", PROMISE.findall(section("What is promised")))
def test_every_promise_names_a_test_that_is_there(shown: str) -> None:
    named = SHOWN.findall(shown)
    assert named, shown
    for test, link in named:
        code = (PAGE.parent / link).read_text(encoding="utf-8")
        assert re.search(rf"^ *(async )?def {test}\(", code, re.MULTILINE), test


def test_every_promise_is_looked_at() -> None:
    rows = [line for line in section("What is promised").splitlines() if line.startswith("| ")]
    assert len(PROMISE.findall(section("What is promised"))) == len(rows) - 1 > 15
