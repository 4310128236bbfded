"""Which store a ``--store`` means."""

from __future__ import annotations

from creche.errors import SettingsError
from creche.store.base import Store

EXAMPLES = "sqlite:creche.db (a file), or memory: (as long as the plane runs)"


def open_store(url: str) -> Store:
    """Return the store that *url* names, not yet opened.

    Raises:
        SettingsError: it names none.
    """
    path = sqlite_path(url)
    if path is not None:
        from creche.store.sqlite import SqliteStore

        return SqliteStore(path)
    from creche.store.memory import MemoryStore

    return MemoryStore()


def sqlite_path(url: str) -> str | None:
    """Return the file's path of an SQLite store, None for the memory store.

    Raises:
        SettingsError: *url* names no store.
    """
    kind, colon, rest = url.partition(":")
    if colon and kind == "memory" and not rest:
        return None
    # sqlite:///absolute and sqlite://relative are read as other tools write them.
    path = rest.removeprefix("//")
    if colon and kind == "sqlite" and path:
        return path
    raise SettingsError(f"--store {url!r} names no store: write {EXAMPLES}")
