"""One connection of one peer: it introduces itself, is listened to, and is answered, in a nursery
of its own.

Whatever a peer does wrong ends its own nursery only: it is told why, and everybody else goes on.
So does what the plane itself does wrong in a conversation, and then it is in the log.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from creche.channel.base import Channel
from creche.engine.doors import OPEN_DOOR, Door
from creche.engine.guards import Routes, check_queues, guarded, why_name_taken
from creche.engine.leases import check_report
from creche.engine.sessions import Session, places_for, shown_facts
from creche.engine.turns import (
    FRAME_S,
    LOOK_UP_S,
    PIECE_BYTE_S,
    Turns,
    cost_of_frame,
    cost_of_question,
)
from creche.engine.under_way import UnderWay
from creche.errors import (
    ChannelBroken,
    ChannelClosed,
    CrecheError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    StoreError,
    StoreUnavailable,
)
from creche.events import PeerCame, PeerLeft, PeerRefused
from creche.peer.outbox import Outbox, send_from
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.access import Access
from creche.wire.session import Grammar, Role

if TYPE_CHECKING:
    from creche.engine.core import Core
    from creche.engine.views import Views

logger = logging.getLogger("creche.plane")

MAX_NAME = 200
MAX_QUEUES = 100
"""Queues that one worker may listen on."""

MAX_SLOTS = 100_000

MAX_ITEMS = 200_000
"""Values in a frame, or in a message that came in pieces, that a plane takes: a peer is told more
than it has to say."""

SLICE = 256
"""Messages of a frame that are handled before others have their turn: what the first ask for is on
its way while the last are looked at, and no peer holds up the others for long."""


ENDINGS = (ChannelBroken, ChannelClosed, LocalProtocolError, RemoteProtocolError, Refused)
"""What ends a conversation, and nothing beside it."""


class Conversations:
    """What the plane does with a connection: `converse` is the listener's handler."""

    def __init__(self, core: Core, views: Views, door: Door = OPEN_DOOR) -> None:
        self._core = core
        self._door = door
        self._views = views
        self._is_turning_away = False
        self._turns = Turns()
        self._under_way = UnderWay()
        self._limits = codec.Limits(
            payload_bytes=core.settings.payload_bytes,
            message_bytes=core.settings.payload_bytes + 64 * codec.KIB,
            items=MAX_ITEMS,
        )
        self._routes: dict[type[Any], Callable[[Session, Any], None]] = {
            m.Submit: core.submissions.submit,
            m.Finished: self._finished,
            m.TryAgain: core.leases.try_again,
            m.Received: lambda session, message: core.outcomes.received(session, message.ids),
            m.Watch: self._watch,
            m.Unwatch: lambda session, message: core.outcomes.unwatch(session, message.ids),
            m.HandBack: self._handed_back,
            m.Capacity: self._capacity,
            m.Announce: lambda session, message: core.announce(session, message.tasks),
            m.Cancel: self._cancel,
            m.Ask: self._ask,
            m.Subscribe: self._subscribe,
            m.Unsubscribe: lambda session, message: views.unsubscribe(session, message.ref),
            m.Ping: lambda session, message: session.post(m.Pong(message.n)),
            m.Pong: lambda session, message: None,
        }

    async def converse(self, channel: Channel) -> None:
        """Serve one connection until it ends. Never raises for what the peer did."""
        grammar = Grammar(Role.PLANE, Role.CLIENT, self._limits)
        outbox = Outbox(self._limits)
        session: Session | None = None
        try:
            session = await self._introduce(channel, grammar, outbox)
            channel.let_in()
            await self._exchange(channel, grammar, session, outbox)
        except (ChannelBroken, ChannelClosed) as error:
            logger.debug("%s: %s", channel.peer, error)
        except RemoteProtocolError as error:
            refusal = m.Refusal("protocol", str(error))
            await self._refuse(channel, grammar, outbox, session, refusal)
        except Refused as refused:
            refusal = m.Refusal(refused.code, refused.why)
            await self._refuse(channel, grammar, outbox, session, refusal)
        except LocalProtocolError as error:
            logger.exception("%s: a fault of this plane ends the connection", channel.peer)
            refusal = m.Refusal("internal", f"the plane made a mistake: {error}")
            await self._refuse(channel, grammar, Outbox(self._limits), session, refusal)
        finally:
            self._under_way.forget(outbox)
            if session is not None:
                self._disconnected(session, outbox)

    # --- introduction ---------------------------------------------------------------------------

    async def _introduce(self, channel: Channel, grammar: Grammar, outbox: Outbox) -> Session:
        with trio.move_on_after(self._core.settings.handshake_s):
            messages = grammar.receive(await channel.receive())
            if len(messages) != 1 or not isinstance(messages[0], m.Hello):
                raise RemoteProtocolError("the first frame is one Hello")
            # No checkpoint from here until the session has its outbox.
            return self._welcome(messages[0], grammar, outbox)
        raise RemoteProtocolError("no Hello within the time for it")

    def _welcome(self, hello: m.Hello, grammar: Grammar, outbox: Outbox) -> Session:
        core, settings = self._core, self._core.settings
        version = next((v for v in m.VERSIONS if v in hello.versions), None)
        if version is None:
            ours = ", ".join(map(str, m.VERSIONS))
            raise Refused("version", f"this plane speaks {ours}, the peer {hello.versions}")
        role = _role(hello)
        if role is Role.WORKER:
            _check_worker(hello.facts)
        access = self._door.admit(hello.credential, role, core.now())
        if role is Role.WORKER:
            check_queues(access, hello.facts["queues"])
        grammar.peer = role
        session = core.sessions.get(hello.session)
        if session is not None and (session.role, session.name) != (role, hello.name):
            raise Refused("session", "this session belongs to somebody else")
        connection = hello.facts.get("connection", 0)
        if session is not None and 0 < connection <= session.connection:
            # What it names is out of date: the session has gone on over another connection.
            raise Refused("overtaken", "this session has connected again since")
        is_resumed = session is not None
        if session is None:
            session = self._new_session(hello, role, access)
        if session.cut is not None:
            session.cut(ChannelBroken("the peer has connected again"))
        core.sessions.is_back(session)
        session.connect(outbox)
        core.reader.forget(session)  # it asks anew what was not answered
        session.door, session.access = self._door, access
        session.connection = connection
        session.facts = shown_facts(hello.facts)
        session.connected_at = core.now()
        session.heard_at = trio.current_time()
        # A client names again what it waits for, and submits again what was not answered; what was
        # pushed and lost is pushed anew.
        core.outcomes.resume(session)
        core.submissions.resume(session)
        outbox.put(
            m.Welcome(
                version,
                core.epoch,
                is_resumed,
                core.store.durability.value,
                {
                    "plane": core.plane,
                    "now": core.now(),
                    "keep_alive_s": settings.keep_alive_s,
                    "grace_s": settings.grace_s,
                    "lease_s": settings.lease_s,
                    "unaccepted": settings.unaccepted,
                    "unaccepted_bytes": settings.unaccepted_bytes,
                    "watches": settings.watches,
                    "payload_bytes": settings.payload_bytes,
                    "frame_bytes": self._limits.frame_bytes,
                },
            )
        )
        if role is Role.WORKER:
            self._worker_came(session, hello)
        self._watch_silence(session)
        core.workers_changed()
        core.events.emit(PeerCame(session.name, role.value, is_resumed))
        return session

    def _new_session(self, hello: m.Hello, role: Role, access: Access) -> Session:
        core = self._core
        if core.is_stopping:
            raise Refused(m.STOPPING, "the plane is stopping")
        places = places_for(role, core.settings.sessions)
        if len(core.sessions) >= places:
            away = core.sessions.away_longest()
            if away is not None:
                self.end_session(away, "another peer needed its place while it was away")
        if len(core.sessions) >= places:
            raise Refused("full", f"this plane knows {places:,} peers already")
        session = Session(hello, role, core.settings, core.outboxes)
        if role is Role.WORKER:
            older = core.sessions.worker(hello.name)
            why = why_name_taken(core, session, older, access)
            if why is not None:
                raise Refused("name-taken", why)
            if older is not None:
                self.end_session(older, "its worker was started anew")
            core.leases.lose_older(session)
        core.sessions.add(session)
        return session

    def _worker_came(self, session: Session, hello: m.Hello) -> None:
        session.queues = tuple(dict.fromkeys(hello.facts["queues"]))
        session.began = trio.current_time() - hello.facts.get("age_s", 0.0)
        # Of another ledger, the same numbers are other jobs: it holds none of ours.
        is_of_this = hello.facts.get("plane", self._core.plane) == self._core.plane
        held = hello.facts.get("held", []) if is_of_this else []
        self._core.leases.resume(session, [(s, e, a) for s, e, a in held])
        for order in session.orders.values():
            session.post(order)
        self._core.journal.wake()

    # --- conversation ---------------------------------------------------------------------------

    async def _exchange(
        self, channel: Channel, grammar: Grammar, session: Session, outbox: Outbox
    ) -> None:
        """Send and receive until the connection ends; raises why it did."""
        reasons: list[CrecheError] = []
        async with trio.open_nursery() as nursery:

            def cut(why: CrecheError) -> None:
                reasons.append(why)
                nursery.cancel_scope.cancel()

            def go_on() -> None:
                session.has_sent(outbox)
                if session.is_held_up and session.outbox is outbox and not session.is_congested:
                    session.is_held_up = False
                    self._core.outcomes.go_on(session)
                    self._core.dispatch.run()
                    self._core.journal.wake()

            async def send() -> None:
                try:
                    await send_from(outbox, channel, grammar, go_on)
                except ENDINGS as error:
                    cut(error)

            session.cut = cut
            nursery.start_soon(send)
            try:
                await self._receive(channel, grammar, session, outbox)
            except ENDINGS as error:
                reasons.append(error)
            nursery.cancel_scope.cancel()
        if reasons:
            raise reasons[0]

    async def _receive(
        self, channel: Channel, grammar: Grammar, session: Session, outbox: Outbox
    ) -> None:
        turns = self._turns
        routes = guarded(self._routes, session.access, self._core)
        while True:
            frame = await channel.receive()
            if session.found:
                self._give_back(session)
            if turns.has_to_wait(session.allowance):
                async with turns.turn(session.allowance):
                    goes_on = await self._take_in(frame, grammar, session, outbox, routes)
            else:
                goes_on = await self._take_in(frame, grammar, session, outbox, routes)
            if not goes_on:
                return

    async def _take_in(
        self, frame: bytes, grammar: Grammar, session: Session, outbox: Outbox, routes: Routes
    ) -> bool:
        """Handle the messages of a frame; return whether more may follow."""
        core = self._core
        began = trio.current_time()
        unfinished_bytes = grammar.unfinished_bytes
        messages = grammar.receive(frame)
        if session.outbox is not outbox:
            return False  # The peer has connected again: this connection speaks for nobody.
        session.heard_at = trio.current_time()
        if session.cut is not None:
            self._under_way.note(outbox, grammar.unfinished_bytes, session.cut)
        useful = 0
        took_s = trio.current_time() - began
        for start in range(0, len(messages), SLICE):
            began = trio.current_time()
            brought = self._brought(session)
            for message in messages[start : start + SLICE]:
                route = routes.get(type(message))
                if route is not None:
                    route(session, message)
                elif isinstance(message, m.Goodbye):
                    why = message.why or "it said goodbye"
                    self.end_session(session, why, is_counted=False)
                    return False
                else:
                    kind = type(message).__name__
                    raise RemoteProtocolError(f"no peer may send {kind} here")
            useful += self._brought(session) - brought
            # Once a slice, not once a message:
            core.dispatch.run()
            core.journal.wake()
            took_s += trio.current_time() - began
            if start + SLICE < len(messages):
                await trio.lowlevel.checkpoint()
        if not messages and grammar.unfinished_bytes > unfinished_bytes:
            cost_s = max(took_s, FRAME_S + len(frame) * PIECE_BYTE_S)
            session.pieces_cost_s += cost_s
            self._turns.spend(session.allowance, cost_s)
        elif useful and grammar.unfinished_bytes < unfinished_bytes:
            # What they were the pieces of has brought something.
            self._turns.spend(session.allowance, -session.pieces_cost_s)
            session.pieces_cost_s = 0.0
        elif useful < len(messages) or not messages:
            cost_s = cost_of_frame(frame, len(messages), useful, took_s)
            self._turns.spend(session.allowance, cost_s)
        return True

    def _give_back(self, session: Session) -> None:
        """Jobs that a session waits for were found: looking for them was worth it."""
        back_s = min(session.found * LOOK_UP_S, session.look_ups_cost_s)
        session.found = 0
        session.look_ups_cost_s -= back_s
        self._turns.spend(session.allowance, -back_s)

    def _brought(self, session: Session) -> int:
        """What has come of what a session said, as a number that grows with each job that it
        submits or ends, and with each result that it takes in."""
        return self._core.next_seq + session.done - len(session.unreceived)

    def _finished(self, session: Session, message: m.Finished) -> None:
        if not check_report(message.state):
            raise RemoteProtocolError(f"an attempt cannot be reported as {message.state}")
        self._core.leases.finished(session, message)

    def _handed_back(self, session: Session, message: m.HandBack) -> None:
        if not all(_is_token(token) for token in message.tokens):
            raise RemoteProtocolError("attempts are handed back as [seq, epoch, attempt]")
        self._core.leases.handed_back(session, message.tokens)

    def _watch(self, session: Session, message: m.Watch) -> None:
        if not self._core.outcomes.has_room(session, message.ids):
            limit = self._core.settings.watches
            raise RemoteProtocolError(f"one session may wait for {limit:,} jobs")
        if unknown := self._core.outcomes.watch(session, message.ids):
            cost_s = unknown * LOOK_UP_S
            session.look_ups_cost_s += cost_s
            self._turns.spend(session.allowance, cost_s)

    def _capacity(self, session: Session, message: m.Capacity) -> None:
        if not 0 <= message.slots <= MAX_SLOTS or message.lent < 0:
            raise RemoteProtocolError(f"a worker has 0 to {MAX_SLOTS:,} slots")
        session.resized(message.slots, min(message.lent, self._core.settings.max_lent))
        self._core.note()

    def _cancel(self, session: Session, message: m.Cancel) -> None:
        self._bounded(session, message.ref, self._core.cancel, message)

    def _ask(self, session: Session, message: m.Ask) -> None:
        self._bounded(session, message.ref, self._views.answer, message)

    def _subscribe(self, session: Session, message: m.Subscribe) -> None:
        self._turns.spend(session.allowance, cost_of_question(message))
        self._views.subscribe(session, message)

    def _bounded(
        self, session: Session, ref: int, answer: Callable[..., Any], message: m.Ask | m.Cancel
    ) -> None:
        """Answer beside the conversation; so many at a time of one session. What the store cannot
        read is that question's affair only."""
        self._turns.spend(session.allowance, cost_of_question(message))
        is_loud = self._turns.has_to_wait(session.allowance)
        if session.open_asks >= self._core.settings.asks or (is_loud and self._turns.is_full):
            session.post(m.AskFailed(ref, "busy", "too many questions at a time: wait for answers"))
            return
        session.open_asks += 1

        async def run() -> None:
            try:
                if self._turns.has_to_wait(session.allowance):
                    async with self._turns.turn(session.allowance):
                        if not session.is_connected:
                            return
                        self._turns.spend(session.allowance, cost_of_question(message))
                await answer(session, message)
            except StoreUnavailable:
                raise
            except StoreError as error:
                session.post(m.AskFailed(ref, "store", str(error)))
            finally:
                session.open_asks -= 1

        self._core.spawn(run)

    async def keep_door(self) -> None:
        """Send away whoever may not stay any more, until cancelled. A session stays for its grace:
        its peer can go on with another credential."""
        while True:
            await self._door.wait_changed()
            for session in self._core.sessions:
                if session.door is self._door and session.cut is not None:
                    why = self._door.why_out(session.access, self._core.now())
                    if why is not None:
                        session.cut(why)

    # --- endings --------------------------------------------------------------------------------

    def end_session(self, session: Session, why: str, *, is_counted: bool = True) -> None:
        """A session is over: what it held is given away, what it waited for is forgotten."""
        if session.is_over:
            return
        session.is_over = True
        core = self._core
        core.events.emit(PeerLeft(session.name, session.role.value, why))
        core.sessions.remove(session)
        core.outcomes.forget(session)
        core.submissions.forget(session)
        self._views.forget(session)
        if session.timer is not None:
            session.timer.cancel()
        if session.cut is not None:
            session.cut(ChannelBroken(why))
        core.leases.lose(session, why, is_counted=is_counted)
        core.workers_changed()
        core.dispatch.run()
        core.journal.wake()

    def _disconnected(self, session: Session, outbox: Outbox) -> None:
        if session.outbox is not outbox:
            return  # Another connection has taken over.
        session.connect(None)
        session.cut = None
        self._views.forget(session)
        self._core.reader.forget(session)
        if session.is_over:
            return
        self._core.sessions.is_away(session)
        if session.timer is not None:
            session.timer.cancel()
        session.timer = self._core.timers.call_later(
            self._core.settings.grace_s,
            lambda: self.end_session(session, "its connection did not come back in time"),
        )
        self._core.note()

    def _watch_silence(self, session: Session) -> None:
        """An open but silent connection is a loss when the lease ends, not before."""

        def check() -> None:
            end = session.heard_at + lease_s
            if trio.current_time() < end:
                session.timer = timers.call_at(end, check)
            else:
                self.end_session(session, f"silent for {lease_s:g} s")

        timers, lease_s = self._core.timers, self._core.settings.lease_s
        if session.timer is not None:
            session.timer.cancel()
        session.timer = timers.call_at(session.heard_at + lease_s, check)

    async def _refuse(
        self,
        channel: Channel,
        grammar: Grammar,
        outbox: Outbox,
        session: Session | None,
        refusal: m.Refusal,
    ) -> None:
        """Say the last word, if the peer still listens; bounded."""
        # Of a plane that stops, everybody who dials again is sent away: the first tells enough.
        if refusal.code != m.STOPPING or not self._is_turning_away:
            self._is_turning_away |= refusal.code == m.STOPPING
            who = channel.peer if session is None else f"{session.role.value} {session.name}"
            self._core.events.emit(PeerRefused(who, refusal.code, refusal.why))
        with trio.move_on_after(1.0, shield=True):
            try:
                while frame := outbox.take():
                    await channel.send(grammar.send(frame))
                await channel.send(grammar.send([refusal]))
            except (ChannelBroken, ChannelClosed, LocalProtocolError):
                pass  # It is gone, or was told goodbye already: nothing follows a last word.


