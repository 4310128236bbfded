"""Whatever a peer does wrong ends its own connection, with one reason; everybody else goes on."""

from __future__ import annotations

import cbor2
import pytest
import trio
from tests.cluster.scripted import House, Peer, open_house

from creche.engine import views
from creche.engine.settings import PlaneSettings
from creche.errors import ChannelBroken, StoreError
from creche.store.memory import MemoryStore
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.payload import decode_value

pytestmark = pytest.mark.trio
LISTENING = {"queues": ["default"]}

DEEP = b"\x81" * 40 + b"\x80"
RAW_FRAMES = {
    "garbage": b"\xff\xfe\xfd not cbor",
    "empty": b"",
    "truncated": codec.encode_frame([m.Ping(1), m.Ping(2)])[:-1],
    "deeply nested": DEEP,
    "not an array": cbor2.dumps({"kind": 5}),
    "unknown kind": cbor2.dumps([[99, 1]]),
    "missing field": cbor2.dumps([[5]]),
    "wrong type": cbor2.dumps([[5, "one"]]),
    "a tag": cbor2.dumps([[5, 2**70]]),
    "bytes behind the end": codec.encode_frame([m.Ping(1)]) + b"\x00",
}


async def still_works(house: House, client: Peer, worker: Peer, number: int) -> None:
    """Run one job through the plane."""
    await client.say(client.submit(number, flags=m.WATCH))
    await worker.finish(await worker.hear(m.Offer), number)
    assert decode_value((await client.hear(m.Ended)).outcome) == number


async def test_every_broken_frame_gets_one_refusal_and_disturbs_nobody(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            for number, (what, frame) in enumerate(RAW_FRAMES.items()):
                async with house.client("bad").connected() as bad:
                    await bad.say_raw(frame)
                    refusal = await bad.hear(m.Refusal)
                    assert refusal.code == "protocol", what
                    await bad.hears_the_end()
                await still_works(house, client, worker, number)


@pytest.mark.parametrize(
    "message",
    [
        m.Accepted([1]),
        m.Offer(1, 1, 1, b"\0" * 16, "echo", 2, b"", None),
        m.Announce([{"name": "echo"}]),
        m.Capacity(5, 0),
        m.Finished(1, 1, 1, 1, 10, None, 5),
        m.HandBack([[1, 1, 1]]),
        m.Hello([1], "client", b"\0" * 16, "again", b"\0" * 16, [], {}),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_a_client_may_not_say_what_others_say(autojump_clock, message):
    async with open_house() as house, house.client().connected() as client:
        await client.say_raw(codec.encode_frame([message]))
        refusal = await client.hear(m.Refusal)
        assert type(message).__name__ in refusal.why
        await client.hears_the_end()


async def test_the_first_frame_is_an_introduction_and_nothing_else(autojump_clock):
    async with open_house() as house:
        async with house.listener.dial("silent") as channel:
            await channel.send(codec.encode_frame([m.Ping(1)]))
            (refusal,) = codec.decode_frame(await channel.receive())
            assert isinstance(refusal, m.Refusal)


async def test_who_does_not_introduce_itself_in_time_is_sent_away(autojump_clock):
    async with open_house() as house, house.listener.dial("silent") as channel:
        began = trio.current_time()
        with trio.fail_after(60):
            (refusal,) = codec.decode_frame(await channel.receive())
        assert isinstance(refusal, m.Refusal)
        assert trio.current_time() - began == house.settings.handshake_s


@pytest.mark.parametrize(
    ("facts", "changes", "code"),
    [
        ({}, {"versions": [2, 3]}, "version"),
        ({}, {"role": "plane"}, "protocol"),
        ({}, {"name": ""}, "protocol"),
        ({}, {"name": "x" * 300}, "protocol"),
        ({}, {"session": b"short"}, "protocol"),
        ({}, {"role": "worker"}, "protocol"),
        ({"queues": []}, {"role": "worker"}, "protocol"),
        ({"queues": "default"}, {"role": "worker"}, "protocol"),
        ({"queues": ["q"], "held": [[1, 2]]}, {"role": "worker"}, "protocol"),
        ({"queues": ["q"], "held": "all"}, {"role": "worker"}, "protocol"),
    ],
)
async def test_an_introduction_that_cannot_be_is_refused(autojump_clock, facts, changes, code):
    async with open_house() as house, house.listener.dial("bad") as channel:
        hello = house.client().hello(**facts)._replace(**changes)
        await channel.send(codec.encode_frame([hello]))
        (refusal,) = codec.decode_frame(await channel.receive())
        assert isinstance(refusal, m.Refusal)
        assert refusal.code == code
        assert len(house.core.sessions) == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"task": ""}, "bad-task"),
        ({"task": "x" * 300}, "bad-task"),
        ({"queue": ""}, "bad-queue"),
        ({"queue": "a b"}, "bad-queue"),
        ({"queue": "a,b"}, "bad-queue"),
        ({"queue": "a\x1b[2J"}, "bad-queue"),
        ({"payload": b"x" * 2000}, "too-large"),
        ({"options": {"colour": "red"}}, "unknown-option"),
        ({"options": {"delivery": "perhaps"}}, "bad-delivery"),
        ({"options": {"parent": "me"}}, "bad-parent"),
        ({"options": {"parent": [1, 1, 1]}}, "scope-closed"),
    ],
)
async def test_a_submission_that_cannot_be_is_declined_and_the_session_goes_on(
    autojump_clock, changes, code
):
    settings = PlaneSettings(payload_bytes=1000)
    async with open_house(settings) as house, house.client().connected() as client:
        bad = client.submit(1, **changes)
        await client.say(bad)
        declined = await client.hear(m.Declined)
        assert (declined.n, declined.code) == (bad.n, code)
        await client.submitted(2)


