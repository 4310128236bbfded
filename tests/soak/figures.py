"""Whether a figure grows: pure functions over what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

MAX_POINTS = 400
"""So many points are compared with each other; of more, neighbours are made one."""
FEWEST_POINTS = 8


class Sample(NamedTuple):
    """A figure at a moment, in seconds since the beginning."""

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Line:
    """What a figure may do: grow by *most_per_min* at the most."""

    most_per_min: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a figure has done, once it was warm."""

    name: str
    line: Line
    first: float
    last: float
    slope_per_min: float | None
    """None: there was too little to judge."""

    @property
    def is_flat(self) -> bool:
        return self.slope_per_min is not None and self.slope_per_min <= self.line.most_per_min


def judge(
    samples: Mapping[str, Sequence[Sample]], lines: Mapping[str, Line], *, warm_at: float
) -> list[Verdict]:
    """Judge each figure that has a line, by what it was from *warm_at* on."""
    return [
        _judged(name, line, [s for s in samples.get(name, ()) if s.at >= warm_at])
        for name, line in lines.items()
    ]


def _judged(name: str, line: Line, warm: list[Sample]) -> Verdict:
    if len(warm) < FEWEST_POINTS:
        return Verdict(name, line, 0.0, 0.0, None)
    share = max(1, len(warm) // 8)
    first, last = (median(s.value for s in part) for part in (warm[:share], warm[-share:]))
    return Verdict(name, line, first, last, slope_per_s(warm) * 60)


def slope_per_s(samples: Sequence[Sample]) -> float:
    """Return by how much a figure grows in a second: the median of the slopes between each two of
    its points (Theil and Sen), which a third of the points that say something else do not move."""
    points = thinned(samples)
    slopes = [
        (b.value - a.value) / (b.at - a.at)
        for n, a in enumerate(points)
        for b in points[n + 1 :]
        if b.at > a.at
    ]
    return median(slopes) if slopes else 0.0


def thinned(samples: Sequence[Sample], most: int = MAX_POINTS) -> list[Sample]:
    """Return no more than *most* points: of each group of neighbours, their medians."""
    size = -(-len(samples) // most)
    if size <= 1:
        return list(samples)
    groups = (samples[n : n + size] for n in range(0, len(samples), size))
    return [Sample(median(s.at for s in group), median(s.value for s in group)) for group in groups]


def as_text(verdicts: Iterable[Verdict]) -> str:
    """Return a line for each figure: where it began and ended, its slope, and its bound."""
    rows = [("figure", "began at", "ended at", "slope / min", "bound / min", "")]
    for verdict in verdicts:
        slope = verdict.slope_per_min
        rows.append(
            (
                f"{verdict.name} ({verdict.line.unit})" if verdict.line.unit else verdict.name,
                f"{verdict.first:,.2f}",
                f"{verdict.last:,.2f}",
                "too few samples" if slope is None else f"{slope:+,.3f}",
                f"{verdict.line.most_per_min:,.3f}",
                "flat" if verdict.is_flat else "GROWS" if slope is not None else "UNKNOWN",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n in (0, 5) else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
