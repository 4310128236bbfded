"""The files that pin and describe the project agree with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def normal(requirement: str) -> str:
    """The distribution's name, as PEP 503 spells it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_every_constraint_is_an_exact_pin_without_an_address() -> None:
    exact = re.compile(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*(; python_version (<|>=) \"3\.\d+\")?")
    assert [line for line in PINS if not exact.fullmatch(line)] == []


def extras() -> list[str]:
    optional: dict[str, list[str]] = PROJECT["optional-dependencies"]
    return [requirement for group in optional.values() for requirement in group]


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *extras()])
def test_everything_that_is_required_is_pinned_for_ci(requirement: str) -> None:
    assert normal(requirement) in {*map(normal, PINS), "creche"}


def test_the_licence_is_mit_and_names_the_authors() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n")
    assert "The Creche authors" in text
    assert PROJECT["license"] == "MIT"


def test_contributing_fits_on_a_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60
