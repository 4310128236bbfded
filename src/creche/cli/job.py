"""One job, as people look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from creche.cli.connection import ASK_S, open_client
from creche.cli.exits import Exit
from creche.cli.options import Address
from creche.cli.output import bytes_text, moment_text, print_facts, print_json, printable_lines
from creche.cli.table import Column, print_table
from creche.cli.values import as_json_data, to_json
from creche.cli.waiting import held_up_lines, say_remedies
from creche.client.client import Client
from creche.errors import (
    JobEnded,
    JobFailed,
    RemoteProtocolError,
    ResultTimeout,
    UnknownJob,
)
from creche.model.failure import Failure
from creche.model.filter import Filter
from creche.model.job import JobState
from creche.model.retry import RetryPolicy
from creche.peer.dead import pages
from creche.peer.handle import to_id
from creche.wire.payload import decode_call, decode_value

SHOWN = 2000
"""Characters of a job's call, and of its result, that are shown; ``--json`` has all."""


async def list_jobs(
    wanted: Filter,
    columns: Sequence[Column],
    limit: int,
    where: Address,
    *,
    empty: str,
    quiet: bool,
    as_json: bool,
) -> int:
    """Print the newest *limit* jobs that are *wanted*: as a table, which is *empty* without any, or
    their ids alone."""
    async with open_client(where) as client:
        records = [job async for page in pages(client.ask, wanted, limit) for job in page]
    if as_json:
        print_json({"jobs": records})
    elif quiet:
        for record in records:
            print(record["id"])
    else:
        print_table(columns, records, empty=empty)
    return Exit.DONE


async def show_job(job_id: str, where: Address, *, as_json: bool) -> int:
    """Print all that is known of a job: its call, what it was submitted with, its attempts, and its
    result or traceback."""
    async with open_client(where) as client:
        record = await client.ask("job", {"id": to_id(job_id), "whole": True})
        if record is None:
            raise UnknownJob(job_id)
    payload, outcome = record.pop("payload"), record.pop("outcome")
    call, failure = read_call(payload), _failure(record, outcome)
    if as_json:
        record["args"], record["kwargs"] = (None, None) if call is None else call
        record["result"] = _result(record, outcome)
        record["failure"] = None if failure is None else failure.as_data()
        print_json({"job": as_json_data(record)})
        return Exit.DONE
    record["why"] = None if failure is None else failure.line
    if failure is not None and JobState.parse(record["state"]) is JobState.CANCELLED:
        record["why"] = f"was cancelled: {failure.message}"  # as the client says it
    traceback = "" if failure is None else failure.traceback.strip()
    notes = () if failure is None else failure.notes
    record["notes"] = () if traceback else notes
    facts = facts_of(record)
    facts.insert(2, ("call", call_text(record["task"], payload, call)))
    facts += [("submitted with", text) for text in options_text(record["options"])]
    if outcome is not None and failure is None:
        facts.append(("result", _cut(to_json(_result(record, outcome)))))
    print_facts(facts)
    if traceback:
        print()
        print(printable_lines(traceback))
        for note in notes:
            print(printable_lines(f"note: {note}"))
    say_remedies(record)
    return Exit.DONE


def read_call(payload: bytes | None) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments that *payload* holds; None if it is not there, or cannot be read."""
    try:
        return None if payload is None else decode_call(payload)
    except RemoteProtocolError:
        return None


def call_text(
    task: str, payload: bytes | None, call: tuple[list[Any], dict[str, Any]] | None
) -> str:
    """Return a call as it is written in code, cut if it is very long."""
    if call is None:
        return "forgotten" if payload is None else "cannot be read"
    args, kwargs = call
    words = [*map(to_json, args), *(f"{name}={to_json(value)}" for name, value in kwargs.items())]
    return _cut(f"{task}({', '.join(words)})")


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text):,} characters)"


def _failure(record: Mapping[str, Any], outcome: bytes | None) -> Failure | None:
    state = JobState.parse(record["state"])
    if outcome is None or not state.has_ended or state is JobState.SUCCEEDED:
        return None
    try:
        return Failure.from_data(decode_value(outcome))
    except RemoteProtocolError as error:
        return Failure("unknown", f"what its worker said cannot be read: {error}")


def _result(record: Mapping[str, Any], outcome: bytes | None) -> Any:
    if outcome is None or record["state"] != JobState.SUCCEEDED.word:
        return None
    try:
        return decode_value(outcome)
    except RemoteProtocolError as error:
        return f"(cannot be read: {error})"


def options_text(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a job was submitted with, a sentence each."""
    for name, value in sorted(options.items()):
        if name == "retry_of":
            yield f"retry of {value}"
        elif name == "unique":
            yield f"unique by {value['key'] or 'its task alone'}" if value else "not unique"
        elif name == "idempotency_key":
            yield f"idempotency key {value}"
        elif name == "parent":
            yield "by another job"
        elif isinstance(value, dict):
            yield ", ".join(_option_text(key, each) for key, each in value.items())
        else:
            yield _option_text(name, value)


