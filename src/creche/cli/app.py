"""The application: which commands there are, and what happens to an error that leaves one.

Everything here is loaded by `creche --help`, so it imports no command and nothing of the rooms
below but errors. A command returns its exit code, or None when it is done.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from cyclopts import App, CycloptsError, Group

from creche.cli.exits import Exit, blamed, exit_of, lines_of
from creche.cli.output import say
from creche.cli.settings import mistyped, sources
from creche.cli.usage import help_hint, near, usage_line
from creche.errors import SettingsError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RUN = Group("Run", sort_key=1)
_JOBS = Group("Jobs", sort_key=2)
_LOOK = Group("Look", sort_key=3)
_KEEP = Group("Keep and measure", sort_key=4)

# name, where it is, its line in the help, its group. A command's own help has the whole of it.
_COMMANDS: tuple[tuple[str, str, str, Group], ...] = (
    ("control-plane", "control_plane:control_plane", "Run the plane, workers and page.", _RUN),
    ("worker", "worker:worker", "Run jobs for a plane.", _RUN),
    ("gui", "gui:gui", "Serve the live page of a plane.", _RUN),
    ("demo", "demo:demo", "Index Python's standard library, one job a file.", _RUN),
    ("submit", "submit:submit", "Run a task and print its result.", _JOBS),
    ("status", "jobs:status", "Show one job.", _JOBS),
    ("result", "jobs:result", "Wait for a job and print its result.", _JOBS),
    ("cancel", "jobs:cancel", "Cancel a job.", _JOBS),
    ("jobs", "jobs:app", "List jobs, look at them, and act on many.", _JOBS),
    ("dead", "dead:app", "Look after jobs that ended without a result.", _JOBS),
    ("schedules", "schedules:app", "Have jobs submitted at their times.", _JOBS),
    ("list", "tasks:list_tasks", "List the tasks that workers have announced.", _LOOK),
    ("queues", "queues:app", "List, pause and limit queues.", _LOOK),
    ("workers", "workers:app", "List, drain, resize and stop workers.", _LOOK),
    ("top", "top:top", "Watch the plane as it works.", _LOOK),
    ("events", "events:events", "Print what happens, as it happens.", _LOOK),
    ("health", "health:health", "Ask whether the plane is well.", _LOOK),
    ("store", "store:app", "Look after a store file.", _KEEP),
    ("tokens", "tokens:app", "Make tokens, and take them away.", _KEEP),
    ("bench", "bench:bench", "Measure this machine: jobs a second, latency, CPU a job.", _KEEP),
)  # fmt: skip


_ALSO = "subworker"
"""FastWorker's second name for `worker`; one line in the help is enough."""

_NAMES = frozenset({_ALSO, *(name for name, *_ in _COMMANDS)})

_USAGE = {"submit": "Usage: creche submit [OPTIONS] TASK [ARGS...]"}
"""Where it cannot be told from the signature: FastWorker gives the task as an option."""


def version() -> str:
    """Return the installed version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return f"creche {installed('creche')}"
    except PackageNotFoundError:  # run from a source folder that was never installed
        return "creche (not installed)"


def make_app(chosen: str | None = None) -> App:
    """Return the application, with commands that are imported when they are called.

    *chosen* is the command that will be: its help is its own, and not the one line listed here.
    """
    app = App(
        name="creche",
        help="Background jobs for Python, with nothing to install beside it.",
        help_epilogue="An option such as --store is also CRECHE_STORE, and store in creche.toml.",
        version=version,
        # Markdown wraps a docstring's lines anew; loading its renderer is a third of the time that
        # `creche --help` may take, so the list of commands does without.
        help_format="markdown" if chosen in _NAMES else "plaintext",
        backend="trio",
    )
    for name, place, line, group in _COMMANDS:
        text = None if name == chosen else line
        more = {"usage": _USAGE[name]} if name in _USAGE else {}
        app.command(f"creche.cli.{place}", name=name, help=text, group=group, **more)
    app.command("creche.cli.worker:worker", name=_ALSO, show=False)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Errors become lines on stderr."""
    try:
        words, given = _leading_options(arguments)
        _check_command(words)
        app = make_app(words[0] if words else None)
        app.config = sources(given)
        _check_environment(words)
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        if sys.stdout is not None:  # closed before we began
            sys.stdout.flush()
    except CycloptsError as error:
        say("error", usage_line(error))
        say("hint", help_hint(error))
        return Exit.USAGE
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else Exit.DONE
    except BaseException as error:
        return _report(error)
    return code if isinstance(code, int) else Exit.DONE


def main() -> NoReturn:
    """Run the command line of this process, and end it with the command's exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _named(sys.stdout)
    # What a task returned may hold what the terminal's encoding has not.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    if code == Exit.INTERRUPTED:
        # Ended by the signal itself, as a shell expects of what it runs in a loop.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(code)


_STDOUT = "stdout"


class _Stdout(io.FileIO):
    """Standard output whose errors say that it is it."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = _STDOUT
            raise


def _named(stdout: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return *stdout* once more, made of a `_Stdout` and buffered as it is."""
    raw = _Stdout(stdout.fileno(), "wb", closefd=False)
    is_buffered = isinstance(stdout.buffer, io.BufferedWriter)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if is_buffered else raw,
        stdout.encoding,
        line_buffering=stdout.line_buffering,
        write_through=stdout.write_through,
    )


def _report(error: BaseException) -> Exit:
    cause = blamed(error)
    for line in lines_of(cause, whole=error):
        say("", line)
    if isinstance(cause, BrokenPipeError) or getattr(cause, "filename", None) == _STDOUT:
        # Python flushes stdout once more at the end, and would tell of it a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return exit_of(cause)


def _leading_options(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split off what FastWorker has before the command: ``--log-level LEVEL``."""
    words = list(arguments)
    given: dict[str, str] = {}
    while words and words[0].partition("=")[0] == "--log-level":
        name, equals, value = words.pop(0).partition("=")
        if not equals:
            if not words:
                raise SettingsError(f"{name} needs a value: `creche {name} info COMMAND`")
            value = words.pop(0)
        given[name] = value
    return words, given


_BY_A_PLANE = frozenset({"--parent-pipe", "--check"})
"""What only a process of ours says to another, which has looked at the environment itself."""


def _check_environment(words: Sequence[str]) -> None:
    if words and words[0] in _NAMES and not _BY_A_PLANE & set(words):
        for sentence in mistyped(os.environ):
            say("warning", sentence)


_OWN = ("--help", "-h", "--version")


def _check_command(words: Sequence[str]) -> None:
    # Left to cyclopts, finding out which commands there are would load them all.
    if not words or words[0] in _NAMES or words[0] in _OWN:
        return
    what = "option" if words[0].startswith("-") else "command"
    hint = near(words[0], [*_NAMES, *_OWN]) or ": `creche --help` lists them"
    raise SettingsError(f"there is no {what} {words[0]!r}{hint}")
