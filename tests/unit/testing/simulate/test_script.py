"""Scripts of what goes wrong: drawn, written down, and cut down to what it takes."""

from __future__ import annotations

from creche.testing.simulate import (
    Cast,
    Crash,
    Cut,
    DiskFull,
    Fate,
    Pause,
    Script,
    Skew,
    draw_script,
    shrink,
)

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
