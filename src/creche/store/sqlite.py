"""The store in an SQLite file, as the plane sees it: a process of its own, spoken to over sockets.

SQLite called from a thread of the plane would have to take the GIL back from a busy main thread
after every statement, which now and then stops it altogether; a process does not, and leaves the
plane's core alone. What the process does is in `sqlite_child` and below.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import trio

from creche.errors import (
    StoreError,
    StoreFull,
    StoreLocked,
    StoreOverLimit,
    StoreUnavailable,
    StoreUnusable,
)
from creche.model.filter import ANY, Filter
from creche.model.job import JobState
from creche.pipe import HEADER, environment, pack, unpack
from creche.store.base import (
    Batch,
    Duplicate,
    Durability,
    Expired,
    JobPage,
    JobRecord,
    JobRow,
    KeyHolder,
    OutcomeRow,
    Pruned,
    Recovery,
    Retention,
    ScheduleRow,
)
from creche.store.sqlite_damage import (
    STATES,
    delay_counts,
    job_rows,
    key_holders,
    lane_rows,
    ousted_rows,
    outcome_row,
    queue_rows,
    record,
    records,
    schedule_rows,
    stored_counts,
    task_rows,
)
from creche.store.sqlite_file import schema_behind
from creche.store.sqlite_pipe import FULL, LOCKED, OK, OVER_LIMIT, UNUSABLE

logger = logging.getLogger("creche.plane")

LOCK_WAIT_S = 5.0
"""How long opening waits for another plane to let go of the file."""

CLOSE_WAIT_S = 10.0
"""How long closing waits for what is under way and the last checkpoint, before it kills."""

MAX_BYTES = 64 * 1024**3
"""How large the file may become by what is submitted."""

QUESTION_S = 2.0
"""How long one question may take: a long reader keeps the log from being emptied."""

RECEIVE_BYTES = 256 * 1024

PIECE_JOBS, PIECE_BYTES = 100_000, 64 * 1024 * 1024
"""How much of what the plane held is read at a time when the store is opened."""

_ERRORS = {FULL: StoreFull, OVER_LIMIT: StoreOverLimit, UNUSABLE: StoreUnusable}


class SqliteStore:
    """A `Store` in the file at *path*, which is made if it is not there.

    It starts its process in `open` and ends it in `aclose`; the process also ends when this one
    does. Beside the file there are, while it is open, ``-wal``, ``-shm`` and ``.lock``.

    Args:
        path: the database file; its folder must be there and be writable.
        lock_wait_s: how long `open` waits for another plane that has the file.
        close_wait_s: how long `aclose` waits before it kills the process.
        question_s: how long one question of `HistoryStore` may take.
        max_bytes: when more than this is in use, new jobs are refused (`StoreOverLimit`) until
            results have been let go of; what is there goes on, and takes the little more it needs.
    """

    durability = Durability.DISK

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lock_wait_s: float = LOCK_WAIT_S,
        close_wait_s: float = CLOSE_WAIT_S,
        question_s: float = QUESTION_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.path = os.path.abspath(path)
        self._lock_wait_s = lock_wait_s
        self._close_wait_s = close_wait_s
        self._question_s = question_s
        self._max_bytes = max_bytes
        self._process: trio.Process | None = None
        self._calls = _Line("it is not open")
        self._questions = _Line("it is not open")

    @property
    def pid(self) -> int | None:
        """The process that holds the file; None before `open` and after `aclose`."""
        return None if self._process is None else self._process.pid

    # --- the ledger -----------------------------------------------------------------------------

    async def open(self, now: float) -> Recovery:
        """See `LedgerStore.open`. If cancelled, the process is ended; a new epoch may have begun.

        Raises:
            StoreLocked: another plane has had the file for all of `lock_wait_s`.
            StoreUnusable: it is no database or not ours, damaged, not writable, or newer.
        """
        if self._process is not None:
            raise StoreError(f"{self.path} is open already")
        behind = schema_behind(self.path)
        if behind is not None:
            logger.info(
                "the store %s is brought from version %d of its schema to %d: a large one takes a "
                "minute or more",
                self.path,
                *behind,
            )
        try:
            await self._start()
            found = await self._calls.ask("open", now, os.getpid(), self._lock_wait_s)
            if behind is not None:
                logger.info("the store %s is at version %d now", self.path, behind[1])
            held = await self._read_held()
            damaged: list[str] = []
            schedules = await self._read_schedules(damaged)
            lanes = lane_rows(found[3], damaged)
            astray = await self._read_astray(found, len(held))
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._stop()
            raise
        ledger_id, epoch, next_seq, _, stored, tasks, ended, delayed, *others = found
        next_due_at, next_expiry_at, queues, ousted = others
        return Recovery(
            ledger="main",
            id=ledger_id,
            epoch=epoch,
            next_seq=next_seq,
            lanes=lanes,
            stored=stored_counts(stored),
            held=held,
            tasks=task_rows(tasks, damaged),
            ended=ended,
            delayed=delay_counts(delayed, astray),
            next_due_at=next_due_at,
            next_expiry_at=next_expiry_at,
            queues=queue_rows(queues, damaged),
            schedules=schedules,
            ousted=ousted_rows(ousted),
            astray=job_rows(astray),
            damaged=damaged,
        )

    async def _read_held(self) -> list[JobRow]:
        """Return what the plane held, in pieces: it may be more than one answer can carry."""
        held: list[JobRow] = []
        while rows := await self._calls.ask(
            "read_held", held[-1].seq if held else 0, PIECE_JOBS, PIECE_BYTES
        ):
            held += job_rows(rows)
        return held

    async def _read_schedules(self, damaged: list[str]) -> list[ScheduleRow]:
        found: list[ScheduleRow] = []
        after = ""
        while rows := await self._calls.ask("read_schedules", after, PIECE_JOBS, PIECE_BYTES):
            sound = schedule_rows(rows, damaged)
            if not sound:
                break  # names that are none come last
            found += sound
            after = sound[-1].name
        return found

    async def _read_astray(self, found: Sequence[Any], held: int) -> list[Sequence[Any]]:
        """Return the jobs that no other read finds."""
        counts = [*((lane, jobs) for lane, jobs, _ in found[4]), *found[7]]
        odd = list({lane for lane, _ in counts if type(lane) is not int})
        placed = held + sum(jobs for _, jobs in counts)
        rows: list[Sequence[Any]] = await self._calls.ask("read_astray", odd, placed)
        return rows

    async def commit(self, batch: Batch) -> Sequence[Duplicate]:
        """See `LedgerStore.commit`."""
        found = await self._calls.ask(
            "commit",
            [
                (lane, queue, None if priority is None else int(priority), park)
                for lane, queue, priority, park in batch.lanes
            ],
            [tuple(task) for task in batch.tasks],
            _job_columns(batch),
            _change_columns(batch),
            [(*row[:2], int(row.state), *row[3:]) for row in batch.tries],
            _end_columns(batch),
            [tuple(queue) for queue in batch.queues],
            [tuple(schedule) for schedule in batch.schedules],
            [(seq, int(fate), at, retried_as) for seq, fate, at, retried_as in batch.verdicts],
            [tuple(key) for key in batch.keys],
            [tuple(options) for options in batch.options],
            [tuple(oust) for oust in batch.ousts],
        )
        return [
            Duplicate(seq, existing, STATES.get(state, JobState.QUEUED))
            for seq, existing, state in found
        ]

    async def read_lane(
        self, lane: int, after_seq: int, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """See `LedgerStore.read_lane`."""
        rows = await self._calls.ask("read_lane", lane, after_seq, max_jobs, max_bytes)
        return job_rows(rows)

    async def read_due(
        self, after: tuple[float, int], until: float, max_jobs: int, max_bytes: int
    ) -> Sequence[JobRow]:
        """See `LedgerStore.read_due`."""
        rows = await self._calls.ask("read_due", *after, until, max_jobs, max_bytes)
        return job_rows(rows)

    async def read_lanes(self, lanes: Collection[int]) -> Sequence[JobRow]:
        """See `LedgerStore.read_lanes`."""
        return job_rows(await self._calls.ask("read_lanes", list(lanes)))

    async def expired(self, now: float, most: int) -> Expired:
        """See `LedgerStore.expired`."""
        return Expired(*await self._calls.ask("expired", now, most))

    async def outcomes(
        self, ids: Collection[bytes], max_bytes: int | None = None
    ) -> Mapping[bytes, OutcomeRow]:
        """See `LedgerStore.outcomes`."""
        rows = await self._calls.ask("outcomes", list(ids), max_bytes)
        return {row[1]: outcome_row(row) for row in rows}

    async def find(self, ids: Collection[bytes]) -> Mapping[bytes, JobRow]:
        """See `LedgerStore.find`."""
        rows = await self._calls.ask("find", list(ids))
        return {row.id: row for row in job_rows(rows) if row.id}

    async def keys(self, names: Collection[bytes]) -> Mapping[bytes, KeyHolder]:
        """See `LedgerStore.keys`."""
        return key_holders(await self._calls.ask("keys", list(names)))

    async def is_over(self, now: float, retention: Retention) -> bool:
        """See `LedgerStore.is_over`."""
        return bool(await self._calls.ask("is_over", now, _limits(retention)))

    async def prune(self, now: float, retention: Retention, keep: Collection[int]) -> Pruned:
        """See `LedgerStore.prune`."""
        return Pruned(*await self._calls.ask("prune", now, _limits(retention), list(keep)))

    async def aclose(self) -> None:
        """See `LedgerStore.aclose`: bounded by `close_wait_s`, and not cut short by cancelling."""
        with trio.CancelScope(shield=True):
            if self._process is not None:
                with trio.move_on_after(self._close_wait_s):
                    try:
                        await self._calls.ask("close")
                        await self._process.wait()
                    except StoreError:
                        pass  # it is gone already
                await self._stop()
        await trio.lowlevel.checkpoint()

    # --- questions ------------------------------------------------------------------------------

    async def jobs(
        self, filter: Filter = ANY, *, before_seq: int | None = None, limit: int = 50
    ) -> JobPage:
        """See `HistoryStore.jobs`."""
        rows, next_seq = await self._questions.ask("jobs", filter.text, before_seq, limit)
        return JobPage(records(rows), next_seq)

    async def job(self, job_id: bytes) -> JobRecord | None:
        """See `HistoryStore.job`."""
        row = await self._questions.ask("job", job_id)
        return None if row is None else record(row)

    async def counts(self) -> Mapping[JobState, int]:
        """See `HistoryStore.counts`."""
        counts = await self._calls.ask("counts")
        return {STATES[state]: jobs for state, jobs in counts.items()}

    async def tasks_in_use(self) -> Collection[str]:
        """See `HistoryStore.tasks_in_use`."""
        names = await self._questions.ask("tasks_in_use")
        return {name for name in names if type(name) is str}

    async def info(self) -> dict[str, Any]:
        """See `HistoryStore.info`."""
        facts: dict[str, Any] = await self._questions.ask("info")
        return facts | {"pid": self.pid}

    # --- the process ----------------------------------------------------------------------------

    async def _start(self) -> None:
        with ExitStack() as stack:
            try:
                calls, childs_calls = map(stack.enter_context, socket.socketpair())
                questions, childs_questions = map(stack.enter_context, socket.socketpair())
                fds = (childs_calls.fileno(), childs_questions.fileno())
                self._process = await trio.lowlevel.open_process(
                    [
                        *(sys.executable, "-P", "-m", "creche.store.sqlite_child", self.path),
                        *map(str, fds),
                        str(self._question_s),
                        str(self._max_bytes),
                    ],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                    env=environment(),
                )
            except OSError as error:
                raise StoreUnusable(f"the store's process cannot be started: {error}") from error
            name = f"its process (pid {self._process.pid}) is gone"
            self._calls = _Line(name, calls.detach())
            self._questions = _Line(name, questions.detach())

    async def _stop(self) -> None:
        """Make sure that the process has ended and is reaped, and that calls say so."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()
        self._calls.close("it is closed")
        self._questions.close("it is closed")


