"""Cancels of many callers at the same moment are one question."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from creche.errors import CrecheError, PlaneUnreachable
from creche.peer import cancels
from creche.peer.cancels import Cancels

pytestmark = pytest.mark.anyio


class Plane:
    """Notes what it is asked, and answers with the last byte of each id."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[bytes], str]] = []
        self.may_answer = anyio.Event()
        self.error: CrecheError | None = None

    async def ask(self, ids: list[bytes], reason: str) -> Sequence[int | None]:
        self.asked.append((list(ids), reason))
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [job_id[-1] for job_id in ids]


def ids(number: int) -> list[bytes]:
    return [bytes([n]) for n in range(number)]


async def cancel_all(plane: Plane, cancels: Cancels, reasons: Sequence[str]) -> list[object]:
    """Cancel one job for each reason, all at once; return what came of each."""
    found: list[object] = [None] * len(reasons)

    async def cancel(n: int, reason: str) -> None:
        try:
            found[n] = await cancels.cancel(bytes([n]), reason)
        except CrecheError as error:
            found[n] = error

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for n, reason in enumerate(reasons):
                tasks.start_soon(cancel, n, reason)
            await anyio.sleep(0.05)
            plane.may_answer.set()
    return found


async def test_those_of_one_moment_and_one_reason_are_one_question() -> None:
    plane = Plane()
    found = await cancel_all(plane, Cancels(plane.ask), ["enough"] * 50)
    assert found == list(range(50))
    ((asked, reason),) = plane.asked
    assert (sorted(asked), reason) == (ids(50), "enough")


async def test_each_reason_is_said_with_its_own() -> None:
    plane = Plane()
    found = await cancel_all(plane, Cancels(plane.ask), ["a", "b"] * 5)
    assert found == list(range(10))
    assert sorted(reason for _, reason in plane.asked) == ["a", "b"]


async def test_what_comes_later_is_asked_later() -> None:
    plane = Plane()
    plane.may_answer.set()
    gathered = Cancels(plane.ask)
    assert [await gathered.cancel(bytes([n]), "") for n in range(3)] == [0, 1, 2]
    assert len(plane.asked) == 3


async def test_a_refusal_is_told_to_all() -> None:
    plane = Plane()
    plane.error = PlaneUnreachable("ws://plane", "no answer")
    found = await cancel_all(plane, Cancels(plane.ask), [""] * 5)
    assert [type(one) for one in found] == [PlaneUnreachable] * 5
    assert len({id(one) for one in found}) == 5


async def test_one_question_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancels, "MOST", 10)
    plane = Plane()
    found = await cancel_all(plane, Cancels(plane.ask), [""] * 25)
    assert found == list(range(25))
    assert max(len(asked) for asked, _ in plane.asked) == 10


async def test_when_the_one_who_asks_is_cancelled_the_others_ask_again() -> None:
    plane = Plane()
    gathered = Cancels(plane.ask)
    found: list[int | None] = []

    async def cancel(n: int) -> None:
        found.append(await gathered.cancel(bytes([n]), ""))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as others:
            async with anyio.create_task_group() as first:
                first.start_soon(cancel, 0)
                await anyio.lowlevel.checkpoint()
                for n in (1, 2, 3):
                    others.start_soon(cancel, n)
                await anyio.sleep(0.05)
                first.cancel_scope.cancel()
            await anyio.sleep(0.05)
            plane.may_answer.set()
    assert sorted(n for n in found if n) == [1, 2, 3]
