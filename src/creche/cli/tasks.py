"""`creche list`: the tasks that workers have announced."""

from __future__ import annotations

from creche.cli.connection import ask
from creche.cli.exits import Exit
from creche.cli.options import HERE, Connect, Json
from creche.cli.output import print_json
from creche.cli.table import Column, Narrow, Row, cell, print_table
from creche.cli.values import signature_of
from creche.model.priority import Priority


def _call(row: Row) -> str:
    signature = signature_of(row)
    return str(signature) if signature is not None else str(row.get("name"))


def _priority(row: Row) -> str:
    number = row.get("priority")
    if type(number) is int and 0 <= number < len(Priority):
        return Priority(number).word
    return "-"


_COLUMNS = (
    Column("TASK", _call, narrow=Narrow.FOLDED),
    Column("QUEUE", cell("queue"), 1, Narrow.CUT),
    Column("PRIORITY", _priority, 3),
    Column("RUNS IN", cell("executor"), 4),
    Column("ABOUT", cell("doc"), 2, Narrow.CUT),
)


async def list_tasks(*, connect: Connect = HERE, as_json: Json = False) -> int:
    """List the tasks that workers have announced, with their signatures.

    Announcements are kept: a task stays listed while no worker is connected.
    """
    answer = await ask(connect, "tasks")
    if as_json:
        print_json(answer)
    else:
        print_table(_COLUMNS, answer["tasks"], empty="no task has been announced")
    return Exit.DONE
