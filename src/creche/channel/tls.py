"""TLS: what a plane shows and whom it trusts, what a peer shows and whom it trusts.

Certificates and keys are files in PEM. What cannot be used of them is said in a sentence that names
the file: OpenSSL's own says neither which one it was nor what it holds.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from creche.channel.handshake import parse_url
from creche.errors import SettingsError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths. *cert* and *key* are shown to the other side; *ca* is who it is checked against."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __bool__(self) -> bool:
        return any((self.ca, self.cert, self.key))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> TlsFiles:
        """Return the files that ``CRECHE_TLS_CA``, ``_CERT`` and ``_KEY`` name."""
        variables = ("CRECHE_TLS_CA", "CRECHE_TLS_CERT", "CRECHE_TLS_KEY")
        return cls(*(environment.get(name) or None for name in variables))

    def for_peer(self) -> ssl.SSLContext:
        """Return how a peer shows itself, and checks the plane: against *ca*, else against the
        system's authorities.

        Raises:
            SettingsError: a file cannot be used.
        """
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        if self.ca is not None:
            # Nobody else's word counts then.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _trust(context, self.ca)
        if self.cert is not None or self.key is not None:
            _show(context, self.cert, self.key)
        return context

    def for_plane(self) -> ssl.SSLContext:
        """Return how a plane shows itself; with *ca* it lets in only who has a certificate of it.

        Raises:
            SettingsError: a file cannot be used.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        _show(context, self.cert, self.key)
        if self.ca is not None:
            _trust(context, self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def checked_context(
    url: str, tls: ssl.SSLContext | None, environment: Mapping[str, str] = os.environ
) -> ssl.SSLContext | None:
    """Return what the connections to *url* are made with: *tls*, else what the environment says;
    None: by the system's authorities, or without TLS.

    Raises:
        SettingsError: it was given and *url* is plain text, or a file cannot be used.
    """
    files = TlsFiles() if tls is not None else TlsFiles.of_environment(environment)
    return context_for(url, tls, files, "the environment (CRECHE_TLS_...)")


def context_for(
    url: str, tls: ssl.SSLContext | None, files: TlsFiles, source: str
) -> ssl.SSLContext | None:
    """Return what the connections to *url* are made with: *tls*, else by *files* if there are any.

    Raises:
        SettingsError: something is given and *url* is plain text, or a file cannot be used.
    """
    if tls is None and not files:
        return None
    if not parse_url(url).is_tls:
        what = "tls" if tls is not None else source
        raise SettingsError(f"{what} is for TLS, and {url} is plain text: write wss://")
    return tls if tls is not None else files.for_peer()


def _show(context: ssl.SSLContext, cert: str | None, key: str | None) -> None:
    if cert is None:
        if key is not None:
            raise SettingsError("--tls-key is there without --tls-cert: name the certificate too")
        raise SettingsError(
            "--tls-cert names the plane's certificate: --tls-ca alone is not enough"
        )
    _check_readable("--tls-cert", cert)
    if key is not None:
        _check_readable("--tls-key", key)
    where = key or cert

    def ask() -> str:
        # Without this, OpenSSL would ask on the terminal, and a service has none.
        raise SettingsError(f"--tls-key: {where} wants a passphrase: store the key without one")

    try:
        context.load_cert_chain(cert, key, password=ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"--tls-key: {where} is not the key of {cert}"
        elif key is None:
            why = f"--tls-cert: {cert} does not hold a certificate with its key: name --tls-key"
        else:
            why = f"--tls-cert, --tls-key: {cert} and {key} hold no certificate and key in PEM"
        raise SettingsError(why) from None


def _trust(context: ssl.SSLContext, ca: str) -> None:
    _check_readable("--tls-ca", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise SettingsError(f"--tls-ca: {ca} holds no certificate in PEM") from None


def _check_readable(option: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"{option}: {path} cannot be read: {error.strerror}") from None
