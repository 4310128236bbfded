"""The published guide for leaving Celery, step by step, with only the package's name changed.

Everything is real: the plane is the command of step 3, the application runs under uvicorn in a
process of its own, and Celery is Celery.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from creche import BlockingClient, JobState

SOURCE = Path(__file__).parents[2] / "src"
BOUND_S = 60.0

# Step 2. The bodies, which the guide leaves out, note what they did; call_flaky_api is step 6's,
# but that it asks by httpx.
TASKS = """\
import time

import httpx
from creche import task


def note(line: str) -> None:
    with open("done.txt", "a") as done:
        print(line, file=done)


@task
def send_email(user_id: int, template: str) -> bool:
    note(f"sent {template} to {user_id}")
    return True

@task
def resize_image(path: str, width: int) -> str:
    out_path = f"{path}-{width}"
    return out_path

@task
def call_flaky_api(url: str) -> dict:
    last_err = None
    for attempt in range(4):
        try:
            return httpx.get(url, timeout=5).json()
        except Exception as e:
            last_err = e
            time.sleep(2 ** attempt)
    raise last_err
"""

CELERY = """\
from celery import Celery

app = Celery("myapp", broker="memory://", backend="cache+memory://")
app.conf.task_always_eager = True

@app.task
def send_email(user_id: int, template: str) -> bool:
    with open("celery.txt", "a") as done:
        print(f"sent {template} to {user_id}", file=done)
    return True
"""

# Steps 4, 5 and 7: the guide's application, and one endpoint that has not moved yet.
API = """\
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from creche import Client
from creche.tasks.models import TaskPriority
from celery_app import send_email

app = FastAPI()
client = Client()

@app.on_event("startup")
async def _start():
    await client.start()

@app.on_event("shutdown")
async def _stop():
    client.stop()

@app.post("/signup")
async def signup(user_id: int):
    await client.delay("send_email", user_id, "welcome")
    return {"ok": True}

@app.post("/urgent")
async def urgent(user_id: int):
    job = await client.delay("send_email", user_id, "urgent", priority=TaskPriority.CRITICAL)
    return {"job": job}

@app.post("/resize")
async def resize(path: str, width: int):
    return await client.delay("resize_image", path, width)

@app.post("/resized")
async def resized(path: str, width: int):
    job = await client.delay("resize_image", path, width=width)
    return {"path": await job.result(timeout=30)}

@app.get("/result/{job_id}")
async def result(job_id: str):
    return {"result": await client.result(job_id, timeout=30)}

@app.post("/fetch")
async def fetch(url: str):
    return {"job": await client.delay("call_flaky_api", url)}

failures = 1

@app.get("/flaky")
async def flaky():
    global failures
    failures -= 1
    return PlainTextResponse("busy", 503) if failures >= 0 else {"answer": 42}

@app.post("/old-signup")
async def old_signup(user_id: int):
    send_email.delay(user_id, "welcome")
    return {"ok": True}
"""

# `uvicorn api:app`, where a warning is an error but for the one that the guide's own hooks cause.
SERVE = """\
import warnings
import uvicorn

warnings.filterwarnings("error")
warnings.filterwarnings("ignore", r"\\s*on_event is deprecated", DeprecationWarning)
uvicorn.run("api:app", port=0)
"""


@dataclass
class House:
    """The folder of the guide's reader, with a plane that runs in it."""

    folder: Path
    url: str

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join((str(SOURCE), os.environ.get("PYTHONPATH", "")))
        return {**os.environ, "PYTHONPATH": path, "CRECHE_CONNECT": self.url}

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@dataclass
class App:
    """The application under uvicorn."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    log: Path

    def post(self, path: str, /, **query: Any) -> Any:
        return self.http.post(path, params=query).raise_for_status().json()

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def end(self) -> None:
        """Leave nothing behind, however a test went."""
        self.http.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def stop(self) -> str:
        """Stop it as a terminal would, and return all that it said."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(BOUND_S)
        return self.log.read_text()


