"""What clients say to workers, as an operator does: drain, resume, resize and stop them.

The plane passes it on and answers; it is the worker that does it, and knows it as long as its
process lives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from creche.client.client import Client

R = TypeVar("R")


class WorkerVerbs(ABC):
    """The part of `Client` that is about workers."""

    @abstractmethod
    async def ask(self, question: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the plane; see `Client.ask`."""

    async def workers(self) -> list[dict[str, Any]]:
        """Return the workers that are connected, or away for less than their grace, by name: of
        each its state, slots, what it runs and where, as `creche workers ls --json` has it.

        Raises:
            PlaneUnreachable: no answer within the client's timeout.
        """
        found: list[dict[str, Any]] = (await self.ask("workers"))["workers"]
        return found

    async def drain_worker(self, worker: str) -> None:
        """Have a worker take nothing new and stay: what runs goes on, what has not begun goes back.
        It holds until `resume_worker`, or until the worker is started anew. If cancelled, the
        worker may have been told or not.

        Raises:
            Refused: there is no such worker (code ``unknown-worker``), or it is ``away``.
            PlaneUnreachable: no answer within the client's timeout.
        """
        await self.ask("set-worker", {"worker": worker, "slots": 0})

    async def resume_worker(self, worker: str) -> None:
        """Have a worker run as many jobs at a time as it was started for. Raises as `drain_worker`
        does."""
        await self.ask("set-worker", {"worker": worker, "slots": None})

    async def resize_worker(self, worker: str, slots: int) -> None:
        """Have a worker run *slots* jobs at a time, until it is started anew; what runs goes on.

        Raises:
            Refused: as of `drain_worker`, or *slots* is no such number.
            PlaneUnreachable: no answer within the client's timeout.
        """
        await self.ask("set-worker", {"worker": worker, "slots": slots})

    async def stop_worker(self, worker: str) -> None:
        """Have a worker take nothing new and leave when its jobs are done, as SIGTERM does. A
        plane's local workers are started again. Raises as `drain_worker` does."""
        await self.ask("set-worker", {"worker": worker, "leave": True})


class BlockingWorkerVerbs(ABC):
    """The part of `BlockingClient` that is about workers: the verbs of `WorkerVerbs`."""

    @abstractmethod
    def _call(self, verb: Callable[[Client], Awaitable[R]]) -> R: ...

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers that are there; see `Client.workers`."""
        return self._call(lambda client: client.workers())

    def drain_worker(self, worker: str) -> None:
        """Have a worker take nothing new and stay; see `Client.drain_worker`."""
        self._call(lambda client: client.drain_worker(worker))

    def resume_worker(self, worker: str) -> None:
        """Have a worker take jobs again; see `Client.resume_worker`."""
        self._call(lambda client: client.resume_worker(worker))

    def resize_worker(self, worker: str, slots: int) -> None:
        """Have a worker run *slots* jobs at a time; see `Client.resize_worker`."""
        self._call(lambda client: client.resize_worker(worker, slots))

    def stop_worker(self, worker: str) -> None:
        """Have a worker leave when its jobs are done; see `Client.stop_worker`."""
        self._call(lambda client: client.stop_worker(worker))
