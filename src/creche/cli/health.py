"""`creche health`: a probe that asks the plane only."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from creche.cli.connection import ask
from creche.cli.exits import Exit
from creche.cli.options import DEFAULT_URL, FLAG, Connect, Json, Seconds
from creche.cli.output import moment_text, print_json, wrapped


async def health(
    *,
    ready: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    timeout: Annotated[Seconds, Parameter(show_env_var=False)] = 2.0,
    connect: Connect = DEFAULT_URL,
    as_json: Json = False,
) -> int:
    """Ask whether the plane is well: exit code 0 if it answers, 4 when it cannot be reached.

    What is printed begins with `ready`, `not ready`, or that it takes no new jobs, and why.

    Args:
        ready: Exit code 1 unless the plane has recovered and its store takes jobs. Workers do not
            count.
        timeout: How many seconds the plane has to answer.
    """
    answer = await ask(connect, "health", timeout)
    if as_json:
        print_json(answer)
    else:
        print(wrapped(_line(answer, is_short=sys.stdout.isatty()), sys.stdout))
    takes_jobs = answer["ready"] and not answer.get("failing")
    return Exit.FAILED if ready and not takes_jobs else Exit.DONE


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
