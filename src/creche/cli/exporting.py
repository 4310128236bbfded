"""Jobs as lines for other programs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any, TextIO

from creche.cli.output import JSON_VERSION, moment_text
from creche.cli.values import to_json


class JsonLines:
    """Writes a JSON document a line."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write one job."""
        self._target.write(to_json({"v": JSON_VERSION, **record}) + "\n")


COLUMNS = (
    "id", "task", "queue", "priority", "state", "attempt", "losses", "failures", "worker",
    "submitted_at", "started_at", "ended_at", "error", "fate", "retried_as",
)  # fmt: skip
"""What a line of CSV has."""


class CsvLines:
    """Writes CSV, with a line of names first."""

    def __init__(self, target: TextIO) -> None:
        self._writer = csv.writer(target, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write one job; what it has not is empty."""
        self._writer.writerow([_cell(name, record.get(name)) for name in COLUMNS])


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    return moment_text(value) if name.endswith("_at") else value
