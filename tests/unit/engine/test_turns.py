"""Whoever says much that brings nothing stands in line; nobody else ever does."""

from __future__ import annotations

import pytest
import trio

from creche.engine import turns
from creche.engine.turns import Allowance, Turns, cost_of_frame

pytestmark = pytest.mark.trio


async def test_what_is_used_up_grows_again_and_no_further_than_it_was() -> None:
    own = Allowance(share=0.1, most_s=1.0)
    assert own.left_s(100.0) == 1.0
    own.spend(0.4, 100.0)
    assert own.left_s(100.0) == pytest.approx(0.6)
    assert own.left_s(102.0) == pytest.approx(0.8)
    assert own.left_s(200.0) == 1.0


async def test_a_debt_has_an_end() -> None:
    own = Allowance(share=0.1, most_s=1.0)
    own.spend(1000.0, 0.0)
    assert own.left_s(0.0) == -1.0
    assert own.left_s(10.1) > 0
    assert own.spent_s == 1000.0


@pytest.mark.parametrize(
    ("number", "useful", "took_s", "cost_s"),
    [
        (10, 10, 9.0, 0.0),
        (10, 20, 9.0, 0.0),
        (10, 5, 0.0, (turns.FRAME_S + 1000 * turns.BYTE_S + 10 * turns.MESSAGE_S) / 2),
        (10, 0, 9.0, 9.0),
        (0, 0, 0.0, turns.FRAME_S + 1000 * turns.BYTE_S),
    ],
)
async def test_a_frame_costs_what_brought_nothing(
    number: int, useful: int, took_s: float, cost_s: float
) -> None:
    assert cost_of_frame(bytes(1000), number, useful, took_s) == pytest.approx(cost_s)


async def test_those_in_line_have_a_fifth_together_however_many_they_are(autojump_clock) -> None:
    """On a virtual clock the turns take no time, and the pauses what they should."""
    line = Turns()
    spent_s = 0.0

    async def chatter() -> None:
        nonlocal spent_s
        own = Allowance()
        while True:
            if line.has_to_wait(own):
                async with line.turn(own):
                    line.spend(own, 0.01)
            else:
                line.spend(own, 0.01)
                await trio.lowlevel.checkpoint()
            spent_s += 0.01

    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(chatter)
    # Pauses are four times the turns; what was saved up, and what grows again, comes on top.
    in_line_s = 100 / (1 + turns.PAUSE)
    assert in_line_s * 0.9 < spent_s < in_line_s + 0.25 * 100 + 2


async def test_who_says_little_does_not_stand_behind_those_who_say_much(autojump_clock) -> None:
    line = Turns()
    quiet, loud = Allowance(), Allowance()
    line.spend(quiet, 0.001)
    for _ in range(10):
        line.spend(loud, 1.0)
    assert line.has_to_wait(loud)
    assert not line.has_to_wait(quiet)
    line.spend(quiet, 0.03)
    assert line.has_to_wait(quiet)
    await trio.sleep(10)
    assert not line.has_to_wait(quiet)
