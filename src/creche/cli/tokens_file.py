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
from pathlib import Path
from typing import TypeAlias

import trio

from creche.engine.doors import TokenDoor
from creche.errors import SettingsError
from creche.model.access import BadToken, Token, read_tokens

logger = logging.getLogger("creche.plane")

LOOK_S = 1.0
"""How often a plane looks whether its file of tokens has changed."""

MAX_BYTES = 4 * 1024 * 1024
"""How large the file may be: some ten thousand tokens."""

_Signature: TypeAlias = tuple[int, int, int] | None


def load_tokens(path: str) -> dict[str, Token]:
    """Return the tokens in the file at *path*, by id.

    Raises:
        SettingsError: it cannot be read, others can read or write it, or a line is no token.
    """
    try:
        return read_tokens(_read(path))
    except BadToken as error:
        raise SettingsError(f"{path}, {error}") from None


def _read(path: str) -> str:
    try:
        # Opening a pipe would wait for whoever writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(path, os.fstat(fd))
            with open(fd, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        hint = ": `creche tokens new` makes it" if isinstance(error, FileNotFoundError) else ""
        raise SettingsError(
            f"the file of tokens, {path}, cannot be read: {error.strerror}{hint}"
        ) from None
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{path} has more than {MAX_BYTES:,} bytes: is it a file of tokens?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is no text: is it a file of tokens?") from None


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"{path} is no file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SettingsError(
            f"{path} is open to others (mode {mode:04o}): `chmod 600 {path}` shuts it"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(
            f"{path} belongs to user {status.st_uid}, who could let anyone in: it has to be "
            "root's, or of the user that this runs as"
        )


async def keep_tokens(path: str, door: TokenDoor) -> None:
    """Look every `LOOK_S` seconds whether the file has changed, and have *door* want what it holds
    then, until cancelled. One that cannot be used changes nothing, and that is said once.

    A file is read when it was the same at two looks: one that is just being written is empty for a
    moment, which would send everybody away.
    """
    seen = known = _signature(path)
    while True:
        await trio.sleep(LOOK_S)
        before, seen = seen, _signature(path)
        if seen == known or seen != before:
            continue
        known = seen
        try:
            tokens = load_tokens(path)
        except SettingsError as error:
            logger.error("the tokens stay as they were: %s", error)
            continue
        door.change(tokens)
        logger.info("the tokens were read again: there are %d", len(tokens))


def _signature(path: str) -> _Signature:
    """Return what is another one when the file is; None if there is none. A link is followed, so
    that one which is set to another file counts."""
    with suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size
    return None


def change_tokens(path: str, change: Callable[[str, Mapping[str, Token]], str]) -> None:
    """Write what *change* makes of the file's text and its tokens, whole or not at all; a file that
    is not there is made.

    Raises:
        SettingsError: it cannot be read or written; nothing has changed.
    """
    file = Path(path)
    try:
        with _alone_in(file.parent):
            text = _read(path) if file.exists() else ""
            try:
                tokens = read_tokens(text)
            except BadToken as error:
                raise SettingsError(f"{path}, {error}") from None
            _replace(Path(os.path.realpath(file)), change(text, tokens))
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
