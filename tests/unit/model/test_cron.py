"""What a cron expression names, in any zone, over both changes of its clocks."""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.cron import WORDS, Cron, find_zone

# --- against an independent calculation: a walk over all minutes of UTC around each change -------

CHANGING = [
    "Africa/Cairo", "Africa/Casablanca", "America/Anchorage", "America/Asuncion", "America/Chicago",
    "America/Denver", "America/Halifax", "America/Havana", "America/Los_Angeles",
    "America/Miquelon", "America/New_York", "America/Nuuk", "America/Santiago",
    "America/Scoresbysund", "America/St_Johns", "America/Toronto", "Antarctica/Troll",
    "Asia/Beirut", "Asia/Gaza", "Asia/Jerusalem", "Atlantic/Azores", "Atlantic/Bermuda",
    "Australia/Adelaide", "Australia/Hobart", "Australia/Lord_Howe", "Australia/Sydney",
    "Europe/Athens", "Europe/Berlin", "Europe/Chisinau", "Europe/Dublin", "Europe/Helsinki",
    "Europe/Lisbon", "Europe/London", "Europe/Paris", "Pacific/Auckland", "Pacific/Chatham",
    "Pacific/Easter", "Pacific/Norfolk",
]  # fmt: skip
STEADY = ["Africa/Nairobi", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Tokyo", "Europe/Moscow", "UTC"]

Matches = Callable[[datetime], bool]

TIMES_OF_DAY: dict[str, Matches] = {
    "30 2 * * *": lambda t: (t.hour, t.minute) == (2, 30),
    "0 0 * * *": lambda t: (t.hour, t.minute) == (0, 0),
    "15,45 0-3 * * *": lambda t: t.hour <= 3 and t.minute in (15, 45),
    "0 1,2,3 * * *": lambda t: t.hour in (1, 2, 3) and t.minute == 0,
    "59 23 * * *": lambda t: (t.hour, t.minute) == (23, 59),
    "20 2 * * SUN": lambda t: (t.hour, t.minute) == (2, 20) and t.weekday() == 6,
    "40 0-23/2 * * 1-5": lambda t: t.minute == 40 and t.hour % 2 == 0 and t.weekday() < 5,
}
PASSING: dict[str, Matches] = {
    "*/15 * * * *": lambda t: t.minute % 15 == 0,
    "0 * * * *": lambda t: t.minute == 0,
    "*/20 2 * * *": lambda t: t.hour == 2 and t.minute % 20 == 0,
    "*/30 1 * * 0": lambda t: t.hour == 1 and t.minute % 30 == 0 and t.weekday() == 6,
    "45 */2 * * *": lambda t: t.hour % 2 == 0 and t.minute == 45,
}


@lru_cache(maxsize=1)
def windows(name: str) -> list[list[tuple[float, datetime]]]:
    """All minutes (UTC seconds, and what the clock shows) of the days around each change of 2026
    and 2027; of a zone without changes, those around some hours."""
    zone = ZoneInfo(name)
    first = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    hours = range(first, first + 2 * 365 * 86_400, 3600)
    offsets = [datetime.fromtimestamp(hour, zone).utcoffset() for hour in hours]
    changes = [h for h, a, b in zip(hours[1:], offsets, offsets[1:], strict=False) if a != b]
    return [
        [
            (float(minute), datetime.fromtimestamp(minute, zone).replace(tzinfo=None))
            for minute in range(change - 26 * 3600, change + 26 * 3600, 60)
        ]
        for change in changes or hours[2000::9000]
    ]


def shown_times(window: list[tuple[float, datetime]]) -> Iterator[datetime]:
    """Every minute that a calendar has in a window, whether the clock shows it or not."""
    wall, end = window[0][1], window[-1][1]
    while wall <= end:
        yield wall
        wall += timedelta(minutes=1)


def expected_of_day(window: list[tuple[float, datetime]], matches: Matches) -> list[float]:
    """Each time once: when it is shown first, or else when the clock first shows a later one."""
    shown_at: dict[datetime, float] = {}
    for minute, wall in window:
        shown_at.setdefault(wall, minute)
    found = set()
    for wall in shown_times(window):
        if matches(wall):
            at = shown_at.get(wall)
            found.add(next(m for m, shown in window if shown > wall) if at is None else at)
    return sorted(found)


def fired(cron: Cron, window: list[tuple[float, datetime]]) -> list[float]:
    found, at = [], cron.next_after(window[0][0] - 1)
    while at is not None and at <= window[-1][0]:
        found.append(at)
        at = cron.next_after(at)
    return found


@pytest.mark.parametrize("zone", [*CHANGING, *STEADY])
def test_times_of_day_come_once_and_time_that_passes_whenever_it_is_shown(zone: str) -> None:
    for window in windows(zone):
        for text, matches in TIMES_OF_DAY.items():
            assert fired(Cron(text, zone), window) == expected_of_day(window, matches), text
        for text, matches in PASSING.items():
            expected = [minute for minute, wall in window if matches(wall)]
            assert fired(Cron(text, zone), window) == expected, text


def test_the_table_has_changes_of_both_kinds_and_of_half_an_hour() -> None:
    both = 0
    for zone in CHANGING:
        steps = set()
        for window in windows(zone):
            walls = [wall for _, wall in window]
            steps |= {b - a for a, b in pairwise(walls)} - {timedelta(minutes=1)}
        both += min(steps, default=timedelta()) < timedelta() < max(steps, default=timedelta())
        if zone == "Australia/Lord_Howe":
            assert steps == {timedelta(minutes=31), timedelta(minutes=-29)}
    assert both >= 30


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/Santiago", "Australia/Lord_Howe"])
def test_wherever_it_is_asked_from_the_next_moment_is_the_same(zone: str) -> None:
    """As a plane does that is started again between two firings."""
    for text in (*TIMES_OF_DAY, *PASSING):
        cron = Cron(text, zone)
        for window in windows(zone):
            moments = fired(cron, window)
            for minute, _ in window[::7]:
                later = [moment for moment in moments if moment > minute + 0.5]
                if later:
                    assert cron.next_after(minute + 0.5) == later[0], text


# --- said in words -------------------------------------------------------------------------------


def local(text: str, tz: str, after: str, number: int) -> list[str]:
    """The next moments, as the clock shows them."""
    cron = Cron(text, tz)
    at: float | None = datetime.fromisoformat(after).replace(tzinfo=cron.zone).timestamp()
    found = []
    for _ in range(number):
        assert at is not None
        at = cron.next_after(at)
        assert at is not None
        found.append(datetime.fromtimestamp(at, cron.zone).isoformat(" ", "minutes"))
    return found


def test_a_time_that_does_not_exist_in_spring_comes_when_the_gap_ends() -> None:
    assert local("30 2 * * *", "Europe/Paris", "2026-03-28 12:00", 2) == [
        "2026-03-29 03:00+02:00",
        "2026-03-30 02:30+02:00",
    ]


def test_a_time_that_exists_twice_in_autumn_comes_the_first_time() -> None:
    assert local("30 2 * * *", "Europe/Paris", "2026-10-24 12:00", 2) == [
        "2026-10-25 02:30+02:00",
        "2026-10-26 02:30+01:00",
    ]


def test_what_is_hourly_stays_hourly() -> None:
    assert local("0 * * * *", "Europe/Paris", "2026-10-25 01:30", 3) == [
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 03:00+01:00",
    ]
    assert local("0 * * * *", "Europe/Paris", "2026-03-29 00:30", 3) == [
        "2026-03-29 01:00+01:00",
        "2026-03-29 03:00+02:00",
        "2026-03-29 04:00+02:00",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 L * *", ["2026-01-31 00:00+00:00", "2026-02-28 00:00+00:00"]),
        ("0 0 LW * *", ["2026-01-30 00:00+00:00", "2026-02-27 00:00+00:00"]),
        ("0 9 * * 1#2", ["2026-01-12 09:00+00:00", "2026-02-09 09:00+00:00"]),
        ("0 9 * * FRI#1", ["2026-01-02 09:00+00:00", "2026-02-06 09:00+00:00"]),
        ("0 9 * * 5L", ["2026-01-30 09:00+00:00", "2026-02-27 09:00+00:00"]),
        ("0 9 * jan,mar mon-wed", ["2026-01-05 09:00+00:00", "2026-01-06 09:00+00:00"]),
        ("5/20 9 * * *", ["2026-01-01 09:05+00:00", "2026-01-01 09:25+00:00"]),
        ("10-20/5 9 * * *", ["2026-01-01 09:10+00:00", "2026-01-01 09:15+00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00+00:00", "2032-02-29 00:00+00:00"]),
        # Day of month or day of week, if neither begins with a star; else both.
        ("0 0 13 * 5", ["2026-01-02 00:00+00:00", "2026-01-09 00:00+00:00"]),
        ("0 0 */13 * 5", ["2026-02-27 00:00+00:00", "2026-03-27 00:00+00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00+00:00", "2026-01-11 00:00+00:00"]),
    ],
    ids=str,
)  # fmt: skip
def test_days_are_named_in_many_ways(text: str, expected: list[str]) -> None:
    assert local(text, "UTC", "2026-01-01 00:00", 2) == expected


