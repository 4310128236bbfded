"""What a submission gives back to synchronous code, whoever made it: a client, or a running job."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from creche.model.job import JobState
from creche.peer.handle import JobHandle, Outcome

R = TypeVar("R")


class HandleVerbs(Protocol):
    """Asks after jobs, and blocks the calling thread until there is an answer."""

    def result(self, job: Any, timeout: float | None = None) -> Any:
        """Wait for a job's end and return its result."""
        ...

    def status(self, job: Any) -> JobState:
        """Ask where a job is in its life."""
        ...

    def cancel(self, job: Any, reason: str = "") -> JobState:
        """Cancel a job if it has not ended."""
        ...


class BlockingJobHandle(str, Generic[R]):
    """A job's id, as text, that can be asked how the job is doing, for synchronous code.

    It *is* the id: a web framework returns it as JSON, a log shows it, a dictionary finds it.
    """

    _verbs: HandleVerbs
    _handle: JobHandle[R]

    @classmethod
    def make(cls, verbs: HandleVerbs, handle: JobHandle[R]) -> BlockingJobHandle[R]:
        """Used by clients; users get handles from their `submit`, `delay`, `send` or `job`."""
        made: BlockingJobHandle[R] = cls(handle.id)
        made._verbs = verbs
        made._handle = handle
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Elsewhere, in another process say, only the id means anything.
        return str, (self.id,)

    @property
    def id(self) -> str:
        """The job's id as plain text."""
        return str.__str__(self)

    @property
    def is_existing(self) -> bool:
        """Whether it was there before its submission; see `JobHandle.is_existing`."""
        return self._handle.is_existing

    @property
    def _known(self) -> Outcome | None:
        """How the job ended, if that has come to this process."""
        outcome = self._handle._outcome
        return outcome if outcome is not None and outcome.is_known else None

    def result(self, timeout: float | None = None) -> R:
        """Wait for the job's end and return what the task returned; see `JobHandle.result`."""
        outcome = self._known
        if outcome is None or outcome.error is not None:
            value: R = self._verbs.result(self, timeout)
        else:
            value = outcome.value(self.id)
        return value

    def status(self) -> JobState:
        """Ask the plane where the job is in its life; see `JobHandle.status`."""
        return self._verbs.status(self)

    def cancel(self, reason: str = "") -> JobState:
        """Cancel the job if it has not ended; see `JobHandle.cancel`."""
        return self._verbs.cancel(self, reason)


def inner(job: BlockingJobHandle[Any] | JobHandle[Any] | str) -> JobHandle[Any] | str:
    """Return what the event loop knows *job* by."""
    return job._handle if isinstance(job, BlockingJobHandle) else job
