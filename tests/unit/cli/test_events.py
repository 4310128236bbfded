"""`creche events` tells each event once, and how many it could not tell."""

from __future__ import annotations

from typing import Any

from creche.cli.events import Reader


def a_view(first: int, last: int, epoch: int = 1) -> dict[str, Any]:
    events = [{"n": n, "kind": "submitted", "task": f"t{n % 2}"} for n in range(first, last + 1)]
    return {"epoch": epoch, "number": last, "events": events}


def numbers(reader: Reader, view: dict[str, Any]) -> list[int]:
    return [event["n"] for event in reader.read(view)]


def test_each_event_is_told_once_though_every_view_has_the_newest() -> None:
    reader = Reader(())
    assert numbers(reader, a_view(1, 3)) == [1, 2, 3]
    assert numbers(reader, a_view(1, 3)) == []
    assert numbers(reader, a_view(2, 6)) == [4, 5, 6]
    assert reader.missed == 0


def test_what_came_too_fast_is_counted() -> None:
    reader = Reader(())
    assert numbers(reader, a_view(501, 502)) == [501, 502]
    assert reader.missed == 0  # it was before the first look
    assert numbers(reader, a_view(600, 601)) == [600, 601]
    assert reader.missed == 97


def test_after_a_restart_the_numbers_begin_anew() -> None:
    reader = Reader(())
    numbers(reader, a_view(90, 99))
    assert numbers(reader, a_view(1, 2, epoch=2)) == [1, 2]
    assert reader.missed == 0


def test_only_jobs_of_the_tasks_that_were_named_are_told() -> None:
    reader = Reader(["t1", "x*"])
    view = a_view(1, 4)
    view["events"].append({"n": 5, "kind": "plane", "why": "a worker is gone"})
    assert numbers(reader, view) == [1, 3]
