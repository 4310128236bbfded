"""What systemd hears of a service."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from creche.cli.systemd import Manager


@pytest.fixture
def manager_socket(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_nothing_is_said_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    manager = Manager.of_this_process()
    manager.tell("READY=1")
    assert manager.watchdog_s is None
    Manager("/nowhere/at/all").tell("READY=1")


def test_what_is_told_is_one_datagram(manager_socket: socket.socket) -> None:
    Manager(manager_socket.getsockname()).tell("READY=1", "STATUS=fine")
    assert manager_socket.recv(1000) == b"READY=1\nSTATUS=fine"


def test_an_address_without_a_file_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        name = f"creche-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        Manager(f"@{name}").tell("STOPPING=1")
        assert sock.recv(1000) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("pid", "usec", "watchdog_s"),
    [
        ("", "4000000", 4.0),
        ("ours", "500000", 0.5),
        ("1", "500000", None),
        ("", "x", None),
    ],
    ids=repr,
)
def test_the_environment_says_who_is_to_be_told_and_no_child_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, pid: str, usec: str, watchdog_s: float | None
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    manager = Manager.of_this_process()
    assert manager.watchdog_s == watchdog_s
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
    # But what this process becomes does, when it starts anew.
    manager.hand_on()
    assert os.environ["NOTIFY_SOCKET"] == "/run/notify"
    assert Manager.of_this_process().watchdog_s == watchdog_s


@pytest.mark.trio
async def test_the_watchdog_hears_twice_as_often_as_it_wants(
    manager_socket: socket.socket, autojump_clock: object
) -> None:
    manager = Manager(manager_socket.getsockname(), 10.0)
    with trio.move_on_after(26):
        await manager.keep_alive()
    manager_socket.setblocking(False)
    heard = 0
    while True:
        try:
            assert manager_socket.recv(1000) == b"WATCHDOG=1"
        except BlockingIOError:
            break
        heard += 1
    assert heard == 6
