"""Who has which key, as far as the store does not know it yet.

A submission has its keys from the moment in which that is decided, whoever had them before, and
gives them back if it is not stored after all. What was decided since the store was asked, and may
not be on disk yet, is in memory until the store knows it: so two submissions with one key never
both find it free.

A job's keys are in the batch of that job, and those that a submission lends are in one of their
own, before which it is not answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from creche.model.job import JobState
from creche.model.unique import Holder
from creche.store.base import KeyHolder, KeyRow, OustRow

if TYPE_CHECKING:
    from creche.engine.core import Core


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


class Standing(NamedTuple):
    """The job that has a key, as far as is known here."""

    id: bytes
    seq: int
    holder: Holder
    waits_for: bytes | None
    """The submission that has to be on disk before anyone is told of it; None: it is."""


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


class Holders:
    """The keys of a plane whose submissions are on their way to the disk."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._newest: dict[bytes, Taking] = {}
        """Who has a key, by its name."""
        self.takings: dict[bytes, Taking] = {}
        """By the ids of their submissions."""
        self._is_asking = False
        self.is_out_of_date = False
        """Whether what the store is being asked may have changed in a way that is not known."""

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

    def standing(self, name: bytes, known: Known) -> Standing | None:
        """Return who has a key."""
        taking = self._newest.get(name)
        if taking is not None:
            state = self._state(taking.seq, taking.job_id, JobState.QUEUED, known)
            holder = Holder(state, taking.submitted_at, taking.since[name])
            waits_for = None if taking.is_committed else taking.id
            return Standing(taking.job_id, taking.seq, holder, waits_for)
        found = known.holders.get(name)
        if found is None:
            return None
        state = self._state(found.seq, found.id, found.state, known)
        return Standing(found.id, found.seq, Holder(state, found.submitted_at, found.since), None)

    def _state(self, seq: int, job_id: bytes, said: JobState, known: Known) -> JobState:
        """Return how a job stands: in memory, else as it left it, else as the store has *said*."""
        job = self._core.by_seq.get(seq) or self._core.by_id.get(job_id)
        if job is not None and job.seq == seq:
            return job.state
        return known.gone.get(seq, said)

    # --- taking over ----------------------------------------------------------------------------

    def take(self, taking: Taking) -> None:
        """A submission has its keys from now on."""
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
        those too that somebody has taken over who comes later, if at all. Whoever had a key before
        it and is not on the way yet comes too late for that one."""
        names = [name for name in taking.names if name not in taking.passed]
        for name in names:
            before = taking.before.get(name)
            while before is not None and before.told is None and name not in before.passed:
                before.passed.add(name)
                before = before.before.get(name)
        return [KeyRow(name, taking.seq, taking.since[name]) for name in names]

    def reserve(self, submission_id: bytes, standing: Standing, names: Sequence[bytes]) -> None:
        """A submission is one with a job, and lends it these keys when that is on disk."""
        taking = Taking(submission_id, standing.id, self._core.now())
        taking.seq = standing.seq
        taking.names = list(names)
        taking.since = dict.fromkeys(names, taking.submitted_at)
        taking.is_job = False
        self.take(taking)

    def lend(self, taking: Taking) -> None:
        """The job that a submission is one with is on disk: have its keys written, too."""
        if taking.told is None:
            taking.told = self._core.journal.lend(taking.id, self._key_rows(taking))

    def committed(self, taking: Taking) -> None:
        """What was said to the store of a submission's keys is on disk."""
        for name, before in taking.before.items():
            del before.after[name]
        taking.before.clear()
        taking.is_committed = True
        if not self._is_asking:
            self._drop(taking)

    def _drop(self, taking: Taking) -> None:
        """The store knows of it."""
        del self.takings[taking.id]
        for name in taking.names:
            if self._newest.get(name) is taking:
                del self._newest[name]

    # --- giving back ----------------------------------------------------------------------------

    def release(self, submission_id: bytes) -> None:
        """A submission was not stored, and will not be: who had its keys before has them."""
        taking = self.takings.get(submission_id)
        if taking is not None:
            for after in taking.after.values():
                after.ousts = [oust for oust in after.ousts if oust.id != submission_id]
            self.undo(submission_id)

    def undo(self, submission_id: bytes) -> None:
        """Who had the keys of a submission before has them, and replaces what it would have."""
        taking = self.takings.pop(submission_id, None)
        if taking is None:
            return
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
