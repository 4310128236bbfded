"""An option's value comes from the first source that has it, and a wrong one names its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from cyclopts import App, CycloptsError, Parameter

from creche.cli.app import make_app
from creche.cli.options import FLAG, Connect, Count, Names, Port
from creche.cli.settings import ALIASES, COMMANDS, SHARED, VARIABLES, mistyped, sources
from creche.cli.usage import usage_line
from creche.errors import SettingsError


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTWORKER_WORKER_CONCURRENCY", raising=False)
    return tmp_path


def called(*words: str, given: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a small application behind the chain of sources; return what its command was given."""
    app = App(name="creche", config=sources(given))
    nested = App(name="jobs")

    @app.command(name="worker")
    def worker(
        target: Annotated[str, Parameter(name="--target", show_env_var=False)] = "none",
        *,
        connect: Connect = "ws://default:1",
        concurrency: Count = 10,
        queues: Names | None = None,
        gui: Annotated[bool, Parameter(name="--gui", negative="--no-gui")] = True,
        quiet: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
        log_level: str = "info",
        store: str = "sqlite:creche.db",
    ) -> dict[str, Any]:
        return dict(locals())

    @app.command(name="page")
    def page(
        *,
        host: Annotated[str, Parameter(name=("--gui-host", "--host"))] = "127.0.0.1",
        port: Annotated[Port, Parameter(name=("--gui-port", "--port"))] = 8080,
    ) -> dict[str, Any]:
        return dict(locals())

    @nested.command(name="ls")
    def ls(*, limit: Count = 50) -> dict[str, Any]:
        return dict(locals())

    app.command(nested)
    found: dict[str, Any] = app(
        list(words), exit_on_error=False, print_error=False, result_action="return_value"
    )
    return found


def refusal(*words: str) -> str:
    with pytest.raises((CycloptsError, SettingsError)) as caught:
        called(*words)
    error = caught.value
    return usage_line(error) if isinstance(error, CycloptsError) else str(error)


def test_the_command_line_is_before_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ["9"]
    (tmp_path / "pyproject.toml").write_text("[tool.creche]\nconcurrency = 5\n")
    values.append(called("worker")["concurrency"])
    (tmp_path / "creche.toml").write_text("concurrency = 4\n")
    values.append(called("worker")["concurrency"])
    monkeypatch.setenv("FASTWORKER_WORKER_CONCURRENCY", "3")
    values.append(called("worker")["concurrency"])
    monkeypatch.setenv("CRECHE_CONCURRENCY", "2")
    values.append(called("worker")["concurrency"])
    values.append(called("worker", "--concurrency", "1")["concurrency"])
    assert values == ["9", 5, 4, 3, 2, 1]


def test_a_commands_table_is_before_what_holds_for_all(tmp_path: Path) -> None:
    (tmp_path / "creche.toml").write_text(
        "concurrency = 4\nqueues = ['a', 'b']\n[worker]\nconcurrency = 6\n[submit]\ntimeout = 1\n"
    )
    found = called("worker")
    assert found["concurrency"] == 6
    assert found["queues"] == ["a", "b"]


def test_a_nested_command_has_a_nested_table(tmp_path: Path) -> None:
    (tmp_path / "creche.toml").write_text("limit = 5\n[jobs]\nlimit = 6\n[jobs.ls]\nlimit = 7\n")
    assert called("jobs", "ls")["limit"] == 7
    assert called("worker")["concurrency"] == 10


def test_a_shared_option_may_be_named_like_a_command(tmp_path: Path) -> None:
    (tmp_path / "creche.toml").write_text("store = 'memory:'\n")
    assert called("worker")["store"] == "memory:"


def test_a_file_in_a_folder_above_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "creche.toml").write_text("concurrency = 4\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert called("worker")["concurrency"] == 4


def test_another_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "creche.toml").write_text("concurrency = 4\n")
    (tmp_path / "other.toml").write_text("concurrency = 8\n")
    monkeypatch.setenv("CRECHE_CONFIG", "other.toml")
    assert called("worker")["concurrency"] == 8
    monkeypatch.setenv("CRECHE_CONFIG", "missing.toml")
    assert "no such file" in refusal("worker")
    monkeypatch.setenv("CRECHE_CONFIG", str(tmp_path))
    assert "that is no file" in refusal("worker")


def test_a_switch_can_be_turned_either_way_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called("worker")["gui"] is True
    monkeypatch.setenv("CRECHE_GUI", "false")
    assert called("worker")["gui"] is False
    assert called("worker", "--gui")["gui"] is True
    monkeypatch.delenv("CRECHE_GUI")
    monkeypatch.setenv("CRECHE_NO_GUI", "1")
    assert called("worker")["gui"] is False
    monkeypatch.delenv("CRECHE_NO_GUI")
    monkeypatch.setenv("FASTWORKER_GUI_ENABLED", "false")
    assert called("worker")["gui"] is False
    monkeypatch.setenv("CRECHE_GUI_ENABLED", "true")
    assert called("worker")["gui"] is True
    monkeypatch.undo()
    (tmp_path / "creche.toml").write_text("no-gui = true\n")
    monkeypatch.chdir(tmp_path)
    assert called("worker")["gui"] is False


