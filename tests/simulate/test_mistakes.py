"""The simulator finds what is wrong on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.simulate.finding import find
from tests.simulate.mistakes import MISTAKES

TEXT = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w-]+)` \| (.+) \| (\d+) \| `(\w+)` \|$", TEXT, re.MULTILINE)

SOON = 5
"""Those that took so many seeds at the most are looked for each time, and may take twice as many:
what changes in the engine changes what a seed does. The others are for `nox -s mistakes`."""


def test_the_page_tells_of_each_mistake() -> None:
    assert [(name, what) for name, what, _, _ in ROWS] == [
        (name, mistake.what) for name, mistake in MISTAKES.items()
    ]


@pytest.mark.parametrize("name", [name for name, _, seeds, _ in ROWS if int(seeds) <= SOON])
def test_a_mistake_is_found(name: str) -> None:
    assert find(name, 4 * SOON) is not None


def test_without_a_mistake_nothing_is_found() -> None:
    assert find("", 3) is None
