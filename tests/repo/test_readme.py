"""`.ci/run` does what the README says, and refuses a README it cannot be sure about."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BLOCK = "```sh\necho ran {0}\n```\n"
BOTH = BLOCK.format("first") + "\nand\n\n" + BLOCK.format("second")


def run_ci(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ".ci/run", *args],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    return tmp_path


def test_ci_runs_the_second_block_alone(checkout: Path) -> None:
    other = BLOCK.format("another section's")
    readme = (
        f"# A\n\n{other}\n## Try it\n\n{BOTH}\n### Note\n\n```python\n1\n```\n\n## More\n\n{other}"
    )
    (checkout / "README.md").write_text(readme)
    outcome = run_ci(checkout)
    assert outcome.returncode == 0, outcome.stderr
    assert [line for line in outcome.stdout.splitlines() if line.startswith("ran")] == [
        "ran second"
    ]


def test_a_block_stops_at_its_first_failure(checkout: Path) -> None:
    failing = "```sh\nfalse\necho went on\n```\n"
    (checkout / "README.md").write_text(f"## Try it\n\n{BLOCK.format('first')}\n{failing}")
    outcome = run_ci(checkout)
    assert outcome.returncode == 1
    assert "went on" not in outcome.stdout.splitlines()


@pytest.mark.parametrize(
    "section",
    [
        pytest.param("", id="no section"),
        pytest.param("## Try it\n\nnothing\n", id="no block"),
        pytest.param("## Try it\n\n" + BLOCK.format("only"), id="one block"),
        pytest.param("## Try it\n\n" + BOTH + BLOCK.format("third"), id="three blocks"),
        pytest.param("## Try it\n\n" + BOTH.removesuffix("```\n"), id="not closed"),
        pytest.param("## Try it\n\n" + BLOCK.format("first") + "```sh\n```\n", id="empty block"),
        pytest.param("## Try it\n\n" + BLOCK.format("first") + "## B\n" + BOTH, id="elsewhere"),
    ],
)
def test_anything_but_two_blocks_is_refused(checkout: Path, section: str) -> None:
    (checkout / "README.md").write_text(f"# A\n\n{section}")
    outcome = run_ci(checkout)
    assert outcome.returncode != 0
    assert "exactly two" in outcome.stderr
    assert "ran" not in outcome.stdout


@pytest.mark.parametrize(
    ("number", "command"), [("1", ".venv/bin/creche demo"), ("2", ".venv/bin/nox")]
)
def test_each_block_of_our_own_readme_is_valid_shell_and_ends_in_its_command(
    checkout: Path, number: str, command: str
) -> None:
    shutil.copy(ROOT / "README.md", checkout)
    # A `sh` that only reads, so that the block is taken and checked but not run.
    reader = checkout / "bin" / "sh"
    reader.parent.mkdir()
    reader.write_text('#!/bin/sh\nexec /bin/sh -n "$@"\n')
    reader.chmod(0o755)
    outcome = subprocess.run(
        ["bash", ".ci/run", number],
        cwd=checkout,
        env={**os.environ, "PATH": f"{reader.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-2:] == [command, "---"]
