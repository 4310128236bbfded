"""A whole cluster in one thread, on a virtual clock, with everything that can go wrong.

Plane, store, workers and clients are the real ones. Each runs on a simulated machine, which can be
stopped between any two steps and go on minutes later, or crash without a word; the network delays
frames, cuts connections at any of them, and parts peers from the plane; the disk is full, slow, or
loses its power in the middle of a write; clocks differ. All of it follows from a seed, and the same
seed comes to the same in every run::

    from creche.testing.simulate import Mixed, draw_script, run

    scenario = Mixed(seed=7)
    report = run(scenario, draw_script(7, scenario.cast, scenario.for_s))
    assert not report.violations

`creche.testing.history` judges what clients saw and bodies did. A seed that breaks a promise is
shortened to the faults that it takes, and printed as a test: ``python -m creche.testing.simulate``.

Bodies are coroutines here: a thread, a process or a socket would not wait for the virtual clock. It
takes Trio's run queue apart a little, so it goes with the versions of Trio that Creche is tested
with.
"""

from __future__ import annotations

from creche.channel.memory import Fate
from creche.testing.simulate.mixed import Mixed
from creche.testing.simulate.script import (
    Cast,
    Crash,
    Cut,
    DiskFull,
    DiskSlow,
    Fault,
    Partition,
    Pause,
    Perils,
    PowerFailure,
    Script,
    Skew,
    Slow,
    Stop,
    StoreDies,
    draw_script,
)
from creche.testing.simulate.seeds import Failure, judge_seed, run_seed, run_seeds
from creche.testing.simulate.shrink import shrink
from creche.testing.simulate.town import Report, Scenario, Stuck, Town, run

__all__ = [
    "Cast",
    "Crash",
    "Cut",
    "DiskFull",
    "DiskSlow",
    "Failure",
    "Fate",
    "Fault",
    "Mixed",
    "Partition",
    "Pause",
    "Perils",
    "PowerFailure",
    "Report",
    "Scenario",
    "Script",
    "Skew",
    "Slow",
    "Stop",
    "StoreDies",
    "Stuck",
    "Town",
    "draw_script",
    "judge_seed",
    "run",
    "run_seed",
    "run_seeds",
    "shrink",
]
