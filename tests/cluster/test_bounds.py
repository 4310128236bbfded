"""What one peer can pile up is bounded, what it says of itself is too, and a mistake that the plane
makes with one peer costs only that one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.cluster.scripted import House, Peer, job_id, open_house
from tests.cluster.test_windows import LISTENING, DiskLike, run_all

from creche.engine import views
from creche.engine.catalog import MAX_COMPARED
from creche.engine.hints import MAX_HINTED
from creche.engine.sessions import MAX_FACT, Session
from creche.engine.settings import PlaneSettings
from creche.model.priority import Priority
from creche.store.memory import MemoryStore
from creche.wire import messages as m
from creche.wire.codec import cut, encode_message

pytestmark = pytest.mark.trio


def session_of(house: House, peer: Peer) -> Session:
    session = house.core.sessions.get(peer.session)
    assert session is not None
    return session


def pieces_of(message: m.Message) -> Iterator[m.Message]:
    """The message itself, or what it travels in if it is a large one."""
    data = encode_message(message)
    return iter([message]) if len(data) < 100_000 else cut(1, data, 64 * 1024)


# --- results --------------------------------------------------------------------------------------


async def test_who_never_says_what_it_received_pins_no_more_than_it_may_wait_for(autojump_clock):
    settings = PlaneSettings(watches=10)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            for n in range(50):
                last = await client.submitted(n, flags=m.WATCH)
                await worker.finish(await worker.hear(m.Offer))
                await client.hear(m.Ended)
            assert len(house.core.outcomes.pinned) == 10
            rows = await house.core.store.outcomes([last.id])
            assert rows[last.id].seq in house.core.outcomes.pinned


async def test_who_comes_back_again_and_again_pins_no_more_than_it_may_wait_for(autojump_clock):
    settings = PlaneSettings(watches=10)
    async with open_house(settings) as house:
        client = house.client()
        for n in range(20):
            async with client.connected():
                await client.say(*(client.submit(n * 10 + i, flags=m.WATCH) for i in range(10)))
                await trio.sleep(0.1)
        assert len(house.core.outcomes.pinned) <= 20


async def test_who_says_the_same_twice_while_it_waits_is_counted_once(autojump_clock):
    async with (
        open_house(PlaneSettings(window=1)) as house,
        house.client().connected() as client,
    ):
        await client.submitted(1)
        waits = client.submit(2, payload=b"x")
        await client.say(waits)
        for i in range(5):
            claim = waits._replace(n=1000 + i)
            await client.say(claim, claim._replace(payload=b"y" * 9000))
        await trio.sleep(1)
        (session,) = house.core.sessions
        assert (session.claims.number, session.claims.bytes) == (5, 5)
        await client.say(m.Cancel(7, [waits.id], ""))
        await client.hear(m.Answer)
        assert (session.claims.number, session.claims.bytes) == (0, 0)


async def test_a_view_shows_no_more_queues_than_lanes(autojump_clock, monkeypatch):
    monkeypatch.setattr(views, "OVERVIEW_LANES", 20)
    queues = [f"q{i:03}" for i in range(60)]
    async with (
        open_house() as house,
        house.client().connected() as client,
        house.worker().connected(queues=["default"]) as worker,
    ):
        await worker.ready("echo", slots=1)
        jobs = [await client.submitted(i, task="nobody", queue=q) for i, q in enumerate(queues)]
        await client.say(m.Cancel(7, [job.id for job in jobs], ""))
        await client.hear(m.Answer)
        # It looks into each of them once, and then they are looked into no more.
        async with house.worker("w2").connected(queues=queues) as knowing:
            await knowing.ready("nobody", slots=1)
            await trio.sleep(1)
            view = await client.ask("overview")
        assert (len(view["queues"]), view["queues_left_out"]) == (20, 40)


async def test_submissions_that_ask_for_their_result_count_as_waits(autojump_clock):
    settings = PlaneSettings(watches=10)
    async with open_house(settings) as house, house.client().connected() as client:
        jobs = [client.submit(n, flags=m.WATCH) for n in range(12)]
        await client.say(*jobs, client.submit(20))
        declined = [await client.hear(m.Declined) for _ in range(2)]
        assert [(d.n, d.code) for d in declined] == [(job.n, "watches") for job in jobs[10:]]
        await client.say(m.Watch([job.id for job in jobs[:10]]))
        assert await client.ask("health")
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            await run_all(worker, 11)
        for _ in range(10):
            await client.hear(m.Ended)
        await client.submitted(30, flags=m.WATCH)
        await client.say(m.Watch([job_id(40 + n) for n in range(10)]))
        assert "wait for 10 jobs" in (await client.hear(m.Refusal)).why


# --- lanes ----------------------------------------------------------------------------------------


async def test_a_job_that_needs_one_lane_too_many_is_declined_and_others_are_not(autojump_clock):
    settings = PlaneSettings(lanes=10)
    async with open_house(settings) as house, house.client().connected() as client:
        for n in range(10):
            await client.submitted(n, queue=f"user-{n}")
        await client.say(client.submit(20, queue="one-more"))
        declined = await client.hear(m.Declined)
        assert declined.code == "lanes"
        assert "10 lanes" in declined.why
        for n in range(10):
            await client.submitted(30 + n, queue=f"user-{n}")
        assert len(house.core.lanes.by_number) == 10


async def test_lanes_where_nothing_waits_make_room_for_others(autojump_clock):
    settings = PlaneSettings(lanes=10)
    async with open_house(settings) as house, house.client().connected() as client:
        for n in range(50):
            job = await client.submitted(n, queue=f"user-{n}", task=f"task-{n}")
            await client.say(m.Cancel(n, [job.id], ""))
            await client.hear(m.Answer)
            await trio.sleep(0.2)
        assert len(house.core.lanes.by_number) <= 10
        assert len(house.core.lanes.queues) <= 10


async def test_a_job_whose_lane_was_let_go_of_while_it_ran_finds_its_way_back(autojump_clock):
    settings = PlaneSettings(lanes=4)
    async with open_house(settings) as house, house.client().connected() as client:
        async with house.worker("a").connected(**LISTENING) as worker:
            await worker.ready("echo", slots=1)
            job = await client.submitted(1)
            offer = await worker.hear(m.Offer)
            for n in range(10):
                passing = await client.submitted(100 + n, queue=f"user-{n}")
                await client.say(m.Cancel(n, [passing.id], ""))
                await client.hear(m.Answer)
                await trio.sleep(1)
            await worker.say(m.HandBack([[offer.seq, offer.epoch, offer.attempt]]))
            assert (await worker.hear(m.Offer)).id == job.id


@pytest.mark.parametrize("make_store", [MemoryStore, DiskLike])
async def test_parked_and_stored_jobs_outlive_a_search_for_lanes_that_nobody_uses(
    autojump_clock, make_store
):
    settings = PlaneSettings(lanes=5, window=2)
    async with open_house(settings, make_store) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await client.say(*(client.submit(n) for n in range(6)))
            await client.say(*(client.submit(n, priority=0) for n in range(10, 12)))
            for n in range(20):
                passing = client.submit(100 + n, queue=f"user-{n}")
                await client.say(passing, m.Cancel(n, [passing.id], ""))
                await trio.sleep(1)
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 8) == [10, 11, 0, 1, 2, 3, 4, 5]


async def test_a_plane_starts_with_no_more_lanes_than_it_may_have_and_those_it_needs(
    autojump_clock,
):
    store = DiskLike()
    async with open_house(make_store=lambda: store) as house, house.client().connected() as client:
        for n in range(30):
            job = await client.submitted(n, queue=f"user-{n}")
            if n >= 5:
                await client.say(m.Cancel(n, [job.id], ""))
                await client.hear(m.Answer)
    settings = PlaneSettings(lanes=10)
    async with open_house(settings, lambda: store) as house, house.client().connected() as client:
        waiting = {f"user-{n}" for n in range(5)}
        assert len(house.core.lanes.by_number) <= 10
        assert waiting <= house.core.lanes.queues.keys()
        await client.submitted(100, queue="new")
        async with house.worker().connected(queues=[*sorted(waiting), "new"]) as worker:
            await worker.ready("echo", slots=1)
            assert await run_all(worker, 6) == [0, 1, 2, 3, 4, 100]


# --- what a peer says of itself -------------------------------------------------------------------


async def test_of_what_a_worker_says_of_itself_only_what_is_shown_is_kept(autojump_clock):
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep]
    async with open_house() as house, house.client().connected() as client:
        facts = {"pid": deep, "host": "h" * 10_000, "version": {"x": deep}, "poem": "p" * 10_000}
        async with house.worker().connected(**LISTENING, **facts) as worker:
            await worker.ready("echo")
            (shown,) = (await client.ask("workers"))["workers"]
            assert (shown["pid"], shown["host"], shown["version"]) == (None, "h" * MAX_FACT, None)
            assert "poem" not in shown
            assert session_of(house, worker).facts.keys() == {"pid", "host", "version"}


async def test_of_what_a_worker_says_of_its_tasks_only_what_is_known_is_kept(autojump_clock):
    said = {"name": "echo", "queue": "q", "priority": 1, "delivery": None, "doc": "Says it again."}
    signature = {"parameters": [["value", 1, None, "int"]], "returns": "int"}
    odd = {"poem": ["p"], "module": {"not": "a text"}}
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            more = {"signature": {**signature, "poem": "p"}, **odd}
            await worker.say(m.Announce([{**said, **more}]))
            assert (await client.ask("tasks"))["tasks"] == [{**said, "signature": signature}]


@pytest.mark.parametrize(
    "declarations",
    [
        [{"name": "echo", "doc": "x" * 70_000}],
        [{"name": f"task {n}", "doc": "x" * 60_000} for n in range(280)],
        [{"name": "echo", "signature": {"parameters": [["value", 1, None, ["int"]]]}}],
        [{"name": "echo", "signature": {"parameters": "any"}}],
        [{"name": "echo", "signature": "(value)"}],
    ],
    ids=["a large one", "many", "a deep signature", "no parameters", "a text"],
)
async def test_an_announcement_that_is_too_much_ends_its_workers_connection_only(
    autojump_clock, declarations
):
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            for message in pieces_of(m.Announce(declarations)):
                await worker.say(message)
            assert (await worker.hear(m.Refusal)).code == "protocol"
            assert (await client.ask("tasks"))["tasks"] == []


async def test_names_near_an_unknown_one_are_looked_for_among_some_and_for_some(autojump_clock):
    """To compare names takes milliseconds, and a peer can make up any number of them."""
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            others = [f"another_{'x' * (n % 40)}{n}" for n in range(5 * MAX_COMPARED)]
            await worker.ready("resize_image", *others)
            await trio.sleep(1)
            for n in range(2 * MAX_HINTED):
                await client.say(client.submit(n, task=f"resize_image{n}"))
                is_hinted = "'resize_image'" in (await client.hear(m.Warned)).why
                assert is_hinted == (n < MAX_HINTED)


# --- mistakes of the plane ------------------------------------------------------------------------


class Unspeakable:
    """Nothing that a frame could carry."""


class Mistaken(MemoryStore):
    """Says of itself, and of how jobs ended, what no frame can carry."""

    async def info(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"kind": Unspeakable()}

    async def outcomes(self, ids: Any, max_bytes=None) -> Any:
        rows = await super().outcomes(ids, max_bytes)
        return {i: row._replace(outcome=[Unspeakable()]) for i, row in rows.items()}


@pytest.mark.parametrize("question", ["an answer", "a result"])
async def test_a_message_that_cannot_be_sent_ends_one_conversation_and_is_in_the_log(
    autojump_clock, caplog, question
):
    async with open_house(make_store=Mistaken) as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await worker.ready("echo")
            job = await client.submitted(1)
            await worker.finish(await worker.hear(m.Offer))
            await trio.sleep(1)
            unlucky = house.client("unlucky")
            async with unlucky.connected():
                asked = m.Ask(1, "store", {}) if question == "an answer" else m.Watch([job.id])
                await unlucky.say(asked)
                assert (await unlucky.hear(m.Refusal)).code == "internal"
                await unlucky.hears_the_end()
            async with unlucky.connected():
                assert unlucky.welcome is not None
                assert unlucky.welcome.is_resumed
            await client.submitted(2)
            await worker.hear(m.Offer)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.exc_info is not None for r in errors] == [True]


# --- counts ---------------------------------------------------------------------------------------


async def test_a_lane_that_moves_while_its_job_runs_leaves_no_trace_in_the_workers_counts(
    autojump_clock,
):
    """How urgent a worker's least urgent job is decides what passes it by."""
    async with open_house() as house, house.client().connected() as client:
        async with house.worker().connected(**LISTENING) as worker:
            await client.submitted(1)
            await worker.ready("echo", slots=1)
            offer = await worker.hear(m.Offer)
            session = session_of(house, worker)
            assert session.least_urgent() == Priority.NORMAL
            low = {"name": "echo", "priority": int(Priority.LOW)}
            await worker.say(m.Announce([low]))
            await trio.sleep(1)
            assert session.least_urgent() == Priority.NORMAL
            await worker.finish(offer)
            await trio.sleep(1)
            assert session.least_urgent() == 0
            await client.submitted(2)
            await worker.hear(m.Offer)
            assert session.least_urgent() == Priority.LOW


