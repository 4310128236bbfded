"""What a client does between entering and leaving, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from tests.client.scripted_plane import Connection, ScriptedPlane, ids, opened, together

from creche import Client, JobHandle, JobState, Priority, task
from creche.errors import (
    InvalidArguments,
    JobCancelled,
    JobEnded,
    JobExpired,
    JobFailed,
    JobLost,
    NotEncodable,
    PlaneUnreachable,
    Refused,
    ResultForgotten,
    ResultTimeout,
    ScopeFull,
    StoreFullError,
    SubmissionRefused,
    SubmissionUncertain,
    SubmitTimeout,
    TaskDefinitionError,
    TooLarge,
    UnknownJob,
)
from creche.peer import submitter
from creche.tasks.registry import Registry
from creche.wire import messages as m
from creche.wire.payload import decode_call

pytestmark = pytest.mark.anyio


@task(registry=Registry())
def resize(path: str, width: int = 200) -> str:
    return path


@task(registry=Registry())
def send_two(first: str, second: int) -> None:
    pass


@task("send", queue="mail", priority="low", delivery="at-most-once", registry=Registry())
def send_email(user_id: int, priority: str = "none") -> bool:
    return True


# --- submitting -------------------------------------------------------------------------------


async def test_a_submission_returns_when_the_plane_has_stored_it() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        done: list[str] = []

        async def user() -> str:
            handle = await client.submit(resize, "a.png", width=3)
            done.append(handle)
            return await handle.result()

        async def host() -> m.Submit:
            submission = await plane.hear(m.Submit)
            assert not done
            await plane.accept(submission)
            await plane.end(submission.id, "b.png")
            assert len((await plane.hear(m.Received)).ids) == 1
            return submission

        result, submission = await together(user(), host())
    assert result == "b.png"
    assert (submission.task, submission.queue, submission.priority) == ("resize", None, None)
    assert decode_call(submission.payload) == (["a.png"], {"width": 3})
    assert submission.flags == m.WATCH
    assert submission.options is None


async def test_options_travel_with_the_submission_as_the_task_and_the_call_say() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def user() -> None:
            await client.submit(send_email, 1)
            # A parameter that is called as one of our options reaches the task by submit.
            await client.submit(send_email.with_options(priority="high"), 1, priority="mine")
            await client.delay(send_email, 1, priority=Priority.CRITICAL, queue="fast")
            await client.delay("send", 1, priority="critical")

        async def host() -> list[m.Submit]:
            return [await plane.run() for _ in range(4)]

        _, (plain, changed, delayed, by_name) = await together(user(), host())
    assert (plain.task, plain.queue, plain.priority) == ("send", "mail", 3)
    assert plain.options == {"delivery": "at-most-once"}
    assert (changed.queue, changed.priority) == ("mail", 1)
    assert decode_call(changed.payload) == ([1], {"priority": "mine"})
    assert (delayed.queue, delayed.priority, delayed.flags) == ("fast", 0, 0)
    assert (by_name.queue, by_name.priority, by_name.options) == (None, 0, None)


async def test_when_and_how_often_travel_with_a_submission() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        moment = datetime.now(UTC) + timedelta(hours=1)
        at = {"due_at": moment.timestamp()}
        for call, options in [
            (client.submit(resize.with_options(countdown=2.5), "a"), {"delay_s": 2.5}),
            (
                client.submit(resize.with_options(eta=moment, retries=3), "a"),
                at | {"retry": {"retries": 3}},
            ),
            (client.submit(resize.with_options(countdown=0), "a"), None),
            (
                client.submit(resize.with_options(timeout=5, deadline=moment), "a"),
                {"limits": {"timeout_s": 5, "deadline_at": moment.timestamp()}},
            ),
            (client.delay("resize", "a", eta=moment), at),
            (client.submit_many(resize.with_options(eta=moment), [("a",)]), at),
        ]:
            _, said = await together(call, plane.run())
            assert (said.options or None) == options


async def test_a_name_and_a_view_are_sent_with_all_that_they_say() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        view = resize.with_options(idempotency_key="order 17", queue="slow")
        for call, said in [
            (client.send(view, ["a"]), ("slow", {"idempotency_key": "order 17"})),
            (
                client.send(view, ["a"], queue="fast", retries=2),
                ("fast", {"idempotency_key": "order 17", "retry": {"retries": 2}}),
            ),
            (
                client.send("resize", ["a"], idempotency_key="b", countdown=5),
                (None, {"idempotency_key": "b", "delay_s": 5}),
            ),
            (client.send("resize", range(2), unique=False), (None, {"unique": False})),
        ]:
            _, message = await together(call, plane.run())
            assert (message.queue, message.options) == said
        assert decode_call(message.payload) == ([0, 1], {})


async def test_an_option_that_there_is_not_is_refused_and_not_sent() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        for sent, option in [("child", "idempotencykey"), (resize, "idempotencykey")]:
            with pytest.raises(TaskDefinitionError, match=f"{option!r}: did you mean 'idempotency"):
                await client.send(sent, ["a"], **{option: "order 17"})
        with pytest.raises(TaskDefinitionError, match=r"no option 'count_down'.*'countdown'"):
            await client.send("child", [1], count_down=3600)  # type: ignore[call-overload]
        await plane.hears_nothing()


async def test_a_moment_in_the_past_is_refused_and_nothing_is_sent() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        late = datetime.now(UTC) - timedelta(seconds=10)
        for call in (
            client.submit(resize.with_options(eta=late), "a"),
            client.submit(resize.with_options(deadline=late), "a"),
            client.delay("resize", "a", eta=late),
            client.submit_many(resize.with_options(eta=late), [("a",)]),
        ):
            with pytest.raises(InvalidArguments, match="is in the past"):
                await call
        never = datetime.now(UTC) + timedelta(hours=1)
        for view in (
            resize.with_options(countdown=3600, deadline=never - timedelta(minutes=30)),
            resize.with_options(eta=never, expires=60),
        ):
            with pytest.raises(InvalidArguments, match=r"this submission: with (countdown|eta)="):
                await client.submit(view, "a")
        await plane.hears_nothing()
        # A moment ago is now: clocks differ, and lines take time.
        just = datetime.now(UTC) - timedelta(milliseconds=100)
        await together(client.delay("resize", "a", eta=just), plane.run())


async def test_a_handle_is_the_jobs_id() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        handle, submission = await together(client.delay("echo", 1), plane.run())
        assert isinstance(handle, str)
        assert handle.id_bytes == submission.id
        text = handle.id
        assert type(text) is str
        assert handle == text
        assert hash(handle) == hash(text)
        assert {text: 1}[handle] == 1
        assert json.loads(json.dumps({"job": handle})) == {"job": text}
        assert f"{handle}" == text
        assert client.job(text) == handle
        assert client.job(text.replace("-", "").upper()) == handle
        # Where the client is not, a handle is its id and nothing else.
        for other in (pickle.loads(pickle.dumps(handle)), copy.deepcopy({"a": handle})["a"]):
            assert type(other) is str
            assert other == text


async def test_a_handle_can_be_an_argument_of_another_job() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        first, _ = await together(client.delay("echo"), plane.run())
        _, second = await together(client.delay("echo", first, of=[first]), plane.run())
        assert decode_call(second.payload) == ([first.id], {"of": [first.id]})


SOME_JOB = "01a3185c-5000-7000-8000-000000000001"

WRONG_CALLS: dict[str, Callable[[Client], Coroutine[Any, Any, Any]]] = {
    "missing": lambda client: client.submit(resize),  # type: ignore[call-arg]
    "too many": lambda client: client.submit(resize, "a", 1, 2),  # type: ignore[call-arg]
    "unknown": lambda client: client.submit(resize, "a", height=2),  # type: ignore[call-arg]
    "missing from delay": lambda client: client.delay(resize, width=1),
    "one of many": lambda client: client.submit_many(resize, [("a", 1, 2), ("b",)]),
    "submit a function": lambda client: client.submit(len, "a"),  # type: ignore[arg-type]
    "submit a name": lambda client: client.submit("resize", "a"),  # type: ignore[arg-type]
    "delay a function": lambda client: client.delay(len, "a"),  # type: ignore[call-overload]
    "no name": lambda client: client.delay(""),
    "long name": lambda client: client.delay("x" * 201),
    "no text for a queue": lambda client: client.delay("echo", queue=5),  # type: ignore[call-overload]
    "no queue": lambda client: client.delay("echo", queue=""),
    "a queue of two words": lambda client: client.delay("echo", queue="a b"),
    "a queue that commands a terminal": lambda client: client.delay("echo", queue="a\x1b[2J"),
    "a number that is no priority": lambda client: client.delay("echo", priority=11),
    "no such priority": lambda client: client.delay("echo", priority="urgent"),
    "a name that UTF-8 cannot carry": lambda client: client.delay("bad\ud800"),
    "such a queue": lambda client: client.delay("echo", queue="bad\ud800"),
    "text for a call": lambda client: client.submit_many("echo", ["text"]),
    "a number for a call": lambda client: client.submit_many("echo", [5]),  # type: ignore[list-item]
    "a number for a name": lambda client: client.submit_many("echo", [{1: 2}]),  # type: ignore[list-item]
    "a number for args": lambda client: client.send("echo", 1),  # type: ignore[call-overload]
    "text for args": lambda client: client.send("echo", "15"),
    "a mapping for args": lambda client: client.send("echo", {"n": 1}),  # type: ignore[call-overload]
    "a list for kwargs": lambda client: client.send("echo", [], [1]),  # type: ignore[call-overload]
    "text for kwargs": lambda client: client.send("echo", [], "x"),  # type: ignore[call-overload]
    "numbers for names": lambda client: client.send("echo", [], {1: 2}),  # type: ignore[dict-item]
    "too many for a task": lambda client: client.send(resize, ["a", 1, 2]),
    "a number to retry with": lambda client: client.retry(SOME_JOB, args=5),  # type: ignore[arg-type]
    "text to retry with": lambda client: client.retry(SOME_JOB, args="15"),
    "a list of names to retry with": lambda client: client.retry(SOME_JOB, kwargs=[1]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", WRONG_CALLS.values(), ids=WRONG_CALLS)
async def test_a_call_that_cannot_be_right_is_refused_and_not_sent(call: Any) -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        with pytest.raises(InvalidArguments):
            await call(client)
        await plane.hears_nothing()


async def test_what_cannot_be_encoded_is_named_and_not_sent() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        with pytest.raises(NotEncodable) as error:
            await client.submit(resize, "a", width={"sizes": [1, object()]})  # type: ignore[arg-type]
        assert error.value.path == "argument 'width'['sizes'][1]"
        with pytest.raises(NotEncodable) as error:
            await client.delay("echo", 1, [2, {"when": object()}])
        assert error.value.path == "args[1][1]['when']"
        await plane.hears_nothing()


async def test_arguments_over_the_limit_are_refused_and_not_sent() -> None:
    async with opened(ScriptedPlane(payload_bytes=1000)) as (client, plane):
        with pytest.raises(TooLarge) as error:
            await client.delay("echo", "x" * 1000)
        assert error.value.limit_bytes == 1000
        assert error.value.size_bytes > 1000
        await plane.hears_nothing()
        await together(client.delay("echo", "x" * 900), plane.run())


async def test_many_large_submissions_at_a_time_arrive() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def host() -> int:
            submissions = await plane.hear_all(m.Submit, 40)
            await plane.accept(*submissions)
            return sum(len(submission.payload) for submission in submissions)

        calls = [(i, b"x" * 100_000) for i in range(40)]
        handles, size = await together(client.submit_many("echo", calls, watch=False), host())
        assert len(set(handles)) == 40
        assert size > 4_000_000


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad-queue", SubmissionRefused),
        ("scope-full", ScopeFull),
        ("store-full", StoreFullError),
        ("uncertain", SubmissionUncertain),
    ],
)
async def test_a_refused_submission_says_why(code: str, kind: type[Exception]) -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def host() -> None:
            submission = await plane.hear(m.Submit)
            await plane.say(m.Declined(submission.n, code, "because"))

        async def user() -> None:
            with pytest.raises(kind, match="because") as error:
                await client.submit(resize, "a")
            if isinstance(error.value, Refused):
                assert error.value.code == code

        await together(user(), host())
        await together(client.delay("echo"), plane.run())


async def test_a_warning_reaches_the_submitter() -> None:
    warnings: list[str] = []
    async with opened(ScriptedPlane(), on_warning=warnings.append) as (client, plane):

        async def host() -> None:
            submission = await plane.hear(m.Submit)
            await plane.say(m.Warned(submission.n, "unknown-task", "did you mean 'echo'?"))
            await plane.accept(submission)

        await together(client.delay("eco"), host())
    assert warnings == ["did you mean 'echo'?"]


async def test_a_warning_is_logged_when_nobody_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def host() -> None:
            submission = await plane.hear(m.Submit)
            await plane.say(m.Warned(submission.n, "unknown-task", "50% of it is unknown"))
            await plane.accept(submission)

        await together(client.delay("eco"), host())
    assert [(r.name, r.getMessage()) for r in caplog.records] == [
        ("creche.client", "50% of it is unknown")
    ]


# --- time limits and credit -------------------------------------------------------------------


async def test_a_submission_without_room_is_withdrawn_in_time() -> None:
    async with opened(ScriptedPlane(), timeout=0.1) as (client, plane):

        async def user() -> None:
            with pytest.raises(SubmitTimeout, match="withdrawn and will not run"):
                await client.delay("echo")

        async def host() -> None:
            submission = await plane.hear(m.Submit)
            cancel = await plane.hear(m.Cancel)
            assert cancel.ids == [submission.id]
            await plane.say(m.Answer(cancel.ref, [int(JobState.CANCELLED)]))

        await together(user(), host())
        await together(client.delay("echo"), plane.run())


async def test_a_submission_that_was_taken_at_the_last_moment_succeeds() -> None:
    async with opened(ScriptedPlane(), timeout=0.1) as (client, plane):

        async def host() -> bytes:
            submission = await plane.hear(m.Submit)
            cancel = await plane.hear(m.Cancel)
            await plane.accept(submission)
            await plane.say(m.Answer(cancel.ref, [int(JobState.RUNNING)]))
            return submission.id

        handle, job_id = await together(client.submit(resize, "a"), host())
        assert handle.id_bytes == job_id
        result, _ = await together(handle.result(), plane.end(job_id, "b"))
        assert result == "b"


@pytest.mark.parametrize("state", [None, JobState.RUNNING])
async def test_a_submission_whose_fate_is_unknown_is_uncertain(state: JobState | None) -> None:
    async with opened(ScriptedPlane(), timeout=0.1) as (client, plane):

        async def user() -> None:
            with pytest.raises(SubmissionUncertain, match="sent, and not answered"):
                await client.delay("echo")

        async def host() -> None:
            await plane.hear(m.Submit)
            cancel = await plane.hear(m.Cancel)
            await plane.say(m.Answer(cancel.ref, [state]))

        await together(user(), host())


async def test_a_submission_sent_over_a_connection_that_is_gone_is_uncertain() -> None:
    plane = ScriptedPlane()
    async with opened(plane, timeout=0.1) as (client, connection):

        async def user() -> None:
            with pytest.raises(SubmissionUncertain):
                await client.delay("echo")

        async def host() -> None:
            await connection.hear(m.Submit)
            plane.refuses = "gone"
            connection.cut()

        await together(user(), host())
        # What was given up is not sent again.
        plane.refuses = None
        await (await plane.connection()).hears_nothing()


async def test_a_submission_while_there_is_no_connection_is_not_sent() -> None:
    plane = ScriptedPlane()
    async with opened(plane, timeout=0.1) as (client, connection):
        plane.refuses = "gone fishing"
        connection.cut()
        while not plane.refused:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(PlaneUnreachable, match="gone fishing"):
            await client.delay("echo")
        with pytest.raises(PlaneUnreachable, match="gone fishing"):
            await client.ask("health")
        plane.refuses = None
        await (await plane.connection()).hears_nothing()


async def test_no_more_is_sent_than_the_plane_grants() -> None:
    async with opened(ScriptedPlane(unaccepted=3)) as (client, plane):

        async def host() -> list[int]:
            first = await plane.hear_all(m.Submit, 3)
            await plane.hears_nothing()
            await plane.accept(first[0], first[1])
            more = await plane.hear_all(m.Submit, 2)
            await plane.hears_nothing()
            await plane.accept(first[2], *more)
            last = await plane.hear_all(m.Submit, 3)
            await plane.accept(*last)
            return [decode_call(s.payload)[0][0] for s in (*first, *more, *last)]

        *handles, order = await together(*(client.delay("echo", i) for i in range(8)), host())
        assert len(set(handles)) == 8
        assert sorted(order) == list(range(8))


async def test_who_waits_for_credit_gives_up_in_time_and_takes_none() -> None:
    async with opened(ScriptedPlane(unaccepted=1), timeout=0.1) as (client, plane):

        async def user(name: str) -> str:
            with pytest.raises(SubmitTimeout) as error:
                await client.delay(name)
            return str(error.value)

        async def host() -> None:
            await plane.hear(m.Submit)
            cancel = await plane.hear(m.Cancel)
            await plane.say(m.Answer(cancel.ref, [int(JobState.CANCELLED)]))

        *why, _ = await together(user("one"), user("other"), host())
        assert sum("was withdrawn" in text for text in why) == 1
        assert sum("this was not sent" in text for text in why) == 1
        await together(client.delay("third"), plane.run())


async def test_a_cancelled_submission_leaves_its_turn_to_others() -> None:
    async with opened(ScriptedPlane(unaccepted=1)) as (client, plane):
        scope = anyio.CancelScope()
        order: list[str] = []

        async def impatient() -> None:
            with scope:
                await client.delay("impatient")

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.delay, "first")
                first = await plane.hear(m.Submit)
                tasks.start_soon(impatient)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(client.delay, "patient")
                await anyio.wait_all_tasks_blocked()
                # It is cancelled, and its turn comes before it has noticed.
                assert client._session is not None
                scope.cancel()
                client._session.submitter.handle([m.Accepted([first.n])])
                while True:
                    submission = await plane.hear(m.Submit)
                    order.append(submission.task)
                    await plane.accept(submission)
                    if submission.task == "patient":
                        break
        assert order == ["patient"]


# --- many ---------------------------------------------------------------------------------------


async def test_many_are_submitted_in_order_and_share_frames() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        calls: list[Any] = [("a",), ["b", 1], {"path": "c"}, range(0)]
        calls[-1] = {"path": "d", "width": 2}

        async def host() -> list[m.Submit]:
            submissions = await plane.hear_all(m.Submit, 4)
            await plane.accept(*submissions)
            return submissions

        handles, submissions = await together(client.submit_many(resize, calls), host())
        assert [handle.id_bytes for handle in handles] == ids(submissions)
        assert [decode_call(s.payload) for s in submissions] == [
            (["a"], {}),
            (["b", 1], {}),
            ([], {"path": "c"}),
            ([], {"path": "d", "width": 2}),
        ]
        assert await client.submit_many(resize, []) == []


async def test_one_refusal_among_many_is_raised_and_the_others_are_stored() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def user() -> None:
            with pytest.raises(SubmissionRefused, match="because"):
                await client.submit_many("echo", [(i,) for i in range(3)])

        async def host() -> None:
            a, b, c = await plane.hear_all(m.Submit, 3)
            await plane.say(m.Declined(b.n, "bad", "because"), m.Accepted([a.n, c.n]))

        await together(user(), host())


async def test_a_long_list_may_take_longer_than_the_timeout_while_it_moves_on() -> None:
    async with opened(ScriptedPlane(unaccepted=2), timeout=0.3) as (client, plane):

        async def host() -> None:
            for _ in range(12):
                await plane.accept(await plane.hear(m.Submit))
                await anyio.sleep(0.05)

        handles, _ = await together(client.submit_many("echo", [(i,) for i in range(12)]), host())
        assert len(handles) == 12


async def test_map_explains_that_a_tuple_is_one_argument() -> None:
    async with opened(ScriptedPlane()) as (client, _):
        with pytest.raises(InvalidArguments, match="missing a required argument") as error:
            async for _ in client.map(send_two, [("a", 1)]):
                pytest.fail("it should not have been sent")
        (note,) = error.value.__notes__
        assert "one argument" in note
        assert "submit_many" in note


async def test_map_yields_results_in_the_order_of_the_values_or_as_they_come() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def user(ordered: bool) -> list[Any]:
            return [value async for value in client.map("double", [1, 2, 3], ordered=ordered)]

        async def host() -> None:
            submissions = await plane.hear_all(m.Submit, 3)
            await plane.accept(*submissions)
            for submission in reversed(submissions):
                await plane.end(submission.id, decode_call(submission.payload)[0][0] * 2)
                await plane.hear(m.Received)

        assert (await together(user(True), host()))[0] == [2, 4, 6]
        assert (await together(user(False), host()))[0] == [6, 4, 2]


async def test_as_completed_yields_handles_as_their_jobs_end() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def submit() -> list[JobHandle[Any]]:
            watched = await client.submit_many("echo", [(1,), (2,)])
            return [*watched, await client.delay("echo", 3), watched[0]]

        async def host() -> None:
            await plane.accept(*(await plane.hear_all(m.Submit, 2)))
            await plane.accept(await plane.hear(m.Submit))

        handles, _ = await together(submit(), host())
        one, two, three, _again = handles

        async def user() -> list[tuple[str, Any]]:
            return [(h, await h.result()) async for h in client.as_completed(handles)]

        async def end() -> None:
            assert await plane.hear(m.Watch) == m.Watch([three.id_bytes])
            await plane.end(three.id_bytes, "3")
            await plane.hear(m.Received)
            await plane.end(two.id_bytes, {"type": "ValueError", "message": ""}, JobState.SUCCEEDED)
            await plane.hear(m.Received)
            await plane.end(one.id_bytes, "1")
            await plane.hear(m.Received)
            # What is known is not asked for again.
            await plane.hears_nothing()

        order, _ = await together(user(), end())
        assert [h for h, _ in order] == [three, two, one, one]
        assert order[0][1] == "3"


async def test_as_completed_ends_in_time_and_leaves_no_listener() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        handles, _ = await together(
            client.submit_many("echo", [(1,), (2,)], watch=False), _accept(plane, 2)
        )

        async def user() -> list[str]:
            seen: list[str] = []
            with pytest.raises(TimeoutError):
                async for handle in client.as_completed(handles, timeout=0.1):
                    seen.append(handle)
            return seen

        async def host() -> m.Unwatch:
            await plane.hear_all(m.Watch, 2)
            await plane.end(handles[0].id_bytes, 1)
            await plane.hear(m.Received)
            return await plane.hear(m.Unwatch)

        seen, unwatch = await together(user(), host())
        assert seen == [handles[0]]
        assert unwatch.ids == [handles[1].id_bytes]


# --- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (JobState.FAILED, JobFailed, "failed: shop.NoStock: none left"),
        (JobState.CANCELLED, JobCancelled, "was cancelled: none left"),
        (JobState.LOST, JobLost, "was lost with its worker: none left"),
        (JobState.EXPIRED, JobExpired, "has expired: none left"),
    ],
)
async def test_a_job_that_did_not_succeed_raises_how_it_ended(
    state: JobState, kind: type[JobEnded], words: str
) -> None:
    failure = {
        "type": "shop.NoStock",
        "message": "none left",
        "traceback": "Traceback ...",
        "notes": ["in the middle"],
    }
    async with opened(ScriptedPlane()) as (client, plane):
        handle = client.job("0" * 32)

        async def user() -> None:
            for _ in range(2):
                with pytest.raises(kind, match=words) as error:
                    await handle.result()
                assert type(error.value) is kind
                assert error.value.job_id == handle
                if isinstance(error.value, JobFailed):
                    assert error.value.type == "shop.NoStock"
                    assert error.value.traceback == "Traceback ..."
                    assert error.value.__notes__ == ["in the middle"]

        async def host() -> None:
            await plane.hear(m.Watch)
            await plane.end(handle.id_bytes, failure, state)

        await together(user(), host())


@pytest.mark.parametrize(("is_forgotten", "kind"), [(False, UnknownJob), (True, ResultForgotten)])
async def test_an_unknown_job_is_told_apart_from_a_forgotten_result(
    is_forgotten: bool, kind: type[UnknownJob]
) -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def user() -> None:
            with pytest.raises(UnknownJob) as error:
                await client.result("0" * 32)
            assert type(error.value) is kind

        async def host() -> None:
            watch = await plane.hear(m.Watch)
            await plane.say(m.Missing(watch.ids[0], is_forgotten))

        await together(user(), host())


@pytest.mark.parametrize("text", ["", "nonsense", "0" * 31, "g" * 32, "00 " * 10 + "00", None, 7])
async def test_what_is_no_id_is_unknown_and_not_sent(text: Any) -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        for call in (client.result, client.status, client.cancel):
            with pytest.raises(UnknownJob):
                await call(text)
        await plane.hears_nothing()


async def test_a_wait_that_runs_out_leaves_the_job_alone() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        handle, _ = await together(client.delay("echo"), _accept(plane, 1))
        for timeout in (0, 0.01):
            with pytest.raises(ResultTimeout) as error:
                await handle.result(timeout)
            assert isinstance(error.value, TimeoutError)
            assert (error.value.job_id, error.value.timeout_s) == (handle, timeout)
        watch = await plane.hear(m.Watch)
        # The watch stays, and the answer is kept for whoever asks this handle again.
        await plane.end(watch.ids[0], 5)
        await plane.hear(m.Received)
        assert await handle.result(0) == 5
        await plane.hears_nothing()


async def test_several_may_wait_for_one_job() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        text = "0" * 32

        async def host() -> None:
            watch = await plane.hear(m.Watch)
            await plane.end(watch.ids[0], [1])
            await plane.hear(m.Received)
            await plane.hears_nothing()

        *results, _ = await together(*(client.result(text) for _ in range(5)), host())
        assert results == [[1]] * 5
        assert results[0] is not results[1], "each has a value of its own"


async def test_a_result_is_one_value_whoever_asks() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        handle, _ = await together(client.submit(resize, "a"), plane.run("b"))
        assert await handle.result() == "b"
        assert await client.result(handle) == "b"
        await plane.hears_nothing()


async def test_cancelling_a_wait_leaves_no_residue() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        handle = client.job("1" * 32)
        for _ in range(3):
            with anyio.move_on_after(0.01) as scope:
                await handle.result()
            assert scope.cancelled_caught
            watch, unwatch = await plane.hear(m.Watch), await plane.hear(m.Unwatch)
            assert watch.ids == unwatch.ids == [handle.id_bytes]
        assert client._session is not None
        assert len(client._session.submitter._waits) == 0

        async def impatient() -> None:
            with anyio.move_on_after(0.01):
                await handle.result()

        async def host() -> None:
            watch = await plane.hear(m.Watch)
            await anyio.sleep(0.05)
            await plane.end(watch.ids[0], "all the same")
            await plane.hear(m.Received)

        # One of two gives up; the other still has its answer.
        assert (await together(handle.result(), impatient(), host()))[0] == "all the same"


async def test_no_more_is_watched_than_the_plane_grants_and_all_have_their_turn() -> None:
    async with opened(ScriptedPlane(watches=2)) as (client, plane):

        async def user() -> list[Any]:
            handles = await client.submit_many("double", [(i,) for i in range(6)])
            return sorted([await h.result() async for h in client.as_completed(handles)])

        async def host() -> None:
            submissions = await plane.hear_all(m.Submit, 6)
            assert [s.flags for s in submissions] == [m.WATCH, m.WATCH, 0, 0, 0, 0]
            await plane.accept(*submissions)
            values = {s.id: decode_call(s.payload)[0][0] * 2 for s in submissions}
            watched = ids(submissions[:2])
            while watched:
                await plane.hears_nothing()
                job_id = watched.pop(0)
                await plane.end(job_id, values.pop(job_id))
                while values and len(watched) < min(2, len(values)):
                    watched += (await plane.hear(m.Watch)).ids
                await plane.hear(m.Received)

        assert (await together(user(), host()))[0] == [0, 2, 4, 6, 8, 10]


# --- asking -------------------------------------------------------------------------------------


async def test_very_many_jobs_are_cancelled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitter, "_CANCEL_CHUNK", 2)
    async with opened(ScriptedPlane()) as (client, plane):
        jobs = [f"{n:032x}" for n in range(5)]

        async def answer() -> list[int]:
            sizes = []
            for _ in range(3):
                message = await plane.hear(m.Cancel)
                sizes.append(len(message.ids))
                await plane.say(m.Answer(message.ref, [12] * len(message.ids)))
            return sizes

        states, sizes = await together(client.cancel_many(jobs), answer())
        assert sizes == [2, 2, 1]
        assert states == [JobState.CANCELLED] * 5


@pytest.mark.parametrize("timeout", [-1, float("nan"), "x", True, 10**400])
async def test_how_long_to_wait_is_a_number_of_seconds(timeout: Any) -> None:
    async with opened(ScriptedPlane()) as (client, _):
        job = client.job("0" * 32)
        with pytest.raises(InvalidArguments, match="timeout is a number of seconds"):
            await job.result(timeout=timeout)
        with pytest.raises(InvalidArguments, match="timeout is a number of seconds"):
            async for _ in client.as_completed([job], timeout=timeout):
                pass


async def test_status_and_cancel_tell_the_state() -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        text = "0" * 32
        job = client.job(text)

        async def answer(body: Any) -> m.Ask | m.Cancel:
            message = await plane.hear(object)
            assert isinstance(message, m.Ask | m.Cancel)
            await plane.say(m.Answer(message.ref, body))
            return message

        for call in (job.status, lambda: client.status(text)):
            state, ask = await together(call(), answer({"state": "running"}))
            assert state is JobState.RUNNING
            assert (ask.question, ask.params) == ("job", {"id": job.id_bytes})
        for call in (lambda: job.cancel("why"), lambda: client.cancel(text, "why")):
            state, cancel = await together(call(), answer([12]))
            assert state is JobState.CANCELLED
            assert (cancel.ids, cancel.why) == ([job.id_bytes], "why")
        states, cancel = await together(
            client.cancel_many([job, "1" * 32], "all"), answer([None, 10])
        )
        assert states == [None, JobState.SUCCEEDED]
        for call, body in (
            (job.status, None),
            (lambda: client.status(text), None),
            (job.cancel, [None]),
            (lambda: client.cancel(text), [None]),
        ):

            async def unknown(call: Any = call) -> None:
                with pytest.raises(UnknownJob):
                    await call()

            await together(unknown(), answer(body))


async def test_a_question_is_answered_or_refused() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def refuse() -> None:
            ask = await plane.hear(m.Ask)
            await plane.say(m.AskFailed(ask.ref, "unknown-question", "there is none"))

        async def refused() -> None:
            with pytest.raises(Refused, match="there is none") as error:
                await client.ask("what?", {"a": [1, None, b"2"]})
            assert error.value.code == "unknown-question"

        await together(refused(), refuse())


@pytest.mark.parametrize(
    "params", [{"a": object()}, {"a": {1: 2}}, {"a": 1j}], ids=["object", "int key", "complex"]
)
async def test_a_question_that_no_plane_could_read_is_not_sent(params: Any) -> None:
    async with opened(ScriptedPlane()) as (client, plane):
        with pytest.raises(NotEncodable, match="jobs"):
            await client.ask("jobs", params)
        await plane.hears_nothing()


async def test_any_number_of_questions_at_a_time_are_asked_a_few_at_a_time() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def host() -> None:
            asked: list[m.Ask] = []
            for left in range(100, 0, -1):
                while len(asked) < min(16, left):
                    asked.append(await plane.hear(m.Ask))
                if left in (100, 50):
                    await plane.hears_nothing()
                ask = asked.pop(0)
                await plane.say(m.Answer(ask.ref, ask.params["i"]))

        *answers, _ = await together(*(client.ask("x", {"i": i}) for i in range(100)), host())
        assert answers == list(range(100))


async def test_a_topic_is_followed_to_its_newest_view_until_the_block_ends() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (client, connection):

        async def user() -> list[Any]:
            seen = []
            async with aclosing(client.watch_topic("overview", hz=2.0)) as views:
                async for view in views:
                    seen.append(view)
                    if view == "last":
                        break
            return seen

        async def host() -> None:
            subscribe = await connection.hear(m.Subscribe)
            assert (subscribe.topic, subscribe.hz) == ("overview", 2.0)
            await connection.say(*(m.View(subscribe.ref, i, f"view {i}") for i in (1, 2)))
            await connection.hears_nothing()
            connection.cut()
            second = await plane.connection()
            again = await second.hear(m.Subscribe)
            assert again == subscribe
            await second.say(m.View(again.ref, 1, "last"))
            assert await second.hear(m.Unsubscribe) == m.Unsubscribe(again.ref)

        assert (await together(user(), host()))[0] == ["view 2", "last"]


async def test_a_topic_that_is_refused_says_why() -> None:
    async with opened(ScriptedPlane()) as (client, plane):

        async def user() -> None:
            with pytest.raises(Refused, match="no topic"):
                async for _ in client.watch_topic("weather"):
                    pytest.fail("there is none")

        async def host() -> None:
            subscribe = await plane.hear(m.Subscribe)
            await plane.say(m.AskFailed(subscribe.ref, "unknown-topic", "no topic"))

        await together(user(), host())
        await plane.hears_nothing()


# --- idle means idle ----------------------------------------------------------------------------


async def test_the_loop_is_idle_after_cancelled_calls(anyio_backend_name: str) -> None:
    """A scope that is left with its cancellation undelivered can keep a loop at 100 % (anyio's
    issues 884 and 1111)."""
    async with opened(ScriptedPlane()) as (client, plane):
        calls: list[Any] = [
            lambda: client.delay("echo"),
            lambda: client.result("0" * 32),
            lambda: client.ask("health"),
            lambda: client.submit_many("echo", [(1,)] * 10),
            lambda: _first(client.watch_topic("overview")),
            lambda: _first(client.as_completed([client.job("2" * 32)])),
        ]
        for call in calls:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(call)
                await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.move_on_after(0.01):
                await call()
        with turns(anyio_backend_name) as counted:
            await anyio.sleep(0.2)
        assert counted[0] < 20
        # Everything that was cancelled is said to be over; the plane hears no more of it.
        assert client._session is not None
        plane.cut()


@contextmanager
def turns(backend: str) -> Iterator[list[int]]:
    """Count how often the event loop goes round."""
    counted = [0]
    if backend == "trio":

        class Turns(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                counted[0] += 1

        instrument = Turns()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield counted
        finally:
            trio.lowlevel.remove_instrument(instrument)
        return
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def counting(timeout: float | None = None) -> Any:
        counted[0] += 1
        return select(timeout)

    selector.select = counting
    try:
        yield counted
    finally:
        del selector.select


async def _first(views: Any) -> Any:
    async with aclosing(views) as it:
        async for view in it:
            return view


async def _accept(plane: Connection, number: int) -> list[m.Submit]:
    submissions = await plane.hear_all(m.Submit, number)
    await plane.accept(*submissions)
    return submissions
