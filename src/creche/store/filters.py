"""Filters of jobs as stores answer them: what a job ended with, and the same in SQL.

A filter becomes SQL from its parsed terms, with its values as parameters. Where SQL has no word for
a rule it calls the same function as `Filter.matches` does, so that both agree."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from creche.errors import RemoteProtocolError
from creche.model.failure import Failure
from creche.model.filter import Filter, Term, error_text, worker_of
from creche.model.ids import ID_BYTES
from creche.model.job import JobState
from creche.store.base import LEASED, MAX_ERROR
from creche.wire.payload import decode_value


def ended_with(state: int, outcome: bytes | None) -> str:
    """Return the text of what a job ended with, for a filter to look in; "" for a result."""
    failure = _failure(state, outcome)
    return "" if failure is None else _as_text(error_text(failure))


def error_of(state: int, outcome: bytes | None) -> str | None:
    """Return what a job ended with, for a person to see; None for a result."""
    failure = _failure(state, outcome)
    return None if failure is None else _as_text(failure.line[:MAX_ERROR])


def _failure(state: int, outcome: bytes | None) -> Failure | None:
    if not isinstance(outcome, bytes) or state == JobState.SUCCEEDED:
        return None  # none, or damaged
    try:
        return Failure.from_data(decode_value(outcome))
    except RemoteProtocolError:
        return None  # what a worker said was carried unread


def _as_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


class Condition(NamedTuple):
    """A part of a WHERE clause, and the values of its places."""

    sql: str
    values: list[Any]


def conditions(filter: Filter) -> list[Condition]:
    """Return what *filter* says of `job j`, its `lane l`, `ending e`, `tombstone t` and `dead
    d`."""
    return [
        _negated(_condition(term)) if term.is_not else _condition(term) for term in filter.terms
    ]


def add_functions(connection: sqlite3.Connection) -> None:
    """Give *connection* the functions that `conditions` calls."""
    connection.create_function("worker_of", 1, _worker_of, deterministic=True)
    connection.create_function("ended_with", 2, ended_with, deterministic=True)
    connection.create_function("error_of", 2, error_of, deterministic=True)


def _worker_of(holder: bytes | None) -> str:
    return worker_of(None if holder is None else holder.decode("utf-8", "replace"))


ATTEMPT = f"j.failures + j.losses + (j.state IN ({', '.join(str(int(s)) for s in LEASED)}))"
"""`attempt_number` of an unfinished job."""

# Only one of e and t is there, and none while the job is unfinished.
_FIELDS = {
    "task": "j.task",
    "queue": "coalesce(l.queue, '')",
    "worker": "worker_of(CAST(CASE WHEN j.ending IS NULL THEN j.holder"
    " ELSE coalesce(e.holder, t.holder) END AS BLOB))",
    "submitted": "j.submitted_at",
    "started": "CASE WHEN j.ending IS NULL THEN j.leased_at"
    " ELSE coalesce(e.started_at, t.started_at) END",
    "ended": "coalesce(e.ended_at, t.ended_at)",
    "attempt": f"CASE WHEN j.ending IS NULL THEN {ATTEMPT} ELSE coalesce(e.attempt, t.attempt) END",
    "losses": "CASE WHEN j.ending IS NULL THEN j.losses ELSE coalesce(e.losses, t.losses) END",
}


# Results are not even read: they may be large.
_IS_FAILURE = "j.state > 10 AND typeof(e.outcome) = 'blob'"
ERROR_OF = f"CASE WHEN {_IS_FAILURE} THEN error_of(j.state, e.outcome) END"
_ENDED_WITH = f"CASE WHEN {_IS_FAILURE} THEN ended_with(j.state, e.outcome) ELSE '' END"


def _condition(term: Term) -> Condition:
    match term.key:
        case "state":
            return Condition(f"j.state IN ({_numbers(term)})", [])
        case "priority":
            return Condition(f"coalesce(l.priority, -1) IN ({_numbers(term)})", [])
        case "task" | "queue" | "worker" as key:
            return _any(term, lambda pattern: (f"{_FIELDS[key]} GLOB ?", [_as_glob(pattern)]))
        case "fate":
            return Condition(f"coalesce(d.fate, -1) IN ({_numbers(term)})", [])
        case "id":
            return _any(term, lambda digits: ("j.id BETWEEN ? AND ?", _ids(digits)))
        case "error":
            return _any(term, lambda text: (f"instr({_ENDED_WITH}, ?) > 0", [text]))
        case key:
            return _any(term, lambda one: _between(f"({_FIELDS[key]})", *one))


def _negated(condition: Condition) -> Condition:
    return Condition(f"NOT {condition.sql}", condition.values)


def _numbers(term: Term) -> str:
    return ",".join(str(int(value)) for value in term.values)


def _any(term: Term, one: Callable[[Any], tuple[str, list[Any]]]) -> Condition:
    parts = [one(value) for value in term.values]
    sql = " OR ".join(f"({part})" for part, _ in parts)
    return Condition(f"({sql})", [value for _, values in parts for value in values])


def _between(field: str, least: float | None, below: float | None) -> tuple[str, list[Any]]:
    parts = [f"{field} IS NOT NULL"]
    values = []
    if least is not None:
        parts.append(f"{field} >= ?")
        values.append(least)
    if below is not None:
        parts.append(f"{field} < ?")
        values.append(below)
    return f"coalesce({' AND '.join(parts)}, 0)", values


def _as_glob(pattern: str) -> str:
    """Return *pattern* for SQLite, in whose patterns a bracket begins a set."""
    return pattern.replace("[", "[[]")


def _ids(digits: str) -> list[bytes]:
    """Return the first and the last id that begins so."""
    return [bytes.fromhex(digits.ljust(2 * ID_BYTES, end)) for end in "0f"]
