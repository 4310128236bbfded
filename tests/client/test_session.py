"""How a client begins, reconnects and ends, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest
from tests.client.scripted_plane import ScriptedPlane, opened, together

from creche.client.client import DEFAULT_URL, Client
from creche.errors import (
    ClientClosed,
    JobFailed,
    PlaneStopping,
    PlaneUnreachable,
    Refused,
    SettingsError,
    SubmissionUncertain,
)
from creche.wire import messages as m

pytestmark = pytest.mark.anyio


class OwnError(Exception):
    """What a user's code raises."""


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "http://127.0.0.1:5570", "plane", "host:port", "ws://", "ws://host:port", "ws://[::1"],
)
async def test_a_url_that_is_no_planes_is_refused_at_once(url: str) -> None:
    with pytest.raises(SettingsError, match="URL of a plane") as refused:
        Client(url)
    assert "connect" in str(refused.value)


async def test_the_url_comes_from_the_environment_when_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Client().url == DEFAULT_URL == "ws://127.0.0.1:5570"
    monkeypatch.setenv("CRECHE_CONNECT", "ws://plane:1234")
    assert Client().url == "ws://plane:1234"
    assert Client("ws://other:1").url == "ws://other:1"
    assert Client("other:1").url == "ws://other:1"
    monkeypatch.setenv("CRECHE_CONNECT", "127.0.0.1:5571")
    assert Client().url == "ws://127.0.0.1:5571"
    monkeypatch.setenv("CRECHE_CONNECT", "nonsense")
    with pytest.raises(SettingsError, match="CRECHE_CONNECT: 'nonsense'"):
        Client()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "30", True])
async def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(SettingsError, match="seconds"):
        Client(timeout=timeout)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, 5])
async def test_a_name_is_short_printable_text(name: Any) -> None:
    with pytest.raises(SettingsError, match="name"):
        Client(name=name)


# --- entering ---------------------------------------------------------------------------------


async def test_a_client_introduces_itself() -> None:
    async with opened(ScriptedPlane(), name="shop") as (client, plane):
        assert client.is_connected
        assert client.welcome is not None
        assert client.welcome.durability == "memory"
    assert not client.is_connected
    hello = plane.hello
    assert (hello.role, hello.name, hello.versions) == ("client", "shop", [1])
    assert (len(hello.session), len(hello.incarnation)) == (16, 16)
    assert set(hello.facts) == {"pid", "host", "version", "connection"}


async def test_a_plane_that_cannot_be_reached_is_one_error_within_the_deadline() -> None:
    plane = ScriptedPlane()
    plane.refuses = "connection refused"
    with anyio.fail_after(5):
        with pytest.raises(PlaneUnreachable) as error:
            async with Client("ws://plane:1", dial=plane.dial, timeout=0.2):
                pytest.fail("there is no plane")
    assert error.value.url == "ws://plane:1"
    assert "connection refused" in error.value.why
    assert "0.2 s" in error.value.why
    assert plane.dials > 1, "it should have been tried again"


async def test_a_plane_that_does_not_answer_is_the_same_error() -> None:
    plane = ScriptedPlane(greets=False)
    with anyio.fail_after(5):
        with pytest.raises(PlaneUnreachable, match="no answer"):
            async with Client(dial=plane.dial, timeout=0.1):
                pytest.fail("nobody welcomed it")


async def test_a_plane_that_comes_late_is_found() -> None:
    plane = ScriptedPlane()
    plane.refuses = "connection refused"

    async def come() -> None:
        while plane.dials < 2:
            await anyio.sleep(0.01)
        plane.refuses = None

    async def enter() -> bool:
        async with Client(dial=plane.dial) as client:
            return client.is_connected

    assert (await together(come(), enter()))[1]


async def test_a_plane_that_does_not_want_the_client_says_why() -> None:
    plane = ScriptedPlane(greets=False)

    async def refuse() -> None:
        connection = await plane.connection()
        await connection.hear(m.Hello)
        await connection.say(m.Refusal("version", "this plane speaks 7"))

    async def enter() -> None:
        with pytest.raises(Refused, match="speaks 7") as error:
            async with Client(dial=plane.dial):
                pytest.fail("it was refused")
        assert error.value.code == "version"

    await together(refuse(), enter())
    assert plane.dials == 1, "this is not mended by dialling again"


