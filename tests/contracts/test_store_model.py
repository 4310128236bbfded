"""The SQLite store answers as the memory store does, whatever is done to both.

`MemoryStore` is the plainest reading of the contract, so it serves as the model of the other. That
is used without its process, to which it makes no difference what is asked: `test_store` has that.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from creche.model.filter import Filter
from creche.model.job import Fate, JobState
from creche.store.base import (
    Batch,
    Change,
    End,
    LaneRow,
    NewJob,
    Recovery,
    Retention,
    ScheduleRow,
    Store,
    TryRow,
    Verdict,
)
from creche.store.memory import MemoryStore
from creche.store.sqlite_tools import verify
from creche.testing.simulate.disk import InlineSqliteStore
from creche.testing.store_rows import NOW, bounded, job_id

UNFINISHED = [state for state in JobState if not state.has_ended]
ENDED = [state for state in JobState if state.has_ended and state is not JobState.FORGOTTEN]
LEASED = {JobState.RUNNING, JobState.CANCELLING}
"""These are always held: a store may count on it."""
LANES = [1, 2, 3]
WORKERS = ["w1", "w2", None]

moments = st.integers(0, 50).map(lambda seconds: NOW + seconds / 4)
blobs = st.sampled_from([b"", b"x", b"y" * 30, b"z" * 1024, b"large" * 300])


@dataclass
class Plan:
    """What an engine would know: which jobs are unfinished, and what it may say next."""

    next_seq: int = 1
    ids: list[bytes] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)


def draw_batch(draw: Any, plan: Plan) -> Batch:
    batch = Batch()
    for _ in range(draw(st.integers(0, 6))):
        # Now and then an id again, of this batch or of long ago.
        again = plan.ids and draw(st.integers(0, 3)) == 0
        seq = plan.next_seq
        plan.next_seq += 1
        new_id = draw(st.sampled_from(plan.ids)) if again else job_id(seq)
        batch.jobs.append(
            NewJob(
                seq=seq,
                id=new_id,
                task=draw(st.sampled_from(["resize", "send"])),
                lane=draw(st.sampled_from(LANES)),
                state=(state := draw(st.sampled_from(UNFINISHED))),
                stored=state not in LEASED and draw(st.booleans()),
                payload=draw(blobs),
                options=draw(st.sampled_from([None, b"\xa0"])),
                submitted_at=draw(moments),
                due_at=draw(moments) if state is JobState.DELAYED else None,
                expires_at=draw(st.none() | moments),
            )
        )
        plan.ids.append(new_id)
    # A change or an end of a job that turns out a duplicate is part of what may come.
    for seq in sorted(plan.unfinished | {job.seq for job in batch.jobs}):
        move = draw(st.integers(0, 5))
        if move in (1, 2):
            batch.changes.append(
                Change(
                    seq=seq,
                    state=(state := draw(st.sampled_from(UNFINISHED))),
                    lane=draw(st.sampled_from(LANES)),
                    stored=state not in LEASED and draw(st.booleans()),
                    attempt=draw(st.integers(0, 2)),
                    losses=draw(st.integers(0, 1)),
                    epoch=1,
                    holder=draw(st.sampled_from(WORKERS)),
                    leased_at=draw(st.none() | st.just(NOW)),
                    failures=draw(st.integers(0, 2)),
                    due_at=draw(moments) if state is JobState.DELAYED else None,
                    expires_at=draw(st.none() | moments),
                )
            )
        elif move == 3:
            batch.ends.append(
                End(
                    seq=seq,
                    state=draw(st.sampled_from(ENDED)),
                    attempt=draw(st.integers(0, 2)),
                    losses=draw(st.integers(0, 1)),
                    holder=draw(st.sampled_from(WORKERS)),
                    started_at=draw(st.none() | moments),
                    ended_at=draw(moments),
                    outcome=draw(st.none() | blobs),
                    failures=draw(st.integers(0, 2)),
                )
            )
        if move >= 2 and draw(st.integers(0, 3)) == 0:
            batch.tries.append(
                TryRow(
                    seq=seq,
                    attempt=draw(st.integers(1, 3)),
                    state=draw(st.sampled_from([JobState.FAILED, JobState.LOST])),
                    holder=draw(st.sampled_from(WORKERS)),
                    started_at=draw(st.none() | moments),
                    ended_at=draw(moments),
                    outcome=draw(st.none() | blobs),
                )
            )
    for _ in range(draw(st.integers(0, 2))):
        fate = draw(st.sampled_from([Fate.RETRIED, Fate.DISCARDED]))
        retried_as = b"r" * 16 if fate is Fate.RETRIED else None
        seq = draw(st.integers(1, plan.next_seq))
        batch.verdicts.append(Verdict(seq, fate, NOW, retried_as))
    if draw(st.booleans()):
        park = draw(st.sampled_from(["", "paused"]))
        batch.lanes.append(LaneRow(draw(st.sampled_from(LANES)), "mail", 1, park))
    for name in draw(st.sets(st.sampled_from(["nightly", "hourly"]))):
        batch.schedules.append(ScheduleRow(name, draw(st.none() | blobs)))
    return batch


def draw_prune(draw: Any, plan: Plan) -> tuple[float, Retention, list[int]]:
    retention = Retention(
        max_count=draw(st.none() | st.integers(0, 5)),
        max_bytes=draw(st.none() | st.integers(0, 4000)),
        max_age_s=draw(st.none() | st.integers(0, 12).map(float)),
        tombstone_s=draw(st.sampled_from([0.0, 3.0])),
        dead_max_count=draw(st.none() | st.integers(0, 3)),
        dead_max_bytes=draw(st.none() | st.integers(0, 3000)),
        dead_max_age_s=draw(st.none() | st.integers(0, 12).map(float)),
    )
    keep = draw(st.lists(st.integers(1, max(1, plan.next_seq)), max_size=3))
    return draw(moments), retention, keep


async def both(stores: tuple[Store, Store], call: str, *args: Any, **kwargs: Any) -> Any:
    """Ask both stores the same; return the answer after checking that it is one."""
    model, real = [await getattr(store, call)(*args, **kwargs) for store in stores]
    assert real == model, f"{call}{args}{kwargs}"
    return model


async def look_at_all(stores: tuple[Store, Store], plan: Plan) -> None:
    await both(stores, "counts")
    await both(stores, "jobs", limit=100)
    page = Filter.parse("task:send")
    await both(stores, "jobs", page, limit=3, before_seq=plan.next_seq // 2)
    await both(stores, "jobs", Filter.parse("state:running queue:mail"))
    await both(stores, "jobs", Filter.parse("fate:dead -fate:retried"))
    await both(stores, "find", plan.ids)
    await both(stores, "outcomes", plan.ids)
    for lane in LANES:
        await both(stores, "read_lane", lane, 2, 5, 1500)
    await both(stores, "read_due", (NOW + 2, 3), NOW + 9, 5, 1500)
    await both(stores, "read_due", (0.0, 0), NOW + 99, 100, 10**6)
    expired = await both(stores, "expired", NOW + 6, 100)
    assert len(set(expired.ids)) == len(expired.ids)
    for one in plan.ids[-3:]:
        await both(stores, "job", one)


def as_sets(found: Recovery) -> tuple[Any, ...]:
    return (
        *(found.ledger, found.epoch, found.next_seq, found.ended, list(found.held)),
        *(sorted(found.lanes), sorted(found.stored), sorted(found.tasks)),
        *(sorted(found.delayed), found.next_due_at, found.next_expiry_at, list(found.schedules)),
    )


async def run_both(draw: Any, path: Path) -> None:
    plan = Plan()
    model, real = bounded(MemoryStore()), bounded(InlineSqliteStore(path))
    stores = (model, real)
    found = [as_sets(await store.open(NOW)) for store in stores]
    assert found[1] == found[0]
    try:
        for _ in range(draw(st.integers(1, 12))):
            step = draw(st.integers(0, 9))
            if step == 0:
                for store in stores:
                    await store.aclose()
                stores = (model, bounded(InlineSqliteStore(path)))
                found = [as_sets(await store.open(NOW)) for store in stores]
                assert found[1] == found[0]
            elif step <= 2:
                await both(stores, "prune", *draw_prune(draw, plan))
            else:
                batch = draw_batch(draw, plan)
                answers = [sorted(await store.commit(batch)) for store in stores]
                assert answers[1] == answers[0]
                refused = {duplicate.seq for duplicate in answers[0]}
                plan.unfinished |= {job.seq for job in batch.jobs} - refused
                plan.unfinished -= {end.seq for end in batch.ends}
            await look_at_all(stores, plan)
        assert verify(path) == []
    finally:
        for store in stores:
            await store.aclose()


@pytest.mark.slow
# Not shrunk: each try makes files, and shrinking would take minutes.
@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_the_sqlite_store_answers_as_the_memory_store(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(run_both, data.draw, Path(folder) / "creche.db")
