"""The first block of `## Try it`, as somebody runs it who has just cloned.

The second block is what CI runs, and this is a part of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_CLONED = shutil.ignore_patterns(
    ".git", ".nox", ".venv*", "__pycache__", "*_cache", ".hypothesis", "dist", "creche.db*"
)


def path_without_our_environments() -> str:
    """The commands of the machine, not those of the environment that runs the tests."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not Path(folder).is_relative_to(ROOT))


@pytest.mark.slow
def test_the_first_block_installs_and_runs_the_demo_in_an_empty_home(tmp_path: Path) -> None:
    clone, home = tmp_path / "clone", tmp_path / "home"
    shutil.copytree(ROOT, clone, ignore=NOT_CLONED)
    home.mkdir()
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "COVERAGE_PROCESS_START")
    outside = {name: value for name, value in os.environ.items() if name not in ours}
    outcome = subprocess.run(
        ["bash", ".ci/run", "1"],
        cwd=clone,
        env={**outside, "HOME": str(home), "PATH": path_without_our_environments()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout
    # Whatever it leaves behind is in the clone's .venv: a demo cleans up after itself.
    created = {path.name for path in clone.iterdir()} - {path.name for path in ROOT.iterdir()}
    assert created <= {".venv"}
