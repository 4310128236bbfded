"""A real `creche worker` process, a real socket, and real signals, against a scripted plane."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from tests.unit.worker.scripted import ScriptedPlane, eventually, failure_in, offer, value_of

from creche.channel import trio_ws
from creche.model.job import JobState
from creche.wire import messages as m

pytestmark = pytest.mark.trio

SOURCE = Path(__file__).parents[2] / "src"

WRITTEN = ("out.txt", "err.txt")

TASKS = """
import logging, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import trio
from creche import task
from creche.worker.context import current_job

@task
def pid():
    return os.getpid()

@task
def hang():
    threading.Event().wait()

@task
def hang_in_an_executor():
    with ThreadPoolExecutor() as pool:
        pool.submit(threading.Event().wait).result()

@task
async def sleep(seconds):
    print("begun", flush=True)
    await trio.sleep(seconds)
    return "slept"

@task
async def never_leaves():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

@task
def shouts(text):
    print(text)
    print(text.upper(), file=sys.stderr)

@task
def forks():
    pid = os.fork()
    if pid == 0:
        print("in the child")
        return "two workers!"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@task
def exits():
    sys.exit(3)

@task
async def interrupts():
    raise KeyboardInterrupt

@task
def interrupts_in_a_thread():
    raise KeyboardInterrupt

@task
async def blocks(seconds):
    time.sleep(seconds)

@task(executor="process")
def spins():
    print(f"process {os.getpid()}", flush=True)
    sum(range(10**15))

@task(executor="process")
def shouts_in_a_process(text):
    print(text)
    logging.getLogger("creche.shop").info(text.upper())
    return os.getpid()
