"""What clients do with schedules: make, look at, change, pause, resume, run and delete them.

The plane answers a command when it is on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from creche.errors import InvalidArguments, Refused, UnknownSchedule
from creche.host import Host
from creche.model.ids import id_to_text, new_id
from creche.model.priority import Priority
from creche.peer.handle import JobHandle
from creche.tasks.options import PriorityLike
from creche.tasks.schedules import Schedule
from creche.tasks.task import Task
from creche.wire.payload import encode_call

if TYPE_CHECKING:
    from creche.client.client import Client
    from creche.peer.blocking import BlockingJobHandle

R = TypeVar("R")

IfExists: TypeAlias = Literal["refuse", "keep", "replace"]
"""What to do where a schedule of that name is there already."""


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as it was when the plane answered."""

    name: str
    source: str
    """``code``: declared with its task; ``api``: made at run time."""
    state: str
    """``active``, ``paused``, ``ended`` (nothing is left to fire), ``undeclared`` (its task's code
    has it no more), or ``broken`` (`problem` says why)."""
    task: str
    queue: str | None
    """Where its jobs go; None leaves it to the task."""
    rule: Mapping[str, Any] | None
    """The rule as data: what it says, and no more."""
    words: str
    """The rule in a few words."""
    next_at: datetime | None
    """The next moment that its rule names, in UTC; None if it does not fire."""
    next_due_at: datetime | None
    """When it fires then: the same, put off by the jitter."""
    last_moment: datetime | None
    """The moment that it fired for last; None if that was by hand."""
    last_fired_at: datetime | None
    last_job: str | None
    """The id of the last firing's job."""
    waits_for: str | None
    """The job whose end its next firing waits for (``overlap="queue"``)."""
    fired: int
    missed: int
    """Moments that came while nobody could fire them, and are not made up for."""
    overlapped: int
    """Moments that came while the last job was unfinished, and were not fired."""
    problem: str | None

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Make it of a plane's answer."""
        values = {name: data.get(name) for name in cls.__dataclass_fields__}
        for name in ("next_at", "next_due_at", "last_moment", "last_fired_at"):
            moment = values[name]
            values[name] = None if moment is None else datetime.fromtimestamp(moment, UTC)
        return cls(**values)  # type: ignore[arg-type]


