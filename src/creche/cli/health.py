"""`creche health`: a probe that asks the plane only."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from creche.cli.connection import ask
from creche.cli.exits import Exit
from creche.cli.options import FLAG, HERE, Address, Connect, Json, Seconds
from creche.cli.output import moment_text, print_json, printable, wrapped


async def health(
    *,
    ready: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    worker: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    timeout: Annotated[Seconds, Parameter(show_env_var=False)] = 2.0,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Ask whether the plane is well: exit code 0 if it answers, 4 when it cannot be reached.

    What is printed begins with `ready`, `not ready`, or that it takes no new jobs, and why.

    Args:
        ready: Exit code 1 unless the plane has recovered and its store takes jobs. Workers do not
            count.
        worker: Ask after one worker instead: exit code 1 unless it is connected, and, with
            --ready, takes jobs.
        timeout: How many seconds the plane has to answer.
    """
    if worker is not None:
        return await _worker_health(worker, connect, timeout, ready, as_json)
    answer = await ask(connect, "health", timeout)
    if as_json:
        print_json(answer)
    else:
        print(wrapped(_line(answer, is_short=sys.stdout.isatty()), sys.stdout))
    takes_jobs = answer["ready"] and not answer.get("failing")
    return Exit.FAILED if ready and not takes_jobs else Exit.DONE


_ON_THE_WAY = ("draining", "drained", "leaving")
"""A worker that is well, and takes nothing new."""


async def _worker_health(
    name: str, where: Address, timeout_s: float, ready: bool, as_json: bool
) -> Exit:
    answer = await ask(where, "workers", timeout_s)
    row = next((row for row in answer["workers"] if row["name"] == name), None)
    state = "unknown" if row is None else row["state"]
    if as_json:
        print_json({"worker": row})
    else:
        print(f"worker {printable(name)} is {state}")
    is_well = state == "connected" or (state in _ON_THE_WAY and not ready)
    return Exit.DONE if is_well else Exit.FAILED


def _line(answer: dict[str, Any], *, is_short: bool) -> str:
    kept = "in memory" if answer["durability"] == "memory" else f"on {answer['durability']}"
    counts = ", ".join(f"{number:,} {state}" for state, number in answer["jobs"].items() if number)
    return (
        f"{_word(answer)}, epoch {answer['epoch']} since "
        f"{moment_text(answer.get('started_at'), is_short=is_short)}, jobs are kept {kept}; "
        f"{counts or 'none so far'}"
    )


def _word(answer: dict[str, Any]) -> str:
    if answer.get("failing"):
        return f"takes no new jobs ({answer['failing']})"
    return "ready" if answer["ready"] else "not ready"