def test_seconds_come_first_where_there_are_six_fields() -> None:
    cron = Cron("*/20 30 2 * * *")
    at = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    found = []
    for _ in range(4):
        at = cron.next_after(at) or 0.0
        found.append(datetime.fromtimestamp(at, UTC).strftime("%d %H:%M:%S"))
    assert found == ["01 02:30:00", "01 02:30:20", "01 02:30:40", "02 02:30:00"]
    assert local("0 30 2 * * *", "Europe/Paris", "2026-03-28 12:00", 1) == [
        "2026-03-29 03:00+02:00"
    ]


@pytest.mark.parametrize("word", WORDS)
def test_words_stand_for_expressions(word: str) -> None:
    assert Cron(word.upper()).next_after(1e9) == Cron(WORDS[word]).next_after(1e9)


@given(
    st.sampled_from([*TIMES_OF_DAY, *PASSING, "*/7 * * * * *", "0 12 L * *"]),
    st.sampled_from([*CHANGING, *STEADY]),
    st.floats(0, 4e9),
)
def test_the_next_moment_is_later_and_the_first(text: str, zone: str, after: float) -> None:
    cron = Cron(text, zone)
    at = cron.next_after(after)
    assert at is not None
    assert at > after
    assert cron.next_after(at - 0.5) == at
    between = after + (at - after) / 2
    assert between >= at or cron.next_after(between) == at


