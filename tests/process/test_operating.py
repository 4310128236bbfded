"""What an operator does to workers, with real processes: drain, stop, burst, reload, systemd."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from tests.process.test_cli import (
    BOUND_S,
    TASKS,
    Plane,
    creche,
    environment,
    lines,
    start,
    until,
    wait_for_workers,
)

from creche import BlockingClient
from creche.cli.app import run


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One plane with two local workers of one slot each."""
    folder = tmp_path_factory.mktemp("plane")
    (folder / "tasks.py").write_text(TASKS)
    options = ("--task-modules", "tasks", "--workers", "2", "--concurrency", "1")
    made = start(folder, "--no-gui", *options)
    try:
        wait_for_workers(made, 2)
        yield made
    finally:
        made.end()


def names_of(plane: Plane) -> list[str]:
    return sorted(row["name"] for row in plane.data("workers", "ls")["workers"])


def test_a_drained_worker_leaves_its_jobs_to_the_other_until_it_is_resumed(plane: Plane) -> None:
    first, second = names_of(plane)
    done = plane.run("workers", "drain", first, "--wait", "30")
    assert (done.returncode, done.stderr) == (
        0,
        f"1 worker was told\ndrained: {first}\n",
    )
    for _ in range(3):
        assert plane.run("submit", "add", "1").returncode == 0
    workers = {row["worker"] for row in plane.data("jobs", "ls", "--limit", "3")["jobs"]}
    assert workers == {second}
    assert plane.run("health", "--worker", first).stdout == f"worker {first} is drained\n"
    assert plane.run("health", "--worker", first, "--ready").returncode == 1
    assert plane.run("workers", "resume", first).returncode == 0
    until(lambda: plane.run("health", "--worker", first, "--ready").returncode == 0, "it is back")
    assert plane.run("health", "--worker", "nobody").returncode == 1


def test_a_worker_is_resized(plane: Plane) -> None:
    name = names_of(plane)[0]
    assert plane.run("workers", "resize", name, "7").returncode == 0

    def slots() -> int:
        rows = plane.data("workers", "ls")["workers"]
        return int(next(row["slots"] for row in rows if row["name"] == name))

    until(lambda: slots() == 7, "it has seven slots")
    assert plane.run("workers", "resume", "--all").returncode == 0
    until(lambda: slots() == 1, "it has one again")


def test_a_program_without_a_loop_drains_resizes_resumes_and_stops_a_worker(plane: Plane) -> None:
    first, _ = names_of(plane)

    def state(client: BlockingClient) -> tuple[str, int]:
        (row,) = (row for row in client.workers() if row["name"] == first)
        return row["state"], row["slots"]

    with BlockingClient(plane.url) as client:
        slots = state(client)[1]
        client.drain_worker(first)
        until(lambda: state(client) == ("drained", 0), "it is drained")
        client.resize_worker(first, slots + 1)
        until(lambda: state(client) == ("connected", slots + 1), "it has another slot")
        client.resume_worker(first)
        until(lambda: state(client) == ("connected", slots), "it is as before")
        (since,) = (row["since"] for row in client.workers() if row["name"] == first)
        client.stop_worker(first)
        until(
            lambda: any(row["name"] == first and row["since"] > since for row in client.workers()),
            "it has left, and was started again",
        )


def test_a_local_worker_that_is_stopped_is_started_again(plane: Plane) -> None:
    name = names_of(plane)[0]
    done = plane.run("workers", "stop", name, "--wait", "30")
    assert (done.returncode, done.stderr) == (0, f"1 worker was told\nleft: {name}\n")
    wait_for_workers(plane, 2)


