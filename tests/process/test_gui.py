"""The page as its own process beside a real plane: killed, it comes back, and the plane goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from creche import Client
from creche.cli.cost import children_of

pytestmark = pytest.mark.trio

SOURCE = Path(__file__).parents[2] / "src"
BOUND_S = 60


class Plane:
    """A `creche control-plane` without workers, and its page."""

    def __init__(self, pid: int, url: str, page: str) -> None:
        self.pid = pid
        self.url = url
        self.port = int(page.rpartition(":")[2])

    def page_pids(self) -> list[int]:
        """The page's process, while there is one."""
        found = []
        for pid in children_of(self.pid):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"gui" in words:
                    found.append(pid)
        return found

    async def get(self, path: str) -> bytes:
        """Return the whole answer, waiting for a page that is not there yet, or being killed."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        while True:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                    await stream.send_all(request.encode())
                    return b"".join([chunk async for chunk in stream])
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(0.05)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[trio.SocketStream]:
        """A browser with the page open."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            yield stream


async def receive_until(stream: trio.SocketStream, text: bytes) -> None:
    received = b""
    while text not in received:
        chunk = await stream.receive_some()
        assert chunk, f"ended after {received!r}"
        received += chunk


async def reachable(plane: Plane) -> bytes:
    """Return the page's data once the page has found the plane."""
    while b'"reachable": true' not in (answer := await plane.get("/api/v1/overview")):
        await trio.sleep(0.05)
    return answer


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    told, tells = os.pipe()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CRECHE_", "FASTWORKER_"))}
    log = tmp_path / "plane.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "creche", "control-plane", "--ready-fd", str(tells)),
                *("--listen", "ws://127.0.0.1:0", "--store", "memory:", "--workers", "0"),
                *("--gui-port", "0"),
            ],
            cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(SOURCE)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=(tells,),
            start_new_session=True,
        )
    os.close(tells)
    try:
        with open(told, encoding="utf-8") as pipe:
            ready = pipe.read()
        assert ready, log.read_text()
        page = next(word for word in log.read_text().split() if word.startswith("http://"))
        yield Plane(process.pid, json.loads(ready)["addresses"][0], page)
    finally:
        for pid in (*children_of(process.pid), process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
async def test_a_killed_page_comes_back_and_the_plane_goes_on(plane: Plane) -> None:
    with trio.fail_after(BOUND_S):
        async with Client(plane.url) as client:
            job = await client.delay("unknown.task", 1)
            assert str.__str__(job).encode() in await reachable(plane)
            async with plane.looking() as stream:
                await receive_until(stream, b'"unknown.task"')
                (killed,) = plane.page_pids()
                os.kill(killed, signal.SIGKILL)
                with suppress(trio.BrokenResourceError):
                    async for _ in stream:
                        pass
            another = await client.delay("unknown.task", 2)
            answer = await reachable(plane)
            assert plane.page_pids() not in ([], [killed])
            assert str.__str__(job).encode() in answer
            assert str.__str__(another).encode() in answer
            assert client.is_connected


async def test_a_killed_plane_leaves_no_page_behind(plane: Plane) -> None:
    with trio.fail_after(BOUND_S):
        await reachable(plane)
        (page,) = plane.page_pids()
        os.kill(plane.pid, signal.SIGKILL)
        while runs(page):
            await trio.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether there is such a process, zombies apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_only_the_page_loads_a_web_framework() -> None:
    code = (
        "import sys, creche, creche.cli.app, creche.client.client, creche.dashboard\n"
        "print(sorted({'quart', 'quart_trio', 'hypercorn', 'jinja2'} & set(sys.modules)))"
    )
    with trio.fail_after(BOUND_S):
        done = await trio.run_process(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            capture_stdout=True,
        )
    assert done.stdout.strip() == b"[]"
