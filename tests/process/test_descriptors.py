"""A plane that may have few descriptors goes on when peers take all that they can get."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from creche import Client
from creche.cli.bench_attacks import Attacker
from creche.cli.descriptors import peers_for, reserve
from creche.engine.settings import PlaneSettings

pytestmark = [
    pytest.mark.trio,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits are read in /proc"),
]

BOUND_S = 90
HARD = 600
TASKS = """
import os
from creche import task

@task(name="site.pid")
def pid() -> int:
    return os.getpid()
"""


@asynccontextmanager
async def plane(folder: Path, soft: int, hard: int, *words: str) -> AsyncIterator[tuple[int, str]]:
    """A plane with a local worker that may have *soft* descriptors, and *hard* if it asks; gives
    its pid and its URL."""
    (folder / "tasks.py").write_text(TASKS)
    read_end, write_end = os.pipe()
    limit = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    creche = (sys.executable, "-P", "-m", "creche", "control-plane", "--no-gui")
    with (folder / "plane.log").open("wb") as log, open(read_end, encoding="utf-8") as ready:
        process = await trio.lowlevel.open_process(
            [
                *("sh", "-c", limit, "sh", *creche, "--listen", "127.0.0.1:0"),
                *("--ready-fd", str(write_end), *words),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
        )
        os.close(write_end)
        try:
            said = await trio.to_thread.run_sync(ready.read)
            assert said, (folder / "plane.log").read_text()
            yield process.pid, json.loads(said)["addresses"][0]
            assert process.returncode is None, (folder / "plane.log").read_text()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def worker_of(pid: int) -> int:
    """The plane's local worker."""
    # They are listed with the thread that has started them.
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text().split()]
    (found,) = (c for c in children if b"\0worker\0" in Path(f"/proc/{c}/cmdline").read_bytes())
    return int(found)


@asynccontextmanager
async def held(url: str, number: int) -> AsyncIterator[None]:
    """So many clients that come, and stay as long as they may."""
    host, _, port = url.removeprefix("ws://").partition(":")
    async with AsyncExitStack() as stack:
        for _ in range(number):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(host, int(port)))
            with suppress(trio.BrokenResourceError):
                await Attacker(stream).introduce()
        yield


async def test_a_plane_takes_as_many_descriptors_as_it_has_a_use_for(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with trio.fail_after(BOUND_S):
        async with plane(tmp_path, 300, min(most, 20_000), "--store", "memory:") as (pid, _):
            soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == min(most, PlaneSettings().sessions + reserve(1))


async def test_peers_that_hold_all_descriptors_they_can_get_leave_the_plane_what_it_needs(
    tmp_path: Path,
) -> None:
    peers = peers_for(HARD, PlaneSettings().sessions, 1)
    words = ("--task-modules", "tasks")
    with trio.fail_after(BOUND_S):
        async with plane(tmp_path, 100, HARD, *words) as (pid, url), Client(url) as client:
            first = await (await client.send("site.pid")).result()
            async with held(url, peers + 50):
                # Who comes then is told that the plane is full; who is there goes on.
                assert descriptors_of(pid) <= HARD - 50
                os.kill(worker_of(pid), signal.SIGKILL)
                second = await (await client.send("site.pid")).result()
                assert second != first
    log = (tmp_path / "plane.log").read_text()
    assert f"room for {peers:,} peers" in log
    assert "starting it again" in log
    assert "Traceback" not in log


async def test_a_plane_without_a_descriptor_left_says_so_once_and_starts_its_worker_again_later(
    tmp_path: Path,
) -> None:
    words = ("--task-modules", "tasks")
    with trio.fail_after(BOUND_S):
        async with plane(tmp_path, 300, 300, *words) as (pid, url), Client(url) as client:
            await (await client.send("site.pid")).result()
            # As if all were used up: what is open stays, and nothing more can be opened.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 300))
            host, _, port = url.removeprefix("ws://").partition(":")
            waiting = await trio.open_tcp_stream(host, int(port))
            os.kill(worker_of(pid), signal.SIGKILL)
            log = tmp_path / "plane.log"
            while "cannot be started (Too many open files)" not in log.read_text():
                await trio.sleep(0.1)
            while "no connection can be taken in just now" not in log.read_text():
                await trio.sleep(0.1)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (300, 300))
            await (await client.send("site.pid")).result()
            await waiting.aclose()
    text = log.read_text()
    assert text.count("no connection can be taken in just now") == 1
    assert "Traceback" not in text
