"""The matrix as a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from tests.faults.case import Finding
from tests.faults.faults import FAULTS
from tests.faults.moments import MOMENTS


def as_markdown(findings: Iterable[Finding]) -> str:
    """Return a row for each fault, and in it, for each moment, what was found."""
    found = {(finding.fault, finding.moment): finding for finding in findings}
    lines = [
        f"| fault | lasts | {' | '.join(MOMENTS)} |",
        f"|---|---|{'---|' * len(MOMENTS)}",
    ]
    for name, make in FAULTS.items():
        cells = [_cell(found.get((name, moment))) for moment in MOMENTS]
        if any(cells):
            lasts_s = make().lasts_s
            lasts = f"{lasts_s:g} s" if lasts_s else ""
            lines.append(f"| {name} | {lasts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return ""
    if not finding.is_good:
        return f"**{len(finding.violations) + len(finding.complaints)} broken**"
    again = f", {finding.again} again" if finding.again else ""
    told_lost = f", {finding.given_up} told lost" if finding.given_up else ""
    return f"{finding.recovered_s:.1f} s{again}{told_lost}"
