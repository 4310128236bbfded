"""What a task, or a program at run time, says of a schedule: checked here, and made a rule of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from creche.errors import InvalidArguments, TaskDefinitionError
from creche.model.schedule import Missed, Overlap, Rule
from creche.tasks.signature import Signature

OPTIONS = ("cron", "every", "tz", "repeat_interval", "repeat_count", "repeat_until", "schedule")
"""The options of `task` that make a schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When jobs of a task are submitted, and with what arguments.

    One of *cron*, *every* and *at* says when; everything else may be left out.

    Arguments:
        cron: five fields (minute, hour, day of month, month, day of week), six with seconds first,
            or a word such as ``@daily``.
        every: seconds between two firings, or a `timedelta`. Counted from *start*, or from when the
            schedule was made, whatever the jobs take.
        at: the one moment of what fires once.
        tz: the time zone that *cron* speaks of, as ``Europe/Paris``; UTC if it is not said.
        start, end: it fires neither before nor after: datetimes with a time zone.
        count: how often it fires.
        jitter: each firing is put off by up to so many seconds, by chance; less than there are
            between two moments.
        missed: what becomes of moments at which nobody could fire: ``"skip"``: nothing, if they are
            over a minute ago; ``"once"``: one firing for all of them; ``"all"``: each of them that
            is at most *missed_within* seconds ago.
        overlap: what becomes of a firing while the last job is unfinished: ``"skip"``: nothing;
            ``"queue"``: it waits for that job's end; ``"replace"``: that job is cancelled;
            ``"allow"``: both run.
        args, kwargs: the arguments of each job.

    Raises:
        TaskDefinitionError: an option cannot be what it is given for, or contradicts another.
    """

    cron: str | None = None
    every: float | timedelta | None = None
    at: datetime | None = None
    tz: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    count: int | None = None
    jitter: float = 0.0
    missed: Missed = "once"
    missed_within: float | None = None
    overlap: Overlap = "skip"
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rule: Rule = field(init=False, repr=False)
    """The same as data, without the arguments."""

    def __post_init__(self) -> None:
        every = self.every.total_seconds() if isinstance(self.every, timedelta) else self.every
        if isinstance(self.args, str | bytes) or not isinstance(self.args, Sequence):
            raise TaskDefinitionError(
                f"a schedule's args are a tuple of arguments, as in args=(5,), not {self.args!r}"
            )
        if not isinstance(self.kwargs, Mapping):
            raise TaskDefinitionError(f"a schedule's kwargs are a map, not {self.kwargs!r}")
        moments = {name: _moment(name, getattr(self, name)) for name in ("at", "start", "end")}
        try:
            rule = Rule(
                cron=self.cron,
                every=every,
                tz=self.tz,
                count=self.count,
                jitter=self.jitter,
                missed=self.missed,
                missed_within=self.missed_within,
                overlap=self.overlap,
                **moments,
            )
            rule.check_new()
        except ValueError as error:
            raise TaskDefinitionError(f"a schedule that cannot be: {error}") from None
        object.__setattr__(self, "rule", rule)

    def declared(self) -> dict[str, Any]:
        """Return what a task's declaration says of it: the rule as data, and the arguments."""
        return {"rule": self.rule.as_data(), "args": list(self.args), "kwargs": dict(self.kwargs)}


def make_schedule(where: str, given: Mapping[str, Any]) -> Schedule | None:
    """Return the schedule that the options *given* to a task make, None if they make none.

    Raises:
        TaskDefinitionError: they contradict each other; the sentence begins with *where*.
    """
    said = {name: given[name] for name in OPTIONS if given.get(name) is not None}
    if not said:
        return None
    try:
        return _schedule(said)
    except TaskDefinitionError as error:
        raise TaskDefinitionError(f"{where}: {error}") from None


def check_schedule(where: str, schedule: Schedule, signature: Signature) -> None:
    """Raise for a schedule whose arguments do not fit the task's signature.

    Raises:
        TaskDefinitionError: it has such; the sentence begins with *where*.
    """
    try:
        signature.check(schedule.args, schedule.kwargs)
    except InvalidArguments as error:
        raise TaskDefinitionError(
            f"{where}: its schedule cannot call it: {error}; say the arguments with the rule, as "
            "in schedule=Schedule(every=60, args=(5,))"
        ) from None


def why_over(where: str, schedule: Schedule | None, now: float) -> str | None:
    """Return what is to be said of a schedule in code that names no moment after *now*: it may have
    fired before, and then all is well. None where it has moments."""
    if schedule is None or schedule.rule.next_after(now, now) is not None:
        return None
    return f"{where}: its schedule ({schedule.rule.words()}) is over, and will not fire any more"


def _schedule(said: dict[str, Any]) -> Schedule:
    whole = said.pop("schedule", None)
    if whole is not None:
        if not isinstance(whole, Schedule):
            raise TaskDefinitionError(f"schedule is a Schedule(...), not {whole!r}")
        if said:
            raise TaskDefinitionError(
                f"schedule and {next(iter(said))} both say when: put all of it into Schedule(...)"
            )
        return whole
    for old, new in (("repeat_interval", "every"), ("repeat_count", "count")):
        if old in said:
            if new in said:
                raise TaskDefinitionError(f"{old} and {new} are the same: give one of them")
            said[new] = said.pop(old)
    until = said.pop("repeat_until", None)
    if until is not None:
        said["end"] = _until(until)
    return Schedule(**said)


def _until(until: object) -> datetime:
    """Return the end that FastWorker's option says, as a moment or as ISO 8601 has it."""
    if isinstance(until, str):
        try:
            until = datetime.fromisoformat(until)
        except ValueError:
            raise TaskDefinitionError(
                f"repeat_until {until!r} is no moment: write it as in 2027-01-31T18:30+01:00"
            ) from None
    if not isinstance(until, datetime):
        raise TaskDefinitionError(f"repeat_until is a datetime or a text, not {until!r}")
    return until


def _moment(name: str, moment: object) -> float | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise TaskDefinitionError(f"a schedule's {name} is a datetime, not {moment!r}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise TaskDefinitionError(
            f"a schedule's {name} ({moment}) says no time zone, so it is no moment: use "
            "datetime(..., tzinfo=ZoneInfo('Europe/Paris')), or .astimezone() for this machine's "
            "zone"
        )
    return moment.timestamp()
