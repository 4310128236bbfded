"""A session outlives its connections: what is said again, what is not, and who notices."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.client.scripted_plane import Connection, ScriptedPlane, ids, opened, together

from creche.errors import Refused, SubmissionUncertain
from creche.model.job import JobState
from creche.wire import messages as m
from creche.wire.payload import encode_value

pytestmark = pytest.mark.anyio


async def lose(plane: ScriptedPlane, connection: Connection) -> Connection:
    """Cut the connection and return the next one."""
    connection.cut()
    return await plane.connection()


async def test_the_session_is_the_same_on_every_connection() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (_client, first):
        second = await lose(plane, first)
        third = await lose(plane, second)
        hellos = [first.hello, second.hello, third.hello]
    assert len({(hello.session, hello.incarnation, hello.name) for hello in hellos}) == 1


async def test_a_submission_that_was_not_accepted_is_sent_again_with_the_same_id() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):

        async def host() -> None:
            sent = await first.hear(m.Submit)
            second = await lose(plane, first)
            again = await second.hear(m.Submit)
            assert again == sent._replace(flags=sent.flags | m.RESENT)
            third = await lose(plane, second)
            assert await third.hear(m.Submit) == again
            await third.accept(again)
            await third.say(m.Ended(again.id, 10, None))

        handle, _ = await together(client.submit_many("echo", [(1,)]), host())
        assert await handle[0].result() is None


async def test_a_submission_made_while_there_was_no_connection_was_not_sent_before() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):
        plane.refuses = "away"
        first.cut()
        while client.is_connected:
            await anyio.lowlevel.checkpoint()

        async def host() -> int:
            await anyio.wait_all_tasks_blocked()
            plane.refuses = None
            return (await (await plane.connection()).run()).flags

        _, flags = await together(client.delay("echo"), host())
        assert not flags & m.RESENT


async def test_what_was_accepted_is_waited_for_again_and_not_submitted_again() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):

        async def accept() -> list[m.Submit]:
            submissions = await first.hear_all(m.Submit, 3)
            await first.accept(*submissions)
            await first.end(submissions[0].id, "before the cut")
            await first.hear(m.Received)
            return submissions

        handles, submissions = await together(
            client.submit_many("echo", [(i,) for i in range(3)]), accept()
        )

        async def user() -> list[Any]:
            return [await handle.result() for handle in handles]

        async def host() -> None:
            second = await lose(plane, first)
            watch = await second.hear(m.Watch)
            assert watch.ids == ids(submissions[1:])
            await second.hears_nothing()
            for submission in submissions[1:]:
                await second.end(submission.id, "after it")

        results, _ = await together(user(), host())
        assert results == ["before the cut", "after it", "after it"]


async def test_what_a_plane_says_in_one_breath_with_its_goodbye_is_heard() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, connection):

        async def accept() -> m.Submit:
            submission = await connection.hear(m.Submit)
            await connection.accept(submission)
            return submission

        handle, submission = await together(client.delay("echo", 1), accept())
        plane.refuses = "it has stopped"
        await connection.say(
            m.Ended(submission.id, JobState.SUCCEEDED, encode_value("just in time")),
            m.Goodbye("the plane stops"),
        )
        assert await handle.result(timeout=5) == "just in time"


async def test_a_submission_that_is_sent_again_is_not_watched_by_its_id() -> None:
    """Asked for by id, it would be unknown if the plane has never seen it."""
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):

        async def host() -> None:
            await first.hear_all(m.Submit, 2)
            second = await lose(plane, first)
            again = await second.hear_all(m.Submit, 2)
            await second.hears_nothing()
            await second.accept(*again)

        await together(client.submit_many("echo", [(1,), (2,)]), host())


async def test_a_question_that_was_not_answered_is_asked_again() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):

        async def host() -> None:
            asked = [await first.hear(object) for _ in range(2)]
            second = await lose(plane, first)
            assert [await second.hear(object) for _ in range(2)] == asked
            for question in asked:
                if isinstance(question, m.Ask):
                    await second.say(m.Answer(question.ref, {"fine": True}))
                elif isinstance(question, m.Cancel):
                    await second.say(m.Answer(question.ref, [int(JobState.CANCELLED)]))

        answer, state, _ = await together(client.ask("health"), client.cancel("0" * 32), host())
        assert answer == {"fine": True}
        assert state is JobState.CANCELLED


async def test_jobs_beyond_a_smaller_limit_wait_for_their_turn_after_a_reconnect() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):
        texts = [f"{i:032x}" for i in range(1, 4)]

        async def host() -> None:
            watched = [await first.hear(m.Watch) for _ in texts]
            plane.limits["watches"] = 3
            second = await lose(plane, first)
            watch = await second.hear(m.Watch)
            assert sorted(watch.ids) == sorted(w.ids[0] for w in watched)
            for job_id in watch.ids:
                await second.end(job_id, 1)
                await second.hear(m.Received)

        *results, _ = await together(*(client.result(text) for text in texts), host())
        assert results == [1, 1, 1]


async def test_a_plane_that_refuses_the_session_for_good_ends_what_waits_with_its_reason() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):

        async def refused(call: Any, kind: type[Exception]) -> None:
            with pytest.raises(kind, match="no longer"):
                await call

        async def host() -> None:
            for _ in range(3):
                await first.hear(object)
            plane.greets = False
            second = await lose(plane, first)
            await second.hear(m.Hello)
            await second.say(m.Refusal("credential", "you are no longer welcome"))

        await together(
            refused(client.delay("echo"), SubmissionUncertain),
            refused(client.ask("health"), Refused),
            refused(client.result("0" * 32), Refused),
            host(),
        )
        first_error = second_error = None
        try:
            await client.ask("health")
        except Refused as error:
            first_error = error
        try:
            await client.delay("echo")
        except Refused as error:
            second_error = error
        # Each raiser has an error of its own: one for all would collect their tracebacks.
        assert first_error is not None
        assert second_error is not None
        assert first_error is not second_error
        assert plane.dials == 2


async def test_a_plane_that_refuses_for_now_is_asked_again() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):
        plane.greets = False
        second = await lose(plane, first)
        await second.hear(m.Hello)
        await second.say(m.Refusal("stopping", "the plane is stopping"))
        plane.greets = True
        third = await plane.connection()
        await together(client.delay("echo"), third.run())


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xff", b"\x81\x82\x18\x63\x01", b"\x81" * 100, b"\x80\x80"],
    ids=["nothing", "garbage", "unknown kind", "nested", "too much"],
)
async def test_garbage_ends_the_connection_and_not_the_session(frame: bytes) -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):
        await first.say_raw(frame)
        second = await plane.connection()
        assert second.hello.session == first.hello.session
        await together(client.delay("echo"), second.run())


@pytest.mark.parametrize(
    "message",
    [
        m.Offer(1, 1, 1, bytes(16), "echo", 1, b"\x80", None),
        m.Settled([1]),
        m.Stop(1, 1, 1, "why"),
        m.Drain("why"),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_what_is_for_workers_is_the_planes_fault(message: m.Message) -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):
        await first.say(message)
        second = await plane.connection()
        await together(client.delay("echo"), second.run())


async def test_answers_to_what_nobody_asked_are_let_pass() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, first):
        await first.say(
            m.Accepted([77]),
            m.Declined(78, "bad", "because"),
            m.Answer(79, None),
            m.AskFailed(80, "bad", "because"),
            m.View(81, 1, None),
            m.Missing(bytes(16), False),
            m.Pong(82),
            m.Ping(83),
            m.Ended(bytes(16), 10, None),
        )
        assert await first.hear(m.Pong) == m.Pong(83)
        assert len((await first.hear(m.Received)).ids) == 1
        await together(client.delay("echo"), first.run())
        assert plane.dials == 1