@pytest.mark.parametrize("words", [("resume", "{}"), ("resize", "{}", "3"), ("resume", "--all")])
def test_a_worker_that_is_leaving_is_not_told_to_take_more_in_vain(
    plane: Plane, words: tuple[str, ...]
) -> None:
    first, second = names_of(plane)
    plane.run("workers", "drain", second, "--wait", "30")
    job = plane.run("submit", "waits", "--non-blocking").stdout.strip()
    until(lambda: plane.data("jobs", "ls")["jobs"][0]["state"] == "running", "it runs")
    plane.run("workers", "stop", first)
    told = plane.run("workers", *(word.format(first) for word in words))
    why = f"error: leaving, and taking nothing any more: {first}\n"
    assert (told.returncode, told.stderr) == (1, why)
    plane.run("cancel", job)
    plane.run("workers", "resume", second)
    until(lambda: sum(r["slots"] for r in plane.data("workers", "ls")["workers"]) == 2, "as before")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("drain",), 2, "which workers? name them, or say --all alone"),
        (("stop", "x", "--all"), 2, "which workers? name them, or say --all alone"),
        (("drain", "nobody"), 3, "there is no worker 'nobody'"),
        (("resize", "nobody", "1"), 3, "there is no worker 'nobody'"),
        (("resize", "nobody", "-1"), 2, "a whole number from 0 on"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused(
    plane: Plane, words: tuple[str, ...], code: int, why: str
) -> None:
    done = plane.run("workers", *words)
    assert done.returncode == code
    assert why in done.stderr


def test_a_burst_worker_leaves_when_nothing_waits(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    made = start(tmp_path, "--no-gui", "--store", "memory:")
    try:
        ids = [made.run("submit", "add", str(n), "--non-blocking").stdout.strip() for n in range(3)]
        words = ("worker", "--burst", "--task-modules", "tasks", "--connect", made.url)
        done = creche(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "nothing is left to do" in done.stderr
        assert [made.run("result", each).stdout for each in ids] == ["10\n", "11\n", "12\n"]
    finally:
        made.end()


def test_a_worker_starts_anew_with_changed_code_and_keeps_what_cannot_be_imported(
    tmp_path: Path,
) -> None:
    module = tmp_path / "tasks.py"
    module.write_text("from creche import task\n\n@task\ndef answer():\n    return 'old'\n")
    options = ("--no-gui", "--store", "memory:", "--task-modules", "tasks", "--reload")
    made = start(tmp_path, *options)
    try:
        wait_for_workers(made, 1)
        until(lambda: "for changes" in made.log.read_text(), "it watches")
        assert made.run("submit", "answer").stdout == "old\n"
        module.write_text("this is no Python\n")
        until(lambda: "goes on with the code" in made.log.read_text(), "it says what is wrong")
        assert made.run("submit", "answer").stdout == "old\n"
        module.write_text("from creche import task\n\n@task\ndef answer():\n    return 'new'\n")
        until(lambda: made.run("submit", "answer").stdout == "new\n", "the new code runs")
        assert len(made.data("workers", "ls")["workers"]) == 1
        # It has become another program: nobody had to start it again.
        assert "ended (" not in made.log.read_text()
    finally:
        made.end()


def test_a_burst_worker_whose_plane_is_not_there_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports_of_its_own: None
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.setattr("creche.cli.worker.BURST_S", 0.5)
    monkeypatch.setattr("creche.cli.worker.FIRST_NOTICE_S", 0.2)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
        err = io.StringIO()
        with redirect_stderr(err):
            code = run(["worker", "--burst", "--task-modules", "tasks.py", "--connect", url])
    assert code == 4
    assert "gave up after 0.5 s" in err.getvalue()


def test_systemd_hears_that_a_plane_is_ready_lives_and_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(BOUND_S)
        manager.bind(str(tmp_path / "notify"))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "creche", "control-plane", "--no-gui"),
                *("--listen", "ws://127.0.0.1:0", "--store", "memory:"),
            ],
            cwd=tmp_path,
            env=environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            heard: list[str] = []

            def hears(line: str) -> None:
                while line not in heard:
                    heard.extend(lines(manager.recv(1000).decode()))

            hears("READY=1")
            assert any(line.startswith("STATUS=listening at ws://") for line in heard)
            heard.clear()
            hears("WATCHDOG=1")
            os.kill(process.pid, signal.SIGTERM)
            hears("STOPPING=1")
            assert process.wait(BOUND_S) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_there_are_more_local_workers_while_jobs_wait_and_a_bound_that_is_none_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    options = ("--workers", "1", "--max-workers", "2", "--concurrency", "1")
    made = start(tmp_path, "--no-gui", "--store", "memory:", "--task-modules", "tasks", *options)
    try:
        wait_for_workers(made, 1)
        ids = [made.run("submit", "nap", "3", "--non-blocking").stdout.strip() for _ in range(6)]
        wait_for_workers(made, 2)
        assert "2 local workers instead of 1: jobs wait" in made.log.read_text()
        assert all(made.run("result", each).returncode == 0 for each in ids)
        workers = {row["worker"] for row in made.data("jobs", "ls")["jobs"]}
        assert len(workers) == 2
    finally:
        made.end()
    words = ("control-plane", "--no-gui", "--workers", "3", "--max-workers", "2")
    done = creche(*words, "--task-modules", "tasks", cwd=tmp_path)
    assert done.returncode == 2
    assert "--max-workers 2, and --workers 3" in done.stderr
