"""Peers that keep to the protocol, and to nothing else: they come and go, are slow, deaf, late, and
say things twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from creche.errors import CrecheError
from creche.model.failure import Failure
from creche.model.job import JobState
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.payload import encode_value
from creche.wire.session import Grammar, Role

if TYPE_CHECKING:
    from tests.fuzz.world import World

Token: TypeAlias = tuple[int, int, int]
Report: TypeAlias = m.Finished | m.TryAgain
Look: TypeAlias = Callable[[m.Facts, Any], None]
Question: TypeAlias = tuple[str, m.Facts, Look | None]
BUSY = encode_value(Failure("Busy", "come back later").as_data())


class Party:
    """One peer's process: it dials until it leaves, and may submit, wait and cancel."""

    def __init__(self, world: World, name: str, role: Role) -> None:
        self.world = world
        self.rng: random.Random = world.rng
        self.name = name
        self.role = role
        self.session = self.rng.randbytes(16)
        self.incarnation = self.rng.randbytes(16)
        self.holder = f"{name}/{self.incarnation.hex()}"
        self.is_leaving = False
        self.is_deaf = False
        self.is_healthy = False
        """Whether it does nothing odd any more."""
        self.submitted: dict[int, bytes] = {}
        """Every number of a submission, and its id."""
        self.pending: dict[int, m.Submit] = {}
        """Submissions without an answer."""
        self.accepted: set[bytes] = set()
        self.watching: set[bytes] = set()
        self.reported: dict[int, Report] = {}
        self._cancels: dict[int, tuple[list[bytes], list[bool]]] = {}
        self._asks: dict[int, Question] = {}
        self.asked: list[Question] = []
        """What it has asked for, which it may ask for once more."""
        self._n = 0
        self._connection = 0
        self.is_connected = False
        self._outbox: list[m.Message] = []
        self._news = trio.Event()
        self._hears = trio.Event()
        self._hears.set()
        self.scope = trio.CancelScope()
        self.nursery: trio.Nursery
        self.gone = trio.Event()

    async def live(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dial again and again, until it leaves or its process is gone."""
        try:
            with self.scope:
                async with trio.open_nursery() as self.nursery:
                    task_status.started()
                    while not self.is_leaving:
                        try:
                            async with self.world.dial(self) as channel:
                                await self._converse(channel)
                        except CrecheError:
                            pass
                        await trio.sleep(self.rng.uniform(0.01, 1.5))
                    self.nursery.cancel_scope.cancel()
        finally:
            self.gone.set()

    def post(self, *messages: m.Message) -> None:
        """Say *messages*, if there is a connection."""
        if self.is_connected:
            self._outbox += messages
            self._news.set()

    def vanish(self) -> None:
        """The process is killed."""
        self.is_leaving = True
        for message in self.pending.values():
            self.world.truth.jobs[message.id].may_be_stored = True
        self.scope.cancel()

    def say_goodbye(self) -> None:
        """The process leaves in order."""
        self.is_leaving = True
        for message in self.pending.values():
            self.world.truth.jobs[message.id].may_be_stored = True
        if self.is_connected:
            self.post(m.Goodbye("that was it"))
        else:
            self.scope.cancel()

    def deafen(self, for_s: float) -> None:
        """Neither read nor say anything for a while, over an open connection."""

        async def be_deaf() -> None:
            self.is_deaf, self._hears = True, trio.Event()
            await trio.sleep(for_s)
            self.is_deaf = False
            self._hears.set()

        if not self.is_deaf:
            self.nursery.start_soon(be_deaf)

    # --- a connection ---------------------------------------------------------------------------

    async def _converse(self, channel: Any) -> None:
        grammar = Grammar(self.role, Role.PLANE)
        self._connection += 1
        await channel.send(grammar.send([self._hello()]))
        early: list[m.Message] = []
        with trio.fail_after(30):
            while not early:
                early = grammar.receive(await channel.receive())
        if isinstance(early[0], m.Refusal):
            return
        assert isinstance(early[0], m.Welcome)
        self._outbox, self.is_connected = [], True
        self._cancels.clear()
        self._asks.clear()
        self.post(*self._on_welcome(early[0]))
        try:
            async with trio.open_nursery() as both:
                both.start_soon(self._send, channel, grammar, both.cancel_scope)
                both.start_soon(self._ping)
                self._handle_all(early[1:])
                try:
                    while True:
                        await self._hears.wait()
                        self._handle_all(grammar.receive(await channel.receive()))
                except CrecheError:
                    both.cancel_scope.cancel()
        finally:
            self.is_connected = False
            self._outbox = []

    async def _send(self, channel: Any, grammar: Grammar, scope: trio.CancelScope) -> None:
        try:
            while True:
                await self._news.wait()
                await self._hears.wait()
                self._news = trio.Event()
                some, self._outbox = self._outbox, []
                if some:
                    await channel.send(grammar.send(some))
                if self.is_leaving:
                    self.scope.cancel()
        except CrecheError:
            scope.cancel()

    async def _ping(self) -> None:
        while True:
            await trio.sleep(self.world.settings.keep_alive_s)
            self.post(m.Ping(1))

    def _hello(self) -> m.Hello:
        facts: m.Facts = {"connection": self._connection, **self._facts()}
        return m.Hello([1], self.role.value, self.session, self.name, self.incarnation, [], facts)

    def _facts(self) -> m.Facts:
        return {}

    def _on_welcome(self, welcome: m.Welcome) -> Iterable[m.Message]:
        if self.watching:
            yield m.Watch(sorted(self.watching))
        for n, message in self.pending.items():
            self.pending[n] = again = message._replace(flags=message.flags | m.RESENT)
            truth = self.world.truth
            truth.note(f"{self.name} submits {truth.name(message.id)} again as {n}")
            yield again

    def _handle_all(self, messages: Iterable[m.Message]) -> None:
        for message in messages:
            self._handle(message)

    def _handle(self, message: m.Message) -> None:
        if isinstance(message, m.Ping):
            self.post(m.Pong(message.n))
        elif isinstance(message, m.Accepted):
            for n in message.ns:
                self._accepted(n)
        elif isinstance(message, m.Declined):
            self._declined(message)
        elif isinstance(message, m.Existing):
            self._met(message)
        elif isinstance(message, m.Ended):
            self.watching.discard(message.id)
            self.post(m.Received([message.id]))
        elif isinstance(message, m.Missing):
            known = self.world.truth.jobs[message.id]
            self.world.truth.check(
                message.is_forgotten or not known.is_accepted,
                "an accepted job is known",
                message.id,
            )
            self.watching.discard(message.id)
        elif isinstance(message, m.Answer) and message.ref in self._cancels:
            self._cancelled(message)
        elif isinstance(message, m.Answer) and message.ref in self._asks:
            name, params, look = self._asks.pop(message.ref)
            self.world.truth.count(f"answered: {name}")
            if look is not None:
                look(params, message.body)
        elif isinstance(message, m.AskFailed) and message.ref in self._asks:
            name, params, _ = self._asks.pop(message.ref)
            self.world.truth.note(f"{self.name} is told of {name}: {message.why}")
            self.world.truth.count(f"refused: {name} {message.code}")

    # --- asking ---------------------------------------------------------------------------------

    def ask(self, name: str, params: m.Facts, look: Look | None = None) -> None:
        """Ask a question or give a command; *look* sees what was asked, and the answer."""
        if not self.is_connected:
            return
        self._n += 1
        self._asks[self._n] = (name, params, look)
        self.asked.append((name, params, look))
        self.world.truth.note(f"{self.name} asks: {name} {params}")
        self.post(m.Ask(self._n, name, params))

    def ask_again(self) -> None:
        """Give one of the last commands once more, as somebody does who has not heard."""
        if self.asked:
            self.ask(*self.rng.choice(self.asked[-10:]))

    # --- submitting -----------------------------------------------------------------------------

    def submit(self, message: m.Submit) -> None:
        """Submit, under a number of its own, and say it again until there is an answer."""
        self._n += 1
        message = message._replace(n=self._n)
        self.submitted[self._n] = message.id
        truth = self.world.truth
        truth.note(f"{self.name} submits {truth.name(message.id)} as {self._n}")
        self.pending[self._n] = message
        if message.flags & m.WATCH:
            self.watching.add(message.id)
        self.post(message)

    def _accepted(self, n: int) -> None:
        if self.pending.pop(n, None) is not None:
            self.accepted.add(self.submitted[n])
            self.world.truth.jobs[self.submitted[n]].is_accepted = True

    def _declined(self, declined: m.Declined) -> None:
        message = self.pending.pop(declined.n, None)
        if message is None:
            return
        truth = self.world.truth
        truth.note(
            f"{self.name} is declined {truth.name(message.id)} ({declined.n}): {declined.code}"
        )
        truth.count(f"declined {declined.code}")
        known = truth.jobs[message.id]
        if declined.code == "uncertain":
            known.may_be_stored = True
        if message.id in self.accepted and message.id in self.watching:
            self.post(m.Watch([message.id]))
        elif all(other.id != message.id for other in self.pending.values()):
            self.watching.discard(message.id)

    def _met(self, answer: m.Existing) -> None:
        message = self.pending.pop(answer.n, None)
        if message is None:
            return
        truth = self.world.truth
        truth.note(f"{self.name} meets {truth.name(answer.id)} with {truth.name(message.id)}")
        self.world.twins.met(message, answer)
        if all(other.id != message.id for other in self.pending.values()):
            self.watching.discard(message.id)
        if message.flags & m.WATCH and not answer.is_refused:
            self.watching.add(answer.id)

    # --- cancelling -----------------------------------------------------------------------------

    def cancel(self, ids: list[bytes]) -> None:
        """Ask for jobs to be cancelled."""
        if not self.is_connected:
            return
        jobs = [self.world.truth.jobs[job_id] for job_id in ids]
        for known in jobs:
            known.is_cancelled = True
            self.world.truth.note(f"{self.name} cancels #{known.number}")
        self._n += 1
        self._cancels[self._n] = (ids, [known.is_accepted for known in jobs])
        self.post(m.Cancel(self._n, ids, "changed my mind"))

    def _cancelled(self, answer: m.Answer) -> None:
        truth = self.world.truth
        ids, were_accepted = self._cancels.pop(answer.ref)
        for job_id, was_accepted, state in zip(ids, were_accepted, answer.body, strict=True):
            truth.note(f"{self.name} is told that {truth.name(job_id)} is {state}")
            truth.count(f"cancelled: {state}")
            truth.check(state is not None or not was_accepted, "what is cancelled is known", job_id)
            if state is None:
                continue
            known = truth.jobs[job_id]
            truth.check(state >= JobState.CANCELLING, "what is cancelled waits no more", job_id)
            if state == JobState.CANCELLING or known.end is not None:
                known.must_not_begin = "it is cancelled"


class Client(Party):
    """Somebody who submits."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, Role.CLIENT)


class Worker(Party):
    """Somebody who runs attempts."""

    def __init__(
        self, world: World, name: str, tasks: list[str], queues: list[str], slots: int
    ) -> None:
        super().__init__(world, name, Role.WORKER)
        self.tasks = tasks
        self.queues = queues
        self.slots = slots
        self._began_at = trio.current_time()
        self._waits: dict[Token, m.Offer] = {}
        self.runs: dict[Token, trio.CancelScope] = {}
        self._offers: dict[Token, m.Offer] = {}
        self._unsettled: dict[int, Report] = {}
        self._named: set[Token] = set()

    @property
    def _reported_tokens(self) -> set[Token]:
        return {(r.seq, r.epoch, r.attempt) for r in self._unsettled.values()}

    def _facts(self) -> m.Facts:
        self._named = {*self._waits, *self.runs, *self._reported_tokens}
        return {
            "queues": self.queues,
            "held": [list(token) for token in sorted(self._named)],
            "age_s": trio.current_time() - self._began_at,
        }

    def _on_welcome(self, welcome: m.Welcome) -> Iterable[m.Message]:
        yield self._announcement()
        yield m.Capacity(self.slots, 0)
        held = {*self._waits, *self.runs, *self._reported_tokens}
        if let_go := sorted(self._named - held):
            yield m.HandBack([list(token) for token in let_go])
        yield from self._unsettled.values()
        yield from super()._on_welcome(welcome)

    def _announcement(self) -> m.Announce:
        return m.Announce([self.world.declarations[task] for task in self.tasks])

    def announce(self, tasks: list[str]) -> None:
        """Know other tasks from now on."""
        self.tasks = tasks
        self.post(self._announcement())

    def resize(self, slots: int) -> None:
        """Have so many slots from now on."""
        self.slots = slots
        self.post(m.Capacity(slots, 0))
        self._pump()

    def say_goodbye(self) -> None:
        """Leave, and say what has become of what runs."""
        for token in self.runs:
            self._report(token, JobState.LOST)
        super().say_goodbye()

    def hand_back(self) -> None:
        """Give back what has not begun."""
        tokens, self._waits = sorted(self._waits), {}
        if tokens:
            self.post(m.HandBack([list(token) for token in tokens]))

    def _handle(self, message: m.Message) -> None:
        if isinstance(message, m.Offer):
            token = (message.seq, message.epoch, message.attempt)
            self._offers[token] = self._waits[token] = message
            if message.task not in self.tasks:
                del self._waits[token]
                self.post(m.HandBack([list(token)]))
            elif self.rng.random() < 0.03 and not self.is_healthy:
                self.hand_back()
            self._pump()
        elif isinstance(message, m.Settled):
            for n in message.ns:
                self._unsettled.pop(n, None)
        elif isinstance(message, m.Stop):
            self._stop((message.seq, message.epoch, message.attempt))
        else:
            super()._handle(message)

    def _pump(self) -> None:
        while self._waits and len(self.runs) < self.slots and not self.is_leaving:
            token = min(self._waits, key=lambda t: (self._waits[t].priority, t[0]))
            offer = self._waits.pop(token)
            self.world.truth.begins(offer)
            self.runs[token] = trio.CancelScope()
            self.nursery.start_soon(self._run, token, offer)

    def _stop(self, token: Token) -> None:
        if token in self._waits:
            del self._waits[token]
            self._report(token, JobState.CANCELLED)
        elif token in self.runs:
            self.runs[token].cancel()

    async def _run(self, token: Token, offer: m.Offer) -> None:
        """A job's body: what it comes to is a matter of luck."""
        rng, odd = self.rng, not self.is_healthy
        with self.runs[token] as scope:
            if odd and rng.random() < 0.2:
                await trio.sleep(rng.uniform(0, 0.2))
                self.world.submit_one(self, parent=token)
            longest_s = rng.choice([0.0, 0.1, 1.0, 10.0]) if odd else 0.05
            await trio.sleep(rng.uniform(0.0, longest_s))
        if scope.cancelled_caught:
            await trio.sleep(rng.choice([0.0, 0.0, 0.5, 3.0]))
        del self.runs[token]
        luck = rng.random() if odd and not self.is_healthy else 0.0
        if scope.cancelled_caught and luck < 0.8:
            self._report(token, JobState.CANCELLED)
        elif luck < 0.6:
            self._report(token, JobState.SUCCEEDED)
        elif luck < 0.8:
            self._try_again(token, offer, is_counted=True)
        elif luck < 0.85:
            self._try_again(token, offer, is_counted=False)
        elif luck < 0.92:
            self._report(token, JobState.FAILED)
        elif luck < 0.96:
            self._report(token, JobState.LOST)
        else:
            self._report(token, JobState.SUCCEEDED)
            self.misreport()
        self._pump()

    def misreport(self) -> None:
        """Report an attempt of long ago, or one that never was."""
        if not self._offers:
            return
        seq, epoch, attempt = self.rng.choice(list(self._offers))
        if self.rng.random() < 0.5:
            seq, epoch, attempt = self.rng.choice(
                [(seq, epoch, attempt + 1), (seq + 1, epoch, attempt), (seq, epoch + 1, attempt)]
            )
        # What tells the attempts of one job apart is put to the test by one that it has again.
        before = [(s, e, a - 1) for s, e, a in (*self.runs, *self._waits) if a > 1]
        if before and self.rng.random() < 0.5:
            seq, epoch, attempt = self.rng.choice(before)
        token = (seq, epoch, attempt)
        if token in self._waits or token in self.runs:
            return  # to lie about what one has is no slip
        again = self._make(token, self.rng.choice([JobState.SUCCEEDED, JobState.FAILED]))
        self.post(again)

    def _make(self, token: Token, state: JobState) -> m.Finished:
        self._n += 1
        outcome = encode_value([*token, self.holder]) if state is JobState.SUCCEEDED else BUSY
        outcome = None if state in (JobState.CANCELLED, JobState.LOST) else outcome
        return m.Finished(self._n, *token, int(state), outcome, self.rng.choice([10, 10**6]))

    def _report(self, token: Token, state: JobState) -> None:
        self._keep(self._make(token, state))

    def _try_again(self, token: Token, offer: m.Offer, *, is_counted: bool) -> None:
        self._n += 1
        after_us = self.rng.choice([None, 0, 10**5, 5 * 10**6]) if is_counted else 10**5
        self.world.truth.jobs[offer.id].snoozes += not is_counted
        self._keep(m.TryAgain(self._n, *token, BUSY, 1000, after_us, is_counted))

    def _keep(self, report: Report) -> None:
        self._unsettled[report.n] = self.reported[report.n] = report
        self.post(*[report] * (2 if self.rng.random() < 0.1 else 1))


def frames_seen(party: Party, world: World) -> Any:
    """Return a hook that shows `Truth` every frame that the plane sends to *party*."""
    assembler = codec.Assembler()

    def see(frame: bytes) -> None:
        whole: list[m.Message] = []
        for message in codec.decode_frame(frame):
            if isinstance(message, m.Piece):
                put_together = assembler.add(message)
                whole += [] if put_together is None else [put_together]
            else:
                whole.append(message)
        world.truth.said(party, whole)
        for message in whole:
            if isinstance(message, m.Offer):
                world.check_limits(message)
            elif isinstance(message, m.Accepted):
                for n in message.ns:
                    said = world.truth.jobs[party.submitted[n]].submit
                    world.twins.told(said, said.id)
            elif isinstance(message, m.Existing) and not message.is_refused:
                said = world.truth.jobs[party.submitted[message.n]].submit
                world.twins.told(said, message.id)

    return see
