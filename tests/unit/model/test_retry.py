"""When a failed job is tried again, decided without a clock and without chance."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.retry import FOREVER, MAX_DELAY_S, MAX_RETRIES, RetryPolicy, next_try_at

NOW = 1_800_000_000.0


def moment(policy: RetryPolicy, **facts: Any) -> float | None:
    """When the next try is, after the first failure of a job submitted just now."""
    usual: dict[str, Any] = {"failures": 1, "submitted_at": NOW, "now": NOW, "draw": 0.0}
    return next_try_at(policy, **usual | facts)


def test_without_a_policy_a_failed_job_has_failed() -> None:
    assert moment(RetryPolicy()) is None


def test_there_are_as_many_further_tries_as_retries() -> None:
    policy = RetryPolicy(retries=3)
    assert [moment(policy, failures=n) is not None for n in range(1, 6)] == [
        *[True] * 3, *[False] * 2,
    ]  # fmt: skip


def test_a_job_may_be_tried_for_ever_if_that_is_said() -> None:
    policy = RetryPolicy.from_data({"retries": FOREVER})
    assert moment(policy, failures=10**9) == NOW + policy.backoff_max


def test_delays_double_up_to_the_longest() -> None:
    policy = RetryPolicy(retries=20, backoff=0.5, backoff_max=10.0, jitter=0.0)
    delays = [policy.delay_s(failures, 0.7) for failures in range(1, 8)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(
    st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 1), st.integers(1, 10**6),
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_chance_only_shortens_a_delay_and_by_its_share_at_most(
    backoff: float, longest: float, jitter: float, failures: int, draw: float
) -> None:
    policy = RetryPolicy(retries=None, backoff=backoff, backoff_max=longest, jitter=jitter)
    whole = RetryPolicy(retries=None, backoff=backoff, backoff_max=longest, jitter=0.0)
    least, most = whole.delay_s(failures, 0.0) * (1 - jitter), whole.delay_s(failures, 0.0)
    assert least - 1e-9 <= policy.delay_s(failures, draw) <= most <= longest
    assert math.isfinite(most)


def test_a_job_that_asks_for_a_delay_gets_it() -> None:
    policy = RetryPolicy(retries=1, backoff=5.0)
    assert moment(policy, after_s=30.0) == NOW + 30.0
    assert moment(policy, after_s=0.0) == NOW
    assert moment(policy, after_s=1e12) == NOW + MAX_DELAY_S
    assert moment(policy, failures=2, after_s=30.0) is None


def test_no_try_begins_after_the_time_to_give_up() -> None:
    policy = RetryPolicy(retries=None, backoff=1.0, jitter=0.0, give_up_after=10.0)
    assert moment(policy, failures=4) == NOW + 8.0
    assert moment(policy, failures=4, now=NOW + 1.9) == NOW + 9.9
    assert moment(policy, failures=4, now=NOW + 2.0) is None


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("retries", -1, "whole number from 0"),
        ("retries", 1.5, "whole number from 0"),
        ("retries", True, "whole number from 0"),
        ("retries", MAX_RETRIES + 1, "'forever'"),
        ("retries", "many", "'forever'"),
        ("retries", None, "'forever'"),
        ("backoff", -1, "backoff is a number of seconds from 0"),
        ("backoff", math.nan, "backoff is a number"),
        ("backoff", "1", "backoff is a number"),
        ("backoff_max", math.inf, "backoff_max is a number"),
        ("backoff_max", MAX_DELAY_S + 1, "a year"),
        ("jitter", 1.1, "a share from 0 to 1"),
        ("jitter", None, "a share from 0 to 1"),
        ("give_up_after", 0, "give_up_after is a number of seconds above 0"),
        ("tries", 3, "has no 'tries'"),
    ],
)
def test_what_is_no_policy_is_refused_by_name(option: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RetryPolicy.from_data({option: value})


def test_what_is_no_map_is_no_policy() -> None:
    with pytest.raises(ValueError, match="is a map"):
        RetryPolicy.from_data([5])


@given(
    st.builds(
        RetryPolicy,
        retries=st.none() | st.integers(0, MAX_RETRIES),
        backoff=st.floats(0, 100),
        backoff_max=st.floats(0, 1000),
        jitter=st.floats(0, 1),
        give_up_after=st.none() | st.floats(1, 1000),
    )
)
def test_a_policy_is_the_same_after_a_journey_as_data(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_data(policy.as_data()) == policy
