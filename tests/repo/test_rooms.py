"""The import contracts in pyproject.toml: kept by the package, and able to fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What stands in the layers contract, whether it is built yet or not.
ROOMS = [
    "errors",
    "host",
    "pipe",
    "events",
    "model",
    "tasks",
    "wire",
    "store",
    "channel",
    "peer",
    "engine",
    "worker",
    "client",
    "dashboard",
    "compat",
    "integrations",
    "cli",
    "testing",
    "testing/history",
]

IMPORTS_THAT_ARE_FORBIDDEN = [
    ("model", "import time"),
    ("model", "from random import choice"),
    ("model", "import trio"),
    ("wire", "import anyio"),
    ("wire", "from socket import socket"),
    ("wire", "import creche.store"),
    ("errors", "import creche.model"),
    ("events", "import creche.tasks"),
    ("tasks", "import creche.wire"),
    ("store", "import creche.channel"),
    ("store", "import wsproto"),
    ("channel", "import sqlite3"),
    ("peer", "import creche.client"),
    ("engine", "import creche.tasks"),
    ("engine", "import creche.worker"),
    ("engine", "import trio_websocket"),
    ("worker", "from creche.client import inside"),
    ("client", "from wsproto import WSConnection"),
    ("dashboard", "import creche.engine"),
    ("dashboard", "import creche.cli"),
    ("integrations", "import creche.compat"),
    ("cli", "import sqlite3"),
    ("cli", "import creche.testing"),
    ("client", "import creche.somewhere_new"),
    ("testing/history", "import creche.engine"),
    ("testing/history", "from creche.model import inside"),
    ("testing/history", "import creche.errors"),
    ("testing/history", "import trio"),
]

IMPORTS_THAT_ARE_ALLOWED = [
    ("channel", "import trio_websocket, wsproto"),
    ("store", "import sqlite3, trio"),
    ("wire", "import cbor2, creche.model, creche.events, creche.errors"),
    ("engine", "import creche.store, creche.channel, creche.wire, creche.peer"),
    ("dashboard", "import creche.client, creche.peer"),
    ("cli", "import creche.engine, creche.store.inside, creche.dashboard"),
    ("testing", "import creche.cli, creche.engine"),
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
    ]
    return subprocess.run(
        [*command, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with the real contracts and empty rooms, each with a module inside."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "creche"
    for room in ROOMS:
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
        (package / room / "inside.py").touch()
    (package / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("room", "statement"),
    IMPORTS_THAT_ARE_FORBIDDEN,
    ids=lambda value: str(value).replace(" ", "-"),
)
def test_a_forbidden_import_is_found(house: Path, room: str, statement: str) -> None:
    if "somewhere_new" in statement:
        (house / "creche" / "somewhere_new.py").touch()
    (house / "creche" / room / "inside.py").write_text(f"{statement}\n")
    outcome = lint_imports(house)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert "BROKEN" in outcome.stdout
    assert "Contracts: " in outcome.stdout, "it should judge, not stumble"


def test_the_imports_that_the_rooms_need_are_allowed(house: Path) -> None:
    for room, statement in IMPORTS_THAT_ARE_ALLOWED:
        with (house / "creche" / room / "inside.py").open("a") as module:
            module.write(f"{statement}\n")
    outcome = lint_imports(house)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("room", ["compat", "integrations"])
def test_a_room_that_is_not_built_yet_does_not_break_the_contracts(house: Path, room: str) -> None:
    shutil.rmtree(house / "creche" / room)
    outcome = lint_imports(house)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
