"""Reports that the plane has not settled: kept, and said again on every new connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from creche.model.job import JobState
from creche.peer.parent import Token
from creche.wire import messages as m
from creche.worker.attempt import Attempt

_ROW_BYTES = 200
"""About what a report costs beside its outcome."""


class Reports:
    """What has finished, by the number of its report, in order.

    Args:
        max_count, max_bytes: at so many unsettled reports, or so much in them, `is_full`.
    """

    def __init__(self, *, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._n = 0
        self._unsettled: dict[int, m.Finished] = {}
        self.size_bytes = 0
        self.ends = 0
        """How many of them say how a job has ended: worth waiting until they are settled. The
        others say that an attempt is lost, which the plane finds out anyway."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def __iter__(self) -> Iterator[m.Finished]:
        return iter(self._unsettled.values())

    def tokens(self) -> Iterator[Token]:
        """Which attempts they are of."""
        return ((report.seq, report.epoch, report.attempt) for report in self)

    @property
    def is_full(self) -> bool:
        """Whether so much is unsettled that nothing new should begin."""
        return len(self._unsettled) >= self._max_count or self.size_bytes >= self._max_bytes

    def add(self, attempt: Attempt) -> m.Finished:
        """Keep, and return, the report of an attempt whose state is known."""
        if attempt.state is None:
            raise AssertionError("an attempt is reported that has not ended")
        return self._add(attempt.token, attempt.state, attempt.outcome, attempt.run_us)

    def add_lost(self, token: Token) -> m.Finished:
        """Keep, and return, the report of an attempt that was begun, and whose end is unknown."""
        return self._add(token, JobState.LOST, None, 0)

    def clear(self) -> None:
        """Forget all reports: nobody is there to settle them."""
        self._unsettled.clear()
        self.size_bytes = self.ends = 0

    def _add(self, token: Token, state: JobState, outcome: bytes | None, run_us: int) -> m.Finished:
        self._n = n = self._n + 1
        report = self._unsettled[n] = m.Finished(n, *token, state.value, outcome, run_us)
        self.size_bytes += _ROW_BYTES if outcome is None else len(outcome) + _ROW_BYTES
        self.ends += state is not JobState.LOST
        return report

    def settle(self, ns: Iterable[int]) -> None:
        """Forget these reports; one that is not known was settled before."""
        unsettled = self._unsettled
        for n in ns:
            report = unsettled.pop(n, None)
            if report is not None:
                outcome = report.outcome
                self.size_bytes -= _ROW_BYTES if outcome is None else len(outcome) + _ROW_BYTES
                self.ends -= report.state != JobState.LOST
