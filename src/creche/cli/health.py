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
    """Ask whether the plane is well: exit code 0 if so, 4 when it cannot be reached.

    Args:
        ready: Exit code 1 unless the plane has recovered and takes jobs. Workers do not count.
        timeout: How many seconds the plane has to answer.
    """
    answer = await ask(connect, "health", timeout)
    if as_json:
        print_json(answer)
    else:
        print(wrapped(_line(answer, is_short=sys.stdout.isatty()), sys.stdout))
    return Exit.FAILED if ready and not answer["ready"] else Exit.DONE


def _line(answer: dict[str, Any], *, is_short: bool) -> str:
    kept = "in memory" if answer["durability"] == "memory" else f"on {answer['durability']}"
    counts = ", ".join(f"{number:,} {state}" for state, number in answer["jobs"].items() if number)
    return (
        f"{'ready' if answer['ready'] else 'not ready'}, epoch {answer['epoch']} since "
        f"{moment_text(answer.get('started_at'), is_short=is_short)}, jobs are kept {kept}; "
        f"{counts or 'none so far'}"
    )
