"""A few seeds of the fuzz, and that it finds what is wrong. `nox -s fuzz` runs many."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = 4


def run_fuzz(*args: str) -> subprocess.CompletedProcess[str]:
    """Run seeds in a process of their own, whose sets have the order that belongs to a seed."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


@pytest.mark.slow
def test_whatever_happens_every_accepted_job_comes_to_its_one_end_and_nothing_is_left() -> None:
    done = run_fuzz("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SEEDS} seeds in" in done.stdout


@pytest.mark.slow
def test_whatever_happens_whoever_submits_gets_the_one_right_answer() -> None:
    done = run_fuzz("--peers", "--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SEEDS} seeds in" in done.stdout


@pytest.mark.slow
# Others show only when all else is over, which takes long: `python -m tests.fuzz --plant`.
@pytest.mark.parametrize(
    "plant",
    ["answer-early", "fire-again", "retry-twice", "open-queue", "two-at-once", "forget-replaced"],
)
def test_a_mistake_in_the_engine_is_found_and_printed_as_the_command_that_repeats_it(
    plant: str,
) -> None:
    found = run_fuzz("--seeds", "30", "--plant", plant)
    assert found.returncode == 1, found.stdout + found.stderr
    command = re.search(r"python -m tests\.fuzz (.*)$", found.stdout, re.MULTILINE)
    assert command is not None
    again = run_fuzz(*command[1].split())
    assert again.returncode == 1
    (promise,) = set(re.findall(r"BROKEN: (.*)$", found.stdout, re.MULTILINE))
    assert promise in again.stdout
