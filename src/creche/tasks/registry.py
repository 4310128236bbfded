"""The tasks of a process by name, and the one place that imports user modules.

A worker calls `load` once with what ``--task-modules`` said. What goes wrong in a user's module is
reported as theirs: the module, the cause and the line, without our own frames.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import formatannotation
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from creche.errors import CrecheError, TaskDefinitionError, TaskLoadError
from creche.tasks.hooks import Hooks, describe_hook

if TYPE_CHECKING:
    from creche.tasks.lifespan import Lifespan
    from creche.tasks.task import Task

MAX_SEARCH_DEPTH = 3
MAX_SEARCHED = 1000
"""How deep, and how many modules, are looked at for near names when one is missing."""


class Registry:
    """Tasks by name. Iterates in the order of their names."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._lifespans: list[Lifespan] = []
        self.hooks = Hooks()
        """What is called around the bodies of all tasks."""

    def register(self, task: Task[..., Any]) -> None:
        """Enter *task*. The same function again (its module was loaded twice) takes its place.

        Raises:
            TaskDefinitionError: another function has the name; both places are in the message.
        """
        holder = self._tasks.get(task.name)
        if holder is not None and _origin(holder) != _origin(task):
            raise TaskDefinitionError(
                f"two functions want the task name {task.name!r}: {_who(holder)} and {_who(task)}: "
                "rename one of them, or give it a name of its own with @task('name')"
            )
        self._tasks[task.name] = task
        task.look_for_resources(self.provided)

    def add_lifespan(self, made: Lifespan) -> None:
        """Enter a lifespan. The same function again takes its place.

        Raises:
            TaskDefinitionError: another one provides the same type.
        """
        same = [i for i, each in enumerate(self._lifespans) if each.place == made.place]
        rivals = [each for each in self._lifespans if each.place != made.place]
        for each in rivals:
            if made.provides is not None and each.provides == made.provides:
                raise TaskDefinitionError(
                    f"two lifespans provide {formatannotation(made.provides)}: {each.name} "
                    f"({each.place}) and {made.name} ({made.place}): a task gets it by its type, "
                    "so give one of them a type of its own (typing.NewType)"
                )
        if same:
            self._lifespans[same[0]] = made
        else:
            self._lifespans.append(made)
        self.look_for_resources()

    def add_hooks(self, hooks: Hooks) -> None:
        """Have these called around the bodies of all tasks. A function that is there already, under
        its name, is taken for the same one: its module was loaded twice."""
        known = {(moment, describe_hook(function)) for moment, function in self.hooks.each()}
        if not all((moment, describe_hook(each)) in known for moment, each in hooks.each()):
            self.hooks = self.hooks + hooks

    @property
    def lifespans(self) -> Sequence[Lifespan]:
        """The lifespans, in the order in which they were defined."""
        return tuple(self._lifespans)

    def look_for_resources(self) -> None:
        """Look again which parameters of tasks the lifespans provide: what an annotation names may
        not have been defined when the task was."""
        for task in self._tasks.values():
            task.look_for_resources(self.provided)

    @property
    def provided(self) -> list[Any]:
        """The types that lifespans provide."""
        return [each.provides for each in self._lifespans if each.provides is not None]

    def get(self, name: str) -> Task[..., Any] | None:
        """Return the task of that name, None if there is none."""
        return self._tasks.get(name)

    def names(self) -> list[str]:
        """Return the names, in order."""
        return sorted(self._tasks)

    def clear(self) -> None:
        """Forget all tasks, lifespans and hooks. For tests: their modules stay imported."""
        self._tasks.clear()
        self._lifespans.clear()
        self.hooks = Hooks()

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter([self._tasks[name] for name in self.names()])

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks


def _origin(task: Task[..., Any]) -> tuple[str, str]:
    return task.place, getattr(task, "__qualname__", task.name)


def _who(task: Task[..., Any]) -> str:
    return f"{getattr(task, '__qualname__', task.name)} ({task.place})"


task_registry = Registry()
"""Where `@task` enters tasks unless it is told another registry."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What `load` found: modules as imported, names of all their tasks, and what looks odd."""

    modules: tuple[str, ...]
    tasks: tuple[str, ...]
    warnings: tuple[str, ...]


