"""The dead: jobs that ended without a result are submitted again, or let be.

A job that is retried stays as it ended, and a new one is made of it: whoever waits for the old one
has its end already, and an id stands for one outcome for ever. The new id follows from the old one
and the arguments, so that a command that is sent again, or given twice, makes no second job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from creche.engine.asks import check_unique
from creche.engine.options import CANCELLED, are_keys, stored_options
from creche.engine.questions import BadQuestion, check_names
from creche.model.ids import ID_BYTES, id_following, id_to_text
from creche.model.job import Fate, JobState
from creche.model.maps import is_number
from creche.model.retry import MAX_DELAY_S
from creche.store.base import JobRecord, Verdict
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

MAX_IDS = 1000
"""Jobs that one command names."""

PIECE = 100
"""Jobs that are looked after in one step of the plane; other work goes on between."""

PIECE_BYTES = 4 * 1024 * 1024
"""How much of their arguments is read for one step; one larger than that is read alone."""

MIN_RATE, MAX_RATE = 0.001, 1_000_000.0
"""Jobs a second that are submitted again."""

_NOT_AGAIN = frozenset({CANCELLED, "delay_s", "due_at", "parent", "retry_of"})
"""What was said of the first submission alone: it waited for its time, its parent is gone, or it
was cancelled."""

_OF_ARGUMENTS = frozenset({"keys", "unique"})
"""What was made of the arguments of the first submission: it does not hold of others."""


class Again(NamedTuple):
    """How jobs are submitted again: with other arguments, or so many a second."""

    payload: bytes | None = None
    facts: Mapping[str, Any] = {}
    """What is said of these, by the names in `_OF_ARGUMENTS`."""
    rate: float | None = None
    after_s: float = 0.0
    """When the first of them is due, with a rate."""


class DeadJobs:
    """Looks after the dead, one command at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core
        # Between reading what a job is like and noting what becomes of it, nobody else decides.
        self._lock = trio.Lock()

    async def retry(self, params: m.Facts) -> dict[str, Any]:
        """Submit ended jobs again. Answers, when that is on disk, with what became of each."""
        check_names("retry", params, ("ids", "payload", "keys", "unique", "rate", "after_s"))
        ids = _ids(params)
        again = _again(params, ids, self._core.settings.payload_bytes)
        answers: list[dict[str, Any]] = []
        async with self._lock:
            while len(answers) < len(ids):
                made = sum("is_new" in answer and answer["is_new"] for answer in answers)
                records = await self._read(ids[len(answers) : len(answers) + PIECE])
                answers += await self._retry_some(records, again, made)
        return {"jobs": answers}

    async def discard(self, params: m.Facts) -> dict[str, Any]:
        """Take jobs out of the set of dead ones; they are kept as long as ended jobs are."""
        check_names("discard", params, ("ids",))
        ids = _ids(params)
        answers: list[str] = []
        async with self._lock:
            while len(answers) < len(ids):
                records = await self._read(ids[len(answers) : len(answers) + PIECE])
                answers += [self._discard(record) for _, record in records]
                self._core.journal.wake()
            await self._core.journal.wait_drained()
        return {"jobs": answers}

    # --- inside ---------------------------------------------------------------------------------

    async def _read(self, ids: Sequence[bytes]) -> list[tuple[bytes, JobRecord | None]]:
        """Return what the store has of the first of these jobs, as many as are not too large."""
        found: list[tuple[bytes, JobRecord | None]] = []
        size = 0
        for job_id in ids:
            record = await self._core.store.job(job_id)
            found.append((job_id, record))
            size += 0 if record is None else record.payload_bytes
            if size > PIECE_BYTES:
                break
        return found

    async def _retry_some(
        self, records: Sequence[tuple[bytes, JobRecord | None]], again: Again, made: int
    ) -> list[dict[str, Any]]:
        core = self._core
        answers: list[dict[str, Any]] = []
        new_ids: dict[int, bytes] = {}
        # No checkpoint until all of them are on their way.
        for job_id, record in records:
            answer, message = self._decide(job_id, record, again, made + len(new_ids))
            if message is not None and record is not None:
                verdict = Verdict(record.seq, Fate.RETRIED, core.now(), message.id)
                refusal = core.submissions.put(message, verdict)
                if refusal is not None:
                    answer = {"why": refusal[0]}
                else:
                    new_ids[len(answers)] = message.id
            answers.append(answer)
        if new_ids:
            core.journal.wake()
            await core.journal.wait_drained()
            # A store that had no room has declined them.
            there = await core.store.outcomes(list(new_ids.values()), max_bytes=0)
            for place, new_id in new_ids.items():
                if new_id not in there:
                    answers[place] = {"why": "store-full"}
        return answers

    def _decide(
        self, job_id: bytes, record: JobRecord | None, again: Again, place: int
    ) -> tuple[dict[str, Any], m.Submit | None]:
        """Return the answer for a job, and what to submit if it is to run again."""
        why = _why_not(record)
        if record is None or why is not None:
            return {"why": why}, None
        payload = record.payload if again.payload is None else again.payload
        if payload is None:  # it has ended, is not forgotten, and yet has none
            return {"why": "damaged"}, None
        new_id = id_following(job_id, payload)
        answer: dict[str, Any] = {"retried_as": id_to_text(new_id), "is_new": True}
        try:
            said = stored_options(record.options)
        except ValueError:
            return {"why": "damaged"}, None
        if record.retried_as == new_id:
            return {**answer, "is_new": False}, None
        if record.retried_as is not None:
            return {"why": "retried", "retried_as": id_to_text(record.retried_as)}, None
        return answer, m.Submit(
            n=0,
            id=new_id,
            task=record.task,
            queue=record.queue,
            priority=record.priority,
            payload=payload,
            flags=0,
            options=self._options(record, said, again, place),
        )

    def _options(self, record: JobRecord, said: m.Facts, again: Again, place: int) -> m.Facts:
        """Return what the new submission says: what the old one *said*, but for what was said of it
        alone, and a deadline that has passed."""
        left = _NOT_AGAIN if again.payload is None else _NOT_AGAIN | _OF_ARGUMENTS
        options = {name: value for name, value in said.items() if name not in left}
        limits = dict(options.get("limits") or {})
        if limits.get("deadline_at") is not None and limits["deadline_at"] <= self._core.now():
            del limits["deadline_at"]
            options["limits"] = limits
        options |= again.facts
        if again.rate is not None:
            options["delay_s"] = min(again.after_s + place / again.rate, MAX_DELAY_S)
        return {**options, "retry_of": record.id}

    def _discard(self, record: JobRecord | None) -> str:
        if record is None:
            return "unknown"
        if record.fate is Fate.DEAD:
            self._core.journal.judge(Verdict(record.seq, Fate.DISCARDED, self._core.now()))
        elif record.fate is not Fate.DISCARDED:
            return "forgotten" if record.state is JobState.FORGOTTEN else "not-dead"
        return "discarded"


