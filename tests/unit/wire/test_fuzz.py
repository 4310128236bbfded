"""The driver of `nox -s fuzz-wire` judges what it says, ends, and shows what it has found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from tests.unit.wire.fuzz import by_chance
from tests.unit.wire.judge import judge, mutants


def ticking() -> Callable[[], float]:
    """A clock that goes on by a second each time that it is looked at."""
    return map(float, count()).__next__


def test_mutations_are_judged_for_so_long_and_none_wrongly() -> None:
    assert by_chance(judge, mutants, seed=50, within_s=3.0, clock=ticking()) == 2 * 200


def test_what_is_judged_wrongly_is_said_so_that_it_can_be_judged_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[bytes] = []

    def judge_wrongly(data: bytes) -> None:
        seen.append(data)
        if len(seen) == 300:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        by_chance(judge_wrongly, mutants, seed=50, within_s=9.0, clock=ticking())
    said = capsys.readouterr().err
    assert said.startswith("seed 51: judge(")
    assert eval(said.partition("judge(")[2].strip()[:-1]) == seen[-1]
