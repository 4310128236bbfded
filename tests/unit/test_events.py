"""Events: one plug, told in order, each record readable."""

from __future__ import annotations

import logging

import pytest
import trio

from creche import events
from creche.channel.memory import MemoryListener
from creche.engine.plane import run_plane
from creche.store.memory import MemoryStore

RECORDS = [
    events.PeerCame("w", "worker", False),
    events.PeerLeft("w", "worker", "it said goodbye"),
    events.PeerRefused("somebody", "protocol", "not a frame"),
    events.AttemptsLost("w", 3, "silent for 60 s"),
    events.LeaseLost("0198c0de-0000-7000-8000-000000000000", "w", 2, 1, "silent for 60 s"),
    events.StoreFailing("no space left"),
    events.StoreWorks(),
    events.CoreRestarts("its process is gone"),
]


@pytest.mark.parametrize("event", RECORDS, ids=lambda event: type(event).__name__)
def test_an_event_reads_as_a_sentence_and_is_logged_at_its_level(event, caplog):
    with caplog.at_level(logging.DEBUG, "creche.plane"):
        events.log(event)
    (record,) = caplog.records
    assert record.levelno == event.level
    assert record.getMessage() == str(event)
    assert type(event).__name__ not in str(event)


def test_subscribers_are_told_in_order_until_they_leave():
    hub, told = events.Hub(), []
    leave = hub.subscribe(lambda event: told.append(("first", event)))
    hub.subscribe(lambda event: told.append(("second", event)))
    hub.emit(RECORDS[0])
    leave()
    hub.emit(RECORDS[1])
    assert told == [("first", RECORDS[0]), ("second", RECORDS[0]), ("second", RECORDS[1])]


@pytest.mark.trio
async def test_a_plane_tells_its_subscribers_who_was_sent_away(autojump_clock):
    told: list[events.Event] = []
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:

        async def plane(task_status):
            await run_plane(
                MemoryStore, listener.serve, subscribers=[told.append], task_status=task_status
            )

        await nursery.start(plane)
        async with listener.dial("stranger") as channel:
            await channel.send(b"garbage")
            await channel.receive()
        nursery.cancel_scope.cancel()
    (refused,) = told
    assert isinstance(refused, events.PeerRefused)
    assert refused.code == "protocol"
