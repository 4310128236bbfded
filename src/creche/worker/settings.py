"""Every limit and default of a worker, in one place. `docs/limits.md` lists them."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker behaves. Durations in seconds, sizes in bytes.

    Raises:
        ValueError: a limit that is below what can work.
    """

    drain_s: float = 30.0
    """How long a leaving worker waits for running bodies before it cancels them."""
    cleanup_s: float = 5.0
    """How long cancelled bodies may take to leave: a leaving worker waits no longer for them, and
    one that stays warns of them."""
    settle_s: float = 5.0
    """How long a leaving worker waits for its last reports to be settled."""
    look_ahead_s: float = 0.05
    """How long an attempt may wait for a slot before it is handed back. The plane looks ahead by
    about 5 ms of measured work: what has not begun after ten times that was measured wrong, and
    another worker may have a slot."""
    max_lent: int = 1000
    """Slots that may be lent at a time by bodies that wait for their own jobs."""
    unsettled: int = 10_000
    """Reports the plane has not settled, at which nothing new begins."""
    unsettled_bytes: int = 64 * MIB
    """What may be in those reports, likewise."""
    stall_s: float = 1.0
    """For how long the loop must be blocked until the task that does it is named in the log; if
    that is infinite, nobody looks."""
    kill_after_s: float = 5.0
    """How long a process's body that was told to leave may take, before its process is killed."""
    notice_s: float = 0.5
    """The same for one that has run for as long as it may."""
    leave_lifespans_s: float = 10.0
    """How long leaving the lifespans may take."""
    process_start_s: float = 60.0
    """How long a process may take to import the task modules."""
    max_jobs_per_process: int | None = None
    """After so many jobs, a process is replaced by a fresh one."""
    max_memory_per_process_bytes: int | None = None
    """A process that has more than this in memory after a job is replaced, likewise."""

    def __post_init__(self) -> None:
        for name in (
            *("unsettled", "unsettled_bytes"),
            *("max_jobs_per_process", "max_memory_per_process_bytes"),
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in (
            *("drain_s", "cleanup_s", "settle_s", "look_ahead_s", "max_lent"),
            *("kill_after_s", "notice_s", "leave_lifespans_s"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("stall_s", "process_start_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
