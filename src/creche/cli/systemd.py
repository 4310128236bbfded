"""What systemd is told of a service with ``Type=notify``: that it is ready, stops, and is alive.

The protocol is one datagram of lines to a socket that the environment names (sd_notify(3)). Where
it names none, nothing is said.
"""

from __future__ import annotations

import logging
import os
import socket

import trio

logger = logging.getLogger("creche")


class Manager:
    """The service manager that has started this process, if one has.

    Args:
        address: of its socket, as NOTIFY_SOCKET has it; None: there is none.
        watchdog_s: how often it wants to hear that this process is alive; None: not at all.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = address
        self._environment: dict[str, str] = {}
        self.watchdog_s = watchdog_s if address is not None else None

    @classmethod
    def of_this_process(cls) -> Manager:
        """Return the one that the environment names, and let no child take it for its own."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        interval, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        is_ours = interval.isdigit() and int(interval) > 0 and pid in ("", str(os.getpid()))
        manager = cls(address or None, int(interval) / 1e6 if is_ours else None)
        said = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": interval, "WATCHDOG_PID": pid}
        manager._environment = {name: value for name, value in said.items() if value}
        return manager

    def hand_on(self) -> None:
        """Let the environment name it again: another program is about to be this process."""
        os.environ.update(self._environment)

    def tell(self, *lines: str) -> None:
        """Say *lines*, such as ``READY=1``. One that cannot be told is no reason to end."""
        if self._address is None:
            return
        # A socket without a name in the file system begins with a zero byte, written as @.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode("utf-8"), address)
        except OSError as error:
            logger.debug("the service manager cannot be told: %s", error)

    async def keep_alive(self) -> None:
        """Say that this process's loop runs, twice as often as is wanted, until cancelled."""
        if self.watchdog_s is None:
            return
        while True:
            self.tell("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / 2)