def load(
    modules: Sequence[str] | str, base: Path | None = None, *, registry: Registry | None = None
) -> LoadReport:
    """Import *modules*, so that their tasks are registered.

    Each is a dotted name (``shop.tasks``), a file (``shop/tasks.py``) or a package's folder;
    several may share one text, with commas between. *base*, the working directory unless given, is
    put on the path first; so is the folder that a file's outermost package lies in.

    *registry* is only read, to tell which tasks came from where: `@task` chose it.

    Raises:
        TaskLoadError: a module is missing, cannot be imported, or is hidden by another one of its
            name. Modules before it in the list stay imported.
    """
    base = (Path.cwd() if base is None else base).resolve()
    found_in = task_registry if registry is None else registry
    listed = [modules] if isinstance(modules, str) else modules
    names = [name.strip() for text in listed for name in text.split(",") if name.strip()]
    _put_on_path(base)
    importlib.invalidate_caches()  # a file may be younger than the finder's listing of its folder
    loaded: dict[str, set[str]] = {}
    for name in names:
        target = _resolve(name, base)
        before = {id(task) for task in found_in}
        module = _import(target, base)
        new = {task.name for task in found_in if id(task) not in before}
        loaded.setdefault(target.module, set()).update(new | _provided(module, found_in))
    return LoadReport(
        modules=tuple(loaded),
        tasks=tuple(sorted(set().union(*loaded.values()))),
        warnings=tuple(_why_empty(name) for name, tasks in loaded.items() if not tasks),
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """What to import; `file` is what must be imported under that name, None where any will do."""

    module: str
    file: Path | None


def _resolve(name: str, base: Path) -> _Target:
    """Turn what the user wrote into a module's dotted name; files put their root on the path."""
    if name.endswith(".py") or "/" in name or os.sep in name:
        return _resolve_file(name, (base / Path(name).expanduser()).resolve())
    if not all(name.split(".")):
        raise TaskLoadError(
            f"{name!r} is no module's name: write it in full and dotted (shop.tasks), or as a file"
        )
    module, colon, _ = name.partition(":")
    if colon:
        raise TaskLoadError(f"{name!r} names something in a module: name the module, {module!r}")
    path = base.joinpath(*name.split("."))
    here = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return _Target(name, next((file for file in here if file.is_file()), None))


def _resolve_file(name: str, path: Path) -> _Target:
    if path.is_dir():
        if not (path / "__init__.py").is_file():
            files = sorted(file.name for file in path.glob("*.py"))
            hint = f"name files in it ({', '.join(files[:5])})" if files else "it has no .py files"
            raise TaskLoadError(f"{name} is a folder and not a package (no __init__.py): {hint}")
        file = path / "__init__.py"
        parts, root = [path.name], path.parent
    else:
        if not path.is_file():
            there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise TaskLoadError(
                f"there is no file {path}{_suggest(get_close_matches(path.name, there, 3))}"
            )
        if path.suffix != ".py":
            raise TaskLoadError(f"{path} is not a Python file: task modules end in .py")
        file = path
        parts, root = ([] if path.stem == "__init__" else [path.stem]), path.parent
    while (root / "__init__.py").is_file() and root != root.parent:
        parts.insert(0, root.name)
        root = root.parent
    if any("." in part for part in parts):
        raise TaskLoadError(f"{path} cannot be imported: a dot in its name would part it in two")
    _put_on_path(root)
    return _Target(".".join(parts), file)


def import_named(module: str) -> ModuleType:
    """Import a module by its dotted name, as it is on Python's path.

    Raises:
        TaskLoadError: it cannot be imported.
    """
    return _import(_Target(module, None), Path.cwd())


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(target: _Target, base: Path) -> ModuleType:
    try:
        module = importlib.import_module(target.module)
    except (Exception, SystemExit) as error:
        is_missing = (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and f"{target.module}.".startswith(f"{error.name}.")
            and _blamed_frame(error) is None
        )
        if is_missing:
            raise TaskLoadError(_why_missing(target.module, base, str(error))) from error
        raise TaskLoadError(_why_broken(target.module, error)) from error
    origin = getattr(module, "__file__", None)
    if target.file is not None and (origin is None or not os.path.samefile(origin, target.file)):
        raise TaskLoadError(
            f"{target.file} cannot be imported as {target.module!r}: that name belongs to "
            f"{origin or 'a module of Python itself'}: rename the file, or move it into a package"
        )
    return module


def _provided(module: ModuleType, registry: Registry) -> set[str]:
    """Name the tasks that a module holds or defines; it may have been imported long ago."""
    held = {id(value) for value in vars(module).values()}
    prefix = f"{module.__name__}."
    return {
        task.name for task in registry if id(task) in held or f"{task.module}.".startswith(prefix)
    }


def _why_empty(name: str) -> str:
    why = f"module {name!r} registers no task: is a function in it decorated with @task?"
    module = sys.modules[name]
    files = {
        file.stem
        for folder in getattr(module, "__path__", ())
        for file in Path(folder).glob("*.py")
        if file.stem != "__init__"
    }
    if files:
        within = ", ".join(f"{name}.{stem}" for stem in sorted(files)[:5])
        why += f" A package does not import what is in it: name its modules ({within})."
    return why


def _why_missing(name: str, base: Path, cause: str) -> str:
    path = name.replace(".", "/")
    known = _modules_below(base)
    near = get_close_matches(name, known, 3)
    # "tasks" is also near to "shop.tasks".
    near += [other for other in known if other.endswith(f".{name}") and other not in near]
    return (
        f"there is no task module {name!r} ({cause}): looked for {path}.py and "
        f"{path}/__init__.py in {base}, and on Python's path{_suggest(near[:3])}"
    )


def _suggest(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _modules_below(base: Path) -> list[str]:
    """List the dotted names of modules below *base*, without environments and hidden folders."""
    found: list[str] = []
    for folder, folders, files in os.walk(base):
        parts = Path(folder).relative_to(base).parts
        is_deep = len(parts) + 1 >= MAX_SEARCH_DEPTH
        folders[:] = sorted(
            name
            for name in folders
            if not is_deep
            and name.isidentifier()
            and not name.startswith("_")
            and not Path(folder, name, "pyvenv.cfg").exists()
        )
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if suffix == ".py" and stem.isidentifier():
                found.append(".".join(parts if stem == "__init__" else (*parts, stem)))
        if len(found) >= MAX_SEARCHED:
            break
    return [name for name in found if name]


def _why_broken(name: str, error: BaseException) -> str:
    if isinstance(error, CrecheError):
        what = str(error)
    elif isinstance(error, SystemExit):
        what = f"it calls sys.exit({error.code!r}) when it is imported"
    else:
        what = "".join(traceback.format_exception_only(error)[-1:]).strip()
    if isinstance(error, SyntaxError) and error.filename:
        return f"cannot load task module {name!r}: {what} (at {error.filename}:{error.lineno})"
    frame = _blamed_frame(error)
    where = f" (at {frame.filename}:{frame.lineno})" if frame is not None else ""
    return f"cannot load task module {name!r}: {what}{where}"


_OURS = str(Path(__file__).resolve().parents[1])
_STDLIB = sysconfig.get_path("stdlib")


def _blamed_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the frame to show: the innermost that the user wrote, or else of a library.

    None when the import went no further than Python's own machinery and ours.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        # Made by nobody's hand: Python's import, and what a dataclass writes for itself.
        if not frame.filename.startswith(("<frozen", "<string>"))
        and not _is_below(_OURS, frame.filename)
        and Path(frame.filename).parent != Path(importlib.__file__).parent
    ]
    return max(reversed(frames), key=lambda frame: _closeness(frame.filename), default=None)


def _closeness(filename: str) -> int:
    if {"site-packages", "dist-packages"} & set(Path(filename).parts):
        return 1
    return 0 if _is_below(_STDLIB, filename) else 2


def _is_below(folder: str, filename: str) -> bool:
    return filename.startswith(folder + os.sep)
