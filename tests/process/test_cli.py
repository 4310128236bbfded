"""The command line against a real plane: real processes, real signals, a real file."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from creche.cli import jobs as cli_jobs
from creche.cli.app import run
from creche.cli.cost import children_of
from creche.cli.submit import wait_and_print
from creche.client.client import Client
from creche.peer.handle import JobHandle

SOURCE = Path(__file__).parents[2] / "src"
BOUND_S = 120.0

TASKS = '''
import time
import trio
from creche import Unique, task

print("a module may print when it is imported")

@task
def add(a: int, b: int = 10) -> int:
    """Add two numbers."""
    return a + b

@task
async def hello(name: str) -> str:
    return f"hello {name!r}"

@task(queue="images", priority="high")
def shape(path: str):
    return {"path": path, "raw": b"ab"}

@task
def boom(why: str):
    raise ValueError(f"no: {why}")

@task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"

@task(unique=Unique("number", on_duplicate="reject"))
async def only(number: int) -> None:
    await trio.sleep_forever()

@task
async def waits() -> None:
    await trio.sleep_forever()
'''


def environment(**more: str) -> dict[str, str]:
    """Return what a child of these tests sees: this source, and no settings from outside."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CRECHE_", "FASTWORKER_"))}
    return kept | {"PYTHONPATH": str(SOURCE), "NO_COLOR": "1"} | more


def creche(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "creche", *words],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something that no process tells us of."""
    ends_at = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < ends_at, f"{what} within {BOUND_S:g} s"
        time.sleep(0.02)


def group_is_gone(pid: int) -> bool:
    """Whether nothing is left of the session that *pid* led, zombies apart."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == pid and state != "Z":
            return False
    return True


@dataclass
class Plane:
    """A `creche control-plane` that is ready."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    log: Path
    others: list[int] = field(default_factory=list)
    """The pids of its children: store, workers, page."""

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command against this plane. In this process, as starting another takes longer than
        what is asked of it; what the console's script adds is tested below."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, chdir(self.folder):
            for name, value in {"CRECHE_CONNECT": self.url, **more}.items():
                patch.setenv(name, value)
            with redirect_stdout(out), redirect_stderr(err):
                code = run(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def data(self, *words: str) -> Any:
        """Run a command with ``--json`` and return its document."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["v"] == 1
        return document

    def note_children(self) -> None:
        """Remember which processes belong to the plane."""
        self.others = children_of(self.process.pid)

    def is_all_gone(self) -> bool:
        """Whether nothing of the plane and its children is left."""
        return all(group_is_gone(pid) for pid in (self.process.pid, *self.others))

    def end(self) -> None:
        """Leave nothing behind, however a test went."""
        for pid in (self.process.pid, *self.others):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.process.wait()


def start(folder: Path, *words: str) -> Plane:
    """Start a plane on a free port, in a session of its own, and wait until it is ready."""
    told, tells = os.pipe()
    log = folder / "plane.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "creche", "control-plane", "--ready-fd", str(tells)),
                *("--listen", "ws://127.0.0.1:0", *words),
            ],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            text=True,
            pass_fds=(tells,),
            start_new_session=True,
        )
    os.close(tells)
    with open(told, encoding="utf-8") as pipe:
        text = pipe.read()  # at its end when the plane is ready, or gone
    plane = Plane(process, json.loads(text)["addresses"][0] if text else "", folder, log)
    if not text:
        plane.end()
        raise AssertionError(f"the plane did not start: {log.read_text()}")
    plane.note_children()
    return plane


def wait_for_workers(plane: Plane, number: int) -> None:
    until(lambda: len(plane.data("workers", "ls")["workers"]) == number, f"{number} workers")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One plane with one worker, for the tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("plane")
    (folder / "tasks.py").write_text(TASKS)
    made = start(folder, "--no-gui", "--task-modules", "tasks")
    try:
        wait_for_workers(made, 1)
        yield made
    finally:
        made.end()


def lines(text: str) -> list[str]:
    return text.splitlines()


# --- submitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["add", "1", "-3"], "-2"),
        (["add", "5"], "15"),
        (["hello", "12"], "hello '12'"),
        (["hello", "--json-args", '["007"]'], "hello '007'"),
        (["shape", "007"], '{"path": "007", "raw": "YWI="}'),
        (["hello", "--kwargs", "name=true"], "hello 'true'"),
        (["add", "--kwargs", "a=1", "b=2"], "3"),
        (["add", "--kwargs", "a=1", "--kwargs", "b=2"], "3"),
        (["add", "--json-args", "[1, 2]"], "3"),
        (["add", "--json-args", '{"a": 1, "b": 2}'], "3"),
        (["add", "1", "--json-args", '{"b": 2}'], "3"),
        (["shape", "7"], '{"path": "7", "raw": "YWI="}'),
        (["--task-name", "add", "--args", "1", "-2", "--priority", "high"], "-1"),
    ],
    ids=" ".join,
)
def test_stdout_is_the_result_alone(plane: Plane, words: list[str], result: str) -> None:
    done = plane.run("submit", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, result + "\n", "")


