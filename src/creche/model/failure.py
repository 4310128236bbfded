"""How a task failed, as plain data that travels as a payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 64 * 1024
"""Characters kept of a message or a traceback: enough to read, and bounded."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a job raised: `type` is the exception's dotted name, `traceback` its text as Python
    prints it, `notes` what was added to it by `add_note`."""

    type: str
    message: str
    traceback: str = ""
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """Type and message, as Python prints them at the end of a traceback."""
        return f"{self.type}: {self.message}" if self.message else self.type

    def as_data(self) -> dict[str, Any]:
        """Return what `from_data` takes."""
        return {
            "type": self.type,
            "message": shortened(self.message),
            "traceback": shortened(self.traceback),
            "notes": [shortened(note) for note in self.notes[:100]],
        }

    @classmethod
    def from_data(cls, data: Any) -> Failure:
        """Read what another process wrote; what is missing or odd becomes text, never an error."""
        if not isinstance(data, Mapping):
            return cls("unknown", _text(data))
        notes = data.get("notes")
        return cls(
            _text(data.get("type", "unknown")),
            _text(data.get("message", "")),
            _text(data.get("traceback", "")),
            tuple(map(_text, notes)) if isinstance(notes, list) else (),
        )


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # a number of thousands of digits
        return "(what was said cannot be shown)"


def shortened(text: str) -> str:
    """Return *text*, with its middle left out when it is over `MAX_TEXT` characters."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"
