"""What is read from an SQLite file, made into rows, whatever stands in it.

A file that was edited, or that a disk has spoilt, may hold anything in any column. Rows are looked
at by the column; only where one is not as it should be is each looked at by itself. What cannot be
read is left out of its row, as if it had not been said, and told in words: what is to become of it
is for others to decide. Nothing here does I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from creche.model.ids import ID_BYTES
from creche.model.job import Fate, JobState
from creche.model.maps import is_number
from creche.model.priority import Priority
from creche.store.base import (
    DAMAGED_LANE,
    DelayCount,
    JobRecord,
    JobRow,
    KeyHolder,
    LaneCount,
    LaneRow,
    Ousted,
    OutcomeRow,
    QueueRow,
    ScheduleRow,
    TaskRow,
    TryRow,
)
from creche.store.sqlite_rows import MOST_COUNTED, is_count

Raw = Sequence[Any]

# By number: looking a state up here costs less than making it.
STATES = {int(state): state for state in JobState}

UNREADABLE = "?"
"""Stands for the name of a task that cannot be read."""

AT_A_TIME = 256
"""Rows that are turned over to columns together: twice as quick as all of very many at once."""

LONGEST = 60
"""Characters of a damaged value that are told."""

_NO = type(None)
_MOMENT: set[Any] = {float, int}
_MOMENT_OR_NONE: set[Any] = {*_MOMENT, _NO}
_TYPES: tuple[set[Any], ...] = (
    *({int}, {bytes}, {str}, {int}, {int}, {int}, {int}, {int}, {str, _NO}, {bytes}),
    *({bytes, _NO}, _MOMENT, _MOMENT_OR_NONE),
    *({_NO}, {int}, {int}, _MOMENT_OR_NONE, _MOMENT_OR_NONE),
)
_COLUMNS = (*JobRow._fields[:13], "ending", "stored", *JobRow._fields[13:16])
"""What is read of a job: its row, the end that it must not have yet, and where it is."""

_HELD, _STORED, _LATER = 0, 1, 2
_PLACES = {
    *((_HELD, state) for state in (1, 2, 3, 4, 5)),
    *((_STORED, state) for state in (1, 2)),
    (_LATER, 3),
}
"""The states that jobs may be in, by the column `stored`."""


def show(value: object) -> str:
    """Return a damaged value as people are told of it."""
    match value:
        case None:
            return "nothing"
        case bytes():
            told = value[:LONGEST].hex()
            return f"the bytes {told}" + ("..." if len(value) > LONGEST else "")
        case str():
            return f"the text {value[:LONGEST]!r}" + ("..." if len(value) > LONGEST else "")
        case (bytes() as data,):
            return f"a text of {show(data)}, which are no UTF-8"
    return f"the number {value!r}"


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_bytes(value: object) -> bool:
    return type(value) is bytes


def _is_id(value: object) -> bool:
    return type(value) is bytes and len(value) == ID_BYTES


def _or_none(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


class _Rule(NamedTuple):
    """What a column may hold, in words too, and what is taken where it holds something else."""

    is_right: Callable[[object], bool]
    wanted: str
    instead: object = None


_TEXT = _Rule(_is_text, "a text", UNREADABLE)
_COUNT = _Rule(is_count, "a whole number from 0 to 2^52", 0)
_TIME = _Rule(is_number, "a moment", 0.0)
_TIME_IF_ANY = _Rule(_or_none(is_number), "a moment or nothing")
_HOLDER = _Rule(_or_none(_is_text), "a text or nothing")
_BYTES_IF_ANY = _Rule(_or_none(_is_bytes), "bytes or nothing")

_OF_JOBS: dict[str, _Rule] = {
    "task": _TEXT,
    "lane": _COUNT,
    "attempt": _COUNT,
    "losses": _COUNT,
    "epoch": _COUNT,
    "holder": _HOLDER,
    "payload": _Rule(_is_bytes, "bytes", b""),
    "options": _BYTES_IF_ANY,
    "submitted_at": _TIME,
    "leased_at": _TIME_IF_ANY,
    "failures": _COUNT,
    "due_at": _TIME_IF_ANY,
    "expires_at": _TIME_IF_ANY,
}

_OF_RECORDS: dict[str, _Rule] = {
    "task": _TEXT,
    "queue": _HOLDER,
    "priority": _Rule(_or_none(lambda value: value in tuple(Priority)), "a priority or nothing"),
    "park": _Rule(_is_text, "a text", ""),
    "state": _Rule(lambda value: type(value) is int and value in STATES, "a state", 0),
    "attempt": _COUNT,
    "losses": _COUNT,
    "holder": _HOLDER,
    "submitted_at": _TIME,
    "started_at": _TIME_IF_ANY,
    "ended_at": _TIME_IF_ANY,
    "payload_bytes": _COUNT,
    "outcome_bytes": _Rule(_or_none(is_count), "a whole number or nothing"),
    "payload": _BYTES_IF_ANY,
    "outcome": _BYTES_IF_ANY,
    "failures": _COUNT,
    "due_at": _TIME_IF_ANY,
    "expires_at": _TIME_IF_ANY,
    "options": _BYTES_IF_ANY,
    "error": _HOLDER,
    "fate": _Rule(_or_none(lambda value: value in tuple(Fate)), "a fate or nothing"),
    "retried_as": _Rule(_or_none(_is_id), "an id or nothing"),
}


def _mend(said: dict[str, Any], rules: dict[str, _Rule]) -> list[str]:
    """Replace in *said* what cannot be so; return what that was."""
    wrong: list[str] = []
    for name, (is_right, wanted, instead) in rules.items():
        if not is_right(said[name]):
            wrong.append(f"{name} is {show(said[name])}, and not {wanted}")
            said[name] = instead
    return wrong


# --- unfinished jobs ----------------------------------------------------------------------------


def job_rows(raw: Sequence[Raw]) -> list[JobRow]:
    """Return jobs as the engine takes them back, in order. See `JobRow.damage`."""
    rows: list[JobRow] = []
    for first in range(0, len(raw), AT_A_TIME):
        rows += _some_rows(raw[first : first + AT_A_TIME])
    return rows


def _some_rows(raw: Sequence[Raw]) -> Iterable[JobRow]:
    columns = list(zip(*raw, strict=True))
    if not _are_sound(columns):
        return [_job_row(row) for row in raw]
    columns[4] = tuple(map(STATES.__getitem__, columns[4]))
    del columns[13:15]
    return map(JobRow._make, zip(*columns, repeat(None), strict=False))


def _are_sound(columns: Sequence[Sequence[Any]]) -> bool:
    for column, types in zip(columns, _TYPES, strict=True):
        # Most columns hold the same of all jobs: counting is five times as quick as a look at each.
        if column.count(column[0]) == len(column):
            if type(column[0]) not in types:
                return False
        elif not types.issuperset(map(type, column)):
            return False
    states, stored, dues = columns[4], columns[14], columns[16]
    places = {(place, state) for place in set(stored) for state in set(states)}
    return (
        set(map(len, columns[1])) == {ID_BYTES}
        and (places <= _PLACES or _PLACES.issuperset(zip(stored, states, strict=True)))
        and all(map(_are_counts, (columns[3], columns[5], columns[6], columns[7], columns[15])))
        and (JobState.DELAYED not in states or None not in _of_delayed(states, dues))
    )


def _are_counts(column: Sequence[int]) -> bool:
    return column.count(0) == len(column) or (min(column) >= 0 and max(column) <= MOST_COUNTED)


def _of_delayed(states: Sequence[int], dues: Sequence[Any]) -> set[Any]:
    return {due for state, due in zip(states, dues, strict=True) if state == JobState.DELAYED}


def _job_row(raw: Raw) -> JobRow:
    """Return one job: what cannot be read of it is replaced by what does no harm, and told."""
    said = dict(zip(_COLUMNS, raw, strict=True))
    seq, job_id = said["seq"], said["id"]
    ending, stored = said.pop("ending"), said.pop("stored")
    is_ended = ending is not None and (stored, said["state"]) not in _PLACES
    wrong = _mend(said, _OF_JOBS)
    if ending is not None:
        wrong.insert(0, f"ending is {show(ending)} and stored is {show(stored)}: not both can be")
    if (stored, said["state"]) not in _PLACES:
        is_placed = stored in (_HELD, _STORED, _LATER)
        what = ("state", said["state"]) if is_placed else ("stored", stored)
        wrong.append(f"{what[0]} is {show(what[1])}, and not that of a job that waits or runs")
        said["state"] = JobState.DELAYED if stored == _LATER else JobState.QUEUED
    if said["state"] == JobState.DELAYED and said["due_at"] is None:
        if raw[16] is None:
            wrong.append("due_at is nothing, and not a moment")
        said["due_at"] = 0.0
    if not _is_id(job_id):
        wrong.insert(0, f"id is {show(job_id)}, and not {ID_BYTES} bytes")
    if is_ended or not _is_id(job_id):
        said["id"] = b""
    said["state"] = STATES[said["state"]]
    damage = f"row {seq} of job is damaged: {'; '.join(wrong)}" if wrong else None
    return JobRow(**said, damage=damage)


def stored_counts(raw: Iterable[Raw]) -> list[LaneCount]:
    """Return how many jobs are stored in each lane whose number is one."""
    return [LaneCount(*row) for row in raw if type(row[0]) is int]


def delay_counts(raw: Iterable[Raw], astray: Iterable[Raw]) -> list[DelayCount]:
    """Return how many delayed jobs are stored in each lane whose number is one, but for those that
    are *astray*: nobody can tell until when they are delayed."""
    odd = Counter(row[3] for row in astray if row[14] == _LATER)
    counts = [DelayCount(lane, jobs - odd[lane]) for lane, jobs in raw if type(lane) is int]
    return [count for count in counts if count.stored]


# --- what became of jobs ------------------------------------------------------------------------


def outcome_row(raw: Raw) -> OutcomeRow:
    """Return how a job stands. See `OutcomeRow.damage`."""
    seq, job_id, state, outcome, is_left = raw
    if state in STATES and (outcome is None or type(outcome) is bytes):
        return OutcomeRow(seq, job_id, STATES[state], outcome, is_left)
    what = "outcome is no bytes" if state in STATES else "its state and its end do not go together"
    damage = f"row {seq} of job is damaged: {what}"
    return OutcomeRow(seq, job_id, JobState.FAILED, None, is_left, damage)


def key_holders(raw: Iterable[Raw]) -> dict[bytes, KeyHolder]:
    """Return who has which key. What is damaged is nobody's: it must not keep the others from
    being told."""
    return {
        name: KeyHolder(name, since, seq, job_id, STATES[state], submitted_at)
        for name, since, seq, job_id, state, submitted_at in raw
        if state in STATES and _is_id(job_id) and is_number(since) and is_number(submitted_at)
    }


def ousted_rows(raw: Iterable[Raw]) -> list[Ousted]:
    """Return which jobs are to be cancelled."""
    return [
        Ousted(job_id, bool(is_running_too)) for job_id, is_running_too in raw if _is_id(job_id)
    ]


# --- what is not of jobs ------------------------------------------------------------------------


def lane_rows(raw: Iterable[Raw], wrong: list[str]) -> list[LaneRow]:
    """Return what lanes stand for. Of one that cannot be read the jobs are as good as others: they
    have a queue of their own, to which no worker listens that was not told to."""
    rows = []
    for number, queue, priority, park in raw:
        if not is_count(number):
            wrong.append(f"a row of lane is damaged, and left alone: lane is {show(number)}")
        elif (
            (queue is None or type(queue) is str)
            and (priority is None or (type(priority) is int and 0 <= priority < len(Priority)))
            and type(park) is str
        ):
            rows.append(LaneRow(number, queue, priority, park))
        else:
            rows.append(LaneRow(number, f"{DAMAGED_LANE}{number}", int(Priority.NORMAL), ""))
            wrong.append(
                f"row {number} of lane is damaged: queue is {show(queue)}, priority is "
                f"{show(priority)}, park is {show(park)}; its jobs wait in queue "
                f"{DAMAGED_LANE}{number} for a worker that listens there"
            )
    return rows


def task_rows(raw: Iterable[Raw], wrong: list[str]) -> list[TaskRow]:
    """Return what was announced of tasks; a declaration that is none is empty."""
    return [
        TaskRow(name, _bytes(declaration), at if is_number(at) else 0.0)
        for name, declaration, at in _named(raw, "task", wrong)
    ]


def queue_rows(raw: Iterable[Raw], wrong: list[str]) -> list[QueueRow]:
    """Return what was said of queues; settings that are none are empty."""
    return [QueueRow(name, _bytes(settings)) for name, settings in _named(raw, "queue", wrong)]


def schedule_rows(raw: Iterable[Raw], wrong: list[str]) -> list[ScheduleRow]:
    """Return schedules; data that is none is empty."""
    return [ScheduleRow(name, _bytes(data)) for name, data in _named(raw, "schedule", wrong)]


def _named(raw: Iterable[Raw], table: str, wrong: list[str]) -> Iterable[Raw]:
    for row in raw:
        if type(row[0]) is str:
            yield row
        else:
            what = f"a row of {table} is damaged, and left alone: name is {show(row[0])}"
            if what not in wrong:
                wrong.append(what)


def _bytes(value: object) -> bytes:
    return value if type(value) is bytes else b""


# --- jobs as people look at them ----------------------------------------------------------------


def records(raw: Iterable[Raw]) -> list[JobRecord]:
    """Return jobs as people look at them, without those whose id cannot be read."""
    return [record(row) for row in raw if _is_id(row[1])]


def record(raw: Raw) -> JobRecord:
    """Return a job as people look at it. What cannot be read of it is replaced, and told as what it
    ended with."""
    tries = raw[24] if len(raw) > 24 else ()
    said = dict(zip(JobRecord._fields, raw, strict=False))
    wrong = _mend(said, _OF_RECORDS)
    has_ended = said["ended_at"] is not None
    said["state"] = STATES.get(said["state"], JobState.FAILED if has_ended else JobState.QUEUED)
    said["fate"] = None if said["fate"] is None else Fate(said["fate"])
    said["tries"] = tuple(map(_try_row, tries))
    if wrong:
        said["damage"] = "; ".join(wrong)
        said["error"] = f"damaged in the store: {said['damage']}"
    return JobRecord(**said)


def _try_row(raw: Raw) -> TryRow:
    seq, attempt, state, holder, started_at, ended_at, outcome = raw
    return TryRow(
        seq,
        attempt if is_count(attempt) else 0,
        STATES.get(state, JobState.FAILED),
        holder if _is_text(holder) else None,
        started_at if is_number(started_at) else None,
        ended_at if is_number(ended_at) else 0.0,
        outcome if _is_bytes(outcome) else None,
    )
