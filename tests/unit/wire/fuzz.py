"""`nox -s fuzz-wire`: bytes that atheris makes up by what the code does with them, or, where it is
not to be had, mutations by chance; judged by the same function as in the tests."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

JUDGE = "tests.unit.wire.judge"


def by_chance(
    judge: Callable[[bytes], object],
    mutants: Callable[[int, int], Iterator[bytes]],
    *,
    seed: int,
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Judge mutations for so long, and return how many. The bytes that are judged wrongly are said
    as Python writes them, and then what was raised comes out."""
    end = clock() + within_s
    judged = 0
    while clock() < end:
        for mutant in mutants(seed, 200):
            try:
                judge(mutant)
            except BaseException:
                print(f"seed {seed}: judge(bytes.fromhex({mutant.hex()!r}))", file=sys.stderr)
                raise
            judged += 1
        seed += 1
    return judged


def by_atheris(seed: int, within_s: float) -> None:
    """Have atheris look for bytes that are judged wrongly; it ends the process, and says which."""
    import atheris

    # It sees the ways through what is imported here.
    with atheris.instrument_imports(include=["creche.wire"]):
        judging = importlib.import_module(JUDGE)

    def judge(data: bytes) -> None:
        judging.judge(data)

    with tempfile.TemporaryDirectory(prefix="creche-fuzz-") as folder:
        for number, frame in enumerate(judging.corpus()):
            Path(folder, str(number)).write_bytes(frame)
        wishes = (f"-max_total_time={within_s:.0f}", f"-seed={seed + 1}", "-max_len=4096")
        atheris.Setup([sys.argv[0], *wishes, folder], judge)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="let atheris make the bytes up")
    options = parser.parse_args()
    if options.atheris:
        by_atheris(options.seed, options.seconds)
        return
    judging = importlib.import_module(JUDGE)
    judged = by_chance(judging.judge, judging.mutants, seed=options.seed, within_s=options.seconds)
    print(f"{judged:,} mutations, none judged wrongly")


if __name__ == "__main__":
    main()
