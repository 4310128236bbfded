"""Priorities, and what Celery's numbers become."""

from __future__ import annotations

from typing import Any

import pytest

from creche.model.priority import Priority, TaskPriority

# The table of the migration guide, step 5.
GUIDE = {"critical": (9, 10), "high": (6, 7, 8), "normal": (3, 4, 5), "low": (0, 1, 2)}


@pytest.mark.parametrize("word", list(GUIDE))
def test_a_number_of_celerys_scale_becomes_what_the_guide_says(word: str) -> None:
    for number in GUIDE[word]:
        assert Priority.from_scale(number).word == Priority.parse(number).word == word


@pytest.mark.parametrize("number", [-1, 11, 255, float("nan")])
def test_a_number_beyond_the_scale_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="is not on the scale of 0"):
        Priority.from_scale(number)
    if type(number) is int:
        with pytest.raises(ValueError, match="is not on the scale of 0"):
            Priority.parse(number)


@pytest.mark.parametrize("priority", list(Priority), ids=lambda p: p.word)
def test_a_priority_is_read_from_its_word_or_itself(priority: Priority) -> None:
    for value in (priority, priority.word, priority.name, f" {priority.word.title()} "):
        assert Priority.parse(value) is priority


@pytest.mark.parametrize("value", [True, None, "", "urgent", "0", 1.0, b"low", []], ids=repr)
def test_anything_else_is_refused_and_the_error_lists_the_words(value: Any) -> None:
    with pytest.raises(ValueError, match="use one of critical, high, normal, low"):
        Priority.parse(value)


def test_the_smaller_number_is_taken_first() -> None:
    assert sorted(Priority) == [Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]
    assert [p.value for p in Priority] == [0, 1, 2, 3]


def test_fastworkers_name_is_the_same_enum() -> None:
    assert TaskPriority is Priority
