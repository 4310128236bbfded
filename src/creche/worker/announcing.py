"""What a worker announces of a task: its declaration, as the wire carries it."""

from __future__ import annotations

from typing import Any

from creche.errors import NotEncodable, TaskDefinitionError
from creche.wire.payload import encode_call


def announced(declaration: dict[str, Any]) -> dict[str, Any]:
    """Return a task's declaration with the arguments of its schedule encoded, as its jobs will have
    them.

    Raises:
        TaskDefinitionError: they cannot be carried; the sentence names the task.
    """
    schedule = declaration.get("schedule")
    if schedule is None:
        return declaration
    try:
        payload = encode_call(schedule["args"], schedule["kwargs"])
    except NotEncodable as error:
        raise TaskDefinitionError(
            f"the schedule of task {declaration['name']!r}: {error}"
        ) from None
    return {**declaration, "schedule": {"rule": schedule["rule"], "payload": payload.hex()}}
