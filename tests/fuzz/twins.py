"""Unique jobs in a run of the fuzz: of those that have one key, as many as its rule allows."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.fuzz.truth import Known

from creche.model.job import JobState
from creche.model.unique import key_name
from creche.store.base import Batch, NewJob
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
        return self.kind == "unique" and self.text.rstrip("0123456789") in ONE


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


class Twins:
    """Looks at who has a key whenever a batch is on disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._holders: defaultdict[Key, list[bytes]] = defaultdict(list)
        """Every job that was ever stored with a key, in their order."""
        self._lent: dict[Key, bytes] = {}
        """Idempotency keys that jobs have because a submission was one with them, as was told."""
        self._disturbed: set[Key] = set()
        """Those that a job of the plane's own has taken: it asks nobody."""

    def draw(self, options: m.Facts, task: str) -> None:
        """Have a submission say keys, now and then."""
        rng = self._world.rng
        if task != DECLARATION["name"] and rng.random() < 0.2:
            word = rng.choice(list(RULES))
            options["unique"] = {"key": f"{word}{rng.randint(1, 3)}", **RULES[word]}
            if word == "quiet":
                options.pop("delay_s", None)
        if rng.random() < 0.1:
            options["idempotency_key"] = f"order {rng.randint(1, 5)}"

    def recognise(self, job: NewJob, batch: Batch) -> Known | None:
        """None of what the plane submits is of these."""
        return None

    def committed(self, batch: Batch) -> None:
        """A batch is on disk."""
        truth = self._world.truth
        touched: set[Key] = set()
        names = {row.name for row in batch.keys}
        for job in batch.jobs:
            known = truth.jobs[job.id]
            if truth.by_seq.get(job.seq) != job.id:
                continue  # its id was there before
            for key in keys_of(known.submit):
                if key.name not in names:
                    # Nobody had announced its task, or it is a retry with other arguments, or it
                    # is replaced by one that waits for room as it did.
                    is_told = known.submit.task != DECLARATION["name"] or key.kind != "unique"
                    waits_for_room = self._world.kind == "memory"
                    must = is_told and not known.is_by_plane and not waits_for_room
                    truth.check(not must, f"a job has the key that it says: {key}", job.id)
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
        holders.append(job_id)

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

    def left(self, core: Any) -> dict[str, object]:
        """Return what of keys is in memory that should not be."""
        unique = core.unique
        names = ("takings", "_newest", "_followers", "absent", "_revived")
        return {f"unique {name}": getattr(unique, name) for name in names}
