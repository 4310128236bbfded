"""`creche tokens`, and the file that it writes and a plane reads."""

from __future__ import annotations

import json
import logging
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from tests.unit.channel.test_trio_ws import CRECHE, UPGRADE

from creche.channel.base import Channel
from creche.channel.handshake import parse_url
from creche.channel.tls import TlsFiles
from creche.cli import doors as cli_doors
from creche.cli.app import run
from creche.cli.doors import Doors, Listener, open_doors, reaches_out
from creche.cli.handing import hand_over, taken_over
from creche.cli.tokens_file import LOOK_S, keep_tokens, load_file, load_tokens
from creche.engine.doors import OPEN_DOOR, Door, TokenDoor
from creche.errors import ChannelBroken, Refused, SettingsError
from creche.model.access import AccessRole, owner_of
from creche.peer.credential import TokenFile
from creche.wire.session import Role


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["tokens", "new", "--tokens", "tokens", *words]) == 0
    return capsys.readouterr().out.strip()


def test_a_token_is_printed_once_and_kept_as_a_hash(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    word = made(capsys, "--role", "submit,work", "--queues", "images,mail.*", "--note", "the shop")
    file = tmp_path / "tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert word not in file.read_text()
    token = owner_of(word, load_tokens("tokens"))
    assert token is not None
    assert token.roles == {AccessRole.SUBMIT, AccessRole.WORK}
    assert (token.queues, token.expires_at, token.note) == (("images", "mail.*"), None, "the shop")
    assert run(["tokens", "ls", "--tokens", "tokens"]) == 0
    out, err = capsys.readouterr()
    assert "submit, work" in out
    assert "images, mail.*" in out
    assert word.split("_", 2)[2] not in out + err


@pytest.fixture
def umask_of_most_systems() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_of_most_systems")
def test_a_token_that_is_put_into_a_file_is_read_by_its_user_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert made(capsys, "--role", "view", "--out", "my.token") == ""
    assert stat.S_IMODE(os.stat("my.token").st_mode) == 0o600
    word = Path("my.token").read_text().strip()
    token = owner_of(word, load_tokens("tokens"))
    assert token is not None
    assert TokenFile("my.token", "--token-file")() == word
    words = ["tokens", "new", "--tokens", "tokens", "--role", "view", "--out", "new.token"]
    assert run([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["token_file"] == "new.token"
    assert Path("new.token").read_text().strip() not in out + err


def test_a_token_is_written_over_nothing_and_not_made_where_it_cannot_be_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made(capsys, "--role", "view")
    before = Path("tokens").read_text()
    os.symlink("elsewhere", "link")
    for out, why in (
        ("tokens", "--out: tokens is there already, and is not written over"),
        ("link", "--out: link is there already"),
        ("none/my.token", "--out: none/my.token cannot be written: No such file or directory"),
        ("/dev/full", "--out: /dev/full is there already"),
    ):
        assert run(["tokens", "new", "--tokens", "tokens", "--role", "view", "--out", out]) == 2
        assert why in capsys.readouterr().err
    # The other way round: what is not among the tokens is of no use.
    write(b"nonsense")
    assert run(["tokens", "new", "--tokens", "tokens", "--role", "view", "--out", "my.token"]) == 2
    assert sorted(os.listdir()) == ["link", "tokens"]
    write(before.encode())
    assert len(load_tokens("tokens")) == 1


def test_its_time_is_counted_from_now(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens", "new", "--tokens", "t", "--role", "view", "--ttl", "2h", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (token,) = load_tokens("t").values()
    assert document["expires_at"] == token.expires_at
    assert document["token"].startswith(f"creche_{token.id}_")


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59.999+00:00", "0001-01-01T00:00+00:00", "2027-01-31T18:30+14:00"]
)
def test_whatever_moment_a_token_may_say_is_listed(
    moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys, "--role", "view", "--ttl", "36500d")
    (token,) = load_tokens("tokens").values()
    expires_at = datetime.fromisoformat(moment).timestamp()
    write(f"{replace(token, expires_at=expires_at).as_line()}\n".encode())
    assert run(["tokens", "ls", "--tokens", "tokens"]) == 0
    assert load_tokens("tokens")[token.id].expires_at == expires_at
    assert run(["tokens", "ls", "--tokens", "tokens", "--json"]) == 0
    assert run(["tokens", "revoke", token.id, "--tokens", "tokens"]) == 0


def test_a_token_that_is_revoked_is_gone_and_the_others_stay(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = made(capsys, "--role", "admin"), made(capsys, "--role", "view")
    assert run(["tokens", "revoke", first.split("_")[1], "--tokens", "tokens"]) == 0
    assert owner_of(first, load_tokens("tokens")) is None
    assert owner_of(second, load_tokens("tokens")) is not None
    assert run(["tokens", "revoke", "abcdef", "--tokens", "tokens"]) == 3
    assert "has no token 'abcdef': there are " in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["tokens"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["new", "--role", "root"], "'root' is no role: there are view, submit, work"),
        (["new"], "what is it for? --role says it: view, submit"),
        (["new", "--role", "admin", "--queues", "a"], "admin is about all of them"),
        (["new", "--role", "view", "--ttl", "soon"], "a time above 0, as in 30d"),
        (["new", "--role", "view", "--ttl", "0d"], "a time above 0, as in 30d"),
        (["new", "--role", "view", "--ttl", "999999999d"], "a time of at most 36500d"),
        (["new", "--role", "view", "--ttl", "36501d"], "left out, it is valid for ever"),
        (["ls"], "the file of tokens, none, cannot be read: No such file or directory"),
        (["revoke", "abcdef"], "the file of tokens, none, cannot be read"),
    ],
)
def test_what_cannot_be_made_is_code_2_and_a_sentence(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "tokens" if words[0] == "new" else "none"
    assert run(["tokens", *words, "--tokens", path]) == 2
    assert why in capsys.readouterr().err
    assert not os.listdir()


def test_which_file_has_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens", "ls"]) == 2
    assert "--tokens FILE names it" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o610])
def test_a_file_that_others_can_open_is_refused_with_the_way_to_shut_it(mode: int) -> None:
    Path("tokens").touch()
    os.chmod("tokens", mode)
    with pytest.raises(SettingsError, match=rf"mode {mode:04o}\): `chmod 600 tokens` shuts it"):
        load_tokens("tokens")
    os.chmod("tokens", 0o400)
    assert load_tokens("tokens") == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_used() -> None:
    Path("tokens").touch(0o600)
    os.chown("tokens", 12345, -1)
    with pytest.raises(SettingsError) as caught:
        load_tokens("tokens")
    assert str(caught.value) == (
        "tokens belongs to user 12345, who could let anyone in: it has to belong to the user that "
        "this runs as, who is 0"
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xfe", "is no text"),
        (b"nonsense", "tokens, line 1: it is no JSON object"),
        (b"#" * (4 * 1024 * 1024 + 1), "has more than 4,194,304 bytes"),
        (None, "is no file"),
    ],
)
def test_a_file_that_holds_something_else_is_told(data: bytes | None, why: str) -> None:
    if data is None:
        os.mkfifo("tokens", 0o600)
    else:
        Path("tokens").write_bytes(data)
        os.chmod("tokens", 0o600)
    with pytest.raises(SettingsError) as caught:
        load_tokens("tokens")
    assert why in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_token_is_no_file_of_tokens_and_that_is_told_without_showing_it(
    mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    word = made(capsys, "--role", "admin")
    Path("my.token").write_text(f"{word}\n")
    os.chmod("my.token", mode)
    assert run(["control-plane", "--store", "memory:", "--no-gui", "--tokens", "my.token"]) == 2
    assert capsys.readouterr().err == (
        "error: my.token holds a token, and not what a plane keeps of them: "
        "is it for --token-file?\n"
    )


def test_a_file_of_tokens_is_no_token_and_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):  # of one line, and of more than is read of a token
        made(capsys, "--role", "admin", "--note", "x" * 1000 * number)
        assert run(["health", "--connect", "ws://127.0.0.1:1", "--token-file", "tokens"]) == 2
        assert capsys.readouterr().err == (
            "error: --token-file: tokens holds what a plane keeps of tokens, and none of them: "
            "is it for `creche control-plane --tokens`?\n"
        )