def test_there_is_none_after_the_last_year() -> None:
    last = float(calendar.timegm((9999, 12, 31, 23, 59, 59)))
    assert Cron("0 0 * * *").next_after(last) is None
    assert Cron("* * * * *", "Asia/Tokyo").next_after(last) is None


# --- what is wrong is pointed at -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 25 * * *", 'cron "0 25 * * *": hour 25 is not in 0 to 23'),
        ("60 * * * *", 'cron "60 * * * *": minute 60 is not in 0 to 59'),
        ("61 0 0 * * *", 'cron "61 0 0 * * *": second 61 is not in 0 to 59'),
        ("0 0 0 * *", 'cron "0 0 0 * *": day of month 0 is not in 1 to 31'),
        ("0 0 * 13 *", 'cron "0 0 * 13 *": month 13 is not in 1 to 12'),
        ("0 0 * * 8", 'cron "0 0 * * 8": day of week 8 is not in 0 to 7'),
        ("0 20-8 * * *", 'cron "0 20-8 * * *": hour 20-8 ends before it begins'),
        ("*/0 * * * *", 'cron "*/0 * * * *": minute */0: a step is a whole number from 1 to 59'),
        ("*/x * * * *", 'cron "*/x * * * *": minute */X: a step is a whole number from 1 to 59'),
        ("0 */24 * * *", 'cron "0 */24 * * *": hour */24: a step is a whole number from 1 to 23'),
        ("1,,2 * * * *", 'cron "1,,2 * * * *": minute has an empty part'),
        ("1- * * * *", 'cron "1- * * * *": minute has an empty part'),
        ("0 -1 * * *", 'cron "0 -1 * * *": hour has an empty part'),
        ("0 noon * * *", 'cron "0 noon * * *": hour NOON is not a whole number'),
        ("0 1.5 * * *", 'cron "0 1.5 * * *": hour 1.5 is not a whole number'),
        ("0 9 * * 6#7", ('cron "0 9 * * 6#7": day of week 6#7: which one of the month is a whole '
                         "number from 1 to 5")),
        ("0 9 * * 9L", 'cron "0 9 * * 9L": day of week 9 is not in 0 to 7'),
        ("0 9 L/2 * *", 'cron "0 9 L/2 * *": day of month L/2: L takes no step'),
        ("0 0 30 2 *", 'cron "0 0 30 2 *": there is no such day in any year'),
        ("0 0 31 4,6,9,11 *", 'cron "0 0 31 4,6,9,11 *": there is no such day in any year'),
        ("30 2 * *", ('cron "30 2 * *" has 4 fields: it takes 5 (minute, hour, day of month, '
                      "month, day of week), or 6 with seconds first")),
        ("", ('cron "" has 0 fields: it takes 5 (minute, hour, day of month, month, day of week), '
              "or 6 with seconds first")),
        ("@reboot", ('cron "@reboot": there is no @reboot; there are @yearly, @annually, @monthly, '
                     "@weekly, @daily, @midnight, @hourly")),
    ],
    ids=lambda value: value if " " not in value[:6] else None,
)  # fmt: skip
def test_what_is_wrong_with_an_expression_is_pointed_at(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        Cron(text)


def test_a_name_that_is_none_is_told_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="day of week FRY is not a whole number, nor one of SUN, "):
        Cron("0 9 * * mon-fry")


