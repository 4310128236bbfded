"""Before much is changed: what is meant, and whether somebody is sure."""

from __future__ import annotations

import io
import sys

import pytest

from creche.cli.asking import ids_or_filter, is_sure
from creche.errors import BadFilter, SettingsError
from creche.model.filter import Filter

ID = "01a3185c-5000-7000-8000-000000000001"


def test_words_are_ids_or_a_filter_or_all() -> None:
    assert ids_or_filter([ID, ID.replace("-", "")], is_all=False, what="retry") == [
        ID,
        ID.replace("-", ""),
    ]
    meant = ids_or_filter(["task:mail.*", "error:x"], is_all=False, what="retry")
    assert meant == Filter.parse("task:mail.* error:x")
    assert ids_or_filter([], is_all=True, what="retry") == Filter()


@pytest.mark.parametrize(
    ("words", "is_all", "why"),
    [
        ([], False, "which jobs\\? Name ids, or write a filter, or give --all to retry all"),
        ([""], False, "which jobs\\? Name ids, or write a filter, or give --all to retry all"),
        ([" ", ""], False, "which jobs\\?"),
        (["task:x"], True, "leave the filter out, or --all"),
        ([ID, "task:x"], False, "one of them"),
        ([ID], True, "one of them"),
    ],
)
def test_what_is_contradictory_or_nothing_changes_nothing(
    words: list[str], is_all: bool, why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        ids_or_filter(words, is_all=is_all, what="retry")


def test_a_half_id_is_no_filter() -> None:
    with pytest.raises(BadFilter, match=r"is no term.*an id has 32 hexadecimal digits"):
        ids_or_filter([ID[:20]], is_all=False, what="retry")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "sure"),
    [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False)],
)
def test_on_a_terminal_one_is_asked(
    typed: str, sure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", stderr)
    assert is_sure("retry 3 jobs?", False) is sure
    assert stderr.getvalue().startswith("retry 3 jobs? [y/N] ")
    assert is_sure("retry 3 jobs?", True)


def test_where_nobody_can_be_asked_it_has_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(SettingsError, match="--yes: there is no terminal"):
        is_sure("retry 3 jobs?", False)
