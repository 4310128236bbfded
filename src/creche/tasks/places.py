"""Where another process finds a task: for tasks that run in processes of their own.

Such a process is a fresh Python. It gets names, imports a module, and must come upon the very same
task there. What it could not find is refused before anything runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from creche.errors import TaskDefinitionError, TaskLoadError
from creche.tasks.hooks import Hook, describe_hook
from creche.tasks.lifespan import Lifespan, lifespan_of
from creche.tasks.registry import import_named, task_registry
from creche.tasks.task import Task


class Place(NamedTuple):
    """Names under which a task is found, plain enough to be sent."""

    task: str
    modules: tuple[str, ...]
    """Where to look, first things first: the module that calls `@task`, and the function's own."""
    qualname: str


def place_of(task: Task[..., Any]) -> Place:
    """Return where *task* is found.

    Raises:
        TaskDefinitionError: a fresh Python would not find it.
    """
    modules = tuple(dict.fromkeys(name for name in (task.declared_in, task.module) if name))
    place = Place(task.name, modules, getattr(task, "__qualname__", task.name))
    if "__main__" in modules:
        raise TaskDefinitionError(
            f"task {task.name!r} ({task.place}) is defined in the program that was started, which "
            "its process cannot import: move it to a module of its own"
        )
    if not any(found is task for found in _candidates(place, sys.modules)):
        raise TaskDefinitionError(
            f"task {task.name!r} ({task.place}) would not be found by its process: keep it under a "
            f"name of its own at the top level of {modules[0] if modules else 'a module'}"
        )
    return place


def import_task(place: Place) -> Task[..., Any]:
    """Import what has to be, and return the task at *place*.

    Raises:
        TaskLoadError: a module cannot be imported, or the task is not in it.
    """
    for name in place.modules:
        import_named(name)
    for task in _candidates(place, sys.modules):
        return task
    raise TaskLoadError(f"there is no task {place.task!r} in {' or '.join(place.modules)}")


def place_of_lifespan(made: Lifespan) -> tuple[str, str]:
    """Return the module and the name by which a process finds a lifespan.

    Raises:
        TaskDefinitionError: a fresh Python would not find it.
    """
    module = sys.modules.get(made.declared_in)
    if made.declared_in == "__main__" or lifespan_of(_attribute(module, made.name)) is not made:
        raise TaskDefinitionError(
            f"lifespan {made.name} ({made.place}) would not be found by processes, which enter it "
            "for their tasks: define it at the top level of a module of its own"
        )
    return made.declared_in, made.name


def place_of_hook(function: Hook) -> tuple[str, str]:
    """Return the module and the name by which a process finds a hook for all tasks.

    Raises:
        TaskDefinitionError: a fresh Python would not find it.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    there = sys.modules.get(module)
    if module == "__main__" or _attribute(there, name) is not function:
        raise TaskDefinitionError(
            f"hook {describe_hook(function)} would not be found by processes, which call it "
            "for their tasks: define it at the top level of a module of its own"
        )
    return module, name


def import_hook(module: str, name: str) -> Hook:
    """Import the module of a hook, and return the hook.

    Raises:
        TaskLoadError: the module cannot be imported, or it is not in it.
    """
    found = _attribute(import_named(module), name)
    if not callable(found):
        raise TaskLoadError(f"there is no hook {name} in {module}")
    return found


def import_lifespan(module: str, name: str) -> Lifespan:
    """Import the module of a lifespan, and return the lifespan.

    Raises:
        TaskLoadError: the module cannot be imported, or it is not in it.
    """
    found = lifespan_of(_attribute(import_named(module), name))
    if found is None:
        raise TaskLoadError(f"there is no lifespan {name} in {module}")
    return found


def _candidates(place: Place, modules: Mapping[str, ModuleType]) -> Iterator[Task[..., Any]]:
    for name in place.modules:
        if (module := modules.get(name)) is not None:
            yield from _named(place.task, [_attribute(module, place.qualname)])
            yield from _named(place.task, vars(module).values())
    yield from _named(place.task, [task_registry.get(place.task)])


def _named(name: str, values: Iterable[object]) -> Iterator[Task[..., Any]]:
    # The class first: others may answer to any name, or raise.
    return (value for value in values if isinstance(value, Task) and value.name == name)


def _attribute(found: object, qualname: str) -> object:
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found
