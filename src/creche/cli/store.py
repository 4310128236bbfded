"""`creche store info|verify|backup|compact`: look after the file of an SQLite store."""

from __future__ import annotations

import os
from typing import Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from creche.cli.exits import Exit
from creche.cli.options import Json
from creche.cli.output import bytes_text, moment_text, print_facts, print_json
from creche.errors import SettingsError
from creche.store import sqlite_tools
from creche.store.urls import parse_store_url

app = App(name="store", help="Look after a store file.")

Store: TypeAlias = Annotated[
    str, Parameter(name=("--store", "-s"), metavar="STORE", help="Which store, as sqlite:PATH.")
]

DEFAULT_STORE = "sqlite:creche.db"


@app.command(name="info")
def info(*, store: Store = DEFAULT_STORE, as_json: Json = False) -> int:
    """Print facts about the store: sizes, versions, jobs by state. A plane may be running."""
    facts = sqlite_tools.info(_path(store))
    if as_json:
        print_json({"store": facts})
    else:
        print_facts(_lines(facts))
    return Exit.DONE


@app.command(name="verify")
def verify(*, store: Store = DEFAULT_STORE, as_json: Json = False) -> int:
    """Check every page and every job of the store; print what is wrong. A plane may be running.

    The exit code is 1 if something is.
    """
    path = _path(store)
    problems = sqlite_tools.verify(path)
    if as_json:
        print_json({"path": os.path.abspath(path), "problems": problems})
    else:
        for problem in problems:
            print(problem)
        if not problems:
            print(f"{path} is sound")
    return Exit.FAILED if problems else Exit.DONE


@app.command(name="backup")
def backup(
    target: Annotated[str, Parameter(show_env_var=False, metavar="FILE")],
    /,
    *,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> int:
    """Copy the store, as it is at one moment, to a new file. A plane may be running.

    The copy is a store like any other: to restore it, put it where the plane looks.

    Args:
        target: The new file; nothing is there before the copy is whole.
    """
    size = sqlite_tools.backup(_path(store), target)
    if as_json:
        print_json({"path": os.path.abspath(target), "size_bytes": size})
    else:
        print(f"{target} has {bytes_text(size)}")
    return Exit.DONE


@app.command(name="compact")
def compact(*, store: Store = DEFAULT_STORE, as_json: Json = False) -> int:
    """Give the room of what was deleted back to the disk. The plane must be stopped."""
    path = _path(store)
    before, after = sqlite_tools.compact(path)
    if as_json:
        sizes = {"before_bytes": before, "after_bytes": after}
        print_json({"path": os.path.abspath(path), **sizes})
    else:
        print(f"{path} had {bytes_text(before)}, has {bytes_text(after)}")
    return Exit.DONE


def _path(store: str) -> str:
    url = parse_store_url(store)
    if url.kind != "sqlite":
        raise SettingsError("a memory store has no file: it lives and ends with its plane")
    return url.path


def _lines(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{name} ")
        elif name.endswith("_bytes"):
            lines.append((prefix + name.removesuffix("_bytes"), bytes_text(value)))
        elif name.endswith("_at"):
            lines.append((f"{prefix}{name}".replace("_", " "), moment_text(value)))
        else:
            text = f"{value:,}" if type(value) is int and name != "pid" else str(value)
            lines.append((f"{prefix}{name}".replace("_", " "), text))
    return lines
