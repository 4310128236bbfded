"""`docs/limits.md` has every limit and default, and the numbers are the live ones."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import creche
from creche import Client, JobHandle
from creche.cli.control_plane import control_plane
from creche.cli.jobs import ls as jobs_ls
from creche.cli.jobs import result
from creche.cli.options import Address
from creche.cli.submit import submit
from creche.cli.worker import worker
from creche.engine.children import Child
from creche.engine.settings import DISK_RETENTION, MEMORY_RETENTION, PlaneSettings
from creche.peer.link import LinkSettings
from creche.wire.codec import Limits
from creche.worker.settings import WorkerSettings

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
PACKAGE = Path(creche.__file__).parent

RECORDS: dict[str, Any] = {
    "PlaneSettings": PlaneSettings(),
    "MEMORY_RETENTION": MEMORY_RETENTION,
    "DISK_RETENTION": DISK_RETENTION,
    "WorkerSettings": WorkerSettings(),
    "LinkSettings": LinkSettings(),
    "Limits": Limits(),
    "Child": Child("a child", lambda pipe: ()),
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Client": Client,
    "JobHandle.result": JobHandle.result,
}
COMMANDS: dict[str, Callable[..., Any]] = {
    "control-plane": control_plane,
    "jobs ls": jobs_ls,
    "result": result,
    "submit": submit,
    "worker": worker,
}
NO_LIMITS = {
    "Child.name", "Child.argv", "Child.fds",
    # Formats and buffers, which bound nothing that a user or a peer can have.
    "channel.handshake.READ_BYTES", "model.ids.ID_BYTES", "store.sqlite.RECEIVE_BYTES",
    "store.sqlite_moves.INLINE_BYTES", "pipe.MAX_BYTES", "worker.body_process.RECEIVE_BYTES",
}  # fmt: skip
MEASURING = re.compile(r"cli\.(bench|cluster|demo)|testing\.")
"""Modules that measure and show: how patient they are is no limit of the product."""

UNITS = {
    "s": 1, "ms": 1e-3, "µs": 1e-6, "h": 3600, "days": 86400,
    "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3,
}  # fmt: skip


class Row(NamedTuple):
    names: tuple[str, ...]
    value: str
    option: str


def read_rows(text: str) -> Iterator[Row]:
    """The rows of all tables whose first column is the name. A table ends where no line of it is:
    what comes behind without a header of its own is shown as plain text."""
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            header = []
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|-"):
            continue
        if cells[0] == "name":
            header = cells
            continue
        assert len(cells) == len(header), f"of no table: {line}"
        option = cells[2].strip("`") if header[2] == "option" else ""
        yield Row(tuple(re.findall(r"`([^`]+)`", cells[0])), cells[1], option)


ROWS = list(read_rows(PAGE.read_text(encoding="utf-8")))


def meaning(text: str) -> object:
    """What the page's words for a value mean."""
    if text == "none":
        return None
    number, _, unit = text.replace(",", "").partition(" ")
    try:
        return pytest.approx(float(number) * UNITS[unit]) if unit else _number(number)
    except (KeyError, ValueError):
        return text


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def live(name: str) -> object:
    """The value that the program has for what the page calls *name*."""
    if name.startswith("creche "):
        command, _, option = name.removeprefix("creche ").partition(" --")
        return default_of(COMMANDS[command], option)
    owner, _, attribute = name.rpartition(".")
    if owner in FUNCTIONS:
        return default_of(FUNCTIONS[owner], attribute)
    if owner in RECORDS:
        return getattr(RECORDS[owner], attribute)
    return getattr(importlib.import_module(f"creche.{owner}"), attribute)


def default_of(function: Callable[..., Any], option: str) -> object:
    default = inspect.signature(function).parameters[option.replace("-", "_")].default
    return str(default) if isinstance(default, Address) else default


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names[0])
def test_a_number_on_the_page_is_the_number_in_use(row: Row) -> None:
    assert row.names
    for name in row.names:
        assert live(name) == meaning(row.value), name


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.option], ids=lambda row: f"{row.names[0]} {row.option}"
)
def test_an_option_has_the_default_of_what_it_sets(row: Row) -> None:
    (name,) = row.names
    command = worker if name.startswith("WorkerSettings.") else control_plane
    # Without --result-cache-*, the store's durability decides.
    expected = None if row.option.startswith("--result-cache") else meaning(row.value)
    assert default_of(command, row.option.removeprefix("--")) == expected


def test_every_field_of_every_settings_record_is_on_the_page() -> None:
    listed = {name for row in ROWS for name in row.names}
    there = {f"{name}.{field.name}" for name, record in RECORDS.items() for field in fields(record)}
    assert there - listed - NO_LIMITS == set()


def limits_in_code() -> Iterator[str]:
    """Constants that are limits by their name: MAX_ROWS, LOCK_WAIT_S, HANDSHAKE_BYTES."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and re.fullmatch(
                    r"MAX_[A-Z_]+|[A-Z][A-Z_]*_(S|BYTES|HZ)", target.id
                ):
                    yield f"{module}.{target.id}"


def test_every_constant_that_is_a_limit_is_on_the_page() -> None:
    found = {name for name in limits_in_code() if not MEASURING.match(name)}
    assert len(found) > 30
    listed = {name for row in ROWS for name in row.names}
    assert found - listed - NO_LIMITS == set(), "list these in docs/limits.md"


def test_no_row_is_there_twice() -> None:
    names = [name for row in ROWS for name in row.names]
    assert sorted(names) == sorted(set(names))


def test_a_row_that_is_cut_off_from_its_table_is_found() -> None:
    with pytest.raises(AssertionError, match="of no table"):
        list(read_rows("| name | value | what |\n|---|---|---|\n\n| `Limits.depth` | 32 | x |"))


def test_a_number_that_drifts_is_found() -> None:
    (row,) = read_rows("| name | default | what |\n|---|---|---|\n| `Limits.depth` | 33 | x |")
    assert live(*row.names) != meaning(row.value)
    assert meaning("32 MiB") == 32 * 1024 * 1024
    assert meaning("7 days") == 7 * 24 * 3600
    assert meaning("none") is None
