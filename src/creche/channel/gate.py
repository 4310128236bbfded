"""Keeping web pages out: whatever page somebody looks at can make their browser dial a plane on
their own machine.

A browser says in `Origin` which page it is that dials, and no page can change that. Peers of ours
are no browsers and do not say it. A name that an attacker has made to point to this machine is
found by what the browser then names in `Host`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True)
class Gate:
    """Which handshakes are looked at any further.

    *origins* are those of web pages that may dial, as ``https://example.org``; *hosts* the names by
    which this plane may be called, in lower case and without a port; None: any.
    """

    origins: Collection[str] = ()
    hosts: Collection[str] | None = None

    def why_shut(self, headers: Sequence[tuple[bytes, bytes]], host: str) -> str | None:
        """Return why a handshake with these headers is refused; None if it is not."""
        for name, value in headers:
            if name.lower() != b"origin":
                continue
            origin = value.decode("latin-1").strip()
            if origin.lower() not in self.origins:
                return (
                    f"web pages may not dial it, and this comes from one at {origin!r:.100} "
                    "(--allow-origin lets one in)"
                )
        if self.hosts is not None and host_name(host) not in self.hosts:
            return f"it is not called {host_name(host)!r:.100} (--allow-host gives it another name)"
        return None


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header, in lower case and without its port."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and (port.isdigit() or not port) else host.strip().lower()
