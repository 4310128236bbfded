"""Reports that the plane has not settled: kept, and said again on every new connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from creche.model.job import JobState
from creche.peer.parent import Token
from creche.wire import messages as m
from creche.worker.attempt import Attempt

Report: TypeAlias = m.Finished | m.TryAgain

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
        self._unsettled: dict[int, Report] = {}
        self.size_bytes = 0
        self.ends = 0
        """How many of them say what an attempt has come to: worth waiting until they are settled.
        The others say that an attempt is lost, which the plane finds out anyway."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def __iter__(self) -> Iterator[Report]:
        return iter(self._unsettled.values())

    def tokens(self) -> Iterator[Token]:
        """Which attempts they are of."""
        return ((report.seq, report.epoch, report.attempt) for report in self)

    @property
    def is_full(self) -> bool:
        """Whether so much is unsettled that nothing new should begin."""
        return len(self._unsettled) >= self._max_count or self.size_bytes >= self._max_bytes

    def add(self, attempt: Attempt) -> Report:
        """Keep, and return, the report of an attempt whose state is known."""
        if attempt.state is None:
            raise AssertionError("an attempt is reported that has not ended")
        token, outcome, run_us = attempt.token, attempt.outcome, attempt.run_us
        if attempt.state is JobState.FAILED and attempt.retry is not None and outcome is not None:
            return self._add(m.TryAgain(self._next_n(), *token, outcome, run_us, *attempt.retry))
        state = attempt.state.value
        return self._add(m.Finished(self._next_n(), *token, state, outcome, run_us))

    def add_lost(self, token: Token) -> Report:
        """Keep, and return, the report of an attempt that was begun, and whose end is unknown."""
        return self._add(m.Finished(self._next_n(), *token, JobState.LOST.value, None, 0))

    def clear(self) -> None:
        """Forget all reports: nobody is there to settle them."""
        self._unsettled.clear()
        self.size_bytes = self.ends = 0

    def _next_n(self) -> int:
        self._n += 1
        return self._n

    def _add(self, report: Report) -> Report:
        self._unsettled[report.n] = report
        self.size_bytes += _size(report)
        self.ends += _is_end(report)
        return report

    def settle(self, ns: Iterable[int]) -> None:
        """Forget these reports; one that is not known was settled before."""
        unsettled = self._unsettled
        for n in ns:
            report = unsettled.pop(n, None)
            if report is not None:
                self.size_bytes -= _size(report)
                self.ends -= _is_end(report)


def _size(report: Report) -> int:
    return _ROW_BYTES if report.outcome is None else len(report.outcome) + _ROW_BYTES


def _is_end(report: Report) -> bool:
    return isinstance(report, m.TryAgain) or report.state != JobState.LOST
