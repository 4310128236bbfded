"""Recorders, the files that they write, and the program that reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
import trio
from tests.unit.testing.history.plants import PLANTS
from tests.unit.testing.history.story import Story

from creche.testing import history as h
from creche.testing.history.__main__ import main
from creche.testing.history.events import KINDS, from_line, to_line
from creche.testing.history.record import SUFFIX

BODY = """
import os, sys
from creche.testing.history import FileRecorder
recorder = FileRecorder(sys.argv[1], "worker", host="there")
with recorder.body(job="a", attempt="1") as body:
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
    body.value = [1, {"two": None}]
"""


def run_body(folder: Path, how: str) -> int:
    command = [sys.executable, "-c", BODY, str(folder), how]
    return subprocess.run(command, timeout=60, check=False).returncode


def write(path: Path, story: Story) -> Path:
    path.write_text("".join(f"{to_line(event)}\n" for event in story.events))
    return path


# --- recorders ----------------------------------------------------------------------------------


def test_what_processes_have_recorded_is_one_history(tmp_path: Path) -> None:
    client = h.FileRecorder(tmp_path, "client", host="here")
    client.note(h.Submit, call="c", job="a", terms=h.Terms(retries=2, scope="s"))
    client.note(h.Accepted, call="c", job="a")
    assert run_body(tmp_path, "ends") == 0
    client.note(h.Saw, job="a", state="succeeded", value=[1, {"two": None}])
    client.close()
    events = h.read_history(tmp_path)
    assert [type(event) for event in events] == [
        h.Submit, h.Accepted, h.Started, h.Ended, h.Saw,
    ]  # fmt: skip
    assert [event.host for event in events] == ["here", "here", "there", "there", "here"]
    assert len({event.recorder for event in events}) == 2
    assert h.check(events) == []


def test_what_was_noted_outlives_the_kill_of_its_process(tmp_path: Path) -> None:
    assert run_body(tmp_path, "killed") == -9
    (started,) = h.read_history(tmp_path)
    assert isinstance(started, h.Started)


def test_a_line_that_was_torn_when_its_process_was_killed_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "torn", Story().takes(0, "a"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert [type(event) for event in h.read_history(path)] == [h.Submit]


def test_threads_share_a_recorder(tmp_path: Path) -> None:
    ticks = count()
    recorder = h.FileRecorder(tmp_path, "many/threads", clock=lambda: float(next(ticks)))

    def note_many(name: str) -> None:
        for n in range(200):
            recorder.note(h.Saw, job=f"{name}.{n}", state="queued")

    threads = [threading.Thread(target=note_many, args=(f"{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    recorder.close()
    events = h.read_history(tmp_path)
    assert [event.n for event in events] == list(range(1, 1601)), "each once, in one order"
    assert [event.at for event in events] == list(range(1600))
    jobs = [event.job.split(".")[0] for event in events if isinstance(event, h.Saw)]
    assert Counter(jobs) == {f"{n}": 200 for n in range(8)}


def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from creche.testing.history import FileRecorder, Quiescent\n"
        "recorder = FileRecorder(sys.argv[1], 'p')\n"
        "recorder.note(Quiescent)\n"
        "child = os.fork()\n"
        "recorder.note(Quiescent)\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, timeout=60, check=True)
    events = h.read_history(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert sorted(Counter(event.recorder for event in events).values()) == [1, 2]


def test_a_body_tells_how_it_leaves() -> None:
    ticks = count()
    recorder = h.MemoryRecorder("worker", clock=lambda: float(next(ticks)))

    with recorder.body(job="a", attempt="1", process="other") as body:
        body.value = 7
    with pytest.raises(ZeroDivisionError), recorder.body(job="a", attempt="2"):
        _ = 1 // 0
    with pytest.raises(KeyboardInterrupt), recorder.body(job="a", attempt="3"):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), recorder.body(job="a", attempt="4") as body:
        body.outcome, body.delay_s = "snoozed", 9.0
        raise RuntimeError("it is too early")

    ended = [event for event in recorder.events if isinstance(event, h.Ended)]
    assert [(e.outcome, e.value, e.delay_s) for e in ended] == [
        ("succeeded", 7, None), ("failed", None, None), ("left", None, None),
        ("snoozed", None, 9.0),
    ]  # fmt: skip
    assert [e.process for e in recorder.events] == ["other"] * 2 + ["worker"] * 6
    assert [e.at for e in recorder.events] == list(range(8))


@pytest.mark.trio
async def test_a_cancelled_body_was_told_to_leave(autojump_clock: trio.testing.MockClock) -> None:
    recorder = h.MemoryRecorder("worker", clock=trio.current_time)
    with trio.move_on_after(3):
        with recorder.body(job="a", attempt="1"):
            await trio.sleep_forever()
    ended = recorder.events[-1]
    assert isinstance(ended, h.Ended)
    assert (ended.at - recorder.events[0].at, ended.outcome) == (3, "left")


def test_what_says_nothing_is_not_recorded() -> None:
    recorder = h.MemoryRecorder("p")
    with pytest.raises(h.HistoryError, match=r"Saw: state='done' is not "):
        recorder.note(h.Saw, job="a", state="done")
    with pytest.raises(h.HistoryError, match="Submit: retries="):
        recorder.note(h.Submit, call="c", terms=h.Terms(retries="2"))  # type: ignore[arg-type]
    assert recorder.events == []


# --- lines --------------------------------------------------------------------------------------


def test_each_kind_of_event_is_planted_and_comes_back_from_its_line() -> None:
    told = {type(event): event for _, plant in PLANTS.values() for event in plant().events}
    told[h.Woken] = h.Woken(at=1, process="p", who="w", role="worker")
    assert set(told) == set(KINDS.values())
    for event in told.values():
        assert from_line(to_line(event)) == event


def test_a_line_says_only_what_is_not_so_by_default() -> None:
    event = h.Submit(at=1.5, process="p", call="c", terms=h.Terms(retries=2))
    assert json.loads(to_line(event)) == {
        "kind": "Submit", "at": 1.5, "process": "p", "call": "c", "terms": {"retries": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "", "[]", "7", "{", '{"kind": "Nothing", "at": 1, "process": "p"}',
        '{"kind": "Cancel", "at": 1, "process": "p"}',
        '{"kind": "Cancel", "at": 1, "process": "p", "job": "a", "more": 1}',
        '{"kind": "Cancel", "at": "1", "process": "p", "job": "a"}',
        '{"kind": "Cancel", "at": NaN, "process": "p", "job": "a"}',
        '{"kind": "Cancel", "at": 1, "process": "p", "job": 7}',
        '{"kind": "Cancel", "at": 1, "process": "p", "job": null}',
        '{"kind": "Saw", "at": 1, "process": "p", "job": "a", "state": "done"}',
        '{"kind": "Ended", "at": 1, "process": "p", "job": "a", "attempt": "1", "outcome": "so"}',
        '{"kind": "Gone", "at": 1, "process": "p", "who": "w", "role": "king"}',
        '{"kind": "Submit", "at": 1, "process": "p", "call": "c", "terms": {"retries": "2"}}',
        '{"kind": "Submit", "at": 1, "process": "p", "call": "c", "terms": {"tries": 2}}',
        '{"kind": "Submit", "at": 1, "process": "p", "call": "c", "terms": 7}',
        '{"kind": "Scheduled", "at": 1, "process": "p", "schedule": "s", "moments": ["x"]}',
        '{"kind": "Rate", "at": 1, "process": "p", "gate": "g", "count": 1, "per_s": 0}',
    ],
)  # fmt: skip
def test_what_is_no_event_is_said_with_its_file_and_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "file", Story().takes(0, "a"))
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(h.HistoryError, match=r"file, line 3: no event: "):
        h.read_history(path)
    assert main([str(path)]) == 2
    assert "line 3" in capsys.readouterr().err


# --- the program --------------------------------------------------------------------------------


def test_a_good_history_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "good", Story().takes(0, "a").runs(1, 2, "a").sees(3, "a", "succeeded"))
    assert main([str(path)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"5 events, {len(h.RULES)} rules: 0 violations\n"


def test_violations_are_printed_with_the_events_that_prove_them(tmp_path: Path) -> None:
    story = Story().takes(0, "a", is_at_most_once=True).runs(1, 2, "a").runs(3, 4, "a", "2")
    path = write(tmp_path / "bad", story)
    command = [sys.executable, "-m", "creche.testing.history", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    head, *proof = ended.stdout.splitlines()
    assert head == "RanTwice: job a: it has begun 2 times"
    assert [json.loads(line)["attempt"] for line in proof] == ["1", "2"]
    assert ended.stderr.endswith("1 violations\n")


def test_bounds_are_arguments(tmp_path: Path) -> None:
    path = write(tmp_path / "late", Story().takes(0, "a", timeout_s=1).runs(1, 5, "a"))
    assert main([str(path)]) == 1
    assert main([str(path), "--grace-s", "9"]) == 0


def test_what_is_not_there_or_says_nothing_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(os.urandom(4) + b"\xff\n")
    empty, folder = tmp_path / "empty.hist", tmp_path / "of-a-killed-process"
    empty.touch()
    folder.mkdir()
    (folder / f"one{SUFFIX}").touch()
    for path in (tmp_path / "missing", tmp_path, binary, empty, folder):
        assert main([str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {path}")


def test_a_recording_that_contradicts_itself_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for story in (
        Story().ends(1, "a"),
        Story().accepts(1, "a"),
        Story().takes(1, "a").takes(2, "a"),
    ):
        assert main([str(write(tmp_path / "odd", story))]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_ten_thousand_jobs_are_judged_in_a_number_of_steps_that_grows_as_they_do() -> None:
    def steps(jobs: int) -> int:
        story = Story().tell(0, h.Limit, gate="queue:q", most=50)
        story.tell(0, h.Rate, gate="task:t", count=100, per_s=1.0).tell(0, h.OneSlot, queue="one")
        for n in range(jobs):
            queue = "one" if n % 2 else "q"
            terms = {"idempotency_key": f"{n}", "unique_key": f"{n % 10}"}
            story.takes(n / 50, f"{n}", task="t", queue=queue, timeout_s=60, **terms)
            story.cancels(n / 50, f"{n}", "succeeded").runs(n / 50 + 1, n / 50 + 1.5, f"{n}")
            story.sees(n / 50 + 2, f"{n}", "succeeded")
        counted = 0

        def count_call(*_: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count_call)
        try:
            found = h.check(story.events)
        finally:
            sys.setprofile(None)
        assert {type(one) for one in found} <= {h.TwoLiveJobs}
        return counted

    assert steps(2000) < 2.5 * steps(1000)
