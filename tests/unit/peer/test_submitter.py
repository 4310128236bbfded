"""Moments that only a virtual clock can meet: an answer that comes as the time is up."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from tests.client.scripted_plane import ScriptedPlane, opened

from creche.errors import SubmissionRefused
from creche.peer.parent import Token, current_parent
from creche.wire import messages as m

pytestmark = pytest.mark.trio


@pytest.mark.parametrize("is_taken", [True, False])
async def test_an_answer_in_the_moment_of_the_deadline_counts(
    autojump_clock: Any, is_taken: bool
) -> None:
    """Trio runs what is due at one moment in any order: the answer may be taken in after the wait
    was cancelled and before the submitter has noticed."""
    ends = [await answered_at_the_deadline(is_taken) for _ in range(20)]
    assert ends == ["taken" if is_taken else "refused"] * 20


async def answered_at_the_deadline(is_taken: bool) -> str:
    """Submit, answer when the time is up to the moment, and return how it ended."""
    async with opened(ScriptedPlane(), timeout=1.0) as (client, plane):
        end = ""

        async def user() -> None:
            nonlocal end
            try:
                await client.delay("echo")
                end = "taken"
            except SubmissionRefused:
                end = "refused"

        async with trio.open_nursery() as nursery:
            begun_at = trio.current_time()
            nursery.start_soon(user)
            (n, *_) = await plane.hear(m.Submit)
            answer = m.Accepted([n]) if is_taken else m.Declined(n, "bad", "because")
            await trio.sleep_until(begun_at + 1.0)
            assert client._session is not None
            client._session.submitter.handle([answer])
        return end


class Attempt:
    """A running attempt that counts how often its slot is lent."""

    token: Token = (7, 2, 1)

    def __init__(self, plane: str) -> None:
        self.plane = plane
        self.lent = 0
        self.is_lent = False

    def waiting(self) -> Any:
        attempt = self

        class Lending:
            def __enter__(self) -> None:
                attempt.lent += 1
                attempt.is_lent = True

            def __exit__(self, *_: object) -> None:
                attempt.is_lent = False

        return Lending()


@pytest.mark.parametrize("plane_id", ["scripted", "another"])
async def test_inside_a_job_submissions_carry_its_token_and_waits_lend_its_slot(
    plane_id: str,
) -> None:
    attempt = Attempt(plane_id)
    is_ours = plane_id == "scripted"
    async with opened(ScriptedPlane()) as (client, plane):

        async def body() -> None:
            current_parent.set(attempt)
            handle = await client.delay("echo")
            assert attempt.lent == 0
            await handle.result()
            async for _ in client.as_completed(await client.submit_many("echo", [(1,), (2,)])):
                assert not attempt.is_lent, "the caller's own code holds the slot"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(body)
            submission = await plane.hear(m.Submit)
            assert submission.options == ({"parent": [7, 2, 1]} if is_ours else None)
            await plane.accept(submission)
            await plane.hear(m.Watch)
            assert attempt.is_lent == is_ours
            await plane.end(submission.id)
            await plane.hear(m.Received)
            more = await plane.hear_all(m.Submit, 2)
            await plane.accept(*more)
            for one in more:
                await trio.testing.wait_all_tasks_blocked()
                await plane.end(one.id)
                await plane.hear(m.Received)
    assert attempt.lent == (3 if is_ours else 0)
