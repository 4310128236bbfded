"""How an exception in a body becomes a `Failure`: text that a person can read elsewhere.

Whatever a task raises passes through here, so nothing in here may raise: an exception's own
methods are the user's code, and may be broken.
"""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from creche.model.failure import Failure

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


def failure_of(error: BaseException) -> Failure:
    """Return *error* as plain data: its traceback begins at the user's function."""
    return Failure(
        type=type_name(error),
        message=_sendable(_message(error)),
        traceback=_sendable(_traceback(error)),
        notes=_notes(error),
    )


def type_name(error: BaseException) -> str:
    """Return the dotted name of an exception's class, without ``builtins``."""
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    return _sendable(name)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"(its __str__ raised {type(broken).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
        return "".join(lines)
    except BaseException as broken:
        # A cause, a note or a class with broken methods of its own.
        return f"{type_name(error)} (its traceback cannot be shown: {type(broken).__name__})\n"


def _users_part(tb: TracebackType | None) -> TracebackType | None:
    """Return *tb* without the frames that lead from this package to the user's function."""
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OURS):
        tb = tb.tb_next
    return tb


def _notes(error: BaseException) -> tuple[str, ...]:
    try:
        notes = getattr(error, "__notes__", None)
        if not isinstance(notes, list | tuple):
            return ()
        return tuple(_sendable(str(note)) for note in notes)
    except BaseException:
        return ()


def _sendable(text: str) -> str:
    """Return *text* with what UTF-8 cannot carry (lone surrogates) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