def _option_text(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return f"{name[:-3]} {moment_text(value)}"
    if name.endswith("_s"):
        return f"{name[:-2]} {value:g} s"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


async def why_no_result(client: Client, record: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Return why an ended job has no result, as it was told to the plane, with the notes to it;
    None where nothing was, or the job has not ended otherwise."""
    state = JobState.parse(record["state"])
    if not state.has_ended or state is JobState.SUCCEEDED or not record.get("outcome_bytes"):
        return None, []
    try:
        await client.job(record["id"]).result(ASK_S)
    except JobFailed as failed:
        why = f"{failed.type}: {failed.message}" if failed.message else failed.type
        return why, list(getattr(failed, "__notes__", ()))
    except JobEnded as ended:
        return ended.why, list(getattr(ended, "__notes__", ()))
    except (ResultTimeout, UnknownJob):  # forgotten between the two questions
        pass
    return None, []


def facts_of(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a job is like, a name and a value each."""
    facts = [
        ("id", str(record["id"])),
        ("task", str(record["task"])),
        ("state", str(record["state"])),
        ("queue", f"{record.get('queue') or '-'} ({record.get('priority') or '-'})"),
        ("attempt", str(record.get("attempt") or "none yet")),
    ]
    if record.get("why"):
        first, *more = record["why"].splitlines() or [""]
        facts.insert(3, ("why", f"{first} ..." if more else first))
    facts[4:4] = [("note", note) for note in record.get("notes") or ()]
    if (cancelled := cancelled_text(record)) is not None:
        facts.insert(3, ("cancelled", cancelled))
    facts[3:3] = [("held up by", line) for line in held_up_lines(record)]
    if record.get("fate"):
        facts.append(("fate", _FATES[record["fate"]] + (record.get("retried_as") or "")))
    if record.get("losses"):
        facts.append(("losses", str(record["losses"])))
    if record.get("worker"):
        facts.append(("worker", str(record["worker"])))
    if record.get("failures"):
        facts.append(("failures", _failures_text(record)))
    moments = ("submitted", "started", "ended")
    facts += [(name, moment_text(record.get(f"{name}_at"))) for name in moments]
    if record.get("due_at") is not None:
        facts.append(("due", moment_text(record["due_at"])))
    facts += [
        (f"attempt {made['attempt']}", _attempt_text(made)) for made in record.get("attempts", ())
    ]
    facts.append(("arguments", bytes_text(record.get("payload_bytes"))))
    facts.append(("outcome", bytes_text(record.get("outcome_bytes"))))
    return facts


def cancelled_text(record: Mapping[str, Any]) -> str | None:
    """Return why a job was cancelled that has not ended so, and what its body made of that; None if
    its end says it, or it was not cancelled."""
    reason, state = record.get("cancelled"), JobState.parse(record["state"])
    if reason is None or state is JobState.CANCELLED:
        return None
    body = "has not left yet"
    if state.has_ended:
        instead = "raised instead" if state is JobState.FAILED else "did not leave"
        body = f"{instead}, and ended as {state.word}"
    return f"{reason or 'no reason was given'}; its body {body}"


_FATES = {
    "dead": "nothing yet: it is one of the dead jobs",
    "retried": "retried as ",
    "discarded": "discarded",
}


def _failures_text(record: dict[str, Any]) -> str:
    retries = record.get("retry", {}).get("retries", 0)
    allowed = f"{retries} {'retry' if retries == 1 else 'retries'} allowed"
    too_late = _why_too_late(record)
    return f"{record['failures']} ({allowed}{f'; {too_late}' if too_late else ''})"


def _why_too_late(record: dict[str, Any]) -> str | None:
    """Return which end came before a further attempt at a job that has failed; None if none did."""
    if record["state"] != JobState.FAILED.word or record.get("ended_at") is None:
        return None
    policy = RetryPolicy.from_data(record.get("retry") or {})
    failures = record["failures"]
    if policy.retries is not None and failures > policy.retries:
        return None
    due_at = record["ended_at"] + policy.delay_s(failures, 0.0)
    deadline_at = ((record.get("options") or {}).get("limits") or {}).get("deadline_at")
    if deadline_at is not None and due_at >= deadline_at:
        return f"the next attempt would have come after its deadline, {moment_text(deadline_at)}"
    give_up_s = policy.give_up_after
    if give_up_s is not None and due_at >= record["submitted_at"] + give_up_s:
        return f"the next attempt would have come after give_up_after, {give_up_s:g} s"
    return None


def _attempt_text(made: dict[str, Any]) -> str:
    """Return what became of an attempt before the last, in a line."""
    error = made.get("error") or {}
    why = f"{error.get('type', made['state'])}: {error.get('message', '')}".rstrip(": ")
    first, *more = why.splitlines() or [""]
    when = moment_text(made.get("ended_at"), is_short=True)
    return f"{made['state']} at {when}, {first}{' ...' if more else ''}"
