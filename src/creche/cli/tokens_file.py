"""The file of tokens: read by a plane that looks whether it has changed, written by `creche
tokens`."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import trio

from creche.engine.doors import TokenDoor
from creche.errors import SettingsError
from creche.model.access import MAX_CREDENTIAL, BadToken, Token, id_in, read_tokens

logger = logging.getLogger("creche.plane")

LOOK_S = 1.0
"""How often a plane looks whether its file of tokens has changed."""

MAX_BYTES = 4 * 1024 * 1024
"""How large the file may be: some ten thousand tokens."""

Signature: TypeAlias = tuple[int, ...]
"""What is another one when a file, who it belongs to or who may open it has changed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file of tokens as it was when it was read."""

    path: str
    tokens: dict[str, Token]
    signature: Signature


def load_tokens(path: str) -> dict[str, Token]:
    """Return the tokens in the file at *path*, by id. Raises as `load_file` does."""
    return load_file(path).tokens


def load_file(path: str) -> Loaded:
    """Read the file of tokens at *path*.

    Raises:
        SettingsError: it cannot be read, others can read or write it, or a line is no token.
    """
    text, signature = _read(path)
    return Loaded(path, _tokens_in(path, text), signature)


def _tokens_in(path: str, text: str) -> dict[str, Token]:
    try:
        return read_tokens(text)
    except BadToken as error:
        raise SettingsError(f"{path}, {error}") from None


def _read(path: str) -> tuple[str, Signature]:
    """Return the text of the file and its signature from before it was read: what is written
    meanwhile makes it another one."""
    try:
        # Opening a pipe would wait for whoever writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SettingsError(f"{path} is no file")
            with open(fd, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        hint = ": `creche tokens new` makes it" if isinstance(error, FileNotFoundError) else ""
        raise SettingsError(
            f"the file of tokens, {path}, cannot be read: {error.strerror}{hint}"
        ) from None
    if id_in(data[:MAX_CREDENTIAL].decode("latin-1").strip()) is not None:
        raise SettingsError(
            f"{path} holds a token, and not what a plane keeps of them: is it for --token-file?"
        )
    _check(path, status)
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{path} has more than {MAX_BYTES:,} bytes: is it a file of tokens?")
    try:
        return data.decode(), _signature_of(status)
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is no text: is it a file of tokens?") from None


def _check(path: str, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SettingsError(
            f"{path} is open to others (mode {mode:04o}): `chmod 600 {path}` shuts it"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(
            f"{path} belongs to user {status.st_uid}, who could let anyone in: it has to belong to "
            f"the user that this runs as, who is {os.geteuid()}"
        )


async def keep_tokens(loaded: Loaded, door: TokenDoor) -> None:
    """Look every `LOOK_S` seconds whether the file has changed since it was *loaded*, and have
    *door* want what it holds then, until cancelled. One that cannot be used changes nothing, and
    that is said once; one that cannot be read is tried again until it can be.

    A file is read when it was the same at two looks: one that is just being written is empty for a
    moment, which would send everybody away.
    """
    path = loaded.path
    seen: Signature | None = loaded.signature
    known, said = seen, ""
    while True:
        await trio.sleep(LOOK_S)
        before, seen = seen, _signature(path)
        if seen == known or seen != before:
            continue
        try:
            text, _ = _read(path)
            if _signature(path) != seen:  # it changes at this moment
                continue
            known = seen
            tokens = _tokens_in(path, text)
        except SettingsError as error:
            why = f"{seen} {error}"
            if why != said:
                logger.error("the tokens stay as they were: %s", error)
            said = why
            continue
        said = ""
        door.change(tokens)
        if tokens:
            logger.info("the tokens were read again: there are %d", len(tokens))
        else:
            logger.warning("the tokens were read again: %s", why_nobody(path))


def why_nobody(path: str) -> str:
    """Return the sentence about a file that has none."""
    return f"{path} has no tokens: nobody comes in (`creche tokens new` makes one)"


def _signature(path: str) -> Signature | None:
    """Return that of the file; None if there is none. A link is followed, so that one which is set
    to another file counts."""
    with suppress(OSError):
        return _signature_of(os.stat(path))
    return None


def _signature_of(status: os.stat_result) -> Signature:
    written = status.st_ino, status.st_mtime_ns, status.st_size
    return *written, status.st_ctime_ns, status.st_mode, status.st_uid


def change_tokens(path: str, change: Callable[[str, Mapping[str, Token]], str]) -> None:
    """Write what *change* makes of the file's text and its tokens, whole or not at all; a file that
    is not there is made.

    Raises:
        SettingsError: it cannot be read or written; nothing has changed.
    """
    file = Path(path)
    try:
        with _alone_in(file.parent):
            text = _read(path)[0] if file.exists() else ""
            new = change(text, _tokens_in(path, text))
            _replace(Path(os.path.realpath(file)), new)
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingsError(f"the file of tokens, {path}, cannot be written: {why}") from None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other command changes a file of tokens in *folder*."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(file: Path, text: str) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # of mode 0600
    try:
        with open(fd, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


@contextmanager
def kept_in(path: str, word: str) -> Iterator[None]:
    """Put *word* into a new file at *path* which only its user can read; it goes again if the body
    fails.

    Raises:
        SettingsError: there is a file already, or it cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SettingsError(f"--out: {path} is there already, and is not written over") from None
    except OSError as error:
        raise SettingsError(f"--out: {path} cannot be written: {error.strerror}") from None
    try:
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(f"{word}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SettingsError(f"--out: {path} cannot be written: {error.strerror}") from None
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
