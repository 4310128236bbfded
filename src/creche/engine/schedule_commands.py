"""What peers ask of schedules, and have done to them: answered when it is on disk.

A question that was cut off is asked again, by the same peer in the same words. So each command
bears being done twice: one that makes or removes a schedule carries 16 random bytes, a run by hand
the id of its job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from creche.engine.options import check_options
from creche.engine.questions import BadQuestion
from creche.engine.refusals import queue_refusal
from creche.engine.schedule import MAX_SCHEDULE_BYTES, Schedule, Work
from creche.model.ids import ID_BYTES
from creche.model.names import MAX_NAME
from creche.model.priority import Priority
from creche.model.schedule import Rule
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core

MAX_ANSWERED = 200
"""Schedules in one answer."""

MAX_REMOVED = 1000
"""Removals that are remembered, so that asking again for one is no mistake."""

_OPEN = ("delivery", "limits", "retry")
"""The options that a schedule may give its jobs; others are of one moment, or of a running job."""


class ScheduleCommands:
    """Answers questions about schedules, and does what is asked of them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._removed: OrderedDict[bytes, None] = OrderedDict()
        self.questions: dict[str, Callable[[m.Facts], Awaitable[Any]]] = {
            "schedules": self._list,
            "schedule": self._show,
            "create-schedule": self._create,
            "change-schedule": self._change,
            "pause-schedule": self._pause,
            "resume-schedule": self._resume,
            "delete-schedule": self._delete,
            "run-schedule": self._run,
        }

    # --- questions ------------------------------------------------------------------------------

    async def _list(self, params: m.Facts) -> dict[str, Any]:
        """By name, those after *after*; as many as one answer takes."""
        after = params.get("after", "")
        if not isinstance(after, str):
            raise BadQuestion("after is the name of a schedule")
        names = sorted(name for name in self._core.schedules.by_name if name > after)
        some = names[:MAX_ANSWERED]
        return {
            "schedules": [self._core.schedules.by_name[name].describe() for name in some],
            "left_out": len(names) - len(some),
        }

    async def _show(self, params: m.Facts) -> dict[str, Any]:
        schedule = self._find(params)
        return {
            **schedule.describe(),
            "payload": schedule.work.payload,
            "options": schedule.work.options,
        }

    # --- commands -------------------------------------------------------------------------------

    async def _create(self, params: m.Facts) -> dict[str, Any]:
        name = _name(params, "name")
        rule, request = _rule(params), _id(params, "request")
        work = _work(params, self._core)
        self._check_writable()
        schedules = self._core.schedules
        existing = schedules.by_name.get(name)
        if existing is not None and existing.request == request:
            return await self._done(existing)
        if existing is not None:
            where = "is declared in code" if existing.source == "code" else "exists already"
            raise BadQuestion(
                f"schedule {name!r} {where}: change it, or choose another name", "exists"
            )
        self._check_future(rule)
        refusal = schedules.refusal(len(work.payload))
        if refusal is not None:
            raise BadQuestion(refusal, "full")
        schedule = Schedule(name, "api", rule, work, self._core.now())
        schedule.request = request
        schedules.add(schedule)
        return await self._done(schedule)

    async def _change(self, params: m.Facts) -> dict[str, Any]:
        """What is not said stays as it is."""
        schedule = self._find(params)
        if schedule.source == "code":
            raise BadQuestion(
                f"schedule {schedule.name!r} is declared in code: change it there; here it can be "
                "paused, resumed and run",
                "declared",
            )
        work = schedule.work._asdict()
        said = {key: params[key] for key in work if key in params}
        changed = _work({**work, **said}, self._core)
        rule = _rule(params) if "rule" in params else schedule.rule
        if rule is None:
            raise BadQuestion(
                f"schedule {schedule.name!r} has no rule that can be read: give it one"
            )
        if rule != schedule.rule:
            self._check_future(rule, schedule)
        self._check_writable()
        self._core.schedules.change(schedule, rule, changed)
        return await self._done(schedule)

    async def _pause(self, params: m.Facts) -> dict[str, Any]:
        schedule = self._find(params)
        if schedule.paused_at is None:
            self._check_writable()
            schedule.paused_at = self._core.now()
            self._core.schedules.write(schedule)
            self._core.schedules.rearm(schedule)
        return await self._done(schedule)

    async def _resume(self, params: m.Facts) -> dict[str, Any]:
        schedule = self._find(params)
        if schedule.paused_at is not None:
            self._check_writable()
            # What came while it was paused was not to be.
            schedule.go_on(self._core.now(), schedule.rule)
            schedule.paused_at = None
            self._core.schedules.write(schedule)
            self._core.schedules.rearm(schedule)
        return await self._done(schedule)

    async def _delete(self, params: m.Facts) -> dict[str, Any]:
        request = _id(params, "request")
        if request not in self._removed:
            schedule = self._find(params)
            if schedule.source == "code" and schedule.undeclared_at is None:
                raise BadQuestion(
                    f"schedule {schedule.name!r} is declared in code, and would be back with the "
                    "next worker: take it out there, or pause it here",
                    "declared",
                )
            self._check_writable()
            self._core.schedules.remove(schedule)
            self._removed[request] = None
            if len(self._removed) > MAX_REMOVED:
                self._removed.popitem(last=False)
        await self._core.journal.wait_drained()
        return {"name": params["name"]}

    async def _run(self, params: m.Facts) -> dict[str, Any]:
        """Submit the schedule's job now, whatever its rule and its last job say."""
        core = self._core
        job_id = _id(params, "id")
        schedule = self._find(params)
        if schedule.problem is not None:
            raise BadQuestion(f"schedule {schedule.name!r} is broken: {schedule.problem}")
        rows, ended = await core.find([job_id])
        if not rows and job_id not in ended and job_id not in core.by_id:
            if core.is_stopping:
                raise BadQuestion("the plane is stopping: try again when it is back", "stopping")
            self._check_writable()
            after = schedule.standing.after_run(job_id, core.now())
            flight = core.schedules.submit(schedule, after)
            core.journal.wake()
            if flight is None:
                raise BadQuestion("there is no room for its job now: try again", "full")
            await flight.landed.wait()
            if flight.refusal is not None:
                raise BadQuestion(flight.refusal, "store-full")
        return await self._done(schedule)

    # --- what they share ------------------------------------------------------------------------

    async def _done(self, schedule: Schedule) -> dict[str, Any]:
        """Return a schedule as it is when all of it is on disk."""
        await self._core.journal.wait_drained()
        return schedule.describe()

    def _find(self, params: m.Facts) -> Schedule:
        name = params.get("name")
        if not isinstance(name, str):
            raise BadQuestion("name is the name of a schedule")
        schedule = self._core.schedules.by_name.get(name)
        if schedule is None:
            near = get_close_matches(name, self._core.schedules.by_name, n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise BadQuestion(f"there is no schedule {name!r}{hint}", "unknown-schedule")
        return schedule

    def _check_writable(self) -> None:
        failing = self._core.journal.failing
        if failing is not None:
            raise BadQuestion(f"the plane's store takes nothing: {failing}", "store-full")

    def _check_future(self, rule: Rule, schedule: Schedule | None = None) -> None:
        now = self._core.now()
        if rule.at is not None and rule.at <= now:
            raise BadQuestion(
                "at is in the past: a schedule fires later; submit the job to run it now",
                "bad-schedule",
            )
        made_at = now if schedule is None else schedule.made_at
        if rule.next_after(now, made_at) is None:
            raise BadQuestion("it never fires: its end has passed already", "bad-schedule")


def _rule(params: m.Facts) -> Rule:
    try:
        rule = Rule.from_data(params.get("rule"))
        rule.check_new()
        return rule
    except ValueError as error:
        raise BadQuestion(str(error), "bad-schedule") from None


def _work(params: m.Facts, core: Core) -> Work:
    task, payload, queue = _name(params, "task"), params.get("payload"), params.get("queue")
    priority, options = params.get("priority"), params.get("options")
    if not isinstance(payload, bytes):
        raise BadQuestion("payload is a job's encoded arguments")
    if len(payload) > MAX_SCHEDULE_BYTES:
        raise BadQuestion(
            f"a schedule's arguments may have {MAX_SCHEDULE_BYTES:,} bytes, not {len(payload):,}",
            "too-large",
        )
    if queue is not None and not isinstance(queue, str):
        raise BadQuestion("queue is the name of a queue")
    refused = None if queue is None else queue_refusal(core, queue)
    if refused is not None:
        raise BadQuestion(refused[1], refused[0])
    if priority is not None and (type(priority) is not int or not 0 <= priority < len(Priority)):
        raise BadQuestion(f"priority is a whole number from 0 to {len(Priority) - 1}")
    if options is not None:
        _check_open(options)
    message = m.Submit(0, b"", task, queue, priority, payload, 0, options)
    refusal = core.limits.refusal(message) or core.unique.said.refusal(task)
    if refusal is not None:
        raise BadQuestion(refusal[1], refusal[0])
    return Work(task, payload, queue, priority, options or None)


def _check_open(options: Any) -> None:
    if not isinstance(options, dict):
        raise BadQuestion("options are a map")
    for key in options:
        if key not in _OPEN:
            raise BadQuestion(f"a schedule has no option {key!r}: it has {', '.join(_OPEN)}")
    wrong = check_options(options)
    if wrong is not None:
        raise BadQuestion(wrong[1], wrong[0])
    if (options.get("limits") or {}).get("deadline_at") is not None:
        raise BadQuestion("a deadline is of one job, and a schedule has many: use expires")


def _name(params: m.Facts, key: str) -> str:
    name = params.get(key)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise BadQuestion(f"{key} has 1 to {MAX_NAME} printable characters")
    return name


def _id(params: m.Facts, key: str) -> bytes:
    value = params.get(key)
    if not isinstance(value, bytes) or len(value) != ID_BYTES:
        raise BadQuestion(f"{key} is {ID_BYTES} bytes")
    return value
