"""Run a cluster for minutes or hours, with peers that come and go, and fail if anything grows:
``python -m tests.soak --minutes 10``.

Prints for each figure by how much it grows in a minute, and by how much it may; returns 1 if one
grows by more."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import trio
from tests.soak.cluster import LINES, Soak, soak
from tests.soak.figures import as_text, judge
from tests.soak.plane import PLANTS

WARM_SHARE = 0.4
"""Which share of the run is for warming up: stores and caches fill, and results begin to go."""


def main() -> int:
    """Run what is asked for; return 1 if something grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--churn", type=float, default=2.0, help="seconds between two changes")
    parser.add_argument("--plant", choices=PLANTS, default="", help="with a leak in the plane")
    parser.add_argument("--samples", metavar="FILE", type=Path, help="keep what was measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="creche-soak-") as folder:
        began = time.monotonic()
        found = trio.run(_run, Path(folder), given)
        took_s = time.monotonic() - began
    if given.samples is not None:
        given.samples.write_text(json.dumps(found.samples))
    return report(found, given.minutes * 60, took_s)


async def _run(folder: Path, given: argparse.Namespace) -> Soak:
    return await soak(
        folder,
        minutes=given.minutes,
        seed=given.seed,
        sample_s=given.sample,
        churn_s=given.churn,
        plant=given.plant,
    )


def report(found: Soak, run_s: float, took_s: float) -> int:
    """Print what was measured and what follows; return the code to leave with."""
    warm_s = run_s * WARM_SHARE
    verdicts = judge(found.samples, LINES, warm_at=warm_s)
    came = ", ".join(f"{n} {what}" for what, n in sorted(found.came.items()))
    print(f"{took_s / 60:.1f} minutes, of which {warm_s / 60:.1f} were for warming up")
    print(f"{found.jobs:,} jobs; {came}")
    print(as_text(verdicts))
    for name in found.gone:
        print(f"{name} was to stay, and has ended")
    growing = [verdict.name for verdict in verdicts if not verdict.is_flat]
    print(f"not flat: {', '.join(growing)}" if growing else "everything is flat")
    return 1 if growing or found.gone else 0


if __name__ == "__main__":
    sys.exit(main())
