"""Credit: how much may be submitted and not yet answered, and who waits, in order, for room."""

from __future__ import annotations

from collections import deque

import anyio

from creche.errors import ClientClosed
from creche.peer.link import Link, fresh


class _Turn:
    """Somebody who waits for room for a submission of so many bytes."""

    __slots__ = ("has_come", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.has_come = anyio.Event()


class Credit:
    """What one session may have unanswered, as the plane's welcome says.

    One submission alone always has room, whatever its size: nothing would ever make more of it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._most, self._most_bytes = 1, 0
        self._taken = self._taken_bytes = 0
        self._queue: deque[_Turn] = deque()

    def grant(self, most: int, most_bytes: int) -> None:
        """The plane has said how many submissions may be unanswered, and of how many bytes."""
        self._most, self._most_bytes = most, most_bytes

    def take(self, size: int) -> None:
        """A submission was begun."""
        self._taken += 1
        self._taken_bytes += size

    def give_back(self, size: int) -> None:
        """A submission was answered, or given up. `wake` is called once for many."""
        self._taken -= 1
        self._taken_bytes -= size

    def has_room(self, size: int) -> bool:
        """Whether a submission may begin now, and passes nobody by."""
        return self._link.is_connected and not self._queue and self._fits(size)

    async def wait(self, size: int) -> None:
        """Wait until there is a connection, and room for one more submission. If cancelled, the
        turn goes to the next.

        Raises:
            CrecheError: the session has ended for good, with the reason.
        """
        await self._link.wait_connected(None)
        is_first = True
        while (is_first and self._queue) or not self._fits(size):
            if self._link.has_failed:
                raise fresh(self._link.failure or ClientClosed("the client is closed"))
            turn = _Turn(size)
            # Who was woken and found the room taken is the next.
            (self._queue.append if is_first else self._queue.appendleft)(turn)
            is_first = False
            try:
                await turn.has_come.wait()
            except BaseException:
                if turn.has_come.is_set():
                    self.wake()
                else:
                    self._queue.remove(turn)
                raise

    def wake(self) -> None:
        """Wake those whom there is room for, in order; all of them when there will be none."""
        taken, size = self._taken, self._taken_bytes
        while self._queue:
            turn = self._queue[0]
            has_room = taken < self._most and size + turn.size <= self._most_bytes
            if taken and not has_room and not self._link.has_failed:
                return
            self._queue.popleft().has_come.set()
            taken += 1
            size += turn.size

    def _fits(self, size: int) -> bool:
        return not self._taken or (
            self._taken < self._most and self._taken_bytes + size <= self._most_bytes
        )
