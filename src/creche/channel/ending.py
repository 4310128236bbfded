"""How an end of a channel ends, whatever carries it: the first reason counts, closing it oneself
counts before all others, and everybody who uses it from then on is told."""

from __future__ import annotations

from typing import NoReturn

from creche.errors import ChannelBroken, ChannelClosed, CrecheError


class Ending:
    """What each end of a channel knows: who is at the other, and whether it is over.

    A subclass may look at `_end` before it sends: that is cheaper than any call.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        # Why this end can no longer be used; None while it can.
        self._end: CrecheError | None = None

    @property
    def peer(self) -> str:
        """The other end, for logs: its address, ``127.0.0.1:40312``, or a name."""
        return self._peer

    def let_in(self) -> None:
        """See `Channel.let_in`: of most connections nobody keeps count."""

    @property
    def _is_closed(self) -> bool:
        return isinstance(self._end, ChannelClosed)

    def _close(self) -> None:
        self._end = ChannelClosed(f"the channel to {self._peer} is closed")

    def _break(self, why: str) -> None:
        if self._end is None:
            self._end = ChannelBroken(why)

    def _lose(self) -> None:
        self._break(f"the connection to {self._peer} was lost")

    def _give_up_send(self) -> None:
        # Half of the frame may be out.
        self._break(f"a send to {self._peer} was cancelled")

    def _raise_end(self) -> NoReturn:
        # A new one each time: an error that is raised twice collects tracebacks.
        assert self._end is not None, "an end is over, and nobody said why"
        raise type(self._end)(*self._end.args) from None
