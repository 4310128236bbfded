"""What `pip install creche` brings."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

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
def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "creche").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    # Hidden folders are the caches that tools leave behind.
    wanted = {name for name in files if "/." not in name}
    assert "creche/__init__.py" in wanted
    assert wanted <= contents(wheel)


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
    import creche

    assert not (ROOT / "src").exists()
    assert ROOT not in Path(creche.__file__).parents
    assert "site-packages" in Path(creche.__file__).parts