def _role(hello: m.Hello) -> Role:
    if hello.role not in (Role.CLIENT.value, Role.WORKER.value):
        raise RemoteProtocolError(f"{hello.role!r} is no role of a peer")
    if not 0 < len(hello.name) <= MAX_NAME:
        raise RemoteProtocolError(f"a peer's name has 1 to {MAX_NAME} characters")
    if len(hello.session) != 16 or len(hello.incarnation) != 16:
        raise RemoteProtocolError("a session and an incarnation have 16 bytes")
    connection = hello.facts.get("connection", 0)
    if type(connection) is not int or not 0 <= connection < 2**63:
        raise RemoteProtocolError("a connection's number is a whole number, and not below 0")
    return Role(hello.role)


def _check_worker(facts: m.Facts) -> None:
    queues, held = facts.get("queues"), facts.get("held", [])
    if (
        not isinstance(queues, list)
        or not 0 < len(queues) <= MAX_QUEUES
        or not all(isinstance(queue, str) and 0 < len(queue) <= MAX_NAME for queue in queues)
    ):
        raise RemoteProtocolError(f"a worker listens on 1 to {MAX_QUEUES} queues, by name")
    if not isinstance(held, list) or not all(_is_token(token) for token in held):
        raise RemoteProtocolError("held attempts are named as [seq, epoch, attempt]")
    age_s = facts.get("age_s", 0.0)
    if type(age_s) not in (int, float) or not 0 <= age_s < math.inf:
        raise RemoteProtocolError("a worker's age is a number of seconds")


def _is_token(token: Any) -> bool:
    return (
        isinstance(token, list)
        and len(token) == 3
        and all(type(n) is int and 0 <= n < 2**63 for n in token)
    )
