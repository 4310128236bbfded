"""What the rooms below say of a parameter, said of the option that a person typed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from creche.errors import (
    DuplicateJob,
    InvalidArguments,
    Refused,
    SettingsError,
    TaskDefinitionError,
)

_QUOTED = r"'[^']*'|\"[^\"]*\""
_ENGLISH = {"at": r"at(?==|\)| is\b| (?:both|all) say\b)"}
"""Parameters whose names are words of every sentence, and what follows where they are meant."""


def in_options(sentence: str, options: Mapping[str, str]) -> str:
    """Return *sentence* with the parameters that *options* has spelled as these: ``eta=X`` becomes
    ``--eta X``, and ``eta`` becomes ``--eta``. What is in quotes is somebody's own text, and stays.
    """
    names = "|".join(_ENGLISH.get(name, name) for name in sorted(options, key=len, reverse=True))
    pattern = re.compile(
        rf"(?<![-\w])(?P<name>{names})\b(?:=(?P<value>{_QUOTED}|[^\s,:;)]+))?|{_QUOTED}"
    )

    def spelled(found: re.Match[str]) -> str:
        if found["name"] is None:
            return found[0]
        value = found["value"]
        if value is None:
            return options[found["name"]]
        bare = value.strip("'\"")
        return f"{options[found['name']]} {value if ' ' in bare else bare}"

    return pattern.sub(spelled, sentence)


@contextmanager
def spelled_as(options: Mapping[str, str], *faults: type[Exception]) -> Iterator[None]:
    """Have what is wrong with a parameter said in the words of the command line; *faults* are other
    errors that say so.

    Raises:
        SettingsError: in the place of what says so of the parameters.
        Refused: the plane has said so.
    """
    wrong: tuple[type[Exception], ...] = (TaskDefinitionError, InvalidArguments, *faults)
    try:
        yield
    except DuplicateJob:  # which is no fault of a parameter, and says which job it is
        raise
    except Refused as refused:
        raise Refused(refused.code, in_options(refused.why, options)) from None
    except wrong as error:
        raise SettingsError(in_options(str(error), options)) from None


def names_of(*parameters: str, **other: str) -> dict[str, str]:
    """Return the options of *parameters*, which are called as these are, and of *other* ones."""
    named = dict.fromkeys(parameters, "") | other
    return {name: f"--{(option or name).replace('_', '-')}" for name, option in named.items()}
