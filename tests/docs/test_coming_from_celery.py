"""`docs/coming-from-celery.md` promises names: they exist, and every option of a task has a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import creche
from creche import BlockingClient, JobTimedOut, ProcessDied
from creche.cli.app import _COMMANDS, make_app
from creche.client.client import Client
from creche.tasks.options import ViewOptions
from creche.tasks.task import TaskOptions
from creche.worker.failure import type_name

TEXT = (Path(__file__).parents[2] / "docs" / "coming-from-celery.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ")
]
HERE = " ".join(row[-1] for row in ROWS)

SAID_ELSEWHERE = {
    "registry",  # for programs that hold several sets of tasks
    "tz", "every", "repeat_interval", "repeat_count", "repeat_until",  # in other tables
}  # fmt: skip


def test_every_row_says_what_there_is_or_why_not() -> None:
    assert len(ROWS) > 100
    for row in ROWS:
        assert len(row) == 2, row
        assert row[1], row
        if row[1].startswith("none"):
            assert len(row[1]) > len("none yet"), row


def test_every_option_of_a_task_has_a_row() -> None:
    options = {*TaskOptions.__annotations__, *ViewOptions.__annotations__} - SAID_ELSEWHERE
    missing = {name for name in options if not re.search(rf"\b{name}\b", TEXT)}
    assert missing == set()


def test_the_verbs_of_the_client_exist() -> None:
    verbs = set(re.findall(r"\bclient\.([a-z_]+)\(?", TEXT))
    assert len(verbs) > 8
    for client in (Client, BlockingClient):
        assert {verb for verb in verbs if not hasattr(client, verb)} == set()


def test_the_commands_and_their_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"`creche ([a-z-]+)", HERE))
    assert commands <= {name for name, *_ in _COMMANDS}
    helps = ""
    for words in ("control-plane", "worker", "schedules add", "schedules set", "submit"):
        make_app(words.split()[0])([*words.split(), "--help"], result_action="return_value")
        helps += capsys.readouterr().out
    for option in set(re.findall(r"`(--[a-z-]+)", HERE)):
        assert option in helps, option


def test_what_is_imported_in_passing_is_exported() -> None:
    for name in ("JobTimedOut", "JobCancelled", "JobLost", "ProcessDied", "Retry", "Snooze"):
        assert f"`{name}" in HERE or f"raise {name}" in HERE
        assert hasattr(creche, name)


def test_the_types_of_failures_are_those_that_clients_see() -> None:
    types = set(re.findall(r'`"(creche\.errors\.\w+)"`', HERE))
    assert types == {type_name(error) for error in (JobTimedOut(1), ProcessDied(1, 1))}
