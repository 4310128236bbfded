"""Every error that Creche raises, on one screen.

The class says whose fault it was: the developer's (`DefinitionError`), a rule's (`Refused`), the
network's (`PlaneUnreachable`, `ChannelBroken`), a peer's (`RemoteProtocolError`) or the job's
(`JobEnded`). Facts are attributes; the sentence is built from them.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

MAX_COUNTDOWN_S = 366 * 24 * 3600
"""The longest delay there is, of a job or of another attempt at it: a year."""


class CrecheError(Exception):
    """The root of the tree. Catching it catches whatever Creche reports on purpose."""


# --- what a developer or an operator wrote ------------------------------------------------------


class DefinitionError(CrecheError):
    """Something in the user's code or settings cannot work, and says what to change."""


class TaskDefinitionError(DefinitionError):
    """A task was declared in a way that cannot work, or its name is taken."""


class TaskLoadError(DefinitionError):
    """A module of tasks could not be imported."""


class LifespanFailed(DefinitionError):
    """A lifespan could not be entered, so its worker cannot run: `name` names it and its place, and
    the cause is what it raised."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"lifespan {self.name} could not be entered: {self.why}"


class SettingsError(DefinitionError):
    """An option, an environment variable or a settings file holds something unusable."""


class BadFilter(DefinitionError):
    """A filter of jobs cannot be read. *position* is where, in characters from 1."""

    def __init__(self, text: str, position: int, why: str) -> None:
        super().__init__(text, position, why)
        self.text = text
        self.position = position
        self.why = why

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 100 else f"{self.text[:99]}…"
        return f"in the filter {shown!r}, at character {self.position}: {self.why}"


class Retry(CrecheError):
    """Raised in a task's body: this attempt has failed, and the job is to be tried again, in
    *countdown* seconds, or after the delay of its retry policy. It counts as one of its retries;
    when there are none left, the job has failed. ``raise Retry() from error`` shows the cause.

    Raises:
        ValueError: *countdown* is no number of seconds.
    """

    def __init__(self, why: str = "", countdown: float | None = None) -> None:
        if not isinstance(why, str):
            raise ValueError(f"Retry says why in text: write Retry(countdown={why!r})")
        if countdown is not None:
            _check_countdown("Retry", countdown)
        super().__init__(why, countdown)
        self.why = why
        self.countdown = countdown

    def __str__(self) -> str:
        return self.why or "the job asked to be tried again"


class Snooze(CrecheError):
    """Raised in a task's body: it is too early, the job is to run again in *countdown* seconds. It
    is no failure, and uses up no retries.

    Raises:
        ValueError: *countdown* is no number of seconds.
    """

    def __init__(self, countdown: float) -> None:
        _check_countdown("Snooze", countdown)
        super().__init__(countdown)
        self.countdown = countdown

    def __str__(self) -> str:
        return f"the job asked to run again in {self.countdown:g} s"


def _check_countdown(what: str, countdown: object) -> None:
    if type(countdown) not in (int, float) or not 0 <= countdown <= MAX_COUNTDOWN_S:  # type: ignore[operator]
        raise ValueError(
            f"{what}(countdown=...) is a number of seconds from 0 to {MAX_COUNTDOWN_S:,} (a year), "
            f"not {countdown!r}"
        )


class JobTimedOut(CrecheError, TimeoutError):
    """An attempt has run for as long as it may, and was stopped. This is how it has failed: whoever
    waits for the job gets a `JobFailed` of this type, and `retry_on` can name it. `is_deadline`:
    whether it was the job's deadline that left it no more than `timeout_s`."""

    def __init__(self, timeout_s: float, is_deadline: bool = False) -> None:
        super().__init__(timeout_s, is_deadline)
        self.timeout_s = timeout_s
        self.is_deadline = is_deadline

    def __str__(self) -> str:
        until = "until the job's deadline" if self.is_deadline else "as long as it may"
        return f"the attempt has run for {self.timeout_s:g} s, {until}"


class ProcessDied(CrecheError):
    """The process that ran an attempt (``executor="process"``) has ended in the middle of it. This
    is how the attempt has failed, as with `JobTimedOut`. `pid` is that of the process; `code` its
    exit code, or, below 0, the signal that has killed it."""

    def __init__(self, pid: int, code: int) -> None:
        super().__init__(pid, code)
        self.pid = pid
        self.code = code

    def __str__(self) -> str:
        who = f"its process (pid {self.pid})"
        if self.code >= 0:
            return f"{who} ended with exit code {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:
            name = f"signal {-self.code}"
        why = " (by the system perhaps, for want of memory)" if name == "SIGKILL" else ""
        return f"{who} was killed by {name}{why}"


class InvalidArguments(CrecheError):
    """The arguments of a submission do not fit the task's signature. Nothing was sent."""


class NotEncodable(CrecheError):
    """A value cannot be carried by CBOR: `path` names where it is, as in ``args[1]['when']``."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} cannot be sent: {self.why}"


class TooLarge(CrecheError):
    """Something is over its limit: `what` has `size_bytes`, the limit is `limit_bytes`."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(what, size_bytes, limit_bytes)
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.size_bytes:,} bytes are over the limit of {self.limit_bytes:,}; "
            "pass a path or a key, and read the data inside the task"
        )


# --- between peer and plane ---------------------------------------------------------------------


