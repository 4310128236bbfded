"""Whole simulations: what they come to, that they come to it again, and that they find mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.simulate.mistakes import made

from creche.client.client import Client
from creche.errors import InvalidArguments, SettingsError
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.history import Back, Ended, Fired, Gone, Lost, Paused, Quiescent, Saw
from creche.testing.simulate import Failure, Mixed, Report, Script, Stop, run, run_seed, run_seeds
from creche.testing.simulate.__main__ import first_of, main
from creche.testing.simulate.town import Town

SEEDS = range(1, 9)


def test_whatever_goes_wrong_every_promise_is_kept() -> None:
    reports = [run_seed(seed, jobs=100) for seed in SEEDS]
    assert [report.violations for report in reports] == [[]] * len(reports)
    kinds = {type(event) for report in reports for event in report.history}
    assert kinds >= {Gone, Paused, Ended, Fired, Lost, Saw, Quiescent}
    states = {e.state for report in reports for e in report.history if isinstance(e, Saw)}
    assert states >= {"succeeded", "failed", "cancelled", "expired"}


def test_the_same_script_comes_to_the_same_in_every_run_and_process() -> None:
    here = [digest_of(seed) for seed in (3, 8)]
    assert here == [digest_of(seed) for seed in (3, 8)]
    there = (
        "from tests.unit.testing.simulate.test_simulate import *; print(digest_of(3), digest_of(8))"
    )
    done = subprocess.run(
        [sys.executable, "-c", there],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert done.stdout.split() == here, done.stderr


def digest_of(seed: int) -> str:
    return run_seed(seed, jobs=60).digest


def test_without_faults_everything_that_is_submitted_is_accepted() -> None:
    report = run(Mixed(5, jobs=60), Script(5))
    assert (report.violations, report.frames > 100) == ([], True)


def test_a_mistake_in_the_engine_is_found_and_written_down_as_a_test() -> None:
    with made("answer-early"):
        failure = next(run_seeds(range(1, 40), jobs=60))
        assert runs_as_test(failure) != []
    assert runs_as_test(failure) == []


def runs_as_test(failure: Failure) -> list[str]:
    """Run the test that is printed; return what it fails with, if it does."""
    room: dict[str, object] = {}
    exec(failure.as_test(), room)
    try:
        room[f"test_seed_{failure.seed}"]()  # type: ignore[operator]
    except Exception as error:
        return [repr(error)[:100]]
    except AssertionError as error:
        return [repr(error)[:100]]
    return []


def test_the_command_runs_seeds_and_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", "1", "--seeds", "2", "--jobs", "20", "--processes", "2"]) == 0
    assert "2 seeds (from 1, 20 jobs each)" in capsys.readouterr().out


def test_seeds_of_one_day_are_none_of_another() -> None:
    first, second = (datetime(2026, 2, day, 23, 59, tzinfo=UTC) for day in (27, 28))
    assert first_of(first) == first_of(first.replace(hour=0))
    assert first_of(second) - first_of(first) > 500


def test_a_seed_of_today_that_fails_is_told_and_kept_and_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--seeds", "2", "--jobs", "60", "--processes", "1", "--keep", str(tmp_path)]
    today = datetime(2026, 2, 27, tzinfo=UTC)
    with made("no-backoff"):
        assert main(["--dated", *given], today=today) == 0
        assert main(["--from", str(first_of(today)), *given]) == 1
    told = capsys.readouterr().out
    kept = list(tmp_path.iterdir())
    assert kept
    assert all(path.read_text() in told for path in kept)


def test_a_report_tells_of_what_it_was_made() -> None:
    report: Report = run_seed(1, jobs=20)
    assert report.script.seed == 1
    assert report.lasted_s > 0


def test_what_is_told_to_end_ends_by_itself_and_loses_nothing() -> None:
    stops = [Stop(1.0, "worker-1", down_s=3.0), Stop(1.5, "plane", down_s=2.0)]
    report = run(Mixed(5, jobs=60), Script(5, stops))
    assert report.violations == []
    gone = {event.who: event.at for event in report.history if isinstance(event, Gone)}
    # A body takes 4 s at the most, and who does not end in 60 s is killed.
    assert 1.0 < gone["worker-1"] < 8
    assert 1.5 < gone["plane"] < 8
    back = {event.who: event.at for event in report.history if isinstance(event, Back)}
    assert back["plane"] == gone["plane"] + 2.0
    assert not any(isinstance(event, Lost) for event in report.history)


class Broken(Mixed):
    """A scenario with a mistake of its user's in it."""

    async def play(self, town: Town, client: Client, name: str) -> None:
        await client.submit("by its name")  # type: ignore[call-overload]


def test_a_mistake_in_a_scenario_ends_the_run_and_is_told() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run(Broken(1, jobs=5), Script(1))
    assert caught.group_contains(InvalidArguments, depth=1)


class Blocking(Mixed):
    """A scenario with a body that is no coroutine."""

    def registry(self, town: Town, worker: str) -> Registry:
        registry = super().registry(town, worker)
        task(registry=registry)(blocks)
        return registry


def blocks() -> None: ...


def test_a_body_that_is_no_coroutine_is_refused_by_name() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run(Blocking(1, jobs=5), Script(1))
    assert caught.group_contains(SettingsError, match="task 'blocks' runs in executor 'thread'")
