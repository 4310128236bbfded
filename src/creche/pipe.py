"""What goes between a process of ours and its child: marshalled values, each after its length.

Both ends are ours, of one version and one Python, and nobody else can reach the socket pair:
`marshal` costs a third of a microsecond for a row of a store. It takes plain values only.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<I")
"""The length of the value that follows, in bytes."""

MARSHAL_VERSION = 2
"""The last one without references: looking for objects that come twice costs more than it saves."""

MAX_BYTES = 2**32 - 1


def pack(value: Any) -> bytes:
    """Return *value* as it goes into the pipe.

    Raises:
        ValueError: it holds something that is no plain value, or is longer than 4 GiB.
    """
    body = marshal.dumps(value, MARSHAL_VERSION)
    if len(body) > MAX_BYTES:
        raise ValueError(f"{len(body):,} bytes are too much for one message to a child")
    return HEADER.pack(len(body)) + body


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """Return the value that *body*, without its length, holds."""
    return marshal.loads(body)


def environment() -> dict[str, str]:
    """Return this process's environment, so that a child finds the same `creche`."""
    root = str(Path(__file__).parent.parent)
    found = dict(os.environ)
    # Installed packages are found anyway; put first they could stand in the standard library's way.
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        others = found.get("PYTHONPATH")
        found["PYTHONPATH"] = root + os.pathsep + others if others else root
    return found


class BlockingEnd:
    """The child's end: it waits, and says None when the parent is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self) -> Any:
        """Return the next message, or None if the parent has closed its end or is gone."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        body = self._exactly(HEADER.unpack(header)[0])
        return None if body is None else unpack(body)

    def send(self, value: object) -> None:
        """Send a message. That nobody is there to read it is found out by `receive`.

        Raises:
            ValueError: it is no plain value, or too long.
        """
        message = pack(value)
        with suppress(ConnectionError):
            self._sock.sendall(message)

    def has_news(self) -> bool:
        """Say, without waiting, whether there is something to receive."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except (BlockingIOError, ConnectionError):
            return False

    def is_closed(self) -> bool:
        """Say, without waiting, whether the parent has closed its end or is gone."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def shutdown(self) -> None:
        """Make a `receive` that waits in another thread return None."""
        with suppress(OSError):  # the other end may have been first
            self._sock.shutdown(socket.SHUT_RDWR)

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                got = self._sock.recv_into(view)
            except ConnectionError:
                return None
            if not got:
                return None
            view = view[got:]
        return data
