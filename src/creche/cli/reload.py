"""Starting a worker anew when its code has changed, while one works on that."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio
from watchfiles import PythonFilter, awatch

logger = logging.getLogger("creche.worker")

LOOK_MS = 200
"""How long (milliseconds) a look for changes takes at the most: only then can it be ended."""

CHECK_S = 60.0
"""How long importing the changed modules may take."""


async def watch_code(
    loaded: Sequence[str], check: Sequence[str], on_new: Callable[[], None]
) -> None:
    """Call *on_new* whenever a Python file has changed, beside the *loaded* modules or below the
    working directory, if a worker would start with it, which the command *check* finds out. If not,
    that command says why, and the worker goes on with what it has. Runs until cancelled."""
    folders = _folders(loaded)
    logger.info("watching %s for changes", ", ".join(map(str, folders)))
    watching = awatch(
        *folders, watch_filter=PythonFilter(), raise_interrupt=False, rust_timeout=LOOK_MS
    )
    async for changes in watching:
        names = sorted({_short(Path(path)) for _, path in changes})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        logger.info("changed: %s%s", ", ".join(names[:3]), more)
        if await _would_start(check):
            on_new()
        else:
            logger.error("the worker goes on with the code that it has")


async def _would_start(check: Sequence[str]) -> bool:
    with trio.move_on_after(CHECK_S):
        return (await trio.run_process(check, capture_stdout=True, check=False)).returncode == 0
    logger.error("importing the task modules took more than %g s", CHECK_S)
    return False


def _folders(modules: Iterable[str]) -> list[Path]:
    """Return what is watched: no folder twice, and none that is in another."""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    found = {Path.cwd().resolve(), *(Path(file).resolve().parent for file in files if file)}
    return sorted(one for one in found if not any(above in found for above in one.parents))


def _short(path: Path) -> str:
    here = Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
