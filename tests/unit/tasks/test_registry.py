"""Names are taken once, and user modules are loaded with errors that are about the user's code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from creche.errors import TaskDefinitionError, TaskLoadError
from creche.tasks import LoadReport, Registry, load, task, task_registry

SEND_EMAIL = """\
from creche.tasks import task

@task
def send_email(user_id: int, template: str) -> bool:
    return True
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports_of_its_own: None) -> Path:
    """An empty working directory. What is imported and registered meanwhile is forgotten after."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def defining(name: str) -> str:
    return SEND_EMAIL.replace("send_email", name)


def refusal(*modules: str) -> str:
    with pytest.raises(TaskLoadError) as caught:
        load(modules)
    return str(caught.value)


# --- names ----------------------------------------------------------------------------------------


def make(name: str) -> Callable[[], None]:
    def job() -> None: ...

    job.__name__ = name
    return job


def test_a_registry_gives_tasks_by_name_and_in_order() -> None:
    registry = Registry()
    b = task(make("b"), registry=registry)
    a = task(make("a"), registry=registry)

    assert registry.get("a") is a
    assert registry.get("c") is None
    assert list(registry) == [a, b]
    assert registry.names() == ["a", "b"]
    assert "a" in registry
    assert "c" not in registry
    assert len(registry) == 2
    registry.clear()
    assert list(registry) == []


def test_two_functions_of_one_name_are_an_error_that_names_both_places() -> None:
    registry = Registry()

    @task("job", registry=registry)
    def first() -> None: ...

    with pytest.raises(TaskDefinitionError) as caught:

        @task("job", registry=registry)
        def second() -> None: ...

    message = str(caught.value)
    assert "two functions want the task name 'job'" in message
    line = first.__wrapped__.__code__.co_firstlineno
    assert f"first ({__file__}:{line})" in message
    assert f"second ({__file__}:{line + 5})" in message
    assert registry.get("job") is first


def test_the_same_function_of_a_module_loaded_twice_takes_its_place() -> None:
    registry = Registry()

    def module() -> object:
        @task("job", registry=registry)
        def job() -> None: ...

        return job

    module()
    newer = module()

    assert registry.get("job") is newer
    assert len(registry) == 1


def test_one_file_under_two_module_names_is_no_clash(project: Path) -> None:
    write(project, {"app/tasks.py": SEND_EMAIL})

    report = load(["app.tasks", "app/tasks.py"])

    assert report == LoadReport(("app.tasks", "tasks"), ("send_email",), ())


# --- what may be named ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "module"),
    [
        ("tasks", "tasks"),
        ("tasks.py", "tasks"),
        ("./tasks.py", "tasks"),
        ("shop.mail", "shop.mail"),
        ("shop/mail.py", "shop.mail"),
        ("scripts/nightly.py", "nightly"),
        ("scripts/send-mail.py", "send-mail"),
        ("loaded", "loaded"),
        ("loaded/", "loaded"),
        ("./loaded", "loaded"),
        ("loaded/__init__.py", "loaded"),
        ("shop/deep", "shop.deep"),
    ],
)
def test_a_module_is_named_by_dots_or_by_file(named: str, module: str, project: Path) -> None:
    write(
        project,
        {
            "tasks.py": SEND_EMAIL,
            "shop/__init__.py": "",
            "shop/mail.py": SEND_EMAIL,
            "shop/deep/__init__.py": SEND_EMAIL,
            "scripts/nightly.py": f"import helper\n{SEND_EMAIL}",
            "scripts/helper.py": "",
            "scripts/send-mail.py": SEND_EMAIL,
            "loaded/__init__.py": "from . import mail",
            "loaded/mail.py": SEND_EMAIL,
        },
    )

    assert load([named]) == LoadReport((module,), ("send_email",), ())
    assert load([named]) == LoadReport((module,), ("send_email",), ())  # nothing new to import
    made = task_registry.get("send_email")
    assert made is not None
    assert made(1, "welcome") is True


def test_a_file_may_lie_outside_the_working_directory(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, {"nightly.py": SEND_EMAIL})

    assert load([str(elsewhere / "nightly.py")]).tasks == ("send_email",)


def test_several_modules_may_share_one_text(project: Path) -> None:
    write(project, {f"{name}.py": defining(f"job_{name}") for name in ("one", "two", "three")})

    report = load(["one, two", "three,"])

    assert report == LoadReport(("one", "two", "three"), ("job_one", "job_three", "job_two"), ())
    assert load("one,two").modules == ("one", "two")
    assert load([]) == LoadReport((), (), ())


def test_the_working_directory_is_on_the_path_and_comes_first(project: Path) -> None:
    write(
        project, {"tasks.py": f"import settings_of_mine\n{SEND_EMAIL}", "settings_of_mine.py": ""}
    )
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.fspath(project))]

    load(["tasks"])

    assert sys.path[0] == os.fspath(project)


def test_tasks_of_an_inner_module_count_for_who_imports_them(project: Path) -> None:
    write(project, {"inner.py": SEND_EMAIL, "outer.py": "from inner import send_email"})

    assert load(["inner", "outer"]) == LoadReport(("inner", "outer"), ("send_email",), ())


def test_a_module_without_tasks_is_a_warning(project: Path) -> None:
    write(project, {"empty.py": "", "tasks.py": SEND_EMAIL})

    report = load(["empty", "tasks"])

    assert report.tasks == ("send_email",)
    assert report.warnings == (
        "module 'empty' registers no task: is a function in it decorated with @task?",
    )


def test_a_package_without_tasks_of_its_own_names_its_modules(project: Path) -> None:
    write(project, {"shop/__init__.py": "", "shop/mail.py": SEND_EMAIL, "shop/image.py": ""})

    (warning,) = load(["shop"]).warnings

    assert warning.endswith("name its modules (shop.image, shop.mail).")


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "what", "line"),
    [
        ("\nimport requests_of_mine", "ModuleNotFoundError: No module named 'requests_of_mine'", 2),
        ("def broken(:", "SyntaxError: invalid syntax", 1),
        ("import json\ndef g():\n    json.loads('{')\ng()", "JSONDecodeError: Expecting", 3),
        ("import sys\n\nsys.exit(3)", "it calls sys.exit(3) when it is imported", 3),
        ("raise ValueError", "ValueError", 1),
        ("from creche.tasks import task\n@task(prio=1)\ndef f(): ...", "@task has no option", 2),
        ("from tasks import nothing", "ImportError: cannot import name 'nothing'", 1),
        (
            "from creche import Schedule as S\nimport datetime as d\nS(at=d.datetime(2030, 1, 1))",
            "at (2030-01-01 00:00:00) says no time zone",
            3,
        ),
    ],
    ids=["import", "syntax", "library", "exit", "bare", "definition", "circular", "naive"],
)
def test_an_import_error_shows_the_module_the_cause_and_the_users_line(
    source: str, what: str, line: int, project: Path
) -> None:
    write(project, {"tasks.py": source})

    with pytest.raises(TaskLoadError) as caught:
        load(["tasks"])

    message = str(caught.value)
    assert message.startswith("cannot load task module 'tasks': ")
    assert what in message
    assert message.endswith(f" (at {project / 'tasks.py'}:{line})")
    assert message.count("\n") == 0
    assert caught.value.__cause__ is not None


def test_an_error_in_an_imported_library_is_blamed_on_the_import(project: Path) -> None:
    write(
        project,
        {
            "tasks.py": "\nimport library",
            "site-packages/library.py": "raise OSError('no licence')",
        },
    )
    sys.path.insert(0, str(project / "site-packages"))

    assert refusal("tasks") == (
        f"cannot load task module 'tasks': OSError: no licence (at {project / 'tasks.py'}:2)"
    )


def test_tasks_that_are_installed_as_a_library_are_blamed_themselves(project: Path) -> None:
    write(project, {"site-packages/library.py": "import json\njson.loads('{')"})
    sys.path.insert(0, str(project / "site-packages"))

    assert refusal("library").endswith(f" (at {project / 'site-packages' / 'library.py'}:2)")


def test_a_name_clash_between_modules_names_both_files(project: Path) -> None:
    write(project, {"one.py": SEND_EMAIL, "two.py": SEND_EMAIL})

    message = refusal("one", "two")

    assert "cannot load task module 'two': two functions want the task name" in message
    assert f"send_email ({project / 'one.py'}:3) and send_email ({project / 'two.py'}:3)" in message


def test_ctrl_c_during_an_import_is_not_taken_for_a_users_error(project: Path) -> None:
    write(project, {"tasks.py": "raise KeyboardInterrupt"})

    with pytest.raises(KeyboardInterrupt):
        load(["tasks"])


def test_a_missing_module_says_what_was_looked_for_and_what_is_near(project: Path) -> None:
    write(
        project,
        {
            "tasks.py": SEND_EMAIL,
            "shop/__init__.py": "",
            "shop/mailing.py": SEND_EMAIL,
            "env/pyvenv.cfg": "",
            "env/mailin.py": "",
            ".hidden/mailin.py": "",
        },
    )

    assert refusal("taks") == (
        "there is no task module 'taks' (No module named 'taks'): looked for taks.py and "
        f"taks/__init__.py in {project}, and on Python's path; did you mean tasks?"
    )
    assert refusal("mailing").endswith("did you mean shop.mailing?")
    assert refusal("shop.mailin").endswith("did you mean shop.mailing?")
    assert refusal("nothing_like_it").endswith(f"in {project}, and on Python's path")
    assert "'tasks' is not a package" in refusal("tasks.send_email")


def test_a_missing_module_inside_the_users_own_package_is_an_error_of_that_package(
    project: Path,
) -> None:
    write(project, {"shop/__init__.py": "import shop.mail"})

    assert refusal("shop.mail") == (
        "cannot load task module 'shop.mail': ModuleNotFoundError: No module named 'shop.mail' "
        f"(at {project / 'shop' / '__init__.py'}:1)"
    )


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("taks.py", "there is no file {project}/taks.py; did you mean tasks.py?"),
        ("none/tasks.py", "there is no file {project}/none/tasks.py"),
        ("scripts/notes.txt", "{project}/scripts/notes.txt is not a Python file"),
        ("scripts/", "scripts/ is a folder and not a package (no __init__.py): name files in it"),
        ("void/", "(no __init__.py): it has no .py files"),
        ("scripts/to.day.py", "a dot in its name would part it in two"),
        ("tasks:send_email", "name the module, 'tasks'"),
        (".tasks", "'.tasks' is no module's name: write it in full"),
        ("shop..mail", "'shop..mail' is no module's name: write it in full"),
    ],
    ids=[
        "misspelt",
        "no-folder",
        "not-python",
        "folder",
        "void",
        "dot",
        "colon",
        "relative",
        "dots",
    ],
)
def test_a_name_that_cannot_be_a_module_says_what_to_write(
    named: str, words: str, project: Path
) -> None:
    write(
        project,
        {"tasks.py": "", "scripts/a.py": "", "scripts/notes.txt": "", "scripts/to.day.py": ""},
    )
    (project / "void").mkdir()

    assert words.format(project=project) in refusal(named)


def test_a_file_hidden_by_another_module_of_its_name_is_refused(project: Path) -> None:
    write(project, {"tasks.py": "", "other/tasks.py": SEND_EMAIL, "json.py": "", "sys.py": ""})

    message = refusal("tasks.py", "other/tasks.py")

    assert message.startswith(f"{project / 'other' / 'tasks.py'} cannot be imported as 'tasks'")
    assert f"belongs to {project / 'tasks.py'}" in message
    assert "cannot be imported as 'json'" in refusal("json")
    assert "belongs to a module of Python itself" in refusal("sys.py")
