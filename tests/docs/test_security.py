"""`docs/security.md` is true where it can be compared: roles, named tests, units."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from creche.model.access import AccessRole
from creche.wire import access as table
from creche.wire.session import Role

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

# What every peer says that is let in; what it may ask and follow is a row each.
OF_ALL = {"Goodbye", "Ping", "Pong", "Piece", "Ask", "Subscribe", "Unsubscribe"}


def names_of(roles: frozenset[AccessRole]) -> list[str]:
    return [role.value for role in AccessRole if role in roles]


def test_the_table_of_roles_is_the_one_in_force() -> None:
    _, _, rest = TEXT.partition("| | view | submit | work | operate | admin |\n")
    said = {}
    for line in rest.partition("\n\n")[0].splitlines()[1:]:
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        may = [role.value for role, cell in zip(AccessRole, cells, strict=True) if cell]
        said.update(dict.fromkeys(re.findall(r"`(.+?)`", what), may))
    assert said == {
        **{
            kind.__name__: names_of(roles)
            for kind, roles in table.MESSAGES.items()
            if kind.__name__ not in OF_ALL
        },
        **{name: names_of(roles) for name, roles in table.QUESTIONS.items()},
        **{name: names_of(roles) for name, roles in table.TOPICS.items()},
        "a worker": names_of(table.PEERS[Role.WORKER]),
    }
    assert all(
        table.MESSAGES[kind] == table.EVERY for kind in table.MESSAGES if kind.__name__ in OF_ALL
    )


def test_every_test_that_is_named_is_there_and_every_row_names_one() -> None:
    there = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    _, _, table_and_rest = TEXT.partition("\n| what | how | shown by |\n")
    rows = table_and_rest.partition("\n\n")[0].splitlines()[1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.strip("|").split("|")[2])
        assert named, row
        assert set(named) <= there, set(named) - there


UNITS = dict(re.findall(r"```ini\n# ([\w-]+\.service)\n(.*?)```", TEXT, re.DOTALL))


def test_there_is_a_unit_for_the_plane_and_one_for_a_worker() -> None:
    assert set(UNITS) == {"creche.service", "creche-worker.service"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_the_units_and_calls_them_closed(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text(UNITS[name].replace("/opt/creche/bin/creche", "/bin/true").replace(
        "/opt/shop/bin/creche", "/bin/true"
    ))  # fmt: skip
    words = ("systemd-analyze", "verify", str(unit))
    verified = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert f"{name}:" not in verified.stderr, verified.stderr
    words = ("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))
    judged = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    if found is None:
        pytest.skip("this systemd judges no files")
    assert float(found[1]) <= 1.5
