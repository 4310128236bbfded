"""What `creche control-plane` says when it is ready, and how long it waits before."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

import pytest
import trio
from tests.cluster.scripted import open_house

from creche.channel.memory import MemoryListener
from creche.cli.control_plane import _House, _LocalWorkers, _probe
from creche.cli.doors import Doors
from creche.cli.systemd import Manager
from creche.engine.doors import OPEN_DOOR
from creche.engine.plane import Entrance, Running
from creche.engine.settings import PlaneSettings

pytestmark = pytest.mark.trio


async def told(address: str, *, tasks: Sequence[str] = (), number: int = 0) -> float:
    """Have a plane say that it is ready; return how long that took, in virtual seconds."""
    local = _LocalWorkers(
        *(["shop"], tasks, number, number, 10, "coroutine", "local", PlaneSettings()),
        used_up=(None, None),
        reload=False,
    )
    doors = Doors(Entrance(MemoryListener().serve, OPEN_DOOR))
    house = _House(
        "memory:", None, PlaneSettings(), local, None, "info", None, Manager(None), doors
    )
    async with open_house() as opened:
        began = trio.current_time()
        await house.tell(Running((address,), 1, opened.core, address), trio.Event())
        return trio.current_time() - began


async def test_workers_that_have_no_task_are_not_waited_for(autojump_clock) -> None:
    assert await told("ws://127.0.0.1:5570", number=1) == 0
    assert await told("ws://127.0.0.1:5570", number=1, tasks=["add"]) == pytest.approx(10.0)


async def test_a_port_is_tried_at_the_address_that_the_system_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int, *args: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args)

    places = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    bound, port = _probe("localhost", 0)
    assert bound == "127.0.0.1"
    assert port > 0
    del places[1]
    with pytest.raises(OSError, match="not supported"):
        _probe("localhost", 0)


@pytest.mark.parametrize(
    ("address", "option"),
    [
        ("ws://127.0.0.1:5570", ""),
        ("ws://0.0.0.0:5570", ""),
        ("ws://127.0.0.1:5579", " --connect ws://127.0.0.1:5579"),
        ("ws://[::]:5570", " --connect ws://[::1]:5570"),
        ("ws://10.0.0.7:5570", " --connect ws://10.0.0.7:5570"),
        ("wss://10.0.0.7:5570", " --connect wss://10.0.0.7:5570"),
    ],
)
async def test_the_hint_how_to_join_names_an_unusual_address(
    autojump_clock, capsys: pytest.CaptureFixture[str], address: str, option: str
) -> None:
    await told(address)
    assert f"`creche worker{option} --task-modules ...` joins" in capsys.readouterr().err
