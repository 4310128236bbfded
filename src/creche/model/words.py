"""Enumerations that people read as words, and stores and the wire carry as numbers."""

from __future__ import annotations

from enum import IntEnum


class Word(IntEnum):
    """A number that shows itself as a word."""

    def __str__(self) -> str:
        return self.word

    def __format__(self, spec: str) -> str:
        return format(self.word, spec)

    @property
    def word(self) -> str:
        """The name in lower case, as in the CLI and on the page."""
        return self.name.lower()
