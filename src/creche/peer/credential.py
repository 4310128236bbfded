"""Where a peer's token comes from, looked up again for each connection: it may be replaced while
the peer runs."""

from __future__ import annotations

import logging
import os
import stat
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
    """A file that holds a token; one that cannot be read later on leaves things as they were. Of
    one that everybody can read *on_warning* is told, once.

    Raises:
        SettingsError: it cannot be read now, or holds something else.
    """

    def __init__(
        self, path: str, source: str, on_warning: Callable[[str], None] = logger.warning
    ) -> None:
        self._path = path
        self._source = source
        self._on_warning = on_warning
        self._has_warned = False
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
                self._look_at(os.fstat(file.fileno()))
        except OSError as error:
            why = error.strerror or "it cannot be opened"
            raise SettingsError(f"{self._source}: {self._path} cannot be read: {why}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{self._source}: {self._path} holds no token") from None
        if '"sha256"' in text:
            raise SettingsError(
                f"{self._source}: {self._path} holds what a plane keeps of tokens, and none of them"
                ": is it for `creche control-plane --tokens`?"
            )
        return _checked(text.strip(), f"{self._source}: {self._path}")

    def _look_at(self, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        # A group that may read it can be meant.
        if self._has_warned or not stat.S_ISREG(status.st_mode) or not mode & 0o006:
            return
        self._has_warned = True
        self._on_warning(
            f"{self._source}: everybody on this machine can read {self._path} (mode {mode:04o}): "
            f"`chmod 600 {self._path}` shuts it"
        )


def credential_of(
    token: str | Credential | None,
    token_file: str | None = None,
    environment: Mapping[str, str] = os.environ,
    on_warning: Callable[[str], None] = logger.warning,
) -> Credential:
    """Return where the token comes from: what is given here, else ``CRECHE_TOKEN_FILE`` or
    ``CRECHE_TOKEN`` in the environment, else nowhere. Of a file that everybody can read
    *on_warning* is told.

    Raises:
        SettingsError: it cannot be read, or is none.
    """
    path, word = environment.get("CRECHE_TOKEN_FILE"), environment.get("CRECHE_TOKEN")
    # A command is given what the variable says as if it were typed.
    if path and word and token is None and token_file in (None, path):
        raise SettingsError("CRECHE_TOKEN and CRECHE_TOKEN_FILE are both set: set one of them")
    if token_file is not None:
        return TokenFile(token_file, "--token-file", on_warning)
    if token is not None:
        return token if callable(token) else Word(token, "token")
    if path:
        return TokenFile(path, "CRECHE_TOKEN_FILE", on_warning)
    return Word(word, "CRECHE_TOKEN") if word else no_credential


def _checked(word: object, source: str) -> str:
    wrong = why_no_credential(word)
    if wrong is not None:
        raise SettingsError(f"{source}: {wrong}")
    return str(word)
