"""`creche jobs` and `creche dead` against a real plane."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest
from tests.process.test_cli import Plane, lines, start, wait_for_workers

TASKS = """
from creche import task

@task
def charge(order: int, /, amount: float = 1.0, *, currency: str = "EUR") -> str:
    if currency == "XXX":
        raise ValueError(f"unknown currency of order {order}")
    return f"{order}: {amount} {currency}"

@task
def ship(order: int) -> str:
    raise ConnectionError(f"no route for {order}")
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "shop.py").write_text(TASKS, encoding="utf-8")
    made = start(folder, "--no-gui", "--task-modules", "shop")
    try:
        wait_for_workers(made, 1)
        yield made
    finally:
        made.end()


def failed(plane: Plane, *words: str) -> str:
    """A job that has failed."""
    job_id = plane.run("submit", *words, "--non-blocking").stdout.strip()
    assert plane.run("jobs", "wait", job_id).stdout == f"{job_id}  failed\n"
    return job_id


def test_a_dead_job_is_listed_shown_and_retried_with_another_argument(plane: Plane) -> None:
    job = failed(plane, "charge", "7", "9.5", "--kwargs", "currency=XXX")
    (dead,) = plane.data("dead", "ls", f"id:{job}")["jobs"]
    assert (dead["state"], dead["fate"]) == ("failed", "dead")
    assert dead["error"] == "ValueError: unknown currency of order 7"
    shown = plane.run("dead", "show", job).stdout
    assert 'charge(7, 9.5, currency="XXX")' in shown
    assert 'raise ValueError(f"unknown currency of order {order}")' in shown
    again = plane.run("dead", "retry", job, "--set", "currency=CHF", "amount=2.5").stdout.strip()
    assert plane.run("result", again).stdout == "7: 2.5 CHF\n"
    assert plane.run("dead", "retry", job, "--set", "currency=CHF", "amount=2.5").stdout == (
        f"{again}\n"
    )
    other = plane.run("dead", "retry", job)
    assert other.returncode == 1
    assert f"was retried with other arguments, as {again}" in other.stderr
    assert plane.data("jobs", "ls", f"id:{job}")["jobs"][0]["retried_as"] == again
    whole = plane.data("jobs", "show", again)["job"]
    assert (whole["args"], whole["kwargs"]) == ([7, 2.5], {"currency": "CHF"})
    assert (whole["result"], whole["options"]["retry_of"]) == ("7: 2.5 CHF", job)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--set", "currency"], "--set takes key=value"),
        (["--set", "colour=red"], "colour"),
        (["--set", "currency=CHF", "--args", "1"], "--set changes single arguments"),
        (["--json-args", "[1]", "--args", "1"], "--json-args has all arguments"),
        (["--args", "a"], ""),
        (["--rate", "5/s"], "--rate is for a filter"),
        (["--rate", "5/w"], "'5/w' is no rate"),
        (["task:charge"], "one of them"),
    ],
)
def test_arguments_that_cannot_be_retry_nothing(plane: Plane, words: list[str], why: str) -> None:
    job = failed(plane, "charge", "8", "--kwargs", "currency=XXX")
    done = plane.run("dead", "retry", job, *words)
    if why:
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr
        assert "Traceback" not in done.stderr
        assert plane.data("dead", "ls", f"id:{job}")["jobs"]
    else:
        assert done.returncode == 0
    plane.run("dead", "discard", "task:charge", "--yes")


def test_many_are_retried_and_discarded_by_a_filter_when_somebody_is_sure(plane: Plane) -> None:
    jobs = [failed(plane, "ship", str(order)) for order in (1, 2, 3)]
    assert plane.run("dead", "retry", "task:ship", "--dry-run").stdout == "3 dead jobs\n"
    unsure = plane.run("dead", "retry", "task:ship")
    assert unsure.returncode == 2
    assert "retry 3 dead jobs? Say so with --yes" in unsure.stderr
    assert len(plane.data("dead", "ls", "task:ship")["jobs"]) == 3
    assert plane.run("dead", "retry", "task:ship -error:3", "--rate", "100/s", "-y").stdout == (
        "2 retried\n"
    )
    new = [job["retried_as"] for job in plane.data("jobs", "ls", "fate:retried task:ship")["jobs"]]
    assert plane.run("jobs", "wait", *new).returncode == 1
    left = plane.run("dead", "ls", "-q", "task:ship").stdout.split()
    assert sorted(left) == sorted([jobs[2], *new])
    assert plane.data("dead", "discard", "--all", "--yes")["discarded"] >= 3
    assert plane.run("dead", "ls").stderr == "no dead jobs\n"
    assert plane.data("dead", "retry", "--all", "--yes") == {"v": 1, "retried": 0, "matched": 0}


@pytest.mark.parametrize(
    "command", ["dead show", "dead retry", "dead discard", "jobs show", "jobs cancel", "jobs wait"]
)
def test_an_unknown_id_is_code_3_everywhere(plane: Plane, command: str) -> None:
    done = plane.run(*command.split(), "01a3185c-5000-7000-8000-000000000001")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no job 01a3185c-5000-7000-8000-000000000001" in done.stderr


