"""Jobs in order, as the memory store has them: by seq, and by a moment of theirs."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Tail:
    """The seqs of one lane's stored jobs, in order.

    Jobs mostly come at the end and go from the front. What goes is dropped from the set at once
    and from the list when half of the list is gone, so that both cost next to nothing a job.
    """

    __slots__ = ("_live", "_seqs")

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._live: set[int] = set()

    def __len__(self) -> int:
        return len(self._live)

    def add(self, seq: int) -> None:
        seqs = self._seqs
        if not seqs or seq > seqs[-1]:
            seqs.append(seq)
        else:
            place = bisect_left(seqs, seq)
            if seqs[place] != seq:
                seqs.insert(place, seq)
        self._live.add(seq)

    def remove(self, seq: int) -> None:
        self._live.remove(seq)
        if len(self._seqs) > 2 * len(self._live) + 64:
            self._seqs = sorted(self._live)

    def after(self, seq: int) -> Iterator[int]:
        seqs = self._seqs
        for place in range(bisect_right(seqs, seq), len(seqs)):
            if seqs[place] in self._live:
                yield seqs[place]


class Moments:
    """Jobs by (moment, seq), in order. What goes is dropped from the set at once, and from the list
    when half of it is gone."""

    __slots__ = ("_listed", "_live")

    def __init__(self) -> None:
        self._listed: list[tuple[float, int]] = []
        self._live: set[tuple[float, int]] = set()

    def add(self, moment: float, seq: int) -> None:
        entry = (moment, seq)
        place = bisect_left(self._listed, entry)
        # It may be there still from the last time that this job was here.
        if self._listed[place : place + 1] != [entry]:
            self._listed.insert(place, entry)
        self._live.add(entry)

    def remove(self, moment: float, seq: int) -> None:
        self._live.remove((moment, seq))
        if len(self._listed) > 2 * len(self._live) + 64:
            self._listed = sorted(self._live)

    def between(self, after: tuple[float, int], until: float) -> Iterator[int]:
        for place in range(bisect_right(self._listed, after), len(self._listed)):
            entry = self._listed[place]
            if entry[0] > until:
                break
            if entry in self._live:
                yield entry[1]

    def first_after(self, moment: float) -> float | None:
        for place in range(bisect_right(self._listed, (moment, math.inf)), len(self._listed)):
            if self._listed[place] in self._live:
                return self._listed[place][0]
        return None
