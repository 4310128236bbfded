"""Unique jobs: which job has which key, and what becomes of a submission that meets one.

The store knows who has a key, and every submission that has one is looked up before it is decided,
behind those that its session made before. What was decided since the store was asked, and may not
be on disk yet, is in memory until the store knows it: so two submissions with one key never both
find it free. What is decided is a pure function (`creche.model.unique.decide`).

A job that another one replaces is cancelled when that one is on disk, and not before: a store that
has no room takes nothing away. That it is to be is on disk with that one, until it has ended: who
is killed between the two does it at its next start."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from creche.engine.job import Job
from creche.engine.lane import READ_AGAIN_S
from creche.engine.outcomes import make_cancelled
from creche.engine.refusals import credit_refusal
from creche.engine.sessions import Session
from creche.errors import RemoteProtocolError, StoreError, StoreUnavailable
from creche.model.flow import MAX_KEY_LENGTH
from creche.model.ids import id_to_text
from creche.model.job import JobState
from creche.model.unique import (
    MAX_IDEMPOTENCY_KEY,
    SAME_JOB,
    Decision,
    Holder,
    Rule,
    Verdict,
    decide,
    is_idempotency_key,
    key_name,
)
from creche.store.base import KeyHolder, KeyRow, Ousted, OustRow
from creche.wire import messages as m
from creche.wire.payload import decode_call

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

MAX_LOOK_BYTES = 64 * 1024
"""Arguments beyond that are not looked into for a key that their submitter did not tell: they would
hold up everybody else."""

OUST_AT_A_TIME = 1000
"""Jobs that are looked up in the store together to be cancelled, as others have replaced them."""


_ITSELF = "this call is the running job that makes it, which would wait for itself: give it other \
arguments, or leave it to itself (delay)"


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
    Its `seq` is 0 if it had none then."""

    id: bytes
    seq: int
    is_running_too: bool


class _Standing(NamedTuple):
    """The job that has a key, as far as is known here."""

    id: bytes
    seq: int
    holder: Holder
    waits_for: bytes | None
    """The submission that has to be on disk before anyone is told of it; None: it is."""


class _Follower(NamedTuple):
    """A submission that is answered when another one is on disk, or its own keys are: it is one
    with a job, or is refused because of it."""

    session: Session
    message: m.Submit
    asks: Sequence[Ask]
    """All the keys that it wants to have."""
    is_refused: bool


