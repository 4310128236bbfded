"""`import creche` is cheap, and everything it promises is there."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import creche
from creche import errors

FACE = Path(creche.__file__)


def fresh(code: str) -> str:
    """Run *code* in an interpreter that has imported nothing of ours."""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_importing_it_loads_no_event_loop_no_web_framework_and_no_room() -> None:
    code = (
        "import sys; before = set(sys.modules); import creche, json\n"
        "print(json.dumps(sorted(set(sys.modules) - before - {'json'})))"
    )
    loaded = {name for name in json.loads(fresh(code)) if not name.startswith("json.")}
    assert {name for name in loaded if name.partition(".")[0] == "creche"} == {"creche"}
    assert not loaded & {"trio", "anyio", "asyncio", "quart", "cbor2", "cyclopts", "rich"}


def test_declaring_a_task_loads_no_event_loop() -> None:
    code = (
        "import sys\n"
        "from creche import task, Priority\n"
        "@task(priority='high')\n"
        "def f(a: int) -> int: return a\n"
        "assert f(1) == 1\n"
        "print(*sorted(sys.modules))"
    )
    assert not {"trio", "anyio", "asyncio", "quart", "cbor2"} & set(fresh(code).split())


def test_every_name_it_promises_is_there_and_is_what_type_checkers_are_told() -> None:
    for name in creche.__all__:
        assert getattr(creche, name) is not None
    tree = ast.parse(FACE.read_text())
    told = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("creche")
        for alias in node.names
    }
    assert sorted(told) == sorted(creche.__all__)
    for name, module in told.items():
        assert module is not None
        assert getattr(creche, name) is getattr(sys.modules[module], name)
    assert set(creche.__all__) <= set(dir(creche))
    assert isinstance(creche.__version__, str)


def test_every_error_is_at_the_face() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert ours <= set(creche.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(creche, "Klient")
