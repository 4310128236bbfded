"""What waits for all peers together has a limit, and who reads does not pay for who does not."""

from __future__ import annotations

import pytest

from creche.engine.outboxes import one_to_cut


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"a": 5}, "a"),
        ({"a": 5, "b": 5}, "a"),
        ({"small": 1, "a": 9, "b": 9}, "a"),
        ({"small": 1, "b": 7, "a": 9}, "b"),
        ({"small": 1, "smaller": 0, "a": 9}, "a"),
    ],
)
def test_of_those_that_have_more_than_half_an_even_share_the_stalest_is_cut(
    sizes: dict[str, int], key: str
) -> None:
    assert one_to_cut(sizes) == key
