"""The client for synchronous code, with a real plane and a real worker."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from tests.client.real_plane import RealPlane, real_plane

from creche import (
    BlockingClient,
    BlockingJobHandle,
    Client,
    ClientClosed,
    InvalidArguments,
    JobFailed,
    JobState,
    NotEncodable,
    PlaneUnreachable,
    ResultTimeout,
    SettingsError,
    UnknownJob,
    task,
)
from creche.tasks.registry import Registry

registry = Registry()
gate = threading.Event()
shared: BlockingClient | None = None


@task(registry=registry)
def echo(value: int) -> int:
    return value


@task(registry=registry)
async def nap(value: float) -> float:
    await trio.sleep(value)
    return value


@task(registry=registry)
def add(a: int, b: int) -> int:
    return a + b


@task(registry=registry)
def wait_for_gate(value: int) -> int:
    assert gate.wait(20)
    return value


@task(registry=registry)
def fail(text: str) -> None:
    raise ValueError(text)


@task(registry=registry)
def recurse(depth: int) -> int:
    """Submits itself and waits, over a blocking client that all depths share."""
    assert shared is not None
    if depth == 0:
        return 0
    return shared.submit(recurse, depth - 1).result(20) + 1


@pytest.fixture(scope="module")
def plane() -> Iterator[RealPlane]:
    with real_plane(registry, concurrency=2) as running:
        yield running


@pytest.fixture
def client(plane: RealPlane) -> Iterator[BlockingClient]:
    with BlockingClient(plane.url, timeout=20) as client:
        yield client


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something that happens elsewhere has happened."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_verbs_are_those_of_the_client(client: BlockingClient) -> None:
    handle = client.submit(echo, 7)
    assert handle.result() == 7
    assert handle.result() == 7
    assert handle.status() is JobState.SUCCEEDED
    assert handle.cancel() is JobState.SUCCEEDED
    assert client.delay(echo, 8).result(10) == 8
    assert client.delay("echo", value=9, priority="high").result() == 9
    assert client.send("echo", [10], priority=9, headers={"a": 1}).result() == 10
    assert client.result(handle) == client.result(str(handle)) == 7
    assert client.status(str(handle)) is JobState.SUCCEEDED
    assert client.job(str(handle)).result() == 7
    assert client.cancel_many([handle, "0" * 32]) == [JobState.SUCCEEDED, None]
    assert client.ask("health")["ready"] is True
    assert client.is_connected
    parked = client.delay("nobody knows this one")
    assert parked.cancel("why") is JobState.CANCELLED


def test_a_handle_tells_whether_its_job_was_there(client: BlockingClient) -> None:
    once = echo.with_options(idempotency_key="blocking")
    first, again = client.submit(once, 1), client.submit(once, 2)
    assert (first, first.is_existing, again.is_existing) == (again, False, True)
    assert again.result(20) == 1


def test_no_verb_of_the_client_is_missing() -> None:
    def verbs(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    # Its life, and a stream that only a loop can follow.
    assert verbs(Client) - verbs(BlockingClient) <= {"start", "stop", "welcome", "watch_topic"}


def test_many_come_back_in_order_or_as_they_end(client: BlockingClient) -> None:
    handles = client.submit_many(echo, [(i,) for i in range(100)])
    assert [handle.result() for handle in handles] == list(range(100))
    assert list(client.map(echo, range(100))) == list(range(100))
    assert sorted(client.map("echo", range(100), ordered=False)) == list(range(100))
    late = client.submit(nap, 0.2)
    soon = client.submit(nap, 0.0)
    assert list(client.as_completed([late, soon, late])) == [soon, late, late]
    assert list(client.map(echo, [])) == []


def test_map_explains_that_a_tuple_is_one_argument(client: BlockingClient) -> None:
    with pytest.raises(InvalidArguments) as error:
        client.map(add, [(1, 2)])
    assert "submit_many" in error.value.__notes__[0]


def test_map_submits_at_once_and_may_be_left_early(client: BlockingClient) -> None:
    gate.clear()
    results = client.map(wait_for_gate, range(3))
    counted = client.ask("health")["jobs"]
    assert counted.get("running", 0) + counted.get("queued", 0) >= 3
    gate.set()
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert client.submit(echo, 1).result() == 1


def test_what_a_job_raises_is_raised_where_its_turn_comes(client: BlockingClient) -> None:
    results = client.map(fail, ["a", "b"])
    with pytest.raises(JobFailed, match="ValueError: a"):
        next(results)
    with pytest.raises(JobFailed, match="ValueError: no"):
        client.delay("fail", "no").result()


def test_waits_are_bounded_and_leave_the_job_alone(client: BlockingClient) -> None:
    gate.clear()
    handle = client.submit(wait_for_gate, 1)
    with pytest.raises(ResultTimeout):
        handle.result(0.05)
    with pytest.raises(TimeoutError):
        list(client.as_completed([handle], timeout=0.05))
    gate.set()
    assert handle.result(10) == 1


def test_what_cannot_be_right_is_refused(client: BlockingClient) -> None:
    with pytest.raises(InvalidArguments):
        client.submit(echo)  # type: ignore[call-arg]
    with pytest.raises(NotEncodable):
        client.delay("echo", object())
    with pytest.raises(UnknownJob):
        client.result("nonsense")
    with pytest.raises(UnknownJob):
        client.status("0" * 32)
    with pytest.raises(SettingsError):
        BlockingClient("http://plane")
    with pytest.raises(SettingsError):
        BlockingClient(timeout=-1)


def test_a_handle_is_the_jobs_id(client: BlockingClient) -> None:
    handle = client.delay("echo", 1)
    assert isinstance(handle, BlockingJobHandle)
    assert json.loads(json.dumps([handle])) == [handle.id]
    assert {handle.id: 1}[handle] == 1
    for other in (pickle.loads(pickle.dumps(handle)), copy.deepcopy([handle])[0]):
        assert type(other) is str
        assert other == handle


# --- its life -----------------------------------------------------------------------------------


def test_it_connects_when_it_is_first_used_and_is_closed_once(plane: RealPlane) -> None:
    client = BlockingClient(plane.url, name="lazy")
    assert not client.is_connected
    assert plane.clients() == []
    assert client.submit(echo, 1).result() == 1
    assert plane.clients() == ["lazy"]
    handle = client.delay("echo", 2)
    client.close()
    client.close()
    # It said goodbye: the plane does not keep the session for its grace.
    eventually(lambda: "lazy" not in plane.known())
    with pytest.raises(ClientClosed):
        client.submit(echo, 1)
    with pytest.raises(ClientClosed):
        handle.result()
    with client:
        assert handle.result() == 2
    assert not [t for t in threading.enumerate() if t.name == "creche client"]


def test_nobody_there_is_one_error_and_leaves_nothing() -> None:
    client = BlockingClient("ws://127.0.0.1:9", timeout=0.2)
    for _ in range(2):
        with pytest.raises(PlaneUnreachable, match=r"127\.0\.0\.1:9"):
            client.delay("echo")
    with pytest.raises(PlaneUnreachable), client:
        pytest.fail("nobody is there")
    assert not [t for t in threading.enumerate() if t.name == "creche client"]


def test_many_threads_may_share_one(plane: RealPlane) -> None:
    with BlockingClient(plane.url, name="shared") as client, ThreadPoolExecutor(16) as threads:
        values = list(range(400))
        assert list(threads.map(lambda v: client.submit(echo, v).result(20), values)) == values
        assert plane.clients() == ["shared"]


def test_many_threads_may_open_one_at_the_same_moment(plane: RealPlane) -> None:
    client = BlockingClient(plane.url, name="race")
    start = threading.Barrier(8)

    def use(value: int) -> int:
        start.wait(10)
        return client.submit(echo, value).result(20)

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(use, range(8))) == list(range(8))
    assert plane.clients() == ["race"]
    client.close()


def test_closing_wakes_whoever_waits(plane: RealPlane) -> None:
    gate.clear()
    client = BlockingClient(plane.url)
    handles = [client.submit(wait_for_gate, i) for i in range(2)]
    ends: list[type[BaseException] | None] = []

    def wait(handle: BlockingJobHandle[int]) -> None:
        try:
            handle.result()
        except BaseException as error:
            ends.append(type(error))

    threads = [threading.Thread(target=wait, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    eventually(lambda: all(handle._handle._outcome._listeners for handle in handles))  # type: ignore[union-attr]
    client.close()
    for thread in threads:
        thread.join(10)
    gate.set()
    assert ends == [ClientClosed] * 2


def test_a_lost_connection_is_not_noticed(plane: RealPlane, client: BlockingClient) -> None:
    gate.clear()
    handle = client.submit(wait_for_gate, 4)
    plane.cut_clients()
    gate.set()
    assert handle.result(20) == 4


def test_an_interrupted_wait_leaves_the_client_usable(client: BlockingClient) -> None:
    gate.clear()
    handle = client.submit(wait_for_gate, 1)
    runtime = client._runtime
    assert runtime is not None
    for wait in (
        lambda: handle.result(),
        lambda: list(client.as_completed([handle])),
        lambda: client.result(handle.id),
    ):
        timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            wait()
        timer.join()
    gate.set()
    assert handle.result(10) == 1
    assert client.submit(echo, 2).result(10) == 2
    assert client._runtime is runtime


def test_a_waiting_job_lends_its_slot_whatever_the_depth(plane: RealPlane) -> None:
    """The caller's context reaches the client's thread: two slots do for a recursion of ten."""
    global shared
    with BlockingClient(plane.url, timeout=20) as shared:
        assert shared.submit(recurse, 10).result(30) == 10


def test_the_context_of_the_caller_reaches_the_event_loop(client: BlockingClient) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nothing")

    async def look(_: Any) -> str:
        return variable.get()

    variable.set("mine")
    assert client._call(look) == "mine"
    with ThreadPoolExecutor(1) as other:
        assert other.submit(client._call, look).result(10) == "nothing"


# --- forks --------------------------------------------------------------------------------------


@contextmanager
def forked(child: Callable[[], Any]) -> Iterator[Any]:
    """Run *child* in a fork and give what it returns, as JSON carries it; the child lives on
    until the block ends."""
    answer_read, answer_write = os.pipe()
    end_read, end_write = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on Python warns of forks with threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(answer_read)
        os.close(end_write)
        status = 1
        try:
            signal.alarm(30)
            os.write(answer_write, json.dumps(child()).encode())
            os.close(answer_write)
            os.read(end_read, 1)
            status = 0
        finally:
            os._exit(status)
    os.close(answer_write)
    os.close(end_read)
    try:
        with os.fdopen(answer_read, "rb") as answer:
            text = answer.read()
        assert text, "the child failed"
        yield json.loads(text)
    finally:
        os.close(end_write)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_child_has_a_session_of_its_own_and_the_parents_goes_on(
    plane: RealPlane, client: BlockingClient
) -> None:
    gate.clear()
    mine = client.submit(wait_for_gate, 5)
    before = plane.sessions()

    def child() -> Any:
        own = client.submit(echo, 6).result(10)
        return [own, mine.status().has_ended, list(client.map(echo, range(5)))]

    with forked(child) as answer:
        assert answer == [6, False, [0, 1, 2, 3, 4]]
        after = plane.sessions()
        assert len(after - before) == 1
        # The child's use of its own connection has not disturbed ours.
        gate.set()
        assert mine.result(10) == 5
        assert client.submit(echo, 7).result(10) == 7


def test_a_child_that_does_not_use_the_client_holds_nothing_of_it(plane: RealPlane) -> None:
    client = BlockingClient(plane.url, name="parent")
    assert client.submit(echo, 1).result(10) == 1
    with forked(lambda: "idle"):
        assert plane.clients() == ["parent"]
        # Were the child still to hold the socket, the plane would not see the connection end.
        runtime = client._runtime
        assert runtime is not None
        (channel,) = runtime._channels
        number: int = channel.fileno()  # type: ignore[attr-defined]
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, number)  # as if this process had been killed
        os.close(nothing)
        eventually(lambda: plane.clients() != ["parent"])
    client.close()


def test_a_child_of_a_busy_parent_does_not_hang(plane: RealPlane, client: BlockingClient) -> None:
    """Other threads hold locks and are in the middle of calls when the process forks."""
    is_over = threading.Event()

    def busy() -> None:
        while not is_over.is_set():
            client.submit(echo, 1).result(20)

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with forked(lambda: client.submit(echo, 2).result(10)) as answer:
                assert answer == 2
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)


def test_a_grandchild_works_as_well(client: BlockingClient) -> None:
    def child() -> Any:
        with forked(lambda: client.submit(echo, 3).result(10)) as answer:
            return [answer, client.submit(echo, 4).result(10)]

    with forked(child) as answer:
        assert answer == [3, 4]


def test_the_end_of_the_interpreter_says_goodbye_and_does_not_hang(plane: RealPlane) -> None:
    code = (
        "import sys, creche\n"
        "client = creche.BlockingClient(sys.argv[1], name='script')\n"
        "print(client.delay('echo', 5).result(10))\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, plane.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "5\n", "")
    eventually(lambda: "script" not in plane.known())
