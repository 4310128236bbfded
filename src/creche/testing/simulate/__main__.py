"""Run simulations: ``python -m creche.testing.simulate --from 1 --seeds 1000``.

Each seed that breaks a promise is shortened to the faults that it takes, and printed as a test."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path

from creche.testing.simulate.seeds import Failure, run_piece

PIECE = 10
"""Seeds that one process is given at a time."""

A_DAY = 1_000_000
"""Dated seeds of two days are so far apart."""


def main(argv: Sequence[str] | None = None, *, today: datetime | None = None) -> int:
    """Run what is asked for; return 1 if any seed failed, unless they are of today only."""
    given = _parser().parse_args(argv)
    first = first_of(today or datetime.now(UTC)) if given.dated else given.first
    began = time.monotonic()
    done = failed = 0
    for number, failures in _run(first, given, began + given.for_s):
        done += number
        failed += len(failures)
        for failure in failures:
            _tell(failure, given.keep)
    took_s = time.monotonic() - began
    which = f"from {first}, {given.jobs} jobs each"
    print(f"{done} seeds ({which}) in {took_s:.0f} s, {failed} failed")
    return 1 if failed and not given.dated else 0


def first_of(day: datetime) -> int:
    """Return the first of the seeds of a day: other ones each day, and the same all day."""
    return day.toordinal() * A_DAY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m creche.testing.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    which.add_argument(
        "--dated",
        action="store_true",
        help="seeds of today; one that fails is told and kept, and is not an error",
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--jobs", type=int, default=200, help="in each")
    parser.add_argument("--for", dest="for_s", type=float, default=float("inf"), help="seconds")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="to run them side by side"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where the tests of those that fail are kept"
    )
    return parser


def _run(
    first: int, given: argparse.Namespace, until: float
) -> Iterator[tuple[int, list[Failure]]]:
    """Yield, of each piece, how many seeds were run and those that failed, as they are done."""
    last = first + given.seeds
    pieces = [
        (each, min(each + PIECE, last), given.jobs, until) for each in range(first, last, PIECE)
    ]
    if given.processes == 1:
        yield from starmap(run_piece, pieces)
        return
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        for one in as_completed([pool.submit(run_piece, *piece) for piece in pieces]):
            yield one.result()


def _tell(failure: Failure, folder: Path | None) -> None:
    code = failure.as_test()
    print(f"seed {failure.seed}: {failure.kind}\n{failure.why}\n\n{code}", flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"test_seed_{failure.seed}.py"
        path.write_text(code, encoding="utf-8")
        print(f"kept as {path}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