def test_lists_come_with_commas_words_or_toml_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called("worker", "--queues", "a,b", "c")["queues"] == ["a", "b", "c"]
    monkeypatch.setenv("CRECHE_QUEUES", "x, y")
    assert called("worker")["queues"] == ["x", "y"]


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRECHE_CONCURRENCY", "")
    assert called("worker")["concurrency"] == 10


def test_what_belongs_to_one_call_is_not_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRECHE_TARGET", "all")
    monkeypatch.setenv("CRECHE_QUIET", "1")
    found = called("worker")
    assert found["target"] == "none"
    assert found["quiet"] is False


def test_a_variable_is_named_like_the_first_name_of_its_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kubernetes sets CRECHE_PORT in every pod beside a service that is named creche."""
    monkeypatch.setenv("CRECHE_PORT", "tcp://10.0.0.1:5570")
    monkeypatch.setenv("CRECHE_HOST", "elsewhere")
    assert called("page") == {"host": "127.0.0.1", "port": 8080}
    monkeypatch.setenv("CRECHE_GUI_PORT", "9000")
    assert called("page")["port"] == 9000
    gui = make_app()["gui"].assemble_argument_collection()
    firsts = {argument.names[0] for argument in gui}
    assert {"--gui-host", "--gui-port", "--gui-insecure"} <= firsts


def test_a_variable_that_is_almost_one_of_ours_is_told_of() -> None:
    assert mistyped(["CRECHE_CONECT", "PATH"]) == [
        "nothing reads CRECHE_CONECT (environment): did you mean CRECHE_CONNECT?"
    ]
    assert mistyped(["CRECHE_GUI_PROT"]) != []
    others = ["CRECHE_CONNECT", "CRECHE_GUI_ENABLED", "CRECHE_DEBUG", "CRECHE_PYTHONS", "CONECT"]
    kubernetes = ["CRECHE_PORT", "CRECHE_GUI_SERVICE_PORT", "CRECHE_GUI_PORT_80_TCP_PORT"]
    assert mistyped(others + kubernetes) == []


def test_an_option_before_the_command_counts_as_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRECHE_LOG_LEVEL", "error")
    assert called("worker", given={"--log-level": "debug"})["log_level"] == "debug"
    assert called("jobs", "ls", given={"--log-level": "debug"}) == {"limit": 50}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("concurency = 4", ["creche.toml", "'concurency'", "did you mean 'concurrency'"]),
        ("[worker]\nconcurency = 4", ["creche.toml, [worker]", "did you mean 'concurrency'"]),
        ("[wroker]\nconcurrency = 4", ["creche.toml", "no command 'wroker'", "'worker'"]),
        ("[worker]\nconcurrency = 'x'", ["concurrency", "creche.toml, [worker]", "whole number"]),
        ("concurrency = 0", ["concurrency (", "creche.toml) takes a whole number from 1 on"]),
        ("connect = 5", ["connect (", "creche.toml) takes text (in quotes), and not 5"]),
        ("connect = 'x'", ["connect (", "creche.toml): 'x' is no address", "HOST:PORT"]),
        ("queues = [[1]]", ["creche.toml", "queues", "list"]),
        ("concurrency = ", ["creche.toml is not TOML", "Invalid value"]),
    ],
    ids=[
        *("key", "key in table", "table", "not a number", "too small"),
        *("no text", "no address", "shape", "syntax"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_its_place(
    text: str, parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "creche.toml").write_text(text)
    line = refusal("worker")
    assert all(part in line for part in parts), line
    assert "\n" not in line


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRECHE_CONCURRENCY", "many")
    assert refusal("worker") == (
        "CRECHE_CONCURRENCY (environment) takes a whole number from 1 on, and not 'many'"
    )
    monkeypatch.delenv("CRECHE_CONCURRENCY")
    monkeypatch.setenv("CRECHE_CONNECT", "http://x")
    line = refusal("worker")
    assert line.startswith("CRECHE_CONNECT (environment): 'http://x' is no address of a plane")


def test_a_wrong_flag_is_told_without_a_source() -> None:
    assert "concurrency" in refusal("worker", "--concurrency", "x")
    assert "(" not in refusal("worker", "--concurrency", "x")


def test_commands_and_shared_options_are_those_of_the_application() -> None:
    app = make_app()
    commands = {name for name in app if not name.startswith("-")}
    assert commands == COMMANDS
    options: set[str] = set()
    for name in commands:
        options |= options_of(app[name])
    assert {f"--{name}" for name in SHARED} <= options
    others = set(ALIASES) | {"CRECHE_CONFIG", "CRECHE_DEBUG", "CRECHE_TOKEN"}
    variables = {f"CRECHE_{name[2:].replace('-', '_').upper()}" for name in options}
    assert variables | others == VARIABLES


def options_of(app: App) -> set[str]:
    """The options that can be given by a variable, by the names that these are made of."""
    found: set[str] = set()
    if app.default_command is not None:
        for argument in app.assemble_argument_collection():
            # What is of several options has no name of its own.
            if argument.parameter.show_env_var and argument.names != ("*",):
                found |= {argument.names[0], *argument.negatives}
    for name in app:
        if not name.startswith("-"):
            found |= options_of(app[name])
    return found


@pytest.mark.parametrize("words", [("--queues", ""), ("--queues", " , ")])
def test_names_that_name_nothing_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(CycloptsError) as caught:
        called("worker", *words)
    assert "--queues names nothing" in usage_line(caught.value)
