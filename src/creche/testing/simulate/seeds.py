"""Running many seeds, and writing down what fails as a test."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from creche.testing.simulate.mixed import Mixed
from creche.testing.simulate.script import Script, draw_script
from creche.testing.simulate.shrink import shrink
from creche.testing.simulate.town import Report, run


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that broke a promise.

    Attributes:
        kind: which promise, or which error: what the shorter script breaks as well.
        why: the violations or the traceback of the shortened run.
    """

    seed: int
    jobs: int
    script: Script
    kind: str
    why: str

    def as_test(self) -> str:
        """Return a test that fails as this did, to be kept."""
        return (
            "from creche.testing.simulate import *\n\n\n"
            f"def test_seed_{self.seed}() -> None:\n"
            f"    script = {_indented(repr(self.script))}\n"
            f"    report = run(Mixed({self.seed}, jobs={self.jobs}), script)\n"
            "    assert not report.violations, report\n"
        )


def run_seed(seed: int, jobs: int = 200) -> Report:
    """Run one seed of the mixed scenario."""
    scenario = Mixed(seed, jobs)
    return run(scenario, draw_script(seed, scenario.cast, scenario.for_s))


def judge_seed(seed: int, jobs: int = 200) -> tuple[str, str]:
    """Run one seed; return which promise it has broken, or the error that it ended with, and all
    that is known of that; both are empty if all is well."""
    scenario = Mixed(seed, jobs)
    with _quiet():
        return _judge(seed, jobs, draw_script(seed, scenario.cast, scenario.for_s))


def run_seeds(
    seeds: Iterable[int], jobs: int = 200, *, on_run: Callable[[Report], None] = lambda _: None
) -> Iterator[Failure]:
    """Run seeds and yield those that fail, each with the shortest script that fails alike."""
    with _quiet():
        for seed in seeds:
            scenario = Mixed(seed, jobs)
            script = draw_script(seed, scenario.cast, scenario.for_s)
            kind, why = _judge(seed, jobs, script, on_run)
            if not kind:
                continue

            def fails_alike(shorter: Script, seed: int = seed, kind: str = kind) -> bool:
                return _judge(seed, jobs, shorter)[0] == kind

            script = shrink(script, fails_alike)
            yield Failure(seed, jobs, script, kind, _judge(seed, jobs, script)[1] or why)


def run_piece(first: int, last: int, jobs: int, until: float) -> tuple[int, list[Failure]]:
    """Run some seeds, until a moment of `time.monotonic` at the most; return how many were run, and
    those that failed. What runs them may be another process than who asks."""
    done = 0
    failures: list[Failure] = []
    for seed in range(first, last):
        # The monotonic clock is one of the whole machine.
        if time.monotonic() >= until:
            break
        failures += run_seeds([seed], jobs)
        done += 1
    return done, failures


def _judge(
    seed: int, jobs: int, script: Script, on_run: Callable[[Report], None] = lambda _: None
) -> tuple[str, str]:
    """Return which promise a run has broken, and how; "" if none."""
    try:
        report = run(Mixed(seed, jobs), script)
    except Exception as error:
        return _kind_of(error), traceback.format_exc()
    on_run(report)
    if not report.violations:
        return "", ""
    first = report.violations[0]
    return type(first).__name__, "\n".join(map(str, report.violations[:10]))


def _kind_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return type(error).__name__


def _indented(code: str) -> str:
    return code.replace("\n", "\n    ")


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong is meant to, and nobody needs to read of it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
