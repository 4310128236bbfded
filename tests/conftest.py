"""Fixtures that every test may rely on."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from creche.tasks.registry import task_registry

# No deadline in either: on a busy machine it fails tests that are right. CI tries the same
# examples every time, so that a red run can be repeated, and prints how.
settings.register_profile("development", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "development")

# A shell that puts a command in the background may have it ignore Ctrl-C, and all that it starts;
# tests send that signal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that at the end nobody waits for one of them
    alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops a client runs on, for tests marked `anyio`."""
    backend: str = request.param
    return backend


@pytest.fixture
def imports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have what is imported and registered meanwhile forgotten after: a later test has a module of
    that name as well."""
    modules, path = set(sys.modules), list(sys.path)
    kept = dict(task_registry._tasks)
    task_registry.clear()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path
    importlib.invalidate_caches()
    task_registry._tasks = kept


@pytest.fixture(autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Hide CRECHE_CONNECT and its like: a test gets the settings it names, here and in children."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("CRECHE_") and name != "CRECHE_WHEEL":
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def no_log_lines_for_later_tests() -> Iterator[None]:
    """Take back what a command that ran in this process has set up for its log."""
    loggers = [logging.getLogger(), logging.getLogger("creche")]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
