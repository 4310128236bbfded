"""How many descriptors a plane may have, and how many peers there is room for with them.

A peer is a descriptor, and a plane that has none left can start no worker and take in no peer. So
it takes as many as it has a use for, and knows no more peers than leave it what it needs itself.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from creche.channel.lobby import MAX_STRANGERS

logger = logging.getLogger("creche.plane")

OWN = 128
"""Descriptors that a plane has for its store, its listeners, its log and its page."""

PER_WORKER = 4
"""And for each local worker, which it may be starting anew."""

LEAST_PART = 4
"""With few descriptors, peers have at least one in so many of them."""


def reserve(workers: int) -> int:
    """Return how many descriptors are not for peers that have introduced themselves."""
    return MAX_STRANGERS + OWN + PER_WORKER * workers


def peers_for(descriptors: int, most: int, workers: int) -> int:
    """Return how many peers there is room for, *most* if possible."""
    room = max(descriptors - reserve(workers), descriptors // LEAST_PART)
    return min(most, max(1, room))


def room_for_peers(most: int, workers: int) -> int:
    """Have as many descriptors as *most* peers take, if the system lets us; return for how many
    peers there are enough."""
    descriptors = _raise_limit(most + reserve(workers))
    peers = most if descriptors is None else peers_for(descriptors, most, workers)
    if peers < most:
        logger.info(
            "this process may have %s descriptors: there is room for %s peers, and not for %s "
            "(LimitNOFILE= of systemd, `ulimit -Hn` of a shell)",
            *(f"{number:,}" for number in (descriptors, peers, most)),
        )
    return peers


def _raise_limit(wanted: int) -> int | None:
    """Return how many descriptors this process may have, which are *wanted* or more if the system
    lets us; None if that has no limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        # A sandbox may forbid it.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
