"""Data on stdout, everything else on stderr; nothing is cut and nothing obeyed."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys

import pytest

from creche.cli.logs import _Lines
from creche.cli.output import (
    bytes_text,
    moment_text,
    print_facts,
    print_json,
    printable,
    say,
)


def test_a_json_document_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": b"x"})
    out, _ = capsys.readouterr()
    assert json.loads(out) == {"v": 1, "a": "eA=="}
    assert out.count("\n") == 1


def test_facts_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("a", "1"), ("long", "2"), ("none", "")])
    assert capsys.readouterr().out == "a     1\nlong  2\nnone\n"


def test_a_fact_that_is_long_is_broken_between_words_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = [("latency", "12 ms and 13 ms (all submitted at once)"), ("", "1 ms (one by one)")]
    print_facts(facts)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "33")
    print_facts(facts)
    assert capsys.readouterr().out.splitlines() == [
        "latency  12 ms and 13 ms (all submitted at once)",
        "         1 ms (one by one)",
        "latency  12 ms and 13 ms (all",
        "         submitted at once)",
        "         1 ms (one by one)",
    ]


def test_a_log_line_is_broken_between_words_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "worker w is connected, listening on default"
    record = logging.LogRecord("creche.worker", logging.WARNING, "", 1, text, None, None)
    assert _Lines(is_coloured=False).format(record)[8:] == f" warning worker: {text}"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    first, second = _Lines(is_coloured=True).format(record).splitlines()
    assert first[8:] == " \x1b[33mwarning\x1b[0m worker: worker w is"
    assert second == "  connected, listening on default"


def test_what_is_said_goes_to_stderr_without_colour_when_piped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("error", "no: never")
    say("", "plain: text")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: no: never\nplain: text\n"


def test_a_sentence_is_broken_between_words_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "there is no room for all of these words"
    say("error", sentence)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    say("error", sentence)
    say("", "a line of a traceback stays as it is")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    say("error", "x")
    assert capsys.readouterr().err.splitlines() == [
        f"error: {sentence}",
        "error: there is no",
        "  room for all of",
        "  these words",
        "a line of a traceback stays as it is",
        "\x1b[1;31merror:\x1b[0m x",
    ]


def test_a_terminal_that_is_closed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    say("error", "nobody hears this")


def test_control_characters_of_others_are_written_out() -> None:
    assert printable("a\x1b[31mb\nc\té") == "a\\x1b[31mb\\nc\\té"


def test_what_is_said_of_others_commands_no_terminal_and_keeps_its_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, text in [("error", "job x failed: V: a\x1b[2Jb"), ("", "a\n\tb\x07\r\x9bc")]:
        say(kind, text)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    say("error", "queue 'a\x1b]0;mine\x07'")
    assert capsys.readouterr().err.splitlines() == [
        "error: job x failed: V: a\\x1b[2Jb",
        "a",
        "\tb\\x07\\r\\x9bc",
        "\x1b[1;31merror:\x1b[0m queue 'a\\x1b]0;mine\\x07'",
    ]


def test_a_log_line_commands_no_terminal() -> None:
    record = logging.LogRecord("creche.plane", logging.INFO, "", 1, "a\x1b[2J\nb", None, None)
    assert _Lines(is_coloured=False).format(record)[8:] == " info plane: a\\x1b[2J\nb"


def test_sizes_and_moments_are_for_people() -> None:
    assert [bytes_text(n) for n in (None, 5, 2048, 3 * 1024**2, 5 * 1024**4)] == [
        *("-", "5 B", "2.0 KiB", "3.0 MiB", "5120.0 GiB")
    ]
    assert moment_text(None) == "-"
    assert moment_text(0.0)[-6] in "+-"  # always with its offset
    assert len(moment_text(0.0, is_short=True)) == len("1970-01-01 00:00")
