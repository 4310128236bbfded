"""What is asked before much is changed, and how many jobs that would be."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from creche.cli.filters import read_filter
from creche.cli.options import FLAG
from creche.cli.output import say
from creche.errors import BadFilter, SettingsError
from creche.model.filter import Filter

All: TypeAlias = Annotated[
    bool, FLAG, Parameter(name="--all", show_env_var=False, help="All of them.")
]
Yes: TypeAlias = Annotated[
    bool, FLAG, Parameter(name=("--yes", "-y"), show_env_var=False, help="Do not ask before.")
]
DryRun: TypeAlias = Annotated[
    bool, FLAG, Parameter(show_env_var=False, help="Only say how many jobs it would be.")
]

_ID = re.compile(r"[0-9a-fA-F]{32}")


def ids_or_filter(words: Sequence[str], *, is_all: bool, what: str) -> list[str] | Filter:
    """Return the ids that *words* are, or the filter that they make; without any, `--all` has to
    be said. A blank word is none: a shell writes it for a variable that is not set.

    Raises:
        SettingsError: nothing is named, or ids and terms of a filter are mixed.
        BadFilter: it is no filter.
    """
    words = [word for word in words if word.strip()]
    ids = [word for word in words if _ID.fullmatch(word.replace("-", ""))]
    if ids and len(ids) == len(words) and not is_all:
        return ids
    if ids:
        raise SettingsError("name ids, or write a filter, or give --all: one of them")
    if is_all and words:
        raise SettingsError("--all means all of them: leave the filter out, or --all")
    if not words and not is_all:
        every = "" if what == "wait for" else f", or give --all to {what} all"
        raise SettingsError(f"which jobs? Name ids, or write a filter{every}")
    try:
        return read_filter(words)
    except BadFilter as error:
        if any(":" in word for word in words):
            raise
        why = f"{error.why}; an id has 32 hexadecimal digits"
        raise BadFilter(error.text, error.position, why) from None


def is_sure(question: str, is_said: bool) -> bool:
    """Whether a person agrees, by ``--yes`` or asked on the terminal.

    Raises:
        SettingsError: nobody is there to be asked, and it was not said before.
    """
    if is_said:
        return True
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        raise SettingsError(f"{question} Say so with --yes: there is no terminal to ask on")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    say("", "nothing was done")
    return False
