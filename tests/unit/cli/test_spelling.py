"""What is said of parameters is said of the options that a person typed."""

from __future__ import annotations

import pytest

from creche.cli.spelling import in_options, names_of, spelled_as
from creche.errors import Refused, SettingsError

NAMES = names_of(
    "eta", "at", "every", "tz", "cron", "missed", "missed_within", timeout="time-limit"
)


@pytest.mark.parametrize(
    ("sentence", "spelled"),
    [
        ("eta=2030-01-01 is late", "--eta 2030-01-01 is late"),
        ("timeout is a number", "--time-limit is a number"),
        ("leave out tz='Europe/Paris'", "leave out --tz Europe/Paris"),
        ("cron='0 3 * * *', or a moment (at)", "--cron '0 3 * * *', or a moment (--at)"),
        ("missed_within and missed='all', at once", "--missed-within and --missed all, at once"),
        ("look at it at 5: at is in the past", "look at it at 5: --at is in the past"),
        ("every and at both say when", "--every and --at both say when"),
        ("cron, every and at all say when", "--cron, --every and --at all say when"),
        ("there is no schedule 'eta timeout'", "there is no schedule 'eta timeout'"),
        ("say --timeout, or a beta of pretzel", "say --timeout, or a beta of pretzel"),
    ],
)
def test_a_parameter_is_spelled_as_its_option_and_what_is_quoted_stays(
    sentence: str, spelled: str
) -> None:
    assert in_options(sentence, NAMES) == spelled


def test_what_a_plane_refuses_keeps_its_code() -> None:
    with pytest.raises(Refused, match="--at is in the past") as caught, spelled_as(NAMES):
        raise Refused("bad-schedule", "at is in the past")
    assert caught.value.code == "bad-schedule"
    with pytest.raises(SettingsError, match="--eta has"), spelled_as(NAMES, ValueError):
        raise ValueError("eta has")
