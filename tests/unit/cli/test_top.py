"""What `creche top` draws of a plane."""

from __future__ import annotations

from typing import Any

from creche.cli.top import Seen, frame

NOW = 1_800_000_000.0


def a_worker(name: str, **facts: Any) -> dict[str, Any]:
    usual = {"state": "connected", "running": 1, "slots": 4, "done": 10, "failed": 2, "since": NOW}
    return {"name": name, **usual, **facts}


def a_view(**facts: Any) -> dict[str, Any]:
    lane = {
        "priority": "normal",
        "parked": "",
        "shut": False,
        "ready": 1200,
        "stored": 5,
        "delayed": 0,
    }
    free = {"paused": False, "limit": None, "rate": None}
    usual: dict[str, Any] = {
        "health": {
            "ready": True, "stopping": False, "failing": None, "epoch": 3, "durability": "disk",
            "started_at": NOW - 3700, "jobs": {"queued": 1205, "running": 2, "succeeded": 7},
        },
        "queues": [{"queue": "default", "lanes": [lane, {**lane, "priority": "low"}], **free}],
        "workers": [a_worker("box-1"), a_worker("box-2", running=0)],
    }  # fmt: skip
    return {**usual, **facts}


def a_job(n: int, **facts: Any) -> dict[str, Any]:
    usual = {"task": "resize", "attempt": 1, "worker": "box-1", "started_at": NOW - n}
    return {"id": f"id-{n}", **usual, **facts}


def test_it_shows_lanes_workers_and_what_runs_longest_first() -> None:
    lines = frame(Seen(a_view(), [a_job(5), a_job(90, attempt=2)], NOW), None)
    assert lines[0].startswith("plane ready, epoch 3, up 1 h 1 min, on disk  ")
    assert lines[1] == "jobs  1,205 queued, 2 running"
    assert lines[2:] == [
        "",
        "QUEUE    PRIORITY  PARKED  STATE  READY  STORED  DELAYED",
        "default  normal    -       -      1,200       5        0",
        "default  low       -       -      1,200       5        0",
        "",
        "WORKER  STATE      RUNNING  SLOTS  DONE  FAILED  DONE/S",
        "box-1   connected        1      4    10       2       -",
        "box-2   connected        0      4    10       2       -",
        "",
        "RUNNING  TASK    ATTEMPT  WORKER  FOR",
        "id-90    resize        2  box-1   1 min 30 s",
        "id-5     resize        1  box-1   5 s",
    ]


def test_a_queue_that_is_paused_or_limited_says_so() -> None:
    view = a_view()
    (queue,) = view["queues"]
    queue |= {"paused": True}
    assert all(" paused " in line for line in frame(Seen(view, [], NOW), None)[4:6])
    queue |= {"paused": False, "rate": "10/m"}
    queue["lanes"][1] |= {"shut": True}
    normal, low = frame(Seen(view, [], NOW), None)[4:6]
    assert "  10/m " in normal
    assert "  limited, 10/m " in low


def test_rates_are_of_workers_that_were_there_all_the_while() -> None:
    before = Seen(a_view(), [], NOW)
    workers = [a_worker("box-1", done=50, failed=6), a_worker("box-2", since=NOW + 1, done=9)]
    lines = frame(Seen(a_view(workers=[*workers, a_worker("new")]), [], NOW + 2), before)
    assert lines[1].endswith("  20/s done, 2/s failed")
    rates = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("box", "new"))}
    assert rates == {"box-1": "20", "box-2": "-", "new": "-"}
    assert "/s" not in frame(before, before)[1]


def test_it_fits_any_terminal_and_says_what_it_leaves_out() -> None:
    many = a_view(workers=[a_worker(f"worker-{n}") for n in range(200)])
    jobs = [a_job(n) for n in range(100)]
    for width, height in [(80, 24), (40, 10), (20, 5), (200, 1000)]:
        lines = frame(Seen(many, jobs, NOW), None, width, height)
        assert len(lines) <= height
        assert all(len(line) <= width for line in lines)
    lines = frame(Seen(many, jobs, NOW), None, 80, 24)
    assert "... and 194 more" in lines
    assert any(line.startswith("... and ") for line in lines[-1:])


def test_on_80_columns_nothing_is_cut_in_silence() -> None:
    """Some columns make room, which is said; a text that is cut says so; words stay whole."""
    view = a_view(workers=[a_worker("a-machine-with-a-long-name.example.org/local-1")])
    (queue,) = view["queues"]
    queue |= {"queue": "q" * 70, "paused": True, "rate": "100/m"}
    view["health"]["jobs"] = dict.fromkeys(
        ("queued", "parked", "delayed", "running", "cancelling", "failed", "lost", "expired"), 10**6
    )
    job = a_job(5, id="01a3185c-5000-7000-8000-000000000001", task="t" * 50, worker="w" * 50)
    lines = frame(Seen(view, [job], NOW), None, 80)
    assert all(len(line) <= 80 for line in lines)
    (lane,) = [line for line in lines if " normal " in line]
    assert "…" in lane
    assert "  paused, 100/m  " in lane
    (running,) = [line for line in lines if line.startswith(job["id"])]
    assert running.count("…") == 2
    assert running.endswith("  5 s")
    for word in ("1,000,000 lost", "1,000,000 expired"):
        assert word in " ".join(line.strip() for line in lines)
    narrow = frame(Seen(view, [job], NOW), None, 60)
    assert all(len(line) <= 60 for line in narrow)
    assert any(line.startswith("no room for ") for line in narrow)


def test_a_queue_that_is_paused_before_its_first_job_is_shown() -> None:
    new = {"queue": "new", "lanes": [], "paused": True, "limit": None, "rate": None}
    view = a_view(queues=[new])
    assert frame(Seen(view, [], NOW), None)[4].split() == ["new", *"--", "paused", *"---"]


def test_what_others_named_cannot_command_the_terminal() -> None:
    lines = frame(Seen(a_view(), [a_job(1, task="\x1b[2Jgone")], NOW), None)
    assert not any("\x1b" in line for line in lines)
    assert any("\\x1b[2Jgone" in line for line in lines)


def test_a_plane_that_is_gone_is_said_to_be_above_what_was_seen_last() -> None:
    lines = frame(Seen(a_view(), [], NOW), None, 80, 24, ["the plane is gone; waiting for it"])
    assert lines[0] == "the plane is gone; waiting for it"
    assert lines[1].startswith("plane ready, ")


def test_a_plane_that_is_not_well_says_so_first() -> None:
    view = a_view()
    view["health"] |= {"ready": False, "stopping": True}
    assert frame(Seen(view, [], NOW), None)[0].startswith("plane stopping, ")
    view["health"] |= {"failing": "disk full"}
    assert frame(Seen(view, [], NOW), None)[0].startswith("plane takes no new jobs: disk full, ")
