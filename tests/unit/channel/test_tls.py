"""TLS and mutual TLS between each dialler and a plane's listener: who trusts whom, and what the
other is told who is not trusted."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization as s

from creche.channel import anyio_ws, trio_ws
from creche.channel.base import Channel
from creche.channel.tls import TlsFiles, checked_context
from creche.errors import ChannelBroken, NotAPlane, NotTrusted, PlaneUnreachable, SettingsError

pytestmark = pytest.mark.anyio

PAST = datetime.now(UTC) - timedelta(days=1)


class Dialler(NamedTuple):
    backend: str
    dial: Any


DIALLERS = {
    "trio": Dialler("trio", trio_ws.dial),
    "anyio on trio": Dialler("trio", anyio_ws.dial),
    "anyio on asyncio": Dialler("asyncio", anyio_ws.dial),
}


@pytest.fixture(params=DIALLERS.values(), ids=DIALLERS.keys())
def dialler(request: pytest.FixtureRequest) -> Dialler:
    chosen: Dialler = request.param
    return chosen


@pytest.fixture
def anyio_backend(dialler: Dialler) -> str:
    return dialler.backend


class Papers(NamedTuple):
    """Files of certificates: what is made with `trustme`."""

    ca: str
    other_ca: str
    server: tuple[str, str]
    elsewhere: tuple[str, str]
    old: tuple[str, str]
    client: tuple[str, str]
    stranger: tuple[str, str]
    old_client: tuple[str, str]

    def plane(self, shown: tuple[str, str] | None = None, *, is_mutual: bool) -> ssl.SSLContext:
        cert, key = shown or self.server
        return TlsFiles(self.ca if is_mutual else None, cert, key).for_plane()

    def peer(self, shown: tuple[str, str] | None = None, ca: str | None = None) -> ssl.SSLContext:
        cert, key = shown or (None, None)
        return TlsFiles(ca or self.ca, cert, key).for_peer()


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    ours, theirs = trustme.CA(), trustme.CA()

    def kept(name: str, cert: trustme.LeafCert) -> tuple[str, str]:
        paths = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        for blob in cert.cert_chain_pems:
            blob.write_to_path(paths[0], append=True)
        cert.private_key_pem.write_to_path(paths[1])
        return paths

    for name, ca in (("ca", ours), ("other-ca", theirs)):
        ca.cert_pem.write_to_path(str(folder / f"{name}.pem"))
    return Papers(
        str(folder / "ca.pem"),
        str(folder / "other-ca.pem"),
        kept("server", ours.issue_cert("127.0.0.1", "localhost")),
        kept("elsewhere", ours.issue_cert("plane.example")),
        kept("old", ours.issue_cert("127.0.0.1", not_after=PAST)),
        kept("client", ours.issue_cert("worker@example.org")),
        kept("stranger", theirs.issue_cert("worker@example.org")),
        kept("old-client", ours.issue_cert("worker@example.org", not_after=PAST)),
    )


async def echo(channel: Channel) -> None:
    with contextlib.suppress(ChannelBroken):
        while True:
            await channel.send(await channel.receive())


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[str]:
    """Run the plane's listener in a thread of its own, and yield its URL."""
    told: list[Any] = []
    ready = threading.Event()

    async def main() -> None:
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            serve = partial(
                trio_ws.serve, echo, host="127.0.0.1", port=0, ssl_context=context, handshake_s=5.0
            )
            (url,) = await nursery.start(serve)
            told.extend((url, trio.lowlevel.current_trio_token(), scope))
            ready.set()
            with scope:
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(30)
    url, token, scope = told
    try:
        yield url
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(30)
        assert not thread.is_alive()


async def works(dial: Any, url: str, context: ssl.SSLContext | None) -> None:
    with anyio.fail_after(30):
        async with dial(url, ssl_context=context) as channel:
            for size in (1, 100_000):
                await channel.send(b"x" * size)
                assert await channel.receive() == b"x" * size


async def test_a_plane_of_a_known_authority_is_spoken_with(
    dialler: Dialler, papers: Papers
) -> None:
    with serving(papers.plane(is_mutual=False)) as url:
        assert url.startswith("wss://127.0.0.1:")
        await works(dialler.dial, url, papers.peer())
        # What nobody asks for does no harm.
        await works(dialler.dial, url, papers.peer(papers.client))


