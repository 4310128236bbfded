"""Where an option's value comes from.

The first source that has the option counts: the command line, `CRECHE_<OPTION>` in the environment,
`FASTWORKER_<OPTION>` (for those that mean the same here), `creche.toml`, `[tool.creche]` in
`pyproject.toml`, the default. Both files are looked for in the working directory and its parents;
CRECHE_CONFIG names another than `creche.toml`. In a file, tables are named like commands
(`[control-plane]`, `[jobs.ls]`), and options that stand outside of any table hold for every command
that has them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from cyclopts import App, Argument, ArgumentCollection, Token
from cyclopts.config import Env

from creche.cli.usage import near, place_of
from creche.errors import SettingsError

Source: TypeAlias = Callable[[App, tuple[str, ...], ArgumentCollection], None]

ALIASES = {"CRECHE_GUI_ENABLED": "--gui"}
"""Further spellings of ours."""

FASTWORKER = {
    "FASTWORKER_WORKER_ID": "--worker-id",
    "FASTWORKER_WORKER_CONCURRENCY": "--concurrency",
    "FASTWORKER_RESULT_CACHE_SIZE": "--result-cache-size",
    "FASTWORKER_RESULT_CACHE_TTL": "--result-cache-ttl",
    "FASTWORKER_TIMEOUT": "--timeout",
    "FASTWORKER_GUI_ENABLED": "--gui",
    "FASTWORKER_GUI_HOST": "--gui-host",
    "FASTWORKER_GUI_PORT": "--gui-port",
}
"""What FastWorker reads from the environment and means the same here. Its addresses do not: they
are of another protocol, so they are left alone."""

COMMANDS = frozenset(
    {"bench", "cancel", "control-plane", "dead", "demo", "events", "gui", "health", "jobs", "list"}
    | {"queues", "result", "schedules", "status", "store", "submit", "subworker", "tokens", "top"}
    | {"worker", "workers"}
)
"""The commands, which are the tables of a settings file. A test holds this against the
application."""

SHARED = frozenset(
    {"async-executor", "concurrency", "connect", "drain-timeout", "fairness", "grace", "gui"}
    | {"gui-host", "gui-port", "json", "keep-alive", "lease", "limit", "listen", "log-level"}
    | {"max-jobs-per-process", "max-memory-per-process"}
    | {"priority", "queue", "queues", "result-cache-bytes", "result-cache-size"}
    | {"result-cache-ttl", "store", "task-modules", "timeout", "tls-ca", "tls-cert", "tls-key"}
    | {"token-file", "tokens", "window", "worker-id", "workers"}
)
"""The options that may stand outside of a table; what is not here is a typing mistake."""

_ALONE = frozenset(
    {"allow-host", "allow-origin", "gui-insecure", "gui-tls-ca", "gui-tls-cert", "gui-tls-key"}
    | {"insecure", "max-workers", "no-gui", "reload", "routes", "store-bytes"}
)
"""What has a variable beside those. A test holds both against the application."""

_OTHERS = frozenset({"CRECHE_CONFIG", "CRECHE_DEBUG", "CRECHE_TOKEN"})
"""Variables that are no option's."""

VARIABLES = frozenset(
    {f"CRECHE_{name.replace('-', '_').upper()}" for name in SHARED | _ALONE} | {*ALIASES} | _OTHERS
)
"""All variables of ours."""

_LIKENESS = 0.85
"""How like one of ours a variable is (difflib's ratio) that is taken for a typing mistake."""

_KUBERNETES = re.compile(r"_SERVICE_|_PORT_|_TCP")
"""What it sets in every pod for a service, whatever that is called."""


def mistyped(variables: Iterable[str]) -> list[str]:
    """Return a sentence about each of *variables* that is not ours, and almost is. A mistake in a
    settings file is an error; the environment may hold what others have put there."""
    ours = [name.removeprefix("CRECHE_") for name in sorted(VARIABLES)]
    found = []
    for name in sorted(variables):
        rest = name.removeprefix("CRECHE_")
        if rest == name or name in VARIABLES or _KUBERNETES.search(name):
            continue
        if like := get_close_matches(rest, ours, 1, _LIKENESS):
            found.append(f"nothing reads {name} (environment): did you mean CRECHE_{like[0]}?")
    return found