class PlaneUnreachable(CrecheError):
    """No plane answered at `url` before the deadline; `why` is the last thing that went wrong."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, why)
        self.url = url
        self.why = why

    def __str__(self) -> str:
        return f"no plane answers at {self.url} ({self.why}): is `creche control-plane` running?"


class PlaneStopping(PlaneUnreachable):
    """The plane at `url` is there and takes nobody any more, and none took its place before the
    deadline."""

    def __str__(self) -> str:
        return f"the plane at {self.url} is stopping ({self.why})"


class NotAPlane(PlaneUnreachable):
    """Something answers at `url`, and it is no plane: dialling again would not mend that."""

    def __str__(self) -> str:
        return f"no plane answers at {self.url}: {self.why}; is the address right?"


class NotTrusted(PlaneUnreachable):
    """The plane at `url` and this side do not trust each other's certificates: dialling again would
    not mend that."""

    def __str__(self) -> str:
        return f"no trust between here and {self.url}: {self.why}"


class ClientClosed(CrecheError):
    """The client was not started, or is closed already; nothing can be sent over it."""


class Refused(CrecheError):
    """The plane said no: `code` is for programs, `why` for people. Nothing was stored."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why

    def __str__(self) -> str:
        return self.why


class SubmissionRefused(Refused):
    """The plane did not take the job, and will not run it."""


class ScopeFull(SubmissionRefused):
    """A running job has submitted as many unfinished jobs as one job may."""


class StoreFullError(SubmissionRefused):
    """The plane's disk is full or failing: it takes no job that it could not keep."""


class DuplicateJob(SubmissionRefused):
    """The job counts as one with another, `job_id`, and the rule is to refuse it then."""

    def __init__(self, job_id: str, task: str) -> None:
        super().__init__(
            "duplicate",
            f"task {task!r} is unique, and job {job_id} is there: this one was not stored",
        )
        self.job_id = job_id
        self.task = task

    def __reduce__(self) -> tuple[type[DuplicateJob], tuple[str, str]]:
        return type(self), (self.job_id, self.task)


class SubmissionUncertain(CrecheError):
    """Whether the job was taken cannot be known any more: it was sent again too late, or the wait
    ended while the plane was out of reach. It was taken at most once."""


class SubmitTimeout(CrecheError):
    """The plane did not take the job in time (its lane is full); the submission was withdrawn."""


class ProtocolError(CrecheError):
    """A message that the protocol does not allow."""


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a bug on this side."""


class MessageTooLarge(TooLarge, LocalProtocolError):
    """A message that no peer would take in."""

    def __str__(self) -> str:
        return f"{self.what}: {self.size_bytes:,} bytes are over the limit of {self.limit_bytes:,}"


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. Its connection ends; nobody else is disturbed."""


class ChannelClosed(CrecheError):
    """This side closed the channel."""


class ChannelBroken(CrecheError):
    """The other side, or the network between, ended the channel."""


class ListenError(CrecheError):
    """The plane or the page cannot listen where it was told to."""


# --- the store ----------------------------------------------------------------------------------


class StoreError(CrecheError):
    """The store cannot do its work."""


class StoreUnusable(StoreError):
    """The store cannot be opened: not a database, not writable, held by another plane, from a
    newer version. The file is untouched."""


class StoreLocked(StoreUnusable):
    """Another plane holds the store; `pid` is that plane's, None if it could not be read."""

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        who = f"the plane with pid {self.pid}" if self.pid is not None else "another plane"
        return f"{self.path} is in use by {who}: stop that one, or choose another --store"


class StoreUnavailable(StoreError):
    """The store's process is gone. What it had committed is safe."""


class StoreFull(StoreError):
    """A batch could not be written (disk full, quota, I/O error). Nothing of it was kept."""


class StoreOverLimit(StoreFull):
    """A batch was refused for its new jobs, as the store is as large as it may be. Nothing of it
    was kept; without them it will be."""


# --- how a job ended ----------------------------------------------------------------------------


class UnknownJob(CrecheError):
    """The plane has never heard of this job id, or has forgotten it by now."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"no job {self.job_id}: the id is unknown to this plane, or was pruned long ago"


class UnknownSchedule(CrecheError):
    """The plane has no schedule of this name; the sentence has near ones."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return self.why


class UnknownToken(CrecheError):
    """The file of tokens has none of this id; the sentence has some."""


class ResultForgotten(UnknownJob):
    """The job ran to its end, but its result is older than the plane keeps results."""

    def __str__(self) -> str:
        return f"job {self.job_id} has ended, and its result is no longer kept"


class JobNotDead(CrecheError):
    """A job cannot be retried or discarded, as it stands; nothing has changed."""

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(job_id, why)
        self.job_id = job_id
        self.why = why

    def __str__(self) -> str:
        return f"job {self.job_id}: {self.why}"


class ResultTimeout(CrecheError, TimeoutError):
    """The wait for a result ran out. The job goes on."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(job_id, timeout_s)
        self.job_id = job_id
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"job {self.job_id} has not ended after {self.timeout_s:g} s; it goes on"


class JobEnded(CrecheError):
    """A job ended without a result."""

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(job_id, why)
        self.job_id = job_id
        self.why = why

    def __str__(self) -> str:
        return f"job {self.job_id} {self.why}"


class JobFailed(JobEnded):
    """The task raised. `type` is the remote exception's dotted name, `message` its text, `notes`
    its notes, `traceback` the remote traceback as text."""

    def __init__(
        self,
        job_id: str,
        type: str,
        message: str,
        traceback: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(job_id, f"failed: {type}: {message}" if message else f"failed: {type}")
        # What it is made of again, as when it comes back from a process pool.
        self.args = (job_id, type, message, traceback, tuple(notes))
        self.type = type
        self.message = message
        self.traceback = traceback
        for note in notes:
            self.add_note(note)


class JobCancelled(JobEnded):
    """The job was cancelled, before or while it ran."""


class JobExpired(JobEnded):
    """The job had not begun, or not ended, by the moment that its submission or its task said."""


class JobLost(JobEnded):
    """An at-most-once job lost its worker: it may have run, and will not run again."""
