"""Tasks for processes of their own: a process imports this module by its name."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from creche import BlockingClient, HookInfo, Retry, current_job, hook, lifespan, task
from creche.errors import ProcessDied
from creche.tasks.registry import Registry

registry = Registry()


@task(registry=registry, executor="process")
def echo(value: Any) -> Any:
    return value


@task(registry=registry, executor="process")
def pid() -> int:
    return os.getpid()


@task(registry=registry, executor="process", timeout=0.5)
def spin_in_c() -> int:
    """Keep a core busy, and the interpreter too, for longer than any test."""
    return sum(range(10**15))


@task(registry=registry, executor="process")
def spin_for_ever(where: str) -> None:
    Path(where).write_text(str(os.getpid()))
    sum(range(10**15))


@task(registry=registry, executor="process")
def sleeps(where: str) -> str:
    Path(where).write_text(str(os.getpid()))
    try:
        time.sleep(1000)
    except Exception:
        return "carried on"
    finally:
        Path(where + ".tidy").write_text("tidied up")
    return "slept"


@task(registry=registry, executor="process")
def ignores(where: str) -> None:
    Path(where).write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(1000)
        except KeyboardInterrupt:
            Path(where + ".seen").write_text("seen")


@task(registry=registry, executor="process", timeout=0.3)
def tidies_in_time(where: str) -> None:
    try:
        time.sleep(1000)
    finally:
        Path(where).write_text("tidied up")


@task(registry=registry, executor="process")
def catches(where: str) -> str:
    Path(where).write_text(str(os.getpid()))
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        assert current_job().cancelled
    return "left"


@task(registry=registry, executor="process")
def dies(how: str) -> None:
    match how:
        case "SIGSEGV":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            ctypes.string_at(0)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit code 3":
            os._exit(3)


@task(registry=registry, executor="process", retries=2, backoff=0, retry_on=(ProcessDied,))
def dies_twice(where: str) -> int:
    with Path(where).open("a") as file:
        file.write("x")
    if current_job().attempt < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(Path(where).read_text())


@task(registry=registry, executor="process", retries=3, backoff=0)
def asks_for_more() -> int:
    if current_job().attempt < 3:
        raise Retry(countdown=0.0)
    return current_job().attempt


@task(registry=registry, executor="process")
def raises(what: str) -> None:
    if what == "exit":
        sys.exit(4)
    if what == "unsendable":
        return object()  # type: ignore[return-value]
    raise LookupError(what)


@task(registry=registry, executor="process", timeout=30, soft_timeout=20)
def about_the_job() -> list[Any]:
    job = current_job()
    assert job.deadline is not None
    return [job.id, job.task, job.attempt, job.worker, job.is_late, job.cancelled]


@task(registry=registry, executor="process")
def uses_the_worker() -> None:
    current_job().blocking.delay("echo", 1)


@task(registry=registry, executor="process")
def recurse(url: str, depth: int) -> int:
    if depth == 0:
        return 0
    with BlockingClient(url) as client:
        return 1 + client.submit(recurse, url, depth - 1).result(timeout=60)


@task(registry=registry, executor="process")
def leaves_a_child(where: str) -> int:
    """Leave a process behind that holds what it has inherited."""
    child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    Path(where).write_text(str(child.pid))
    os._exit(5)


@task(registry=registry, executor="process")
def forks() -> int:
    child = os.fork()
    if child == 0:
        return 7
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task(registry=registry, executor="process")
def holds(megabytes: int) -> int:
    global _held
    _held = b"x" * (megabytes * 1024**2)
    return os.getpid()


_held = b""


@task(registry=registry, executor="process")
def leaves_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(1000,)).start()


@task(registry=registry, executor="process")
def says(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


@task(registry=registry)
def in_a_thread() -> int:
    return os.getpid()


class Model:
    """What each process loads once."""

    def __init__(self) -> None:
        self.pid = os.getpid()


@lifespan(registry=registry)
def model() -> Iterator[Model]:
    yield Model()
    print("the model was put away", flush=True)


@task(registry=registry, executor="process")
def asks_the_model(question: str, model: Model) -> tuple[str, bool, int]:
    return question, model.pid == os.getpid(), id(model)


@task(registry=registry)
def asks_in_a_thread(model: Model) -> bool:
    return model.pid == os.getpid()


@hook("before", registry=registry)
def notes_all(info: HookInfo) -> None:
    if info.job.task == "has_hooks":
        print(f"hook {info.moment} {info.job.task}", flush=True)


def notes(info: HookInfo) -> None:
    came_to = info.result if info.error is None else type(info.error).__name__
    print(f"hook {info.moment} {info.job.task} {came_to}", flush=True)


@task(registry=registry, executor="process", timeout=0.3, on_error=notes, after=notes)
def has_hooks(what: str) -> str:
    if what == "spin":
        sum(range(10**15))
    if what == "die":
        os._exit(3)
    return what
