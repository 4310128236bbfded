"""Which exit code an error leads to, and what is said about it."""

from __future__ import annotations

import pytest

from creche import errors
from creche.cli.exits import Exit, blamed, exit_of, lines_of

FAILED = errors.JobFailed("id", "ValueError", "no", "Traceback ...\nValueError: no", ["a note"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingsError("x"), 2),
        (errors.TaskLoadError("x"), 2),
        (errors.InvalidArguments("x"), 2),
        (errors.NotEncodable("args[0]", "x"), 2),
        (errors.ListenError("x"), 2),
        (errors.StoreUnusable("x"), 2),
        (errors.StoreLocked("x", 1), 2),
        (errors.StoreFull("x"), 1),
        (errors.UnknownJob("x"), 3),
        (errors.ResultForgotten("x"), 3),
        (errors.PlaneUnreachable("ws://x", "y"), 4),
        (errors.Refused("credential", "x"), 5),
        (errors.ResultTimeout("x", 1.0), 6),
        (errors.SubmitTimeout("x"), 6),
        (FAILED, 1),
        (errors.SubmissionRefused("full", "x"), 1),
        (errors.JobCancelled("x", "y"), 7),
        (errors.JobLost("x", "y"), 7),
        (errors.JobEnded("x", "y"), 7),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_error_leads_to_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_of(error) == code


@pytest.mark.parametrize(
    "code", ["bad-delay", "bad-delivery", "bad-headers", "bad-key", "bad-limits", "bad-retry"]
)
def test_a_submission_that_says_what_cannot_be_is_a_mistake_of_the_command_line(code: str) -> None:
    assert exit_of(errors.SubmissionRefused(code, "x")) == Exit.USAGE


def test_an_error_is_one_line_without_a_traceback() -> None:
    assert lines_of(errors.SettingsError("it is wrong")) == ["error: it is wrong"]


def test_a_failed_job_shows_the_remote_traceback_and_its_notes() -> None:
    assert lines_of(FAILED) == [
        "Traceback ...",
        "ValueError: no",
        "error: job id failed: ValueError: no",
        "note: a note",
    ]


def test_a_failed_job_without_frames_is_told_once() -> None:
    error = errors.JobFailed("id", "creche.Odd", "a\nb", "creche.Odd: a\nb\n")
    assert lines_of(error) == ["error: job id failed: creche.Odd: a\nb"]


def test_an_interrupt_and_a_broken_pipe_are_not_talked_about() -> None:
    assert lines_of(KeyboardInterrupt()) == []
    assert lines_of(BrokenPipeError()) == []


def test_a_bug_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(TypeError("x"))[0] == "error: this is a bug in creche: TypeError: x"
    assert "CRECHE_DEBUG" in lines_of(TypeError("x"))[1]
    try:
        raise TypeError("x")
    except TypeError as error:
        monkeypatch.setenv("CRECHE_DEBUG", "1")
        lines = lines_of(error)
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "error: this is a bug in creche: TypeError: x"


def test_a_process_without_memory_blames_no_bug() -> None:
    (line,) = lines_of(MemoryError())
    assert line.startswith("error: there is no more memory for this process")
    assert exit_of(MemoryError()) is Exit.FAILED


def test_of_a_group_the_interrupt_counts_then_a_bug_then_the_first() -> None:
    told, bug, stop = errors.SettingsError("x"), TypeError("y"), KeyboardInterrupt()
    assert blamed(told) is told
    assert blamed(ExceptionGroup("", [told, errors.UnknownJob("z")])) is told
    assert blamed(ExceptionGroup("", [told, ExceptionGroup("", [bug])])) is bug
    assert blamed(BaseExceptionGroup("", [told, bug, BaseExceptionGroup("", [stop])])) is stop


def test_signals_have_the_shells_codes() -> None:
    assert (Exit.INTERRUPTED, Exit.TERMINATED, Exit.BROKEN_PIPE) == (130, 143, 141)
    assert Exit.HUNG_UP == 129
