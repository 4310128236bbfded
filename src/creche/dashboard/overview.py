"""What the page shows: the plane's overview, reduced to plain, bounded data.

The plane passes on what others chose: names of tasks, queues and workers, and facts that a worker
says about itself. So nothing is taken over as it is. Every field has one type, texts are cut and
hold no control or direction characters, lists have an end and say how much was left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from creche.model.job import JobState
from creche.model.priority import Priority

MAX_TEXT = 200
MAX_QUEUES = 50
MAX_PARKED = 10
"""Reasons shown of one lane: jobs of many unknown tasks have a parked lane each."""
MAX_WORKERS = 100
MAX_JOBS = 50

Overview = dict[str, Any]
"""JSON-safe. `at` is when it was made and `seen_at` when the plane said it (None: never), both UTC
seconds; `reachable` whether the plane answers now, and `why` what is wrong when it does not."""


def empty_overview(url: str) -> Overview:
    """Return what there is to show before the plane has said anything."""
    return {
        "v": 1,
        "at": 0.0,
        "seen_at": None,
        "reachable": False,
        "why": "connecting",
        "url": _text(url),
        "plane": None,
        "queues": [],
        "workers": [],
        "jobs": [],
        "left_out": {"queues": 0, "workers": 0},
    }


def make_overview(view: Any, url: str, at: float) -> Overview:
    """Return the page's data from the plane's view, as it came over the wire at *at*."""
    view = _mapping(view)
    queues = _mappings(view.get("queues"))
    workers = _mappings(view.get("workers"))
    return {
        **empty_overview(url),
        "at": at,
        "seen_at": at,
        "reachable": True,
        "why": "",
        "plane": _plane(_mapping(view.get("health"))),
        "queues": [_queue(queue) for queue in queues[:MAX_QUEUES]],
        "workers": [_worker(worker) for worker in workers[:MAX_WORKERS]],
        "jobs": [_job(job) for job in _mappings(view.get("jobs"))[:MAX_JOBS]],
        "left_out": {
            "queues": max(0, len(queues) - MAX_QUEUES) + _count(view.get("queues_left_out")),
            "workers": max(0, len(workers) - MAX_WORKERS) + _count(view.get("workers_left_out")),
        },
    }


def unreachable(last: Overview, why: str, at: float) -> Overview:
    """Return *last* as what was seen before the plane went away."""
    return {**last, "at": at, "reachable": False, "why": _text(why)}


def _plane(health: Mapping[str, Any]) -> dict[str, Any]:
    counts = _mapping(health.get("jobs"))
    return {
        "id": _text(health.get("plane")),
        "epoch": _count(health.get("epoch")),
        "durability": _text(health.get("durability")),
        "version": _text(health.get("version")),
        "started_at": _moment(health.get("started_at")),
        "ready": health.get("ready") is True,
        "stopping": health.get("stopping") is True,
        "failing": _text(health.get("failing")),
        "jobs": {
            state.word: _count(counts[state.word]) for state in JobState if state.word in counts
        },
    }


def _queue(queue: Mapping[str, Any]) -> dict[str, Any]:
    lanes = _mappings(queue.get("lanes"))
    return {
        "queue": _text(queue.get("queue")),
        "state": _queue_state(queue, lanes),
        "running": _count(queue.get("running")),
        "lanes": [_lane(priority.word, lanes) for priority in Priority],
    }


def _queue_state(queue: Mapping[str, Any], lanes: Iterable[Mapping[str, Any]]) -> str:
    """Say whether a queue is taken from, and what a person has said of it; nothing if all is as
    usual."""
    is_paused, limit, rate = queue.get("paused") is True, queue.get("limit"), queue.get("rate")
    is_shut = queue.get("shut") is True or any(lane.get("shut") is True for lane in lanes)
    is_limited = is_shut and not is_paused
    words = ["paused" if is_paused else "", "limited" if is_limited else ""]
    words.append("" if limit is None else f"{_count(limit):,} at a time")
    return ", ".join(filter(None, [*words, _text(rate)]))


def _lane(word: str, lanes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the lane of one priority and those parked beside it together; any may be missing."""
    lanes = [lane for lane in lanes if lane.get("priority") == word]
    main = next((lane for lane in lanes if not lane.get("parked")), {})
    parked: list[dict[str, Any]] = [
        {"reason": _reason(lane.get("parked")), "jobs": jobs}
        for lane in lanes
        if lane.get("parked") and (jobs := _count(lane.get("ready")))
    ]
    parked.sort(key=lambda entry: (-entry["jobs"], entry["reason"]))
    return {
        "priority": word,
        "ready": _count(main.get("ready")),
        "stored": _count(main.get("stored")),
        "window": _count(main.get("window")),
        "waiting": _count(main.get("waiting")),
        "parked": sum(entry["jobs"] for entry in parked),
        "parked_by": parked[:MAX_PARKED],
        "parked_by_left_out": max(0, len(parked) - MAX_PARKED),
    }


def _worker(worker: Mapping[str, Any]) -> dict[str, Any]:
    queues = worker.get("queues")
    return {
        "name": _text(worker.get("name")),
        "state": _text(worker.get("state")),
        "queues": [_text(name) for name in queues[:20]] if isinstance(queues, list) else [],
        "tasks": _count(worker.get("task_count")),
        "slots": _count(worker.get("slots")),
        "lent": _count(worker.get("lent")),
        "running": _count(worker.get("running")),
        "look_ahead": _count(worker.get("look_ahead")),
        "done": _count(worker.get("done")),
        "failed": _count(worker.get("failed")),
        "since": _moment(worker.get("since")),
        "pid": _count(worker.get("pid")),
        "host": _text(worker.get("host")),
        "version": _text(worker.get("version")),
    }


def _job(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": _text(job.get("id")),
        "seq": _count(job.get("seq")),
        "task": _text(job.get("task")),
        "queue": _text(job.get("queue")),
        "priority": _text(job.get("priority")),
        "state": _text(job.get("state")),
        "parked": _reason(job.get("parked"), of=_text(job.get("task"))),
        "attempt": _count(job.get("attempt")),
        "losses": _count(job.get("losses")),
        "worker": _text(job.get("worker")),
        "submitted_at": _moment(job.get("submitted_at")),
        "started_at": _moment(job.get("started_at")),
        "ended_at": _moment(job.get("ended_at")),
    }


def _reason(park: Any, of: str = "") -> str:
    """Say why jobs, or one job of the task *of*, are parked; the plane says ``task:NAME``."""
    kind, _, key = _text(park).partition(":")
    if kind == "task":
        return "for a worker that knows it" if key == of else f"for a worker that knows {key}"
    return f"{kind} {key}".strip()


def _text(value: Any) -> str:
    """Return a text that can be shown and encoded: bounded, and of printable characters only."""
    if not isinstance(value, str):
        return ""
    text = value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _count(value: Any) -> int:
    # 2**53: beyond it a browser's numbers are not whole any more.
    return value if type(value) is int and 0 <= value <= 2**53 else 0


def _moment(value: Any) -> float | None:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e11:
        return None
    return float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
