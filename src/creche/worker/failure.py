"""How an exception in a body becomes a `Failure`: text that a person can read elsewhere.

Whatever a task raises passes through here, so nothing in here may raise: an exception's own
methods are the user's code, and may be broken.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from types import TracebackType

from creche.errors import CrecheError
from creche.model.failure import Failure

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_WORKER = _OURS + "worker" + os.sep
_BODIES = _OURS + "cli" + os.sep
"""Where the tasks of the demo and the bench are: bodies like any user's."""


def failure_of(error: BaseException) -> Failure:
    """Return *error* as plain data: its traceback begins at the user's function, and, if Creche
    raised it on purpose, ends there too."""
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
        return "".join(traceback.format_exception(type(error), error, _users_part(error)))
    except BaseException as broken:
        # A cause, a note or a class with broken methods of its own.
        return f"{type_name(error)} (its traceback cannot be shown: {type(broken).__name__})\n"


def _users_part(error: BaseException) -> TracebackType | None:
    """Return the traceback of *error* without the frames of ours that lead to the user's function,
    and without those behind it where the sentence says it all."""
    frames = list(_each(error.__traceback__))
    is_on_purpose = isinstance(error, CrecheError)
    users = [i for i, tb in enumerate(frames) if not _is_ours(tb)]
    if users:
        frames = frames[users[0] : users[-1] + 1 if is_on_purpose else None]
    elif is_on_purpose:
        frames = []
    else:  # a bug of ours, which cannot be found without its frames
        frames = [tb for tb in frames if not _file(tb).startswith(_WORKER)]
    part: TracebackType | None = None
    for tb in reversed(frames):
        part = TracebackType(part, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    return part


def _each(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _file(tb: TracebackType) -> str:
    return tb.tb_frame.f_code.co_filename


def _is_ours(tb: TracebackType) -> bool:
    return _file(tb).startswith(_OURS) and not _file(tb).startswith(_BODIES)


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
