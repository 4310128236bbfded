"""A secret for a child of ours: it inherits a file without a name that holds it.

On a command line, or in the environment, others could read it; a file on the disk would have to be
cleaned up. The same descriptor can be read again by another program that this process becomes.
"""

from __future__ import annotations

import os
import tempfile
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from creche.errors import SettingsError
from creche.model.access import MAX_CREDENTIAL
from creche.peer.credential import Word

CredentialFd: TypeAlias = Annotated[int | None, Parameter(show=False, show_env_var=False)]
"""The number of an inherited file descriptor, of a file that holds a token."""


def hand_over(word: str) -> int:
    """Return the descriptor of a file that holds *word*; it stays open as long as this process."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("creche", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.write(fd, word.encode())
    return fd


def taken_over(fd: int) -> Word:
    """Return the token in the file that was inherited, and inherit it no further.

    Raises:
        SettingsError: there is none.
    """
    try:
        os.set_inheritable(fd, False)
        text = os.pread(fd, MAX_CREDENTIAL, 0).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--credential-fd {fd} holds no token: {error}") from None
    return Word(text, "--credential-fd")
