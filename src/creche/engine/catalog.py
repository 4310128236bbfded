"""The tasks that workers have announced: names and data, never code.

Announcements are durable; the one of the newest worker process wins. They fill in what a submission
leaves open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from heapq import nsmallest
from typing import Any, NamedTuple

from creche.engine.options import AT_MOST_ONCE
from creche.engine.parks import DEFAULT_QUEUE, LaneKey, parts_of_park
from creche.engine.schedule import check_declared
from creche.engine.settings import Route
from creche.errors import RemoteProtocolError
from creche.model.flow import Flow
from creche.model.limits import TimeLimits
from creche.model.priority import Priority
from creche.model.retry import RetryPolicy
from creche.model.unique import Rule
from creche.store.base import TaskRow
from creche.wire.payload import decode_value, encode_value

logger = logging.getLogger("creche.plane")

MAX_TASKS = 10_000
"""Tasks that all workers together may announce."""

MAX_DECLARATION_BYTES = 64 * 1024
"""One declaration, encoded: a signature of hundreds of parameters."""

MAX_CATALOG_BYTES = 16 * 1024 * 1024
"""All declarations, encoded: they are told to whoever asks for the tasks, in one answer."""

SHARE = 2
"""What the workers of one token announce is at most one part in so many of both."""

FORGET = 10
"""When declarations have to go, one in so many of those that there may be goes at once."""

MAX_COMPARED = 300
"""Names that one unknown name is compared with: each takes up to 50 us."""

_PLAIN = ("name", "queue", "priority", "delivery", "retry", "limits", "flow", "unique")
_SHOWN = ("module", "doc", "executor")
_SHOWN_LISTS = ("retry_on", "never_retry_on")
"""Names of exceptions: who judges by them is the worker."""
MAX_SHOWN = 50
_DELIVERIES = (None, "at-least-once", AT_MOST_ONCE)
_READERS: tuple[tuple[str, Callable[[Any], object]], ...] = (
    ("retry", RetryPolicy.from_data),
    ("limits", TimeLimits.from_data),
    ("flow", Flow.from_data),
    ("unique", Rule.from_data),
)
"""What is checked of a declaration by who knows it."""


class Defaults(NamedTuple):
    """What a task's announcement says of its jobs; None leaves it open."""

    queue: str | None
    priority: int | None
    delivery: str | None
    retry: Mapping[str, Any] | None
    expires_s: float | None


_NOTHING_SAID = Defaults(None, None, None, None, None)

_BY = "by"
"""In what is stored of a declaration: the id of the token that its worker had, if any."""


class CatalogFull(RemoteProtocolError):
    """There is no room for an announcement, unless others go: *tasks* of them, and *size_bytes*, of
    the token *by*, or of any if that is None."""

    def __init__(self, tasks: int, size_bytes: int, by: str | None) -> None:
        part, whose = (1, "all tasks together") if by is None else (SHARE, f"those of token {by}")
        most, most_bytes = MAX_TASKS // part, MAX_CATALOG_BYTES // part
        super().__init__(
            f"there may be {most:,} tasks and {most_bytes:,} bytes of declarations of {whose}: "
            "stop workers whose tasks are not needed, and end the jobs and schedules of these"
        )
        self.tasks = tasks
        self.size_bytes = size_bytes
        self.by = by


