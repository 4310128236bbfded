"""Recording a history: in memory, or in a file for each process that outlives its `kill -9`."""

from __future__ import annotations

import os
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creche.testing.history.events import (
    E,
    Ended,
    Event,
    HistoryError,
    Outcome,
    Started,
    checked,
    place,
    read_lines,
    to_line,
)

SUFFIX = ".history.jsonl"


@dataclass(slots=True)
class Body:
    """What a body says of itself before it leaves: see `Recorder.body`."""

    value: Any = None
    """Its result."""
    outcome: Outcome | None = None
    """How it ends, if an exception that is raised does not tell."""
    delay_s: float | None = None
    """The wait that it asks for before the next attempt."""
    is_last: bool = False
    """Whether there may be no further attempt, whatever its retries."""


class Recorder(ABC):
    """Stamps events and keeps them, in the order in which it was told: see its two kinds.

    Args:
        process: who does and sees what is recorded, if an event says nobody else.
        host: where that is.
        clock: seconds of the one clock of the history. The usual one is the machine's, so it is the
            same in all processes of one machine.
    """

    def __init__(
        self, process: str, *, host: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.process = process
        self.host = host
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._name = f"{self.process}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._n = 0

    def note(self, kind: type[E], /, **said: Any) -> E:
        """Record that something happens now: ``note(Saw, job=job.id, state="succeeded")``. From any
        thread; it neither waits for others nor checkpoints. When it returns, what it has written
        outlives this process.

        Raises:
            HistoryError: a field says what it may not; nothing is recorded.
        """
        said = {"process": self.process, "host": self.host, **said}
        with self._lock:
            self._n += 1
            event = checked(kind(at=self._clock(), recorder=self._name, n=self._n, **said))
            self._keep(event)
        return event

    @contextmanager
    def body(self, **said: Any) -> Iterator[Body]:
        """Record that an attempt begins and leaves; what is *said* is that of `Started`. An
        exception is a failure, and what is none (a cancellation) means that it was told to leave,
        unless the body says otherwise::

            with recorder.body(job=job.id, attempt=str(job.attempt)) as body:
                body.value = work()
        """
        start = self.note(Started, **said)
        body = Body()
        outcome: Outcome = "succeeded"
        try:
            yield body
        except BaseException as error:
            outcome = "failed" if isinstance(error, Exception) else "left"
            raise
        finally:
            self.note(
                Ended,
                process=start.process,
                job=start.job,
                attempt=start.attempt,
                outcome=body.outcome or outcome,
                value=body.value if outcome == "succeeded" else None,
                delay_s=body.delay_s,
                is_last=body.is_last,
            )

    @abstractmethod
    def _keep(self, event: Event) -> None:
        """Keep an event. The lock is held."""


class MemoryRecorder(Recorder):
    """Keeps events in a list. One is enough for a whole cluster in one process, and then the order
    of events of one moment is known."""

    def _begin(self) -> None:
        super()._begin()
        self.events: list[Event] = []

    def _keep(self, event: Event) -> None:
        self.events.append(event)


class FileRecorder(Recorder):
    """Appends events to a file of its own in *folder*, which `read_history` reads with those of
    other processes. What is noted in a forked child goes to a file of the child's."""

    def __init__(
        self,
        folder: str | Path,
        process: str,
        *,
        host: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = Path(folder)
        super().__init__(process, host=host, clock=clock)

    def _begin(self) -> None:
        super()._begin()
        self._pid = os.getpid()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in self._name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._folder / f"{name}{SUFFIX}", flags, 0o600)

    def note(self, kind: type[E], /, **said: Any) -> E:
        """Record that something happens now."""
        if os.getpid() != self._pid:
            self._begin()  # the file and the lock are the parent's
        return super().note(kind, **said)

    def _keep(self, event: Event) -> None:
        left = memoryview(f"{to_line(event)}\n".encode())
        while left:
            left = left[os.write(self._file, left) :]

    def close(self) -> None:
        """Close the file. What was noted is there all the same."""
        os.close(self._file)


def read_history(*paths: str | Path) -> list[Event]:
    """Return the events of files, and of all that recorders have written into folders, by time.

    Raises:
        HistoryError: there is no such file, it has something else in it, or no file has anything.
    """
    events: list[Event] = []
    for path in map(Path, paths):
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise HistoryError(f"{path}: nothing was recorded there (no *{SUFFIX})")
        for file in files:
            try:
                with file.open(encoding="utf-8", newline="\n") as lines:
                    events.extend(read_lines(lines, str(file)))
            except (OSError, UnicodeDecodeError) as error:
                raise HistoryError(f"{file} cannot be read: {error}") from None
    if paths and not events:
        raise HistoryError(f"{', '.join(map(str, paths))}: nothing was recorded there")
    return sorted(events, key=place)
