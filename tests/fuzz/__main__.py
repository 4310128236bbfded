"""Run seeds of the fuzz: ``python -m tests.fuzz --from 0 --seeds 1000``.

Each seed that fails is printed as the command that repeats it, with what came before."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.cluster import run_peers
from tests.fuzz.plants import PLANTS, planted
from tests.fuzz.world import run_seed

HANG_S = 120
"""A seed takes a second or two: one that takes so long goes round in circles."""


def main() -> int:
    """Run what is asked for; return 1 if any seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--for", dest="for_s", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--counts", action="store_true", help="show what the seeds came to")
    parser.add_argument("--plant", choices=PLANTS, help="with a mistake in the engine")
    parser.add_argument("--peers", action="store_true", help="try real clients and workers")
    given = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of bytes is part of what a seed stands for.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]])
    logging.disable(logging.WARNING)
    logging.getLogger("creche").addHandler(logging.NullHandler())
    began, failed, counts, done = time.monotonic(), 0, Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.first, given.first + given.seeds):
            if time.monotonic() - began > given.for_s:
                break
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            if sys.stderr.isatty():
                print(f"\r{seed}", end="", file=sys.stderr, flush=True)
            done += 1
            try:
                with planted(given.plant):
                    truth = run_peers(seed) if given.peers else run_seed(seed, Path(folder))
                counts.update(truth.counts)
            except Exception:
                failed += 1
                print(f"\nseed {seed} fails:\n{traceback.format_exc()}")
                how = " --peers" if given.peers else ""
                how += f" --plant {given.plant}" if given.plant else ""
                print(f"To repeat it: python -m tests.fuzz --from {seed} --seeds 1{how}")
                sys.stdout.flush()
                if not given.keep_going:
                    break
    faulthandler.cancel_dump_traceback_later()
    took_s = time.monotonic() - began
    print(f"\n{done} seeds in {took_s:.0f} s, {failed} failed")
    if given.counts:
        for what, n in sorted(counts.items()):
            print(f"{n:8,}  {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