def test_a_failed_job_prints_its_remote_traceback_and_exits_1(plane: Plane) -> None:
    done = plane.run("submit", "boom", "it")
    assert (done.returncode, done.stdout) == (1, "")
    said = lines(done.stderr)
    assert said[0] == "Traceback (most recent call last):"
    assert 'raise ValueError(f"no: {why}")' in done.stderr
    assert "ValueError: no: it" in said
    assert said[-1].startswith("error: job ")
    failed = plane.run("submit", "boom", "it", "--json")
    document = json.loads(failed.stdout)
    assert failed.returncode == 1
    assert document["state"] == "failed"
    assert document["error"]["type"] == "ValueError"


def test_wrong_arguments_are_refused_before_anything_is_sent(plane: Plane) -> None:
    before = plane.data("jobs", "ls", "--task", "add")["jobs"]
    done = plane.run("submit", "add", "1", "2", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "too many positional arguments" in done.stderr
    assert plane.data("jobs", "ls", "--task", "add")["jobs"] == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--eta", "2020-01-31T18:30Z"], "--eta 2020-01-31 18:30:00+00:00 is in the past"),
        (["--deadline", "2020-01-31T18:30Z"], "--deadline 2020-01-31 18:30:00+00:00 is in the"),
        (["--eta", "2030-01-31", "--countdown", "5"], "--countdown and --eta both say when"),
        (["--countdown", "5", "--expires", "3"], "with --countdown 5 it has expired (--expires 3)"),
        (["--time-limit", "1e10"], "--time-limit is a number of seconds above 0 to"),
        (["--time-limit", "3", "--soft-time-limit", "9"],
         "--soft-time-limit (9 s) has to come before --time-limit (3 s)"),
        (["--eta", "2050-01-31", "--expires", "5"], "it has expired (--expires 5) before"),
        (["--eta", "2050-01-31", "--deadline", "2049-12-31"], "time is up before it may run"),
        (["--backoff", "3"], "--backoff without --retries: task 'add' says none either"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_is_said_of_the_options_that_were_typed(
    plane: Plane, options: list[str], said: str
) -> None:
    done = plane.run("submit", "add", "1", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_countdown_beyond_the_deadline_is_said_of_the_options_that_were_typed(
    plane: Plane,
) -> None:
    deadline = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    done = plane.run("submit", "add", "1", "--countdown", "3600", "--deadline", deadline)
    assert (done.returncode, done.stdout) == (2, "")
    assert "with --countdown 3600 its time is up before it may run (--deadline 2" in done.stderr


def test_a_wait_that_runs_out_is_code_6_and_the_job_goes_on(plane: Plane) -> None:
    done = plane.run("submit", "nap", "3", "--timeout", "1")
    assert (done.returncode, done.stdout) == (6, "")
    job_id = lines(done.stderr)[0].split()[2]
    assert "it is running, and it goes on" in done.stderr
    again = plane.run("result", job_id)
    assert (again.returncode, again.stdout) == (0, "slept\n")


@pytest.mark.parametrize(
    ("words", "state", "said"),
    [
        (["nopet"], "parked", "no connected worker knows task 'nopet'"),
        (["nap", "1", "--queue", "unheard"], "queued", "worker listens on queue 'unheard'"),
        (["nap", "1", "--countdown", "900"], "delayed", "its time has not come (until "),
    ],
    ids=["parked", "queued", "delayed"],
)
def test_a_wait_that_runs_out_names_the_state_the_job_is_in(
    plane: Plane, words: list[str], state: str, said: str
) -> None:
    done = plane.run("submit", *words, "--timeout", "1", "--json")
    assert done.returncode == 6
    document = json.loads(done.stdout)
    assert document["state"] == state
    assert said in done.stderr
    again = plane.run("result", document["id"], "--timeout", "0.5")
    assert (again.returncode, again.stdout) == (6, "")
    assert said in again.stderr
    for look in (["status"], ["jobs", "show"]):
        assert said in plane.run(*look, document["id"]).stdout
    plane.run("cancel", document["id"])
    assert "held up" not in plane.run("status", document["id"]).stdout


def test_who_waits_is_told_soon_what_holds_the_job_up_and_how_to_end_that(plane: Plane) -> None:
    plane.run("queues", "pause", "still", "--new")
    done = plane.run("submit", "nap", "1", "--queue", "still", "--timeout", "2.5")
    job_id = lines(done.stderr)[-1].split()[3].rstrip("`")
    assert done.returncode == 6
    notes = [line for line in lines(done.stderr) if line.startswith("note: ")]
    assert f"note: job {job_id} has not begun: queue 'still' is paused" in notes
    assert "hint: `creche queues resume still` has it taken from again" in done.stderr
    plane.run("cancel", job_id)
    plane.run("queues", "resume", "still")


def test_a_submission_waits_for_its_plane_no_longer_than_it_is_told_to(tmp_path: Path) -> None:
    done = creche("submit", "x", "--timeout", "1.5", "--connect", "127.0.0.1:1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    waits, error = lines(done.stderr)
    assert waits == "waiting for the plane at ws://127.0.0.1:1, for 1.5 s at the most"
    assert "gave up after 1.5 s" in error


def test_an_unknown_task_is_parked_and_its_submitter_warned_with_near_names(plane: Plane) -> None:
    done = plane.run("submit", "ad", "1", "--non-blocking")
    assert done.returncode == 0
    job_id = done.stdout.strip()
    assert "'ad'" in done.stderr
    assert "did you mean 'add'?" in done.stderr
    (job,) = plane.data("jobs", "ls", "--task", "ad")["jobs"]
    assert (job["id"], job["state"]) == (job_id, "parked")
    assert plane.run("status", job_id).stdout.count("parked") == 1
    assert "attempt     none yet" in plane.run("status", job_id).stdout
    cancelled = plane.run("cancel", "--task-id", job_id)
    assert (cancelled.returncode, cancelled.stdout) == (0, "cancelled\n")
    assert plane.run("result", job_id).returncode == 7
    assert plane.run("cancel", job_id).returncode == 0


def test_one_idempotency_key_is_one_job(plane: Plane) -> None:
    key = ("--idempotency-key", "order 17")
    first = plane.run("submit", "add", "1", "2", *key)
    assert (first.returncode, first.stdout, first.stderr) == (0, "3\n", "")
    again = plane.run("submit", "add", "5", "6", *key)
    assert (again.returncode, again.stdout) == (0, "3\n")
    assert "was there already: this is no other one" in again.stderr
    documents = [
        plane.data("submit", "add", "7", "8", "--idempotency-key", "order 18", "--non-blocking")
        for _ in range(2)
    ]
    assert documents[0]["id"] == documents[1]["id"]
    assert [document["existing"] for document in documents] == [False, True]
    for number, is_there in ((19, False), (18, True)):
        waited = plane.data("submit", "add", "7", "8", "--idempotency-key", f"order {number}")
        assert (waited["existing"], waited["result"]) == (is_there, 15)
    assert "idempotency key order 18" in plane.run("jobs", "show", documents[0]["id"]).stdout
    empty = plane.run("submit", "add", "1", "--idempotency-key", "")
    assert (empty.returncode, empty.stdout) == (2, "")
    assert "--idempotency-key is a text of 1 to 200 printable characters" in empty.stderr


def test_a_duplicate_that_is_refused_names_the_job_that_is_there(plane: Plane) -> None:
    first = plane.data("submit", "only", "1", "--non-blocking")
    assert first["existing"] is False
    refused = plane.run("submit", "only", "1", "--json")
    assert refused.returncode == 1
    document = json.loads(refused.stdout)
    assert (document["id"], document["job_id"]) == (None, first["id"])
    assert document["refused"]["code"] == "duplicate"
    assert lines(refused.stderr) == [f"error: {document['refused']['why']}"]
    plane.run("cancel", first["id"])


def test_non_blocking_prints_the_id_alone(plane: Plane) -> None:
    done = plane.run("submit", "add", "1", "2", "--non-blocking")
    job_id = done.stdout.strip()
    assert (done.returncode, done.stdout, done.stderr) == (0, job_id + "\n", "")
    assert plane.run("result", job_id).stdout == "3\n"
    document = plane.data("status", job_id)["job"]
    assert (document["id"], document["state"], document["task"]) == (job_id, "succeeded", "add")
    finished = plane.run("cancel", job_id)
    assert (finished.returncode, finished.stdout) == (1, "succeeded\n")
    assert finished.stderr == (
        f"error: job {job_id} is not cancelled: it had ended before, as succeeded\n"
    )


def test_the_reason_of_a_cancelled_job_is_shown_to_whoever_asks(plane: Plane) -> None:
    job_id = plane.run(
        "submit", "nap", "1", "--queue", "elsewhere", "--non-blocking"
    ).stdout.strip()
    assert plane.run("cancel", job_id, "--reason", "not wanted").returncode == 0
    waited = plane.run("result", job_id)
    assert waited.returncode == 7
    assert lines(waited.stderr) == [f"error: job {job_id} was cancelled: not wanted"]
    assert plane.data("status", job_id)["job"]["why"] == "was cancelled: not wanted"
    assert "was cancelled: not wanted" in plane.run("status", job_id).stdout


def test_what_runs_is_cancelled_when_its_body_has_left(plane: Plane) -> None:
    job_id = plane.run("submit", "nap", "2", "--non-blocking").stdout.strip()
    until(lambda: plane.data("status", job_id)["job"]["state"] == "running", "the job runs")
    done = plane.run("cancel", job_id, "--reason", "no need")
    assert (done.returncode, done.stdout) == (0, "cancelling\n")
    assert done.stderr.startswith(f"hint: its body is told to leave: `creche result {job_id}`")
    # A thread that does not look is done all the same.
    going_on = plane.run("status", job_id).stdout
    assert plane.run("result", job_id).stdout == "slept\n"
    assert "no need; its body has not left yet" in going_on
    for command in (["status"], ["jobs", "show"]):
        shown = plane.run(*command, job_id).stdout
        assert "no need; its body did not leave, and ended as succeeded" in shown
    done = plane.run("cancel", job_id)
    assert (done.returncode, done.stdout) == (1, "succeeded\n")


def test_how_a_cancelled_body_left_is_shown_to_whoever_looks_at_its_job(plane: Plane) -> None:
    job_id = plane.run("submit", "waits", "--non-blocking").stdout.strip()
    until(lambda: plane.data("status", job_id)["job"]["state"] == "running", "the job runs")
    assert plane.run("cancel", job_id).returncode == 0
    assert plane.run("result", job_id).returncode == 7
    for command in (["status"], ["jobs", "show"]):
        assert "note       its coroutine was cancelled" in plane.run(*command, job_id).stdout


def test_the_status_of_a_failed_job_says_why(plane: Plane) -> None:
    job_id = plane.run("submit", "boom", "a\nb", "--non-blocking").stdout.strip()
    assert plane.run("result", job_id).returncode == 1
    facts = [line.split(maxsplit=1) for line in lines(plane.run("status", job_id).stdout)]
    assert ["why", "ValueError: no: a ..."] in facts
    assert plane.data("status", job_id)["job"]["why"] == "ValueError: no: a\nb"
    fine = plane.run("submit", "add", "1", "--non-blocking").stdout.strip()
    assert plane.run("result", fine).returncode == 0
    assert plane.data("status", fine)["job"]["why"] is None
    assert "why" not in plane.run("status", fine).stdout


@pytest.mark.parametrize("job_id", ["nonsense", "01a20a69-b76a-7d7a-ab7c-6c35fa21e62e"])
@pytest.mark.parametrize("command", ["status", "result", "cancel"])
def test_an_unknown_id_is_code_3(plane: Plane, command: str, job_id: str) -> None:
    done = plane.run(command, job_id)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(lines(done.stderr)) == 1
    assert job_id in done.stderr


def test_the_command_is_a_process_like_any_other(plane: Plane) -> None:
    done = creche("submit", "hello", "ä", cwd=plane.folder, CRECHE_CONNECT=plane.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello 'ä'\n", "")
    done = creche("submit", "boom", "x", cwd=plane.folder, CRECHE_CONNECT=plane.url)
    assert (done.returncode, done.stdout) == (1, "")


def test_ctrl_c_ends_a_wait_and_tells_how_to_wait_again(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []

    async def interrupted(client: Client, handle: JobHandle[Any], *args: Any, **kwargs: Any) -> int:
        waits.append(handle.id)
        signal.raise_signal(signal.SIGINT)
        return await wait_and_print(client, handle, *args, **kwargs)

    monkeypatch.setattr("creche.cli.submit.wait_and_print", interrupted)
    done = plane.run("submit", "nap", "3", "--queue", "nobody-listens")
    (job_id,) = waits
    assert (done.returncode, done.stdout) == (130, "")
    assert lines(done.stderr)[1:] == [  # behind the warning that nobody listens there
        f"job {job_id} goes on",
        f"hint: `creche result {job_id}` waits for it again",
    ]
    plane.run("cancel", job_id)


def test_ctrl_c_ends_the_process_as_shells_expect(plane: Plane) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "creche", "submit", "nap", "3", "--queue", "nobody"],
        cwd=plane.folder,
        env=environment(CRECHE_CONNECT=plane.url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        listed = ("jobs", "ls", "--queue", "nobody")
        until(lambda: len(plane.data(*listed)["jobs"]) == 1, "the job is there")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (-signal.SIGINT, "")
    assert "Traceback" not in err


def test_ctrl_c_in_a_wait_for_many_says_how_many_go_on(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = plane.run("submit", "nap", "3", "--queue", "nobody", "--non-blocking").stdout.strip()

    async def interrupted(*args: Any, **kwargs: Any) -> bool:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr("creche.cli.jobs._wait_for", interrupted)
    done = plane.run("jobs", "wait", job_id)
    assert (done.returncode, done.stdout) == (130, "")
    assert lines(done.stderr) == [
        "the job has not ended, and goes on",
        "hint: the same command waits for them again",
    ]
    monkeypatch.setattr("creche.cli.jobs.wait_and_print", interrupted)
    done = plane.run("result", job_id)
    assert (done.returncode, lines(done.stderr)[0]) == (130, f"job {job_id} goes on")
    plane.run("cancel", job_id)


@pytest.mark.parametrize(
    ("words", "waiting"), [(["result"], "wait_and_print"), (["jobs", "wait"], "_wait_for")]
)
def test_who_waits_is_told_when_the_plane_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], waiting: str
) -> None:
    plane = start(tmp_path, "--no-gui", "--workers", "0")
    wait = getattr(cli_jobs, waiting)

    async def orphaned(*args: Any, **kwargs: Any) -> Any:
        plane.end()
        return await wait(*args, **kwargs)

    try:
        job_id = plane.run("submit", "x", "--non-blocking").stdout.strip()
        monkeypatch.setattr(cli_jobs, waiting, orphaned)
        done = plane.run(*words, job_id, "--timeout", "2")
    finally:
        plane.end()
    assert (done.returncode, done.stdout) == (6, "")
    assert f"warning: the connection to the plane at {plane.url} is lost" in done.stderr
    assert "not ended after 2 s, as far as is known: the plane is gone" in done.stderr


# --- looking ------------------------------------------------------------------------------------


def test_every_list_has_a_table_and_a_document(plane: Plane) -> None:
    plane.run("submit", "shape", "x")
    tasks = plane.data("list")["tasks"]
    assert [task["name"] for task in tasks] == [
        "add",
        "boom",
        "hello",
        "nap",
        "only",
        "shape",
        "waits",
    ]
    assert "add(a: int, b: int = 10) -> int" in plane.run("list").stdout
    queues = {queue["queue"]: queue for queue in plane.data("queues", "ls")["queues"]}
    (lane,) = [lane for lane in queues["images"]["lanes"] if lane["priority"] == "high"]
    assert lane["channel"]["max_buffer_size"] == lane["window"]
    assert lines(plane.run("queues", "ls").stdout)[0].split()[:2] == ["QUEUE", "PRIORITY"]
    (worker,) = plane.data("workers", "ls")["workers"]
    assert worker["queues"] == ["default", "images"]
    assert worker["name"] in plane.run("workers", "ls").stdout


def test_a_queue_is_paused_limited_and_resumed(plane: Plane) -> None:
    assert plane.run("queues", "pause", "images").returncode == 0
    waiting = plane.run("submit", "shape", "y", "--non-blocking").stdout.strip()
    assert plane.run("result", waiting, "--timeout", "0.5").returncode == 6
    (row,) = [line for line in lines(plane.run("queues", "ls").stdout) if "images" in line]
    assert "paused" in row
    assert plane.run("queues", "resume", "images").returncode == 0
    assert plane.run("result", waiting).returncode == 0
    done = plane.run("queues", "limit", "images", "--running", "2", "--rate", "100/m")
    assert done.stderr == "queue images: 2 at a time, 100/m\n"
    assert plane.run("queues", "limit", "images", "--no-limit").returncode == 0
    for words, code, why in (
        (("pause", "imagse"), 3, "did you mean 'images'?"),
        (("limit", "images"), 2, "--running N, --rate N/TIME, or --no-limit"),
        (("limit", "images", "--running", "0"), 2, "a whole number from 1 on"),
        (("limit", "images", "--rate", "often"), 2, "'often' is no rate"),
    ):
        done = plane.run("queues", *words)
        assert (done.returncode, done.stdout) == (code, "")
        assert why in done.stderr


def test_a_route_that_is_none_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "creche", "control-plane", "--no-gui", "--routes", "mail"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 2
    assert "write PATTERN=QUEUE" in done.stderr


def test_lists_of_jobs_are_filtered_limited_and_never_cut(plane: Plane) -> None:
    ids = [plane.run("submit", "hello", "x", "--non-blocking").stdout.strip() for _ in range(3)]
    listed = plane.run("jobs", "ls", "--task", "hello", "--limit", "2", COLUMNS="20")
    rows = lines(listed.stdout)
    assert [row.split()[0] for row in rows] == ["ID", ids[2], ids[1]]
    quiet = plane.run("jobs", "ls", "--task", "hello", "-q", "--limit", "3")
    assert lines(quiet.stdout) == ids[::-1]
    states = {job["state"] for job in plane.data("jobs", "ls", "--state", "failed,lost")["jobs"]}
    assert states <= {"failed"}


def test_a_filter_says_which_jobs_are_listed(plane: Plane) -> None:
    failed = plane.run("submit", "boom", "no route to mars")
    assert failed.returncode == 1
    one = plane.run("submit", "hello", "mars", "--non-blocking").stdout.strip()
    (job,) = plane.data("jobs", "ls", 'state:failed error:"TO MARS" -task:h*')["jobs"]
    assert job["task"] == "boom"
    assert lines(plane.run("jobs", "ls", f"id:{one[:20]}", "task:hello", "-q").stdout) == [one]
    assert plane.data("jobs", "ls", "submitted:-1d..", "ended:..-1d")["jobs"] == []
    wrong = plane.run("jobs", "ls", "state:failed stat:x")
    assert wrong.returncode == 2
    assert "at character 14: there is no key 'stat': did you mean state?" in wrong.stderr
    assert (wrong.stdout, "Traceback" in wrong.stderr) == ("", False)


def test_a_plane_without_workers_is_ready_all_the_same(tmp_path: Path) -> None:
    made = start(tmp_path, "--no-gui", "--store", "memory:")
    try:
        done = made.run("health", "--ready")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("ready, epoch 1 ")
        document = made.data("health")
        assert (document["ready"], document["durability"]) == (True, "memory")
    finally:
        made.end()


def test_a_reader_that_leaves_is_no_error(plane: Plane) -> None:
    pipeline = f"{sys.executable} -m creche jobs ls --limit 1000 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", pipeline],
        cwd=plane.folder,
        env=environment(CRECHE_CONNECT=plane.url),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.stderr in ("", "no jobs\n")
    assert done.returncode in (0, 141)  # 0 when all was written before the reader left


@pytest.mark.parametrize("words", ["--version", "health"])
def test_output_that_cannot_be_written_is_told_of_by_name(plane: Plane, words: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "creche", *words.split()],
            cwd=plane.folder,
            env=environment(CRECHE_CONNECT=plane.url),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
    assert lines(done.stderr) == ["error: stdout: No space left on device"]
    assert done.returncode == 1


def test_a_stdout_that_is_closed_is_no_bug_of_ours(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m creche --version >&-"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- starting and stopping ----------------------------------------------------------------------


def test_an_option_that_names_no_modules_starts_nothing(tmp_path: Path) -> None:
    done = creche("control-plane", "--no-gui", "--task-modules", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--task-modules names nothing" in done.stderr
    assert not (tmp_path / "creche.db").exists()


def test_a_module_that_cannot_be_imported_is_shown_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import creche\nprice = 1 / 0\n")
    for words in (["control-plane", "--no-gui"], ["worker"]):
        done = creche(*words, "--task-modules", "broken", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = lines(done.stderr)
        assert "'broken'" in line
        assert "ZeroDivisionError: division by zero" in line
        assert "broken.py:2" in line
    assert not (tmp_path / "creche.db").exists()


def test_a_second_plane_on_the_same_file_leaves_with_the_holders_pid(plane: Plane) -> None:
    words = ("control-plane", "--no-gui", "--listen", "127.0.0.1:0", "--store")
    done = creche(*words, "sqlite:creche.db", cwd=plane.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pid {plane.process.pid}" in done.stderr
    assert len(lines(done.stderr)) == 1


def test_a_second_plane_with_the_same_ports_hears_of_the_first_and_not_of_ports(
    plane: Plane,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("control-plane", "--listen", plane.url, "--gui-port", port)
        done = creche(*words, cwd=plane.folder)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = lines(done.stderr)
    assert f"is in use by the plane with pid {plane.process.pid}" in line


def test_a_port_in_use_is_code_2_and_leaves_no_store(plane: Plane, tmp_path: Path) -> None:
    words = ("control-plane", "--no-gui", "--listen", plane.url)
    done = creche(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
    assert str(urlsplit(plane.url).port) in done.stderr
    assert len(lines(done.stderr)) == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("control-plane", "--store", "memory:", "--listen", "127.0.0.1:0")
        done = creche(*words, "--gui-port", port, cwd=tmp_path)
    assert done.returncode == 2
    assert "--gui-port" in done.stderr


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are notes\n" * 100)
    done = creche("control-plane", "--no-gui", "--store", "sqlite:notes.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert "not a database" in done.stderr
    assert file.read_text() == "these are notes\n" * 100


def test_the_first_signal_lets_running_jobs_end_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    made = start(tmp_path, "--gui-port", "0", "--task-modules", "tasks")
    try:
        wait_for_workers(made, 1)
        made.note_children()
        assert len(made.others) == 3  # store, worker, page
        job_id = made.run("submit", "nap", "2", "--non-blocking").stdout.strip()
        states = ("jobs", "ls", "--state", "running")
        until(lambda: len(made.data(*states)["jobs"]) == 1, "the job runs")
        made.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in made.log.read_text(), "the plane stops")
        asked = made.run("health", "--timeout", "0.3")
        assert (asked.returncode, asked.stdout) == (4, "")
        assert asked.stderr == (
            f"error: the plane at {made.url} is stopping (gave up after 0.3 s)\n"
        )
        assert made.process.wait(BOUND_S) == 0
        until(made.is_all_gone, "all processes have ended")
    finally:
        made.end()
    assert "running jobs have 30 s" in made.log.read_text()
    again = start(tmp_path, "--no-gui")
    try:
        done = again.run("result", job_id)
        assert (done.returncode, done.stdout) == (0, "slept\n")
    finally:
        again.end()


def test_the_second_signal_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    made = start(tmp_path, "--no-gui", "--task-modules", "tasks")
    try:
        wait_for_workers(made, 1)
        made.note_children()
        made.run("submit", "nap", "600", "--non-blocking")
        states = ("jobs", "ls", "--state", "running")
        until(lambda: len(made.data(*states)["jobs"]) == 1, "the job runs")
        made.process.send_signal(signal.SIGINT)
        until(lambda: "stopping" in made.log.read_text(), "the plane stops")
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(BOUND_S) in (130, -signal.SIGINT)
        until(made.is_all_gone, "all processes have ended")
        said = made.log.read_text()
        assert "Traceback" not in said
        assert "without a word" not in said
    finally:
        made.end()


@pytest.fixture
def with_a_terminal() -> Iterator[None]:
    """A SIGHUP that is not ignored, as it may be here: by `nohup`, or as a command has ended in
    this process. Children would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_a_terminal")
def test_a_closed_terminal_stops_a_plane_in_good_order(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    made = start(tmp_path, "--no-gui", "--task-modules", "tasks")
    try:
        wait_for_workers(made, 1)
        made.note_children()
        made.process.send_signal(signal.SIGHUP)
        assert made.process.wait(BOUND_S) == 0
        until(made.is_all_gone, "all processes have ended")
        assert "stopping; running jobs have 30 s" in made.log.read_text()
    finally:
        made.end()


def test_a_module_without_tasks_is_warned_of_once(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    made = start(tmp_path, "--no-gui", "--store", "memory:", "--task-modules", "empty")
    try:
        until(lambda: "is connected to" in made.log.read_text(), "the worker is there")
        assert made.log.read_text().count("'empty'") == 1
    finally:
        made.end()


def test_a_schedule_in_code_that_is_over_is_warned_of_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "from datetime import UTC, datetime\nfrom creche import Schedule, task\n"
        "@task(schedule=Schedule(at=datetime(2020, 1, 1, tzinfo=UTC)))\ndef go(): ...\n"
    )
    running = start(tmp_path, "--no-gui", "--store", "memory:", "--task-modules", "late")
    running.end()
    log = running.log.read_text()
    assert log.count("is over, and will not fire any more") == 1
    assert f"go ({tmp_path / 'late.py'}:" in log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--concurrency", "3", "--reload"],
         "without --task-modules there are no local workers: --concurrency, --reload change no"),
        (["--workers", "0", "--task-modules", "shop"],
         "with --workers 0 there are no local workers: --task-modules changes nothing"),
        ([], ""),
    ],
    ids=["no modules", "no workers", "nothing"],
)  # fmt: skip
def test_options_of_local_workers_that_there_are_not_are_said_to_change_nothing(
    tmp_path: Path, words: list[str], said: str
) -> None:
    running = start(tmp_path, "--no-gui", "--store", "memory:", *words)
    running.end()
    log = running.log.read_text()
    assert said in log
    assert log.count("warning:") == bool(said)


def test_a_plane_that_is_stopped_before_its_workers_came_does_not_say_it_is_ready(
    tmp_path: Path,
) -> None:
    slow = "import sys, time\nif '--check' not in sys.argv:\n    time.sleep(600)\n"
    (tmp_path / "slow.py").write_text(TASKS + slow)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "plane.log"
    command = [*(sys.executable, "-m", "creche", "control-plane", "--no-gui")]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--listen", f"127.0.0.1:{port}", "--task-modules", "slow"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        until(lambda: can_connect(port), "the plane listens")
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND_S) == 0
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert "stopping" in said
    assert "is ready" not in said


def can_connect(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_killed_plane_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    options = ("--keep-alive", "0.2", "--grace", "0.5", "--lease", "1")
    made = start(tmp_path, "--gui-port", "0", "--task-modules", "tasks", *options)
    try:
        wait_for_workers(made, 1)
        made.note_children()
        assert len(made.others) == 3  # store, worker, page
        made.process.kill()
        made.process.wait()
        until(made.is_all_gone, "all processes have ended")
    finally:
        made.end()


def test_a_worker_waits_for_its_plane_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*(sys.executable, "-m", "creche", "subworker", "--task-modules", "tasks")]
    process = subprocess.Popen(
        [*command, "--connect", f"127.0.0.1:{port}", "--worker-id", "patient"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert f"waiting for the plane at ws://127.0.0.1:{port}" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND_S) == 0
    finally:
        process.kill()
        process.communicate()


# --- store, demo, bench -------------------------------------------------------------------------


def test_a_store_is_looked_at_and_copied_beside_its_plane_and_compacted_without(
    plane: Plane, tmp_path: Path
) -> None:
    copy = str(tmp_path / "copy.db")
    facts = plane.data("store", "info")["store"]
    assert (facts["kind"], facts["durability"]) == ("sqlite", "disk")
    assert plane.data("store", "verify")["problems"] == []
    assert plane.data("store", "backup", copy)["size_bytes"] == Path(copy).stat().st_size
    held = plane.run("store", "compact")
    assert held.returncode == 2
    assert f"pid {plane.process.pid}" in held.stderr
    done = creche("store", "compact", "--store", f"sqlite:{copy}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout)[0].startswith(f"{copy} had ")
    done = creche("store", "verify", "-s", f"sqlite:{copy}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{copy} is sound\n", "")
    os.truncate(copy, 4096)
    done = creche("store", "verify", "-s", f"sqlite:{copy}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "cannot be read" in done.stdout
    missing = creche("store", "info", "--store", "sqlite:none.db", cwd=tmp_path)
    assert missing.returncode == 2


def figures(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_demo_agrees_with_the_plain_loop_and_leaves_nothing(tmp_path: Path) -> None:
    found = figures(creche("demo", "--json", cwd=tmp_path, TMPDIR=str(tmp_path)))
    assert found["is_right"] is True
    assert found["totals"] == found["expected"]
    assert found["jobs"] > 300
    assert found["totals"]["lines"] > 100_000
    assert list(tmp_path.iterdir()) == []


BENCHES: Sequence[Sequence[str]] = (
    ("--mode", "bulk"),
    ("--mode", "single", "--store", "memory:", "--executor", "coroutine"),
    ("--mode", "bulk", "--store", "memory:", "--executor", "process"),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", BENCHES, ids=" ".join)
def test_a_bench_checks_every_result(tmp_path: Path, words: Sequence[str]) -> None:
    words = ("bench", "--jobs", "500", *words, "--json")
    found = figures(creche(*words, cwd=tmp_path, TMPDIR=str(tmp_path)))
    assert (found["jobs"], found["checked"]) == (500, 500)
    assert (found["wrong"], found["lost"], found.get("duplicated", 0)) == (0, 0, 0)
    assert found["jobs_per_s"] > 0
    assert found["submit_per_s"] >= found["jobs_per_s"]
    assert set(found["latency_ms"]) == {"p50", "p95", "p99"}
    assert set(found["cpu_us_per_job"]) == {"plane", "store", "worker", "client", "total"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_other_benches_measure_a_backlog_and_idleness(tmp_path: Path) -> None:
    found = figures(creche("bench", "--backlog", "2000", "--json", cwd=tmp_path))
    assert found["backlog"] == 2000
    assert found["delayed"]["queued"] == 2000
    for each in (found, found["unannounced"]):
        assert each["queued"] == 2000
        assert isinstance(each["bytes_per_job"], float)
        assert each["restart_s"] > 0
    idle = figures(creche("bench", "--idle", "0.5", "--json", cwd=tmp_path))
    assert set(idle["cpu_percent"]) == {"plane", "store", "worker", "total"}


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory:", "sqlite:bench.db"])
def test_the_benches_of_a_jobs_life_lose_nothing(tmp_path: Path, store: str) -> None:
    due = figures(creche("bench", "--due", "300", "--store", store, "--json", cwd=tmp_path))
    assert (due["due"], due["lost"], due["early"]) == (300, 0, 0)
    assert due["lag_ms"]["p99"] > 0
    done = figures(creche("bench", "--cancel", "40", "--store", store, "--json", cwd=tmp_path))
    assert (done["cancelled"], done["lost"]) == (40, 0)


@pytest.mark.slow
def test_the_bench_of_killing_counts_what_was_gone_and_what_followed(tmp_path: Path) -> None:
    killed = figures(creche("bench", "--kill", "3", "--store", "memory:", "--json", cwd=tmp_path))
    assert (killed["killed"], killed["wrong"], killed["lost"]) == (3, 0, 0)
    assert killed["gone_after_limit_ms"]["most"] > 0
