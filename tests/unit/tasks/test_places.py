"""Where a process finds a task, and what it would not find."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from creche.errors import TaskDefinitionError, TaskLoadError
from creche.tasks.places import Place, import_task, place_of
from creche.tasks.registry import Registry, import_named, task_registry
from creche.tasks.task import Task, task


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module and import it; the default registry is as before in the end."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(task_registry, "_tasks", {})
    made: list[str] = []

    def write(name: str, text: str) -> Any:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        made.append(name)
        return import_named(name)

    yield write
    for name in made:
        sys.modules.pop(name, None)


def test_a_task_is_found_where_it_was_defined(written: Any) -> None:
    module = written(
        "shop_tasks",
        """
        from creche import task

        @task("shop.count", executor="process")
        def count() -> int:
            return 1

        class Till:
            @task("shop.open", executor="process")
            @staticmethod
            def open() -> int:
                return 2

        task("shop.sorted", executor="process")(sorted)
        """,
    )
    for name in ("shop.count", "shop.open", "shop.sorted"):
        known = task_registry.get(name)
        assert known is not None
        place = place_of(known)
        assert place.modules[0] == "shop_tasks"
        assert import_task(place) is known
    assert import_task(Place("shop.count", ("shop_tasks",), "count")) is module.count


def test_one_with_a_registry_of_its_own_is_found_by_its_name_in_the_module(written: Any) -> None:
    module = written(
        "own_registry",
        """
        from creche import task
        from creche.tasks.registry import Registry

        registry = Registry()

        def plain() -> int:
            return 1

        another = task("another", executor="process", registry=registry)(plain)
        """,
    )
    assert import_task(place_of(module.another)) is module.another


def test_what_no_process_could_find_is_refused_with_what_to_do() -> None:
    def factory() -> Task[..., Any]:
        def local() -> None: ...

        return task("local", registry=Registry())(local)

    with pytest.raises(TaskDefinitionError, match="keep it under a name of its own at the top"):
        place_of(factory())


def test_what_is_defined_in_the_program_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None: ...

    made = task("work", registry=Registry())(work)
    made.declared_in = "__main__"
    with pytest.raises(TaskDefinitionError, match="move it to a module of its own"):
        place_of(made)


def test_a_module_that_has_no_such_task_any_more_says_so(written: Any) -> None:
    written("changed", "count = 1")
    with pytest.raises(TaskLoadError, match="there is no task 'count' in changed"):
        import_task(Place("count", ("changed",), "count"))


def test_a_module_that_cannot_be_imported_says_why(written: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(TaskLoadError, match="cannot load task module 'broken': ZeroDivision"):
        import_task(Place("count", ("broken",), "count"))