@pytest.mark.parametrize(
    "declaration",
    [
        {},
        {"name": 5},
        {"name": "x" * 300},
        {"name": "t", "queue": 7},
        {"name": "t", "priority": "high"},
        {"name": "t", "priority": 9},
        {"name": "t", "delivery": "perhaps"},
    ],
    ids=str,
)
async def test_an_announcement_that_cannot_be_ends_its_worker_only(autojump_clock, declaration):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker("bad").connected(**LISTENING) as bad:
            await bad.say(m.Announce([declaration]))
            assert (await bad.hear(m.Refusal)).code == "protocol"
        assert await client.ask("tasks") == {"tasks": []}


async def test_questions_that_cannot_be_are_answered_with_what_can(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        for question, params, hint in [
            ("weather", {}, "there are: "),
            ("job", {"id": "text"}, "16 bytes"),
            ("jobs", {"limit": 0}, "from 1 to"),
            ("jobs", {"filter": "state:asleep"}, "use one of"),
            ("jobs", {"filter": ["state:queued"]}, "filter is a text"),
            ("jobs", {"task": "echo"}, "jobs takes filter, before_seq, limit, and not 'task'"),
            ("task", {}, "name of a task"),
        ]:
            await client.say(m.Ask(1, question, params))
            assert hint in (await client.hear(m.AskFailed)).why
        await client.say(m.Subscribe(2, "weather", 5.0))
        assert "overview" in (await client.hear(m.AskFailed)).why
        await client.say(m.Subscribe(3, "overview", 1000.0))
        assert "times a second" in (await client.hear(m.AskFailed)).why


async def test_who_asks_and_never_reads_is_cut_and_its_session_kept(autojump_clock):
    settings = PlaneSettings(outbox_bytes=20_000, payload_bytes=10_000)
    async with open_house(settings, capacity=2) as house, house.client().connected() as client:
        deaf = house.client("deaf")
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            async with deaf.connected():
                for number in range(1000):
                    try:
                        await deaf.say(m.Ask(number, "tasks", {}))
                    except ChannelBroken:
                        break
                    await trio.sleep(0.01)
                await deaf.hears_the_end()
            answers = [message for message in deaf.heard if isinstance(message, m.Answer)]
            assert len(answers) < 200
            async with deaf.connected():
                assert deaf.welcome is not None
                assert deaf.welcome.is_resumed
            await still_works(house, client, worker, 77)


async def test_views_follow_what_happens_and_end_with_their_reader(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        await client.say(m.Subscribe(9, "overview", 5.0))
        first = await client.hear(m.View)
        assert (first.ref, first.rev, first.body["jobs"]) == (9, 1, [])
        await client.hears_nothing(m.View, 10)
        await client.submitted(1)
        view = await client.hear(m.View)
        while not view.body["jobs"]:
            view = await client.hear(m.View)
        assert view.body["jobs"][0]["task"] == "echo"
        await client.say(m.Unsubscribe(9))
        await client.submitted(2)
        await client.hears_nothing(m.View, 10)
        await client.say(m.Subscribe(10, "overview", 5.0))
        assert len((await client.hear(m.View)).body["jobs"]) == 2


class SlowHistory(MemoryStore):
    """A store whose history gives up."""

    async def jobs(self, filter, **where):
        await trio.lowlevel.checkpoint()
        raise StoreError("the question took longer than 2 s")


async def test_a_question_that_the_store_gives_up_fails_alone(autojump_clock):
    async with open_house(make_store=SlowHistory) as house, house.client().connected() as client:
        await client.say(m.Ask(1, "jobs", {}), m.Subscribe(2, "overview", 5.0))
        failed = await client.hear(m.AskFailed)
        assert (failed.code, failed.why) == ("store", "the question took longer than 2 s")
        await client.hears_nothing(m.View, 5)
        await client.submitted(1)


async def test_an_answer_tells_of_so_many_lanes_and_says_how_many_more_there_are(autojump_clock):
    async with open_house() as house, house.client().connected() as client:
        for start in range(0, 1200, 100):
            await client.say(*(client.submit(n, queue=f"q{n}") for n in range(start, start + 100)))
        await client.submitted(1200, queue="q0", task="other")
        answer = await client.ask("queues")
        assert sum(len(queue["lanes"]) for queue in answer["queues"]) == views.MAX_LANES
        assert (answer["lanes_left_out"], answer["queues_left_out"]) == (201, 201)
        overview = await client.ask("overview")
        assert overview["queues_left_out"] == 1201 - views.OVERVIEW_LANES


async def test_an_answer_that_nobody_would_take_in_is_refused_and_a_view_is_skipped(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(codec, "DEFAULT_LIMITS", codec.Limits(message_bytes=100_000))
    async with open_house() as house, house.client("bad").connected() as bad:
        name = "\U0001f600" * 180
        await bad.say(bad.submit(0))
        async with house.client().connected() as client:
            await client.say(m.Subscribe(5, "overview", 1.0))
            await client.hear(m.View)
            for n in range(400):
                await bad.say(bad.submit(n, queue=f"{name}{n}"))
            await client.say(m.Ask(6, "queues", {}))
            refused = await client.hear(m.AskFailed)
            assert (refused.ref, refused.code) == (6, "too-large")
            await trio.sleep(2)
            client.heard.clear()
            await client.hears_nothing(m.View, 5)
            await bad.say(m.Cancel(9, [bad.submit(0).id], ""))
            assert (await client.ask("health"))["ready"]
