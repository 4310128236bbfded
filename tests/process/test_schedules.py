"""Schedules by the command line, and over a plane that is killed: real processes, a real file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.process.test_cli import Plane, creche, start, until, wait_for_workers

from creche.cli.exits import Exit
from creche.model.ids import id_from_text, made_at

TASKS = '''
import os
from creche import Schedule, task

@task
def note(text: str = "-") -> str:
    """Note that a firing has run."""
    with open("ran.txt", "a") as file:
        file.write(text + "\\n")
        file.flush()
        os.fsync(file.fileno())
    return text

@task
def mark() -> None:
    """Do nothing."""

@task(cron="0 3 * * *", tz="Europe/Paris")
def nightly() -> None:
    """Declared in code."""
'''


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One plane with one worker; each test cleans up what it makes."""
    folder = tmp_path_factory.mktemp("plane")
    (folder / "tasks.py").write_text(TASKS)
    made = start(folder, "--no-gui", "--task-modules", "tasks")
    try:
        wait_for_workers(made, 1)
        until(lambda: bool(made.data("schedules", "ls")["schedules"]), "the task's schedule")
        yield made
    finally:
        made.end()


def done(plane: Plane, *words: str) -> str:
    """Run a command that works; return what it printed."""
    ended = plane.run("schedules", *words)
    assert ended.returncode == Exit.DONE, ended.stderr
    return ended.stdout


def test_what_code_declares_is_listed_and_shown(plane: Plane) -> None:
    listed = done(plane, "ls").splitlines()
    assert listed[0].split() == [
        "NAME", "STATE", "TASK", "WHEN", "NEXT", "LAST", "FIRED", "MISSED", "FROM",
    ]  # fmt: skip
    assert "cron 0 3 * * * Europe/Paris" in listed[1]
    shown = done(plane, "show", "nightly")
    for line in (
        "state    active",
        "queue    the task's queue (the task's priority)",
        "when     cron 0 3 * * * Europe/Paris",
        "overlap  skip",
        "so far   0 fired, 0 missed, 0 overlapped",
        "from     code, module tasks",
    ):
        assert line in shown
    assert "Europe/Paris" in next(x for x in shown.splitlines() if x.startswith("next"))


def test_a_schedules_next_moments_are_in_its_zone_and_in_utc(plane: Plane) -> None:
    lines = done(plane, "next", "nightly", "-n", "3").splitlines()
    assert lines[0].split() == ["Europe/Paris", "UTC"]
    assert len(lines) == 4
    for line in lines[1:]:
        local, utc = (datetime.fromisoformat(part) for part in line.split("  "))
        assert local == utc
        assert local.astimezone(ZoneInfo("Europe/Paris")).hour == 3


def test_the_next_moments_of_a_rule_need_no_plane(tmp_path: Path) -> None:
    ended = creche(
        "schedules", "next", "--cron", "30 2 * * *", "--tz", "Europe/Paris", "-n", "400", "--json",
        cwd=tmp_path, CRECHE_CONNECT="127.0.0.1:1",
    )  # fmt: skip
    assert ended.returncode == Exit.DONE, ended.stderr
    assert ended.stdout.count('"local"') == 400
    # Once a year the time does not exist.
    assert ended.stdout.count(" 03:00:00+02:00") in (1, 2)
    plain = creche("schedules", "next", "--every", "60", "-n", "2", cwd=tmp_path)
    title, *moments = plain.stdout.splitlines()
    assert (title.strip(), len(moments)) == ("UTC", 2)


