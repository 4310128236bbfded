"""Where a peer's token comes from, and that it is never said."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from creche.client.blocking import BlockingClient
from creche.client.client import Client
from creche.errors import SettingsError
from creche.peer.credential import TokenFile, credential_of, no_credential
from creche.wire import messages as m

WORD = "creche_abcdef012345_" + "s" * 43


def test_what_is_given_comes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{WORD}\n")
    other = {"CRECHE_TOKEN": "other"}
    assert credential_of(WORD, environment=other)() == WORD
    assert credential_of(lambda: WORD, environment=other)() == WORD
    assert credential_of(None, str(file), environment=other)() == WORD
    assert credential_of(None, environment=other)() == "other"
    assert credential_of(None, environment={"CRECHE_TOKEN_FILE": str(file)})() == WORD
    assert credential_of(None, environment={"CRECHE_TOKEN": ""}) is no_credential
    assert no_credential() is None


def test_a_file_is_read_again_and_one_that_is_gone_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    credential = TokenFile(str(file), "--token-file")
    assert credential() == "first"
    file.write_text("second")
    assert credential() == "second"
    file.unlink()
    with caplog.at_level(logging.WARNING, logger="creche.peer"):
        assert credential() == "second"
    assert "the token that it had is shown" in caplog.text
    assert "second" not in caplog.text


def test_a_file_that_everybody_can_read_is_warned_of_with_the_way_to_shut_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(WORD)
    file.chmod(0o640)  # a group may be meant; systemd and others show so who is let in besides
    credential = TokenFile(str(file), "--token-file")
    assert not caplog.records
    file.chmod(0o644)
    assert credential() == credential() == WORD
    (said,) = caplog.messages
    assert said == (
        f"--token-file: everybody on this machine can read {file} (mode 0644): "
        f"`chmod 600 {file}` shuts it"
    )
    heard: list[str] = []
    assert credential_of(None, str(file), on_warning=heard.append)() == WORD
    assert heard == [said]


def test_what_can_be_read_once_is_read_once(tmp_path: Path) -> None:
    """As a shell's ``<(pass show creche)`` is; a second look would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = threading.Thread(target=pipe.write_text, args=(WORD,))
    writer.start()
    credential = credential_of(None, str(pipe))
    writer.join()
    assert credential() == credential() == WORD


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "it is empty"),
        (b"two words", "one word of at most"),
        (b"x" * 5000, "one word of at most"),
        (b"\xff\xfe", "holds no token"),
    ],
)
def test_a_file_without_a_token_is_told_by_its_name(
    tmp_path: Path, data: bytes | None, why: str
) -> None:
    file = tmp_path / "token"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        credential_of(None, str(file))
    assert str(file) in str(caught.value)
    assert why in str(caught.value)
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("token_file", [None, "b"])
def test_two_variables_at_once_are_one_too_many(token_file: str | None, tmp_path: Path) -> None:
    """A command has read one of them already."""
    both = {"CRECHE_TOKEN": "a", "CRECHE_TOKEN_FILE": "b"}
    with pytest.raises(SettingsError, match="set one of them"):
        credential_of(None, token_file, environment=both)
    file = tmp_path / "typed"
    file.write_text(WORD)
    assert credential_of(None, str(file), environment=both)() == WORD
    assert credential_of("given", environment=both)() == "given"


@pytest.mark.parametrize("kind", [Client, BlockingClient])
@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", 5])
def test_a_client_refuses_what_can_be_no_token_without_showing_it(
    kind: type[Client] | type[BlockingClient], token: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        kind(token=token)
    assert "two words" not in str(caught.value)


def test_nothing_that_holds_a_token_shows_it() -> None:
    client = Client(token=WORD)
    hello = m.Hello([1], "client", b"0" * 16, "n", b"0" * 16, [], {}, WORD)
    shown = [repr(client), str(vars(client)), repr(client._credential), repr(hello), str(hello)]
    shown += [f"{hello}", repr([hello]), repr(hello._replace(name="x"))]
    assert not [text for text in shown if "sss" in text]
    assert "credential='***'" in repr(hello)
    assert hello.credential == WORD
