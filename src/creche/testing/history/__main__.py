"""`python -m creche.testing.history FILE...`: print what a recorded history proves against the
queue. Exit code 0: nothing; 1: something; 2: it is no history."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from creche.testing.history import RULES, Bounds, HistoryError, check, read_history

_BOUNDS = Bounds()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files that are named and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m creche.testing.history",
        description="Check what was recorded of a run against the promises of docs/trust.md.",
    )
    parser.add_argument("paths", nargs="+", metavar="FILE", help="a history, or a folder of them")
    parser.add_argument("--grace-s", type=float, default=_BOUNDS.grace_s, metavar="SECONDS")
    parser.add_argument("--travel-s", type=float, default=_BOUNDS.travel_s, metavar="SECONDS")
    parser.add_argument("--skew-s", type=float, default=_BOUNDS.skew_s, metavar="SECONDS")
    parser.add_argument("--kept-s", type=float, default=_BOUNDS.kept_s, metavar="SECONDS")
    parser.add_argument("--leaves-s", type=float, default=_BOUNDS.leaves_s, metavar="SECONDS")
    parser.add_argument("--late-s", type=float, default=_BOUNDS.late_s, metavar="SECONDS")
    said = parser.parse_args(arguments)
    try:
        events = read_history(*said.paths)
        bounds = Bounds(
            said.grace_s, said.travel_s, said.skew_s, said.kept_s, said.leaves_s, said.late_s
        )
        violations = check(events, bounds)
    except HistoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for violation in violations:
        print(violation)
    verdict = f"{len(events):,} events, {len(RULES)} rules: {len(violations):,} violations"
    print(verdict, file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
