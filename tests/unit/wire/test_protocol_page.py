"""docs/protocol.md says what the code says: messages, fields, tables, limits, tags, questions."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
from tests.unit.wire.protocol_table import BEGIN, END, moves_table

from creche.engine.settings import PlaneSettings
from creche.engine.views import Views
from creche.model.failure import Failure
from creche.model.job import JobState
from creche.model.priority import Priority
from creche.wire import codec, payload
from creche.wire import messages as m

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^#{2,4} (.+?)\n(.*?)(?=^#{2,4} |\Z)", PAGE, re.MULTILINE | re.DOTALL))
EVERY_CLASS = pytest.mark.parametrize("cls", list(m.KIND_OF), ids=lambda cls: cls.__name__)


def rows(section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    lines = SECTIONS[section][SECTIONS[section].index("\n|") + 1 :].splitlines()
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def names(section: str) -> list[str]:
    return [row[0].strip("`") for row in rows(section)]


def word(hint: Any) -> str:
    """What the page calls a type."""
    if isinstance(hint, UnionType):
        return " or ".join(word(arg) for arg in get_args(hint))
    if hint == m.Facts:
        return "facts"
    if getattr(hint, "__origin__", None) is list:
        return f"list of {word(get_args(hint)[0])}"
    return {
        int: "int", str: "text", bytes: "bytes", bool: "bool", float: "number",
        type(None): "null", Any: "any",
    }[hint]  # fmt: skip


def test_the_page_has_the_table_of_moves_as_it_is() -> None:
    assert PAGE.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0] == moves_table()


@EVERY_CLASS
def test_every_message_has_its_section_with_its_fields_in_order(cls: type[Any]) -> None:
    hints = get_type_hints(cls)
    said = [(row[0].strip("`"), row[1]) for row in rows(cls.__name__)]
    assert said == [(name, word(hints[name])) for name in cls._fields]
    assert all(len(row) == 3 and row[2] for row in rows(cls.__name__))


def test_the_limits_are_the_ones_in_force() -> None:
    limits = dataclasses.asdict(codec.DEFAULT_LIMITS)
    said = {row[0].strip("`"): int(row[1].replace(",", "")) for row in rows("Limits")}
    assert said == limits


def test_the_limits_of_a_welcome_are_described() -> None:
    settings = {field.name for field in dataclasses.fields(PlaneSettings)}
    said = names("Welcome limits")
    assert set(said) - settings == {"plane", "now", "frame_bytes"}


def test_states_and_priorities_have_their_numbers() -> None:
    assert {row[0]: row[1].strip("`") for row in rows("States")} == {
        str(state.value): state.word for state in JobState
    }
    assert {row[0]: row[1].strip("`") for row in rows("Priorities")} == {
        str(priority.value): priority.word for priority in Priority
    }


def test_the_allowed_tags_are_listed() -> None:
    said = {int(number) for row in rows("Tags") for number in re.findall(r"\d+", row[0])}
    assert said == set(payload.ALLOWED_TAGS)


def test_a_failure_has_the_keys_that_are_listed() -> None:
    assert names("Failures") == list(Failure("t", "m").as_data())


def test_every_question_and_topic_is_listed() -> None:
    views = Views(None)  # type: ignore[arg-type]
    assert names("Questions") == list(views._questions)
    assert names("Topics") == list(views._topics)
