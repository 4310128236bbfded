"""Other arguments for a job that is submitted again, as they are written on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creche.cli.values import (
    parse_arguments,
    parse_json_arguments,
    signature_of,
)
from creche.client.client import Client
from creche.errors import ResultForgotten, SettingsError, UnknownJob
from creche.peer.handle import to_id
from creche.tasks.signature import Kind, Signature
from creche.wire.payload import decode_call


async def new_arguments(
    client: Client,
    job_id: str,
    args: list[str] | None,
    kwargs: list[str] | None,
    changes: list[str] | None,
    json_args: str | None,
) -> dict[str, Any]:
    """Return `args` and `kwargs` for `Client.retry`, checked if the task's signature is known.

    Raises:
        UnknownJob: there is no such job, or its arguments are forgotten.
        SettingsError: what is written contradicts itself.
        InvalidArguments: the task does not take them.
    """
    record = await client.ask("job", {"id": to_id(job_id), "whole": True})
    if record is None:
        raise UnknownJob(job_id)
    signature = signature_of(await client.ask("task", {"name": record["task"]}))
    values, named = _told(record, args, kwargs, changes, json_args, signature, job_id)
    if signature is not None:
        signature.check(values, named)
    return {"args": values, "kwargs": named}


def _told(
    record: Mapping[str, Any],
    args: list[str] | None,
    kwargs: list[str] | None,
    changes: list[str] | None,
    json_args: str | None,
    signature: Signature | None,
    job_id: str,
) -> tuple[list[Any], dict[str, Any]]:
    if json_args is not None:
        if args is not None or kwargs is not None or changes is not None:
            raise SettingsError("--json-args has all arguments: leave the others out")
        given = parse_json_arguments(json_args)
        return (given, {}) if isinstance(given, list) else ([], given)
    if changes is None:
        return parse_arguments(args or (), kwargs or (), signature)
    if args is not None or kwargs is not None:
        raise SettingsError("--set changes single arguments, --args and --kwargs give all of them")
    if record["payload"] is None:
        raise ResultForgotten(job_id)
    values, named = decode_call(record["payload"])
    if signature is None:
        raise SettingsError(
            f"nobody has announced task {record['task']!r}, so that names of its arguments cannot "
            "be told: give all of them, with --args and --kwargs"
        )
    _, changed = parse_arguments((), changes, signature, option="--set")
    places = {name: place for place in range(len(values)) if (name := _name(signature, place))}
    for name, value in changed.items():
        if name in places:
            values[places[name]] = value
        else:
            named[name] = value
    return values, named


def _name(signature: Signature, place: int) -> str | None:
    """Return the name of a positional argument, where it has one of its own."""
    parameter = signature.parameter_for(place)
    is_one = parameter is not None and parameter.kind is not Kind.VAR_POSITIONAL
    return parameter.name if parameter is not None and is_one else None
