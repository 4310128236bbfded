"""What a task says of its schedule: what is taken, and what is refused and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from creche.errors import TaskDefinitionError
from creche.model.schedule import Rule
from creche.tasks import Registry, Schedule, Task, task
from creche.tasks.lifespan import lifespan
from creche.tasks.schedules import why_over
from creche.wire.payload import decode_call
from creche.worker.announcing import announced


class Counts:
    """What a worker hands to bodies."""


MOMENT = datetime(2027, 1, 31, 18, 30, tzinfo=ZoneInfo("Europe/Paris"))


def made(**options: Any) -> Task[..., Any]:
    """A task with these options."""

    def report(kind: str = "daily") -> str:
        return kind

    found: Task[..., Any] = task(registry=Registry(), **options)(report)
    return found


def rule_of(**options: Any) -> dict[str, Any]:
    rule: dict[str, Any] = made(**options).declaration()["schedule"]["rule"]
    return rule


def test_a_task_without_a_rule_declares_none() -> None:
    assert made().schedule is None
    assert "schedule" not in made().declaration()


def test_short_options_make_a_rule() -> None:
    assert rule_of(cron="0 3 * * *", tz="Europe/Paris") == {
        "cron": "0 3 * * *",
        "tz": "Europe/Paris",
    }
    assert rule_of(every=60) == {"every": 60}
    assert rule_of(every=timedelta(minutes=2)) == {"every": 120.0}


def test_names_of_fastworker_make_the_same_rule() -> None:
    until = MOMENT.timestamp()
    assert rule_of(repeat_interval=30, repeat_count=5, repeat_until=MOMENT.isoformat()) == {
        "every": 30,
        "count": 5,
        "end": until,
    }
    assert rule_of(cron="@hourly", repeat_until=MOMENT) == {"cron": "@hourly", "end": until}


def test_a_schedule_says_all_of_it_and_the_arguments() -> None:
    schedule = Schedule(
        cron="0 3 * * 1-5", tz="Europe/Paris", start=MOMENT, end=MOMENT + timedelta(days=30),
        count=5, jitter=60, missed="all", missed_within=3600, overlap="queue",
        args=("weekly",), kwargs={},
    )  # fmt: skip
    declared = announced(made(schedule=schedule).declaration())["schedule"]
    assert Rule.from_data(declared["rule"]) == schedule.rule
    assert decode_call(bytes.fromhex(declared["payload"])) == (["weekly"], {})


def test_moments_keep_their_zone_on_the_way() -> None:
    assert Schedule(at=MOMENT).rule.at == datetime(2027, 1, 31, 17, 30, tzinfo=UTC).timestamp()


def test_arguments_that_cannot_be_carried_name_their_task() -> None:
    odd = made(schedule=Schedule(every=5, args=(object(),)))
    with pytest.raises(TaskDefinitionError, match=r"the schedule of task 'report': args\[0\] "):
        announced(odd.declaration())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cron": "0 25 * * *"}, 'cron "0 25 * * *": hour 25 is not in 0 to 23'),
        ({"cron": "0 3 * * *", "tz": "Europe/Pari"}, "did you mean 'Europe/Paris'"),
        ({"cron": "@daily", "every": 60}, "cron and every both say when: give one of them"),
        ({"cron": "@daily", "repeat_interval": 60}, "cron and every both say when"),
        ({"every": 60, "repeat_interval": 60}, "repeat_interval and every are the same"),
        ({"tz": "Europe/Paris"}, "a schedule says when: cron='0 3 * * *', every=60, or a moment"),
        ({"repeat_count": 5}, "a schedule says when"),
        ({"every": 60, "tz": "UTC"}, "tz is for cron, and there is none"),
        ({"every": 0}, "every is a number of seconds from 0.1"),
        ({"every": 60, "repeat_count": 0}, "count is how often it fires, a whole number from 1"),
        ({"every": 60, "repeat_until": "soon"}, "repeat_until 'soon' is no moment: write it as"),
        ({"every": 60, "repeat_until": "2027-01-31T18:30"}, "says no time zone, so it is no"),
        ({"every": 60, "repeat_until": 5}, "repeat_until is a datetime or a text, not 5"),
        ({"schedule": "0 3 * * *"}, "schedule is a Schedule(...), not '0 3 * * *'"),
        ({"schedule": Schedule(every=5), "cron": "@daily"}, "schedule and cron both say when"),
        ({"schedule": Schedule(every=5, args=(1, 2))}, "its schedule cannot call it: "),
        ({"schedule": Schedule(every=5, kwargs={"sort": 1})}, "its schedule cannot call it: "),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_said_where_the_task_is_defined(options: dict[str, Any], why: str) -> None:
    with pytest.raises(
        TaskDefinitionError, match=rf"report \(.*test_schedules.py:\d+\): .*{re.escape(why)}"
    ):
        made(**options)


def test_a_task_with_required_parameters_is_not_scheduled_without_them() -> None:
    def order(item: str) -> str:
        return item

    with pytest.raises(TaskDefinitionError, match=r"item.*; say the arguments with the rule"):
        task(registry=Registry(), every=60)(order)
    scheduled = task(registry=Registry(), schedule=Schedule(every=60, args=("tea",)))(order)
    assert scheduled.schedule is not None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "a schedule says when"),
        ({"at": datetime(2027, 1, 31)}, "says no time zone, so it is no moment"),  # noqa: DTZ001
        ({"at": "tomorrow"}, "a schedule's at is a datetime, not 'tomorrow'"),
        ({"cron": "* * * * *", "jitter": 600}, "jitter (600 s) has to be shorter than the"),
        ({"every": 5, "args": "text"}, "a schedule's args are a tuple of arguments"),
        ({"every": 5, "args": 5}, "a schedule's args are a tuple of arguments"),
        ({"every": 5, "kwargs": [1]}, "a schedule's kwargs are a map"),
    ],
    ids=str,
)  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=re.escape(why)):
        Schedule(**options)


def test_what_a_worker_hands_to_a_body_is_no_argument_of_its_schedule() -> None:
    registry = Registry()

    @lifespan(registry=registry)
    def counts() -> Iterator[Counts]:
        yield Counts()

    @task(registry=registry, every=60)
    def count(there: Counts) -> None: ...

    def wrong(there: Counts, name: str) -> None: ...

    assert registry.get("count") is not None
    with pytest.raises(TaskDefinitionError, match=r"its schedule cannot call it: .*'name'"):
        task(registry=registry, every=60)(wrong)


def test_a_schedule_that_is_over_is_told_and_one_that_is_not_is_not() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    over = Schedule(at=at)
    assert why_over("it", over, at.timestamp() - 1) is None
    assert why_over("it", over, at.timestamp()) == (
        "it: its schedule (once, at 2030-01-01 00:00:00 UTC) is over, and will not fire any more"
    )
    ending = Schedule(cron="@daily", end=at)
    assert why_over("it", ending, at.timestamp() - 90_000) is None
    assert "is over" in str(why_over("it", ending, at.timestamp() + 1))
    assert why_over("it", None, 0.0) is None