@pytest.mark.parametrize("window", [10, 1])
async def test_a_parents_unfinished_jobs_are_counted_again_after_a_restart(autojump_clock, window):
    """As far as they are in memory; never fewer than none."""
    store = DiskLike()
    settings = PlaneSettings(window=window, max_children=3)
    async with open_house(settings, lambda: store) as house:
        async with house.client().connected() as client:
            worker = house.worker()
            async with worker.connected(**LISTENING):
                await worker.ready("echo", slots=1)
                await client.submitted(1)
                parent = await worker.hear(m.Offer)
                token = [parent.seq, parent.epoch, parent.attempt]
                for n in (2, 3):
                    await client.submitted(n, options={"parent": token})
                await trio.sleep(1)
    async with open_house(settings, lambda: store) as house:
        worker.listener = house.listener
        job = house.core.by_seq[parent.seq]
        assert job.children == min(2, window)
        async with house.client().connected() as client:
            async with worker.connected(**LISTENING, held=[token]):
                await worker.ready("echo", slots=2)
                await run_all(worker, 2)
                await trio.sleep(1)
                assert job.children == 0
                for n in (4, 5, 6):
                    await client.submitted(n, options={"parent": token})
                await client.say(client.submit(7, options={"parent": token}))
                assert (await client.hear(m.Declined)).code == "scope-full"


async def test_a_plane_takes_no_larger_payloads_than_its_peers_read():
    with pytest.raises(ValueError, match="no peer reads larger ones"):
        PlaneSettings(payload_bytes=16 * 1024 * 1024 + 1)
    with pytest.raises(ValueError, match="at least twice payload_bytes"):
        PlaneSettings(payload_bytes=2000, outbox_bytes=3999)
