"""A plane knows no more peers than its descriptors leave room for."""

from __future__ import annotations

import pytest

from creche.cli.descriptors import peers_for, reserve


@pytest.mark.parametrize(
    ("descriptors", "workers", "peers"),
    [
        (524_288, 1, 10_000),
        (10_000 + reserve(1), 1, 10_000),
        (9_999 + reserve(1), 1, 9_999),
        (1024, 0, 1024 - reserve(0)),
        (1024, 30, 1024 - reserve(30)),
        (256, 1, 64),
        (2, 1, 1),
    ],
)
def test_peers_leave_the_plane_what_it_needs_itself(
    descriptors: int, workers: int, peers: int
) -> None:
    assert peers_for(descriptors, 10_000, workers) == peers