def test_a_schedule_is_added_changed_paused_resumed_run_and_removed(plane: Plane) -> None:
    made = plane.data("schedules", "add", "mine", "note", "hello", "--cron", "0 4 * * *",
                      "--tz", "Asia/Tokyo", "--jitter", "5", "--count", "7")  # fmt: skip
    info: dict[str, Any] = made["schedule"]
    assert info["rule"] == {
        "cron": "0 4 * * *", "tz": "Asia/Tokyo", "jitter": 5.0, "count": 7,
    }  # fmt: skip
    said = done(plane, "pause", "mine", "nightly")
    assert said.splitlines() == ["mine: paused", "nightly: paused"]
    assert (info["args"], info["kwargs"]) == (["hello"], {})
    done(plane, "set", "mine", "--queue", "default", "--priority", "high")
    shown = done(plane, "show", "mine")
    assert 'note("hello")' in shown
    assert "default (high)" in shown
    assert done(plane, "resume", "nightly") == "nightly: active\n"
    changed = plane.data("schedules", "set", "mine", "--every", "3600", "--without", "count",
                         "--missed", "all", "--missed-within", "60")["schedule"]  # fmt: skip
    assert changed["rule"] == {
        "every": 3600.0, "jitter": 5.0, "missed": "all", "missed_within": 60.0,
    }  # fmt: skip
    assert changed["state"] == "paused"
    again = plane.data("schedules", "set", "mine", "--missed", "skip")["schedule"]
    assert again["rule"] == {"every": 3600.0, "jitter": 5.0, "missed": "skip"}
    job_id = done(plane, "run", "mine").strip()
    assert plane.run("result", job_id).stdout.strip() == "hello"
    next_ones = plane.run("schedules", "next", "mine", "-n", "2")
    assert "note: schedule 'mine' is paused, and fires at none of its moments" in next_ones.stderr
    assert len(next_ones.stdout.splitlines()) == 3
    assert plane.data("schedules", "next", "mine", "-n", "2")["state"] == "paused"
    assert done(plane, "resume", "mine") == "mine: active\n"
    assert done(plane, "rm", "mine") == ""
    assert done(plane, "rm", "--missing-ok", "mine") == ""
    assert [s["name"] for s in plane.data("schedules", "ls")["schedules"]] == ["nightly"]


def test_a_moment_is_taken_as_a_person_writes_it(plane: Plane) -> None:
    at = datetime.now(ZoneInfo("Asia/Tokyo")).replace(microsecond=0) + timedelta(days=30)
    made = plane.data("schedules", "add", "once", "note", "--at", at.isoformat())
    assert made["schedule"]["rule"] == {"at": at.timestamp()}
    replaced = plane.data("schedules", "add", "once", "note", "--every", "60", "--if-exists",
                          "replace", "--end", at.isoformat())["schedule"]  # fmt: skip
    assert replaced["rule"] == {"every": 60.0, "end": at.timestamp()}
    done(plane, "rm", "once")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("show", "nigthly"), 3, "there is no schedule 'nigthly'; did you mean 'nightly'?"),
        (("next", "nigthly"), 3, "did you mean 'nightly'?"),
        (("run", "nigthly"), 3, "did you mean 'nightly'?"),
        (("pause", "nigthly"), 3, "did you mean 'nightly'?"),
        (("resume", "nightly", "nigthly"), 3, "did you mean 'nightly'?"),
        (("resume", "nigthly"), 3, "did you mean 'nightly'?"),
        (("rm", "nigthly"), 3, "did you mean 'nightly'?"),
        (("set", "nigthly", "--every", "5"), 3, "did you mean 'nightly'?"),
        (("rm", "nightly"), 1, "is declared in code, and would be back"),
        (("set", "nightly", "--every", "5"), 1, "is declared in code: change it there"),
        (("set", "nightly"), 2, "what is to be another?"),
        (("set", "nightly", "--end", "none"), 2,
         "--end takes no 'none': `--without end` takes it out of the rule"),
        (("set", "nightly", "--missed-within", "Never"), 2, "`--without missed-within` takes it"),
        (("set", "nightly", "--count", "none"), 2, "`--without count` takes it out"),
        (("set", "nightly", "--tz", ""), 2, "--tz takes no '': `--without tz` takes it out"),
        (("set", "nightly", "--start", "soon"), 2, "--start: 'soon' is no moment"),
        (("set", "nightly", "--without", "cron"), 2, "--without: a rule can be without tz, "),
        (("set", "nightly", "--missed-within", "5", "--without", "missed-within"), 2,
         "--missed-within and --without missed-within contradict"),
        (("add", "x", "note", "--cron", "0 25 * * *"), 2,
         '--cron "0 25 * * *": hour 25 is not in 0 to 23'),
        (("add", "x", "note", "--cron", "@daily", "--tz", "Pariss"), 2, "'Europe/Paris'"),
        (("add", "x", "note", "--cron", "@daily", "--every", "5"), 2, "--cron and --every both"),
        (("add", "x", "note", "--cron", "* * * * *", "--jitter", "600"), 2,
         "--jitter (600 s) has to be shorter than the shortest time between two moments of --cron"),
        (("add", "x", "note"), 2, "--every 60, or a moment (--at)"),
        (("add", "x", "note", "--at", "2020-01-31T18:30"), 2, "--at is in the past"),
        (("add", "x", "note", "--every", "0"), 2, "a number of seconds, above 0"),
        (("add", "x", "note", "1", "2", "--every", "5"), 2, "note: too many positional"),
        (("add", "nightly", "note", "--every", "5"), 1, "'nightly' is declared in code"),
        (("next",), 2, "of which schedule?"),
        (("next", "--cron", "@daily", "--every", "5"), 2, "--cron and --every each say when"),
        (("next", "--cron", "61 * * * *"), 2, "minute 61 is not in 0 to 59"),
        (("next", "--cron", "@daily", "--tz", "Mars/Base"), 2, "is no time zone"),
        (("pause",), 2, "which schedule?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_is_wrong_is_a_sentence_and_a_code(
    plane: Plane, words: tuple[str, ...], code: int, why: str
) -> None:
    ended = plane.run("schedules", *words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["pause", "resume", "rm"])