def until(is_so: Callable[[], Any], what: str) -> None:
    """Wait for something that another process does."""
    ends_at = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < ends_at, f"{what} within {BOUND_S:g} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Step 3: `creche control-plane --task-modules tasks`, on a free port and without the page."""
    folder = tmp_path_factory.mktemp("guide")
    for name, text in {
        "tasks.py": TASKS,
        "celery_app.py": CELERY,
        "api.py": API,
        "serve.py": SERVE,
    }.items():
        (folder / name).write_text(text)
    made = House(folder, "")
    told, tells = os.pipe()
    with (folder / "plane.log").open("wb") as log:
        plane = subprocess.Popen(
            [
                *(sys.executable, "-m", "creche", "control-plane", "--task-modules", "tasks"),
                *("--listen", "ws://127.0.0.1:0", "--no-gui", "--ready-fd", str(tells)),
            ],
            cwd=folder,
            env=made.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(tells,),
        )
    os.close(tells)
    try:
        with open(told) as pipe:
            ready = pipe.read()
        assert ready, (folder / "plane.log").read_text()
        made.url = json.loads(ready)["addresses"][0]
        yield made
        plane.send_signal(signal.SIGTERM)
        assert plane.wait(BOUND_S) == 0, (folder / "plane.log").read_text()
    finally:
        with suppress(ProcessLookupError):
            plane.kill()
        plane.wait()


def serve(house: House, name: str) -> App:
    """Start the application, and return it when it listens."""
    log = house.folder / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "serve.py"],
            cwd=house.folder,
            env=house.environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    listens = re.compile(r"running on (http://[\w.:]+)")
    until(
        lambda: listens.search(log.read_text()) or process.poll() is not None,
        "the application listens",
    )
    found = listens.search(log.read_text())
    if found is None:
        process.kill()
        process.wait()
        raise AssertionError(log.read_text())
    return App(process, httpx.Client(base_url=found[1], timeout=BOUND_S), log)


@pytest.fixture(scope="module")
def app(house: House) -> Iterator[App]:
    made = serve(house, "api")
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_a_handler_sends_an_email_after_its_answer(house: House, app: App) -> None:
    assert app.post("/signup", user_id=7) == {"ok": True}
    until(lambda: "sent welcome to 7" in house.lines("done.txt"), "the e-mail is sent")


def test_a_priority_of_the_guide_reaches_the_plane_and_the_handle_is_json(
    house: House, app: App
) -> None:
    job = app.post("/urgent", user_id=8)["job"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", job)
    with BlockingClient(house.url) as client:
        assert client.result(job, timeout=BOUND_S) is True
        assert client.status(job) is JobState.SUCCEEDED
        (row,) = [row for row in client.ask("jobs", {"limit": 100})["jobs"] if row["id"] == job]
        assert (row["task"], row["priority"]) == ("send_email", "critical")
    assert "sent urgent to 8" in house.lines("done.txt")


def test_a_handler_may_return_the_handle_or_wait_for_the_result(app: App) -> None:
    job = app.post("/resize", path="cat.png", width=200)
    assert app.get(f"/result/{job}") == {"result": "cat.png-200"}
    assert app.post("/resized", path="dog.png", width=80) == {"path": "dog.png-80"}


def test_a_retry_loop_in_a_body_needs_nothing_of_the_framework(app: App) -> None:
    job = app.post("/fetch", url=str(app.http.base_url.join("/flaky")))["job"]
    # The first answer is no JSON, so that the body tries again.
    assert app.get(f"/result/{job}")["result"] == {"answer": 42}


def test_celerys_and_creches_calls_work_side_by_side(house: House, app: App) -> None:
    assert app.post("/old-signup", user_id=9) == {"ok": True}
    assert house.lines("celery.txt") == ["sent welcome to 9"]
    assert app.post("/signup", user_id=9) == {"ok": True}
    until(lambda: "sent welcome to 9" in house.lines("done.txt"), "the e-mail is sent")


def test_two_hundred_requests_at_a_time_get_their_own_answers(app: App) -> None:
    def ask(i: int) -> Any:
        return app.post("/resized", path=f"{i}.png", width=i)

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(ask, range(200)))
    assert answers == [{"path": f"{i}.png-{i}"} for i in range(200)]


def test_the_application_starts_and_stops_without_a_word_of_warning(house: House) -> None:
    another = serve(house, "another")
    try:
        assert another.post("/resized", path="a", width=1) == {"path": "a-1"}
        said = another.stop()
    finally:
        another.end()
    assert another.process.returncode in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in said
    assert not re.search("Traceback|Warning|Error|never retrieved|destroyed", said), said


def test_a_plane_that_is_not_there_is_one_clear_error_at_the_start(house: House) -> None:
    (house.folder / "alone.py").write_text(API.replace("Client()", "Client(timeout=0.5)"))
    ended = subprocess.run(
        [sys.executable, "-c", SERVE.replace("api:app", "alone:app")],
        cwd=house.folder,
        env={**house.environment, "CRECHE_CONNECT": "ws://127.0.0.1:9"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert ended.returncode != 0
    assert "PlaneUnreachable: no plane answers at ws://127.0.0.1:9" in ended.stderr
    assert "is `creche control-plane` running?" in ended.stderr
    assert "ExceptionGroup" not in ended.stderr
