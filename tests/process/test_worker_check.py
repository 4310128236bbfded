"""`creche worker --check`: it refuses what a worker would refuse to start with, and runs nothing.

A worker that starts anew when its code has changed trusts it, and so does a plane before it starts
workers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.process.test_cli import creche, start, until, wait_for_workers

RESOURCE = """
from creche import Resource, task

class Database: ...

@task
def answer(db: Resource[Database]) -> int: ...
"""

ASYNC_LIFESPAN = """
from collections.abc import AsyncIterator
from creche import lifespan, task

class Database: ...

@lifespan
async def database() -> AsyncIterator[Database]:
    yield Database()

@task(executor="process")
def answer(db: Database) -> int: ...
"""

TWO_LIFESPANS = """
from collections.abc import Iterator
from creche import lifespan, task

@task
def answer(): ...

@lifespan
def one() -> Iterator[dict]:
    yield {}

@lifespan
def another() -> Iterator[dict]:
    yield {}
"""

ASYNC_HOOK = """
from creche import task

async def told(info): ...

@task(after=told)
def answer(): ...
"""

HIDDEN_TASK = """
from creche import task

def make():
    @task(executor="process")
    def answer(): ...

make()
"""

HIDDEN_HOOK = """
from creche import hook, task

@task(executor="process")
def answer(): ...

hook("before")(lambda info: None)
"""

HIDDEN_LIFESPAN = """
from collections.abc import Iterator
from creche import lifespan, task

def make():
    @lifespan
    def settings() -> Iterator[dict]:
        yield {}

make()

@task(executor="process")
def answer(): ...
"""

SCHEDULE = """
from creche import Schedule, task

@task(schedule=Schedule(every=60, args=(object(),)))
def answer(of: object) -> int: ...
"""


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (RESOURCE, "Database"),
        (ASYNC_LIFESPAN, "runs in processes, in which no async def is entered"),
        (TWO_LIFESPANS, "two lifespans provide dict"),
        (ASYNC_HOOK, "its after hook tasks.told is an async def"),
        (HIDDEN_TASK, "so define it at the top level"),
        (HIDDEN_HOOK, "would not be found by processes"),
        (HIDDEN_LIFESPAN, "would not be found by processes"),
        (SCHEDULE, "the schedule of task 'answer'"),
    ],
    ids=["resource", "executor", "twice", "hook", "task", "hidden hook", "lifespan", "schedule"],
)
def test_the_check_refuses_what_a_worker_would_not_start_with(
    module: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "tasks.py").write_text(module)
    checked = creche("worker", "--check", "--task-modules", "tasks", cwd=tmp_path)
    nowhere = ("--connect", "ws://127.0.0.1:1", "--burst")
    started = creche("worker", "--task-modules", "tasks", *nowhere, cwd=tmp_path)
    assert (checked.returncode, started.returncode) == (2, 2)
    assert checked.stderr == started.stderr
    assert checked.stdout == ""
    assert why in checked.stderr


FINE = """
from collections.abc import Iterator
from creche import lifespan, task

print("imported")

@task
def answer(of: "Database", n: int) -> int: ...

class Database: ...

@lifespan
def database() -> Iterator[Database]:
    raise ConnectionError("no check may come here")
    yield Database()
"""


def test_the_check_enters_no_lifespan_and_tells_what_a_worker_announces(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(FINE)
    checked = creche("worker", "--check", "--task-modules", "tasks", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "imported\n")
    (task,) = json.loads(checked.stdout)["tasks"]
    assert [row[0] for row in task["signature"]["parameters"]] == ["n"]


def test_a_save_that_no_worker_would_start_with_leaves_the_worker_as_it_is(tmp_path: Path) -> None:
    module = tmp_path / "tasks.py"
    module.write_text("from creche import task\n\n@task\ndef answer():\n    return 'old'\n")
    options = ("--no-gui", "--store", "memory:", "--task-modules", "tasks", "--reload")
    made = start(tmp_path, *options)
    try:
        wait_for_workers(made, 1)
        until(lambda: "for changes" in made.log.read_text(), "it watches")
        module.write_text(RESOURCE)
        until(lambda: "goes on with the code" in made.log.read_text(), "it says what is wrong")
        assert made.run("submit", "answer").stdout == "old\n"
        assert "ended (" not in made.log.read_text()
    finally:
        made.end()


def test_a_plane_does_not_start_with_modules_that_no_worker_would_start_with(
    tmp_path: Path,
) -> None:
    (tmp_path / "tasks.py").write_text(RESOURCE)
    options = ("--no-gui", "--store", "memory:", "--listen", "ws://127.0.0.1:0")
    done = creche("control-plane", "--task-modules", "tasks", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "Database" in done.stderr
