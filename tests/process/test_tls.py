"""Mutual TLS around real processes: plane, local worker, page, worker, commands and programs."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.process.test_cli import Plane, creche, environment, start, until

from creche import BlockingClient
from creche.errors import NotTrusted

TASKS = """
from creche import task

@task
def add(a: int, b: int = 10) -> int:
    return a + b
"""


def keep(folder: Path, name: str, cert: trustme.LeafCert) -> None:
    for blob in cert.cert_chain_pems:
        blob.write_to_path(str(folder / f"{name}.pem"), append=True)
    cert.private_key_pem.write_to_path(str(folder / f"{name}.key"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "tasks.py").write_text(TASKS)
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    theirs.cert_pem.write_to_path(str(folder / "other-ca.pem"))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    keep(folder, "server", ours.issue_cert("127.0.0.1"))
    keep(folder, "peer", ours.issue_cert("peer@example.org"))
    keep(folder, "stranger", theirs.issue_cert("peer@example.org"))
    keep(folder, "old", ours.issue_cert("peer@example.org", not_after=yesterday))
    words = ("--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-ca", "ca.pem")
    made = start(folder, *words, "--gui-port", "0", "--task-modules", "tasks")
    try:
        yield made
    finally:
        made.end()


def papers(name: str | None, ca: str = "ca.pem") -> list[str]:
    shown = [] if name is None else ["--tls-cert", f"{name}.pem", "--tls-key", f"{name}.key"]
    return ["--tls-ca", ca, *shown]


def test_commands_show_their_certificate_and_check_the_planes(plane: Plane) -> None:
    assert plane.url.startswith("wss://127.0.0.1:")
    done = plane.run("submit", "add", "1", *papers("peer"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "11\n", "")
    names = ("CA", "ca.pem"), ("CERT", "peer.pem"), ("KEY", "peer.key")
    files = {f"CRECHE_TLS_{name}": str(plane.folder / file) for name, file in names}
    assert plane.run("submit", "add", "2", **files).stdout == "12\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (papers(None), "it wants a certificate (--tls-cert, --tls-key), and none was shown"),
        (papers("stranger"), "it is of an authority that it does not know"),
        (papers("old"), "it does not trust the certificate that it was shown: its time is over"),
        (papers("peer", "other-ca.pem"), "its certificate is not to be trusted: "),
    ],
    ids=["no certificate", "another authority's", "expired", "plane of another authority"],
)
def test_who_is_not_trusted_is_code_5_and_one_sentence_at_once(
    plane: Plane, words: list[str], why: str
) -> None:
    done = plane.run("health", *words)
    assert (done.returncode, done.stdout) == (5, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: no trust between here and {plane.url}: ")
    assert why in line
    assert plane.run("health", *papers("peer")).returncode == 0


def test_a_plain_text_command_is_told_to_speak_tls(plane: Plane) -> None:
    done = plane.run("health", "--connect", plane.url.replace("wss://", "ws://"))
    assert done.returncode == 4
    assert "it speaks TLS: write wss://, and not ws://" in done.stderr


def test_certificates_for_plain_text_are_a_mistake(plane: Plane) -> None:
    done = plane.run("health", "--connect", "ws://127.0.0.1:1", *papers("peer"))
    assert done.returncode == 2
    assert "is for TLS, and ws://127.0.0.1:1 is plain text: write wss://" in done.stderr


def test_a_worker_joins_with_its_certificate(plane: Plane) -> None:
    log = plane.folder / "worker.log"
    with log.open("wb") as sink:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "creche", "worker", "--task-modules", "tasks"),
                *("--worker-id", "w", "--connect", plane.url, *papers("peer")),
            ],
            cwd=plane.folder,
            env=environment(),
            stdout=sink,
            stderr=sink,
        )
    try:

        def names() -> set[str]:
            done = plane.run("workers", "ls", "--json", *papers("peer"))
            return {each["name"].split("-")[0] for each in json.loads(done.stdout)["workers"]}

        until(lambda: names() == {"local", "w"}, "both workers are there")
    finally:
        worker.terminate()
        assert worker.wait(60) == 0
    refused = ("worker", "--task-modules", "tasks", "--connect", plane.url, *papers(None))
    done = creche(*refused, cwd=plane.folder)
    assert done.returncode == 5
    assert "it wants a certificate" in done.stderr


def context(plane: Plane, name: str | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(plane.folder / "ca.pem"))
    if name is not None:
        made.load_cert_chain(plane.folder / f"{name}.pem", plane.folder / f"{name}.key")
    return made


def test_a_program_gives_a_context(plane: Plane) -> None:
    with BlockingClient(plane.url, tls=context(plane, "peer")) as client:
        assert client.delay("add", 3).result(timeout=60) == 13
    with pytest.raises(NotTrusted), BlockingClient(plane.url, tls=context(plane, None), timeout=60):
        pass


def test_the_page_is_at_https_and_wants_certificates_too(plane: Plane) -> None:
    (page,) = [
        line.split()[1] for line in plane.log.read_text().splitlines() if " page " in f" {line} "
        and line.split()[:1] == ["page"]
    ]  # fmt: skip
    assert page.startswith("https://127.0.0.1:")

    def overview(name: str | None) -> Any:
        url = f"{page}/api/v1/overview"
        with urllib.request.urlopen(url, timeout=30, context=context(plane, name)) as answer:
            return json.load(answer)

    until(lambda: overview("peer")["reachable"], "the page sees the plane")
    with pytest.raises((urllib.error.URLError, OSError)):
        overview(None)
    assert overview("peer")["reachable"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tls-key", "server.key"], "--tls-key is there without --tls-cert"),
        (["--tls-cert", "server.pem", "--tls-key", "peer.key"], "peer.key is not the key of serv"),
        (["--tls-cert", "none.pem"], "--tls-cert: none.pem cannot be read"),
        (["--tls-ca", "ca.pem"], "--tls-cert names the plane's certificate"),
    ],
)
def test_files_that_cannot_be_used_are_code_2(plane: Plane, words: list[str], why: str) -> None:
    done = plane.run("control-plane", "--no-gui", "--store", "memory:", *words)
    assert done.returncode == 2
    assert why in done.stderr


def test_a_certificate_is_a_credential_off_the_loopback(plane: Plane) -> None:
    """It comes as far as the port, which is in use."""
    port = plane.url.rpartition(":")[2]
    words = (
        "--tls-cert",
        "server.pem",
        "--tls-key",
        "server.key",
        "--no-gui",
        "--store",
        "memory:",
    )
    listen = ("--listen", f"wss://0.0.0.0:{port}")
    done = plane.run("control-plane", *words, *listen)
    assert (done.returncode, "--tls-ca" in done.stderr) == (2, True)
    done = plane.run("control-plane", *words, *listen, "--tls-ca", "ca.pem")
    assert (done.returncode, "the port is in use" in done.stderr) == (2, True)
