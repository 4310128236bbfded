"""Unique jobs: which job has which key, and what becomes of a submission that meets one.

The store knows who has a key, and every submission that has one is looked up before it is decided,
behind those that its session made before. What was decided since the store was asked, and may not
be on disk yet, is in memory until the store knows it: so two submissions with one key never both
find it free. What is decided is a pure function (`creche.model.unique.decide`).

A job that another one replaces is cancelled when that one is on disk, and not before: a store that
has no room takes nothing away. Who is killed between the two does it at its next start."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from creche.engine.job import Job
from creche.engine.outcomes import make_cancelled
from creche.engine.sessions import Session
from creche.errors import RemoteProtocolError, StoreError, StoreUnavailable
from creche.model.flow import MAX_KEY_LENGTH
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.model.unique import (
    SAME_JOB,
    Decision,
    Holder,
    Rule,
    Verdict,
    decide,
    is_idempotency_key,
    key_name,
)
from creche.store.base import KeyHolder, KeyRow, Ousted
from creche.wire import messages as m
from creche.wire.payload import decode_call

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

MAX_LOOK_BYTES = 64 * 1024
"""Arguments beyond that are not looked into for a key that their submitter did not tell: they would
hold up everybody else."""


class BadKey(ValueError):
    """The key of a submission cannot be told; the sentence says why."""


class Ask(NamedTuple):
    """A key that a submission wants to have, by the name it has in the store, and the rule."""

    name: bytes
    rule: Rule


class Known(NamedTuple):
    """What the store said of keys, and how jobs stood that have left memory since it was asked."""

    holders: Mapping[bytes, KeyHolder]
    gone: Mapping[int, JobState]


NOTHING_KNOWN = Known({}, {})


class Oust(NamedTuple):
    """A job that is to be cancelled once another one is on disk: if it waits, or also if it runs.
    Its `seq` is 0 while it has none."""

    id: bytes
    seq: int
    is_running_too: bool


class _Standing(NamedTuple):
    """The job that has a key, as far as is known here."""

    id: bytes
    seq: int
    holder: Holder
    is_committed: bool


class _Follower(NamedTuple):
    """A submission that is one with a job that is not on disk yet, or is refused because of it."""

    session: Session
    message: m.Submit
    asks: Sequence[Ask]
    is_refused: bool


class Taking:
    """A submission that has keys, until the store knows of it."""

    __slots__ = (
        "before", "due_at", "is_committed", "job_id", "names", "ousts", "seq", "since",
        "submitted_at",
    )  # fmt: skip

    def __init__(self, job_id: bytes, submitted_at: float) -> None:
        self.job_id = job_id
        self.submitted_at = submitted_at
        self.seq = 0
        """Its job's, once there is one: it may have to wait for room before."""
        self.names: list[bytes] = []
        self.since: dict[bytes, float] = {}
        self.ousts: list[Oust] = []
        self.due_at: float | None = None
        self.before: dict[bytes, Taking] = {}
        """Who had the keys that it has, and is not on disk either."""
        self.is_committed = False

    def rows(self, seq: int) -> list[KeyRow]:
        """Return what the store is to know, as its job has *seq*."""
        self.seq = seq
        last = self.ousts[-1] if self.ousts and self.ousts[-1].seq else None
        ousted = (None, False) if last is None else (last.seq, last.is_running_too)
        return [KeyRow(name, seq, self.since[name], *ousted) for name in self.names]