class _Line:
    """One socket to the process: a request, its answer, the next request, in the order of calls.

    A caller may be cancelled at any point. What it leaves, half a request to be sent or an answer
    to be read, the next caller settles first; so no Trio task is needed to serve the line.
    """

    def __init__(self, why_broken: str, fd: int | None = None) -> None:
        self._lock = trio.StrictFIFOLock()
        self._why_broken = why_broken
        self._sock: socket.socket | None = None
        if fd is not None:
            self._sock = socket.socket(fileno=fd)
            self._sock.setblocking(False)
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._is_owed_an_answer = False

    async def ask(self, *request: Any) -> Any:
        """Send a request and return its answer's value, or raise the error that it is."""
        try:
            message = pack(request)
        except ValueError as error:
            raise StoreError(f"the store cannot be asked: {error}") from None
        if self._lock.locked():
            await self._lock.acquire()
        else:
            # There is a checkpoint in every call anyway.
            self._lock.acquire_nowait()
        try:
            if self._is_owed_an_answer:
                await self._settle()
            self._unsent = memoryview(message)
            self._is_owed_an_answer = True
            kind, *value = unpack(await self._settle())
        finally:
            self._lock.release()
        if kind == OK:
            return value[0]
        if kind == LOCKED:
            raise StoreLocked(*value)
        raise _ERRORS.get(kind, StoreError)(*value)

    async def _settle(self) -> bytearray:
        """Send what is unsent, and return the answer that is owed. Every await may be cancelled
        and the call repeated: between two of them all is written down."""
        sock = self._sock
        if sock is None:
            raise StoreUnavailable(self._unavailable())
        try:
            while self._unsent:
                try:
                    self._unsent = self._unsent[sock.send(self._unsent) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(sock)
            while (answer := self._whole_answer()) is None:
                # It never answers at once, so there is a checkpoint in each call.
                await trio.lowlevel.wait_readable(sock)
                with suppress(BlockingIOError):
                    data = sock.recv(RECEIVE_BYTES)
                    if not data:
                        raise ConnectionResetError
                    self._received += data
        except (OSError, trio.ClosedResourceError):
            raise StoreUnavailable(self._unavailable()) from None
        self._received = bytearray()
        self._is_owed_an_answer = False
        return answer

    def _whole_answer(self) -> bytearray | None:
        received = self._received
        if len(received) < HEADER.size:
            return None
        (size,) = HEADER.unpack_from(received)
        # The process answers one request at a time, so nothing can follow the answer.
        return received[HEADER.size :] if len(received) == HEADER.size + size else None

    def close(self, why: str) -> None:
        """Make every call, wherever it waits, raise `StoreUnavailable`."""
        self._why_broken = why
        if self._sock is not None:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._sock = None

    def _unavailable(self) -> str:
        return f"the store cannot be used: {self._why_broken}"


# --- rows to columns and back -------------------------------------------------------------------


def _job_columns(batch: Batch) -> list[Any]:
    # States and flags travel as bytes: quicker to make than plain integers from an enum's members.
    if not batch.jobs:
        return []
    columns: list[Any] = list(zip(*batch.jobs, strict=True))
    columns[4] = bytes(columns[4])
    columns[5] = bytes(columns[5])
    return columns


def _change_columns(batch: Batch) -> list[Any]:
    if not batch.changes:
        return []
    columns: list[Any] = list(zip(*batch.changes, strict=True))
    columns[1] = bytes(columns[1])
    columns[3] = bytes(columns[3])
    return columns


def _end_columns(batch: Batch) -> list[Any]:
    if not batch.ends:
        return []
    columns: list[Any] = list(zip(*batch.ends, strict=True))
    columns[1] = bytes(columns[1])
    return columns


def _limits(retention: Retention) -> tuple[float | None, ...]:
    return (
        retention.max_count,
        retention.max_bytes,
        retention.max_age_s,
        retention.tombstone_s,
        retention.dead_max_count,
        retention.dead_max_bytes,
        retention.dead_max_age_s,
    )