def _why_not(record: JobRecord | None) -> str | None:
    """Return why a job cannot be submitted again, None if it can."""
    if record is None:
        return "unknown"
    if not record.state.has_ended:
        return "unfinished"
    if record.state is JobState.FORGOTTEN:
        return "forgotten"
    if record.damage is not None:
        return "damaged"
    return "succeeded" if record.state is JobState.SUCCEEDED else None


def _ids(params: m.Facts) -> list[bytes]:
    ids = params.get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= MAX_IDS:
        raise BadQuestion(f"ids is a list of 1 to {MAX_IDS:,} ids of jobs")
    if any(not isinstance(each, bytes) or len(each) != ID_BYTES for each in ids):
        raise BadQuestion("each of ids is the 16 bytes of a job's id")
    if len(set(ids)) < len(ids):
        raise BadQuestion("ids names a job twice")
    return ids


def _again(params: m.Facts, ids: Sequence[bytes], payload_bytes: int) -> Again:
    payload, rate = params.get("payload"), params.get("rate")
    after_s = params.get("after_s", 0.0)
    if payload is not None:
        if not isinstance(payload, bytes) or len(payload) > payload_bytes:
            raise BadQuestion(f"payload is the arguments, in {payload_bytes:,} bytes at the most")
        if len(ids) > 1:
            raise BadQuestion("payload gives one job other arguments: name one id with it")
    if rate is not None and not (is_number(rate) and MIN_RATE <= rate <= MAX_RATE):
        raise BadQuestion(f"rate is a number of jobs a second from {MIN_RATE:g} to {MAX_RATE:,.0f}")
    if not (is_number(after_s) and 0 <= after_s <= MAX_DELAY_S):
        raise BadQuestion(f"after_s is a number of seconds from 0 to {MAX_DELAY_S:,.0f}")
    keys = params.get("keys")
    if keys is not None and (payload is None or not are_keys(keys)):
        raise BadQuestion("keys are two texts, which tell the arguments of payload apart")
    problem = check_unique(params)
    if problem is not None:
        raise BadQuestion(problem)
    if params.get("unique") is not None and payload is None:
        raise BadQuestion("unique is what tells the arguments of payload apart")
    facts = {name: params[name] for name in _OF_ARGUMENTS if params.get(name) is not None}
    return Again(payload, facts, rate, after_s)
