"""Where connections are until their peers have introduced themselves: so many at a time.

A peer is done with that in milliseconds. Whoever opens connections and says nothing would fill the
plane's descriptors with them; so the oldest of them goes for a new one. It is one of the address
that has most of them here: who is many is in its own way, and not in that of others.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

logger = logging.getLogger("creche.channel")

MAX_STRANGERS = 256
"""Connections at a time whose peers have not introduced themselves."""

ACCEPT_S = 0.001
"""How long after one connection the next is taken in: beginning one costs about as much, and those
that are there are served in between."""


NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What taking in a connection fails with while the process or the machine has no room for it."""

NO_ROOM_S = 0.1
"""How long after that it is tried again; who dials waits in the kernel's queue."""

SAY_AGAIN_S = 60.0
"""How often it is said, at the most."""


class Place:
    """One connection's place in the lobby. `scope` is what it is served in."""

    def __init__(self, lobby: Lobby, host: str) -> None:
        self.scope = trio.CancelScope()
        self.line = lobby.line
        self.was_given_up = False
        self._lobby = lobby
        self._host = host

    def leave(self) -> None:
        """The peer has introduced itself, or gone."""
        self._lobby._leave(self, self._host)

    def give_up(self) -> None:
        """Another one needs the place."""
        self.leave()
        self.was_given_up = True
        self.scope.cancel()


class Lobby:
    """Who is in the lobby of one listener, by address."""

    def __init__(self, most: int = MAX_STRANGERS) -> None:
        self._most = most
        self.line = trio.StrictFIFOLock()
        """Where those wait who send more small frames than they may (`Gauge.wait_s`)."""
        self._by_host: dict[str, dict[Place, None]] = {}
        self._number = 0

    def __len__(self) -> int:
        return self._number

    @contextmanager
    def place(self, host: str) -> Iterator[Place]:
        """Take a new connection in; another one may go for it."""
        if self._number >= self._most:
            fullest = max(self._by_host.values(), key=len)
            next(iter(fullest)).give_up()
        place = Place(self, host)
        self._by_host.setdefault(host, {})[place] = None
        self._number += 1
        try:
            yield place
        finally:
            place.leave()

    def _leave(self, place: Place, host: str) -> None:
        places = self._by_host.get(host, {})
        if place in places:
            del places[place]
            self._number -= 1
            if not places:
                del self._by_host[host]


class PacedListener(trio.abc.Listener[trio.SocketStream]):
    """Takes connections in one after the other, with a little time between."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._next_at = 0.0
        self._say_at = -math.inf

    async def accept(self) -> trio.SocketStream:
        """Return the next connection, as soon as there is room for it."""
        await trio.sleep_until(self._next_at)
        while True:
            try:
                stream = await self._listener.accept()
                break
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self._say(error.errno)
            await trio.sleep(NO_ROOM_S)
        self._next_at = trio.current_time() + ACCEPT_S
        return stream

    def _say(self, number: int) -> None:
        now = trio.current_time()
        if now >= self._say_at:
            self._say_at = now + SAY_AGAIN_S
            logger.warning("no connection can be taken in just now: %s", os.strerror(number))

    async def aclose(self) -> None:
        """Listen no more."""
        await self._listener.aclose()


def host_of(stream: trio.SocketStream) -> str:
    """Return the address that a connection comes from; "" if it has gone again."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""
