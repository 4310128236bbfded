"""Every limit and default of a plane, in one place. `docs/limits.md` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from creche.store.base import Retention
from creche.wire import codec

MEMORY_RETENTION = Retention(
    max_count=10_000, max_bytes=256 * 1024 * 1024, max_age_s=3600.0, tombstone_s=3600.0,
    dead_max_count=1_000, dead_max_bytes=64 * 1024 * 1024, dead_max_age_s=24 * 3600.0,
)  # fmt: skip
"""What a plane with the memory store keeps of its ended jobs."""

DISK_RETENTION = Retention(
    max_count=None, max_bytes=4 * 1024 * 1024 * 1024, max_age_s=7 * 24 * 3600.0
)
"""What a plane with a store on disk keeps of its ended jobs."""


class Route(NamedTuple):
    """Jobs of tasks whose names fit *pattern* (``*``, ``?`` and ``[...]``, as for files) go to
    *queue*."""

    pattern: str
    queue: str


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """How a plane behaves. Durations in seconds, sizes in bytes.

    Raises:
        ValueError: not (0 < keep_alive_s < grace_s <= lease_s), a limit below one, or payloads too
            large for what peers read or for the outbox.
    """

    keep_alive_s: float = 10.0
    """How often a peer pings."""
    grace_s: float = 15.0
    """How long a session outlives its connection."""
    lease_s: float = 60.0
    """How long a silent worker keeps the right to its attempts."""
    drain_s: float = 30.0
    """How long a stopping plane waits for running attempts."""
    handshake_s: float = 10.0
    """How long a new connection may take to introduce itself."""

    window: int = 10_000
    """Jobs of one lane held in memory; what is beyond waits in the store."""
    window_bytes: int = 32 * 1024 * 1024
    """Payload bytes of one lane held in memory."""
    windows_bytes: int = 256 * 1024 * 1024
    """What all lanes together hold in memory: payloads, and about 600 bytes for each job; beyond, a
    lane holds what it needs to go on."""
    delays: int = 10_000
    """Delayed jobs in memory; what is beyond waits in the store until shortly before its time."""
    lanes: int = 10_000
    """Lanes in memory: of queues that clients name, and of tasks that not every worker knows."""
    fairness: int | None = None
    """After so many jobs have overtaken a lower lane it may pass once; None: strict order."""
    routes: Sequence[Route] | None = None
    """Where jobs go whose submission and task name no queue: the first route whose pattern fits the
    task's name counts."""
    look_ahead_s: float = 0.005
    """How much measured work a worker is given beyond its slots."""
    look_ahead: int = 512
    """How many attempts a worker is given beyond its slots, at the most."""
    max_losses: int = 3
    """A job whose attempts lost so many workers is set aside as failed."""
    max_children: int = 10_000
    """Unfinished jobs that one running job may have submitted."""
    max_lent: int = 1000
    """Slots of one worker that waiting attempts may lend."""

    unaccepted: int = 10_000
    """Submissions of one session that may wait to be accepted."""
    unaccepted_bytes: int = 64 * 1024 * 1024
    """Payload bytes of these; one submission alone may have more."""
    watches: int = 200_000
    """Results that one session may wait for."""
    asks: int = 32
    """Questions of one session that may be open at a time."""
    topics: int = 16
    """Topics one session may follow."""
    outbox_bytes: int = 64 * 1024 * 1024
    """What may wait for one peer; over it, its connection is cut and its session kept. Offers and
    results are held back sooner, so that only what a peer asks for can be too much."""
    sessions: int = 10_000
    """Peers known at a time."""
    payload_bytes: int = 16 * 1024 * 1024
    """Encoded arguments, or an encoded result."""

    retention: Retention | None = None
    """What is kept of ended jobs; None: by the store's durability."""

    def __post_init__(self) -> None:
        if not 0 < self.keep_alive_s < self.grace_s <= self.lease_s:
            raise ValueError(
                f"keep-alive ({self.keep_alive_s:g} s) < grace ({self.grace_s:g} s) <= "
                f"lease ({self.lease_s:g} s) must hold"
            )
        for name in (
            "window", "window_bytes", "windows_bytes", "delays", "lanes", "max_losses",
            "max_children",
            "unaccepted", "unaccepted_bytes", "watches", "sessions",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 1 <= self.payload_bytes <= codec.DEFAULT_LIMITS.payload_bytes:
            # What a peer reads is bounded too, and not told by the plane.
            most = codec.DEFAULT_LIMITS.payload_bytes
            raise ValueError(f"payload_bytes must be 1 to {most:,}: no peer reads larger ones")
        if self.outbox_bytes < 2 * self.payload_bytes:
            raise ValueError(
                "outbox_bytes must be at least twice payload_bytes: results wait in it"
            )
        if self.fairness is not None and self.fairness < 1:
            raise ValueError("fairness must be at least 1")
