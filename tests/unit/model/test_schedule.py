"""When a schedule fires, decided without a clock and without chance."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.ids import made_at
from creche.model.schedule import LATE_S, MOST_COUNTED, Due, Rule, due, firing_draw, firing_id

NOON = 1_799_971_200.0
"""A moment at which minutes, hours and days of UTC begin."""
HOUR = 3600.0


def decide(rule: Rule, *, reached: float, now: float, draw: float = 0.0, most: int = 10) -> Due:
    return due(rule, reached=reached, now=now, made_at=reached, draw=lambda _: draw, most=most)


# --- what a rule names ---------------------------------------------------------------------------


def test_intervals_are_counted_from_when_the_schedule_was_made() -> None:
    moments = list(islice(Rule(every=90).moments(NOON, made_at=NOON), 3))
    assert moments == [NOON + 90, NOON + 180, NOON + 270]


def test_with_a_start_intervals_are_counted_from_there_and_it_is_the_first_moment() -> None:
    rule = Rule(every=90, start=NOON)
    assert list(islice(rule.moments(0.0), 3)) == [NOON, NOON + 90, NOON + 180]
    assert rule.next_after(NOON + 91) == NOON + 180


@given(st.floats(0.1, 1e6), st.floats(0, 2e9), st.floats(0, 2e9))
def test_the_next_interval_is_later_and_the_first(every: float, made: float, after: float) -> None:
    rule = Rule(every=every)
    at = rule.next_after(after, made)
    assert at is not None
    assert at > after
    assert at - every <= max(after, made) + 1e-6


def test_nothing_comes_before_the_start_nor_after_the_end() -> None:
    rule = Rule(cron="0 * * * *", start=NOON, end=NOON + 2 * HOUR)
    assert list(rule.moments(0.0)) == [NOON, NOON + HOUR, NOON + 2 * HOUR]
    assert list(Rule(cron="0 * * * *", start=NOON + 0.5, end=NOON + HOUR).moments(0.0)) == [
        NOON + HOUR
    ]


def test_one_moment_comes_once() -> None:
    rule = Rule(at=NOON)
    assert rule.next_after(NOON - 1) == NOON
    assert rule.next_after(NOON) is None


@pytest.mark.parametrize("rule", [Rule(cron="* * * * *"), Rule(every=60.0, start=0.0)], ids=str)
@pytest.mark.parametrize("gap_s", [0.0, 59.0, 60.0, 90.0, 3600.0, 1e8])
def test_the_last_moment_is_found_without_going_through_all(rule: Rule, gap_s: float) -> None:
    found = rule.last_until(NOON + gap_s, NOON)
    assert found == (NOON + gap_s // 60 * 60 if gap_s >= 60 else None)


def test_a_rule_says_in_words_when_it_fires() -> None:
    assert Rule(every=90, start=NOON, count=3).words() == (
        "every 90 s, from 2027-01-15 00:00:00 UTC, 3 times"
    )
    assert Rule(cron="@daily", tz="Asia/Tokyo").words() == "cron @daily Asia/Tokyo"
    assert Rule(at=NOON).words() == "once, at 2027-01-15 00:00:00 UTC"


# --- as data -------------------------------------------------------------------------------------

RULES = st.builds(
    Rule,
    cron=st.sampled_from(["0 3 * * *", "*/5 * * * *", "@weekly"]),
    tz=st.sampled_from([None, "Europe/Paris", "UTC"]),
    start=st.none() | st.floats(0, 1e9),
    end=st.none() | st.floats(2e9, 3e9),
    count=st.none() | st.integers(1, 1000),
    jitter=st.floats(0, 3600),
    missed=st.sampled_from(["skip", "once"]),
    overlap=st.sampled_from(["skip", "queue", "replace", "allow"]),
) | st.builds(
    Rule, every=st.floats(1, 1e6), missed=st.just("all"), missed_within=st.floats(0, 1e6)
)  # fmt: skip


@given(RULES)
def test_a_rule_comes_back_from_its_data(rule: Rule) -> None:
    assert Rule.from_data(rule.as_data()) == rule


def test_data_says_what_the_rule_says_and_no_more() -> None:
    assert Rule(cron="0 3 * * *", overlap="allow").as_data() == {
        "cron": "0 3 * * *",
        "overlap": "allow",
    }


@given(
    st.dictionaries(
        st.sampled_from(["cron", "every", "at", "tz", "count", "x"]),
        st.text() | st.floats() | st.none() | st.integers(),
    )
    | st.text()
)
def test_whatever_is_no_rule_is_refused_with_a_sentence(data: Any) -> None:
    rule, why = None, ""
    try:
        rule = Rule.from_data(data)
    except ValueError as error:
        why = str(error)
    assert rule is not None or why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "a schedule says when: cron='0 3 * * *', every=60, or a moment"),
        ({"cron": "@daily", "every": 5}, "cron and every both say when: give one of them"),
        ({"cron": "0 25 * * *"}, 'cron "0 25 * * *": hour 25 is not in 0 to 23'),
        ({"cron": "@daily", "tz": "Paris"}, "did you mean 'Europe/Paris'"),
        ({"every": 60, "tz": "Europe/Paris"}, "tz is for cron, and there is none"),
        ({"every": 0}, "every is a number of seconds from 0.1 to 316,224,000, not 0"),
        ({"every": -1}, "every is a number of seconds from 0.1"),
        ({"every": True}, "every is a number of seconds from 0.1"),
        ({"every": float("nan")}, "every is a number of seconds from 0.1"),
        ({"every": 60, "count": 0}, "count is how often it fires, a whole number from 1 to"),
        ({"every": 60, "jitter": 60}, "jitter (60 s) has to be shorter than every (60 s)"),
        ({"every": 60, "jitter": -1}, "jitter is a number of seconds from 0 to 86,400, not -1"),
        ({"every": 60, "missed": "all"}, "missed='all' and missed_within go together"),
        ({"every": 60, "missed_within": 5}, "missed='all' and missed_within go together"),
        ({"every": 60, "missed": "never"}, "missed is 'skip', 'once' or 'all', not 'never'"),
        ({"every": 60, "overlap": "no"}, "overlap is 'skip', 'queue', 'replace' or 'allow'"),
        ({"every": 60, "start": 20.0, "end": 10.0}, "end has to come after start"),
        ({"cron": "0 3 * * *", "start": 0.0, "end": 60.0}, "it never fires: there is no such"),
        ({"at": 5.0, "count": 2}, "count is for what fires again and again"),
        ({"at": "tomorrow"}, "at is a moment in UTC seconds, not 'tomorrow'"),
        ({"every": 5, "corn": 1}, "a schedule's rule has no 'corn': it has cron, every, at,"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_a_rule_is_named(data: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Rule.from_data(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"cron": "* * * * *", "jitter": 60},
         "jitter (60 s) has to be shorter than the shortest time between two moments of cron"),
        ({"cron": "0 0,23 * * *", "jitter": 7200, "tz": "Europe/Paris"}, "of cron (3600 s)"),
        ({"cron": "@daily", "jitter": 86_400}, "of cron (86400 s)"),
    ],
)  # fmt: skip
def test_a_new_rule_puts_no_firing_off_until_the_next_moment_and_an_older_one_is_read(
    data: dict[str, Any], why: str
) -> None:
    rule = Rule.from_data(data)
    with pytest.raises(ValueError, match=re.escape(why)):
        rule.check_new()


@pytest.mark.parametrize(
    "data",
    [
        {"cron": "* * * * *", "jitter": 59.9},
        {"cron": "0 3 * * MON", "jitter": 86_400},
        {"cron": "* * * * *"},
        {"at": NOON, "jitter": 86_400},
        {"every": 60, "jitter": 59},
    ],
)
def test_a_new_rule_with_a_shorter_jitter_is_taken(data: dict[str, Any]) -> None:
    Rule.from_data(data).check_new()


# --- what is due ---------------------------------------------------------------------------------

MINUTELY = Rule(cron="* * * * *")


def test_nothing_is_due_before_its_moment() -> None:
    assert decide(MINUTELY, reached=NOON, now=NOON + 59.9) == Due((), 0, NOON)


def test_a_moment_is_due_when_it_has_come() -> None:
    assert decide(MINUTELY, reached=NOON, now=NOON + 60) == Due((NOON + 60,), 0, NOON + 60)


def test_under_once_the_last_of_many_missed_moments_fires() -> None:
    assert decide(MINUTELY, reached=NOON, now=NOON + 301) == Due((NOON + 300,), 4, NOON + 300)


def test_under_skip_nothing_fires_that_is_over_a_minute_late() -> None:
    rule = Rule(cron="0 * * * *", missed="skip")
    assert decide(rule, reached=NOON, now=NOON + 3 * HOUR + LATE_S + 1) == Due(
        (), 3, NOON + 3 * HOUR
    )
    assert decide(rule, reached=NOON, now=NOON + 3 * HOUR + LATE_S) == Due(
        (NOON + 3 * HOUR,), 2, NOON + 3 * HOUR
    )


def test_under_all_each_moment_fires_that_is_not_too_old() -> None:
    rule = Rule(cron="* * * * *", missed="all", missed_within=180)
    assert decide(rule, reached=NOON, now=NOON + 301) == Due(
        (NOON + 180, NOON + 240, NOON + 300), 2, NOON + 300
    )


def test_under_all_what_is_too_much_at_a_time_is_due_still() -> None:
    rule = Rule(cron="* * * * *", missed="all", missed_within=3600)
    first = decide(rule, reached=NOON, now=NOON + 301, most=2)
    assert first == Due((NOON + 60, NOON + 120), 0, NOON + 120)
    second = decide(rule, reached=first.reached, now=NOON + 301, most=9)
    assert second.moments == (NOON + 180, NOON + 240, NOON + 300)


@given(
    st.sampled_from([
        MINUTELY, Rule(every=45.0), Rule(every=100.0, missed="skip", jitter=50.0),
        Rule(cron="*/3 * * * *", missed="all", missed_within=400.0, jitter=20.0),
    ]),
    st.lists(st.floats(0, 300), max_size=30),
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_however_often_it_is_asked_each_moment_fires_once_at_most_and_in_order(
    rule: Rule, steps: list[float], draw: float
) -> None:
    reached, now, found, missed = NOON, NOON, [], 0
    for step in steps:
        now += step
        decided = due(rule, reached=reached, now=now, made_at=NOON, draw=lambda _: draw, most=2)
        assert decided.reached >= reached
        assert all(reached < at <= decided.reached for at in decided.moments)
        assert all(at + rule.jitter * draw <= now for at in decided.moments)
        reached = decided.reached
        found += decided.moments
        missed += decided.missed
    assert found == sorted(set(found))
    every = [at for at in islice(rule.moments(NOON, NOON), 1000) if at <= reached]
    assert len(found) + missed == len(every)


def test_jitter_puts_a_firing_off_and_keeps_its_moment() -> None:
    rule = Rule(cron="0 * * * *", jitter=100.0)
    assert decide(rule, reached=NOON, now=NOON + HOUR + 49, draw=0.5).moments == ()
    assert decide(rule, reached=NOON, now=NOON + HOUR + 50, draw=0.5).moments == (NOON + HOUR,)


def test_how_long_ago_a_moment_may_be_is_counted_from_when_it_was_put_off_to() -> None:
    rule = Rule(cron="0 * * * *", jitter=1000.0, missed="all", missed_within=5.0)
    at = NOON + HOUR
    assert decide(rule, reached=NOON, now=at + 500, draw=0.5) == Due((at,), 0, at)
    assert decide(rule, reached=NOON, now=at + 504, draw=0.5) == Due((at,), 0, at)
    assert decide(rule, reached=NOON, now=at + 506, draw=0.5) == Due((), 1, at)


@pytest.mark.parametrize("jitter", [0.0, 30.0])
def test_a_long_time_down_costs_no_more_than_a_short_one(jitter: float) -> None:
    decided = decide(Rule(cron="* * * * *", jitter=jitter), reached=NOON, now=NOON + 1e8)
    assert decided.missed >= MOST_COUNTED - 1
    assert NOON + 1e8 - jitter - 60 < decided.moments[0] <= NOON + 1e8


def test_a_moment_once_missed_stays_due_until_it_is_decided() -> None:
    rule = Rule(at=NOON)
    assert decide(rule, reached=NOON - 5, now=NOON + 1e6) == Due((NOON,), 0, NOON)
    assert decide(rule, reached=NOON, now=NOON + 1e6) == Due((), 0, NOON)


# --- one firing, one id --------------------------------------------------------------------------


def test_a_firing_has_one_id_which_says_its_moment() -> None:
    assert firing_id("nightly", NOON) == firing_id("nightly", NOON)
    assert made_at(firing_id("nightly", NOON)) == NOON
    assert firing_id("nightly", NOON).hex()[12] == "7"


@given(st.text(min_size=1), st.text(min_size=1), st.floats(0, 2e9), st.floats(0, 2e9))
def test_other_firings_have_other_ids(a: str, b: str, at: float, other: float) -> None:
    same = (a, at) == (b, other)
    assert (firing_id(a, at) == firing_id(b, other)) is same


@given(st.text(), st.floats(0, 2e9))
def test_a_firing_is_always_put_off_by_as_much(name: str, at: float) -> None:
    assert 0 <= firing_draw(name, at) < 1
    assert firing_draw(name, at) == firing_draw(name, at)
