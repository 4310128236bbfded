"""The disk of a simulation: what is left of a write when the power fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from creche.errors import StoreFull, StoreUnavailable
from creche.model.job import JobState
from creche.store.base import Batch, LaneRow, NewJob
from creche.testing.simulate.disk import Disk, tear


@pytest.mark.parametrize(
    ("before", "after", "written", "left"),
    [
        (b"abc", b"abcdef", 0.0, b"abc"),
        (b"abc", b"abcdef", 1.0, b"abcdef"),
        (b"abc", b"abcdef", 0.5, b"abcde"),
        (b"abcdef", b"abXYZf", 0.0, b"abcdef"),
        (b"abcdef", b"abXYZf", 0.5, b"abXYef"),
        (b"abcdef", b"abXYZf", 1.0, b"abXYZf"),
        (b"", b"abcd", 0.25, b"a"),
        (b"same", b"same", 0.5, b"same"),
    ],
)
def test_a_torn_file_has_the_first_of_what_is_new(
    before: bytes, after: bytes, written: float, left: bytes
) -> None:
    assert tear(before, after, written) == left


def job(seq: int) -> Batch:
    new = NewJob(
        seq, bytes([seq]) * 16, "echo", 1, JobState.QUEUED, False, b"\x80", None, 1.0, None, None
    )
    return Batch(lanes=[LaneRow(1, "default", 2, "")], jobs=[new])


@pytest.mark.trio
@pytest.mark.parametrize("written", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("is_on_file", [True, False])
async def test_after_a_power_failure_what_was_answered_is_there_and_the_last_write_whole_or_not(
    autojump_clock: Any, tmp_path: Path, written: float, is_on_file: bool
) -> None:
    disk = Disk(tmp_path if is_on_file else None, "seed")
    failed = trio.Event()
    disk.on_power_failure = failed.set
    store = disk.make_store()
    await store.open(1.0)
    for seq in range(1, 20):
        await store.commit(job(seq))
    disk.tear = written
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.commit, job(20))
        await failed.wait()
        nursery.cancel_scope.cancel()
    again = disk.make_store()
    await again.open(2.0)
    known = await again.find([bytes([seq]) * 16 for seq in range(1, 21)])
    assert set(known) >= {bytes([seq]) * 16 for seq in range(1, 20)}
    if written in (0.0, 1.0):
        assert len(known) == 19 + int(written)
    await again.aclose()
    await store.aclose()


@pytest.mark.trio
async def test_a_full_disk_takes_nothing_and_a_store_that_dies_answers_nothing(
    autojump_clock: Any, tmp_path: Path
) -> None:
    disk = Disk(tmp_path, "seed")
    seen: list[str] = []
    disk.on_store_gone = lambda: seen.append("gone")
    disk.on_store_back = lambda: seen.append("back")
    store = disk.make_store()
    await store.open(1.0)
    disk.is_full = True
    with pytest.raises(StoreFull):
        await store.commit(job(1))
    disk.heal()
    disk.loss = "after"
    with pytest.raises(StoreUnavailable):
        await store.commit(job(1))
    with pytest.raises(StoreUnavailable):
        await store.commit(job(2))
    await store.aclose()
    again = disk.make_store()
    await again.open(2.0)
    assert len(await again.find([bytes([1]) * 16, bytes([2]) * 16])) == 1
    assert seen == ["back", "gone", "back"]
    await again.aclose()
