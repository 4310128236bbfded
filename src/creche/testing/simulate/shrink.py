"""Cutting a failing script down to the faults that it takes: delta debugging.

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE Transactions on
Software Engineering 28 (2002): leave out parts of the list, larger ones first, as long as what is
left still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from creche.testing.simulate.script import Fault, Script


def shrink(script: Script, fails: Callable[[Script], bool], *, most_runs: int = 200) -> Script:
    """Return a script with no more faults than it takes to fail, or than *most_runs* runs can tell.

    Args:
        fails: runs a script, and says whether it fails as the first did.
    """
    faults: Sequence[Fault] = script.faults
    runs = 0
    parts = 2
    while faults and runs < most_runs:
        size = -(-len(faults) // parts)
        for start in range(0, len(faults), size):
            fewer = [*faults[:start], *faults[start + size :]]
            runs += 1
            if fails(replace(script, faults=fewer)):
                faults, parts = fewer, max(2, parts - 1)
                break
            if runs >= most_runs:
                break
        else:
            if size == 1:
                break
            parts = min(len(faults), 2 * parts)
    return replace(script, faults=faults)