class Catalog:
    """Every task that was ever announced, with its newest declaration; *routes* say to which queues
    jobs go where neither submission nor task names one."""

    def __init__(self, rows: Iterable[TaskRow], routes: Sequence[Route] = ()) -> None:
        self._routes = routes
        self._declarations: dict[str, dict[str, Any]] = {}
        self._encoded: dict[str, bytes] = {}
        self._size_bytes = 0
        self._defaults: dict[str, Defaults] = {}
        self._began: dict[str, float] = {}
        """When the process began whose declaration counts, for what was announced to this plane."""
        self._by: dict[str, str] = {}
        """The ids of the tokens of those who first announced what counts."""
        self._heard_at: dict[str, float] = {}
        """When each was announced last."""
        for row in rows:
            try:
                declaration, by = _read(row)
                self._keep(declaration, encode_value(declaration), by)
                self._heard_at[row.name] = row.announced_at
            except RemoteProtocolError as error:
                logger.error(
                    "what the store has of task %r cannot be read, and holds again when a worker "
                    "announces it: %s",
                    *(row.name, error),
                )

    def __contains__(self, name: str) -> bool:
        return name in self._declarations

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(sorted(self._declarations.values(), key=lambda d: str(d["name"])))

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a task's newest declaration."""
        return self._declarations.get(name)

    def defaults(self, name: str) -> Defaults:
        """Return what the task's announcement says of its jobs."""
        return self._defaults.get(name, _NOTHING_SAID)

    def flow(self, name: str) -> Flow | None:
        """Return how many of the task's jobs run, if it says so."""
        declaration = self._declarations.get(name)
        said = None if declaration is None else declaration.get("flow")
        return None if said is None else Flow.from_data(said)

    def unique(self, name: str) -> Rule | None:
        """Return which of the task's jobs count as one, if it says so."""
        declaration = self._declarations.get(name)
        said = None if declaration is None else declaration.get("unique")
        return None if said is None else Rule.from_data(said)

    def near(self, name: str) -> list[str]:
        """Return known names that *name* may be a slip of; of very many tasks, those are looked at
        whose names are about as long."""
        names: Iterable[str] = self._declarations
        if len(self._declarations) > MAX_COMPARED:
            names = nsmallest(MAX_COMPARED, names, key=lambda known: abs(len(known) - len(name)))
        names = list(names)
        # The same function by another module's name is no slip of the fingers, and nearer than any.
        last = name.rpartition(".")[2]
        same = [known for known in names if last and known.rpartition(".")[2] == last]
        near = get_close_matches(name, names, n=3, cutoff=0.6)
        same = get_close_matches(name, same, n=3, cutoff=0.0)
        # But the nearest as it is written is shown in any case.
        return list(dict.fromkeys([*near[:1], *same, *near]))[:3]

    def announce(
        self,
        declarations: Iterable[dict[str, Any]],
        now: float,
        began: float,
        by: str | None = None,
    ) -> list[TaskRow]:
        """Take the declarations of a worker whose process *began* then, on a clock that only goes
        forward, and which had the token *by*; return the rows that are new or different. What a
        newer process has said stays.

        Raises:
            CatalogFull: there is no room for them; nothing of the announcement is kept.
            RemoteProtocolError: a declaration is not one; likewise.
        """
        checked = {str(kept["name"]): kept for kept in map(_check, declarations)}
        encoded = {name: encode_value(declaration) for name, declaration in checked.items()}
        self._check_room(encoded, by)
        rows = []
        for name, declaration in checked.items():
            self._heard_at[name] = now
            if began < self._began.get(name, began):
                continue
            self._began[name] = began
            if self._encoded.get(name) != encoded[name]:
                self._keep(declaration, encoded[name], by)
                rows.append(TaskRow(name, _with_token(declaration, by), now))
        return rows

    def oldest(self, by: str | None) -> list[str]:
        """Return the tasks of token *by*, or all if that is None, those first that were not
        announced for the longest."""
        names = self._encoded if by is None else (n for n, who in self._by.items() if who == by)
        return sorted(names, key=lambda name: self._heard_at.get(name, 0.0))

    def forget(self, names: Iterable[str], full: CatalogFull) -> list[str]:
        """Let go of the first of these tasks: of as many as make room for what found none, and for
        some more; return which."""
        gone: list[str] = []
        least = max(full.tasks, MAX_TASKS // (1 if full.by is None else SHARE) // FORGET)
        before_bytes = self._size_bytes
        for name in names:
            if len(gone) >= least and before_bytes - self._size_bytes >= full.size_bytes:
                break
            gone.append(name)
            self._size_bytes -= len(self._encoded[name])
            for kept in (
                self._declarations, self._encoded, self._defaults, self._began, self._by,
                self._heard_at,
            ):  # fmt: skip
                kept.pop(name, None)
        return gone

    def _check_room(self, encoded: Mapping[str, bytes], by: str | None) -> None:
        for name, declaration in encoded.items():
            if len(declaration) > MAX_DECLARATION_BYTES:
                raise RemoteProtocolError(
                    f"task {name!r} is announced with {len(declaration):,} bytes, over "
                    f"{MAX_DECLARATION_BYTES:,}"
                )
        if by is not None:
            # What others have announced in the same words stays theirs.
            own = {name: self._encoded[name] for name, who in self._by.items() if who == by}
            new = {n: said for n, said in encoded.items() if self._encoded.get(n) != said}
            _check_sum(own, new, MAX_TASKS // SHARE, MAX_CATALOG_BYTES // SHARE, by)
        _check_sum(self._encoded, encoded, MAX_TASKS, MAX_CATALOG_BYTES, None)

    def queue_of(self, task: str) -> str:
        """Return the queue where jobs of *task* go whose submission names none."""
        said = self.defaults(task).queue
        if said is not None:
            return said
        routes = (route.queue for route in self._routes if fnmatchcase(task, route.pattern))
        return next(routes, DEFAULT_QUEUE)

    def place(self, task: str, key: LaneKey) -> tuple[str, int]:
        """Return the queue and priority at which jobs of a parked lane are taken."""
        queue, priority, _ = key
        said = self.defaults(task)
        if queue is None:
            queue = self.queue_of(task)
        if priority is None:
            priority = Priority.NORMAL if said.priority is None else said.priority
        return queue, priority

    def place_of_lane(self, key: LaneKey) -> tuple[str, int]:
        """Return the queue and priority at which a lane is taken from."""
        return self.place(parts_of_park(key[2])[0], key)

    def _keep(self, declaration: dict[str, Any], encoded: bytes, by: str | None) -> None:
        name = declaration["name"]
        if by is None:
            self._by.pop(name, None)
        else:
            self._by[name] = by
        self._declarations[name] = declaration
        self._size_bytes += len(encoded) - len(self._encoded.get(name, b""))
        self._encoded[name] = encoded
        self._defaults[name] = Defaults(
            declaration.get("queue"),
            declaration.get("priority"),
            declaration.get("delivery"),
            declaration.get("retry"),
            (declaration.get("limits") or {}).get("expires_s"),
        )


def _check_sum(
    kept: Mapping[str, bytes], new: Mapping[str, bytes], most: int, most_bytes: int, by: str | None
) -> None:
    """Refuse the *new* declarations if there is no room for them beside what is *kept*."""
    tasks = len(kept.keys() | new.keys()) - most
    size = sum(map(len, new.values()))
    size += sum(len(said) for name, said in kept.items() if name not in new)
    if tasks <= 0 and size <= most_bytes:
        return
    full = CatalogFull(max(tasks, 0), max(size - most_bytes, 0), by)
    if len(new) > most or sum(map(len, new.values())) > most_bytes:
        # Whatever goes, there is none.
        raise RemoteProtocolError(str(full))
    raise full


def _with_token(declaration: Mapping[str, Any], by: str | None) -> bytes:
    """Return what is stored of a declaration."""
    return encode_value(declaration if by is None else {**declaration, _BY: by})


def _read(row: TaskRow) -> tuple[dict[str, Any], str | None]:
    """Return the declaration that the store has of a task, and the token that it came with."""
    declaration = decode_value(row.declaration or b"")
    if not isinstance(declaration, dict) or declaration.get("name") != row.name:
        raise RemoteProtocolError("it is no declaration of this task")
    by = declaration.pop(_BY, None)
    _check(declaration)
    return declaration, by if isinstance(by, str) else None


def _check(declaration: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a declaration: the keys that are known, each of its type."""
    name = declaration.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise RemoteProtocolError("a declaration's name is a text of 1 to 200 characters")
    queue, priority = declaration.get("queue"), declaration.get("priority")
    if queue is not None and (not isinstance(queue, str) or not 0 < len(queue) <= 200):
        raise RemoteProtocolError(f"task {name!r} announces a queue that is no name")
    if priority is not None and (type(priority) is not int or not 0 <= priority < len(Priority)):
        raise RemoteProtocolError(f"task {name!r} announces a priority that is none")
    if declaration.get("delivery") not in _DELIVERIES:
        raise RemoteProtocolError(f"task {name!r} announces a delivery that is none")
    for key, read in _READERS:
        if declaration.get(key) is not None:
            try:
                read(declaration[key])
            except ValueError as error:
                raise RemoteProtocolError(f"task {name!r}: {error}") from None
    kept = {key: declaration[key] for key in _PLAIN if key in declaration}
    if declaration.get("schedule") is not None:
        try:
            kept["schedule"] = check_declared(declaration["schedule"])
        except ValueError as error:
            raise RemoteProtocolError(f"task {name!r}: {error}") from None
    for key in _SHOWN:
        if isinstance(declaration.get(key), str):
            kept[key] = declaration[key]
    for key in _SHOWN_LISTS:
        names = declaration.get(key)
        if isinstance(names, list) and all(isinstance(each, str) for each in names):
            kept[key] = names[:MAX_SHOWN]
    signature = declaration.get("signature")
    if signature is not None:
        kept["signature"] = _check_signature(name, signature)
    return kept


def _check_signature(task: str, signature: Any) -> dict[str, Any]:
    parameters = signature.get("parameters") if isinstance(signature, dict) else None
    if not isinstance(parameters, list) or not all(map(_is_parameter, parameters)):
        raise RemoteProtocolError(f"task {task!r} announces a signature that is none")
    returns = signature.get("returns")
    return {
        "parameters": parameters,
        "returns": returns if isinstance(returns, str) else None,
    }


def _is_parameter(row: Any) -> bool:
    return isinstance(row, list) and all(isinstance(part, str | int | None) for part in row)
