"""A peer's session with the plane: it dials, introduces itself, keeps alive, and dials again.

The session outlives its connections. What is resumed are facts, not a log: when a connection ends,
whatever waited in the outbox is dropped, and when the next one is welcomed, the owner says again
what still matters (`on_welcome`): submissions not accepted, jobs waited for, reports not settled.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from creche.channel.base import Channel, Dial
from creche.errors import (
    ChannelBroken,
    ChannelClosed,
    ClientClosed,
    CrecheError,
    NotAPlane,
    NotTrusted,
    PlaneStopping,
    PlaneUnreachable,
    Refused,
    RemoteProtocolError,
)
from creche.peer.credential import Credential, no_credential
from creche.peer.outbox import Outbox, send_from
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.session import Grammar, Role

MERCY_S = 0.5
"""How long a silent plane is given after the interval: a loop that the user's code has held up
wakes everybody at once, and the receiver may not have had its turn."""

SLICE = 256
"""Messages of a frame that are handled before others have their turn: what the first bring about is
under way while the last are looked at."""

FINAL_REFUSALS = frozenset({"version", "credential", "forbidden", "name-taken", "protocol"})
"""Refusals that dialling again does not mend; with another credential, the second does."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How a link behaves; durations in seconds.

    Between two dials it waits a random part of a delay that doubles from `retry_min_s` to
    `retry_max_s`, so that a thousand peers do not come back at the same moment."""

    handshake_s: float = 10.0
    retry_min_s: float = 0.05
    retry_max_s: float = 2.0


class Link:
    """One session, over as many connections as it takes.

    Args:
        dial: opens a connection.
        url: what to call the plane in errors.
        role: client or worker.
        introduce: the `Hello` of a new connection, made anew for each.
        on_welcome: called when a connection is open; returns what to say first.
        on_messages: called with the messages of each frame; must not wait.
        random: a number in [0, 1) for each delay.
        credential: what the plane is shown on each connection.
    """

    def __init__(
        self,
        dial: Dial,
        url: str,
        role: Role,
        *,
        introduce: Callable[[], m.Hello],
        on_welcome: Callable[[m.Welcome], Iterable[m.Message]],
        on_messages: Callable[[list[m.Message]], None],
        random: Callable[[], float],
        credential: Credential = no_credential,
        settings: LinkSettings = LinkSettings(),
        limits: codec.Limits = codec.DEFAULT_LIMITS,
    ) -> None:
        self._dial = dial
        self.url = url
        self._role = role
        self._introduce = introduce
        self._on_welcome = on_welcome
        self._on_messages = on_messages
        self._random = random
        self._credential = credential
        self._settings = settings
        self._limits = limits
        self._outbox = Outbox(limits)
        self._connections = 0
        self._pings = 0
        self._ping_sent_at: dict[int, float] = {}
        self._changed = anyio.Event()
        self._run_scope: anyio.CancelScope | None = None
        self._is_leaving = False
        self._opened_at = float("-inf")
        self._has_met = False
        self._shown: str | None = None
        self.welcome: m.Welcome | None = None
        """What the plane said last when it welcomed this session; None while not connected."""
        self.disconnected_at: float | None = None
        """When the last connection ended (the loop's clock); None while connected."""
        self.renewed_at: float = float("-inf")
        """A moment (the loop's clock) at which the plane surely had heard from us: the sending of
        the last ping that was answered."""
        self.failure: CrecheError | None = None
        """Why the link has given up for good, or what went wrong last while it still tries."""
        self.has_failed = False
        self.farewell: str | None = None
        """Why the plane ended the last connection in good order; None if it did not, or while
        connected. Such a plane does not expect anybody back."""
        self.heard_at: float = float("-inf")
        """When a frame arrived last (the loop's clock)."""

    @property
    def is_connected(self) -> bool:
        """Whether a welcomed connection is open."""
        return self.welcome is not None

    def post(self, message: m.Message) -> None:
        """Send *message* with the next frame; while not connected, drop it (see `on_welcome`)."""
        if self.welcome is not None:
            self._outbox.put(message)

    def post_all(self, messages: Iterable[m.Message]) -> None:
        """Send several messages with the next frame."""
        if self.welcome is not None:
            self._outbox.put_all(messages)

    async def wait_connected(self, timeout_s: float | None) -> m.Welcome:
        """Wait until a connection is open and return its welcome.

        Raises:
            PlaneUnreachable: not within *timeout_s* seconds; a `PlaneStopping` if there was one
                that takes nobody any more; at once a `NotAPlane` or a `NotTrusted`.
            Refused: the plane does not want this peer, and never will.
            ClientClosed: the link has ended.
        """
        with anyio.move_on_after(timeout_s):
            while True:
                if self.welcome is not None:
                    return self.welcome
                if self.has_failed and self.failure is not None:
                    raise fresh(self.failure)
                changed = self._changed
                await changed.wait()
        gave_up = f"gave up after {timeout_s:g} s"
        if isinstance(self.failure, Refused) and self.failure.code == m.STOPPING:
            raise PlaneStopping(self.url, gave_up)
        why = "no answer" if self.failure is None else _reason(self.failure)
        raise PlaneUnreachable(self.url, f"{why}; {gave_up}")

    async def wait_disconnected(self) -> None:
        """Wait until the connection that is open now has ended; nothing more comes of it then."""
        welcome = self.welcome
        while self.welcome is not None and self.welcome is welcome:
            await self._changed.wait()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the session connected until `leave` is called, the plane refuses it for good, or
        this is cancelled."""
        task_status.started()
        failures = 0
        try:
            with anyio.CancelScope() as self._run_scope:
                while not self._is_leaving:
                    lasted_s = await self._one_connection()
                    if self.has_failed or self._is_leaving:
                        break
                    # A plane that welcomes and then cuts is no better than one that refuses.
                    failures = 0 if lasted_s >= self._settings.retry_max_s else failures + 1
                    delay = self._settings.retry_min_s * 2 ** min(failures, 10)
                    await anyio.sleep(min(delay, self._settings.retry_max_s) * self._random())
        finally:
            if not self.has_failed:
                self.failure = ClientClosed(f"the connection to {self.url} is closed")
                self.has_failed = True
            self._note_change()

    async def leave(self, why: str, *, bound_s: float = 1.0) -> None:
        """Say goodbye if connected, and end `run`. Bounded by *bound_s* seconds."""
        self._is_leaving = True
        if self.welcome is not None:
            self._outbox.put(m.Goodbye(why))
            with anyio.move_on_after(bound_s):
                while self.welcome is not None:
                    await self._changed.wait()
        if self._run_scope is not None:
            self._run_scope.cancel()

    # --- one connection -------------------------------------------------------------------------

    async def _one_connection(self) -> float:
        """Dial, and converse until the connection ends. Return how long it was welcome."""
        try:
            async with self._dial() as channel:
                grammar = Grammar(self._role, Role.PLANE, self._limits)
                welcome, rest = await self._handshake(channel, grammar)
                keep_alive_s = _keep_alive_s(welcome)
                self._open(welcome)
                self._route(rest)
                await self._converse(channel, grammar, keep_alive_s)
        except (NotAPlane, NotTrusted) as error:
            self.failure = error
            # Where a plane has been before, this is a proxy's answer while the plane is away.
            self.has_failed = not self._has_met
        except (PlaneUnreachable, ChannelBroken, ChannelClosed, RemoteProtocolError) as error:
            self.failure = error
        except Refused as refusal:
            self.failure = refusal
            self.has_failed = refusal.code in FINAL_REFUSALS and not self._has_another(refusal)
        finally:
            lasted_s = self._close()
        return lasted_s

    async def _handshake(
        self, channel: Channel, grammar: Grammar
    ) -> tuple[m.Welcome, list[m.Message]]:
        """Introduce this side; return the welcome, and what came in one frame with it."""
        with anyio.move_on_after(self._settings.handshake_s):
            self._connections += 1
            hello = self._introduce()
            facts = {**hello.facts, "connection": self._connections}
            self._shown = self._credential()
            hello = hello._replace(facts=facts, credential=self._shown)
            await channel.send(grammar.send([hello]))
            answers = grammar.receive(await channel.receive())
            if answers and isinstance(answers[0], m.Welcome):
                return answers[0], answers[1:]
            for answer in answers:
                if isinstance(answer, m.Refusal):
                    raise Refused(answer.code, answer.why)
            raise RemoteProtocolError("the plane's first frame is not a welcome")
        raise PlaneUnreachable(self.url, "it accepted the connection and did not introduce itself")

    def _has_another(self, refusal: Refused) -> bool:
        """Whether the credential is another one by now, as when it is being replaced."""
        is_about_it = refusal.code in ("credential", "forbidden")
        return is_about_it and self._credential() != self._shown

    def _open(self, welcome: m.Welcome) -> None:
        # No checkpoint: what the owner says first is in the outbox before anyone else can post.
        self._outbox.clear()
        self.welcome = welcome
        self._has_met = True
        self.failure = None
        self.farewell = None
        self.disconnected_at = None
        self._ping_sent_at.clear()
        self.renewed_at = self._opened_at = anyio.current_time()
        self._outbox.put_all(self._on_welcome(welcome))
        self._note_change()

    def _close(self) -> float:
        lasted_s = 0.0
        if self.welcome is not None:
            self.welcome = None
            self.disconnected_at = anyio.current_time()
            lasted_s = self.disconnected_at - self._opened_at
        self._outbox.clear()
        self._note_change()
        return lasted_s

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _converse(self, channel: Channel, grammar: Grammar, keep_alive_s: float) -> None:
        ended: list[CrecheError] = []

        async def until_it_ends(run: Callable[..., Any], *args: Any) -> None:
            # The first of the three to find the connection ended says why and ends the others.
            try:
                await run(*args)
            except (ChannelBroken, ChannelClosed, RemoteProtocolError, Refused) as error:
                ended.append(error)
            conversation.cancel_scope.cancel()

        async with anyio.create_task_group() as conversation:
            conversation.start_soon(until_it_ends, send_from, self._outbox, channel, grammar)
            conversation.start_soon(until_it_ends, self._keep_alive, keep_alive_s)
            conversation.start_soon(until_it_ends, self._receive, channel, grammar)
        if ended:
            raise ended[0]

    async def _receive(self, channel: Channel, grammar: Grammar) -> None:
        while True:
            messages = grammar.receive(await channel.receive())
            self.heard_at = anyio.current_time()
            for start in range(0, len(messages), SLICE):
                self._route(messages[start : start + SLICE])
                if start + SLICE < len(messages):
                    await anyio.lowlevel.checkpoint()

    def _route(self, messages: list[m.Message]) -> None:
        rest: list[m.Message] = []
        try:
            for message in messages:
                if not self._is_ours(message):
                    rest.append(message)
        finally:
            # A goodbye or a refusal raises, and what was said before it counts.
            if rest:
                self._on_messages(rest)

    def _is_ours(self, message: m.Message) -> bool:
        """Handle what belongs to the link itself."""
        kind = type(message)
        if kind is m.Ping:
            self._outbox.put(m.Pong(message.n))  # type: ignore[union-attr]
        elif kind is m.Pong:
            sent_at = self._ping_sent_at.pop(message.n, None)  # type: ignore[union-attr]
            if sent_at is not None:
                self.renewed_at = max(self.renewed_at, sent_at)
        elif kind is m.Refusal:
            raise Refused(message.code, message.why)  # type: ignore[union-attr]
        elif kind is m.Goodbye:
            self.farewell = message.why  # type: ignore[union-attr]
            raise ChannelBroken(f"the plane says goodbye: {message.why}")  # type: ignore[union-attr]
        else:
            return False
        return True

    async def _keep_alive(self, keep_alive_s: float) -> None:
        """Ping, and end the connection when a whole interval has brought nothing back."""
        self.heard_at = anyio.current_time()
        while True:
            self._pings += 1
            pinged_at = self._ping_sent_at[self._pings] = anyio.current_time()
            self._outbox.put(m.Ping(self._pings))
            await anyio.sleep(keep_alive_s)
            if self.heard_at < pinged_at:
                await anyio.sleep(MERCY_S)
            if self.heard_at < pinged_at:
                raise ChannelBroken(f"silent for {keep_alive_s:g} s")


def fresh(error: CrecheError) -> CrecheError:
    """Return *error* to be raised: a copy, as one that is raised again and again would collect the
    tracebacks of all its raisers."""
    return copy.copy(error)


def _keep_alive_s(welcome: m.Welcome) -> float:
    seconds = welcome.limits.get("keep_alive_s")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise RemoteProtocolError(f"the plane's welcome says keep_alive_s={seconds!r}")
    return float(seconds)


def _reason(error: CrecheError) -> str:
    return error.why if isinstance(error, PlaneUnreachable) else str(error)
