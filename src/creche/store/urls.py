"""Which store a plane is told to use: ``sqlite:creche.db``, ``sqlite:/var/lib/c.db``, ``memory:``.

This module imports no driver until a store is made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from creche.errors import SettingsError
from creche.store.base import Store

ALLOWED = "use sqlite:FILE (as in sqlite:creche.db or sqlite:/var/lib/creche.db) or memory:"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store by name. `path` is the file of an SQLite store, else empty."""

    kind: Literal["sqlite", "memory"]
    path: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def parse_store_url(text: str) -> StoreUrl:
    """Return the store that *text* names. Nothing is opened or looked for.

    A relative file is relative to the working directory; ``~`` is the home of the user.

    Raises:
        SettingsError: *text* names no store; the sentence says what is allowed.
    """
    kind, colon, rest = text.strip().partition(":")
    match kind.lower():
        case "memory" if colon and not rest:
            return StoreUrl("memory")
        case "sqlite" if rest == ":memory:":
            raise SettingsError(f"{text!r} is no store: for one in memory write memory:")
        case "sqlite" if rest.startswith("//"):
            file = "/" + rest.lstrip("/")
            raise SettingsError(f"{text!r} is no store: write a path, as in sqlite:{file}")
        case "sqlite" if rest and not rest.endswith(os.sep) and "\0" not in rest:
            return StoreUrl("sqlite", os.path.expanduser(rest))
        case _:
            raise SettingsError(f"{text!r} is no store: {ALLOWED}")


def check_free(url: StoreUrl | str) -> None:
    """Refuse a store that another plane has at this moment. Nothing is made, and nobody waited for.

    Raises:
        StoreLocked: another plane has it.
        SettingsError: *url* names no store.
    """
    if isinstance(url, str):
        url = parse_store_url(url)
    if url.kind == "sqlite":
        from creche.store import sqlite_file

        sqlite_file.check_free(os.path.abspath(url.path))


def make_store(url: StoreUrl | str, max_bytes: int | None = None) -> Store:
    """Return the store that *url* names, not open yet. A file takes no new jobs while more than
    *max_bytes* of it are in use.

    Raises:
        SettingsError: it names none.
    """
    if isinstance(url, str):
        url = parse_store_url(url)
    if url.kind == "memory":
        from creche.store.memory import MemoryStore

        return MemoryStore()
    from creche.store.sqlite import MAX_BYTES, SqliteStore

    return SqliteStore(url.path, max_bytes=MAX_BYTES if max_bytes is None else max_bytes)
