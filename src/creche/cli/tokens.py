"""`creche tokens`: the tokens that a plane knows, in the file that it was given."""

from __future__ import annotations

import os
import re
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

from cyclopts import App, Parameter
from cyclopts import Token as Word

from creche.cli.exits import Exit
from creche.cli.options import Json, Names
from creche.cli.output import print_json, say
from creche.cli.table import Column, Narrow, Row, cell, print_table
from creche.cli.tokens_file import change_tokens, kept_in, load_tokens
from creche.errors import SettingsError, UnknownToken
from creche.model.access import (
    ID_BYTES,
    SECRET_BYTES,
    AccessRole,
    BadToken,
    Token,
    check_queues,
    digest_of,
    holds_token,
    new_word,
    patterns_in,
    role_names,
    roles_in,
    without,
)

app = App(name="tokens", help="Make tokens, and take them away.")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_TTL_S = 36_500 * 86_400
"""How long a token may be valid that does not stay so for ever: a hundred years."""

_TTL = re.compile(r"([0-9]{1,9})([smhd])")

_COLUMNS = (
    Column("ID", cell("id")),
    Column("ROLES", cell("roles")),
    Column("QUEUES", cell("queues"), narrow=Narrow.FOLDED),
    Column("EXPIRES", cell("expires"), 1),
    Column("NOTE", cell("note"), 2, Narrow.CUT),
)


def _ttl(type_: Any, tokens: list[Word]) -> float:
    text = tokens[0].value.strip()
    found = _TTL.fullmatch(text)
    if found is None or not int(found[1]):
        raise ValueError(f"it takes a time above 0, as in 30d, 12h, 45m or 90s, and not {text!r}")
    ttl_s = int(found[1]) * _UNITS[found[2]]
    if ttl_s > MAX_TTL_S:
        most = f"{MAX_TTL_S // _UNITS['d']}d"
        raise ValueError(f"it takes a time of at most {most}; left out, it is valid for ever")
    return float(ttl_s)


TokensFile: TypeAlias = Annotated[
    str | None, Parameter(name="--tokens", metavar="FILE", help="The plane's file of tokens.")
]


@app.command
def new(
    *,
    role: Annotated[Names | None, Parameter(show_env_var=False, metavar="ROLE")] = None,
    queues: Annotated[Names | None, Parameter(show_env_var=False)] = None,
    ttl: Annotated[
        float | None, Parameter(converter=_ttl, show_env_var=False, metavar="TIME")
    ] = None,
    note: Annotated[str, Parameter(show_env_var=False, metavar="TEXT")] = "",
    out: Annotated[str | None, Parameter(show_env_var=False, metavar="FILE")] = None,
    tokens: TokensFile = None,
    as_json: Json = False,
) -> int:
    """Make a token and print it. That is the only time: the file keeps a hash of it.

    Args:
        role: What it is for: view, submit, work, operate, admin; or several of them.
        queues: The queues that a token for submit or work is for: names, or patterns as mail.*;
            all when not given.
        ttl: How long it is valid: 30d, 12h, 45m; for ever when not given.
        note: What `creche tokens ls` shows beside it.
        out: A new file for it, which only its user can read; printed when not given.
    """
    path = _path(tokens)
    if role is None:
        every = ", ".join(each.value for each in AccessRole)
        raise SettingsError(f"what is it for? --role says it: {every}")
    for option, texts in (("--note", [note]), ("--queues", queues or [])):
        if any(map(holds_token, texts)):
            raise SettingsError(
                f"{option} holds a token, which would be kept as it is: leave it out"
            )
    token_id, word = new_word(os.urandom(ID_BYTES + SECRET_BYTES))
    try:
        roles = roles_in(role)
        patterns = None if queues is None else patterns_in(queues)
        check_queues(roles, patterns)
    except BadToken as error:
        raise SettingsError(str(error)) from None
    expires_at = None if ttl is None else float(round(time.time() + ttl))
    token = Token(token_id, digest_of(word), roles, patterns, expires_at, note)

    def add(text: str, known: Any) -> str:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}{token.as_line()}\n"

    with nullcontext() if out is None else kept_in(out, word):
        change_tokens(path, add)
    if as_json:
        secret = {"token": word} if out is None else {"token_file": out}
        print_json({**_shown(token), **secret})
    elif out is not None:
        say("", f"token {token_id} is in {path}; its word is in {out}, and nowhere else")
    else:
        print(word)
        say("", f"token {token_id} is in {path}; it is shown this once")
    return Exit.DONE


@app.command(name="ls")
def ls(*, tokens: TokensFile = None, as_json: Json = False) -> int:
    """List the tokens; their secrets are known to nobody but those who were given them."""
    known = load_tokens(_path(tokens))
    if as_json:
        print_json({"tokens": [_shown(token) for token in known.values()]})
    else:
        now = time.time()
        rows = (_row(token, now) for token in known.values())
        print_table(_COLUMNS, rows, empty="no tokens: `creche tokens new` makes one")
    return Exit.DONE


@app.command
def revoke(
    token_id: Annotated[str, Parameter(name="ID", show_env_var=False)],
    /,
    *,
    tokens: TokensFile = None,
) -> int:
    """Take a token away: within seconds the plane ends the connections that use it.

    Args:
        token_id: Its id, as `creche tokens ls` shows it; the token itself does as well.
    """
    path = _path(tokens)
    load_tokens(path)  # which is not made here
    wanted = token_id.removeprefix("creche_").partition("_")[0]

    def remove(text: str, known: Any) -> str:
        if wanted not in known:
            some = ", ".join(list(known)[:10]) or "none"
            raise UnknownToken(f"{path} has no token {wanted[:40]!r}: there are {some}")
        return without(text, wanted)

    change_tokens(path, remove)
    say("", f"token {wanted} is taken away")
    return Exit.DONE


def _path(tokens: str | None) -> str:
    if tokens is None:
        raise SettingsError("which file? --tokens FILE names it, as for `creche control-plane`")
    return tokens


def _shown(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "roles": role_names(token.roles),
        "queues": None if token.queues is None else list(token.queues),
        "expires_at": token.expires_at,
        "note": token.note,
    }


def _row(token: Token, now: float) -> Row:
    expires = "never"
    if token.expires_at is not None:
        moment = datetime.fromtimestamp(token.expires_at, UTC).strftime("%Y-%m-%d %H:%MZ")
        expires = f"{moment}, over" if token.is_over(now) else moment
    return {
        "id": token.id,
        "roles": ", ".join(role_names(token.roles)),
        "queues": "all" if token.queues is None else ", ".join(token.queues),
        "expires": expires,
        "note": token.note,
    }