class ScheduleVerbs(ABC):
    """The part of `Client` that is about schedules."""

    _host: Host

    @abstractmethod
    async def ask(self, question: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the plane; see `Client.ask`."""

    @abstractmethod
    def job(self, job_id: str) -> JobHandle[Any]:
        """Return a handle of a job; see `Client.job`."""

    async def create_schedule(
        self,
        name: str,
        task: Task[..., Any] | str,
        schedule: Schedule,
        *,
        queue: str | None = None,
        priority: PriorityLike | None = None,
        if_exists: IfExists = "refuse",
    ) -> ScheduleInfo:
        """Have the plane submit jobs of *task* by itself, and return when that is on disk.

        Where jobs go, and what else holds for each of them, is said by ``task.with_options(...)``,
        or, of a task that is given by its name, by *queue* and *priority*.

        Raises:
            InvalidArguments: the schedule's arguments do not fit the task; nothing was sent.
            NotEncodable: they cannot be carried; nothing was sent.
            Refused: the plane refuses it: there is one of that name (``exists``), it would never
                fire (``bad-schedule``), there are too many (``full``), or the disk takes nothing
                (``store-full``).
            PlaneUnreachable: no answer within the client's timeout; it may have been made.
        """
        params = {"rule": schedule.rule.as_data(), **_work(task, schedule)}
        if queue is not None:
            params["queue"] = queue
        if priority is not None:
            params["priority"] = int(_parsed(priority))
        request = self._host.entropy(16)
        try:
            return await self._about(name, "create-schedule", params, request=request)
        except Refused as refused:
            if refused.code != "exists" or if_exists == "refuse":
                raise
        if if_exists == "keep":
            return await self.schedule(name)
        return await self._about(name, "change-schedule", params)

    async def schedules(self) -> list[ScheduleInfo]:
        """Return all schedules of the plane, by name.

        Raises:
            PlaneUnreachable: no answer within the client's timeout.
        """
        found: list[ScheduleInfo] = []
        left_out = 1
        while left_out:
            after = found[-1].name if found else ""
            answer = await self.ask("schedules", {"after": after})
            found += map(ScheduleInfo.from_data, answer["schedules"])
            left_out = answer["left_out"]
        return found

    async def schedule(self, name: str) -> ScheduleInfo:
        """Return one schedule.

        Raises:
            UnknownSchedule: there is none of that name.
            PlaneUnreachable: no answer within the client's timeout.
        """
        return await self._about(name, "schedule")

    async def change_schedule(
        self,
        name: str,
        *,
        task: Task[..., Any] | str | None = None,
        schedule: Schedule | None = None,
    ) -> ScheduleInfo:
        """Give a schedule another task, or another rule and arguments, or both; what it has fired
        and whether it is paused stay. Moments of the new rule that have passed are not missed.

        Raises:
            UnknownSchedule: there is none of that name.
            Refused: it is declared in code (``declared``), or cannot be (see `create_schedule`).
            InvalidArguments, NotEncodable: as of `create_schedule`.
            PlaneUnreachable: no answer within the client's timeout; it may have been changed.
        """
        params = {} if task is None else _work(task, schedule)
        if schedule is not None:
            params |= {"rule": schedule.rule.as_data(), "payload": _payload(schedule)}
        return await self._about(name, "change-schedule", params)

    async def pause_schedule(self, name: str) -> ScheduleInfo:
        """Have a schedule not fire until it is resumed. Jobs that it has submitted go on.

        Raises:
            UnknownSchedule: there is none of that name.
            PlaneUnreachable: no answer within the client's timeout; it may be paused.
        """
        return await self._about(name, "pause-schedule")

    async def resume_schedule(self, name: str) -> ScheduleInfo:
        """Have a paused schedule fire from now on: what came meanwhile is not made up for.

        Raises:
            UnknownSchedule: there is none of that name.
            PlaneUnreachable: no answer within the client's timeout; it may be resumed.
        """
        return await self._about(name, "resume-schedule")

    async def delete_schedule(self, name: str) -> None:
        """Delete a schedule. Jobs that it has submitted go on.

        Raises:
            UnknownSchedule: there is none of that name.
            Refused: it is declared in code (``declared``), and would come back.
            PlaneUnreachable: no answer within the client's timeout; it may be deleted.
        """
        await self._asked(name, "delete-schedule", {"request": self._host.entropy(16)})

    async def run_schedule(self, name: str) -> JobHandle[Any]:
        """Submit a schedule's job now, also if it is paused or its last job is unfinished, and
        return when that is on disk. Its rule takes no notice.

        Raises:
            UnknownSchedule: there is none of that name.
            Refused: there is no room for the job now.
            PlaneUnreachable: no answer within the client's timeout; it may have been submitted.
        """
        job_id = new_id(self._host.clock(), self._host.entropy(10))
        await self._asked(name, "run-schedule", {"id": job_id})
        return self.job(id_to_text(job_id))

    async def _about(
        self, name: str, command: str, params: Mapping[str, Any] | None = None, **more: Any
    ) -> ScheduleInfo:
        return ScheduleInfo.from_data(await self._asked(name, command, {**(params or {}), **more}))

    async def _asked(self, name: str, command: str, params: Mapping[str, Any]) -> Any:
        try:
            return await self.ask(command, {"name": name, **params})
        except Refused as refused:
            if refused.code == "unknown-schedule":
                raise UnknownSchedule(name, refused.why) from None
            raise


class BlockingScheduleVerbs(ABC):
    """The part of `BlockingClient` that is about schedules: the verbs of `ScheduleVerbs`."""

    @abstractmethod
    def _call(self, verb: Callable[[Client], Awaitable[R]]) -> R: ...

    @abstractmethod
    def _handle(self, handle: JobHandle[R]) -> BlockingJobHandle[R]: ...

    def create_schedule(
        self,
        name: str,
        task: Task[..., Any] | str,
        schedule: Schedule,
        *,
        queue: str | None = None,
        priority: PriorityLike | None = None,
        if_exists: IfExists = "refuse",
    ) -> ScheduleInfo:
        """Have the plane submit jobs by itself; see `Client.create_schedule`."""
        return self._call(
            lambda client: client.create_schedule(
                name, task, schedule, queue=queue, priority=priority, if_exists=if_exists
            )
        )

    def schedules(self) -> list[ScheduleInfo]:
        """Return all schedules of the plane; see `Client.schedules`."""
        return self._call(lambda client: client.schedules())

    def schedule(self, name: str) -> ScheduleInfo:
        """Return one schedule; see `Client.schedule`."""
        return self._call(lambda client: client.schedule(name))

    def change_schedule(
        self,
        name: str,
        *,
        task: Task[..., Any] | str | None = None,
        schedule: Schedule | None = None,
    ) -> ScheduleInfo:
        """Change a schedule; see `Client.change_schedule`."""
        return self._call(lambda client: client.change_schedule(name, task=task, schedule=schedule))

    def pause_schedule(self, name: str) -> ScheduleInfo:
        """Have a schedule not fire until it is resumed; see `Client.pause_schedule`."""
        return self._call(lambda client: client.pause_schedule(name))

    def resume_schedule(self, name: str) -> ScheduleInfo:
        """Have a paused schedule fire again; see `Client.resume_schedule`."""
        return self._call(lambda client: client.resume_schedule(name))

    def delete_schedule(self, name: str) -> None:
        """Delete a schedule; see `Client.delete_schedule`."""
        self._call(lambda client: client.delete_schedule(name))

    def run_schedule(self, name: str) -> BlockingJobHandle[Any]:
        """Submit a schedule's job now; see `Client.run_schedule`."""
        return self._handle(self._call(lambda client: client.run_schedule(name)))


def _work(task: Task[..., Any] | str, schedule: Schedule | None) -> dict[str, Any]:
    """Return what is to be submitted, as the plane's commands take it."""
    if isinstance(task, str):
        work: dict[str, Any] = {"task": task}
    else:
        options = task.options
        if options.countdown is not None or options.eta is not None:
            raise InvalidArguments(
                f"task {task.name!r}: countdown and eta are of one job, and a schedule says when"
            )
        if options.headers:
            raise InvalidArguments(
                f"task {task.name!r}: a schedule's jobs have no headers: say it in their arguments"
            )
        if options.idempotency_key is not None or task.is_unique_off or task.is_unique_anew:
            raise InvalidArguments(
                f"task {task.name!r}: a schedule has its own rule for firings that overlap: leave "
                "idempotency_key, unique, debounce and throttle out of with_options"
            )
        _check_keys(task)
        if schedule is not None:
            task.signature.check(schedule.args, schedule.kwargs)
        extras = {
            "delivery": options.delivery,
            "retry": dict(options.retry or {}),
            "limits": {} if options.limits is None else options.limits.as_data(),
        }
        work = {
            "task": task.name,
            "queue": options.queue,
            "priority": None if options.priority is None else int(options.priority),
            "options": {key: value for key, value in extras.items() if value} or None,
        }
    return work if schedule is None else {**work, "payload": _payload(schedule)}


def _check_keys(task: Task[..., Any]) -> None:
    """Raise if the plane cannot tell the keys of a task's jobs when it submits them by itself."""
    for option, needs_code in (
        ("key=", task.flow.said.needs_code),
        ("unique=", task.unique is not None and task.unique.rule.needs_code),
    ):
        if needs_code:
            raise InvalidArguments(
                f"task {task.name!r} computes a key in code, which the plane does not have when it "
                f"submits by a schedule: let {option} name parameters"
            )


def _parsed(priority: Priority | str | int) -> Priority:
    try:
        return Priority.parse(priority)
    except ValueError as error:
        raise InvalidArguments(str(error)) from None


def _payload(schedule: Schedule) -> bytes:
    return encode_call(schedule.args, schedule.kwargs)
