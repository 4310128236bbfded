"""A few of the faults that `python -m tests.faults` does, each judged by the history checker; and
that what went wrong would be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from tests.faults.case import BOUNDS, Finding, run_case
from tests.faults.faults import FAULTS, LinkDown
from tests.faults.moments import MOMENTS
from tests.faults.table import as_markdown

from creche.testing import history as h
from creche.testing.history.view import History

pytestmark = [pytest.mark.trio, pytest.mark.slow]

BOUND_S = 170
SOME = (
    ("kill the plane", "submitting"),
    ("stop the worker", "running"),
    ("cut connections at a frame", "reporting"),
)


@pytest.mark.parametrize(("fault", "moment"), SOME)
async def test_whatever_is_done_to_processes_nothing_that_was_accepted_is_lost(
    tmp_path: Path, fault: str, moment: str
) -> None:
    with trio.fail_after(BOUND_S):
        finding = await run_case(fault, moment, tmp_path)
    assert not finding.violations, "\n".join(finding.violations)
    assert not finding.complaints
    assert finding.jobs > 20, "the load was too light to show anything"


def _as_few_retries_as_were_used(events: Sequence[h.Event]) -> list[h.Event]:
    """Return a history whose jobs may be tried as often as they were, but for lost leases."""
    retries: dict[str, int] = {}
    for job in History(events, BOUNDS).jobs.values():
        if isinstance(job.made, h.Submit):
            counted = sum(not (run.lost or run.has_snoozed) for run in job.runs)
            retries[job.made.call] = max(0, counted - 1)
    return [
        replace(event, terms=replace(event.terms, retries=retries.get(event.call, 0)))
        if isinstance(event, h.Submit)
        else event
        for event in events
    ]


async def test_what_a_killed_worker_had_runs_again_and_a_record_that_hides_it_is_refused(
    tmp_path: Path,
) -> None:
    with trio.fail_after(BOUND_S):
        finding = await run_case("kill the worker", "running", tmp_path)
    assert finding.is_good, "\n".join(finding.violations)
    assert finding.again > 0, "the worker had nothing when it was killed"
    events = h.read_history(tmp_path / "recorded")

    strict = _as_few_retries_as_were_used(events)
    assert h.check(strict, BOUNDS) == []
    without_losses = [event for event in strict if not isinstance(event, h.Lost)]
    found = {type(violation) for violation in h.check(without_losses, BOUNDS)}
    assert h.TooManyAttempts in found

    end = max(i for i, e in enumerate(events) if isinstance(e, h.Saw) and e.state == "succeeded")
    job = events[end].job  # type: ignore[attr-defined]
    unfinished = [
        replace(e, state="queued", value=None) if isinstance(e, h.Saw) and e.job == job else e
        for e in events
    ]
    assert [type(violation) for violation in h.check(unfinished, BOUNDS)] == [h.NoEnd]


async def test_what_this_machine_cannot_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in (LinkDown().why_not() or "")


async def test_the_table_has_a_row_for_each_fault_and_shows_what_was_broken() -> None:
    good = Finding(
        fault="kill the plane", moment="queued", jobs=9, violations=(), again=2, recovered_s=1.26
    )
    bad = replace(good, moment="running", violations=("TwoEnds: job x",))
    lines = as_markdown([good, bad]).splitlines()
    assert lines[0] == f"| fault | lasts | {' | '.join(MOMENTS)} |"
    assert lines[2:] == ["| kill the plane |  |  | 1.3 s, 2 again | **1 broken** |  |  |  |  |"]


async def test_each_fault_says_its_name_once() -> None:
    assert [make().name for make in FAULTS.values()] == list(FAULTS)
