"""Which store a plane is told to use."""

from __future__ import annotations

import os

import pytest

from creche.errors import SettingsError
from creche.store.memory import MemoryStore
from creche.store.sqlite import SqliteStore
from creche.store.urls import StoreUrl, make_store, parse_store_url


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("memory:", StoreUrl("memory")),
        (" Memory: ", StoreUrl("memory")),
        ("sqlite:creche.db", StoreUrl("sqlite", "creche.db")),
        ("sqlite:/var/lib/creche.db", StoreUrl("sqlite", "/var/lib/creche.db")),
        ("SQLite:../a b?c#d.db", StoreUrl("sqlite", "../a b?c#d.db")),
        ("sqlite:c:creche.db", StoreUrl("sqlite", "c:creche.db")),
    ],
)
def test_a_store_is_named_by_its_kind_and_file(text: str, meant: StoreUrl) -> None:
    assert parse_store_url(text) == meant
    assert parse_store_url(str(meant)) == meant


def test_the_home_of_the_user_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_store_url("sqlite:~/creche.db").path == "/home/somebody/creche.db"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "use sqlite:FILE"),
        ("creche.db", "use sqlite:FILE"),
        ("memory", "use sqlite:FILE"),
        ("memory:creche.db", "use sqlite:FILE"),
        ("sqlite:", "use sqlite:FILE"),
        ("sqlite:folder/", "use sqlite:FILE"),
        ("sqlite:a\0b", "use sqlite:FILE"),
        ("redis://localhost", "use sqlite:FILE"),
        ("sqlite::memory:", "write memory:"),
        ("sqlite:///srv/creche.db", "as in sqlite:/srv/creche.db"),
    ],
)
def test_what_names_no_store_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_store_url(text)
    with pytest.raises(SettingsError):
        make_store(text)


def test_the_store_that_is_named_is_made() -> None:
    assert isinstance(make_store("memory:"), MemoryStore)
    store = make_store("sqlite:creche.db")
    assert isinstance(store, SqliteStore)
    assert store.path == os.path.abspath("creche.db")