async def test_a_plane_that_is_stopping_is_told_from_one_that_is_not_there() -> None:
    plane = ScriptedPlane(greets=False)

    async def refuse() -> None:
        while True:
            connection = await plane.connection()
            await connection.hear(m.Hello)
            await connection.say(m.Refusal("stopping", "the plane is stopping"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refuse)
        with pytest.raises(PlaneStopping) as error:
            async with Client("ws://plane:1", dial=plane.dial, timeout=0.3):
                pytest.fail("it was refused")
        tasks.cancel_scope.cancel()
    assert str(error.value) == "the plane at ws://plane:1 is stopping (gave up after 0.3 s)"
    assert plane.dials > 1, "another plane may take its place"


@pytest.mark.parametrize(
    "change",
    [
        {"keep_alive_s": 0},
        {"keep_alive_s": "soon"},
        {"unaccepted": None},
        {"watches": 0},
        {"payload_bytes": "many"},
    ],
    ids=str,
)
async def test_a_welcome_that_says_nonsense_is_the_planes_fault(change: dict[str, Any]) -> None:
    plane = ScriptedPlane(**change)
    with pytest.raises(PlaneUnreachable, match=next(iter(change))):
        async with Client(dial=plane.dial, timeout=0.1):
            pytest.fail("that was no welcome")


# --- the block --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OwnError("mine"), KeyboardInterrupt(), StopAsyncIteration()])
async def test_errors_of_the_block_come_out_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        async with Client(dial=ScriptedPlane().dial):
            raise error
    assert raised.value is error
    assert raised.value.__cause__ is None


async def test_errors_of_jobs_come_out_as_they_are() -> None:
    plane = ScriptedPlane()

    async def user() -> None:
        with pytest.raises(JobFailed, match="ValueError: no"):
            async with Client(dial=plane.dial) as client:
                await (await client.delay("fail")).result()

    async def host() -> None:
        connection = await plane.connection()
        submission = await connection.hear(m.Submit)
        await connection.accept(submission)
        await connection.hear(m.Watch)
        await connection.say(
            m.Ended(submission.id, 11, _encoded({"type": "ValueError", "message": "no"}))
        )

    await together(user(), host())


async def test_a_cancelled_block_leaves_at_once_and_says_goodbye() -> None:
    plane = ScriptedPlane()
    with anyio.CancelScope() as scope:
        async with Client(dial=plane.dial) as client:
            connection = await plane.connection()
            scope.cancel()
            await client.ask("health")
    assert scope.cancelled_caught
    assert isinstance((await connection.hears_the_end())[-1], m.Goodbye)


async def test_cancelling_while_it_connects_leaves_nothing() -> None:
    plane = ScriptedPlane(greets=False)
    client = Client(dial=plane.dial)
    with anyio.move_on_after(0.05) as scope:
        async with client:
            pytest.fail("nobody welcomed it")
    assert scope.cancelled_caught
    await (await plane.connection()).hears_the_end()
    plane.greets = True
    async with client:
        assert client.is_connected


async def test_leaving_says_goodbye_as_the_last_word() -> None:
    plane = ScriptedPlane()
    async with opened(plane) as (_client, connection):
        pass
    assert await connection.hears_the_end() == [m.Goodbye("the client is closed")]


async def test_leaving_ends_what_still_waits() -> None:
    plane = ScriptedPlane()
    ends: list[str] = []

    async def wait(call: Any) -> None:
        try:
            await call
        except (ClientClosed, SubmissionUncertain) as error:
            ends.append(type(error).__name__)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with opened(plane) as (client, connection):
                handle = client.job("0" * 32)
                for call in (handle.result(), client.ask("health"), client.delay("echo")):
                    tasks.start_soon(wait, call)
                for _ in range(3):
                    await connection.hear(object)
    assert sorted(ends) == ["ClientClosed", "ClientClosed", "SubmissionUncertain"]


# --- use outside of its life --------------------------------------------------------------------


async def test_a_client_that_is_not_open_says_so() -> None:
    client = Client(dial=ScriptedPlane().dial)
    with pytest.raises(ClientClosed, match="async with"):
        await client.delay("echo")
    async with client:
        handle = client.job("0" * 32)
    for call in (client.delay("echo"), client.ask("health"), client.status("0" * 32)):
        with pytest.raises(ClientClosed):
            await call
    with anyio.fail_after(5):
        with pytest.raises(ClientClosed):
            await handle.result()
        with pytest.raises(ClientClosed):
            await handle.status()
    with pytest.raises(ClientClosed):
        client.job("0" * 32)


async def test_a_client_is_open_once_at_a_time_and_any_number_of_times() -> None:
    plane = ScriptedPlane()
    client = Client(dial=plane.dial)
    sessions = set()
    for _ in range(2):
        async with client:
            with pytest.raises(ClientClosed, match="open already"):
                async with client:
                    pass
            assert client.is_connected
            sessions.add((await plane.connection()).hello.session)
    assert len(sessions) == 2


async def test_a_client_belongs_to_its_thread() -> None:
    async with opened(ScriptedPlane()) as (client, _):
        errors: list[Exception] = []

        def elsewhere() -> None:
            try:
                client.job("0" * 32)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert "BlockingClient" in str(errors[0])


# --- start and stop -----------------------------------------------------------------------------


async def test_start_and_stop_keep_a_session_for_asyncio(anyio_backend_name: str) -> None:
    plane = ScriptedPlane()
    client = Client(dial=plane.dial)
    if anyio_backend_name == "trio":
        with pytest.raises(RuntimeError, match="async with Client"):
            await client.start()
        client.stop()
        async with client:
            assert client.is_connected
        return
    await client.start()
    connection = await plane.connection()
    assert client.is_connected
    waiting = asyncio.ensure_future(client.ask("health"))
    await connection.hear(m.Ask)
    client.stop()
    with pytest.raises(ClientClosed, match="stopped"):
        await waiting
    with pytest.raises(ClientClosed, match="stopped"):
        await client.delay("echo")
    assert isinstance((await connection.hears_the_end())[-1], m.Goodbye)
    client.stop()
    await client.start()
    assert (await plane.connection()).hello.session != connection.hello.session
    client.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_start_reports_what_entering_would() -> None:
    plane = ScriptedPlane()
    plane.refuses = "connection refused"
    client = Client(dial=plane.dial, timeout=0.05)
    with pytest.raises(PlaneUnreachable, match="connection refused"):
        await client.start()
    plane.refuses = None
    await client.start()
    with pytest.raises(ClientClosed, match="open already"):
        await client.start()
    assert client.is_connected, "the second start must not have ended what the first began"
    client.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_start_leaves_nothing() -> None:
    plane = ScriptedPlane(greets=False)
    client = Client(dial=plane.dial)
    with anyio.move_on_after(0.05) as scope:
        await client.start()
    assert scope.cancelled_caught
    await (await plane.connection()).hears_the_end()
    await _until_alone()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_start_does_not_tie_the_session_to_the_task_that_called_it() -> None:
    plane = ScriptedPlane()
    client = Client(dial=plane.dial)
    # A framework runs its start hook in a task of its own, under a scope that ends.
    await asyncio.create_task(client.start())
    async with anyio.create_task_group() as hook:
        hook.cancel_scope.cancel()
    connection = await plane.connection()
    await together(client.ask("health"), _answer(connection, {}))
    client.stop()
    await connection.hears_the_end()
    await _until_alone()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stopping_as_the_last_thing_in_a_loop_warns_of_nothing(
    recwarn: pytest.WarningsRecorder,
) -> None:
    errors: list[Any] = []

    async def application() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: errors.append(context)
        )
        client = Client(dial=ScriptedPlane().dial)
        await client.start()
        client.stop()

    await anyio.to_thread.run_sync(lambda: asyncio.run(application()))
    assert not errors
    assert not list(recwarn)


async def _until_alone() -> None:
    """Wait until the client's tasks have ended; fail if they do not."""
    with anyio.fail_after(5):
        while len([task for task in asyncio.all_tasks() if "creche" in task.get_name()]) > 0:
            await asyncio.sleep(0)


async def _answer(connection: Any, body: Any) -> None:
    ask = await connection.hear(m.Ask)
    await connection.say(m.Answer(ask.ref, body))


def _encoded(value: Any) -> bytes:
    from creche.wire.payload import encode_value

    return encode_value(value)
