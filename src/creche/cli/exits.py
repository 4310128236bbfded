"""What a command's exit code means, and which error leads to which.

A user never sees a traceback of ours: an error that Creche reports on purpose is a line or two, and
a bug says that it is one. The remote traceback of a failed job is the user's own, and is shown.
"""

from __future__ import annotations

import os
import signal
import traceback
from enum import IntEnum

from creche import errors


class Exit(IntEnum):
    """The exit codes of every command; `docs/` and scripts count on the numbers."""

    DONE = 0
    FAILED = 1
    """A task or an operation failed."""
    USAGE = 2
    """The command line, a setting, the user's task modules, or the store cannot work."""
    UNKNOWN_ID = 3
    UNREACHABLE = 4
    REFUSED = 5
    WAITED_OUT = 6
    """The wait ran out; the job goes on."""
    CANCELLED = 7
    """The job was cancelled, lost or expired."""
    HUNG_UP = 128 + signal.SIGHUP
    """Its terminal was closed, where that was not waited for."""
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM
    BROKEN_PIPE = 128 + signal.SIGPIPE
    """Whoever read our stdout has left; nothing is said about it, as with other commands."""


_BY_ERROR: tuple[tuple[type[errors.CrecheError], Exit], ...] = (
    # The first that fits counts, so a subclass stands before its base.
    (errors.DefinitionError, Exit.USAGE),
    (errors.InvalidArguments, Exit.USAGE),
    (errors.NotEncodable, Exit.USAGE),
    (errors.TooLarge, Exit.USAGE),
    (errors.ListenError, Exit.USAGE),
    (errors.StoreFull, Exit.FAILED),
    (errors.StoreError, Exit.USAGE),
    (errors.NotTrusted, Exit.REFUSED),
    (errors.PlaneUnreachable, Exit.UNREACHABLE),
    (errors.UnknownJob, Exit.UNKNOWN_ID),
    (errors.UnknownSchedule, Exit.UNKNOWN_ID),
    (errors.UnknownToken, Exit.UNKNOWN_ID),
    (errors.ResultTimeout, Exit.WAITED_OUT),
    (errors.SubmitTimeout, Exit.WAITED_OUT),
    (errors.JobFailed, Exit.FAILED),
    (errors.JobEnded, Exit.CANCELLED),
)

_BY_REFUSAL = {
    "credential": Exit.REFUSED,
    "forbidden": Exit.REFUSED,
    "bad-delay": Exit.USAGE,
    "bad-delivery": Exit.USAGE,
    "bad-headers": Exit.USAGE,
    "bad-key": Exit.USAGE,
    "bad-limits": Exit.USAGE,
    "bad-question": Exit.USAGE,
    "bad-queue": Exit.USAGE,
    "bad-retry": Exit.USAGE,
    "bad-schedule": Exit.USAGE,
    "bad-task": Exit.USAGE,
    "unknown-queue": Exit.UNKNOWN_ID,
    "unknown-schedule": Exit.UNKNOWN_ID,
    "unknown-worker": Exit.UNKNOWN_ID,
}
"""By the code of what a plane refuses; other refusals are failures."""


def exit_of(error: BaseException) -> Exit:
    """Return the exit code for what ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return Exit.BROKEN_PIPE
    if isinstance(error, errors.Refused) and error.code in _BY_REFUSAL:
        return _BY_REFUSAL[error.code]
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code
    return Exit.FAILED


def blamed(error: BaseException) -> BaseException:
    """Return the one error to report of what may be a group: an interrupt before all others, a
    bug before what Creche raises on purpose (which is then only what the bug led to)."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return leaf
    for leaf in leaves:
        if not isinstance(leaf, errors.CrecheError | BrokenPipeError):
            return leaf
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def lines_of(error: BaseException, *, whole: BaseException | None = None) -> list[str]:
    """Return what to print on stderr about *error*; nothing for an interrupt or a broken pipe.

    *whole* is what *error* was found in: with CRECHE_DEBUG its traceback is shown as well.
    """
    if isinstance(error, KeyboardInterrupt | BrokenPipeError):
        return []
    lines: list[str] = []
    if os.environ.get("CRECHE_DEBUG"):
        lines += "".join(traceback.format_exception(whole or error)).splitlines()
    if isinstance(error, errors.JobFailed):
        notes = getattr(error, "__notes__", ())
        remote = error.traceback.strip()
        if remote != "\n".join((f"{error.type}: {error.message}", *notes)):
            lines += remote.splitlines()  # without frames it says nothing more
        lines.append(f"error: {error}")
        lines += [f"note: {note}" for note in notes]
    elif isinstance(error, errors.CrecheError):
        lines.append(f"error: {error}")
        if isinstance(error, errors.JobCancelled):
            lines += [f"note: {note}" for note in getattr(error, "__notes__", ())]
    elif isinstance(error, OSError):
        lines.append(f"error: {_os_error(error)}")
    elif isinstance(error, MemoryError):
        lines.append(
            "error: there is no more memory for this process, by a limit or on the machine"
        )
    else:
        what = "".join(traceback.format_exception_only(error)[-1:]).strip()
        lines.append(f"error: this is a bug in creche: {what}")
        if not os.environ.get("CRECHE_DEBUG"):
            lines.append("hint: CRECHE_DEBUG=1 shows where it happened")
    return lines


def _os_error(error: OSError) -> str:
    why = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {why}" if error.filename else why
