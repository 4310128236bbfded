"""Where a peer's token comes from, looked up again for each connection: it may be replaced while
the peer runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from creche.errors import SettingsError
from creche.model.access import MAX_CREDENTIAL, why_no_credential

Credential: TypeAlias = Callable[[], str | None]
"""Returns what the plane is shown; None: nothing."""

logger = logging.getLogger("creche.peer")


def no_credential() -> str | None:
    """Show nothing."""
    return None


class Word:
    """A token that stays as it is."""

    def __init__(self, word: str, source: str) -> None:
        self._word = _checked(word.strip() if isinstance(word, str) else word, source)

    def __call__(self) -> str:
        return self._word


class TokenFile:
    """A file that holds a token; one that cannot be read later on leaves things as they were.

    Raises:
        SettingsError: it cannot be read now, or holds something else.
    """

    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source
        self._word = self._read()

    def __call__(self) -> str:
        # What is read once only, as a pipe of the shell's, would keep us waiting.
        path = Path(self._path).expanduser()
        if path.exists() and not path.is_file():
            return self._word
        try:
            self._word = self._read()
        except SettingsError as error:
            logger.warning("%s; the token that it had is shown", error)
        return self._word

    def _read(self) -> str:
        try:
            with Path(self._path).expanduser().open(encoding="utf-8") as file:
                text = file.read(MAX_CREDENTIAL + 2)
        except OSError as error:
            why = error.strerror or "it cannot be opened"
            raise SettingsError(f"{self._source}: {self._path} cannot be read: {why}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{self._source}: {self._path} holds no token") from None
        return _checked(text.strip(), f"{self._source}: {self._path}")


def credential_of(
    token: str | Credential | None,
    token_file: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Credential:
    """Return where the token comes from: what is given here, else ``CRECHE_TOKEN_FILE`` or
    ``CRECHE_TOKEN`` in the environment, else nowhere.

    Raises:
        SettingsError: it cannot be read, or is none.
    """
    if token_file is not None:
        return TokenFile(token_file, "--token-file")
    if token is not None:
        return token if callable(token) else Word(token, "token")
    path, word = environment.get("CRECHE_TOKEN_FILE"), environment.get("CRECHE_TOKEN")
    if path and word:
        raise SettingsError("CRECHE_TOKEN and CRECHE_TOKEN_FILE are both set: set one of them")
    if path:
        return TokenFile(path, "CRECHE_TOKEN_FILE")
    return Word(word, "CRECHE_TOKEN") if word else no_credential


def _checked(word: object, source: str) -> str:
    wrong = why_no_credential(word)
    if wrong is not None:
        raise SettingsError(f"{source}: {wrong}")
    return str(word)