class Taking:
    """A submission that has keys, until the store knows of it."""

    __slots__ = (
        "after", "before", "due_at", "id", "is_committed", "is_job", "job_id", "names", "ousts",
        "passed", "said", "seq", "since", "submitted_at", "told",
    )  # fmt: skip

    def __init__(self, submission_id: bytes, job_id: bytes, submitted_at: float) -> None:
        self.id = submission_id
        self.job_id = job_id
        """The same, or the id of the job that it is one with."""
        self.submitted_at = submitted_at
        self.seq = 0
        """Its job's, once there is one: it may have to wait for room before."""
        self.names: list[bytes] = []
        self.since: dict[bytes, float] = {}
        self.ousts: list[Oust] = []
        self.said: list[OustRow] = []
        """Where the store is told of these, once its job is on its way."""
        self.due_at: float | None = None
        self.before: dict[bytes, Taking] = {}
        """Who had the keys that it has, and is not on disk either."""
        self.after: dict[bytes, Taking] = {}
        """Who has taken them over from it: the other way round."""
        self.is_committed = False
        self.is_job = True
        """Whether it is a job of its own. If not, its keys are lent to the job that it is one with:
        nobody else has them from the moment in which that is decided."""
        self.told: list[KeyRow] | None = None
        """Where the store is told of its keys: in the batch of its job, or of what it lends. None:
        it is not on its way to the disk yet."""
        self.passed: set[bytes] = set()
        """Keys that somebody has taken over from it who was on the way to the disk before: of these
        the store is not told, unless that one finds no room there."""

    def oust_rows(self, ousts: Iterable[Oust]) -> list[OustRow]:
        """Return what the store is to know of jobs that it replaces."""
        return [OustRow(oust.id, self.seq, oust.is_running_too) for oust in ousts]


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
        """By the ids of their submissions."""
        self._followers: dict[bytes, list[_Follower]] = {}
        """By the id of the submission that they wait for: another's, or their own."""
        self._is_asking = False
        self.is_out_of_date = False
        """Whether what the store is being asked may have changed in a way that is not known."""
        self.absent: dict[bytes, tuple[str, bool]] = {}
        """What is to be cancelled and is not in memory: in the store, or ended by now. Why, and
        whether also if it runs."""
        self._revived: list[Job] = []
        """Those of them that have been read back meanwhile."""
        self._is_ousting = False
        self._has_more_to_oust = trio.Event()

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
            if rule.delay_s is not None:
                self._check_delay(rule.delay_s, message)
            asks.append(Ask(key_name("unique", message.task, key), rule))
        return asks

    def _check_delay(self, delay_s: float, message: m.Submit) -> None:
        options = message.options or {}
        if "delay_s" in options or "due_at" in options:
            raise BadKey("its task says how long it waits (debounce): it cannot be delayed too")
        limits = options.get("limits") or {}
        deadline_at = limits.get("deadline_at")
        if deadline_at is not None and deadline_at <= self._core.now() + delay_s:
            raise BadKey(
                f"it waits for {delay_s:g} s (debounce), and its deadline is before that: it could "
                "never run"
            )
        expires_s = limits.get("expires_s") or self._core.catalog.defaults(message.task).expires_s
        if expires_s is not None and expires_s <= delay_s:
            raise BadKey(
                f"it waits for {delay_s:g} s (debounce), and would expire after {expires_s:g} s: "
                "it could never run"
            )

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
        taking = Taking(message.id, message.id, now)
        for ask in asks:
            standing = self._standing(ask.name, known)
            holder = None if standing is None else standing.holder
            decision = decide(ask.rule, holder, now)
            if standing is not None and decision.verdict in (Verdict.EXISTING, Verdict.REJECTED):
                is_refused = decision.verdict is Verdict.REJECTED
                if not is_refused and self._would_wait_for_itself(message, standing.seq):
                    session.post(m.Declined(message.n, "itself", _ITSELF))
                    return True
                follower = _Follower(session, message, asks, is_refused)
                self._be_one(follower, standing, () if is_refused else taking.names)
                return True
            if standing is not None and decision.verdict is Verdict.REPLACES:
                is_running_too = ask.rule.on_duplicate == "cancel"
                taking.ousts.append(Oust(standing.id, standing.seq, is_running_too))
            self._note(taking, ask, decision)
        self._take(taking)
        return False

    def refusal(self, task: str) -> tuple[str, str] | None:
        """Return why a schedule's jobs of *task* cannot be one with others, None if they can."""
        rule = self._rules.get(task)
        if rule is None or not rule.needs_code:
            return None
        return "bad-key", (
            f"task {task!r} computes its unique key in code, which the plane does not have when it "
            "submits by a schedule: let unique= name parameters"
        )

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
            taking = Taking(message.id, message.id, now)
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
                before.after[name] = taking
            self._newest[name] = taking
        self.takings[taking.id] = taking

    def arrives(self, taking: Taking, seq: int) -> None:
        """The job of a submission with keys is on its way to the disk, with *seq*: have the store
        told of these in its batch, and of whom it replaces."""
        taking.seq = seq
        taking.said = self._core.journal.oust(taking.oust_rows(taking.ousts))
        taking.told = self._core.journal.keys(self._key_rows(taking))

    def _key_rows(self, taking: Taking) -> list[KeyRow]:
        """Return what the store is to know of a submission's keys as it comes on its way there:
        those that others have taken over as well, but for those of whom it knows already. Whoever
        had a key before and is not on the way yet comes too late for it."""
        names = [name for name in taking.names if name not in taking.passed]
        for name in names:
            before = taking.before.get(name)
            while before is not None and before.told is None and name not in before.passed:
                before.passed.add(name)
                before = before.before.get(name)
        return [KeyRow(name, taking.seq, taking.since[name]) for name in names]

    def _standing(self, name: bytes, known: Known) -> _Standing | None:
        """Return who has a key."""
        taking = self._newest.get(name)
        if taking is not None:
            state = self._state(taking.seq, taking.job_id, JobState.QUEUED, known)
            holder = Holder(state, taking.submitted_at, taking.since[name])
            waits_for = None if taking.is_committed else taking.id
            return _Standing(taking.job_id, taking.seq, holder, waits_for)
        found = known.holders.get(name)
        if found is None:
            return None
        state = self._state(found.seq, found.id, found.state, known)
        return _Standing(found.id, found.seq, Holder(state, found.submitted_at, found.since), None)

    def _state(self, seq: int, job_id: bytes, said: JobState, known: Known) -> JobState:
        """Return how a job stands: in memory, else as it left it, else as the store has *said*."""
        job = self._core.by_seq.get(seq) or self._core.by_id.get(job_id)
        if job is not None and job.seq == seq:
            return job.state
        return known.gone.get(seq, said)

    def _would_wait_for_itself(self, message: m.Submit, seq: int) -> bool:
        """Whether a running job asks for a result that depends on its own: what it submits is one
        with itself, or with a job around it."""
        if not (message.is_nested and message.flags & m.WATCH):
            return False
        around: int | None = (message.options or {})["parent"][0]
        while around is not None and around != seq:
            job = self._core.by_seq.get(around)
            around = None if job is None else job.parent
        return around == seq

    # --- one with another -----------------------------------------------------------------------

    def _be_one(self, follower: _Follower, standing: _Standing, names: Sequence[bytes]) -> None:
        """Answer a submission that meets a job: now, or when that is on disk. What else tells the
        submission apart (*names*: keys that nobody has) tells that job apart from now on: an
        idempotency key is kept, whichever job it is one with."""
        if standing.waits_for is None and not names:
            self._answer(follower, standing.id)
            return
        message = follower.message
        if not self._has_room(follower):
            return
        if names and message.id not in self.takings:
            self._reserve(message.id, standing, names)
        if standing.waits_for is not None:
            self._followers.setdefault(standing.waits_for, []).append(follower)
            if not standing.seq and message.is_nested:
                # What a running job submits never waits for room, and so that one does not either.
                self._core.submissions.admit_now(standing.id)
        else:
            self._lend(follower)

    def _has_room(self, follower: _Follower) -> bool:
        """Count somebody who waits to be answered; if too much waits already, decline it."""
        session, message, *_ = follower
        settings = self._core.settings
        if not session.claims.has_room(len(message.payload), settings):
            session.post(m.Declined(message.n, *credit_refusal(settings)))
            return False
        session.claims.add(len(message.payload))
        return True

    def _reserve(self, submission_id: bytes, standing: _Standing, names: Sequence[bytes]) -> None:
        taking = Taking(submission_id, standing.id, self._core.now())
        taking.seq = standing.seq
        taking.names = list(names)
        taking.since = dict.fromkeys(names, taking.submitted_at)
        taking.is_job = False
        self._take(taking)

    def _lend(self, follower: _Follower) -> None:
        """The job that a submission is one with is on disk: have its keys written, too."""
        submission_id = follower.message.id
        taking = self.takings[submission_id]
        # Before those that are one with it because of these keys.
        self._followers.setdefault(submission_id, []).insert(0, follower)
        if taking.told is None:
            taking.told = self._core.journal.lend(submission_id, self._key_rows(taking))

    def _answer(self, follower: _Follower, job_id: bytes) -> None:
        """Tell somebody which job is there."""
        session, message, _, is_refused = follower
        session.post(m.Existing(message.n, job_id, is_refused))
        # Not before: who has not heard yet which job it is does not know its end.
        if message.flags & m.WATCH and not is_refused:
            self._core.outcomes.watch(session, (job_id,))

    def forget(self, session: Session) -> None:
        """The session is over, or submits again whatever was not answered."""
        self._drop_followers(lambda follower: follower.session is session)

    def withdraw(self, ids: Collection[bytes]) -> set[bytes]:
        """Decline the submissions of these ids that wait for another one to be stored, as somebody
        has cancelled them; return which were."""
        gone = self._drop_followers(lambda follower: follower.message.id in ids)
        for session, message, *_ in gone:
            session.decline(message.n, "cancelled", "it was cancelled while it was looked up")
        return {follower.message.id for follower in gone}

    def _drop_followers(self, is_meant: Callable[[_Follower], bool]) -> list[_Follower]:
        dropped: list[_Follower] = []
        for submission_id, followers in list(self._followers.items()):
            gone = [follower for follower in followers if is_meant(follower)]
            for session, message, *_ in gone:
                session.claims.remove(len(message.payload))
            dropped += gone
            if len(gone) == len(followers):
                del self._followers[submission_id]
            elif gone:
                self._followers[submission_id] = [f for f in followers if not is_meant(f)]
        for follower in dropped:
            reserved = self.takings.get(follower.message.id)
            if reserved is not None and not reserved.is_job and reserved.told is None:
                # Whoever has submitted the same is one with it by that key, and decided anew.
                self.released(reserved.id)
        return dropped

    def committed(self, job: Job) -> None:
        """A job is on disk: who is one with it is told, and what it replaces is cancelled. No
        checkpoint."""
        taking = self.takings.get(job.id)
        if taking is not None:
            self._is_known(taking)
            self._oust(taking)
        self._tell_followers(job.id, job.id, job.seq)

    def lent(self, submission_ids: Iterable[bytes]) -> None:
        """It is on disk that the keys of these submissions are those of other jobs."""
        for submission_id in submission_ids:
            taking = self.takings.get(submission_id)
            if taking is not None:
                self._is_known(taking)
                self._tell_followers(submission_id, taking.job_id, taking.seq)

    def _is_known(self, taking: Taking) -> None:
        """What was said to the store of a submission's keys is on disk."""
        for name, before in taking.before.items():
            del before.after[name]
        taking.before.clear()
        taking.is_committed = True
        if not self._is_asking:
            self._drop(taking)

    def _tell_followers(self, submission_id: bytes, job_id: bytes, seq: int) -> None:
        """A submission is on disk, as the job *job_id*: so are those that are one with it, but for
        those that have keys of their own, which are to be there first."""
        for follower in self._followers.pop(submission_id, ()):
            own = follower.message.id
            lent = None if own == submission_id else self.takings.get(own)
            if lent is not None and not (lent.is_job or follower.is_refused):
                lent.job_id, lent.seq = job_id, seq
                self._lend(follower)
            else:
                follower.session.claims.remove(len(follower.message.payload))
                self._answer(follower, job_id)

    def _decide_anew(self, follower: _Follower) -> None:
        follower.session.claims.remove(len(follower.message.payload))
        self._again(follower.session, follower.message, follower.asks)

    def unlent(self, submission_ids: Iterable[bytes]) -> None:
        """The disk had no room for the keys of these: what is lent is given up."""
        for submission_id in submission_ids:
            self.released(submission_id)

    def was_there(self, job_id: bytes, seq: int) -> None:
        """A submission has the id of a job that was there before with *seq*, and which has had its
        keys: who was one with it is one with that job."""
        taking = self.takings.pop(job_id, None)
        if taking is not None:
            self._undo(taking)
        self._tell_followers(job_id, job_id, seq)

    def released(self, submission_id: bytes) -> None:
        """A submission with keys was not stored, and will not be: who had them before has them, and
        who waited for it is decided anew."""
        released = deque([submission_id])
        while released:
            this_id = released.popleft()
            taking = self.takings.pop(this_id, None)
            if taking is not None:
                for after in taking.after.values():
                    after.ousts = [oust for oust in after.ousts if oust.id != this_id]
                self._undo(taking)
            for follower in self._followers.pop(this_id, ()):
                own = self.takings.get(follower.message.id)
                if own is not None and not own.is_job:
                    released.append(follower.message.id)
                self._decide_anew(follower)

    def _undo(self, taking: Taking) -> None:
        self.is_out_of_date = True
        for name in taking.names:
            self._give_back(taking, name)

    def _give_back(self, taking: Taking, name: bytes) -> None:
        before, after = taking.before.pop(name, None), taking.after.pop(name, None)
        if before is not None:
            del before.after[name]
            if self.takings.get(before.id) is not before:
                before = None  # the store knows of that one
        if taking.told is not None and name not in taking.passed:
            self._no_longer_pass(before, after, name)
        if after is None:
            if self._newest.get(name) is taking:
                del self._newest[name]
                if before is not None:
                    self._newest[name] = before
            return
        del after.before[name]
        if before is not None:
            after.before[name], before.after[name] = before, after
        # What it would have replaced, its successor does.
        after.ousts[:0] = taking.ousts
        after.said += after.oust_rows(taking.ousts)

    def _no_longer_pass(self, before: Taking | None, after: Taking | None, name: bytes) -> None:
        """Who was on the way to the disk between these two is not any more. If nobody is who took
        the key over since, the store is told of the last one before who is: its batch comes later,
        or is tried again."""
        if after is not None and (after.told is not None or name in after.passed):
            return
        while before is not None and name in before.passed:
            before.passed.remove(name)
            if before.told is not None:
                before.told.append(KeyRow(name, before.seq, before.since[name]))
                return
            before = before.before.get(name)

    def _drop(self, taking: Taking) -> None:
        """The store knows of it."""
        del self.takings[taking.id]
        for name in taking.names:
            if self._newest.get(name) is taking:
                del self._newest[name]

    # --- what is replaced -----------------------------------------------------------------------

    def restore(self, ousted: Sequence[Ousted]) -> None:
        """Learn what was to be cancelled when the last epoch ended."""
        self.absent |= {oust.id: ("replaced", oust.oust_running) for oust in ousted}

    def begin(self) -> None:
        """Cancel that."""
        if self.absent and not self._is_ousting:
            self._is_ousting = True
            self._core.spawn(self._oust_absent)
        self._has_more_to_oust.set()

    def _oust(self, taking: Taking) -> None:
        why = f"replaced by job {id_to_text(taking.job_id)}"
        for job_id, seq, is_running_too in taking.ousts:
            job = self._core.by_seq.get(seq)
            waits = None if job is not None else self.takings.get(job_id)
            if waits is not None:
                # What it would replace yet, who replaces it does.
                taking.ousts += waits.ousts
            if job is None:
                self.absent[job_id] = (why, is_running_too)
                self.begin()
            elif job.state.is_waiting:
                self._core.end_waiting(job, JobState.CANCELLED, make_cancelled(why))
            elif job.state is JobState.RUNNING and is_running_too:
                self._core.leases.cancel(job, why)
        taking.ousts.clear()

    def revived(self, job: Job) -> None:
        """A job was read back, while some are to be cancelled. `cancel_revived` is called before
        anything may take it from where it is then."""
        if job.id in self.absent:
            self._revived.append(job)

    def cancel_revived(self) -> None:
        """Cancel those that were read back. No checkpoint."""
        jobs, self._revived = self._revived, []
        for job in jobs:
            # What runs stays among the absent: it is stopped when there is somebody to be told.
            if job.state.is_waiting and job.id in self.absent:
                why, _ = self.absent.pop(job.id)
                self._core.end_waiting(job, JobState.CANCELLED, make_cancelled(why))
        if jobs:
            self._core.journal.wake()

    async def _oust_absent(self) -> None:
        """Cancel them piece by piece; other work goes on between. What the store cannot read is
        tried again now and then, and keeps none of the others."""
        unread: set[bytes] = set()
        try:
            while self.absent:
                left = (job_id for job_id in self.absent if job_id not in unread)
                some = list(islice(left, OUST_AT_A_TIME))
                if not some:
                    unread.clear()
                    continue
                failed = await self._oust_some(some)
                unread |= failed
                if len(failed) == len(some):
                    self._has_more_to_oust = trio.Event()
                    with trio.move_on_after(READ_AGAIN_S):
                        await self._has_more_to_oust.wait()
        finally:
            self._is_ousting = False

    async def _oust_some(self, ids: Sequence[bytes]) -> set[bytes]:
        """Cancel these; return which the store cannot read."""
        failed: set[bytes] = set()
        why: StoreError | None = None
        for is_running_too in (False, True):
            pieces = [[i for i in ids if i in self.absent and self.absent[i][1] is is_running_too]]
            while pieces:
                piece = pieces.pop()
                try:
                    await self._oust_piece(piece, is_running_too)
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    why = error
                    if len(piece) == 1:
                        failed.update(piece)
                    else:
                        pieces = [[job_id] for job_id in piece]
        if why is not None:
            logger.warning("%d jobs that were replaced are not cancelled yet: %s", len(failed), why)
        self._revived = [job for job in self._revived if job.id in self.absent]
        return failed

    async def _oust_piece(self, ids: Sequence[bytes], is_running_too: bool) -> None:
        whys = {job_id: self.absent[job_id][0] for job_id in ids if job_id in self.absent}
        if whys:
            await self._core.cancel_these(whys, is_running_too)
        for job_id in whys:
            self.absent.pop(job_id, None)