def test_jobs_are_waited_for_and_cancelled_by_a_filter(plane: Plane) -> None:
    ids = [plane.run("submit", "nobody's", "1", "--non-blocking").stdout.strip() for _ in "123"]
    waited = plane.run("jobs", "wait", "task:nobody?s", "--timeout", "0.2")
    assert waited.returncode == 6
    assert "3 of 3 jobs have not ended after 0.2 s" in waited.stderr
    assert plane.run("jobs", "cancel", ids[0]).stdout == f"{ids[0]}  cancelled\n"
    assert plane.run("jobs", "cancel", ids[0]).returncode == 0  # as it is
    assert plane.run("jobs", "cancel", "task:nobody's", "--dry-run").stdout == "2 jobs\n"
    assert plane.run("jobs", "cancel", "task:nobody's").returncode == 2
    # A shell's variable that is not set means nothing, and not everything.
    blank = plane.run("jobs", "cancel", "", "--yes")
    assert (blank.returncode, "which jobs?" in blank.stderr) == (2, True)
    assert plane.data("jobs", "cancel", "task:nobody's", "--dry-run")["matched"] == 2
    cancelled = plane.data("jobs", "cancel", "task:nobody's", "--yes", "--reason", "too late")
    assert cancelled["cancelled"] == 2
    for command in ("jobs show", "status"):
        assert "was cancelled: too late" in plane.run(*command.split(), ids[1]).stdout
    done = plane.run("submit", "charge", "1", "--json")
    over = plane.run("jobs", "cancel", json.loads(done.stdout)["id"])
    assert (over.returncode, over.stdout.split()[1]) == (1, "succeeded")


def test_of_what_waits_it_is_said_what_ends_that(plane: Plane) -> None:
    plane.run("queues", "pause", "default")
    job = plane.run("submit", "charge", "1", "--non-blocking").stdout.strip()
    for command in ("jobs show", "status"):
        said = plane.run(*command.split(), job).stderr
        assert said == "hint: `creche queues resume default` has it taken from again\n"
    plane.run("queues", "resume", "default")
    assert plane.run("result", job).returncode == 0
    assert plane.run("status", job).stderr == ""


def test_jobs_are_exported_as_lines(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = failed(plane, "ship", "99")
    (line,) = lines(plane.run("jobs", "export", f"id:{job}").stdout)
    record = json.loads(line)
    assert (record["v"], record["id"], record["error"]) == (
        1, job, "ConnectionError: no route for 99",
    )  # fmt: skip
    text = plane.run("jobs", "export", "task:ship,charge", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0]["id"] == job
    assert {row["task"] for row in rows} == {"ship", "charge"}
    file = tmp_path_factory.mktemp("export") / "jobs.jsonl"
    assert plane.run("jobs", "export", "--output", str(file)).stdout == ""
    written = [json.loads(line)["seq"] for line in lines(file.read_text("utf-8"))]
    assert written == sorted(written, reverse=True)
    again = plane.run("jobs", "export", "--output", str(file))
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_a_submission_says_how_long_and_how_often(plane: Plane) -> None:
    words = ("--time-limit", "9", "--soft-time-limit", "5", "--expires", "60", "--retries", "2")
    made = plane.run("submit", "ship", "5", *words, "--backoff", "0", "--non-blocking")
    job = made.stdout.strip()
    plane.run("jobs", "wait", job)
    record = plane.data("jobs", "show", job)["job"]
    assert record["options"]["limits"] == {
        "timeout_s": 9.0,
        "soft_timeout_s": 5.0,
        "expires_s": 60.0,
    }
    assert (record["attempt"], record["failures"]) == (3, 3)
    shown = plane.run("jobs", "show", job).stdout
    assert "timeout 9 s, soft_timeout 5 s, expires 60 s" in shown
    assert "attempt 2" in shown
    plane.run("dead", "discard", job)


def test_headers_and_a_priority_as_celery_counts_are_said_with_a_submission(plane: Plane) -> None:
    words = ("--header", "trace=007", "lang=en=GB", "--priority", "9", "--non-blocking")
    job = plane.run("submit", "ship", "1", *words).stdout.strip()
    told = plane.data("jobs", "show", job)["job"]
    assert told["headers"] == {"trace": "007", "lang": "en=GB"}
    assert told["priority"] == "critical"
    assert "trace 007, lang en=GB" in plane.run("jobs", "show", job).stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--retries", "often"], "a number, from 0 on, or forever"),
        (["--time-limit", "0"], "a number of seconds, above 0"),
        (
            ["--time-limit", "1", "--soft-time-limit", "2"],
            "--soft-time-limit (2 s) has to come before",
        ),
        (["--countdown", "5", "--expires", "2"], "creche submit: "),
        (["--eta", "2027-01-31T18:30", "--countdown", "5"], "creche submit: "),
        (["--header", "trace"], "--header takes key=value, and not 'trace'"),
        (["--header", "a=1", "--header", "a=2"], "--header names 'a' twice"),
        (["--header", f"a={'x' * 9000}"], "8,192 is the limit"),
        (["--priority", "11"], "11 is not on the scale of 0 (low) to 10 (critical)"),
    ],
)
def test_what_a_submission_cannot_say_is_refused_before_anything_is_dialled(
    plane: Plane, words: list[str], why: str
) -> None:
    done = plane.run("submit", "charge", "1", *words, "--connect", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
