"""A process for bodies, as the worker sees it: started, spoken to, interrupted, killed, reaped."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import trio

from creche.pipe import HEADER, environment, pack, unpack
from creche.worker.attempt import Attempt

RECEIVE_BYTES = 64 * 1024


class BodyProcess:
    """Runs one body at a time: that of `attempt`.

    It has a process group of its own, in which is also what its bodies start, and it ends when this
    process does, whatever it does then: it is given the reading end of a pipe that nobody writes.
    """

    def __init__(self) -> None:
        self.attempt: Attempt | None = None
        """What it runs, or will when it is ready."""
        self.is_ready = False
        self.is_told = False
        """Whether the body that is in was told to leave."""
        self.was_killed = False
        self.is_gone = False
        """Whether it has ended, which a hang-up need not tell: what a body has left behind may hold
        the socket."""
        self.n = 0
        """The number of the last call."""
        self.scope = trio.CancelScope()
        """Around the wait for its next message. `patience_ends` moves the deadline."""
        self._patience_ends = math.inf
        self._process: trio.Process | None = None
        self._sock: socket.socket | None = None
        self._alive = -1
        self._received = bytearray()
        self._unsent = bytearray()
        self._has_unsent = trio.Event()

    @property
    def pid(self) -> int:
        """Its process id; 0 before it was started."""
        return 0 if self._process is None else self._process.pid

    @property
    def code(self) -> int:
        """How it has ended: its exit code, or, below 0, the signal that killed it."""
        code = None if self._process is None else self._process.returncode
        return 0 if code is None else code

    @property
    def patience_ends(self) -> float:
        """When its next message is not waited for any longer."""
        return self._patience_ends

    @patience_ends.setter
    def patience_ends(self, at: float) -> None:
        self._patience_ends = self.scope.deadline = at

    async def start(self, first: tuple[Any, ...]) -> None:
        """Start it, and say the first message. If cancelled, `end` cleans up.

        Raises:
            OSError: the system gives no more processes.
        """
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        with theirs:
            read_end, self._alive = os.pipe()
            try:
                fds = (theirs.fileno(), read_end)
                self._process = await trio.lowlevel.open_process(
                    [sys.executable, "-P", "-m", "creche.worker.process_child", *map(str, fds)],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env=environment(),
                )
            finally:
                os.close(read_end)
        self.say(first)

    def is_there(self) -> bool:
        """Say, without waiting, whether it has not hung up."""
        assert self._sock is not None
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def say(self, message: tuple[Any, ...]) -> None:
        """Send a message, as far as it can be sent at once; `keep_sending` sends the rest."""
        assert self._sock is not None
        self._unsent += pack(message)
        self._send_now()
        if self._unsent:
            self._has_unsent.set()

    async def keep_sending(self) -> None:
        """Send what could not be sent at once, until cancelled."""
        assert self._sock is not None
        while True:
            await self._has_unsent.wait()
            await trio.lowlevel.wait_writable(self._sock)
            self._send_now()
            if not self._unsent:
                self._has_unsent = trio.Event()

    def _send_now(self) -> None:
        assert self._sock is not None
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            # It is gone, and its end says so; nobody is there to be told anything.
            self._unsent.clear()

    async def receive(self) -> tuple[Any, ...] | None:
        """Return its next message; None when it has hung up. Nothing is lost if cancelled."""
        assert self._sock is not None
        while (message := self._parse()) is None:
            await trio.lowlevel.wait_readable(self._sock)
            if not self._receive_now():
                return None
        return message

    def receive_rest(self) -> list[tuple[Any, ...]]:
        """Return what there is without waiting: what it said before its end."""
        while self._receive_now():
            pass
        return list(iter(self._parse, None))

    def _receive_now(self) -> bool:
        assert self._sock is not None
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return False
        self._received += data
        return bool(data)

    def _parse(self) -> tuple[Any, ...] | None:
        received = self._received
        if len(received) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(received)[0]
        if len(received) < end:
            return None
        # A view would keep the buffer from being shortened.
        message: tuple[Any, ...] = unpack(received[HEADER.size : end])
        del received[:end]
        return message

    async def watch(self) -> None:
        """Wait until the process has ended, and end the wait for its next message."""
        assert self._process is not None
        await self._process.wait()
        self.is_gone = True
        self.scope.cancel()

    def interrupt(self) -> None:
        """Have its main thread look for what it was told."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, and what it has started itself, at once."""
        self.was_killed = True
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self, wait_s: float) -> None:
        """Hang up, let it end by itself for *wait_s* seconds, kill its group, and reap it. To be
        called shielded, whatever else has happened."""
        if self._sock is not None:
            self._sock.close()
        if self._process is not None:
            with trio.move_on_after(wait_s):
                await self._process.wait()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
