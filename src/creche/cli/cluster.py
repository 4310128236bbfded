"""A plane and workers as child processes, for the demo and the bench: they start with the block,
and nothing of them is left when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from creche.cli.processes import argv
from creche.client.client import Client
from creche.errors import CrecheError
from creche.pipe import environment

READY_S = 30.0
"""How long a plane or its workers may take to be ready."""

STOP_S = 15.0
"""How long a child may take to end after SIGTERM, before it is killed."""


class ChildFailed(CrecheError):
    """A child process ended, or was not ready in time. `lines` is the last that it said."""

    def __init__(self, what: str, lines: Sequence[str]) -> None:
        super().__init__(what, lines)
        self.what = what
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join((self.what, *(f"  {line}" for line in self.lines)))


@dataclass(frozen=True, slots=True)
class PlaneProcess:
    """A plane that is ready. `ready_s` is how long it took, from its process's start."""

    url: str
    epoch: int
    ready_s: float
    pid: int


@asynccontextmanager
async def running_plane(folder: Path, *options: str) -> AsyncIterator[PlaneProcess]:
    """Run `creche control-plane` on a free port, without a page, while the block runs.

    Raises:
        ChildFailed: it was not ready within `READY_S`; the error holds what it said.
    """
    began = trio.current_time()
    log = folder / "plane.log"
    told, tells = os.pipe()
    command = argv("control-plane", "--listen", "ws://127.0.0.1:0", "--no-gui", *options)
    async with trio.lowlevel.FdStream(told) as stream:
        try:
            started = _running([*command, "--ready-fd", str(tells)], folder, log, (tells,))
            process = await started.__aenter__()
        finally:
            os.close(tells)
        try:
            ready = await _when_ready(stream, log)
            yield PlaneProcess(
                ready["addresses"][0],
                ready["epoch"],
                trio.current_time() - began,
                process.pid,
            )
        finally:
            await started.__aexit__(None, None, None)


async def _when_ready(stream: trio.abc.ReceiveStream, log: Path) -> dict[str, Any]:
    """Return what a plane writes to its ``--ready-fd``."""
    with trio.move_on_after(READY_S):
        # At its end when the plane has written it all, or has ended without a word.
        text = b"".join([piece async for piece in stream])
        if not text:
            raise ChildFailed("the plane did not start", _end_of(log))
        ready: dict[str, Any] = json.loads(text)
        return ready
    raise ChildFailed(f"the plane was not ready within {READY_S:g} s", _end_of(log))


@asynccontextmanager
async def running_worker(folder: Path, *options: str) -> AsyncIterator[int]:
    """Run `creche worker` while the block runs, and yield its pid."""
    async with _running(argv("worker", *options), folder, folder / "worker.log") as process:
        yield process.pid


async def wait_for_workers(client: Client, number: int, folder: Path) -> None:
    """Return when *number* workers are connected.

    Raises:
        ChildFailed: they were not within `READY_S`.
    """
    with trio.move_on_after(READY_S):
        while True:
            answer = await client.ask("workers")
            connected = [each for each in answer["workers"] if each["state"] == "connected"]
            if len(connected) >= number:
                return
            await trio.sleep(0.02)
    lines = [*_end_of(folder / "plane.log"), *_end_of(folder / "worker.log")]
    raise ChildFailed(f"{number} workers were not connected within {READY_S:g} s", lines)


@asynccontextmanager
async def _running(
    command: Sequence[str], folder: Path, log: Path, inherited: Sequence[int] = ()
) -> AsyncIterator[trio.Process]:
    """Run *command* in a session of its own, then end it: SIGTERM, a bounded wait, SIGKILL. Should
    we be killed ourselves, ``--parent-pipe`` tells it."""
    ours, theirs = os.pipe()
    try:
        with log.open("ab") as sink:
            process = await trio.lowlevel.open_process(
                [*command, "--parent-pipe", str(ours)],
                cwd=folder,
                env=_without_settings(environment()),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=(ours, *inherited),
                start_new_session=True,
            )
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(ours)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)
            os.close(theirs)


def _without_settings(variables: Mapping[str, str]) -> dict[str, str]:
    # What is shown and measured are the defaults, and not what this shell happens to be set up for.
    prefixes = ("CRECHE_", "FASTWORKER_")
    return {name: value for name, value in variables.items() if not name.startswith(prefixes)}


async def _end(process: trio.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with trio.move_on_after(STOP_S):
            await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _end_of(log: Path, number: int = 10) -> list[str]:
    try:
        return log.read_text("utf-8", "replace").splitlines()[-number:]
    except OSError:
        return []