def sources(given: Mapping[str, str] | None = None) -> tuple[Source, ...]:
    """Return the chain behind the command line; *given* was written before the command's name."""
    return (
        _Given(given or {}),
        _Environment("CRECHE_", command=False),
        _Foreign(FASTWORKER),
        _TomlFile("creche.toml", (), os.environ.get("CRECHE_CONFIG")),
        _TomlFile("pyproject.toml", ("tool", "creche")),
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """Options before the command, where FastWorker has its ``--log-level``."""

    values: Mapping[str, str]

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        for name, value in self.values.items():
            _fill(arguments, name, value, name, "cli")


class _Environment(Env):
    """`CRECHE_<OPTION>`, without the command's name; the help of a command shows them."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        for argument in arguments:
            # What is made of several options (`*`) has no variable of its own.
            if argument.parameter.show_env_var and argument.names != ("*",):
                # Its first name only: what is called CRECHE_PORT may be somebody else's. Kubernetes
                # sets that one for a service named creche.
                for option in (*argument.names[:1], *argument.negatives):
                    _fill_from_environment(arguments, option, self.prefix + _as_variable(option))
        for variable, option in ALIASES.items():
            _fill_from_environment(arguments, option, variable)


@dataclass(frozen=True, slots=True)
class _Foreign:
    """Another program's variables; not shown in help."""

    options: Mapping[str, str]

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        for variable, option in self.options.items():
            _fill_from_environment(arguments, option, variable)


@dataclass(frozen=True, slots=True)
class _TomlFile:
    """A settings file: `name` in the working directory or above it, or the file at `path`."""

    name: str
    root: tuple[str, ...] = ()
    path: str | None = None

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        file = self._find()
        if file is None:
            return
        settings = self._read(file)
        table: Any = settings
        place = self.root
        # The innermost table first: it knows best what the command is to do.
        found: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [(place, settings)]
        for command in commands:
            table = table.get(command)
            if not isinstance(table, Mapping):
                break
            place = (*place, command)
            found.append((place, table))
        for place, table in reversed(found):
            is_shared = place == self.root
            for key, value in table.items():
                self._apply(file, place, key, value, arguments, is_shared=is_shared)

    def _apply(
        self,
        file: Path,
        place: tuple[str, ...],
        key: str,
        value: Any,
        arguments: ArgumentCollection,
        *,
        is_shared: bool,
    ) -> None:
        where = f"{file}{', [' + '.'.join(place) + ']' if place else ''}"
        name = key.replace("_", "-")
        if isinstance(value, Mapping):
            if is_shared and name not in COMMANDS:
                raise SettingsError(f"{where}: there is no command {key!r}{near(name, COMMANDS)}")
            return
        known = name in SHARED or name.removeprefix("no-") in SHARED
        if is_shared and not known:
            raise SettingsError(f"{where}: there is no option {key!r}{near(name, SHARED)}")
        was_filled = _fill(arguments, f"--{name}", value, key, where)
        if not was_filled and not is_shared and not known:
            names = [name.removeprefix("--") for name in _settable(arguments)]
            raise SettingsError(f"{where}: there is no option {key!r}{near(name, names)}")

    def _find(self) -> Path | None:
        if self.path is not None:
            file = Path(self.path).expanduser()
            if not file.is_file():
                what = "that is no file" if file.exists() else "there is no such file"
                raise SettingsError(
                    f"CRECHE_CONFIG names {file}, and {what}: let it name a creche.toml"
                )
            return file
        here = Path.cwd()
        files = (folder / self.name for folder in (here, *here.parents))
        return next((file for file in files if file.is_file()), None)

    def _read(self, file: Path) -> Mapping[str, Any]:
        try:
            table: Any = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} is not TOML: {error}") from None
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
        found: Mapping[str, Any] = table
        for key in self.root:
            table = found.get(key, {})
            if not isinstance(table, Mapping):
                raise SettingsError(f"{file}: [{'.'.join(self.root)}] must be a table")
            found = table
        return found


# --- filling in ---------------------------------------------------------------------------------


def _settable(arguments: ArgumentCollection) -> Iterator[str]:
    for argument in arguments:
        if argument.parameter.show_env_var:
            yield from (*argument.names, *argument.negatives)


def _as_variable(option: str) -> str:
    return option.removeprefix("--").replace("-", "_").upper()


def _fill_from_environment(arguments: ArgumentCollection, option: str, variable: str) -> None:
    value = os.environ.get(variable)
    if value:  # set to nothing is the shell's way of not setting it
        _fill(arguments, option, value, variable, "environment")


def _fill(
    arguments: ArgumentCollection, option: str, value: Any, keyword: str, source: str
) -> bool:
    """Give the option of that name this value, unless an earlier source did; say whether there is
    such an option at all."""
    for argument in arguments:
        is_negative = option in argument.negatives
        if argument.parameter.show_env_var and (is_negative or option in argument.names):
            if not argument.tokens:
                values = value if isinstance(value, list) else [value]
                for i, item in enumerate(values):
                    text = _as_text(item, argument, keyword, source)
                    if is_negative:
                        text = _opposite(text, keyword, source)
                    argument.append(Token(keyword=keyword, value=text, source=source, index=i))
            return True
    return False


def _as_text(value: Any, argument: Argument, keyword: str, source: str) -> str:
    if argument.hint is str and not isinstance(value, str):
        # 5 may be meant as anything; what is not text in TOML is not guessed at.
        raise SettingsError(
            f"{place_of(keyword, source)} takes text (in quotes), and not {value!r}"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise SettingsError(
        f"{place_of(keyword, source)} takes text, a number, true or false, or a list of those"
    )


_OPPOSITES = {"true": "false", "1": "false", "yes": "false", "y": "false"} | {
    "false": "true", "0": "true", "no": "true", "n": "true",
}  # fmt: skip


def _opposite(text: str, keyword: str, source: str) -> str:
    found = _OPPOSITES.get(text.strip().lower())
    if found is None:
        raise SettingsError(f"{place_of(keyword, source)} takes true or false, and not {text!r}")
    return found
