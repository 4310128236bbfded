"""What goes between a plane and its store's process: marshalled values, each after its length.

Both ends are ours, of one version and one Python, and nobody else can reach the socket pair:
`marshal` costs the plane a third of a microsecond a job. It takes plain values only, so rows travel
as columns (the plane turns a batch over with `zip`, which costs less than converting its rows).
"""

from __future__ import annotations

import marshal
import socket
import struct
from contextlib import suppress
from typing import Any

HEADER = struct.Struct("<I")
"""The length of the value that follows, in bytes."""

MARSHAL_VERSION = 2
"""The last one without references: looking for objects that come twice costs more than it saves."""

MAX_BYTES = 2**32 - 1

# How an answer begins; what follows is the value, or what the error is made of.
OK = 0
FULL = 1
ERROR = 2
UNUSABLE = 3
LOCKED = 4
OVER_LIMIT = 5


def pack(value: Any) -> bytes:
    """Return *value* as it goes into the pipe.

    Raises:
        ValueError: it holds something that is no plain value, or is longer than 4 GiB.
    """
    body = marshal.dumps(value, MARSHAL_VERSION)
    if len(body) > MAX_BYTES:
        raise ValueError(f"{len(body):,} bytes are too much for one message to the store")
    return HEADER.pack(len(body)) + body


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """Return the value that *body*, without its length, holds."""
    return marshal.loads(body)


class BlockingEnd:
    """The child's end: it waits, and says None when the plane is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self) -> Any:
        """Return the next request, or None if the plane has closed its end or is gone."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        body = self._exactly(HEADER.unpack(header)[0])
        return None if body is None else unpack(body)

    def send(self, value: object) -> None:
        """Send an answer, or that it cannot be sent. That nobody is there to read it is found out
        by `receive`."""
        try:
            message = pack(value)
        except ValueError as error:
            message = pack((ERROR, f"the answer cannot be sent: {error}"))
        with suppress(ConnectionError):
            self._sock.sendall(message)

    def is_closed(self) -> bool:
        """Say, without waiting, whether the plane has closed its end or is gone."""
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
