"""The application as a whole: what it loads, what it refuses, and how."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from creche.cli import app as application
from creche.cli.app import run

SOURCE = Path(__file__).parents[3] / "src"

# What `creche --help` has no use for; each would cost tens of milliseconds.
HEAVY = ("trio", "anyio", "trio_websocket", "quart", "hypercorn", "cbor2", "sqlite3", "asyncio")


def test_the_help_loads_no_room_and_no_heavy_library() -> None:
    code = (
        "import sys; from creche.cli.app import run; assert run(['--help']) == 0;"
        "print('LOADED', *sorted(sys.modules))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": ""},
    )
    loaded = set(outcome.stdout.partition("LOADED ")[2].split())
    assert not loaded & set(HEAVY)
    rooms = {name.split(".")[1] for name in loaded if name.startswith("creche.")}
    assert rooms <= {"cli", "errors"}
    assert "rich.markdown" not in loaded


def test_every_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name, *_ in application._COMMANDS:
        assert run([name, "--help"]) == 0
        out, err = capsys.readouterr()
        assert f"creche {name}" in out
        assert err == ""
    for words in (["jobs", "ls"], ["queues", "ls"], ["workers", "ls"], ["store", "backup"]):
        assert run([*words, "--help"]) == 0
        assert f"creche {' '.join(words)}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["add", "next", "pause", "resume", "rm", "run", "set", "show"])
def test_all_that_a_command_of_schedules_takes_is_told_in_its_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run(["schedules", command, "--help"]) == 0
    rows = [line.strip("│* ") for line in capsys.readouterr().out.splitlines() if line[:1] == "│"]
    assert rows
    # What it is called, two spaces or more, and a sentence.
    assert [row for row in rows if not re.match(r"\S+( \S+)*  +[A-Z\"].*\.", row)] == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["submt"], "did you mean 'submit'?"),
        (["nonsense"], "`creche --help`"),
        (["jobs", "lss"], "`creche jobs` has no command lss (did you mean 'ls'?)"),
        (["--bogus"], "there is no option '--bogus'"),
        (["status"], "JOB-ID is missing, as in `creche status JOB-ID`: the job's id"),
        (["status", ""], "JOB-ID is empty"),
        (["status", "a", "b"], "one argument too many for `creche status`: 'b'"),
        (["result", "a", "b", "c"], "2 arguments too many for `creche result`: 'b', 'c'"),
        (["status", "--job-id"], "--job-id needs a value: `creche status --job-id ID`"),
        (["health", "--timeout", "1", "--timeout", "2"], "--timeout is there more than once"),
        (["health", "--timeout", "nan"], "--timeout takes a number of seconds"),
        (["health", "--connect", "garbage"], "--connect: 'garbage' is no address of a plane"),
        (["health", "--json=3"], "--json takes true or false, and not '3'"),
        (["worker", "--drain-timeout", "inf"], "--drain-timeout takes a number of seconds"),
        (["worker", "--concurrency", "1.5"], "--concurrency takes a whole number from 1 on"),
        (["worker", "--max-memory-per-process", "0"], "takes a size above 0, as in 512MiB"),
        (["control-plane", "--max-memory-per-process", "much"], "or 1GiB, and not 'much'"),
        (["worker", "--max-jobs-per-process", "0"], "takes a whole number from 1 on"),
        (["control-plane", "--gui-port", "65536"], "from 0 to 65535, and not '65536'"),
        (["control-plane", "--log-level", "x"], "takes one of debug, info, warning, error, and"),
        (["jobs", "ls", "-task:mail"], "two: `creche jobs ls -- '-task:mail'`"),
        (["dead", "retry", "-task:mail"], "two: `creche dead retry -- '-task:mail'`"),
        (["submit", "a", "--bogus", "3"], "`creche submit` has no option --bogus\n"),
        (["submit"], "which task?"),
        (["submit", "a", "--priority", "urgent"], "is no priority"),
        (["submit", "a", "--tiemout", "3"], "(did you mean '--timeout'?)"),
        (["submit", "a", "1", "--args", "2"], "--args"),
        (["workers", "resize", "w1"], "SLOTS is missing, as in `creche workers resize ... SLOTS`"),
        (["worker"], "which tasks?"),
        (
            ["worker", "--task-modules", "x", "--queues", "a b,c"],
            "no spaces and no commas, as 'a b' has",
        ),
        (["queues", "limit", "a", "--running", "9999999"], "--running: a limit is a whole number"),
        (["jobs", "ls", "--state", "odd"], "is no job state"),
        (["control-plane", "--no-gui", "--grace", "5"], "keep-alive"),
        (["control-plane", "--no-gui", "--listen", "wss://127.0.0.1:0"], "TLS"),
        (["control-plane", "--no-gui", "--store", "odd:x"], "is no store"),
        (["control-plane", "--gui-host", "0.0.0.0", "--gui-port", "0"], "--gui-insecure"),
        (["store", "compact", "--store", "memory:"], "no file"),
        (["bench", "--backlog", "5", "--idle", "5"], "one at a time"),
        (["bench", "--due", "5", "--cancel", "5"], "--due and --cancel are two benches"),
        (["bench", "--backlog", "5", "--store", "memory:"], "sqlite"),
        (["--log-level"], "--log-level needs a value"),
        (["--log-level", "odd", "worker", "--task-modules", "x"], "log-level"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_code_2_and_a_line_or_two(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


def test_a_mistyped_variable_is_warned_of_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRECHE_CONECT", "ws://127.0.0.1:1")
    assert run(["store", "compact", "--store", "memory:"]) == 2
    _, err = capsys.readouterr()
    assert err.splitlines()[0] == (
        "warning: nothing reads CRECHE_CONECT (environment): did you mean CRECHE_CONNECT?"
    )
    assert err.count("CRECHE_CONECT") == 1
    assert run(["worker", "--check", "--task-modules", "none.such"]) == 2
    assert "CRECHE_CONECT" not in capsys.readouterr().err


def test_the_version_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("creche ")


def test_a_plane_that_is_not_there_is_code_4_within_the_deadline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["health", "--connect", "ws://127.0.0.1:1", "--timeout", "0.2"]
    assert run(words) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "no plane answers at ws://127.0.0.1:1" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("jobs ls", "[OPTIONS] [FILTER]"),
        ("jobs retry", "[OPTIONS] ID... | FILTER"),
        ("dead retry", "[OPTIONS] ID... | FILTER"),
        ("workers drain", "[OPTIONS] WORKER..."),
        ("schedules rm", "[OPTIONS] NAME..."),
        ("submit", "[OPTIONS] TASK [ARGS...]"),
    ],
)
def test_help_names_the_words_that_a_command_takes_and_no_choices_twice(
    words: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: creche {words} {usage}\n\n" in out
    assert "\n\n\n" not in out
    assert "[choices: critical" not in out
    assert "[choices: forever]" not in out
