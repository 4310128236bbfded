"""Scripts of what goes wrong: drawn, written down, and cut down to what it takes."""

from __future__ import annotations

import re

import pytest

from creche.errors import SettingsError
from creche.testing.simulate import (
    Cast,
    Crash,
    Cut,
    DiskFull,
    Fate,
    Fault,
    Pause,
    Script,
    Skew,
    draw_script,
    shrink,
)
from creche.testing.simulate.script import check_script

CAST = Cast(["worker-1"], ["client-1", "client-2"])
NAMES = {
    name: value for name, value in globals().items() if name in (
        "Script", "Crash", "Cut", "DiskFull", "Fate", "Pause", "Skew")
}  # fmt: skip


def test_one_seed_draws_one_script() -> None:
    drawn = [draw_script(seed, CAST, 60.0) for seed in range(50)]
    assert drawn == [draw_script(seed, CAST, 60.0) for seed in range(50)]
    assert len({repr(script) for script in drawn}) == 50
    assert all(0 <= fault.at <= 60 for script in drawn for fault in script.faults)
    assert len({type(fault) for script in drawn for fault in script.faults}) >= 9


def test_a_script_is_written_as_what_makes_it() -> None:
    script = Script(
        7,
        [
            Cut(1.5, "client-1", fate=Fate.CUT_AFTER),
            Pause(2.0, "plane", for_s=30.0),
            Crash(3.0, "worker-1", steps=5),
            DiskFull(4.0, for_s=1.0),
            Skew(5.0, "plane", by_s=-20.0),
        ],
        usual_s=0.2,
        is_on_file=False,
    )
    assert eval(repr(script), NAMES) == script
    assert eval(repr(Script(7)), NAMES) == Script(7)
    assert script.skew_s == 40.0


def test_a_script_is_cut_down_to_the_faults_that_it_takes() -> None:
    script = Script(1, [Pause(float(n), "plane", for_s=1.0) for n in range(30)])
    runs = 0

    def fails(shorter: Script) -> bool:
        nonlocal runs
        runs += 1
        at = {fault.at for fault in shorter.faults}
        return {7.0, 19.0} <= at

    shorter = shrink(script, fails)
    assert [fault.at for fault in shorter.faults] == [7.0, 19.0]
    assert runs < 100


def test_what_fails_without_any_fault_has_none_and_no_more_is_run_than_is_allowed() -> None:
    script = Script(1, [Pause(float(n), "plane", for_s=1.0) for n in range(30)])
    assert shrink(script, lambda _: True).faults == []
    assert len(shrink(script, lambda _: False, most_runs=10).faults) == 30


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Crash(1.0, who="nobody"), "there is no 'nobody': there are plane, worker-1, client-1"),
        (Cut(1.0, who="plane"), "there is no 'plane': there are worker-1, client-1, client-2"),
        (Crash(-1.0, who="plane"), "at is a number from 0, not -1.0"),
        (Pause(1.0, "plane", for_s=float("inf")), "for_s is a number from 0, not inf"),
        (Pause(1.0, "plane", for_s=float("nan")), "for_s is a number from 0, not nan"),
    ],
)
def test_a_fault_of_nobody_or_of_no_time_is_refused_with_what_there_is(
    fault: Fault, why: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(why)):
        check_script(Script(1, [Crash(1.0, "worker-1"), fault]), CAST)
