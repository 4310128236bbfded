"""Looking for a mistake: seeds from 1 on, until one breaks a promise."""

from __future__ import annotations

from typing import NamedTuple

from tests.simulate.mistakes import made

from creche.testing.simulate import judge_seed

JOBS = 100
"""In each seed."""


class Found(NamedTuple):
    """How a mistake was found."""

    seeds: int
    """How many seeds it took."""
    kind: str
    """The promise that the last one broke, or the error that it ended with."""


def find(name: str, most: int) -> Found | None:
    """Run seeds 1, 2, ... with a mistake; None if *most* of them do not find it."""
    with made(name):
        for seed in range(1, most + 1):
            kind, _ = judge_seed(seed, JOBS)
            if kind:
                return Found(seed, kind)
    return None
