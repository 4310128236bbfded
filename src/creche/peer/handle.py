"""What a submission gives back: the job's id, with a way to its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from creche.errors import (
    CrecheError,
    JobCancelled,
    JobEnded,
    JobExpired,
    JobFailed,
    JobLost,
    ResultForgotten,
    UnknownJob,
)
from creche.model.failure import Failure
from creche.model.ids import id_from_text, id_to_text
from creche.model.job import JobState
from creche.peer.link import fresh
from creche.wire.payload import decode_value

if TYPE_CHECKING:
    from creche.peer.submitter import Submitter

R = TypeVar("R")


class Outcome:
    """What is known here of how one job ended. Filled in once, read by all who wait.

    *is_promised*: its submission asked for it, so that it is kept whether somebody waits or not.
    """

    __slots__ = ("_listeners", "error", "is_promised", "payload", "state")

    def __init__(self, *, is_promised: bool = False) -> None:
        self.is_promised = is_promised
        self.state: JobState | None = None
        self.payload: bytes | None = None
        self.error: CrecheError | None = None
        self._listeners: list[Callable[[], None]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the job's end, or why it cannot be told, has arrived."""
        return self.state is not None or self.error is not None

    def fill(
        self, state: JobState | None, payload: bytes | None, error: CrecheError | None = None
    ) -> None:
        """Note the end, and tell whoever listens."""
        self.state = state
        self.payload = payload
        self.error = error
        listeners, self._listeners = self._listeners, None
        for listener in listeners or ():
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener* once, when the outcome is known; at once if it is."""
        if self.is_known:
            listener()
        elif self._listeners is None:
            self._listeners = [listener]
        else:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Do not call *listener* any more."""
        if self._listeners is not None and listener in self._listeners:
            self._listeners.remove(listener)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody listens."""
        return bool(self._listeners)

    async def wait(self) -> None:
        """Wait until the outcome is known."""
        if self.is_known:
            await anyio.lowlevel.checkpoint()
            return
        event = anyio.Event()
        self.listen(event.set)
        try:
            await event.wait()
        finally:
            self.unlisten(event.set)

    def value(self, job_id: str) -> Any:
        """Return the result, or raise how the job ended."""
        if self.error is not None:
            raise fresh(self.error)
        return read_outcome(job_id, self.state, self.payload)


def read_outcome(job_id: str, state: JobState | None, payload: bytes | None) -> Any:
    """Return the result that *payload* holds, or raise how the job ended.

    Raises:
        JobFailed, JobCancelled, JobExpired, JobLost, JobEnded: there is no result.
        ResultForgotten: there was an end, but its outcome is no longer kept.
    """
    if state is JobState.SUCCEEDED:
        return None if payload is None else decode_value(payload)
    if state is JobState.FORGOTTEN:
        raise ResultForgotten(job_id)
    failure = Failure.from_data(decode_value(payload)) if payload is not None else None
    if state is JobState.FAILED and failure is not None:
        raise JobFailed(job_id, failure.type, failure.message, failure.traceback, failure.notes)
    why = f": {failure.message}" if failure is not None and failure.message else ""
    if state is JobState.CANCELLED:
        cancelled = JobCancelled(job_id, f"was cancelled{why}")
        for note in failure.notes if failure is not None else ():
            cancelled.add_note(note)
        raise cancelled
    if state is JobState.EXPIRED:
        raise JobExpired(job_id, f"has expired{why}")
    if state is JobState.LOST:
        raise JobLost(job_id, f"was lost with its worker{why}")
    raise JobEnded(job_id, f"ended as {state.word if state else 'unknown'}{why}")


class JobHandle(str, Generic[R]):
    """A job's id, as text, that can be asked how the job is doing.

    It *is* the id: a web framework returns it as JSON, a log shows it, a dictionary finds it.
    """

    # No dictionary each: a program may have very many of them.
    __slots__ = ("__weakref__", "_outcome", "_submitter", "id_bytes", "is_existing")

    _submitter: Submitter
    _outcome: Outcome | None
    id_bytes: bytes
    is_existing: bool
    """Whether the submission that gave it was one with a job that was there already: of a unique
    task, or by its idempotency key."""

    @classmethod
    def make(
        cls,
        submitter: Submitter,
        job_id: bytes,
        outcome: Outcome | None = None,
        *,
        is_existing: bool = False,
    ) -> JobHandle[R]:
        """Used by the client; users get handles from `submit`, `delay` or `Client.job`."""
        handle: JobHandle[R] = cls(id_to_text(job_id))
        handle._submitter = submitter
        handle._outcome = outcome
        handle.id_bytes = job_id
        handle.is_existing = is_existing
        return handle

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Elsewhere, in another process say, only the id means anything.
        return str, (self.id,)

    @property
    def id(self) -> str:
        """The job's id as plain text."""
        return str.__str__(self)

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the job's end and return what the task returned (as CBOR carries it: a tuple
        comes back as a list).

        Outlives reconnects. *timeout* is in seconds; None waits as long as it takes. Cancelling
        the wait leaves the job alone. Inside a running job the wait lends the job's slot.

        Raises:
            JobFailed: the task raised; the remote type, message, notes and traceback are in it.
            JobCancelled, JobExpired, JobLost: it ended otherwise.
            ResultTimeout: the wait ran out; the job goes on.
            InvalidArguments: *timeout* is no number of seconds.
            UnknownJob: the plane does not know the id.
            ResultForgotten: the result is older than the plane keeps results.
        """
        value: R = await self._submitter.result(self, timeout)
        return value

    async def status(self) -> JobState:
        """Ask the plane where the job is in its life.

        Raises:
            UnknownJob: the plane does not know the id.
        """
        answer = await self._submitter.ask("job", {"id": self.id_bytes})
        if answer is None:
            raise UnknownJob(self.id)
        return JobState.parse(answer["state"])

    async def cancel(self, reason: str = "") -> JobState:
        """Cancel the job if it has not ended, and return the state it is in then: `CANCELLED` when
        it had not begun.

        Raises:
            UnknownJob: the plane does not know the id.
        """
        (state,) = await self._submitter.cancel([self.id_bytes], reason)
        if state is None:
            raise UnknownJob(self.id)
        return state


def to_id(job: JobHandle[Any] | str) -> bytes:
    """Return the id behind a handle or its text.

    Raises:
        UnknownJob: it is no id at all.
    """
    if isinstance(job, JobHandle):
        return job.id_bytes
    try:
        return id_from_text(job)
    except (ValueError, AttributeError):
        raise UnknownJob(str(job)) from None
