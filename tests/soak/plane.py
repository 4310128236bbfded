"""A plane that keeps little for long, so that all it has kept is let go of within a soak: and, if
`CRECHE_SOAK_PLANT` says so, one with a leak. `python -m tests.soak.plane`, and the words of
`creche`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import trio

from creche import events
from creche.__main__ import main

KEPT_S = 20.0
"""How long an id is known when its result is forgotten, and how long a dead job stays."""

PLANTS = ("memory", "descriptors", "tasks")
_leaked: list[Any] = []


def leak(what: str) -> None:
    """Keep something for ever."""
    if what == "memory":
        _leaked.append(os.urandom(300_000))
    elif what == "descriptors":
        _leaked.append(os.dup(0))
    elif what == "tasks":
        trio.lowlevel.spawn_system_task(trio.sleep_forever)


class LeakingHub(events.Hub):
    """Leaks a little for each peer that comes."""

    __slots__ = ()

    def emit(self, event: events.Event) -> None:
        super().emit(event)
        if isinstance(event, events.PeerCame):
            leak(os.environ.get("CRECHE_SOAK_PLANT", ""))


if __name__ == "__main__":
    from creche.cli import control_plane
    from creche.engine import plane

    control_plane.DISK_RETENTION = replace(  # type: ignore[attr-defined]
        control_plane.DISK_RETENTION, tombstone_s=KEPT_S, dead_max_age_s=KEPT_S
    )
    plane.Hub = LeakingHub  # type: ignore[misc]
    main()
