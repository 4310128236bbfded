"""Closed doors around real processes: who comes in, who is sent away, and where secrets are not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.process.test_cli import creche, environment, start, until

TASKS = """
import os
from creche import current_job, task

@task
def add(a: int, b: int = 10) -> int:
    return a + b

@task
def boom() -> None:
    raise ValueError("no")

@task
async def twice(a: int) -> int:
    return await (await current_job().client.submit(add, a, a)).result()
"""


def new_token(folder: Path, *words: str) -> str:
    """Make a token and return its word."""
    done = creche("tokens", "new", "--tokens", "tokens", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def id_of(word: str) -> str:
    return word.split("_")[1]


def secret_of(word: str) -> str:
    return word.split("_", 2)[2]


class House:
    """A plane that wants tokens, with a local worker and a page, and a token of each kind."""

    def __init__(self, folder: Path) -> None:
        (folder / "tasks.py").write_text(TASKS)
        self.admin = new_token(folder, "--role", "admin", "--note", "ours")
        self.submit = new_token(folder, "--role", "submit", "--queues", "default")
        self.work = new_token(folder, "--role", "work")
        more = ("--gui-port", "0", "--log-level", "debug", "--task-modules", "tasks")
        self.plane = start(folder, "--tokens", "tokens", *more)
        self.said: list[str] = []
        until(lambda: self.run(self.admin, "health")[0] == 0, "it is ready")

    def run(self, word: str | None, *words: str) -> tuple[int, str, str]:
        """Run a command with a token; remember what it printed."""
        more = {} if word is None else {"CRECHE_TOKEN": word}
        done = self.plane.run(*words, **more)
        self.said += [done.stdout, done.stderr]
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("doors"))
    try:
        yield made
    finally:
        made.plane.end()


def test_without_a_token_a_command_is_refused_with_code_5(house: House) -> None:
    code, out, err = house.run(None, "health")
    assert (code, out) == (5, "")
    assert err == (
        "error: this plane wants a token, and none was shown: CRECHE_TOKEN or --token-file has it\n"
    )
    code, _, err = house.run("creche_0123456789ab_" + "x" * 43, "health")
    assert (code, err) == (5, "error: the plane does not know this token (any more)\n")


def test_a_token_does_what_it_is_for_and_no_more(house: House) -> None:
    assert house.run(house.submit, "submit", "add", "1")[:2] == (0, "11\n")
    code, _, err = house.run(house.submit, "submit", "add", "1", "--queue", "other")
    assert code == 5
    assert err.endswith("is not for queue 'other': it is for default\n")
    for words in (["jobs", "ls"], ["queues", "pause", "default"], ["workers", "drain", "--all"]):
        code, _, err = house.run(house.submit, *words)
        assert code == 5, words
        assert f"token {id_of(house.submit)} (submit) is not for this: " in err
        assert house.run(house.admin, words[0], "ls")[0] == 0


def test_a_token_in_a_file_does_as_well(house: House) -> None:
    file = house.plane.folder / "admin.token"
    file.write_text(house.admin + "\n")
    assert house.run(None, "queues", "ls", "--token-file", str(file))[0] == 0
    code, _, err = house.run(None, "queues", "ls", "--token-file", "none.token")
    assert code == 2
    assert "--token-file: none.token cannot be read: No such file or directory" in err


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(house: House) -> None:
    code, _, err = house.run(None, "health", "--token", house.admin)
    assert code == 2
    assert secret_of(house.admin) not in err
    code, _, err = house.run(None, "health", f"--token={house.admin}")
    assert code == 2
    assert secret_of(house.admin) not in err
    code, _, err = house.run(None, "health", "--connect", "ws://me:hush@127.0.0.1:1")
    assert code == 2
    assert "hush" not in err
    assert "CRECHE_TOKEN or --token-file" in err


def test_local_workers_and_the_page_come_in_by_themselves(house: House) -> None:
    code, out, _ = house.run(house.admin, "workers", "ls", "--json")
    assert code == 0
    (worker,) = json.loads(out)["workers"]
    assert worker["name"].startswith("local-")
    page = next(
        line.split()[1]
        for line in house.plane.log.read_text().splitlines()
        if line.split()[:1] == ["page"]
    )

    def overview() -> Any:
        with urllib.request.urlopen(f"{page}/api/v1/overview", timeout=10) as answer:
            text = answer.read().decode()
        house.said.append(text)
        return json.loads(text)

    until(lambda: overview()["reachable"], "the page sees the plane")


def test_jobs_submit_jobs_with_the_workers_own_token(house: House) -> None:
    assert house.run(house.submit, "submit", "twice", "4")[:2] == (0, "8\n")


def test_the_doors_stay_shut_over_a_restart_of_the_store(house: House) -> None:
    (store,) = [pid for pid in house.plane.others if "sqlite_child" in command_of(pid)]
    os.kill(store, signal.SIGKILL)
    until(lambda: house.run(house.submit, "submit", "add", "2")[:2] == (0, "12\n"), "it is back")
    assert house.run(None, "health")[0] == 5


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_rotation_and_revocation_need_no_restart(house: House) -> None:
    folder = house.plane.folder
    file = folder / "worker.token"
    file.write_text(house.work)
    words = ("worker", "--task-modules", "tasks", "--worker-id", "w", "--connect", house.plane.url)
    log = folder / "worker.log"
    with log.open("wb") as sink:
        worker = subprocess.Popen(
            [sys.executable, "-m", "creche", *words, "--token-file", str(file)],
            cwd=folder,
            env=environment(),
            stdout=sink,
            stderr=sink,
        )
    try:

        def is_there() -> bool:
            found = json.loads(house.run(house.admin, "workers", "ls", "--json")[1])["workers"]
            return any(each["name"] == "w" and each["state"] == "connected" for each in found)

        until(is_there, "the worker is there")
        second = new_token(folder, "--role", "work")
        # The plane has to know it before the first one goes.
        until(lambda: knows(house, second), "the new token is known")
        file.write_text(second)
        revoke(folder, house.work)
        until(lambda: not knows(house, house.work), "the old token is not known any more")
        until(is_there, "the worker has come back with the new one")
        assert worker.poll() is None
        revoke(folder, second)
        assert worker.wait(60) == 5
        said = log.read_text()
        assert f"error: token {id_of(second)} was taken away" in said
        for word in (house.work, second):
            assert secret_of(word) not in said
    finally:
        worker.kill()
        worker.wait()


def revoke(folder: Path, word: str) -> None:
    done = creche("tokens", "revoke", id_of(word), "--tokens", "tokens", cwd=folder)
    assert done.returncode == 0, done.stderr


def knows(house: House, word: str) -> bool:
    return house.run(word, "health")[0] == 0


def test_no_secret_is_in_anything_that_was_written(house: House) -> None:
    """Logs of all processes, what commands printed, the page, the store's files, command lines and
    environments of the processes that the plane has started."""
    house.run(house.submit, "submit", "boom")
    for words in (["jobs", "ls"], ["jobs", "ls", "--json"], ["workers", "ls", "--json"],
                  ["events", "--once"], ["health", "--json"], ["top", "--once", "--json"],
                  ["tokens", "ls", "--tokens", "tokens", "--json"]):  # fmt: skip
        house.run(house.admin, *words)
    secrets = [secret_of(word).encode() for word in (house.admin, house.submit, house.work)]
    house.plane.note_children()
    places = {"what was printed": "".join(house.said).encode()}
    for file in house.plane.folder.iterdir():
        if file.is_file() and not file.name.endswith(".token"):
            places[file.name] = file.read_bytes()
    assert {"plane.log", "creche.db", "tokens", "worker.log"} <= set(places)
    for pid in (house.plane.process.pid, *house.plane.others):
        for what in ("cmdline", "environ"):
            places[f"{what} of {pid}"] = Path(f"/proc/{pid}/{what}").read_bytes()
    # What the children were given is not known here; it looks like a token.
    found = [
        what
        for what, data in places.items()
        if any(secret in data for secret in secrets)
        or (not what.endswith(".py") and looks_like_a_token(data))
    ]
    assert found == []
    assert any(b"--credential-fd" in data for what, data in places.items() if "cmdline" in what)


def looks_like_a_token(data: bytes) -> bool:
    return re.search(rb"creche_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", data) is not None


def test_settings_of_the_plane_do_not_get_in_the_way_of_its_workers(tmp_path: Path) -> None:
    """`CRECHE_TLS_CERT` is the plane's certificate there; its children speak no TLS with it."""
    (tmp_path / "tasks.py").write_text(TASKS)
    variables = {"CRECHE_TLS_CERT": "none.pem", "CRECHE_TOKEN_FILE": "none.token"}
    done = creche("worker", "--check", "--task-modules", "tasks", cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    done = creche("worker", "--task-modules", "tasks", cwd=tmp_path, **variables)
    assert done.returncode == 2
    assert "is for TLS, and ws://127.0.0.1:5570 is plain text" in done.stderr
