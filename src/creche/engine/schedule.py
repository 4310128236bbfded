"""One schedule in the plane's memory: its rule, what it submits, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from creche.engine.options import check_options
from creche.errors import RemoteProtocolError
from creche.model.ids import id_to_text
from creche.model.limits import MAX_MOMENT
from creche.model.priority import Priority
from creche.model.schedule import MOMENTS_BY, MOST_COUNTED, Rule, firing_draw
from creche.store.base import ScheduleRow
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_value

MAX_SCHEDULE_BYTES = 64 * 1024
"""The arguments of one schedule, encoded: they are written with each firing."""

Source: TypeAlias = Literal["code", "api"]
"""Where a schedule is from: declared with its task, or made at run time."""


class Standing(NamedTuple):
    """How far a schedule has come. Moments are UTC seconds."""

    reached: float
    """Up to here every moment of its rule is decided: fired, missed or overlapped."""
    fired: int = 0
    missed: int = 0
    """Moments that nobody could fire, and that the rule says not to make up for."""
    overlapped: int = 0
    """Moments that came while the last job was unfinished, and were not fired."""
    moment: float | None = None
    """The moment of the last firing; None if that was by hand."""
    fired_at: float | None = None
    job: bytes | None = None
    """The job of the last firing."""
    job_by_rule: bytes | None = None
    """If that was by hand: the job of the last firing by the rule, if there is one. It may be
    unfinished too."""

    @property
    def last_jobs(self) -> tuple[bytes, ...]:
        """The jobs whose end counts for the next firing."""
        return tuple(job for job in (self.job, self.job_by_rule) if job is not None)

    def after_firing(self, moment: float, job: bytes, now: float) -> Standing:
        """Return how it stands when *job* is submitted for a moment of the rule."""
        return self._replace(
            fired=self.fired + 1, moment=moment, fired_at=now, job=job, job_by_rule=None
        )

    def after_run(self, job: bytes, now: float) -> Standing:
        """Return how it stands when *job* is submitted by hand."""
        by_rule = self.job_by_rule if self.moment is None else self.job
        return self._replace(moment=None, fired_at=now, job=job, job_by_rule=by_rule)


class Work(NamedTuple):
    """What a firing submits: as a submission says it."""

    task: str
    payload: bytes
    queue: str | None = None
    priority: int | None = None
    options: m.Facts | None = None


class Schedule:
    """A schedule. `uncommitted` is how it stood before firings that are on their way to disk."""

    __slots__ = (
        "declared_at",
        "due_at",
        "made_at",
        "module",
        "name",
        "on_way",
        "paused_at",
        "problem",
        "request",
        "rule",
        "size_bytes",
        "source",
        "standing",
        "try_at",
        "uncommitted",
        "undeclared_at",
        "unread",
        "waits_for",
        "work",
    )

    def __init__(
        self, name: str, source: Source, rule: Rule | None, work: Work, now: float
    ) -> None:
        self.name = name
        self.source: Source = source
        self.rule = rule
        """None: it cannot be read by this plane; `problem` says why."""
        self.problem: str | None = None
        self.unread: Any = None
        """A rule that this version cannot read: another one may."""
        self.work = work
        self.module = ""
        """Where its task is declared, of one that is from code."""
        self.declared_at = 0.0
        """When the process began that declared it last."""
        self.undeclared_at: float | None = None
        """Since when the code declares it no more."""
        self.made_at = now
        """From when intervals without a start are counted."""
        self.paused_at: float | None = None
        self.request = b""
        """What made it: the same request, asked again, finds it made."""
        self.standing = Standing(now)
        self.uncommitted: Standing | None = None
        self.on_way = 0
        """Firings on their way to the disk."""
        self.waits_for: bytes | None = None
        """The job whose end its next firing waits for."""
        self.try_at = 0.0
        """It does not fire before this moment: there was no room for its job."""
        self.due_at = math.inf
        """When it is to be looked at next."""
        self.size_bytes = 0

    # --- when -----------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether it fires when its time comes, if it ever does."""
        return (
            self.rule is not None
            and self.paused_at is None
            and self.undeclared_at is None
            and (self.rule.count is None or self.standing.fired < self.rule.count)
        )

    @property
    def stopped_at(self) -> float:
        """Since when it does not fire: it was paused, or taken out of the code. Infinity if neither
        is so."""
        moments = (self.paused_at, self.undeclared_at)
        return min((moment for moment in moments if moment is not None), default=math.inf)

    def go_on(self, now: float, rule: Rule | None) -> None:
        """It fires from *now* on, again or by another *rule*: nothing is made up for that came
        while it did not, or that this rule would have named.

        A firing that waited when it was stopped (for its last job, or put off) is made yet if the
        rule has the same moments and no other one has come since. Else it is missed."""
        until = min(now, self.stopped_at)
        keeps = _is_kept(self.rule, rule, now) and not self._moments(until, now)
        for name in ("standing", "uncommitted"):
            standing: Standing | None = getattr(self, name)
            if standing is not None:
                passed = self._undecided(standing, until)
                if not (passed and keeps):
                    reached = max(standing.reached, now)
                    missed = standing.missed + passed
                    setattr(self, name, standing._replace(reached=reached, missed=missed))

    def _undecided(self, standing: Standing, until: float) -> int:
        """Return how many moments have come until then that it stood to fire."""
        if self.rule is None or standing.fired >= (self.rule.count or math.inf):
            return 0
        return self._moments(standing.reached, until)

    def _moments(self, after: float, until: float) -> int:
        """Return how many moments its rule names between these, as far as they are counted."""
        moments = iter(()) if self.rule is None else self.rule.moments(after, self.made_at)
        return sum(1 for _ in takewhile(lambda at: at <= until, islice(moments, MOST_COUNTED)))

    def draw(self, moment: float) -> float:
        """Return the random number of a firing; it is the same after a restart."""
        return firing_draw(self.name, moment)

    def next_moment(self) -> float | None:
        """Return the next moment that is not decided yet, whether it will fire then or not."""
        if self.rule is None:
            return None
        return self.rule.next_after(self.standing.reached, self.made_at)

    def next_due_at(self) -> float:
        """Return when it is to fire next, infinity if it is not."""
        moment = self.next_moment() if self.is_active else None
        if moment is None or self.rule is None:
            return math.inf
        return max(moment + self.rule.put_off_s(self.draw(moment)), self.try_at)

    @property
    def state(self) -> str:
        """One word for how it is."""
        if self.problem is not None:
            return "broken"
        if self.undeclared_at is not None:
            return "undeclared"
        if self.paused_at is not None:
            return "paused"
        return "active" if self.is_active and self.next_moment() is not None else "ended"

    # --- as a row -------------------------------------------------------------------------------

    def row(self, standing: Standing | None = None) -> ScheduleRow:
        """Return what the store keeps of it, if it stands so."""
        data = {
            "source": self.source,
            "rule": self.unread if self.rule is None else self.rule.as_data(),
            "work": list(self.work),
            "module": self.module,
            "declared_at": self.declared_at,
            "undeclared_at": self.undeclared_at,
            "made_at": self.made_at,
            "paused_at": self.paused_at,
            "request": self.request,
            "standing": list(standing or self.standing),
        }
        return ScheduleRow(self.name, encode_value(data))

    @classmethod
    def from_row(cls, row: ScheduleRow) -> Schedule:
        """Read what was kept. What this version cannot read does not fire, and says so."""
        assert row.data is not None
        problem: str | None = None
        rule: Rule | None = None
        work, standing = Work("", b""), Standing(0.0)
        data: dict[str, Any] = {}
        try:
            data = _read(row.data)
            work, standing = Work(*data["work"]), Standing(*data["standing"])
            rule = Rule.from_data(data["rule"])
        except (RemoteProtocolError, ValueError) as error:
            problem = str(error)
        self = cls(row.name, data.get("source", "api"), rule, work, data.get("made_at", 0.0))
        self.problem = problem
        self.unread = data.get("rule")
        self.standing = standing
        for key in ("module", "declared_at", "undeclared_at", "paused_at", "request"):
            if key in data:
                setattr(self, key, data[key])
        self.size_bytes = len(row.data)
        return self

    # --- as people see it -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Return it as people look at it."""
        standing, rule = self.standing, self.rule
        due_at = self.next_due_at()
        return {
            "name": self.name,
            "source": self.source,
            "state": self.state,
            "problem": self.problem,
            "task": self.work.task,
            "queue": self.work.queue,
            "priority": self.work.priority,
            "rule": None if rule is None else rule.as_data(),
            "words": "" if rule is None else rule.words(),
            "module": self.module,
            "made_at": self.made_at,
            "paused_at": self.paused_at,
            "undeclared_at": self.undeclared_at,
            "next_at": self.next_moment() if self.is_active else None,
            "next_due_at": None if math.isinf(due_at) else due_at,
            "waits_for": None if self.waits_for is None else id_to_text(self.waits_for),
            "fired": standing.fired,
            "missed": standing.missed,
            "overlapped": standing.overlapped,
            "last_moment": standing.moment,
            "last_fired_at": standing.fired_at,
            "last_job": None if standing.job is None else id_to_text(standing.job),
            "payload_bytes": len(self.work.payload),
        }


