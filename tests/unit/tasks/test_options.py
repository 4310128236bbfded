"""Options that say how often, and when: what is taken, and what is refused and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creche.errors import InvalidArguments, Retry, Snooze, TaskDefinitionError
from creche.model.limits import TimeLimits
from creche.peer.calls import checked_options
from creche.tasks import Registry, SubmitOptions, Task, task
from creche.tasks.options import submission_options

MOMENT = datetime(2027, 1, 31, 18, 30, tzinfo=UTC)


def made(**options: Any) -> Task[..., Any]:
    """A task with these options."""

    def order(item: str) -> str:
        return item

    found: Task[..., Any] = task(registry=Registry(), **options)(order)
    return found


def test_a_policy_is_announced_with_the_names_of_what_it_judges_by() -> None:
    retrying = made(retries=5, backoff=0.5, retry_on=(OSError, KeyError), never_retry_on=EOFError)
    declared = retrying.declaration()
    assert declared["retry"] == {"retries": 5, "backoff": 0.5}
    assert declared["retry_on"] == ["OSError", "KeyError"]
    assert declared["never_retry_on"] == ["EOFError"]
    assert "retry" not in made().declaration()


def test_a_submission_says_only_what_it_has_of_its_own() -> None:
    retrying = made(retries=5, backoff=0.5, delivery="at-least-once")
    assert retrying.options == SubmitOptions(delivery="at-least-once")
    view = retrying.with_options(retries=0).with_options(backoff=2)
    assert view.options.retry == {"retries": 0, "backoff": 2}
    assert retrying.defaults.retry == {"retries": 5, "backoff": 0.5}
    assert made().options.is_plain
    assert not view.options.is_plain


def test_limits_are_announced_and_a_view_says_only_its_own() -> None:
    limited = made(timeout=30, soft_timeout=20, expires=600)
    assert limited.declaration()["limits"] == {
        "timeout_s": 30,
        "soft_timeout_s": 20,
        "expires_s": 600,
    }
    assert limited.options.is_plain
    view = limited.with_options(timeout=40).with_options(deadline=MOMENT)
    assert view.options.limits == TimeLimits(timeout_s=40, deadline_at=MOMENT.timestamp())
    assert "limits" not in made().declaration()
    with pytest.raises(TaskDefinitionError, match="soft_timeout"):
        limited.with_options(timeout=10)


def test_the_later_of_two_times_is_the_one_that_counts() -> None:
    view = made().with_options(countdown=5)
    assert (view.options.countdown, view.options.eta) == (5, None)
    again = view.with_options(eta=MOMENT)
    assert (again.options.countdown, again.options.eta) == (None, MOMENT)
    assert again.with_options(queue="mail").options.eta == MOMENT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries is a whole number from 0"),
        ({"retries": "for ever"}, "'forever'"),
        ({"retries": 2.0}, "retries is a whole number"),
        ({"retries": 3, "backoff": 10**400}, "backoff is a number of seconds"),
        ({"timeout": 10**400}, "timeout is a number of seconds"),
        ({"retries": 3, "backoff": -1}, "backoff is a number of seconds"),
        ({"retries": 3, "backoff": 10, "backoff_max": 5}, "longer than backoff_max"),
        ({"retries": 3, "jitter": 2}, "a share from 0 to 1"),
        (
            {"retries": 5, "backoff": 30, "give_up_after": 10},
            "with give_up_after=10 no retry is ever",
        ),
        ({"retries": 3, "give_up_after": 0}, "give_up_after is a number of seconds above 0"),
        ({"backoff": 1}, "backoff without retries: say how often"),
        ({"give_up_after": 60, "jitter": 0}, "jitter, give_up_after without retries"),
        ({"retry_on": OSError}, "retry_on without retries"),
        ({"never_retry_on": OSError}, "never_retry_on without retries"),
        ({"retries": 3, "retry_on": "OSError"}, "retry_on names exception classes"),
        ({"retries": 3, "retry_on": (OSError, 5)}, "5 is none"),
        ({"retries": 3, "never_retry_on": int}, "is none"),
        (
            {"retries": 3, "retry_on": OSError, "never_retry_on": (KeyError, OSError)},
            "retry_on and never_retry_on both name OSError",
        ),
        (
            {"retries": 3, "retry_on": (KeyError, ConnectionError), "never_retry_on": OSError},
            "retry_on names ConnectionError, which is an OSError, and never_retry_on names that",
        ),
        (
            {"retries": 3, "never_retry_on": (OSError, Exception)},
            "never_retry_on=Exception leaves nothing to be tried again",
        ),
        ({"retries": 3, "delivery": "at-most-once"}, "must not run twice: leave retries out"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
        ({"timeout": -5}, "timeout is a number of seconds above 0"),
        ({"timeout": "5"}, "timeout is a number of seconds"),
        ({"soft_timeout": 1e9}, "soft_timeout is a number of seconds"),
        ({"expires": 0}, "expires is a number of seconds above 0"),
        ({"timeout": 5, "soft_timeout": 5}, "soft_timeout (5 s) has to come before timeout (5 s)"),
        ({"deadline": MOMENT}, "has no option 'deadline'"),
        ({"retry": 3}, "has no option 'retry': did you mean 'retry_on'?"),
        ({"countdown": 3}, "has no option 'countdown'"),
    ],
)
def test_what_a_task_cannot_say_is_refused_where_it_is_said(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=r"test_options\.py:\d+") as refused:
        made(**options)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries is a whole number"),
        ({"backoff_max": 0.1}, "longer than backoff_max"),
        ({"delivery": "at-most-once"}, "leave retries out"),
        ({"countdown": -1}, "countdown is a number of seconds from 0"),
        ({"countdown": "5"}, "countdown is a number of seconds"),
        ({"countdown": True}, "countdown is a number of seconds"),
        ({"countdown": 1e9}, "a year"),
        ({"countdown": 1, "eta": MOMENT}, "both say when"),
        ({"eta": "tomorrow"}, "eta is a datetime"),
        ({"eta": MOMENT.replace(tzinfo=None)}, "no time zone"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
        ({"timeout": 1, "soft_timeout": 2}, "soft_timeout (2 s) has to come before"),
        ({"deadline": 5}, "deadline is a datetime"),
        ({"countdown": 60, "expires": 5}, "it has expired (expires=5) before it may run"),
        (
            {"eta": MOMENT, "deadline": MOMENT},
            "its time is up before it may run (deadline=2027-01-31",
        ),
        ({"give_up_after": 0.5}, "no retry is ever due: the first one waits for backoff=1 s"),
        ({"deadline": MOMENT.replace(tzinfo=None)}, "no time zone"),
        ({"retry_on": OSError}, "with_options() has no option 'retry_on'"),
        ({"prioriti": "high"}, "did you mean 'priority'?"),
    ],
)
def test_what_a_submission_cannot_say_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskDefinitionError, match="task 'order': ") as refused:
        made(retries=3, backoff=1).with_options(**options)
    assert said in str(refused.value)


@pytest.mark.parametrize("by", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("start", ["countdown", "eta"])
@pytest.mark.parametrize("end", ["expires", "deadline"])
def test_what_may_run_only_when_its_time_is_up_is_refused_where_it_is_said(
    start: str, end: str, by: float
) -> None:
    now = MOMENT.timestamp()
    starts: dict[str, Any] = {"countdown": 60 + by, "eta": MOMENT + timedelta(seconds=60 + by)}
    ends: dict[str, Any] = {"expires": 60, "deadline": MOMENT + timedelta(seconds=60)}
    options = {start: starts[start], end: ends[end]}
    if by < 0:
        assert not submission_options("here", options, now).is_plain
        return
    with pytest.raises(TaskDefinitionError, match=f"here: with {start}=") as refused:
        submission_options("here", options, now)
    assert f"({end}=" in str(refused.value)


def test_a_policy_whose_delays_may_fall_short_by_chance_is_taken() -> None:
    assert made(retries=3, backoff=10, jitter=0.5, give_up_after=6).defaults.retry


def test_a_call_by_name_is_given_times_too() -> None:
    options = checked_options("mail", "high", None, MOMENT)
    assert (options.queue, options.eta) == ("mail", MOMENT)
    with pytest.raises(InvalidArguments, match="no time zone"):
        checked_options(None, None, None, datetime.now() + timedelta(1))  # noqa: DTZ005
    with pytest.raises(InvalidArguments, match="both say when"):
        checked_options(None, None, 1.0, MOMENT)


def test_a_delay_is_not_taken_for_a_reason() -> None:
    with pytest.raises(ValueError, match=r"write Retry\(countdown=5\)"):
        Retry(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("countdown", [-1, float("nan"), "5", True, 1e9])
def test_what_a_body_cannot_ask_for_is_refused_in_the_body(countdown: Any) -> None:
    with pytest.raises(ValueError, match=r"Retry\(countdown=...\) is a number of seconds"):
        Retry(countdown=countdown)
    with pytest.raises(ValueError, match=r"Snooze\(countdown=...\) is a number of seconds"):
        Snooze(countdown)
