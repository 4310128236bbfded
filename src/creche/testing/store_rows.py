"""What tests of stores are written with: jobs, changes and ends by default, and bounded calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, cast

import trio

from creche.model.job import JobState
from creche.store.base import Change, End, JobRow, NewJob, Pruned, Retention, Store, TryRow

CALL_S = 30.0
"""A call that takes longer (seconds) fails its test: far more than a busy machine needs."""

NOW = 1_800_000_000.0

KEEP_ALL = Retention(max_count=None, max_bytes=None, max_age_s=None)
KEEP_NONE = Retention(max_count=0, max_bytes=None, max_age_s=None, dead_max_count=0)

Connect: TypeAlias = Callable[[], Store]


def job_id(seq: int) -> bytes:
    """Return the id that `new_job` gives to job *seq*: a UUIDv7 of its moment."""
    return (int(NOW * 1000) + seq << 80 | 0x7000_8000000000000000 | seq).to_bytes(16, "big")


def new_job(seq: int, **fields: Any) -> NewJob:
    """Return a queued job, held in lane 1, with what else *fields* say."""
    usual: dict[str, Any] = {
        "id": job_id(seq),
        "task": "resize",
        "lane": 1,
        "state": JobState.QUEUED,
        "stored": False,
        "payload": b"payload of %d" % seq,
        "options": None,
        "submitted_at": NOW + seq,
        "due_at": NOW + 1000 if fields.get("state") is JobState.DELAYED else None,
    }
    return NewJob(seq=seq, **usual | fields)


def change(seq: int, **fields: Any) -> Change:
    """Return the lease of job *seq* to worker ``w1``, in lane 1, with what else *fields* say."""
    usual: dict[str, Any] = {
        "state": JobState.RUNNING,
        "lane": 1,
        "stored": False,
        "attempt": 1,
        "losses": 0,
        "epoch": 1,
        "holder": "w1",
        "leased_at": NOW + 100.5,
        "due_at": NOW + 1000 if fields.get("state") is JobState.DELAYED else None,
    }
    return Change(seq=seq, **usual | fields)


def end(seq: int, **fields: Any) -> End:
    """Return the success of job *seq* at worker ``w1``, with what else *fields* say."""
    usual: dict[str, Any] = {
        "state": JobState.SUCCEEDED,
        "attempt": 1,
        "losses": 0,
        "holder": "w1",
        "started_at": NOW + 100.5,
        "ended_at": NOW + 200 + seq,
        "outcome": b"outcome of %d" % seq,
    }
    return End(seq=seq, **usual | fields)


def made(seq: int, attempt: int, **fields: Any) -> TryRow:
    """Return a failed try at job *seq* by worker ``w1``, with what else *fields* say."""
    usual: dict[str, Any] = {
        "state": JobState.FAILED,
        "holder": "w1",
        "started_at": NOW + attempt,
        "ended_at": NOW + attempt + 0.5,
        "outcome": b"failure %d" % attempt,
    }
    return TryRow(seq=seq, attempt=attempt, **usual | fields)


def as_row(job: NewJob, now: Change | None = None) -> JobRow:
    """Return what a store gives back of unfinished *job*, as it came or as it is *now*."""
    stands = now or change(
        job.seq,
        state=job.state,
        lane=job.lane,
        attempt=0,
        epoch=0,
        holder=None,
        leased_at=None,
        due_at=job.due_at,
        expires_at=job.expires_at,
    )
    return JobRow(
        seq=job.seq,
        id=job.id,
        task=job.task,
        lane=stands.lane,
        state=stands.state,
        attempt=stands.attempt,
        losses=stands.losses,
        epoch=stands.epoch,
        holder=stands.holder,
        payload=job.payload,
        options=job.options,
        submitted_at=job.submitted_at,
        leased_at=stands.leased_at,
        failures=stands.failures,
        due_at=stands.due_at,
        expires_at=stands.expires_at,
    )


def as_head(job: NewJob, now: Change | None = None) -> JobRow:
    """Return what `find` gives back of it: the same without its payload."""
    return as_row(job, now)._replace(payload=b"")


def bounded(store: Store) -> Store:
    """Return *store*, each call of which fails after `CALL_S` instead of hanging."""

    class Bounded:
        def __getattr__(self, name: str) -> Any:
            found = getattr(store, name)
            if not inspect.iscoroutinefunction(found):
                return found

            @wraps(found)
            async def call(*args: Any, **kwargs: Any) -> Any:
                with trio.fail_after(CALL_S):
                    return await found(*args, **kwargs)

            return call

    return cast(Store, Bounded())


async def prune_all(store: Store, now: float, retention: Retention, keep: Any = ()) -> Pruned:
    """Prune until nothing is found any more; return the sums."""
    outcomes = tombstones = 0
    while any(pruned := await store.prune(now, retention, keep)):
        outcomes += pruned.outcomes
        tombstones += pruned.tombstones
    return Pruned(outcomes, tombstones)