class UniqueKeys:
    """The keys of a plane.

    Args:
        again: called with each submission that has waited for another one, which was not stored
            after all: it is to be decided anew.
    """

    def __init__(
        self, core: Core, again: Callable[[Session, m.Submit, Sequence[Ask]], None]
    ) -> None:
        self._core = core
        self._again = again
        self._rules: dict[str, Rule] = {}
        """By task, as announced."""
        self._newest: dict[bytes, Taking] = {}
        """Who has a key, by its name."""
        self.takings: dict[bytes, Taking] = {}
        """By the ids of their jobs."""
        self._followers: dict[bytes, list[_Follower]] = {}
        """By the id of that job."""
        self._is_asking = False
        self.is_out_of_date = False
        """Whether what the store is being asked may have changed in a way that is not known."""
        self._absent: deque[tuple[bytes, str, bool]] = deque()
        """What is to be cancelled and is not in memory: in the store, or ended by now."""
        self._is_ousting = False

    # --- what is said ---------------------------------------------------------------------------

    def announced(self, tasks: Iterable[str]) -> None:
        """Tasks were announced: other jobs of theirs may count as one."""
        for task in tasks:
            rule = self._core.catalog.unique(task)
            if rule is None:
                self._rules.pop(task, None)
            else:
                self._rules[task] = rule

    def concerns(self, message: m.Submit) -> bool:
        """Whether a submission may have keys."""
        options = message.options
        if options is not None and ("unique" in options or "idempotency_key" in options):
            return True
        return message.task in self._rules

    def asks(self, message: m.Submit) -> Sequence[Ask]:
        """Return which keys a submission wants to have.

        Raises:
            BadKey: what it says is none, or its task's key cannot be told from what it says.
        """
        options = message.options or {}
        problem = check_unique(options)
        if problem is not None:
            raise BadKey(problem)
        asks: list[Ask] = []
        given = options.get("idempotency_key")
        if given is not None:
            asks.append(Ask(key_name("idempotency", message.task, given), SAME_JOB))
        said = options.get("unique")
        if said is None:
            rule = self._rules.get(message.task)
            key = None if rule is None else _key_of(rule, message)
        elif said is False:
            rule = key = None
        else:
            rule, key = _told(said), said["key"]
        if rule is not None and key is not None:
            if rule.delay_s is not None and ("delay_s" in options or "due_at" in options):
                raise BadKey("its task says how long it waits (debounce): it cannot be delayed too")
            asks.append(Ask(key_name("unique", message.task, key), rule))
        return asks

    # --- asking the store -----------------------------------------------------------------------

    def begin_to_ask(self) -> None:
        """The store is asked from now on: what is committed meanwhile, it may not have told."""
        self._is_asking = True
        self.is_out_of_date = False

    def end_asking(self) -> None:
        """What the store has said was looked at: asked again, it knows of all that is committed."""
        self._is_asking = False
        for taking in [taking for taking in self.takings.values() if taking.is_committed]:
            self._drop(taking)

    # --- deciding -------------------------------------------------------------------------------

    def meets(self, session: Session, message: m.Submit, asks: Sequence[Ask], known: Known) -> bool:
        """Whether a submission is one with a job that is there: then it is answered, now or when
        that job is on disk. If not, it has its keys from now on. No checkpoint."""
        now = self._core.now()
        taking = Taking(message.id, now)
        for ask in asks:
            standing = self._standing(ask.name, known)
            holder = None if standing is None else standing.holder
            decision = decide(ask.rule, holder, now)
            if standing is not None and decision.verdict in (Verdict.EXISTING, Verdict.REJECTED):
                is_refused = decision.verdict is Verdict.REJECTED
                if standing.is_committed:
                    self._answer(session, message, standing.id, is_refused)
                else:
                    self._follow(standing.id, _Follower(session, message, asks, is_refused))
                return True
            if standing is not None and decision.verdict is Verdict.REPLACES:
                is_running_too = ask.rule.on_duplicate == "cancel"
                taking.ousts.append(Oust(standing.id, standing.seq, is_running_too))
            self._note(taking, ask, decision)
        self._take(taking)
        return False

    def take_over(self, message: m.Submit) -> None:
        """The plane itself submits a job, by a schedule or once more: it has its keys from now on,
        if it has any, whoever had them before."""
        if not self.concerns(message):
            return
        try:
            asks = self.asks(message)
        except BadKey:
            return  # it is run all the same
        if asks:
            now = self._core.now()
            taking = Taking(message.id, now)
            for ask in asks:
                self._note(taking, ask, Decision(Verdict.NEW, None, now))
            self._take(taking)

    def _note(self, taking: Taking, ask: Ask, decision: Decision) -> None:
        taking.names.append(ask.name)
        taking.since[ask.name] = decision.since
        if decision.due_at is not None:
            taking.due_at = decision.due_at

    def _take(self, taking: Taking) -> None:
        for name in taking.names:
            before = self._newest.get(name)
            if before is not None and not before.is_committed:
                taking.before[name] = before
            self._newest[name] = taking
        self.takings[taking.job_id] = taking

    def _standing(self, name: bytes, known: Known) -> _Standing | None:
        """Return who has a key."""
        taking = self._newest.get(name)
        if taking is not None:
            state = self._state(taking.seq, taking.job_id, JobState.QUEUED, known)
            holder = Holder(state, taking.submitted_at, taking.since[name])
            return _Standing(taking.job_id, taking.seq, holder, taking.is_committed)
        found = known.holders.get(name)
        if found is None:
            return None
        state = self._state(found.seq, found.id, found.state, known)
        return _Standing(found.id, found.seq, Holder(state, found.submitted_at, found.since), True)

    def _state(self, seq: int, job_id: bytes, said: JobState, known: Known) -> JobState:
        """Return how a job stands: in memory, else as it left it, else as the store has *said*."""
        job = self._core.by_seq.get(seq) or self._core.by_id.get(job_id)
        if job is not None and job.seq == seq:
            return job.state
        return known.gone.get(seq, said)

    def _answer(self, session: Session, message: m.Submit, job_id: bytes, is_refused: bool) -> None:
        session.post(m.Existing(message.n, job_id, is_refused))
        if message.flags & m.WATCH and not is_refused:
            self._core.outcomes.watch(session, (job_id,))

    # --- one that is not on disk yet ------------------------------------------------------------

    def _follow(self, job_id: bytes, follower: _Follower) -> None:
        session, message, _, _ = follower
        settings = self._core.settings
        if not session.claims.has_room(len(message.payload), settings):
            why = f"more than {settings.unaccepted:,} submissions wait already"
            session.post(m.Declined(message.n, "credit", why))
            return
        session.claims.add(len(message.payload))
        self._followers.setdefault(job_id, []).append(follower)

    def forget(self, session: Session) -> None:
        """The session is over, or submits again whatever was not answered."""
        for job_id, followers in list(self._followers.items()):
            kept = []
            for follower in followers:
                if follower.session is session:
                    session.claims.remove(len(follower.message.payload))
                else:
                    kept.append(follower)
            if kept:
                self._followers[job_id] = kept
            else:
                del self._followers[job_id]

    def committed(self, job: Job) -> None:
        """A job is on disk: who is one with it is told, and what it replaces is cancelled. No
        checkpoint."""
        taking = self.takings.get(job.id)
        if taking is not None:
            taking.before.clear()
            taking.is_committed = True
            if not self._is_asking:
                self._drop(taking)
            self._oust(taking)
        self._tell_followers(job.id)

    def _tell_followers(self, job_id: bytes) -> None:
        for session, message, _, is_refused in self._followers.pop(job_id, ()):
            session.claims.remove(len(message.payload))
            self._answer(session, message, job_id, is_refused)

    def was_there(self, job_id: bytes) -> None:
        """A submission has the id of a job that was there before, which has had its keys: who was
        one with it is one with that job."""
        taking = self.takings.pop(job_id, None)
        if taking is not None:
            self._undo(taking)
        self._tell_followers(job_id)

    def released(self, job_id: bytes) -> None:
        """A submission with keys was not stored, and will not be: who had them before has them."""
        taking = self.takings.pop(job_id, None)
        if taking is not None:
            self._undo(taking)
        for session, message, asks, _ in self._followers.pop(job_id, ()):
            session.claims.remove(len(message.payload))
            self._again(session, message, asks)

    def _undo(self, taking: Taking) -> None:
        self.is_out_of_date = True
        for name in taking.names:
            self._give_back(taking, name)

    def _give_back(self, taking: Taking, name: bytes) -> None:
        before = taking.before.get(name)
        after = self._newest.get(name)
        if after is taking:
            if before is None:
                del self._newest[name]
            else:
                self._newest[name] = before
            return
        while after is not None and after.before.get(name) is not taking:
            after = after.before.get(name)
        if after is not None:
            # What it would have replaced, its successor does.
            after.ousts[:0] = taking.ousts
            del after.before[name]
            if before is not None:
                after.before[name] = before

    def _drop(self, taking: Taking) -> None:
        """The store knows of it."""
        del self.takings[taking.job_id]
        for name in taking.names:
            if self._newest.get(name) is taking:
                del self._newest[name]

    # --- what is replaced -----------------------------------------------------------------------

    def restore(self, ousted: Sequence[Ousted]) -> None:
        """Learn what was to be cancelled when the last epoch ended."""
        self._absent += ((oust.id, "replaced", oust.oust_running) for oust in ousted)

    def begin(self) -> None:
        """Cancel that."""
        if self._absent and not self._is_ousting:
            self._is_ousting = True
            self._core.spawn(self._oust_absent)

    def _oust(self, taking: Taking) -> None:
        why = f"replaced by job {id_to_text(taking.job_id)}"
        for job_id, seq, is_running_too in taking.ousts:
            job = self._core.by_seq.get(seq)
            if job is None:
                self._absent.append((job_id, why, is_running_too))
                self.begin()
            elif job.state.is_waiting:
                self._core.end_waiting(job, JobState.CANCELLED, make_cancelled(why))
            elif job.state is JobState.RUNNING and is_running_too:
                self._core.leases.cancel(job, why)
        taking.ousts.clear()

    async def _oust_absent(self) -> None:
        try:
            while self._absent:
                job_id, why, is_running_too = self._absent.popleft()
                try:
                    await self._core.cancel_these([job_id], why, is_running_too)
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    text = id_to_text(job_id)
                    logger.warning("job %s was %s, and is not cancelled: %s", text, why, error)
        finally:
            self._is_ousting = False


