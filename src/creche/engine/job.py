"""A job in the plane's memory: in a lane's window, leased, or on its way to the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from creche.model.job import JobState
from creche.model.limits import TimeLimits
from creche.store.base import Change

if TYPE_CHECKING:
    from creche.engine.gates import Gate
    from creche.engine.lane import Lane


class Job:
    """One job. `payload` and `options` are bytes that the plane carries and does not read."""

    __slots__ = (
        "attempt",
        "cancelled",
        "children",
        "delivery",
        "due_at",
        "epoch",
        "estimate_s",
        "expires_at",
        "failures",
        "gates",
        "has_begun",
        "has_tokens",
        "headers",
        "holder",
        "id",
        "is_at_most_once",
        "is_committed",
        "is_returning",
        "is_stored",
        "keys",
        "lane",
        "leased_at",
        "leased_priority",
        "let_pass",
        "limits",
        "losses",
        "options",
        "overtaken",
        "parent",
        "payload",
        "seq",
        "stale_entries",
        "state",
        "submitted_at",
        "task",
    )

    def __init__(
        self,
        seq: int,
        job_id: bytes,
        task: str,
        lane: Lane,
        state: JobState,
        payload: bytes,
        options: bytes | None,
        submitted_at: float,
    ) -> None:
        self.seq = seq
        self.id = job_id
        self.task = task
        self.lane = lane
        self.state = state
        self.payload = payload
        self.options = options
        self.submitted_at = submitted_at
        self.is_committed = False
        self.is_returning = False
        """Whether its lease has ended and that is not on disk yet: it is in no lane."""
        self.is_stored = False
        """Whether it leaves memory for the store's tail with its next change."""
        self.delivery: str | None = None
        """What its submission said; None leaves it to the task's announcement."""
        self.is_at_most_once = False
        """Whether its current attempt is the only one."""
        self.parent: int | None = None
        """The seq of the job that submitted this one."""
        self.children = 0
        """Unfinished jobs that this one's attempt has submitted."""
        self.attempt = 0
        """The number of its lease, which grows with every offer: `number` is what people see."""
        self.losses = 0
        self.failures = 0
        """Attempts that have failed, of which each used up one of its retries."""
        self.due_at: float | None = None
        """When its time comes (UTC seconds), while it is delayed."""
        self.limits: TimeLimits | None = None
        """What its submission said of how long it may take."""
        self.headers: Mapping[str, Any] | None = None
        """What its submission wants its body to know beside its arguments."""
        self.expires_at: float | None = None
        """By when it must have begun (UTC seconds), or, once it has, by when it must be over."""
        self.has_begun = False
        """Whether an attempt is known to have begun: then it has in time."""
        self.keys: tuple[str, str] | None = None
        """What tells it apart for its task's limits; None while nobody has asked."""
        self.gates: tuple[Gate, ...] = ()
        """The limits that it counts against, while it is leased."""
        self.has_tokens = False
        """Whether it has taken a token of each rate among them."""
        self.cancelled: str | None = None
        """Why it was cancelled while it ran, once it was."""
        self.epoch = 0
        self.holder: str | None = None
        """The worker process that has the lease, as `Session.holder`."""
        self.leased_at: float | None = None
        self.leased_priority = 0
        """Its lane's priority when it was leased: an announcement may move the lane meanwhile. Of a
        job whose turn came as so many had overtaken it, the most urgent one."""
        self.let_pass = False
        """Whether its turn came so, while it is leased."""
        self.overtaken = 0
        """How many had overtaken it, or those that waited with it, when it was leased; counted only
        where there is fairness."""
        self.estimate_s = 0.0
        """What its run was thought to take when it was leased."""
        self.stale_entries = 0
        """Entries of this job that still lie in a lane though it has left: skipped when taken."""

    def begin(self) -> None:
        """A worker has it: what is left is to be over in time."""
        self.expires_at = None if self.limits is None else self.limits.deadline_at

    @property
    def tries(self) -> int:
        """How many attempts have come to something: failed, or been lost. What was handed back
        before it began is not counted."""
        return self.failures + self.losses

    @property
    def number(self) -> int:
        """Which attempt the current one is, as people count them, from 1; while nobody has the job,
        how many there were. What was handed back, or has asked to run again, is not counted."""
        return self.tries + (self.holder is not None)

    @property
    def token(self) -> tuple[int, int, int]:
        """What fences the current attempt."""
        return (self.seq, self.epoch, self.attempt)

    def as_change(self) -> Change:
        """Return the job as the store is to know it now."""
        return Change(
            self.seq,
            self.state,
            self.lane.number,
            self.is_stored,
            self.attempt,
            self.losses,
            self.epoch,
            self.holder,
            self.leased_at,
            self.failures,
            self.due_at,
            self.expires_at,
        )
