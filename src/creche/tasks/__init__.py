"""Tasks: functions that jobs run, what they may be called with, and where they are found."""

from __future__ import annotations

from creche.model.priority import TaskPriority
from creche.tasks.options import Delivery, Executor, PriorityLike, SubmitOptions
from creche.tasks.registry import LoadReport, Registry, load, task_registry
from creche.tasks.schedules import Schedule
from creche.tasks.signature import Kind, Parameter, Signature
from creche.tasks.task import (
    AsyncTask,
    SyncTask,
    Task,
    TaskDecorator,
    task,
)

__all__ = [
    "AsyncTask",
    "Delivery",
    "Executor",
    "Kind",
    "LoadReport",
    "Parameter",
    "PriorityLike",
    "Registry",
    "Schedule",
    "Signature",
    "SubmitOptions",
    "SyncTask",
    "Task",
    "TaskDecorator",
    "TaskPriority",
    "load",
    "task",
    "task_registry",
]