def check_unique(options: m.Facts) -> str | None:
    """Return what is wrong with what a submission says of its keys; None if nothing is."""
    given, said = options.get("idempotency_key"), options.get("unique")
    if given is not None and not is_idempotency_key(given):
        return f"an idempotency key is a text of 1 to {MAX_KEY_LENGTH} printable characters"
    if said is None or said is False:
        return None
    key = said.get("key") if isinstance(said, dict) else None
    if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH or not key.isprintable():
        return f"unique has a key: a text of up to {MAX_KEY_LENGTH} printable characters"
    try:
        _told(said)
    except ValueError as error:
        return str(error)
    return None


def _told(said: m.Facts) -> Rule:
    return Rule.from_data({name: value for name, value in said.items() if name != "key"})


def _key_of(rule: Rule, message: m.Submit) -> str | None:
    """Return the key of a submission by name, None if its arguments are none."""
    if rule.needs_code:
        raise BadKey(
            f"task {message.task!r} computes its unique key in code, which a submission by name "
            "does not have: submit the task object, or let unique= name parameters"
        )
    if len(message.payload) > MAX_LOOK_BYTES:
        raise BadKey(
            f"task {message.task!r} is unique by its arguments, and a plane looks into no more "
            f"than {MAX_LOOK_BYTES:,} bytes of them: submit the task object"
        )
    try:
        args, kwargs = decode_call(message.payload)
    except RemoteProtocolError:
        return None  # its worker will say so
    try:
        return rule.key_of(args, kwargs)
    except ValueError as error:
        raise BadKey(f"task {message.task!r}: its unique key cannot be told: {error}") from None
