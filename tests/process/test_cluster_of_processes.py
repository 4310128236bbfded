"""What demo and bench run: a plane in a process of its own, for as long as its block lasts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio

from creche.cli.cluster import running_plane

pytestmark = pytest.mark.trio


async def test_only_the_start_of_a_plane_is_bounded_and_not_its_block(tmp_path: Path) -> None:
    with trio.fail_after(60) as limit:
        async with running_plane(tmp_path, "--store", "memory:", "--workers", "0") as plane:
            limit.deadline = math.inf
            assert plane.epoch == 1
            assert trio.current_effective_deadline() == math.inf
