"""A table is drawn to the terminal's width, and nothing of it is lost in silence."""

from __future__ import annotations

import re
import sys

import pytest

from creche.cli.table import Column, Narrow, cell, fit, print_table

COLUMNS = (Column("ID", cell("id")), Column("N", cell("n"), is_number=True))


def test_a_piped_table_is_plain_columns_that_are_never_cut(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 300
    print_table(COLUMNS, [{"id": long, "n": 5}, {"id": "y", "n": 1234}], empty="none")
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "ID" + " " * 300 + "   N",
        f"{long}     5",
        "y" + " " * 299 + "  1234",
    ]
    assert err == ""


def test_an_empty_table_has_its_titles_on_stdout_and_the_news_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(COLUMNS, [], empty="nothing there")
    out, err = capsys.readouterr()
    assert out == "ID  N\n"
    assert err == "nothing there\n"


WIDE = (
    Column("ID", cell("id")),
    Column("TASK", cell("task"), 1, Narrow.CUT),
    Column("TRY", cell("try"), 3, is_number=True),
    Column("WORKER", cell("worker"), 2, Narrow.CUT),
)
NEEDED = (36, 12, 3, 10)


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (200, {0: 36, 1: 12, 2: 3, 3: 10}),
        (67, {0: 36, 1: 12, 2: 3, 3: 10}),
        (66, {0: 36, 1: 11, 2: 3, 3: 10}),
        (61, {0: 36, 1: 8, 2: 3, 3: 8}),
        (60, {0: 36, 1: 10, 3: 10}),
        (50, {0: 36, 1: 12}),
        (10, {0: 36}),
    ],
)
def test_columns_become_narrow_and_then_fewer_the_least_important_first(
    width: int, widths: dict[int, int]
) -> None:
    assert fit(WIDE, NEEDED, width) == widths


def use_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Have stdout be a terminal of *width* columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


def lines(drawn: str) -> list[str]:
    """Return what is to be read of a table, without its styles."""
    return re.sub(r"\x1b\[[0-9;]*m", "", drawn).splitlines()


ROW = {"id": "i" * 36, "task": "t" * 30, "try": 1, "worker": "w" * 30}


def test_what_is_cut_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_a_terminal(monkeypatch, 80)
    print_table(WIDE, [ROW], empty="none")
    out, err = capsys.readouterr()
    head, _, row = lines(out)
    assert head.split() == ["ID", "TASK", "TRY", "WORKER"]
    assert row.split()[0] == "i" * 36
    assert all(text.endswith("…") for text in (row.split()[1], row.split()[3]))
    assert max(map(len, lines(out))) <= 80
    assert err == ""


def test_a_column_that_is_left_out_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_a_terminal(monkeypatch, 50)
    print_table(WIDE, [ROW], empty="none")
    out, err = capsys.readouterr()
    assert lines(out)[0].split() == ["ID", "TASK"]
    assert err.startswith("hint: no room for TRY, WORKER: ")


def test_what_must_not_be_cut_is_not_however_narrow_the_terminal_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_a_terminal(monkeypatch, 20)
    print_table(WIDE, [ROW], empty="none")
    assert "i" * 36 in capsys.readouterr().out


def test_a_signature_goes_on_in_the_next_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_a_terminal(monkeypatch, 40)
    text = ", ".join(f"parameter_{n}: int" for n in range(5))
    print_table([Column("TASK", cell("task"), narrow=Narrow.FOLDED)], [{"task": text}], empty="")
    assert "".join("".join(lines(capsys.readouterr().out)).split()).endswith("".join(text.split()))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (0, "0"),
        (True, "yes"),
        (["a", "b"], "a,b"),
        (1.5, "1.500"),
    ],
    ids=repr,
)
def test_a_cell_shows_what_there_is(value: object, text: str) -> None:
    assert cell("k")({"k": value}) == text
    assert cell("k")({}) == "-"