def test_of_several_schedules_none_is_touched_if_one_is_not_known_and_that_is_said(
    plane: Plane, command: str
) -> None:
    for name in ("one", "two"):
        done(plane, "add", name, "note", "--every", "3600")
    before = plane.data("schedules", "ls")
    ended = plane.run("schedules", command, "one", "nobody", "two", "nigthly", "one")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.splitlines() == [
        "error: there is no schedule 'nobody'",
        "error: there is no schedule 'nigthly'; did you mean 'nightly'?",
        "note: nothing is done to the others: one, two",
    ]
    assert plane.data("schedules", "ls") == before
    done(plane, "rm", "one", "two")


def test_a_removal_that_is_refused_says_how_far_it_came(plane: Plane) -> None:
    for name in ("one", "two"):
        done(plane, "add", name, "note", "--every", "3600")
    ended = plane.run("schedules", "rm", "one", "nightly", "two")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[0] == "note: done to one; not to nightly, two"
    assert "'nightly' is declared in code" in ended.stderr
    assert [s["name"] for s in plane.data("schedules", "ls")["schedules"]] == ["nightly", "two"]
    done(plane, "rm", "two")


@pytest.mark.slow
def test_a_plane_that_is_killed_fires_each_due_moment_once(tmp_path: Path) -> None:
    """Killed with `kill -9` several times in the middle of it, between others of its moments."""
    (tmp_path / "tasks.py").write_text(TASKS)
    words = ("--no-gui", "--task-modules", "tasks", "--store", "sqlite:jobs.db")
    running = start(tmp_path, *words)
    try:
        wait_for_workers(running, 1)
        every = ("--every", "0.5", "--overlap", "allow")
        running.data("schedules", "add", "all", "note", *every, "--missed", "all",
                     "--missed-within", "600")  # fmt: skip
        running.data("schedules", "add", "once", "mark", *every)
        for kill in range(4):
            _wait_for_firings(running, 2)
            time.sleep(0.13 * kill)
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            running.end()
            running = start(tmp_path, *words)
        _wait_for_firings(running, 2)
        running.run("schedules", "pause", "all", "once")
        one = _info(running, "all")
        assert one["fired"] > 10
        assert one["missed"] == 0
        assert _steps(running, one, "note") == list(range(1, one["fired"] + 1))
        other = _info(running, "once")
        steps = _steps(running, other, "mark")
        assert len(steps) == len(set(steps)) == other["fired"]
        assert 0 < other["missed"] == steps[-1] - len(steps)
    finally:
        running.end()


def _info(plane: Plane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = plane.data("schedules", "show", name)["schedule"]
    return found


def _wait_for_firings(plane: Plane, number: int) -> None:
    before = _info(plane, "all")["fired"]
    until(lambda: _info(plane, "all")["fired"] >= before + number, f"{number} firings")


def _steps(plane: Plane, info: dict[str, Any], task: str) -> list[int]:
    """For which of the moments of a schedule there is a job: one number for each job."""
    jobs = plane.data("jobs", "ls", "--task", task, "--limit", "10000")["jobs"]
    found = []
    for job in jobs:
        steps = (made_at(id_from_text(job["id"])) - info["made_at"]) / 0.5
        assert steps == pytest.approx(round(steps), abs=0.01)
        found.append(round(steps))
    return sorted(found)