"""


class Running:
    """A worker process, and what it has written so far; its plane, which may be killed and started
    again; and the pipe that tells it that its parent lives."""

    process: trio.Process

    def __init__(self, plane: ScriptedPlane, folder: Path, nursery: trio.Nursery) -> None:
        self.plane = plane
        self.url = ""
        self.parent_ends = -1
        """The writing end of the pipe."""
        self._folder = folder
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return (self._folder / "out.txt").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err.txt").read_text()

    async def ends(self) -> int:
        """Wait for the process to end, and return its code."""
        return await self.process.wait()

    async def start_plane(self) -> None:
        """Listen, the second time where it was the first time."""
        await self._nursery.start(self._serve)

    def kill_plane(self) -> None:
        """End the plane and close the pipe, which a kill of a real one does at once."""
        self._scope.cancel()
        os.close(self.parent_ends)
        self.parent_ends = -1

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                serve = partial(trio_ws.serve, self.plane.handle, host="127.0.0.1", port=self._port)
                (self.url,) = await nursery.start(serve)
                self._port = int(self.url.rpartition(":")[2])
                task_status.started()


@asynccontextmanager
async def a_worker(
    folder: Path, plane: ScriptedPlane, *more: str, is_child: bool = False
) -> AsyncIterator[Running]:
    """Run a worker process that has met *plane*; it is killed at the end if it has not ended."""
    (folder / "tasks.py").write_text(TASKS)
    command = [sys.executable, "-m", "creche", "worker", "--task-modules", "tasks", *more]
    with ExitStack() as files, trio.fail_after(60):
        out, err = (files.enter_context((folder / name).open("wb")) for name in WRITTEN)
        async with trio.open_nursery() as nursery:
            worker = Running(plane, folder, nursery)
            await worker.start_plane()
            alive, worker.parent_ends = os.pipe()
            if is_child:
                command += ["--parent-pipe", str(alive)]
            worker.process = await trio.lowlevel.open_process(
                [*command, "--connect", worker.url, "--worker-id", "w1"],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(SOURCE)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(alive,),
            )
            os.close(alive)
            try:
                await plane.until(lambda: plane.all(m.Capacity))
                yield worker
            except BaseException:
                print(worker.err, file=sys.stderr)
                raise
            finally:
                worker.process.kill()
                with trio.CancelScope(shield=True):
                    await worker.process.wait()
                if worker.parent_ends >= 0:
                    os.close(worker.parent_ends)
                nursery.cancel_scope.cancel()


async def test_sigterm_lets_jobs_end_and_the_worker_says_goodbye(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, "--concurrency", "1") as worker:
        plane.say(offer(1, "sleep", 0.3), offer(2, "pid"))
        await eventually(lambda: "begun" in worker.out)
        worker.process.send_signal(signal.SIGTERM)
        assert value_of(await plane.one(1)) == "slept"
        assert await worker.ends() == 0
    assert len(plane.all(m.Goodbye)) == 1


async def test_a_second_sigterm_does_not_wait_for_jobs(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane) as worker:
        plane.say(offer(1, "sleep", 1000), offer(2, "pid"))
        await plane.one(2)
        worker.process.send_signal(signal.SIGTERM)
        await plane.until(lambda: plane.all(m.Capacity)[-1] == m.Capacity(0, 0))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == 128 + signal.SIGTERM
    states = {report.seq: report.state for report in plane.all(m.Finished)}
    assert states == {2: JobState.SUCCEEDED, 1: JobState.LOST}
    assert len(plane.all(m.Goodbye)) == 1


@pytest.mark.parametrize("name", ["hang", "never_leaves"])
async def test_a_body_that_never_leaves_does_not_keep_the_process(
    tmp_path: Path, name: str
) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, "--drain-timeout", "0.1") as worker:
        plane.say(offer(1, name), offer(2, "pid"))
        await plane.one(2)
        worker.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "stops what still runs" in worker.err)
        worker.process.send_signal(signal.SIGTERM)  # spares the test the time for clean-up
        await worker.ends()
    assert f"{name} (job 00000000-0000-0000-0000-000000000001)" in worker.err
    assert len(plane.all(m.Goodbye)) == 1


@pytest.mark.parametrize("name", ["hang", "hang_in_an_executor"])
async def test_ctrl_c_twice_ends_a_process_with_a_thread_that_hangs(
    tmp_path: Path, name: str
) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane) as worker:
        plane.say(offer(1, name), offer(2, "pid"))
        await plane.one(2)
        worker.process.send_signal(signal.SIGINT)
        await plane.until(lambda: plane.all(m.Capacity)[-1] == m.Capacity(0, 0))
        worker.process.send_signal(signal.SIGINT)
        assert await worker.ends() == 128 + signal.SIGINT
    assert f"a thread cannot be stopped: {name} (job" in worker.err
    assert len(plane.all(m.Goodbye)) == 1


async def test_a_plane_that_stops_in_order_takes_its_worker_along_without_alarm(
    tmp_path: Path,
) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, is_child=True) as worker:
        plane.say(m.Goodbye("the plane stops"))
        await eventually(lambda: plane.outbox is None)
        worker.kill_plane()
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0
    # Whichever came first, the end of the pipe or the signal.
    assert "its plane has stopped" in worker.err or "it was told to stop" in worker.err
    assert "warning" not in worker.err


async def test_an_idle_worker_ends_with_a_plane_that_is_killed(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, "--grace", "3600", is_child=True) as worker:
        plane.offer(1, "pid")
        await plane.one(1)
        plane.offer(2, "nobody knows it")
        await plane.until(lambda: plane.all(m.HandBack))  # so the report's settlement was read
        worker.kill_plane()
        assert await worker.ends() == 0
    assert "is gone without a word" in worker.err


async def test_a_busy_worker_hands_in_its_result_when_its_plane_was_killed_and_is_back(
    tmp_path: Path,
) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, "--grace", "3600", is_child=True) as worker:
        plane.offer(1, "sleep", 0.5)
        await eventually(lambda: "begun" in worker.out)
        worker.kill_plane()
        await eventually(lambda: "is gone without a word" in worker.err)
        await worker.start_plane()
        assert value_of(await plane.one(1)) == "slept"
        assert await worker.ends() == 0
    assert [hello.session for hello in plane.hellos] == [plane.hellos[0].session] * 2
    assert len(plane.all(m.Goodbye)) == 1


@pytest.mark.slow
async def test_a_worker_whose_killed_plane_does_not_come_back_ends_after_its_grace(
    tmp_path: Path,
) -> None:
    plane = ScriptedPlane(grace_s=0.5)
    async with a_worker(tmp_path, plane, "--grace", "0.5", is_child=True) as worker:
        plane.say(offer(1, "sleep", 3600), offer(2, "hang"))
        await eventually(lambda: "begun" in worker.out)
        worker.kill_plane()
        assert await worker.ends() == 0
    assert plane.all(m.Finished) == []


async def test_bad_bodies_fail_their_jobs_and_the_process_goes_on(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane) as worker:
        names = ["exits", "interrupts", "interrupts_in_a_thread"]
        plane.say(*(offer(seq, name) for seq, name in enumerate(names)))
        plane.offer(10, "forks")
        await plane.one(10)  # what others print is not in the child's buffer then
        plane.offer(11, "shouts", "hello")
        reports = await plane.finished(5)
        plane.offer(12, "pid")
        assert value_of(await plane.one(12)) == worker.pid
        worker.process.send_signal(signal.SIGTERM)
        code = await worker.ends()
    assert failure_in(reports[0]).type == "SystemExit"
    assert failure_in(reports[0]).message == "3"
    assert failure_in(reports[1]).type == "KeyboardInterrupt"
    assert failure_in(reports[2]).type == "KeyboardInterrupt"
    assert value_of(reports[10]) == 0
    assert value_of(reports[11]) is None
    assert len(plane.hellos) == 1
    assert code == 0
    assert sorted(worker.out.split("\n")) == ["", "hello", "in the child"]
    assert "HELLO\n" in worker.err


async def test_a_body_that_blocks_the_loop_is_named_on_stderr(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane) as worker:
        plane.offer(1, "blocks", 1.6)
        assert (await plane.one(1)).state == JobState.SUCCEEDED
        worker.process.send_signal(signal.SIGTERM)
        await worker.ends()
    line = TASKS.splitlines().index("    time.sleep(seconds)") + 1
    assert f"by task 'blocks' at {tmp_path}/tasks.py:{line} in blocks()" in worker.err


async def test_a_killed_worker_comes_back_as_another_incarnation(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane) as worker:
        plane.say(offer(1, "sleep", 1000), offer(2, "pid"))
        await plane.one(2)
        worker.process.kill()
        assert await worker.ends() == -signal.SIGKILL
    plane.said.clear()
    async with a_worker(tmp_path, plane):
        first, second = plane.hellos
    assert second.name == first.name
    assert second.incarnation != first.incarnation
    assert second.session != first.session
    assert second.facts["held"] == []


async def test_a_worker_that_finds_something_else_than_a_plane_says_so_and_ends(
    tmp_path: Path,
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            command = [sys.executable, "-m", "creche", "worker", "--task-modules", "tasks"]
            done = await trio.run_process(
                [*command, "--connect", f"ws://127.0.0.1:{port}"],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(SOURCE)},
                capture_stderr=True,
                check=False,
            )
            nursery.cancel_scope.cancel()
    assert done.returncode == 4
    assert b"something answers there, but it is not a Creche plane: HTTP 400" in done.stderr


async def test_kill_9_of_a_worker_ends_its_processes_even_in_c_code(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane) as worker:
        plane.say(offer(1, "spins"), offer(2, "shouts_in_a_process", "idle"))
        idle = value_of(await plane.one(2))
        await eventually(lambda: "process " in worker.out)
        busy = int(worker.out.partition("process ")[2].split()[0])
        worker.process.kill()
        await worker.ends()
        await eventually(lambda: not is_alive(busy) and not is_alive(idle))


async def test_a_worker_that_is_told_twice_to_stop_ends_its_processes(tmp_path: Path) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, is_child=True) as worker:
        plane.offer(1, "spins")
        await eventually(lambda: "process " in worker.out)
        busy = int(worker.out.partition("process ")[2].split()[0])
        worker.process.send_signal(signal.SIGTERM)
        await plane.until(lambda: plane.all(m.Capacity)[-1] == m.Capacity(0, 0))
        worker.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "stops what still runs" in worker.err)
        worker.process.send_signal(signal.SIGTERM)
        await worker.ends()
        await eventually(lambda: not is_alive(busy))


async def test_what_a_body_in_a_process_prints_and_logs_goes_where_the_workers_does(
    tmp_path: Path,
) -> None:
    plane = ScriptedPlane()
    async with a_worker(tmp_path, plane, "--max-jobs-per-process", "1") as worker:
        plane.offer(1, "shouts_in_a_process", "hello")
        first = value_of(await plane.one(1))
        assert worker.out == "hello\n"
        assert "info shop: HELLO" in worker.err
        assert f"info worker: process {first} is replaced: it has run 1 jobs" in worker.err
        plane.offer(2, "shouts_in_a_process", "hello")
        assert value_of(await plane.one(2)) != first


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie, which is nobody's to reap in some containers."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_a_lifespan_that_cannot_be_entered_is_code_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "down.py").write_text(
        "from collections.abc import AsyncIterator\n"
        "from creche import lifespan, task\n"
        "@lifespan\n"
        "async def database() -> AsyncIterator[int]:\n"
        "    raise ConnectionError('the database is down')\n"
        "    yield 1\n"
        "@task\n"
        "def f() -> None: ...\n"
    )
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-m", "creche", "worker", "--task-modules", "down"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 2
    said = done.stderr.decode()
    assert "error: lifespan database (" in said
    assert "could not be entered: ConnectionError: the database is down" in said
    assert "Traceback" not in said
