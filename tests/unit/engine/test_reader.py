"""Who is next at the store's reader: who has had the least, and nobody saves anything up."""

from __future__ import annotations

import pytest

from creche.engine.reader import Had, next_of


@pytest.mark.parametrize(
    ("waiting", "had", "loud", "key"),
    [
        ("a", {"a": 9.0}, "", "a"),
        ("ab", {"a": 1.0, "b": 1.0}, "", "a"),
        ("ba", {"a": 1.0, "b": 1.0}, "", "b"),
        ("ab", {"a": 2.0, "b": 1.0}, "", "b"),
        ("ab", {"a": 1.0, "b": 2.0}, "a", "b"),
        ("ab", {"a": 2.0, "b": 1.0}, "ab", "b"),
    ],
)
def test_the_next_is_not_loud_if_possible_and_has_had_the_least(
    waiting: str, had: dict[str, float], loud: str, key: str
) -> None:
    assert next_of(waiting, had, loud) == key


def test_who_begins_to_ask_has_nothing_saved_up_and_nothing_to_make_up_for() -> None:
    had = Had[str]()
    had.begin("old")
    for _ in range(5):
        had.serve("old")
        had.charge("old", 1.0)
    had.begin("new")
    assert next_of(["old", "new"], had, ()) == "new"
    turns = ""
    for _ in range(6):
        key = next_of(["old", "new"], had, ())
        had.serve(key)
        had.charge(key, 1.0)
        turns += key[0]
    # The new one may have one more than the old one, and not five.
    assert turns.count("n") - turns.count("o") in (0, 2)


def test_who_takes_long_has_fewer_turns() -> None:
    had = Had[str]()
    costs_s = {"long": 1.0, "short": 0.1}
    for key in costs_s:
        had.begin(key)
    turns = dict.fromkeys(costs_s, 0)
    for _ in range(110):
        key = next_of(list(costs_s), had, ())
        had.serve(key)
        had.charge(key, costs_s[key])
        turns[key] += 1
    assert turns["short"] > 90
    assert turns["long"] >= 9