async def test_who_shows_a_certificate_of_the_authority_comes_in(
    dialler: Dialler, papers: Papers
) -> None:
    with serving(papers.plane(is_mutual=True)) as url:
        await works(dialler.dial, url, papers.peer(papers.client))


NOT_TRUSTED = "its certificate is not to be trusted"
NOT_TRUSTING = "it does not trust the certificate that it was shown"
PLANE_IS_WRONG: dict[str, tuple[Callable[[Papers], Any], Callable[[Papers], Any], str]] = {
    "wrong authority": (
        lambda p: p.plane(is_mutual=False), lambda p: p.peer(ca=p.other_ca),
        f"{NOT_TRUSTED}: unable to get local issuer certificate",
    ),
    "the system's authorities": (
        lambda p: p.plane(is_mutual=False), lambda p: None,
        f"{NOT_TRUSTED}: unable to get local issuer certificate",
    ),
    "wrong host": (
        lambda p: p.plane(p.elsewhere, is_mutual=False), lambda p: p.peer(),
        f"{NOT_TRUSTED}: IP address mismatch, certificate is not valid for '127.0.0.1'.",
    ),
    "expired": (
        lambda p: p.plane(p.old, is_mutual=False), lambda p: p.peer(),
        f"{NOT_TRUSTED}: certificate has expired",
    ),
}  # fmt: skip
PEER_IS_WRONG: dict[str, tuple[Callable[[Papers], Any], Callable[[Papers], Any], str]] = {
    "no certificate": (
        lambda p: p.plane(is_mutual=True), lambda p: p.peer(),
        "it wants a certificate (--tls-cert, --tls-key), and none was shown",
    ),
    "one of another authority": (
        lambda p: p.plane(is_mutual=True), lambda p: p.peer(p.stranger),
        f"{NOT_TRUSTING}: it is of an authority that it does not know",
    ),
    "one whose time is over": (
        lambda p: p.plane(is_mutual=True), lambda p: p.peer(p.old_client),
        f"{NOT_TRUSTING}: its time is over",
    ),
}  # fmt: skip
WRONG = PLANE_IS_WRONG | PEER_IS_WRONG


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
async def test_who_is_not_trusted_is_told_in_one_sentence_and_disturbs_nobody(
    dialler: Dialler,
    papers: Papers,
    case: tuple[Callable[[Papers], Any], Callable[[Papers], Any], str],
) -> None:
    make_plane, make_peer, why = case
    context = make_plane(papers)
    with serving(context) as url:
        with anyio.fail_after(30), pytest.raises(NotTrusted) as caught:
            async with dialler.dial(url, ssl_context=make_peer(papers)):
                pass
        assert str(caught.value) == f"no trust between here and {url}: {why}"
        if context.verify_mode == ssl.CERT_REQUIRED:
            await works(dialler.dial, url, papers.peer(papers.client))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
async def test_an_older_tls_has_its_sentences_too(
    dialler: Dialler, papers: Papers, version: ssl.TLSVersion
) -> None:
    with serving(papers.plane(is_mutual=True)) as url:
        context = papers.peer()
        context.maximum_version = version
        with anyio.fail_after(30), pytest.raises(NotTrusted, match="perhaps it wants a certif"):
            async with dialler.dial(url, ssl_context=context):
                pass


async def test_plain_text_where_tls_is_spoken_is_told_so(dialler: Dialler, papers: Papers) -> None:
    with serving(papers.plane(is_mutual=True)) as url:
        plain = url.replace("wss://", "ws://")
        with anyio.fail_after(30), pytest.raises(NotAPlane) as caught:
            async with dialler.dial(plain):
                pass
        assert "this is a Creche plane: it speaks TLS: write wss://, and not ws://" in str(
            caught.value
        )
        await works(dialler.dial, url, papers.peer(papers.client))


async def test_tls_where_plain_text_is_spoken_is_told_so(dialler: Dialler, papers: Papers) -> None:
    with serving(None) as url:
        tls = url.replace("ws://", "wss://")
        with anyio.fail_after(30), pytest.raises(PlaneUnreachable) as caught:
            async with dialler.dial(tls, ssl_context=papers.peer()):
                pass
        assert "it does not speak TLS: is it ws://, and not wss://?" in str(caught.value)
        await works(dialler.dial, url, None)


