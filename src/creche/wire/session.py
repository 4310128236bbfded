"""Who may say what, when: one side's view of a connection. No socket, no clock, no await.

A connection is OPENING until the peer has said hello, INTRODUCED until the plane has answered, and
READY from its welcome on. A side that has said its last word is CLOSED; what the other side says
until it hears that is still legal, for the two may cross on their way. What a session means
beyond one connection (resumption, leases, watches) is the engine's and the peers' business; this
is only the grammar.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from creche.errors import LocalProtocolError, RemoteProtocolError
from creche.wire import codec
from creche.wire import messages as m


class Role(Enum):
    """What a peer is. Dashboards and command lines are clients that mostly ask."""

    PLANE = "plane"
    CLIENT = "client"
    WORKER = "worker"


class Phase(Enum):
    """How far a connection has come."""

    OPENING = "opening"
    INTRODUCED = "introduced"
    READY = "ready"
    CLOSED = "closed"


_SUBMITTING = (
    m.Submit, m.Watch, m.Unwatch, m.Received, m.Cancel, m.Ask, m.Subscribe, m.Unsubscribe,
)  # fmt: skip
_ANSWERING = (
    m.Accepted, m.Declined, m.Existing, m.Warned, m.Ended, m.Missing, m.Answer, m.AskFailed, m.View,
)  # fmt: skip
_BOTH = (m.Ping, m.Pong, m.Piece)
_WORKING = (m.Announce, m.Capacity, m.Finished, m.TryAgain, m.HandBack)
_EMPLOYING = (m.Offer, m.Settled, m.Stop, m.Drain, m.Resize)


def _moves() -> dict[tuple[Role, Phase, type[Any]], Phase]:
    peers = (Role.CLIENT, Role.WORKER)
    table: dict[tuple[Role, Phase, type[Any]], Phase] = {}
    for role in peers:
        table[role, Phase.OPENING, m.Hello] = Phase.INTRODUCED
        table[role, Phase.READY, m.Goodbye] = Phase.CLOSED
        # Jobs submit jobs: a worker may say whatever a client may.
        table.update({(role, Phase.READY, kind): Phase.READY for kind in (*_BOTH, *_SUBMITTING)})
    table.update({(Role.WORKER, Phase.READY, kind): Phase.READY for kind in _WORKING})
    table[Role.PLANE, Phase.INTRODUCED, m.Welcome] = Phase.READY
    # Garbage is refused before any hello.
    table[Role.PLANE, Phase.OPENING, m.Refusal] = Phase.CLOSED
    table[Role.PLANE, Phase.INTRODUCED, m.Refusal] = Phase.CLOSED
    table[Role.PLANE, Phase.READY, m.Refusal] = Phase.CLOSED
    table[Role.PLANE, Phase.READY, m.Goodbye] = Phase.CLOSED
    spoken = (*_BOTH, *_ANSWERING, *_EMPLOYING)
    table.update({(Role.PLANE, Phase.READY, kind): Phase.READY for kind in spoken})
    return table


# Rule: every legal move is in this table; no other module asks "may I send?". It names all
# roles, so neither side can be held to laxer rules than the other. What the plane may say to a
# client only (no offers) follows from the client refusing what it cannot route.
MOVES = _moves()


class Grammar:
    """One side of a connection: encodes what goes out and decodes what comes in, by the rules.

    *role* is this side, *peer* the other. Errors on what we send are bugs of ours
    (`LocalProtocolError`); errors on what arrives are the peer's (`RemoteProtocolError`), and
    after one the connection is of no more use.
    """

    def __init__(self, role: Role, peer: Role, limits: codec.Limits = codec.DEFAULT_LIMITS) -> None:
        self.role = role
        self.peer = peer
        self._phase = Phase.OPENING
        self._last_words: set[Role] = set()
        self._assembler = codec.Assembler(limits)
        self._limits = limits

    @property
    def phase(self) -> Phase:
        """How far the connection has come: CLOSED once either side has said its last word."""
        return Phase.CLOSED if self._last_words else self._phase

    @property
    def unfinished_bytes(self) -> int:
        """What has arrived of messages in pieces whose last piece has not."""
        return self._assembler.size_bytes

    def check_outgoing(self, message: m.Message) -> None:
        """Note that *message* is about to be sent.

        Raises:
            LocalProtocolError: this side may not say it now; nothing has changed.
        """
        kind = type(message)
        phase = Phase.CLOSED if self.role in self._last_words else self._phase
        after = MOVES.get((self.role, phase, kind))
        if after is None:
            raise LocalProtocolError(_says(self.role, phase, kind))
        self._move(self.role, after)

    def send(self, messages: Iterable[m.Message]) -> bytes:
        """Return the frame that carries *messages*.

        Raises:
            LocalProtocolError: this side may not say that now, or CBOR cannot carry it.
        """
        batch = list(messages)
        phase = Phase.CLOSED if self.role in self._last_words else self._phase
        if not _is_plain(self.role, phase, batch):
            for message in batch:
                self.check_outgoing(message)
        return codec.encode_frame(batch)

    def receive(self, frame: bytes) -> list[m.Message]:
        """Return the messages of *frame*, with pieces put together.

        Raises:
            RemoteProtocolError: and nothing else, on any garbage; the phase has not changed.
        """
        arrived: list[m.Message] = []
        role = self.peer
        phase = Phase.CLOSED if role in self._last_words else self._phase
        messages = codec.decode_frame(frame, self._limits)
        if _is_plain(role, phase, messages):
            return messages
        for message in messages:
            kind = type(message)
            after = MOVES.get((role, phase, kind))
            if after is None:
                raise RemoteProtocolError(_says(role, phase, kind))
            phase = after
            if kind is m.Piece:
                whole = self._assembler.add(message)  # type: ignore[arg-type]
                if whole is None:
                    continue
                after = MOVES.get((role, phase, type(whole)))
                if after is None or type(whole) is m.Piece:
                    raise RemoteProtocolError(_says(role, phase, type(whole)))
                phase = after
                message = whole
            arrived.append(message)
        self._move(role, phase)
        return arrived

    def _move(self, who: Role, phase: Phase) -> None:
        if phase is Phase.CLOSED:
            self._last_words.add(who)
        else:
            self._phase = phase


def _is_plain(who: Role, phase: Phase, messages: list[m.Message]) -> bool:
    """Whether all of *messages* are allowed, and none moves the phase or is a piece: true of nearly
    every frame, and looked up once a kind instead of once a message."""
    return all(
        kind is not m.Piece and MOVES.get((who, phase, kind)) is phase
        for kind in set(map(type, messages))
    )


def _says(who: Role, phase: Phase, kind: type[Any]) -> str:
    return f"a {who.value} may not send {kind.__name__} while the connection is {phase.value}"
