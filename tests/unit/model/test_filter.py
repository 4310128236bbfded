"""The filter language: what people write, what it means, and what they are told otherwise."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.errors import BadFilter
from creche.model.failure import Failure
from creche.model.filter import (
    ANY,
    KEYS,
    MAX_FILTER,
    Filter,
    Term,
    error_text,
    is_like,
    quoted,
    worker_of,
)
from creche.model.job import Fate, JobState
from creche.model.priority import Priority

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


class Job(NamedTuple):
    id: bytes = bytes.fromhex("01a3185c500070008000000000000001")
    task: str = "mail.send"
    queue: str | None = "mail"
    priority: int | None = 1
    state: JobState = JobState.FAILED
    holder: str | None = "box/1/abcdef"
    submitted_at: float = NOW - 600
    started_at: float | None = NOW - 300
    ended_at: float | None = NOW - 60
    attempt: int = 3
    losses: int = 0
    fate: Fate | None = Fate.DEAD


FAILED = Job()
ERROR = error_text(Failure("builtins.TimeoutError", "no answer, after 5 s"))


def is_meant(text: str, job: Job = FAILED, error: str = ERROR) -> bool:
    return Filter.parse(text, NOW).matches(job, lambda: error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "state:failed",
        "STATE:Failed,lost",
        "-state:queued",
        "fate:dead",
        "-fate:retried,discarded",
        "task:mail.send",
        "task:mail.*",
        "task:m?il.*,other",
        "queue:mail priority:high,low",
        "worker:box/1",
        "worker:box/*",
        "id:01a3185c",
        "id:01A3185C-5000",
        "error:timeout",
        "error:TimeoutError",
        'error:"answer, after"',
        "submitted:-1h..",
        "submitted:-1h..-5m",
        "submitted:2027-01-15",
        "submitted:2027-01-15T07:50..2027-01-15T08:51+01:00",
        "ended:..2027-01-15T08:00:00Z",
        "ended:2027-01-01,-1m..",
        "started:-1w..-4m -error:nothing",
        "attempt:3",
        "attempt:3..",
        "attempt:1,2..4 losses:..0",
    ],
)
def test_a_filter_means_a_job_for_which_all_terms_hold(text: str) -> None:
    assert is_meant(text)


@pytest.mark.parametrize(
    "text",
    [
        "state:queued",
        "-state:failed",
        "fate:retried",
        "state:failed -task:mail.*",
        "task:mail",
        "task:MAIL.*",
        "queue:default",
        "priority:critical",
        "worker:box",
        "id:01a4",
        "error:route",
        "submitted:-5m..",
        "submitted:..-10m",
        "submitted:2027-01-14",
        "ended:-30s..",
        "attempt:..2",
        "losses:1..",
    ],
)
def test_a_filter_leaves_out_a_job_for_which_one_does_not(text: str) -> None:
    assert not is_meant(text)


def test_what_a_job_has_not_is_in_no_range_and_like_nothing() -> None:
    waiting = Job(holder=None, started_at=None, ended_at=None, queue=None, priority=None)
    for text in ("ended:2000-01-01..", "started:..2100-01-01", "worker:?*", "queue:mail"):
        assert not is_meant(text, waiting)
        assert is_meant(f"-{text}", waiting)
    assert not is_meant("priority:critical,high,normal,low", waiting)


def test_what_a_job_ended_with_is_read_only_where_it_counts() -> None:
    def never() -> str:
        raise AssertionError("it was asked for")

    assert not Filter.parse("state:queued error:x").matches(Job(), never)
    assert Filter.parse("state:failed task:mail.*").matches(Job(), never)


def test_moments_without_an_offset_are_of_the_zone_that_was_said() -> None:
    west = timezone(timedelta(hours=-5))
    (term,) = Filter.parse("ended:2027-01-15T03:00..2027-01-15T09:00Z", NOW, west).terms
    assert term.values == ((NOW, NOW + 3600),)
    (term,) = Filter.parse("ended:2027-01-15", NOW, west).terms
    assert term.values == ((NOW - 3 * 3600, NOW + 21 * 3600),)


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("mail", 1, "'mail' is no term: write key:value; the keys are state,"),
        ("state:failed mail", 14, "'mail' is no term"),
        ("stat:failed", 1, "there is no key 'stat': did you mean state?"),
        ("-taks:x", 2, "there is no key 'taks': did you mean task?"),
        ("arg.user_id:7", 1, "there is no key 'arg.user_id': the keys are state,"),
        ("state:asleep", 7, "'asleep' is no job state: use one of queued,"),
        ("state:failed,asleep", 14, "'asleep' is no job state"),
        ("state:", 7, "state: takes a value"),
        ("state:failed,", 14, "state: takes a value"),
        ("fate:gone", 6, "'gone' is not what became of a job: use one of dead, retried, discarded"),
        ("priority:9", 10, "use one of critical, high, normal, low"),
        ('error:"no route', 7, "the quotes that begin here do not end"),
        ('error:no"route"', 9, "put it in quotes as a whole"),
        ("id:xyz", 4, "'xyz' is not how an id begins: it has 32 hexadecimal digits"),
        ("ended:-1h", 7, "write -1h.. for since then"),
        ("ended:-1y..", 7, "'-1y' is no moment: write it as in -1h (s, m, h, d, w)"),
        ("ended:2027-02-30", 7, "is no day"),
        ("ended:2027-01-15T08:00", 7, "is no day, as 2027-01-31, and no range"),
        ("ended:..", 7, "a range has a beginning or an end"),
        ("ended:-1h..-2h", 7, "ends before it begins"),
        ("attempt:x", 9, "'x' is no number"),
        ("attempt:4..2", 9, "ends before it begins"),
        ("attempt:..", 9, "a range has a beginning or an end"),
        ("attempt:99999999999999999", 9, "is no number"),
        ("task:a\0b", 7, "no text"),
        ("task:" + "a" * MAX_FILTER, MAX_FILTER + 1, "2,000 characters at the most"),
    ],
)
def test_what_is_no_filter_is_told_where_and_what_may_stand_there(
    text: str, position: int, why: str
) -> None:
    with pytest.raises(BadFilter, match=re.escape(why)) as caught:
        Filter.parse(text, NOW)
    assert caught.value.position == position
    assert f"at character {position}: " in str(caught.value)
    assert len(str(caught.value)) < 400


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
moments = st.integers(0, 4_000_000_000_000_000).map(lambda us: us / 1e6)


def ranges(numbers: st.SearchStrategy[Any], least_gap: float) -> st.SearchStrategy[Any]:
    return st.tuples(st.none() | numbers, st.none() | numbers).filter(
        lambda r: r != (None, None) and (None in r or r[1] - r[0] >= least_gap)
    )


def terms() -> st.SearchStrategy[Term]:
    values: dict[str, st.SearchStrategy[Any]] = {
        "state": st.sampled_from(JobState),
        "priority": st.sampled_from(Priority),
        "fate": st.sampled_from(Fate),
        **dict.fromkeys(("task", "queue", "worker"), names),
        "id": st.text("0123456789abcdef", min_size=1, max_size=32),
        "error": names.map(str.casefold).filter(lambda text: text == text.casefold()),
        **dict.fromkeys(("submitted", "started", "ended"), ranges(moments, 0.001)),
        **dict.fromkeys(("attempt", "losses"), ranges(st.integers(1, 99), 1)),
    }
    assert set(values) == set(KEYS)
    return st.sampled_from(KEYS).flatmap(
        lambda key: st.builds(
            Term,
            st.just(key),
            st.lists(values[key], min_size=1, max_size=3).map(tuple),
            st.booleans(),
        )
    )


@given(st.lists(terms(), max_size=3))
def test_a_filter_that_is_written_reads_as_the_same_whenever_it_is_read(terms: list[Term]) -> None:
    text = Filter(tuple(terms)).text
    if len(text) <= MAX_FILTER:
        once = Filter.parse(text, NOW)
        assert Filter.parse(once.text, 0.0, None) == once
        assert [(t.key, t.is_not, len(t.values)) for t in once.terms] == [
            (t.key, t.is_not, len(t.values)) for t in terms
        ]
        assert all(
            one.values == term.values
            for one, term in zip(once.terms, terms, strict=True)
            if term.key not in ("submitted", "started", "ended")
        )


@given(
    st.text() | st.lists(st.sampled_from([*KEYS, ":", '"', ",", "-", " ", "..", "1"])).map("".join)
)
def test_any_text_is_a_filter_or_a_bad_one(text: str) -> None:
    try:
        found = Filter.parse(text, NOW)
    except BadFilter as error:
        found, position = ANY, error.position
    else:
        position = 1
    assert 1 <= position <= len(text) + 1
    assert Filter.parse(found.text) == found


@given(st.text("ab[]!.", max_size=8), st.text("ab*?[]!.", max_size=8))
def test_patterns_are_those_of_shells_without_sets(text: str, pattern: str) -> None:
    assert is_like(text, pattern) is fnmatchcase(text, pattern.replace("[", "[[]"))


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not is_like("a" * 2000, "*a" * 500 + "b")


def test_a_value_with_quotes_and_backslashes_is_one_again() -> None:
    value = 'a "b" \\ c, d'
    (term,) = Filter.parse(f"task:{quoted(value)}").terms
    assert term.values == (value,)
    assert quoted("mail.*") == "mail.*"


def test_the_states_that_are_possible_are_known() -> None:
    assert ANY.states == frozenset(JobState)
    assert Filter.parse("state:failed,lost -state:lost task:x").states == {JobState.FAILED}
    assert Filter.parse("state:failed state:lost").states == frozenset()


def test_the_worker_is_what_comes_before_its_incarnation() -> None:
    assert [worker_of(holder) for holder in ("a/b/c", "w1", None)] == ["a/b", "", ""]
