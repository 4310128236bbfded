"""Who may do what, and how they show who they are: roles, and the tokens that carry them.

A token is 256 random bits behind a name. Of these bits only the SHA-256 is kept: no list of likely
ones can be tried against it, as with passwords, so a slow hash would protect nothing and would cost
a plane time for each stranger. What the roles may do is in `creche.wire.access`.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from fnmatch import translate
from functools import lru_cache
from hashlib import sha256
from typing import Any

from creche.model.names import MAX_NAME

ID_BYTES = 6
SECRET_BYTES = 32
"""How many random bytes the name of a token is made of, and its secret."""

MAX_CREDENTIAL = 1024
"""Characters of what a peer shows; of ours it has 60."""

_WORD = re.compile(r"creche_([0-9a-f]{4,32})_[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{4,32}")
_HASH = re.compile(r"[0-9a-f]{64}")


class AccessRole(Enum):
    """What a token is for. One may have several roles."""

    VIEW = "view"
    SUBMIT = "submit"
    WORK = "work"
    OPERATE = "operate"
    ADMIN = "admin"


BY_QUEUE = frozenset({AccessRole.SUBMIT, AccessRole.WORK})
"""The roles that can be restricted to queues: the others are about all of them."""


class BadToken(ValueError):
    """A record of a token is not what it may be; the sentence says what, and never the secret."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token. `digest` is the SHA-256 of the whole word, in hexadecimal."""

    id: str
    digest: str = field(repr=False)
    roles: frozenset[AccessRole]
    queues: tuple[str, ...] | None = None
    """Names or patterns of the queues it is for; None: all."""
    expires_at: float | None = None
    """UTC seconds."""
    note: str = field(default="", compare=False)

    def is_over(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def as_line(self) -> str:
        """Return the line that keeps it."""
        record: dict[str, Any] = {
            "id": self.id,
            "sha256": self.digest,
            "roles": role_names(self.roles),
        }
        if self.queues is not None:
            record["queues"] = list(self.queues)
        if self.expires_at is not None:
            record["expires"] = datetime.fromtimestamp(self.expires_at, UTC).isoformat()
        if self.note:
            record["note"] = self.note
        return json.dumps(record)


def role_names(roles: Collection[AccessRole]) -> list[str]:
    """Return their names, in the order in which they are told."""
    return [role.value for role in AccessRole if role in roles]


def digest_of(word: str) -> str:
    """Return what is kept of a token's word."""
    return sha256(word.encode("utf-8", "surrogatepass")).hexdigest()


def new_word(entropy: bytes) -> tuple[str, str]:
    """Return the id of a new token and its word, which is the secret, made of *entropy*:
    `ID_BYTES` and `SECRET_BYTES` of it."""
    if len(entropy) != ID_BYTES + SECRET_BYTES:
        raise ValueError(f"a token is made of {ID_BYTES + SECRET_BYTES} random bytes")
    token_id = entropy[:ID_BYTES].hex()
    secret = urlsafe_b64encode(entropy[ID_BYTES:]).decode().rstrip("=")
    return token_id, f"creche_{token_id}_{secret}"


def id_in(word: str) -> str | None:
    """Return the id that a token's word begins with; None if it is no such word."""
    found = _WORD.fullmatch(word)
    return None if found is None else found[1]


def holds_token(text: str) -> bool:
    """Whether the word of a token is in *text*."""
    return _WORD.search(text) is not None


def redacted(text: str) -> str:
    """Return *text* with the secrets of tokens left out, wherever they came into it."""
    return _WORD.sub(r"creche_\1_***", text) if "creche_" in text else text


def why_no_credential(word: object) -> str | None:
    """Return why *word* cannot be a token, without saying what it is; None if it can."""
    if not isinstance(word, str):
        return f"a token is text, and not {type(word).__name__}"
    if not word:
        return "it is empty"
    if len(word) > MAX_CREDENTIAL or not word.isascii() or not word.isprintable() or " " in word:
        return f"a token is one word of at most {MAX_CREDENTIAL:,} ASCII characters"
    return None


_NOBODY = digest_of("")


def owner_of(word: str | None, tokens: Mapping[str, Token]) -> Token | None:
    """Return the token, of those by id, whose secret *word* is; None if it is of none of them.

    Compared in constant time. How long it takes does not tell either whether there is a token of
    that id; the id is no secret.
    """
    if word is None or len(word) > MAX_CREDENTIAL:
        return None
    found = tokens.get(id_in(word) or "")
    is_same = hmac.compare_digest(digest_of(word), _NOBODY if found is None else found.digest)
    return found if is_same else None


# --- reading and writing ------------------------------------------------------------------------


def read_tokens(text: str) -> dict[str, Token]:
    """Return the tokens that are kept in *text*, by id: a JSON object a line. Blank lines, and
    lines that begin with ``#``, are left alone.

    Raises:
        BadToken: a line is none, and which one it is.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            token = _token_in(line)
            if token.id in tokens:
                raise BadToken(f"the id {token.id} is there twice")
        except BadToken as error:
            raise BadToken(f"line {number}: {error}") from None
        tokens[token.id] = token
    return tokens


def without(text: str, token_id: str) -> str:
    """Return *text*, which `read_tokens` can read, without the line of that token."""

    def is_it(line: str) -> bool:
        return token_id in read_tokens(line)

    return "\n".join(line for line in text.split("\n") if not is_it(line))


def _token_in(line: str) -> Token:
    try:
        record: Any = json.loads(line, object_pairs_hook=_each_once)
    except BadToken:
        raise
    except (ValueError, RecursionError):
        raise BadToken('it is no JSON object, as in {"id": ..., "sha256": ...}') from None
    if not isinstance(record, dict):
        raise BadToken("it is no JSON object")
    # A field that is spelt wrong must not lift a restriction.
    known = ("id", "sha256", "roles", "queues", "expires", "note")
    unknown = sorted(str(name) for name in record if name not in known)
    if unknown:
        raise BadToken(f"a token has {', '.join(known)}, and not {unknown[0]!r}")
    token_id, digest, note = record.get("id"), record.get("sha256"), record.get("note", "")
    if not isinstance(token_id, str) or not _ID.fullmatch(token_id):
        raise BadToken("id is 4 to 32 hexadecimal digits")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise BadToken("sha256 is 64 hexadecimal digits: `creche tokens new` makes them")
    if not isinstance(note, str):
        raise BadToken("note is text")
    roles = roles_in(record.get("roles"))
    queues = None if record.get("queues") is None else patterns_in(record["queues"])
    check_queues(roles, queues)
    return Token(token_id, digest, roles, queues, _moment_in(record.get("expires")), note)


def _each_once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in fields:
        if name in record:  # the last would count, and lift the restriction that is read first
            raise BadToken(f"{name!r:.80} is there twice")
        record[name] = value
    return record


def roles_in(names: object) -> frozenset[AccessRole]:
    """Return the roles of these names.

    Raises:
        BadToken: there is none, or one is no role.
    """
    every = ", ".join(role.value for role in AccessRole)
    if not isinstance(names, list) or not names:
        raise BadToken(f"roles is a list of {every}")
    for name in names:
        if name not in [role.value for role in AccessRole]:
            raise BadToken(f"{name!r:.80} is no role: there are {every}")
    return frozenset(AccessRole(name) for name in names)


def patterns_in(names: object) -> tuple[str, ...]:
    """Return the names or patterns of queues.

    Raises:
        BadToken: there is none, or one is no text.
    """
    if not isinstance(names, list) or not names:
        raise BadToken("queues is a list of names or patterns; left out: all queues")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise BadToken(f"queues is a list of names of 1 to {MAX_NAME} characters")
    return tuple(names)


def check_queues(roles: Iterable[AccessRole], queues: tuple[str, ...] | None) -> None:
    """Refuse queues where a role is about all of them.

    Raises:
        BadToken: it is so.
    """
    others = frozenset(roles) - BY_QUEUE
    if queues is not None and others:
        raise BadToken(
            f"queues restrict submit and work only: {role_names(others)[0]} is about all of them"
        )


def _moment_in(text: object) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadToken("expires is a moment with its offset, as in 2027-01-31T18:30+00:00")
    expires_at = moment.timestamp()
    try:
        datetime.fromtimestamp(expires_at, UTC)  # as whoever shows it does
    except (OverflowError, ValueError):
        raise BadToken("expires is a moment in the years 1 to 9999 of UTC") from None
    return expires_at


def fits(queue: str, patterns: Iterable[str]) -> bool:
    """Whether *queue* is one of these names, or fits a pattern (``*``, ``?``, ``[...]``)."""
    return _any_of(tuple(patterns)).match(queue) is not None


@lru_cache(maxsize=1000)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # Of none, nothing is one.
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")
