"""The promises on real processes: every caller gets its own answer, and what is killed at a bad
moment loses nothing that was accepted and leaves nothing over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from creche import Client

pytestmark = [pytest.mark.trio, pytest.mark.slow]

TASKS = """
import os, time
from creche import task

def note(value):
    fd = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{value}\\n".encode())
    os.close(fd)

@task
def echo(value):
    note(value)
    return value

@task
def pause(value, seconds):
    note(value)
    time.sleep(seconds)
    return os.getpid()
"""
QUICK = ("--keep-alive", "0.5", "--grace", "2", "--lease", "5")
BOUND_S = 90


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """A folder with tasks in it, and the processes that run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.started: list[subprocess.Popen[bytes]] = []
        (folder / "tasks.py").write_text(TASKS)

    def creche(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a `creche` command there; it is killed when the test ends."""
        with (self.folder / "output.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "creche", *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def plane(self, *options: str, workers: int = 0) -> subprocess.Popen[bytes]:
        """Start the plane; with *workers* local workers."""
        modules = ("--task-modules", "tasks") if workers else ()
        return self.creche(
            "control-plane", "--listen", self.url, "--store", "sqlite:jobs.db", "--no-gui",
            "--workers", str(workers), *modules, *QUICK, *options,
        )  # fmt: skip

    def worker(self, name: str, concurrency: int = 4) -> subprocess.Popen[bytes]:
        """Start a worker process."""
        return self.creche(
            "worker", "--connect", self.url, "--task-modules", "tasks", "--worker-id", name,
            "--concurrency", str(concurrency),
        )  # fmt: skip

    def runs(self) -> Counter[int]:
        """How often each value's job began."""
        try:
            return Counter(int(line) for line in (self.folder / "runs.log").read_text().split())
        except FileNotFoundError:
            return Counter()

    def alive(self) -> dict[int, str]:
        """The processes that run in this folder, by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if Path(os.readlink(entry / "cwd")) == self.folder:
                        state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                        if state != "Z":
                            words = (entry / "cmdline").read_bytes().split(b"\0")
                            found[int(entry.name)] = b" ".join(words).decode()
        return found

    def pid_of(self, words: str) -> int:
        """The pid of the one process there whose command line holds *words*."""
        (pid,) = [pid for pid, line in self.alive().items() if words in line]
        return pid


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder to run in. Whatever still runs at the end is killed, by its pid."""
    site = Site(tmp_path.resolve())
    yield site
    for pid in site.alive():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in site.started:
        process.wait(10)


@asynccontextmanager
async def client_of(site: Site) -> AsyncIterator[Client]:
    """A client that waits for the plane, and shows what the processes said when a test fails."""
    try:
        with trio.fail_after(BOUND_S):
            async with Client(site.url) as client:
                yield client
    except BaseException as error:
        error.add_note((site.folder / "output.log").read_text()[-3000:])
        raise


async def until(condition: Callable[[], bool], *, step_s: float = 0.05) -> None:
    """Wait until *condition* holds; its test bounds it."""
    while not condition():
        await trio.sleep(step_s)


async def test_the_plane_is_killed_with_ten_thousand_accepted_jobs(site):
    plane = site.plane()
    async with client_of(site) as client:
        handles = await client.submit_many("echo", [(n,) for n in range(10_000)])
        site.worker("a")
        site.worker("b")
        await until(lambda: len(site.runs()) > 500)
        plane.kill()
        plane.wait()
        assert len(site.runs()) < 10_000, "the plane was killed too late to show anything"
        site.plane()
        assert [await handle.result() for handle in handles] == list(range(10_000))
        health = await client.ask("health")
        assert (health["jobs"], health["epoch"]) == ({"succeeded": 10_000}, 2)
        assert set(site.runs()) == set(range(10_000))


async def test_one_of_two_workers_is_killed_and_its_jobs_run_on_the_other(site):
    site.plane()
    first = site.worker("first", concurrency=2)
    async with client_of(site) as client:
        handles = await client.submit_many("pause", [(n, 1.5) for n in range(2)])
        await until(lambda: len(site.runs()) == 2)
        second = site.worker("second", concurrency=2)
        first.kill()
        first.wait()
        assert {await handle.result() for handle in handles} == {second.pid}
        assert site.runs() == {0: 2, 1: 2}
        for handle in handles:
            record = await client.ask("job", {"id": handle.id_bytes})
            assert (record["state"], record["losses"]) == ("succeeded", 1)


async def test_the_stores_process_is_killed_and_the_core_starts_again(site):
    site.plane(workers=1)
    async with client_of(site) as client:
        handles = []
        for round_ in range(3):
            values = range(round_ * 1000, round_ * 1000 + 1000)
            handles += await client.submit_many("echo", [(n,) for n in values])
            os.kill(site.pid_of("sqlite_child"), signal.SIGKILL)
            assert len([await handle.result() for handle in handles]) == len(handles)
        assert [await handle.result() for handle in handles] == list(range(3000))
        health = await client.ask("health")
        assert (health["jobs"], health["epoch"]) == ({"succeeded": 3000}, 4)


async def test_nothing_is_left_over_when_the_plane_is_killed(site):
    plane = site.plane(workers=2)
    async with client_of(site) as client:
        assert await (await client.delay("echo", 1)).result() == 1
        with trio.fail_after(30):
            while len((await client.ask("workers"))["workers"]) < 2:
                await trio.sleep(0.05)
        assert len(site.alive()) == 4
    plane.kill()
    plane.wait()
    with trio.fail_after(30):
        await until(lambda: not site.alive())


async def test_a_stopped_plane_leaves_nothing_and_loses_nothing(site):
    plane = site.plane(workers=1)
    async with client_of(site) as client:
        running = await client.delay("pause", 1, 1.0)
        await until(lambda: len(site.runs()) == 1)
        plane.terminate()
        assert await running.result() > 0
        with trio.fail_after(30):
            await until(lambda: plane.poll() is not None)
        assert plane.returncode in (0, 143)
        assert not site.alive()


async def test_a_second_plane_on_the_same_file_leaves_with_the_holders_pid(site):
    plane = site.plane()
    async with client_of(site) as client:
        assert (await client.ask("health"))["ready"]
        other = site.creche(
            "control-plane", "--listen", "ws://127.0.0.1:0", "--store", "sqlite:jobs.db",
            "--no-gui", "--workers", "0",
        )  # fmt: skip
        await until(lambda: other.poll() is not None)
        assert other.returncode == 2
        assert f"pid {plane.pid}" in (site.folder / "output.log").read_text()
        assert (await client.ask("health"))["ready"]


async def test_two_hundred_callers_a_hundred_times_each_get_their_own_answer(site):
    site.plane(workers=1)
    async with client_of(site) as client:
        answers: dict[int, int] = {}

        async def call(value: int) -> None:
            answers[value] = await (await client.delay("echo", value)).result()

        for round_ in range(100):
            async with trio.open_nursery() as nursery:
                for value in range(round_ * 200, round_ * 200 + 200):
                    nursery.start_soon(call, value)
        everything = range(20_000)
        assert answers == {value: value for value in everything}
        assert site.runs() == dict.fromkeys(everything, 1)
