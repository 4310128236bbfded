"""What `creche status` says of a job."""

from __future__ import annotations

from typing import Any

import pytest

from creche.cli.job import facts_of

NOW = 1_800_000_000.0


def a_job(**facts: Any) -> dict[str, Any]:
    usual = {
        "id": "01a3185c-5000-7000-8000-000000000001", "task": "charge", "state": "failed",
        "queue": "default", "priority": "normal", "attempt": 1, "failures": 1, "options": {},
        "retry": {"retries": 3, "backoff": 10.0}, "submitted_at": NOW, "started_at": NOW,
        "ended_at": NOW + 5,
    }  # fmt: skip
    return usual | facts


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, ""),
        ({"options": {"limits": {"deadline_at": NOW + 12}}}, "come after its deadline, "),
        ({"options": {"limits": {"deadline_at": NOW + 16}}}, ""),
        (
            {"retry": {"retries": "forever", "give_up_after": 5.5}},
            "come after give_up_after, 5.5 s",
        ),
        ({"retry": {"retries": 0, "give_up_after": 5.5}}, ""),
        ({"state": "delayed", "options": {"limits": {"deadline_at": NOW + 1}}}, ""),
    ],
)
def test_a_job_that_is_not_tried_again_as_its_time_is_up_says_so(
    facts: dict[str, Any], why: str
) -> None:
    said = dict(facts_of(a_job(**facts)))["failures"]
    assert said.startswith("1 (")
    assert said.endswith("allowed)") if not why else why in said
