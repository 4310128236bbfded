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
        for row in rows:
            try:
                self._keep(_read(row), row.declaration)
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
        self, declarations: Iterable[dict[str, Any]], now: float, began: float
    ) -> list[TaskRow]:
        """Take the declarations of a worker whose process *began* then, on a clock that only goes
        forward; return the rows that are new or different. What a newer process has said stays.

        Raises:
            RemoteProtocolError: a declaration is not one; nothing of the announcement is kept.
        """
        checked = {str(kept["name"]): kept for kept in map(_check, declarations)}
        encoded = {name: encode_value(declaration) for name, declaration in checked.items()}
        self._check_room(encoded)
        rows = []
        for name, declaration in checked.items():
            if began < self._began.get(name, began):
                continue
            self._began[name] = began
            if self._encoded.get(name) != encoded[name]:
                self._keep(declaration, encoded[name])
                rows.append(TaskRow(name, encoded[name], now))
        return rows

    def _check_room(self, encoded: Mapping[str, bytes]) -> None:
        if len(self._encoded.keys() | encoded.keys()) > MAX_TASKS:
            raise RemoteProtocolError(f"there are over {MAX_TASKS:,} tasks")
        for name, declaration in encoded.items():
            if len(declaration) > MAX_DECLARATION_BYTES:
                raise RemoteProtocolError(
                    f"task {name!r} is announced with {len(declaration):,} bytes, over "
                    f"{MAX_DECLARATION_BYTES:,}"
                )
        replaced = sum(len(self._encoded.get(name, b"")) for name in encoded)
        if self._size_bytes - replaced + sum(map(len, encoded.values())) > MAX_CATALOG_BYTES:
            raise RemoteProtocolError(
                f"all tasks together are announced with over {MAX_CATALOG_BYTES:,} bytes"
            )

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

    def _keep(self, declaration: dict[str, Any], encoded: bytes) -> None:
        name = declaration["name"]
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


def _read(row: TaskRow) -> dict[str, Any]:
    """Return the declaration that the store has of a task."""
    declaration = decode_value(row.declaration)
    if not isinstance(declaration, dict) or declaration.get("name") != row.name:
        raise RemoteProtocolError("it is no declaration of this task")
    _check(declaration)
    return declaration


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