def _is_kept(old: Rule | None, new: Rule | None, now: float) -> bool:
    """Whether a rule has the moments of the one before it that have come."""
    if old is None or new is None:
        return False
    is_over = old.end is not None and old.end < now
    return not is_over and all(getattr(old, name) == getattr(new, name) for name in MOMENTS_BY)


# --- what a row may say --------------------------------------------------------------------------


def _is_moment(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_MOMENT  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def _is_id(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 16


def _or_none(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


def _all_of(*are_right: Callable[[object], bool]) -> Callable[[object], bool]:
    """What may be said less of: the last ones may be missing, of an earlier version."""
    return lambda value: (
        isinstance(value, list)
        and 0 < len(value) <= len(are_right)
        and all(is_right(each) for is_right, each in zip(are_right, value, strict=False))
    )


_SAID: dict[str, Callable[[object], bool]] = {
    "source": lambda value: value in get_args(Source),
    "work": _all_of(
        _is_text,
        _is_bytes,
        _or_none(_is_text),
        _or_none(lambda value: type(value) is int and value in tuple(Priority)),
        _or_none(lambda value: isinstance(value, dict) and check_options(value) is None),
    ),
    "standing": _all_of(
        _is_moment, _is_count, _is_count, _is_count, _or_none(_is_moment), _or_none(_is_moment),
        _or_none(_is_id), _or_none(_is_id),
    ),
    "module": _is_text,
    "declared_at": _is_moment,
    "undeclared_at": _or_none(_is_moment),
    "made_at": _is_moment,
    "paused_at": _or_none(_is_moment),
    "request": _is_bytes,
    "rule": lambda _: True,
}  # fmt: skip
"""What a row says, and whether it is that: the rule is looked at by itself."""


def _read(data: bytes) -> dict[str, Any]:
    """Return what a row says.

    Raises:
        RemoteProtocolError, ValueError: it is damaged; the sentence says where.
    """
    said = decode_value(data)
    if not isinstance(said, dict):
        raise ValueError("what the store has of it is damaged: it is no map")
    for name, is_right in _SAID.items():
        if not is_right(said.get(name)) and (name in said or name in ("work", "standing")):
            raise ValueError(f"what the store has of it is damaged: {name} is not what it may be")
    if "rule" not in said:
        raise ValueError("what the store has of it is damaged: it has no rule")
    return said


def check_declared(declared: Any) -> dict[str, Any]:
    """Return what is kept of the schedule in a task's declaration.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(declared, dict):
        raise ValueError("its schedule is no map")
    rule = Rule.from_data(declared.get("rule"))
    payload = declared.get("payload")
    if not isinstance(payload, str):
        raise ValueError("the arguments of its schedule are hexadecimal digits")
    if len(bytes.fromhex(payload)) > MAX_SCHEDULE_BYTES:
        raise ValueError(f"the arguments of its schedule have over {MAX_SCHEDULE_BYTES:,} bytes")
    return {"rule": rule.as_data(), "payload": payload}
