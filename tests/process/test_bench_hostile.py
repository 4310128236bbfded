"""`creche bench --hostile` has a real process attack a real plane, and measures the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from creche.cli import bench_hostile

pytestmark = [pytest.mark.trio, pytest.mark.slow]


async def test_the_figures_are_of_each_attack_and_all_jobs_come_back(tmp_path: Path) -> None:
    with trio.fail_after(120):
        figures = await bench_hostile.measure_hostile(
            tmp_path, 5, "memory:", ["small-messages", "searches"]
        )
    attacks = figures["attacks"]
    assert list(attacks) == ["small-messages", "searches"]
    worst = [max(one["p50"], one["asked_p50"]) for one in attacks.values()]
    assert figures["slower"] == sum(each > bench_hostile.MOST for each in worst)
    assert all(one["p99"] > 0 and one["ms"]["p50"] > 0 for one in attacks.values())
    assert all(one["asked_ms"]["p50"] > 0 for one in attacks.values())
