"""Creche: background jobs for Python applications, with nothing to install beside them.

Everything here is imported when it is first used: ``import creche`` itself loads no event loop, no
web framework, nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creche.client.blocking import BlockingClient
    from creche.client.client import Client
    from creche.client.schedules import ScheduleInfo
    from creche.errors import (
        BadFilter,
        ChannelBroken,
        ChannelClosed,
        ClientClosed,
        CrecheError,
        DefinitionError,
        DuplicateJob,
        InvalidArguments,
        JobCancelled,
        JobEnded,
        JobExpired,
        JobFailed,
        JobLost,
        JobNotDead,
        JobTimedOut,
        LifespanFailed,
        ListenError,
        LocalProtocolError,
        MessageTooLarge,
        NotAPlane,
        NotEncodable,
        NotTrusted,
        PlaneStopping,
        PlaneUnreachable,
        ProcessDied,
        ProtocolError,
        Refused,
        RemoteProtocolError,
        ResultForgotten,
        ResultTimeout,
        Retry,
        ScopeFull,
        SettingsError,
        Snooze,
        StoreError,
        StoreFull,
        StoreFullError,
        StoreLocked,
        StoreOverLimit,
        StoreUnavailable,
        StoreUnusable,
        SubmissionRefused,
        SubmissionUncertain,
        SubmitTimeout,
        TaskDefinitionError,
        TaskLoadError,
        TooLarge,
        UnknownJob,
        UnknownSchedule,
        UnknownToken,
    )
    from creche.model.job import JobState
    from creche.model.priority import Priority, TaskPriority
    from creche.peer.blocking import BlockingJobHandle
    from creche.peer.handle import JobHandle
    from creche.tasks.hooks import hook
    from creche.tasks.lifespan import Resource, lifespan
    from creche.tasks.schedules import Schedule
    from creche.tasks.task import Task, task
    from creche.tasks.unique import Debounce, Throttle, Unique
    from creche.worker.context import JobContext, current_job
    from creche.worker.hooks import HookInfo

    __version__: str

__all__ = [
    "BadFilter",
    "BlockingClient",
    "BlockingJobHandle",
    "ChannelBroken",
    "ChannelClosed",
    "Client",
    "ClientClosed",
    "CrecheError",
    "Debounce",
    "DefinitionError",
    "DuplicateJob",
    "HookInfo",
    "InvalidArguments",
    "JobCancelled",
    "JobContext",
    "JobEnded",
    "JobExpired",
    "JobFailed",
    "JobHandle",
    "JobLost",
    "JobNotDead",
    "JobState",
    "JobTimedOut",
    "LifespanFailed",
    "ListenError",
    "LocalProtocolError",
    "MessageTooLarge",
    "NotAPlane",
    "NotEncodable",
    "NotTrusted",
    "PlaneStopping",
    "PlaneUnreachable",
    "Priority",
    "ProcessDied",
    "ProtocolError",
    "Refused",
    "RemoteProtocolError",
    "Resource",
    "ResultForgotten",
    "ResultTimeout",
    "Retry",
    "Schedule",
    "ScheduleInfo",
    "ScopeFull",
    "SettingsError",
    "Snooze",
    "StoreError",
    "StoreFull",
    "StoreFullError",
    "StoreLocked",
    "StoreOverLimit",
    "StoreUnavailable",
    "StoreUnusable",
    "SubmissionRefused",
    "SubmissionUncertain",
    "SubmitTimeout",
    "Task",
    "TaskDefinitionError",
    "TaskLoadError",
    "TaskPriority",
    "Throttle",
    "TooLarge",
    "Unique",
    "UnknownJob",
    "UnknownSchedule",
    "UnknownToken",
    "current_job",
    "hook",
    "lifespan",
    "task",
]

_ELSEWHERE = {
    "BlockingClient": "creche.client.blocking",
    "BlockingJobHandle": "creche.peer.blocking",
    "Client": "creche.client.client",
    "Debounce": "creche.tasks.unique",
    "HookInfo": "creche.worker.hooks",
    "JobContext": "creche.worker.context",
    "JobHandle": "creche.peer.handle",
    "JobState": "creche.model.job",
    "Priority": "creche.model.priority",
    "Resource": "creche.tasks.lifespan",
    "Schedule": "creche.tasks.schedules",
    "ScheduleInfo": "creche.client.schedules",
    "Task": "creche.tasks.task",
    "TaskPriority": "creche.model.priority",
    "Throttle": "creche.tasks.unique",
    "Unique": "creche.tasks.unique",
    "current_job": "creche.worker.context",
    "hook": "creche.tasks.hooks",
    "lifespan": "creche.tasks.lifespan",
    "task": "creche.tasks.task",
}
"""Where names are from; the others are errors."""

if not TYPE_CHECKING:  # a type checker that saw this would take any name for one of ours

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version

            try:
                value = version("creche")
            except PackageNotFoundError:  # run from a checkout, not installed
                value = "unknown"
        elif name in __all__:
            from importlib import import_module

            value = getattr(import_module(_ELSEWHERE.get(name, "creche.errors")), name)
        else:
            raise AttributeError(f"module 'creche' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__, "__version__"})
