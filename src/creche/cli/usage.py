"""What is said about a wrong command line or setting: what it is, where it stands, what to do."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from cyclopts import Argument, CycloptsError, Token
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)


def usage_line(error: CycloptsError) -> str:
    """Return one sentence about a wrong command line or setting; a setting's source is named."""
    match error:
        case UnknownOptionError():
            return _unknown_option(error)
        case UnknownCommandError():
            return _unknown_command(error)
        case UnusedCliTokensError():
            return _too_many(error)
        case MissingArgumentError():
            return _missing(error)
        case RepeatArgumentError():
            return f"{error.token.keyword} is there more than once: give it once"
        case CoercionError():
            return _unusable(error)
        case _:
            text = " ".join(str(error).split())
            return text[:1].lower() + text[1:]


def help_hint(error: CycloptsError) -> str:
    """Return where to read what the command takes; of a term of a filter that was taken for an
    option, where it may stand."""
    if isinstance(error, UnknownOptionError) and _is_term(word := error.token.value):
        return f"what begins with a minus stands behind two: `{_command(error)} -- '{word}'`"
    return f"`{_command(error)} --help` lists what there is"


def _is_term(word: str) -> bool:
    return re.fullmatch(r"-[a-z]+:.*", word, re.DOTALL) is not None


def near(name: str, names: Any) -> str:
    """Return " (did you mean ...?)" if one of *names* is like *name*, else nothing."""
    found = get_close_matches(name, sorted(names), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _command(error: CycloptsError) -> str:
    return " ".join(("creche", *(error.command_chain or ())))


def _unknown_option(error: UnknownOptionError) -> str:
    if _is_term(error.token.value):
        return f"`{_command(error)}` has no option {error.token.value}"
    word = (error.token.keyword or error.token.value).partition("=")[0]
    shown = [
        name
        for argument in error.argument_collection
        if argument.parse and argument.show
        for name in argument.names
        if name.startswith("--")
    ]
    return f"`{_command(error)}` has no option {word}{near(word, shown)}"


def _unknown_command(error: UnknownCommandError) -> str:
    # Of a group, such as `jobs`: the first word has been looked at before.
    word = (error.unused_tokens or [""])[0]
    names = [name for name in error.app or () if not name.startswith("-")]
    what = "option" if word.startswith("-") else "command"
    return f"`{_command(error)}` has no {what} {word}{near(word, names)}"


def _too_many(error: UnusedCliTokensError) -> str:
    words = error.unused_tokens or []
    count = "one argument" if len(words) == 1 else f"{len(words)} arguments"
    return f"{count} too many for `{_command(error)}`: {', '.join(map(repr, words))}"


def _missing(error: MissingArgumentError) -> str:
    argument = error.argument
    assert argument is not None
    keyword = error.keyword or next((t.keyword for t in argument.tokens if t.keyword), None)
    metavar = argument.parameter.metavar
    if keyword is not None:
        value = metavar if isinstance(metavar, str) else "VALUE"
        return f"{keyword} needs a value: `{_command(error)} {keyword} {value}`"
    name = positional_name(argument)
    about = " ".join((argument.parameter.help or "").split()).partition(". ")[0].rstrip(".")
    about = f": {about[:1].lower()}{about[1:]}" if about else ""
    # What stands before it was given, or it would be the one that is missing.
    ahead = "... " if argument.index else ""
    return f"{name} is missing, as in `{_command(error)} {ahead}{name}`{about}"


def positional_name(argument: Argument) -> str:
    """Return what the help calls an argument that is given by its place."""
    return argument.name.lstrip("-").upper()


def _unusable(error: CoercionError) -> str:
    token = error.token
    if token is None and error.argument is not None and error.argument.tokens:
        token = error.argument.tokens[0]
    why = str(error.msg) if error.msg is not None else _expected(error, token)
    place = place_of(token.keyword, token.source) if token is not None and token.keyword else None
    if place is None:
        place = positional_name(error.argument) if error.argument is not None else "an argument"
    # What a converter of ours says of the value itself begins with "it".
    return f"{place} {why.removeprefix('it ')}" if why.startswith("it ") else f"{place}: {why}"


def place_of(keyword: str, source: str) -> str:
    """Return which option it is, and where it was written if not on the command line."""
    return keyword if source in ("", "cli") else f"{keyword} ({source})"


def _expected(error: CoercionError, token: Token | None) -> str:
    kind = error.target_type
    if get_origin(kind) is Literal:
        what = f"one of {', '.join(map(str, get_args(kind)))}"
    else:
        what = _KINDS.get(kind, getattr(kind, "__name__", str(kind)))
    given = f", and not {token.value!r}" if token is not None else ""
    return f"it takes {what}{given}"


_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