@pytest.mark.parametrize("words", [["--note", "{}"], ["--note", "for {}, ok?"], ["--queues", "{}"]])
def test_what_is_kept_of_a_token_may_hold_no_other_one(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    word = made(capsys, "--role", "work")
    more = [each.format(word) for each in words]
    assert run(["tokens", "new", "--tokens", "tokens", "--role", "work", *more]) == 2
    out, err = capsys.readouterr()
    assert f"{words[0]} holds a token, which would be kept as it is" in err
    assert word.split("_", 2)[2] not in out + err + Path("tokens").read_text()


def test_a_command_is_not_shown_two_tokens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my.token").write_text("one")
    monkeypatch.setenv("CRECHE_TOKEN", "two")
    monkeypatch.setenv("CRECHE_TOKEN_FILE", "my.token")
    for words in (["health"], ["queues", "ls"], ["submit", "add"]):
        assert run([*words, "--connect", "ws://127.0.0.1:1"]) == 2
        said = "error: CRECHE_TOKEN and CRECHE_TOKEN_FILE are both set: set one of them\n"
        assert capsys.readouterr().err == said


def write(data: bytes) -> None:
    Path("tokens").write_bytes(data)


def lets_in(door: Door, word: str) -> bool:
    try:
        door.admit(word, Role.CLIENT, 0.0)
    except Refused:
        return False
    return True


@contextmanager
def opened() -> Iterator[Doors]:
    """The doors of a plane that has read the file, as when it starts."""
    doors = OPEN(("127.0.0.1", 0), "tokens", TlsFiles())
    try:
        yield doors
    finally:
        for fd in (doors.worker_fd, doors.page_fd):
            assert fd is not None
            os.close(fd)


@pytest.mark.trio
async def test_a_token_that_is_taken_away_while_the_plane_starts_is_taken_away(
    autojump_clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between reading the file and looking after it a plane checks modules, for a minute."""
    first, second = made(capsys, "--role", "admin"), made(capsys, "--role", "view")
    with opened() as doors:
        assert run(["tokens", "revoke", first.split("_")[1], "--tokens", "tokens"]) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doors.keep)
            await trio.sleep(3 * LOOK_S)
            assert not lets_in(doors.front.door, first)
            assert lets_in(doors.front.door, second)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_file_that_changes_is_read_again_and_a_bad_one_changes_nothing(
    autojump_clock, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    word = made(capsys, "--role", "view")
    loaded = load_file("tokens")
    door = TokenDoor(loaded.tokens)

    def is_let_in() -> bool:
        return lets_in(door, word)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_tokens, loaded, door)
        assert is_let_in()
        await trio.sleep(3 * LOOK_S)
        for data in (b"nonsense", None):
            if data is None:
                os.unlink("tokens")
            else:
                write(data)
            await trio.sleep(3 * LOOK_S)
            assert is_let_in()
        said = [record for record in caplog.records if "the tokens stay" in record.getMessage()]
        assert len(said) == 2
        made(capsys, "--role", "admin")
        await trio.sleep(3 * LOOK_S)
        assert not is_let_in()
        # Whoever writes it anew may be in the middle of that.
        write(b"")
        await trio.sleep(LOOK_S)
        run(["tokens", "new", "--tokens", "tokens", "--role", "view"])
        await trio.sleep(3 * LOOK_S)
        door.admit(capsys.readouterr().out.strip(), Role.CLIENT, 0.0)
        nursery.cancel_scope.cancel()


@contextmanager
def open_to_others() -> Iterator[None]:
    os.chmod("tokens", 0o644)
    yield
    os.chmod("tokens", 0o600)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(2)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("trouble", "why"),
    [(open_to_others, "is open to others"), (no_descriptor_left, "Too many open files")],
)
async def test_a_file_that_is_refused_is_read_when_that_is_mended(
    trouble: Callable[[], AbstractContextManager[None]],
    why: str,
    autojump_clock,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error says `chmod 600`, which changes neither what is in it nor when it was written."""
    first, second = made(capsys, "--role", "admin"), made(capsys, "--role", "view")
    with opened() as doors:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doors.keep)
            assert run(["tokens", "revoke", first.split("_")[1], "--tokens", "tokens"]) == 0
            with trouble():
                await trio.sleep(9 * LOOK_S)
                said = [each for each in caplog.messages if "the tokens stay as they were" in each]
                assert len(said) == 1
                assert why in said[0]
                assert lets_in(doors.front.door, first)
            await trio.sleep(3 * LOOK_S)
            assert not lets_in(doors.front.door, first)
            assert lets_in(doors.front.door, second)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_file_without_a_token_is_warned_of(
    autojump_clock, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is what it says, and sends everybody away, who may have emptied it by mistake."""
    word = made(capsys, "--role", "admin")
    nobody = "tokens has no tokens: nobody comes in"
    with opened() as doors:
        assert nobody not in capsys.readouterr().err
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doors.keep)
            write(b"# all of them are gone\n")
            await trio.sleep(3 * LOOK_S)
            assert not lets_in(doors.front.door, word)
            (said,) = caplog.records
            assert said.levelno == logging.WARNING
            assert nobody in said.getMessage()
            nursery.cancel_scope.cancel()
    with opened():
        assert f"warning: {nobody}" in capsys.readouterr().err


def test_a_secret_is_handed_over_and_taken_over_as_often_as_needed() -> None:
    fd = hand_over("creche_a_secret")
    try:
        assert taken_over(fd)() == taken_over(fd)() == "creche_a_secret"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    with pytest.raises(SettingsError, match=f"--credential-fd {fd} holds no token"):
        taken_over(fd)


# --- where a plane listens ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_far"),
    [("127.0.0.1", False), ("127.9.9.9", False), ("localhost", False), ("0.0.0.0", True),
     ("10.0.0.7", True), ("no.such.host.invalid", False)],
)  # fmt: skip
def test_whether_other_machines_reach_it_is_told_by_all_its_addresses(
    host: str, is_far: bool
) -> None:
    assert reaches_out(host, 5570) is is_far


OPEN = partial(open_doors, is_insecure=False, origins=(), hosts=())


def test_on_the_loopback_nobody_has_to_show_anything() -> None:
    doors = OPEN(("127.0.0.1", 5570), None, TlsFiles())
    assert doors.front.door is OPEN_DOOR
    assert doors.inside is None
    assert doors.worker_fd is None


def test_off_the_loopback_a_plane_without_credentials_does_not_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["control-plane", "--no-gui", "--store", "memory:", "--listen", "ws://0.0.0.0:0"]
    assert run(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --listen 0.0.0.0:0 is reached from other machines")
    for way in ("creche tokens new", "--tokens FILE", "--tls-ca", "--insecure"):
        assert way in line


@pytest.mark.trio
@pytest.mark.parametrize(
    ("hosts", "answers"),
    [
        ((), {"evil.test": b"101", "localhost": b"101", "creche.example": b"101"}),
        (("Creche.example",), {"evil.test": b"403", "localhost": b"101", "creche.example": b"101"}),
    ],
)
async def test_off_the_loopback_a_plane_is_called_by_the_names_that_it_was_given(
    hosts: tuple[str, ...], answers: dict[str, bytes]
) -> None:
    """Where it was given none, it cannot know how it is called."""

    async def heard(channel: Channel) -> None:
        with suppress(ChannelBroken):
            await channel.receive()

    doors = open_doors(
        ("0.0.0.0", 0), None, TlsFiles(), is_insecure=True, origins=(), hosts=hosts
    )  # fmt: skip
    listener = doors.front.listen
    assert isinstance(listener, Listener)
    listener._host = "127.0.0.1"  # the tests themselves are reached by nobody
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(listener, heard))
            for host, status in answers.items():
                stream = await trio.open_tcp_stream("127.0.0.1", parse_url(url).port)
                async with stream:
                    request = UPGRADE.replace(b"Host: plane", f"Host: {host}:5570".encode())
                    await stream.send_all(request + CRECHE + b"\r\n")
                    assert (await stream.receive_some()).split()[1] == status, host
            nursery.cancel_scope.cancel()


def test_who_insists_is_warned(capsys: pytest.CaptureFixture[str]) -> None:
    doors = OPEN(("0.0.0.0", 0), None, TlsFiles(), is_insecure=True)
    assert doors.front.door is OPEN_DOOR
    assert "everybody who reaches 0.0.0.0:0 may submit" in capsys.readouterr().err


def test_tokens_in_plain_text_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys, "--role", "admin")
    doors = OPEN(("0.0.0.0", 0), "tokens", TlsFiles())
    try:
        assert isinstance(doors.front.door, TokenDoor)
        assert doors.inside is not None
        assert "tokens travel to 0.0.0.0:0 in plain text" in capsys.readouterr().err
    finally:
        for fd in (doors.worker_fd, doors.page_fd):
            assert fd is not None
            os.close(fd)


@pytest.mark.parametrize("origin", ["example.org", "https://", "https://a/path", "://a", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"it looks like https://example\.org"):
        cli_doors._checked_origin(origin)
    assert cli_doors._checked_origin("HTTPS://Example.org/") == "https://example.org"
