"""What peers have sent of messages in pieces whose last piece has not come, all together.

One peer may have a few large messages under way, and that times all peers is more than any memory.
Over the limit the one that has gone on for the longest without a piece is cut, and keeps its
session: it dials again, and sends what was under way anew.
"""

from __future__ import annotations

from collections.abc import Callable

from creche.errors import ChannelBroken, CrecheError

MAX_BYTES = 256 * 1024 * 1024
"""What all peers together may have under way in pieces; one alone always may, within its own."""


class UnderWay:
    """Bytes in unfinished pieces, by connection; the one that went on last is the last."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most = most
        self._by_connection: dict[object, tuple[int, Callable[[CrecheError], None]]] = {}
        self.bytes = 0

    def note(self, connection: object, size: int, cut: Callable[[CrecheError], None]) -> None:
        """A connection has so many bytes under way now; others are cut if that is too much."""
        self.forget(connection)
        if not size:
            return
        self._by_connection[connection] = size, cut
        self.bytes += size
        while self.bytes > self._most and len(self._by_connection) > 1:
            oldest = next(iter(self._by_connection))
            _, cut_oldest = self._by_connection[oldest]
            self.forget(oldest)
            cut_oldest(ChannelBroken("too much is under way in pieces, and it went on with none"))

    def forget(self, connection: object) -> None:
        """A connection has nothing under way, or has ended."""
        size, _ = self._by_connection.pop(connection, (0, None))
        self.bytes -= size