@pytest.mark.parametrize("dialler", [DIALLERS["trio"]], ids=["trio"], indirect=True)
async def test_garbage_and_silence_on_a_tls_port_end_one_connection(
    dialler: Dialler, papers: Papers, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(papers.plane(is_mutual=True)) as url:
        port = int(url.rpartition(":")[2])
        with caplog.at_level(logging.INFO, logger="creche.channel"):
            for data in (
                b"\x00" * 100,
                b"\x16\x03\x01\xff\xff" + b"x" * 100,
                b"\xff" * 70_000,
                b"",
            ):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                    with contextlib.suppress(ConnectionError):
                        sock.sendall(data)
                        sock.shutdown(socket.SHUT_WR)
                        while sock.recv(65536):
                            pass
                await works(dialler.dial, url, papers.peer(papers.client))
        said = [r.getMessage() for r in caplog.records if "did not become a peer" in r.getMessage()]
        assert len(said) == 4, said


# --- files --------------------------------------------------------------------------------------


BAD_FILES: dict[str, tuple[Callable[[Papers], TlsFiles], str]] = {
    "no such certificate": (
        lambda p: TlsFiles(cert="none.pem"), "--tls-cert: none.pem cannot be read: No such file"),
    "no such key": (
        lambda p: TlsFiles(cert=p.client[0], key="none.key"), "--tls-key: none.key cannot be read"),
    "no such authority": (
        lambda p: TlsFiles("none.pem", *p.client), "--tls-ca: none.pem cannot be read"),
    "a certificate without its key": (
        lambda p: TlsFiles(cert=p.client[0]), "does not hold a certificate with its key"),
    "a key without a certificate": (
        lambda p: TlsFiles(key=p.client[1]), "--tls-key is there without --tls-cert"),
    "another's key": (
        lambda p: TlsFiles(cert=p.client[0], key=p.server[1]), "is not the key of "),
    "no certificate in it": (
        lambda p: TlsFiles(cert=p.client[1], key=p.client[1]), "hold no certificate and key"),
    "no authority in it": (
        lambda p: TlsFiles(p.client[1], *p.client), "holds no certificate in PEM"),
}  # fmt: skip


@pytest.mark.parametrize("dialler", [DIALLERS["trio"]], ids=["trio"], indirect=True)
@pytest.mark.parametrize("case", BAD_FILES.values(), ids=BAD_FILES.keys())
@pytest.mark.parametrize("side", ["for_peer", "for_plane"])
async def test_a_file_that_cannot_be_used_is_named(
    dialler: Dialler, papers: Papers, case: tuple[Callable[[Papers], TlsFiles], str], side: str
) -> None:
    make, why = case
    with pytest.raises(SettingsError) as caught:
        getattr(make(papers), side)()
    assert why in str(caught.value)


@pytest.mark.parametrize("dialler", [DIALLERS["trio"]], ids=["trio"], indirect=True)
async def test_a_key_that_wants_a_passphrase_is_not_asked_for(
    dialler: Dialler, papers: Papers, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    key = s.load_pem_private_key(Path(papers.client[1]).read_bytes(), None)  # noqa: ASYNC240
    locked.write_bytes(
        key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"hush"))
    )
    with pytest.raises(SettingsError, match="wants a passphrase: store the key without one"):
        TlsFiles(cert=papers.client[0], key=str(locked)).for_plane()


@pytest.mark.parametrize("dialler", [DIALLERS["trio"]], ids=["trio"], indirect=True)
async def test_what_is_for_tls_is_refused_where_plain_text_is_spoken(
    dialler: Dialler, papers: Papers
) -> None:
    environment = {"CRECHE_TLS_CA": papers.ca}
    with pytest.raises(
        SettingsError, match=r"\(CRECHE_TLS_...\) is for TLS, and ws://h:1 is plain"
    ):
        checked_context("ws://h:1", None, environment)
    with pytest.raises(SettingsError, match="tls is for TLS"):
        checked_context("ws://h:1", papers.peer(), {})
    assert checked_context("ws://h:1", None, {}) is None
    assert checked_context("wss://h", None, {}) is None
    assert checked_context("wss://h", None, environment) is not None
