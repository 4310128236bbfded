"""The link: keeping alive, dialling again, and leaving, on a virtual clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from tests.client.scripted_plane import Connection, End, ScriptedPlane

from creche.errors import ChannelBroken, ClientClosed, NotAPlane, PlaneUnreachable, Refused
from creche.peer.link import FINAL_REFUSALS, Link, LinkSettings
from creche.wire import messages as m
from creche.wire.session import Role

pytestmark = pytest.mark.trio


class Owner:
    """What a client is to its link: it introduces itself and notes what it hears."""

    def __init__(self, plane: ScriptedPlane, draw: float = 1.0) -> None:
        self.plane = plane
        self.first_words: list[m.Message] = []
        self.heard: list[m.Message] = []
        self.link = Link(
            plane.dial,
            "ws://plane:1",
            Role.CLIENT,
            introduce=lambda: m.Hello([1], "client", bytes(16), "owner", bytes(16), [], {}),
            on_welcome=lambda welcome: self.first_words,
            on_messages=self.heard.extend,
            random=lambda: draw,
            settings=LinkSettings(retry_min_s=1.0, retry_max_s=8.0),
        )


@asynccontextmanager
async def running(owner: Owner) -> AsyncIterator[Connection]:
    """Run the link while the block does; gives the first connection."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        yield await owner.plane.connection()
        nursery.cancel_scope.cancel()


async def _run(link: Link, task_status: trio.TaskStatus[None]) -> None:
    await link.run(task_status=task_status)


async def pings(connection: Connection) -> list[m.Message]:
    """Take frames until something was said; return all of it, pings too."""
    return connection._grammar.receive(await connection._end.receive())


# --- keeping alive ----------------------------------------------------------------------------


async def test_a_plane_that_answers_nothing_for_an_interval_is_left(autojump_clock: Any) -> None:
    plane = ScriptedPlane(keep_alive_s=10.0)
    owner = Owner(plane)
    async with running(owner):
        await trio.sleep(9.9)
        assert plane.dials == 1
        # On this clock the welcome may count as heard after the first ping: one interval more.
        await trio.sleep(10 + 1 + 2)
        assert plane.dials == 2


async def test_any_frame_proves_that_the_plane_is_there(autojump_clock: Any) -> None:
    plane = ScriptedPlane(keep_alive_s=10.0)
    owner = Owner(plane)
    async with running(owner) as connection:
        for _ in range(20):
            await trio.sleep(9.0)
            await connection.say(m.Accepted([1]))
        await trio.testing.wait_all_tasks_blocked()
        assert plane.dials == 1
        assert len(owner.heard) == 20