def check_unique(options: m.Facts) -> str | None:
    """Return what is wrong with what a submission says of its keys; None if nothing is."""
    given, said = options.get("idempotency_key"), options.get("unique")
    if given is not None and not is_idempotency_key(given):
        return f"an idempotency key is a text of 1 to {MAX_IDEMPOTENCY_KEY} printable characters"
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


_TOLD = ("states", "period_s", "on_duplicate", "delay_s", "max_delay_s")
"""What a submission says beside its key."""


def _told(said: m.Facts) -> Rule:
    unknown = said.keys() - {"key", *_TOLD}
    if unknown:
        raise ValueError(f"unique has no {min(unknown)!r}: it has key, {', '.join(_TOLD)}")
    states = said.get("states")
    if states is not None and not isinstance(states, list):
        raise ValueError("states is a list of words")
    others = [said.get(name) for name in _TOLD[1:]]
    try:
        rule: Rule = _rule_of(None if states is None else tuple(states), *others)
        return rule
    except TypeError:  # something in it cannot be hashed, and so is no word and no number
        raise ValueError("unique is made of texts and numbers") from None


@lru_cache(maxsize=1000)
def _rule_of(states: tuple[str, ...] | None, *others: Any) -> Rule:
    """Return a rule: most submissions say one of a few."""
    values = (None if states is None else list(states), *others)
    told = zip(_TOLD, values, strict=True)
    return Rule.from_data({name: value for name, value in told if value is not None})


def _key_of(rule: Rule, message: m.Submit) -> str | None:
    """Return the key of a submission by name, None if it has none, or its arguments are none."""
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
