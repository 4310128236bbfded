"""What `pip install creche` brings."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import creche

ROOT = Path(__file__).parents[2]
GIVEN = os.environ.get("CRECHE_WHEEL")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel under test where the session has built one, else one built here."""
    if GIVEN:
        return Path(GIVEN)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_it_holds_the_package_and_its_licence_and_nothing_else(wheel: Path) -> None:
    outside = {name for name in contents(wheel) if not name.startswith("creche/")}
    assert {Path(name).name for name in outside} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "LICENSE",
        "entry_points.txt",
    }
    assert not any("__pycache__" in name for name in contents(wheel))


def test_type_checkers_are_told_that_it_is_typed(wheel: Path) -> None:
    assert "creche/py.typed" in contents(wheel)


@pytest.mark.skipif(GIVEN is not None, reason="the source is hidden")
def test_every_file_of_the_package_is_in_it_byte_for_byte(wheel: Path) -> None:
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in (source / "creche").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    # Hidden folders are the caches that tools leave behind.
    wanted = {name: content for name, content in files.items() if "/." not in name}
    assert {"creche/__init__.py", "creche/store/migrations/0001.sql"} <= wanted.keys()
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name: archive.read(name) for name in archive.namelist() if name.startswith("creche/")
        }
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


LOOKS_BESIDE_ITSELF = re.compile(r"__file__|__path__|\bimportlib\b.*\b(metadata|resources)\b")
BESIDE = {
    "__init__.py": "unit/test_public_face.py",
    "cli/app.py": "unit/cli",
    "cli/reload.py": "unit/cli",
    "client/client.py": "process/test_cli_jobs.py",
    "dashboard/app.py": "unit/dashboard",
    "engine/views.py": "process/test_cli_jobs.py",
    "pipe.py": "process/test_cli_jobs.py",
    "store/sqlite_file.py": "unit/store",
    "tasks/lifespan.py": "unit/tasks",
    "tasks/registry.py": "unit/tasks",
    "tasks/task.py": "unit/tasks",
    "worker/failure.py": "unit/worker/test_failure.py",
    "worker/watchdog.py": "unit/worker/test_watchdog.py",
}
"""Modules that look for files, or at what is installed, and the tests that go through that."""


def test_whatever_may_be_otherwise_once_it_is_installed_is_tested_in_the_wheel() -> None:
    package = Path(creche.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if LOOKS_BESIDE_ITSELF.search(path.read_text(encoding="utf-8"))
    }
    assert found == BESIDE.keys(), "each of these has its tests in the session `wheel`"
    (parts,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OF_THE_WHEEL"
    )
    assert set(BESIDE.values()) <= set(parts)
    assert [part for part in parts if not (ROOT / "tests" / part).exists()] == []


def test_a_plain_install_has_the_command_line_and_the_dashboard(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "creche = creche.__main__:main" in archive.read(name).decode()
    needed = [
        line for line in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in line
    ]
    names = {line.split(">")[0].split("<")[0].strip() for line in needed}
    assert {"cyclopts", "hypercorn", "quart", "quart-trio", "rich", "trio"} <= names


def test_every_dependency_is_a_range_that_newer_releases_fit(wheel: Path) -> None:
    needed = metadata(wheel).get_all("Requires-Dist", [])
    plain = [line for line in needed if "extra ==" not in line]
    assert plain
    assert [line for line in plain if "==" in line or ">=" not in line] == []


@pytest.mark.skipif(GIVEN is None, reason="only where the built wheel is what is installed")
def test_the_tests_run_against_the_wheel_and_not_the_source() -> None:
    assert not (ROOT / "src").exists()
    assert ROOT not in Path(creche.__file__).parents
    assert "site-packages" in Path(creche.__file__).parts
