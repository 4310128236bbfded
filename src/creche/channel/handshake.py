"""What both WebSocket channels share: the plane's URL, the subprotocol, how a handshake fails, and
words for the ends of connections."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from creche.errors import NotAPlane, NotTrusted, PlaneUnreachable, SettingsError
from creche.wire.codec import KIB

SUBPROTOCOL = "creche.v1"

HANDSHAKE_S = 10.0
"""How long a peer may take from connecting to being a WebSocket."""

HANDSHAKE_BYTES = 256 * KIB
"""An answer that is no handshake may go on for ever. Some reads more than the handshake itself may
come in before it is found complete, since a plane may speak at once."""

HANDSHAKE_READS = 16
"""Reads that a handshake takes at most, TLS included, of a peer that sends what it has to say."""

HANDSHAKE_READ_S = 0.05
"""How long each further one waits: there is no use in saying a handshake byte by byte."""

CLOSE_S = 1.0
"""How long the closing handshake may take before the socket is closed all the same."""

READ_BYTES = 64 * 1024
"""How much is read at once: the largest frame takes few reads, a small one no more room."""

NORMAL_CLOSURE = 1000
UNSUPPORTED_DATA = 1003
TOO_BIG = 1009

A_PLANE = "this is a Creche plane"
"""What a plane's answer begins with if it refuses a handshake: it speaks other subprotocols."""

_TOO_EARLY = frozenset({408, 425, 429})
"""HTTP's ways to say: later. So do all from 500 on, as a proxy says whose plane is away."""

_CLOSE_NAMES = {
    1002: "protocol error",
    1003: "unsupported data",
    1007: "invalid data",
    1008: "policy violation",
    1009: "too big",
    1011: "internal error",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a plane's URL points to."""

    host: str
    port: int
    is_tls: bool
    resource: str

    @property
    def authority(self) -> str:
        """``host:port``, as in a Host header; an IPv6 address is in brackets."""
        return authority(self.host, self.port)


def authority(host: str, port: int) -> str:
    """Return ``host:port``; an IPv6 address is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@cache
def default_tls() -> ssl.SSLContext:
    """Return what certificates are checked against. Loading the authorities takes milliseconds."""
    return ssl.create_default_context()


def with_scheme(address: str) -> str:
    """Return a plane's address in full: ``HOST:PORT`` is ``ws://HOST:PORT``. A name alone stays as
    it is: it would be dialled at a web server's port, where no plane is."""
    return f"ws://{address}" if "://" not in address and ":" in address else address


WHY_NO_SECRET = (
    "the URL of a plane holds no user and no password: it would be in logs and lists of processes. "
    "The token that a plane wants is in CRECHE_TOKEN or --token-file, or is Client(token=...)"
)


def has_secret(url: str) -> bool:
    """Whether *url* says a user or a password: it must not be shown to anybody then."""
    _, _, rest = url.partition("://")
    return "@" in re.split(r"[/?#]", rest or url, maxsplit=1)[0]


def parse_url(url: str) -> Target:
    """Take a plane's URL apart.

    Raises:
        SettingsError: it is no ``ws://host:port`` or ``wss://host:port``.
    """
    if has_secret(url):
        raise SettingsError(WHY_NO_SECRET)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:  # a port that is no number, a bracket alone, a host too long
        raise SettingsError(f"{url!r} is not the URL of a plane: {error}") from None
    if parts.scheme not in ("ws", "wss") or not host:
        raise SettingsError(
            f"{url!r} is not the URL of a plane: it looks like ws://127.0.0.1:5570 or wss://host"
        )
    is_tls = parts.scheme == "wss"
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not resource.isascii() or not resource.isprintable() or " " in resource:
        raise SettingsError(f"{url!r} is not the URL of a plane: write its path in %-encoding")
    return Target(host, port or (443 if is_tls else 80), is_tls, resource)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors at the bottom of *error*: those of each address that was tried."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    elif isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
        yield from _causes(error.__cause__)
    else:
        yield error


def why_not_connected(error: BaseException) -> str:
    """Return why a connection could not be made, in a few words."""
    words: list[str] = []
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            word = "its host name is unknown"
        elif isinstance(cause, ssl.SSLError):
            word = tls_failure(cause).why
        elif isinstance(cause, OSError) and cause.errno:
            # Not the error's own text: each event loop adds something else to it.
            word = os.strerror(cause.errno)
            word = word[0].lower() + word[1:]
        else:
            word = str(cause) or type(cause).__name__
        if word not in words:
            words.append(word)
    return "; ".join(words)


class HandshakeFailed(Exception):
    """The other side did not become a peer, or was too slow for that; `why` says it in words.

    With *is_stranger* it is something else than what was looked for, and will stay so; with
    *is_untrusted* one side does not accept the other's certificate.
    """

    def __init__(self, why: str, *, is_stranger: bool = False, is_untrusted: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.is_stranger = is_stranger
        self.is_untrusted = is_untrusted

    def at(self, url: str) -> PlaneUnreachable:
        """Return what whoever has dialled *url* is told."""
        if self.is_untrusted:
            return NotTrusted(url, self.why)
        return (NotAPlane if self.is_stranger else PlaneUnreachable)(url, self.why)


# What OpenSSL calls it when the other side says no (`..._ALERT_...`) or is none, and what that
# means. Part of the name does: it differs between versions of TLS.
_UNTRUSTED = "it does not trust the certificate that it was shown"
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a certificate (--tls-cert, --tls-key), and none was shown",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, and has to",
    "ALERT_UNKNOWN_CA": f"{_UNTRUSTED}: it is of an authority that it does not know",
    "ALERT_CERTIFICATE_EXPIRED": f"{_UNTRUSTED}: its time is over",
    "ALERT_UNSUPPORTED_CERTIFICATE": f"{_UNTRUSTED}: it is not for this",
    "ALERT_BAD_CERTIFICATE": _UNTRUSTED,
    "ALERT_CERTIFICATE_UNKNOWN": _UNTRUSTED,
    "ALERT_HANDSHAKE_FAILURE": "it agrees to no way of TLS: perhaps it wants a certificate",
}
_PLAIN = ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What plain text is taken for."""


def tls_failure(error: ssl.SSLError) -> HandshakeFailed:
    """Return what it means that TLS could not be agreed upon."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not to be trusted: {error.verify_message}"
        return HandshakeFailed(why, is_untrusted=True)
    reason = error.reason or ""
    for name, why in _ALERTS.items():
        if name in reason:
            return HandshakeFailed(why, is_untrusted=True)
    if reason in _PLAIN:
        return HandshakeFailed(
            "it does not speak TLS: is it ws://, and not wss://?", is_stranger=True
        )
    return HandshakeFailed(f"it speaks no TLS that can be used: {reason or error}")


SPEAKS_TLS = f"{A_PLANE}: it speaks TLS: write wss://, and not ws://"

TLS_ANSWER = (
    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(SPEAKS_TLS) + 1}\r\nConnection: close\r\n\r\n{SPEAKS_TLS}\n"
).encode()
"""What a peer is told that speaks plain text where TLS is wanted."""


