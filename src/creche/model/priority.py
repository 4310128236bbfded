"""The four priorities, and the scales of others that map to them."""

from __future__ import annotations

from creche.model.words import Word


class Priority(Word):
    """How urgent a job is. The smaller number is taken first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @classmethod
    def parse(cls, value: Priority | str | int) -> Priority:
        """Return the priority that *value* names: a member, a word in any case, or a number on the
        scale of 0 (least urgent) to 10, as `from_scale` reads it. A member's own number is none.

        Raises:
            ValueError: *value* names no priority.
        """
        if isinstance(value, Priority):
            return value
        if type(value) is int:
            return cls.from_scale(value)
        if isinstance(value, str):
            found = _BY_WORD.get(value.strip().lower())
            if found is not None:
                return found
        words = ", ".join(p.word for p in cls)
        raise ValueError(f"{value!r} is no priority: use one of {words}, or 0 (low) to 10")

    @classmethod
    def from_scale(cls, number: int) -> Priority:
        """Map the scale of 0 (least urgent) to 10 that Celery users know.

        9 and 10 are critical, 6 to 8 high, 3 to 5 normal, 0 to 2 low.

        Raises:
            ValueError: *number* is not between 0 and 10.
        """
        if not 0 <= number <= 10:
            raise ValueError(f"{number} is not on the scale of 0 (low) to 10 (critical)")
        if number >= 9:
            return cls.CRITICAL
        if number >= 6:
            return cls.HIGH
        return cls.NORMAL if number >= 3 else cls.LOW


_BY_WORD = {p.word: p for p in Priority}

TaskPriority = Priority
"""`Priority` under the name that FastWorker gave it."""
