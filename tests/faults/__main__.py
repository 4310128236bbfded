"""Do faults to a cluster of real processes: ``python -m tests.faults --fault "kill the plane"``.

Each case is judged by the history checker; all of them together print the table of
``docs/trust.md``. A case that fails is printed with the folder in which its record is."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import trio
from tests.faults.case import Finding, run_case
from tests.faults.faults import FAULTS
from tests.faults.moments import MOMENTS
from tests.faults.table import as_markdown

CASE_S = 420.0
"""How long a case may take, with all its bounds."""


def main() -> int:
    """Run what is asked for; return 1 if any case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--fault", action="append", choices=FAULTS, help="all when not given")
    parser.add_argument("--moment", action="append", choices=MOMENTS, help="all when not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-a-time", type=int, default=2, help="cases that run beside each other")
    parser.add_argument("--json", metavar="FILE", type=Path, help="keep what is found, and go on")
    parser.add_argument("--table", metavar="FILE", type=Path, help="print the table of that")
    parser.add_argument("--here", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    faults, moments = given.fault or list(FAULTS), given.moment or list(MOMENTS)
    if given.table is not None:
        print(as_markdown(_kept(given.table)))
        return 0
    if given.here is not None:
        finding = trio.run(run_case, faults[0], moments[0], given.here, given.seed)
        (given.here / "finding.json").write_text(json.dumps(asdict(finding)))
        return 0
    return trio.run(_run_all, faults, moments, given)


async def _run_all(faults: list[str], moments: list[str], given: argparse.Namespace) -> int:
    """Run cases, some at a time, each in a process of its own, and if need be in a network of its
    own."""
    began = time.monotonic()
    kept = _kept(given.json) if given.json is not None and given.json.exists() else []
    findings = [finding for finding in kept if finding.is_good]
    done = {(finding.fault, finding.moment) for finding in findings}
    skipped = {name: why for name in faults if (why := FAULTS[name]().why_not())}
    cases = [(f, m) for f in faults if f not in skipped for m in moments if (f, m) not in done]
    failed = 0
    room = trio.Semaphore(given.at_a_time)

    async def one(fault: str, moment: str) -> None:
        nonlocal failed
        async with room:
            folder = Path(tempfile.mkdtemp(prefix="creche-faults-"))
            finding, said = await _in_a_process(fault, moment, given.seed, folder)
            if finding is not None:
                findings.append(finding)
                print(_line(finding), flush=True)
                if given.json is not None:
                    given.json.write_text(json.dumps([asdict(each) for each in findings]))
            if finding is None or not finding.is_good:
                failed += 1
                print(f"\n{fault}, {moment}: failed\n{said}\nWhat was recorded is in {folder}")
                print(f'Again: python -m tests.faults --fault "{fault}" --moment {moment}\n')
            else:
                await trio.run_process(["rm", "-r", str(folder)])

    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(one, *case)
    for name, why in skipped.items():
        print(f"{name}: skipped: {why}")
    print(f"\n{as_markdown(findings)}\n")
    print(f"{len(cases)} cases in {time.monotonic() - began:.0f} s, {failed} failed")
    return 1 if failed else 0


async def _in_a_process(
    fault: str, moment: str, seed: int, folder: Path
) -> tuple[Finding | None, str]:
    words = [
        sys.executable, "-m", "tests.faults", "--fault", fault, "--moment", moment,
        "--seed", str(seed), "--here", str(folder),
    ]  # fmt: skip
    if FAULTS[fault]().needs_network:
        up = 'ip link set lo up && exec "$@"'
        words = ["unshare", "--net", "sh", "-c", up, "sh", *words]
    with trio.move_on_after(CASE_S):
        ran = await trio.run_process(
            words, check=False, capture_stdout=True, stderr=subprocess.STDOUT, env={**os.environ}
        )
        said = ran.stdout.decode("utf-8", "replace")[-6000:]
        try:
            finding = _finding(json.loads((folder / "finding.json").read_text()))
        except FileNotFoundError:
            return None, said
        return finding, "\n".join((*finding.violations, *finding.complaints))
    return None, f"it was not done in {CASE_S:g} s"


def _line(finding: Finding) -> str:
    verdict = "good" if finding.is_good else "BAD"
    return (
        f"{verdict}  {finding.fault}, {finding.moment}: {finding.jobs} jobs, "
        f"{finding.again} again, {finding.given_up} given up, "
        f"recovered in {finding.recovered_s:.1f} s, took {finding.took_s:.0f} s"
    )


def _kept(path: Path) -> list[Finding]:
    return [_finding(said) for said in json.loads(path.read_text())]


def _finding(said: dict[str, object]) -> Finding:
    lists = {key: tuple(value) for key, value in said.items() if isinstance(value, list)}
    return Finding(**{**said, **lists})  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
