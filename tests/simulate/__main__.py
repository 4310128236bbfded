"""See how soon the simulator finds each mistake: ``python -m tests.simulate``.

Prints the table of `docs/trust.md`; with names, only theirs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulate.finding import Found, find
from tests.simulate.mistakes import MISTAKES


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if one was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MISTAKE", help=", ".join(MISTAKES))
    parser.add_argument("--most", type=int, default=100, help="seeds to look through at the most")
    parser.add_argument("--processes", type=int, default=1, help="to look side by side")
    given = parser.parse_args(argv)
    if unknown := set(given.names) - set(MISTAKES):
        parser.error(f"there is no mistake called {', '.join(sorted(unknown))}")
    names = given.names or list(MISTAKES)
    print("| mistake | what is done | seeds | what is broken first |\n|---|---|---|---|")
    missed = 0
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        for name, found in zip(
            names, pool.map(find, names, [given.most] * len(names)), strict=True
        ):
            missed += found is None
            print(_row(name, found, given.most), flush=True)
    return 1 if missed else 0


def _row(name: str, found: Found | None, most: int) -> str:
    took = f"over {most} | nothing" if found is None else f"{found.seeds} | `{found.kind}`"
    return f"| `{name}` | {MISTAKES[name].what} | {took} |"


if __name__ == "__main__":
    sys.exit(main())
