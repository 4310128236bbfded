"""Unique jobs in a run of the fuzz: of those that have one key, as many as its rule allows."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.fuzz.truth import Known

from creche.model.job import JobState
from creche.model.unique import key_name
from creche.store.base import Batch, Change, NewJob, Recovery
from creche.wire import messages as m
from creche.wire.payload import decode_call

if TYPE_CHECKING:
    from tests.fuzz.world import World

RULES: dict[str, m.Facts] = {
    "one": {"on_duplicate": "existing"},
    "only": {"on_duplicate": "reject"},
    "last": {"on_duplicate": "replace"},
    "now": {"on_duplicate": "cancel"},
    "quiet": {
        "on_duplicate": "replace", "states": ["waiting"], "delay_s": 0.5, "max_delay_s": 3.0,
    },
}  # fmt: skip
"""By the beginning of the key."""

ONE = ("one", "only", "k='a'", "k='b'", "k='c'")
"""What keys begin with of which one job waits or runs."""

REPLACING = ("last", "now", "quiet")
"""What keys begin with of which a job takes the place of one that waits."""

REPLACED = "it is replaced"

DECLARATION: m.Facts = {
    "name": "single",
    "unique": {"by": [{"parameter": "k", "position": 2, "path": [], "default": None}]},
}
"""A task whose submissions do not say their key: the plane makes it."""


class Key(NamedTuple):
    """What tells jobs apart."""

    kind: str
    task: str
    text: str

    @property
    def name(self) -> bytes:
        """What it is called in a store."""
        kind: Any = self.kind
        return key_name(kind, self.task, self.text)

    @property
    def is_held_once(self) -> bool:
        """Whether of those that have it one waits or runs."""
        return self.kind == "unique" and self.word in ONE

    @property
    def is_taken_over(self) -> bool:
        """Whether who has it next is to replace who has it, if that one waits."""
        return self.kind == "unique" and self.word in REPLACING

    @property
    def word(self) -> str:
        """What it begins with."""
        return self.text.rstrip("0123456789")


def keys_of(message: m.Submit) -> list[Key]:
    """Return the keys that a submission wants to have."""
    options = message.options or {}
    keys = []
    if "idempotency_key" in options:
        keys.append(Key("idempotency", message.task, options["idempotency_key"]))
    if "unique" in options:
        keys.append(Key("unique", message.task, options["unique"]["key"]))
    elif message.task == DECLARATION["name"]:
        keys.append(Key("unique", message.task, f"k={decode_call(message.payload)[0][2]!r}"))
    return keys


class Seen(NamedTuple):
    """Who had a key when another submission was made, and its last attempt then; None: it did not
    wait."""

    holder: bytes | None
    attempt: int | None


class Twins:
    """Looks at who has a key whenever a batch is on disk, and at who is to have gone when a plane
    starts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._holders: defaultdict[Key, list[bytes]] = defaultdict(list)
        """Every job that was ever stored with a key, in their order."""
        self._lent: dict[Key, bytes] = {}
        """Idempotency keys that jobs have because a submission was one with them, as was told."""
        self._on_disk: defaultdict[bytes, set[bytes]] = defaultdict(set)
        """Every job that the store was told to have a key, by the key's name."""
        self._disturbed: set[Key] = set()
        """Those that a job of the plane's own has taken: it asks nobody."""
        self._seen: dict[bytes, Seen] = {}
        """By the ids of submissions that may replace somebody."""
        self._replaced: dict[bytes, int | None] = {}
        """Unfinished jobs that are to go, with the attempt that they had last; None: whatever they
        have begun since."""

    def draw(self, options: m.Facts, task: str, key: str | None = None) -> None:
        """Have a submission say keys, now and then, or *key*."""
        rng = self._world.rng
        if key is not None or (task != DECLARATION["name"] and rng.random() < 0.2):
            key = key or f"{rng.choice(list(RULES))}{rng.randint(1, 3)}"
            word = key.rstrip("0123456789")
            options["unique"] = {"key": key, **RULES[word]}
            if word == "quiet":
                options.pop("delay_s", None)
        if rng.random() < 0.1:
            options["idempotency_key"] = f"order {rng.randint(1, 5)}"

    def submitted(self, message: m.Submit) -> None:
        """Somebody is about to submit this for the first time."""
        for key in keys_of(message):
            if key.is_taken_over:
                holder = self._holders[key][-1] if self._holders[key] else None
                waits = self._stands(holder, is_running_too=False) if holder is not None else None
                self._seen[message.id] = Seen(holder, waits)

    def recognise(self, job: NewJob, batch: Batch) -> Known | None:
        """None of what the plane submits is of these."""
        return None

    def committed(self, batch: Batch) -> None:
        """A batch is on disk."""
        truth = self._world.truth
        self._let_go_on(batch)
        for row in batch.keys:
            if row.seq in truth.by_seq:  # else its id was there before
                self._on_disk[row.name].add(truth.by_seq[row.seq])
        touched: set[Key] = set()
        told = {(row.name, row.seq) for row in batch.keys}
        for job in batch.jobs:
            known = truth.jobs[job.id]
            if truth.by_seq.get(job.seq) != job.id:
                continue  # its id was there before
            for key in keys_of(known.submit):
                if (key.name, job.seq) not in told:
                    # Nobody had announced its task, or it is a retry with other arguments, or it
                    # is replaced by one that waits for room as it did.
                    is_told = known.submit.task != DECLARATION["name"] or key.kind != "unique"
                    waits_for_room = self._world.kind == "memory"
                    must = is_told and not known.is_by_plane and not waits_for_room
                    truth.check(not must, f"a job has the key that it says: {key}", job.id)
                    if waits_for_room and key.is_taken_over:
                        self._take(key, job.id, known)  # it has replaced, and is replaced itself
                        known.is_cancelled = True
                    continue
                self._take(key, job.id, known)
                touched.add(key)
        for key in touched - self._disturbed:
            self._look_at(key)

    def _take(self, key: Key, job_id: bytes, known: Known) -> None:
        truth, holders = self._world.truth, self._holders[key]
        if job_id in holders:
            return
        if known.is_by_plane:
            self._disturbed.add(key)
        if not key.is_held_once:
            for other in holders:
                truth.jobs[other].is_cancelled = True  # it may be, as this one takes its place
        if holders and key.is_taken_over and key not in self._disturbed:
            self._replaces(key, holders[-1], job_id)
        holders.append(job_id)

    # --- what is replaced -----------------------------------------------------------------------

    def _replaces(self, key: Key, old: bytes, new: bytes) -> None:
        """A job is on disk that has a key after another one: note that this one is to go, if it is
        plain that it stood so when that was decided, which was after *new* was submitted."""
        if self._world.kind == "memory":
            return  # what waits for room is decided before it is on its way
        is_running_too = key.word == "now"
        attempt = self._stands(old, is_running_too)
        seen = self._seen[new]
        if attempt is None:
            return
        if is_running_too:
            self._replaced[old] = None
        elif attempt == (seen.attempt if seen.holder == old else 0):
            self._replaced[old] = attempt

    def _stands(self, job_id: bytes, is_running_too: bool) -> int | None:
        """Return the last attempt of a job that waits, or runs as well, on disk and in the plane;
        None if it does not, or the two do not say the same."""
        standing = self._world.truth.standing_of(job_id)
        if standing is None:
            return None
        attempt = standing.attempt if isinstance(standing, Change) else 0
        core = self._world.core
        job = None if core is None else core.by_id.get(job_id)
        for state in (standing.state, standing.state if job is None else job.state):
            if not (state.is_waiting or (is_running_too and state is JobState.RUNNING)):
                return None
        return None if job is not None and job.attempt != attempt else attempt

    def _let_go_on(self, batch: Batch) -> None:
        """What began before it could be cancelled goes on."""
        truth = self._world.truth
        for change in batch.changes:
            job_id = truth.by_seq.get(change.seq, b"")
            attempt = self._replaced.get(job_id)
            if attempt is not None and change.attempt > attempt:
                del self._replaced[job_id]
                if truth.jobs[job_id].must_not_begin == REPLACED:
                    truth.jobs[job_id].must_not_begin = ""

    def opened(self, recovery: Recovery) -> None:
        """A plane starts: it cancels what the last one was to."""
        truth = self._world.truth
        for job_id in self._replaced:
            if truth.state_of(job_id) is not None:
                truth.count("to go at a start")
                truth.jobs[job_id].must_not_begin = REPLACED

    # --- what is seen ---------------------------------------------------------------------------

    def _look_at(self, key: Key) -> None:
        truth, holders = self._world.truth, self._holders[key]
        if key.kind == "idempotency":
            is_one = len(holders) == 1 and self._lent.get(key, holders[0]) == holders[0]
            truth.check(is_one, f"{key} is one job", holders[-1])
            return
        if key.is_held_once:
            out = [
                job_id
                for job_id in holders
                if truth.state_of(job_id) not in (None, JobState.CANCELLING)
            ]
            names = [truth.name(job_id) for job_id in out]
            truth.check(len(out) <= 1, f"one job has {key}, and not {names}", holders[-1])

    def met(self, submitted: m.Submit, answer: m.Existing) -> None:
        """Somebody is told that what was submitted is one with another job."""
        truth = self._world.truth
        other = truth.jobs[answer.id].submit
        lent = [key for key, job_id in self._lent.items() if job_id == answer.id]
        shared = {*keys_of(submitted)} & {*keys_of(other), *lent}
        if not answer.is_refused:
            for key in keys_of(submitted):
                if key.kind == "idempotency":
                    self._lent[key] = answer.id
        truth.count("refused as twins" if answer.is_refused else "twins")
        truth.check(answer.id in truth.stored, "what is there is on disk", answer.id)
        truth.check(bool(shared), "jobs are one by a key that both have", submitted.id)
        may_refuse = any(key.text.startswith("only") for key in shared)
        truth.check(may_refuse or not answer.is_refused, "only some are refused", submitted.id)

    def told(self, submitted: m.Submit, job_id: bytes) -> None:
        """Somebody is told that what was submitted is on disk, as job *job_id*: so are its keys,
        unless others have taken them over."""
        for key in keys_of(submitted):
            is_its_own = submitted.id == job_id
            if key.kind == "unique" and (submitted.task == DECLARATION["name"] or not is_its_own):
                continue  # nobody had announced its task, or it is one by the other key
            has_it = self._on_disk[key.name]
            was_taken_over = key in self._disturbed or (
                self._world.kind == "memory" and key.is_taken_over and bool(has_it)
            )
            promise = f"who is answered has the key on disk: {key}"
            self._world.truth.check(job_id in has_it or was_taken_over, promise, job_id)

    def left(self, core: Any) -> dict[str, object]:
        """Return what of keys is in memory that should not be."""
        unique = core.unique
        return {
            "unique takings": unique.holders.takings,
            "unique _newest": unique.holders._newest,
            "unique _followers": unique._followers,
            "unique absent": unique.replaced.absent,
            "unique _revived": unique.replaced._revived,
        }
