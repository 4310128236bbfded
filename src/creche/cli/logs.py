"""Log lines of long-running commands: calm, on stderr, one format for every process."""

from __future__ import annotations

import logging
import sys
import time

from creche.cli.output import has_colour, printable_lines, wrapped
from creche.model.access import redacted

_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


class _Lines(logging.Formatter):
    """``12:04:31 warning worker: text``, broken between words on a terminal; with the traceback, if
    there is one. Secrets of tokens are left out, whoever logs them."""

    def __init__(self, *, is_coloured: bool) -> None:
        super().__init__()
        self._is_coloured = is_coloured

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = record.levelname.lower()
        room = record.name.removeprefix("creche.")
        said = record.getMessage()
        if room != record.name:  # we name what others chose; what they log is theirs
            said = printable_lines(said)
        text = wrapped(f"{clock} {level} {room}: {said}", sys.stderr)
        colour = _COLOURS.get(record.levelno)
        if self._is_coloured and colour is not None:
            # Afterwards: colours take no columns.
            text = text.replace(level, f"\x1b[{colour}m{level}\x1b[0m", 1)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return redacted(text)


def set_up(level: str) -> None:
    """Send log lines of *level* (``debug``, ``info``, ``warning``, ``error``) and above to stderr.

    Other libraries are heard from warnings on, unless all is to be debugged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(is_coloured=has_colour(sys.stderr)))
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if number == logging.DEBUG else max(number, logging.WARNING))
    logging.getLogger("creche").setLevel(number)