def is_plain_http(error: ssl.SSLError) -> bool:
    """Whether what came in place of TLS was HTTP."""
    return error.reason == "HTTP_REQUEST"


def ended() -> HandshakeFailed:
    """The bytes came to their end before there was a WebSocket."""
    return HandshakeFailed("it ended the connection during the handshake")


def no_websocket(error: Exception) -> HandshakeFailed:
    """What came is not what a WebSocket server says; *error* is what the parser made of it."""
    return HandshakeFailed(f"it does not speak WebSocket: {error}", is_stranger=True)


def other_websocket() -> HandshakeFailed:
    """It is a WebSocket, and does not speak our subprotocol."""
    return _stranger("a WebSocket server")


def rejected(status: int, body: bytes | None) -> HandshakeFailed:
    """The answer was no: HTTP's *status*, and the first line of *body* if that is for us."""
    first_line = (body or b"")[:200].decode("utf-8", "replace").strip().partition("\n")[0]
    if first_line.startswith(A_PLANE):
        return HandshakeFailed(first_line, is_stranger=True)
    if status < 500 and status not in _TOO_EARLY:
        return _stranger(f"HTTP {status}")
    is_said = first_line and not first_line.startswith("<")
    return HandshakeFailed(f"it refused: HTTP {status}" + (f": {first_line}" if is_said else ""))


def _stranger(what: str) -> HandshakeFailed:
    why = f"something answers there, but it is not a Creche plane: {what}"
    return HandshakeFailed(why, is_stranger=True)


def why_closed(peer: str, code: int | None, reason: str | None) -> str:
    """Return why the connection to *peer* ended, given the close frame's code, if there was one."""
    if code is None or code in (1005, 1006):
        return f"the connection to {peer} was lost"
    if code in (1000, 1001):
        return f"{peer} closed the connection" + (f": {reason}" if reason else "")
    words = _CLOSE_NAMES.get(code, f"code {code}")
    return f"the connection to {peer} ended ({words})" + (f": {reason}" if reason else "")


def why_not_listening(host: str, port: int, error: Exception) -> str:
    """Return why *host* and *port* cannot be listened on, with a hint."""
    codes = {cause.errno for cause in _causes(error) if isinstance(cause, OSError)}
    if errno.EADDRINUSE in codes:
        hint = "the port is in use: is another plane running? Stop it, or choose another port"
    elif errno.EACCES in codes:
        hint = "not allowed: ports below 1024 need privileges; choose a higher one"
    elif errno.EADDRNOTAVAIL in codes:
        hint = "this machine has no such address: 127.0.0.1 is itself, 0.0.0.0 all its addresses"
    else:
        hint = why_not_connected(error)
    return f"cannot listen on {authority(host, port)}: {hint}"
