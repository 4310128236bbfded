"""`docs/command-line.md` lists the commands and the exit codes that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from creche.cli.exits import Exit
from creche.cli.settings import COMMANDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def test_every_command_is_listed() -> None:
    listed = re.findall(r"^\| `creche ([\w-]+)` \|", TEXT, re.MULTILINE)
    # A second name of `worker`, told on its line.
    assert sorted(listed) == sorted(COMMANDS - {"subworker"})
    assert "`creche subworker`" in TEXT


def test_every_exit_code_is_listed() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", TEXT, re.MULTILINE)
    assert {name: int(code) for code, name in rows} == {code.name: int(code) for code in Exit}


def test_the_settings_file_is_one_that_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names that no command has would be refused by whichever command reads the file."""
    from creche.cli.app import run

    (file,) = re.findall(r"```toml\n(# creche\.toml\n.*?)```", TEXT, re.DOTALL)
    (tmp_path / "creche.toml").write_text(file.replace("5570", "1"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run(["health"]) == Exit.UNREACHABLE  # it went as far as dialling the file's address
    assert "ws://127.0.0.1:1" in capfd.readouterr().err