async def test_what_was_answered_is_known_to_have_been_heard_when_it_was_asked(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane(keep_alive_s=10.0)
    owner = Owner(plane)
    async with running(owner) as connection:
        connected_at = trio.current_time()
        (ping,) = await pings(connection)
        assert isinstance(ping, m.Ping)
        await trio.sleep(5)
        assert owner.link.renewed_at == connected_at
        await connection.say(m.Pong(ping.n), m.Pong(ping.n), m.Pong(999))
        await trio.sleep(5)
        (second,) = await pings(connection)
        asked_at = trio.current_time()
        await trio.sleep(3)
        assert owner.link.renewed_at == connected_at, "the answer's arrival proves nothing later"
        assert isinstance(second, m.Ping)
        await connection.say(m.Pong(second.n))
        await trio.sleep(1)
        assert owner.link.renewed_at == asked_at


async def test_the_planes_pings_are_answered(autojump_clock: Any) -> None:
    owner = Owner(ScriptedPlane())
    async with running(owner) as connection:
        await connection.say(m.Ping(7))
        assert await connection.hear(m.Pong) == m.Pong(7)
        assert owner.heard == []


async def test_a_loop_that_was_held_up_does_not_take_its_own_sleep_for_the_planes() -> None:
    """User code may block the loop for longer than the interval: the answers are there then."""
    plane = ScriptedPlane(keep_alive_s=0.2)
    owner = Owner(plane)
    with trio.fail_after(10):
        async with running(owner) as connection:
            for _ in range(10):
                for message in await pings(connection):
                    assert isinstance(message, m.Ping)
                    await connection.say(m.Pong(message.n))
                # Both what keeps alive and what receives are due when this is over.
                time.sleep(0.25)  # noqa: ASYNC251 - that is what is tested
            assert plane.dials == 1


# --- dialling again ---------------------------------------------------------------------------


async def test_the_delay_between_dials_doubles_up_to_its_limit(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    plane.refuses = "nobody there"
    owner = Owner(plane)
    dialled_at: list[float] = []

    @asynccontextmanager
    async def dial() -> AsyncIterator[End]:
        dialled_at.append(trio.current_time())
        async with plane.dial() as end:
            yield end

    owner.link._dial = dial
    with trio.move_on_after(40):
        await owner.link.run()
    delays = [b - a for a, b in pairwise(dialled_at)]
    assert delays[:6] == pytest.approx([2, 4, 8, 8, 8, 8])


async def test_a_plane_that_welcomes_and_cuts_is_not_dialled_in_a_hot_loop(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    owner = Owner(plane)
    async with running(owner) as connection:
        for _ in range(10):
            connection.cut()
            connection = await plane.connection()
        assert trio.current_time() > 50
        # One that lasted is mended at once.
        await trio.sleep(20)
        cut_at = trio.current_time()
        connection.cut()
        await plane.connection()
        assert trio.current_time() - cut_at == pytest.approx(1.0)


@asynccontextmanager
async def dial_a_stranger() -> AsyncIterator[End]:
    """A web server, where a plane was looked for."""
    await trio.lowlevel.checkpoint()
    raise NotAPlane("ws://plane:1", "it is not a Creche plane: HTTP 400")
    yield


async def test_what_is_no_plane_is_dialled_once(autojump_clock: Any) -> None:
    owner = Owner(ScriptedPlane())
    owner.link._dial = dial_a_stranger
    with trio.fail_after(0.1):
        await owner.link.run()
    assert owner.link.has_failed
    with trio.fail_after(0.1), pytest.raises(NotAPlane, match="HTTP 400"):
        await owner.link.wait_connected(30)


async def test_what_answers_for_a_plane_that_was_met_is_dialled_again(autojump_clock: Any) -> None:
    # A proxy may answer anything while the plane behind it is started again.
    plane = ScriptedPlane()
    owner = Owner(plane)
    async with running(owner) as connection:
        owner.link._dial = dial_a_stranger
        connection.cut()
        await trio.sleep(100)
        assert isinstance(owner.link.failure, NotAPlane)
        owner.link._dial = plane.dial
        await plane.connection()
        assert not owner.link.has_failed


async def test_a_plane_that_does_not_introduce_itself_is_given_up(autojump_clock: Any) -> None:
    plane = ScriptedPlane(greets=False)
    owner = Owner(plane)
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        await trio.sleep(11)
        assert isinstance(owner.link.failure, PlaneUnreachable)
        assert "did not introduce itself" in owner.link.failure.why
        await trio.sleep(20)
        assert plane.dials > 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", sorted(FINAL_REFUSALS))
async def test_refusals_that_dialling_does_not_mend_end_the_link(
    autojump_clock: Any, code: str
) -> None:
    plane = ScriptedPlane()
    owner = Owner(plane)
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        connection = await plane.connection()
        await connection.say(m.Refusal(code, "go away"))
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks, "the link has ended by itself"
    assert owner.link.has_failed
    for _ in range(3):
        with pytest.raises(Refused, match="go away") as error:
            await owner.link.wait_connected(1.0)
        assert error.value is not owner.link.failure
    assert plane.dials == 1


async def test_what_comes_in_one_frame_with_the_welcome_is_heard(autojump_clock: Any) -> None:
    plane = ScriptedPlane(greets=False)
    owner = Owner(plane)
    async with running(owner) as connection:
        await connection.hear(m.Hello)
        await connection.say(plane.welcome(), m.Accepted([1]), m.Ping(5))
        assert await connection.hear(m.Pong) == m.Pong(5)
        assert owner.heard == [m.Accepted([1])]


async def test_the_owner_speaks_first_on_each_connection_and_nothing_is_left_over(
    autojump_clock: Any,
) -> None:
    plane = ScriptedPlane()
    owner = Owner(plane)
    owner.first_words = [m.Watch([bytes(16)])]
    async with running(owner) as first:
        owner.link.post(m.Unwatch([bytes(16)]))
        assert await first.hear(m.Watch)
        assert await first.hear(m.Unwatch)
        owner.link.post(m.Unsubscribe(1))  # never leaves
        first.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert owner.link.disconnected_at == trio.current_time()
        owner.link.post(m.Unsubscribe(2))
        second = await plane.connection()
        assert owner.link.disconnected_at is None
        assert await second.hear(m.Watch)
        await second.hears_nothing()


# --- leaving ----------------------------------------------------------------------------------


async def test_leaving_sends_what_was_posted_and_the_goodbye_last(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    owner = Owner(plane)
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        connection = await plane.connection()
        owner.link.post(m.Submit(1, bytes(16), "t", None, None, b"x" * 500_000, 0, None))
        owner.link.post(m.Unsubscribe(1))
        await owner.link.leave("enough")
        owner.link.post(m.Unsubscribe(2))
    said = await connection.hears_the_end()
    assert [type(message) for message in said] == [m.Unsubscribe, m.Submit, m.Goodbye]
    assert trio.current_time() == 0
    with pytest.raises(ClientClosed):
        await owner.link.wait_connected(None)


async def test_what_is_due_after_the_goodbye_does_not_break_the_protocol(
    autojump_clock: Any,
) -> None:
    """A pong, a receipt and a ping may all fall due while the goodbye is on its way."""
    plane = ScriptedPlane(keep_alive_s=0.1)
    owner = Owner(plane)
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        connection = await plane.connection()

        async def chatter() -> None:
            with suppress(ChannelBroken):
                for n in range(10):
                    await connection.say(m.Ping(n))

        nursery.start_soon(owner.link.leave, "enough")
        nursery.start_soon(chatter)
        owner.link.post(m.Received([b"1" * 16]))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def test_leaving_is_bounded_where_nothing_is_taken(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    owner = Owner(plane)
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        await plane.connection()
        await trio.testing.wait_all_tasks_blocked()

        async def stuck(self: End, frame: bytes) -> None:
            await trio.sleep_forever()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(End, "send", stuck)
            await owner.link.leave("enough", bound_s=2.0)
    assert trio.current_time() == 2.0


async def test_leaving_before_anybody_answered_ends_the_dialling(autojump_clock: Any) -> None:
    plane = ScriptedPlane()
    plane.refuses = "nobody there"
    owner = Owner(plane)
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, owner.link)
        await trio.sleep(3)
        await owner.link.leave("enough")
    assert owner.link.has_failed