@given(st.text(max_size=40) | st.text("0123456789*/,-#L SUNMO@", max_size=25))
def test_whatever_is_no_expression_is_refused_with_a_sentence(text: str) -> None:
    why = ""
    try:
        at = Cron(text).next_after(1e9)
    except ValueError as error:
        at, why = 0.0, str(error)
    assert at is not None
    assert at or why.startswith("cron ")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("europe/paris", "did you mean 'Europe/Paris'"),
        ("Europe/Pari", "did you mean 'Europe/Paris'"),
        ("New York", "'America/New_York'"),
        ("Mars/Olympus_Mons", "use one such as 'Europe/Paris'"),
        ("", "use one such as"),
        ("../../etc/passwd", "use one such as"),
        ("Europe", "is no time zone"),
        ("\0", "is no time zone"),
    ],
    ids=["case", "slip", "city", "nowhere", "empty", "path", "folder", "nul"],
)
def test_a_zone_that_is_none_is_told_near_names(name: str, near: str) -> None:
    with pytest.raises(ValueError, match="is no time zone: ") as raised:
        find_zone(name)
    assert near in str(raised.value)


def test_the_list_of_moments_is_endless() -> None:
    cron = Cron("0 12 * * *", "Asia/Kathmandu")

    def walk() -> Iterator[float]:
        at: float | None = 1e9
        while at is not None:
            at = cron.next_after(at)
            assert at is not None
            yield at

    found = list(islice(walk(), 100))
    assert {b - a for a, b in pairwise(found)} == {86_400.0}


@pytest.mark.parametrize(
    ("text", "gap_s"),
    [
        ("* * * * *", 60),
        ("*/7 * * * *", 240),  # from minute 56 to the next hour
        ("10,20,45 * * * *", 600),
        ("0 0,23 * * *", 3600),
        ("59 23 * * *", 86_400),
        ("59,0 0,23 * * *", 60),
        ("30 3 * * MON-FRI", 86_400),
        ("0 0,23 1 * *", 23 * 3600),
        ("0 0,23 1,L * *", 3600),
        ("0 0,20 29,1 2,3 *", 4 * 3600),  # in leap years
        ("0 0,20 13 * FRI", 4 * 3600),  # each Friday, and each 13th
        ("0 3 * * MON", math.inf),
        ("0 0,20 31 12,2 *", 20 * 3600),
        ("*/25 * * * * *", 10),
        ("5,50 59,0 11,12 * * *", 15),
        ("58 59 23 * * *", 86_400),
    ],
)
def test_the_shortest_gap_of_an_expression_is_told(text: str, gap_s: float) -> None:
    assert Cron(text).shortest_gap_s() == gap_s


FIELD = st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True)


@given(FIELD, FIELD, st.sampled_from(["*", "MON", "1-5", "SAT,SUN"]))
def test_no_two_moments_are_nearer_than_the_shortest_gap(
    minutes: list[int], hours: list[int], days: str
) -> None:
    said = [",".join(str(n * step) for n in ns) for ns, step in ((minutes, 5), (hours, 2))]
    cron = Cron(f"{said[0]} {said[1]} * * {days}")
    at: float | None = cron.next_after(1.8e9)
    gaps = []
    for _ in range(9 * 8):  # those of over a week
        assert at is not None
        later = cron.next_after(at)
        assert later is not None
        gaps.append(later - at)
        at = later
    shortest_s = cron.shortest_gap_s()
    assert min(gaps) == (shortest_s if shortest_s < math.inf else 7 * 86_400)
