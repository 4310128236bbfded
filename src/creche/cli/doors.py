"""Where a plane listens, and what its peers have to show there."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from creche.channel import trio_ws
from creche.channel.base import Handler
from creche.channel.gate import LOOPBACK_NAMES, Gate
from creche.channel.handshake import authority, parse_url
from creche.channel.tls import TlsFiles
from creche.cli.handing import hand_over
from creche.cli.output import say
from creche.cli.tokens_file import Loaded, keep_tokens, load_file, why_nobody
from creche.engine.doors import OPEN_DOOR, TokenDoor
from creche.engine.plane import Entrance
from creche.errors import SettingsError
from creche.model.access import (
    ID_BYTES,
    SECRET_BYTES,
    AccessRole,
    Token,
    digest_of,
    new_word,
)


@dataclass(frozen=True, slots=True)
class Doors:
    """The ways into a plane. Its own children come in at the front, like everybody, as long as
    nobody has to show anything there; else by a way of their own, on the loopback, with tokens that
    nobody else has."""

    front: Entrance
    inside: Entrance | None = None
    tokens: Loaded | None = None
    worker_fd: int | None = None
    page_fd: int | None = None

    async def keep(self) -> None:
        """Want what the file of tokens holds, as long as the plane runs."""
        if self.tokens is not None and isinstance(self.front.door, TokenDoor):
            await keep_tokens(self.tokens, self.front.door)


def open_doors(
    where: tuple[str, int],
    tokens: str | None,
    files: TlsFiles,
    *,
    is_insecure: bool,
    origins: Sequence[str],
    hosts: Sequence[str],
) -> Doors:
    """Return the ways into a plane that listens at *where*, and say what is risky about them.

    Raises:
        SettingsError: others than this machine would reach it and have nothing to show, or a file
            cannot be used.
    """
    host, port = where
    tls = files.for_plane() if files else None
    known = None if tokens is None else load_file(tokens)
    if known is not None and not known.tokens:
        say("warning", why_nobody(known.path))
    is_far = reaches_out(host, port)
    if is_far:
        _check_far(authority(host, port), known is not None, files, is_insecure=is_insecure)
    names = LOOPBACK_NAMES | {_bracketed(host)} | set(map(str.lower, hosts))
    # By what names others call this machine is not known here, unless it was said.
    is_named = not is_far or bool(hosts)
    gate = Gate(frozenset(map(_checked_origin, origins)), names if is_named else None)
    listener = Listener(host, port, gate, tls)
    if known is None and tls is None:
        return Doors(Entrance(listener, OPEN_DOOR))
    of_worker, of_page = _made(AccessRole.WORK), _made(AccessRole.VIEW)
    inside = TokenDoor({token.id: token for _, token in (of_worker, of_page)})
    return Doors(
        Entrance(listener, OPEN_DOOR if known is None else TokenDoor(known.tokens)),
        Entrance(Listener("127.0.0.1", 0, Gate(hosts=LOOPBACK_NAMES)), inside),
        known,
        hand_over(of_worker[0]),
        hand_over(of_page[0]),
    )


def _made(role: AccessRole) -> tuple[str, Token]:
    token_id, word = new_word(os.urandom(ID_BYTES + SECRET_BYTES))
    return word, Token(token_id, digest_of(word), frozenset({role}))


def _check_far(where: str, has_tokens: bool, files: TlsFiles, *, is_insecure: bool) -> None:
    if not has_tokens and not files.ca:
        if not is_insecure:
            raise SettingsError(
                f"--listen {where} is reached from other machines, and who dials it would have to "
                "show nothing: make a token (`creche tokens new --role admin --tokens FILE`) and "
                "say --tokens FILE, or want certificates (--tls-cert, --tls-key, --tls-ca), or say "
                "--insecure"
            )
        say("warning", f"everybody who reaches {where} may submit and run jobs (--insecure)")
    elif not files:
        say(
            "warning",
            f"tokens travel to {where} in plain text: whoever listens in on that network has them "
            "(--tls-cert and --tls-key prevent it, or what ends TLS before the plane)",
        )


def _checked_origin(text: str) -> str:
    scheme, separator, rest = text.lower().rstrip("/").partition("://")
    if not separator or not scheme or not rest or "/" in rest:
        raise SettingsError(
            f"--allow-origin: {text!r} is no origin of a page: it looks like https://example.org"
        )
    return f"{scheme}://{rest}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def reaches_out(host: str, port: int) -> bool:
    """Whether others than this machine reach what listens at *host*; where that cannot be found
    out, listening fails."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return not all(_is_loopback(str(address[0])) for *_, address in places)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


class Listener:
    """A `Listen` of a plane: the port that it was given first is the one it keeps in later
    epochs."""

    def __init__(self, host: str, port: int, gate: Gate, tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._gate = gate
        self._tls = tls

    async def __call__(
        self,
        handler: Handler,
        /,
        *,
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen; see `creche.channel.base.Listen`."""
        listener = self

        class Remembering:
            def started(self, value: Any = None) -> None:
                listener._port = parse_url(value[0]).port
                task_status.started(value)

        await trio_ws.serve(
            handler,
            host=self._host,
            port=self._port,
            ssl_context=self._tls,
            gate=self._gate,
            handler_nursery=handler_nursery,
            task_status=Remembering(),
        )
