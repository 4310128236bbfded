"""Unique jobs: what becomes of a submission that has keys.

The store knows who has a key, and every submission that has one is looked up before it is decided,
behind those that its session made before. What is decided is a pure function
(`creche.model.unique.decide`). Who is one with a job is answered when that is on disk, and its own
keys are. Which keys it wants is told by `asks`, who has them until the store knows by `holders`,
and those whose place it takes are cancelled by `replaced`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from creche.engine.asks import Ask, Asks
from creche.engine.holders import Holders, Known, Oust, Standing, Taking
from creche.engine.job import Job
from creche.engine.refusals import credit_refusal
from creche.engine.replaced import Replaced
from creche.engine.sessions import Session
from creche.model.unique import Decision, Verdict, decide
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

_ITSELF = "this call is the running job that makes it, which would wait for itself: give it other \
arguments, or leave it to itself (delay)"


class _Follower(NamedTuple):
    """A submission that is answered when another one is on disk, or its own keys are: it is one
    with a job, or is refused because of it."""

    session: Session
    message: m.Submit
    asks: Sequence[Ask]
    """All the keys that it wants to have."""
    is_refused: bool


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
        self.said = Asks(core)
        self.holders = Holders(core)
        self.takings = self.holders.takings
        """Those of `holders`: empty as long as nobody has keys."""
        self.replaced = Replaced(core, self.takings)
        self._followers: dict[bytes, list[_Follower]] = {}
        """By the id of the submission that they wait for: another's, or their own."""

    # --- deciding -------------------------------------------------------------------------------

    def meets(self, session: Session, message: m.Submit, asks: Sequence[Ask], known: Known) -> bool:
        """Whether a submission is one with a job that is there: then it is answered, now or when
        that job is on disk. If not, it has its keys from now on. No checkpoint."""
        now = self._core.now()
        taking = Taking(message.id, message.id, now)
        for ask in asks:
            standing = self.holders.standing(ask.name, known)
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
        self.holders.take(taking)
        return False

    def take_over(self, message: m.Submit) -> None:
        """The plane itself submits a job, by a schedule or once more: it has its keys from now on,
        if it has any, whoever had them before."""
        if not self.said.concerns(message):
            return
        asks = self.said.of_the_planes_own(message)
        if asks:
            now = self._core.now()
            taking = Taking(message.id, message.id, now)
            for ask in asks:
                self._note(taking, ask, Decision(Verdict.NEW, None, now))
            self.holders.take(taking)

    def _note(self, taking: Taking, ask: Ask, decision: Decision) -> None:
        taking.names.append(ask.name)
        taking.since[ask.name] = decision.since
        if decision.due_at is not None:
            taking.due_at = decision.due_at

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

    def _be_one(self, follower: _Follower, standing: Standing, names: Sequence[bytes]) -> None:
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
            self.holders.reserve(message.id, standing, names)
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

    def _lend(self, follower: _Follower) -> None:
        """The job that a submission is one with is on disk: have its keys written, too."""
        submission_id = follower.message.id
        taking = self.takings[submission_id]
        # Before those that are one with it because of these keys.
        self._followers.setdefault(submission_id, []).insert(0, follower)
        self.holders.lend(taking)

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
            self.holders.committed(taking)
            self.replaced.oust(taking.job_id, taking.ousts)
        self._tell_followers(job.id, job.id, job.seq)

    def lent(self, submission_ids: Iterable[bytes]) -> None:
        """It is on disk that the keys of these submissions are those of other jobs."""
        for submission_id in submission_ids:
            taking = self.takings.get(submission_id)
            if taking is not None:
                self.holders.committed(taking)
                self._tell_followers(submission_id, taking.job_id, taking.seq)

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
        self.holders.undo(job_id)
        self._tell_followers(job_id, job_id, seq)

    def released(self, submission_id: bytes) -> None:
        """A submission with keys was not stored, and will not be: who had them before has them, and
        who waited for it is decided anew."""
        released = deque([submission_id])
        while released:
            this_id = released.popleft()
            self.holders.release(this_id)
            for follower in self._followers.pop(this_id, ()):
                own = self.takings.get(follower.message.id)
                if own is not None and not own.is_job:
                    released.append(follower.message.id)
                self._decide_anew(follower)
