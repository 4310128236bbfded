"""A short soak of real processes, with a leak in the plane: it is found, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.soak.__main__ import report
from tests.soak.cluster import LINES, soak
from tests.soak.figures import judge

pytestmark = [pytest.mark.trio, pytest.mark.slow]

COUNTED = ("plane: descriptors", "plane: threads", "store: descriptors", "worker: processes")
"""Figures that a run of seconds tells; memory needs its minutes."""


async def test_a_leak_of_descriptors_is_found_while_peers_come_and_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(120):
        found = await soak(
            tmp_path, minutes=0.25, seed=2, sample_s=0.5, churn_s=0.4, plant="descriptors"
        )
    assert found.jobs > 50
    assert not found.gone
    lines = {name: LINES[name] for name in COUNTED}
    grows = {v.name: v.slope_per_min for v in judge(found.samples, lines, warm_at=5)}
    assert (grows["plane: descriptors"] or 0) > LINES["plane: descriptors"].most_per_min
    assert set(found.samples) >= set(LINES)
    assert report(found, 15, 15) == 1
    assert "plane: descriptors" in capsys.readouterr().out.splitlines()[-1]
