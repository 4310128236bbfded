"""Space: what all lanes may hold in memory together."""

from __future__ import annotations

JOB_BYTES = 600
"""About what a job takes in memory beside its payload."""


class Space:
    """What the windows of all lanes may hold together, so that many lanes are no way round the
    bound of one.

    Args:
        most_bytes: payloads in memory, and `JOB_BYTES` for each job.
        spills: whether what finds no room waits in the store; if not, its submitter waits, and an
            empty lane takes one job all the same, or a lane that nobody empties would hold up
            everyone.
    """

    __slots__ = ("held_bytes", "most_bytes", "spills")

    def __init__(self, most_bytes: int, *, spills: bool) -> None:
        self.most_bytes = most_bytes
        self.spills = spills
        self.held_bytes = 0

    @property
    def left_bytes(self) -> int:
        """How much more the windows may hold; 0 or below when they are full."""
        return self.most_bytes - self.held_bytes

    @property
    def is_full(self) -> bool:
        """Whether no lane should take more than it needs to go on."""
        return self.left_bytes <= 0

    @property
    def is_tight(self) -> bool:
        """Whether reading something back is not worth it yet: each job that is taken frees a
        little, and a read for each would find the same jobs again and again."""
        return self.left_bytes <= self.most_bytes // 8

    def add(self, payload_bytes: int) -> None:
        """Count a job in."""
        self.held_bytes += payload_bytes + JOB_BYTES

    def remove(self, payload_bytes: int) -> None:
        """Count a job out."""
        self.held_bytes -= payload_bytes + JOB_BYTES
