"""What happens is told to whoever follows it, and gathered for nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.scripted import Peer, open_house
from tests.cluster.test_delays import patient
from tests.cluster.test_windows import LISTENING

from creche.engine import happenings
from creche.wire import messages as m

pytestmark = pytest.mark.trio


async def told(client: Peer, number: int) -> list[dict[str, Any]]:
    """The events of the first view that has so many."""
    while True:
        view = await client.hear(m.View)
        if view.body["number"] >= number:
            events: list[dict[str, Any]] = view.body["events"]
            return events


async def test_who_follows_is_told_what_becomes_of_jobs_and_of_the_plane(
    autojump_clock: object,
) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        await client.submitted(1)  # before anybody follows
        await client.say(m.Subscribe(7, "events", 5.0))
        assert (await client.hear(m.View)).body["events"] == []
        worker = house.worker()
        async with worker.connected(**LISTENING):
            await worker.ready("echo")
            await client.submitted(2, options={"retry": {"retries": 1, "backoff": 1.0}})
            for _ in range(2):
                offer = await worker.hear(m.Offer)
                await worker.try_again(offer)
            await worker.try_again(await worker.hear(m.Offer))
            events = await told(client, 5)
        assert [event["n"] for event in events] == [1, 2, 3, 4, 5]
        kinds = [event["kind"] for event in events]
        assert kinds[0] == "plane"
        assert "worker worker has come" in events[0]["why"]
        assert sorted(kinds[1:]) == ["failed", "failed", "submitted", "tried"]
        failed = [event for event in events if event["kind"] == "failed"]
        assert {event["task"] for event in failed} == {"echo"}
        assert all(event["why"] for event in failed)


async def test_nothing_is_gathered_before_and_after_somebody_follows(
    autojump_clock: object,
) -> None:
    async with open_house(patient()) as house, house.client().connected() as client:
        await client.submitted(1)
        assert house.core.happenings is None
        await client.say(m.Subscribe(7, "events", 5.0))
        await client.hear(m.View)
        assert house.core.happenings is not None
        await client.submitted(2)
        assert len(await told(client, 1)) == 1
        await client.say(m.Unsubscribe(7))
        await client.submitted(3)
        assert house.core.happenings is None
        await client.say(m.Subscribe(8, "events", 5.0))
        assert (await client.hear(m.View)).body == {"epoch": 1, "number": 1, "events": []}


async def test_a_view_has_the_newest_events_and_counts_all(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happenings, "MOST", 20)
    async with open_house(patient()) as house, house.client().connected() as client:
        await client.say(m.Subscribe(7, "events", 1.0))
        await client.hear(m.View)
        await client.say(*(client.submit(number) for number in range(1, 101)))
        events = await told(client, 100)
        assert [event["n"] for event in events] == list(range(81, 101))
        assert {event["kind"] for event in events} == {"submitted"}
