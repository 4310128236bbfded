"""`creche status`, `result`, `cancel` and `jobs ls`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

from cyclopts import App, Parameter

from creche.cli.connection import ASK_S, open_client
from creche.cli.exits import Exit
from creche.cli.filters import FilterWords, read_filter
from creche.cli.options import DEFAULT_URL, FLAG, Connect, Count, JobId, Json, Names, Seconds
from creche.cli.output import (
    bytes_text,
    moment_text,
    print_facts,
    print_json,
    say,
)
from creche.cli.submit import wait_and_print
from creche.cli.table import Column, Narrow, cell, moment_cell, print_table
from creche.client.client import Client
from creche.errors import JobEnded, JobFailed, ResultTimeout, UnknownJob
from creche.model.filter import Filter
from creche.model.job import JobState
from creche.peer.handle import to_id

app = App(name="jobs", help="List jobs.")

PAGE = 500
"""Jobs asked for at a time; the plane bounds one answer."""


async def status(job_id: JobId, *, connect: Connect = DEFAULT_URL, as_json: Json = False) -> int:
    """Show one job: its state, when and where it ran, and why it has no result if it ended so.

    The exit code is 0 whatever the state is, and 3 for an id that the plane does not know.
    """
    async with open_client(connect) as client:
        record = await client.ask("job", {"id": to_id(job_id)})
        if record is None:
            raise UnknownJob(job_id)
        record["why"] = await _why(client, record)
    if as_json:
        print_json({"job": record})
    else:
        print_facts(_facts(record))
    return Exit.DONE


async def _why(client: Client, record: dict[str, Any]) -> str | None:
    """Return why an ended job has no result, as it was told to the plane; None where nothing was,
    or the job has not ended otherwise."""
    state = JobState.parse(record["state"])
    if not state.has_ended or state is JobState.SUCCEEDED or not record.get("outcome_bytes"):
        return None
    try:
        await client.job(record["id"]).result(ASK_S)
    except JobFailed as failed:
        return f"{failed.type}: {failed.message}" if failed.message else failed.type
    except JobEnded as ended:
        return ended.why
    except (ResultTimeout, UnknownJob):  # forgotten between the two questions
        pass
    return None


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    state = str(record["state"])
    if record.get("parked"):
        state += f" ({record['parked']})"
    facts = [
        ("id", str(record["id"])),
        ("task", str(record["task"])),
        ("state", state),
        ("queue", f"{record.get('queue') or '-'} ({record.get('priority') or '-'})"),
        ("attempt", str(record.get("attempt", 0))),
    ]
    if record.get("why"):
        first, *more = record["why"].splitlines() or [""]
        facts.insert(3, ("why", f"{first} ..." if more else first))
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
    facts += [(f"try {made['attempt']}", _try_text(made)) for made in record.get("tries", ())]
    facts += [(f"header {name}", str(value)) for name, value in record.get("headers", {}).items()]
    facts.append(("arguments", bytes_text(record.get("payload_bytes"))))
    facts.append(("outcome", bytes_text(record.get("outcome_bytes"))))
    return facts


def _failures_text(record: dict[str, Any]) -> str:
    retries = record.get("retry", {}).get("retries", 0)
    return f"{record['failures']} ({retries} {'retry' if retries == 1 else 'retries'} allowed)"


def _try_text(made: dict[str, Any]) -> str:
    """Return what became of a try before the last, in a line."""
    error = made.get("error") or {}
    why = f"{error.get('type', made['state'])}: {error.get('message', '')}".rstrip(": ")
    first, *more = why.splitlines() or [""]
    when = moment_text(made.get("ended_at"), is_short=True)
    return f"{made['state']} at {when}, {first}{' ...' if more else ''}"


async def result(
    job_id: JobId,
    *,
    timeout: Seconds = 60.0,
    connect: Connect = DEFAULT_URL,
    as_json: Json = False,
) -> int:
    """Wait for a job's end and print its result, as `creche submit` does.

    Args:
        timeout: How many seconds to wait; connecting takes no longer than that either. The job
            goes on when they run out.
    """
    async with open_client(connect, min(timeout, ASK_S)) as client:
        return await wait_and_print(client.job(job_id), timeout, as_json=as_json)


async def cancel(
    job_id: JobId,
    *,
    reason: Annotated[str, Parameter(show_env_var=False, show_default=False)] = "",
    connect: Connect = DEFAULT_URL,
    as_json: Json = False,
) -> int:
    """Cancel a job, and print the state it is in then.

    One that waits is `cancelled` at once. One that runs is `cancelling`: its body is told to leave,
    and it is over when that has left. The exit code is 0 for both, and 1 if it had ended.

    Args:
        reason: Kept with the job, for whoever asks why.
    """
    async with open_client(connect) as client:
        state = await client.job(job_id).cancel(reason)
    if as_json:
        print_json({"id": job_id, "state": state.word})
    else:
        print(state.word)
    if state is JobState.CANCELLING:
        say("hint", f"its body is told to leave: `creche result {job_id}` waits until it has")
    if state in (JobState.CANCELLED, JobState.CANCELLING):
        return Exit.DONE
    say("error", f"job {job_id} is not cancelled: {_why_not(state)}")
    return Exit.FAILED


def _why_not(state: JobState) -> str:
    if not state.has_ended:
        return f"it is {state.word}, and goes on"
    how = "and is forgotten by now" if state is JobState.FORGOTTEN else f"as {state.word}"
    return f"it had ended before, {how}"


_COLUMNS = (
    Column("ID", cell("id")),
    Column("STATE", cell("state")),
    Column("TASK", cell("task"), 1, Narrow.CUT),
    Column("QUEUE", cell("queue"), 3, Narrow.CUT),
    Column("PRIORITY", cell("priority"), 6),
    Column("TRY", cell("attempt"), 4, is_number=True),
    Column("WORKER", cell("worker"), 5, Narrow.CUT),
    Column("SUBMITTED", moment_cell("submitted_at"), 2),
)


@app.command(name="ls")
async def ls(
    *words: FilterWords,
    state: Annotated[Names | None, Parameter(show_env_var=False)] = None,
    task: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    queue: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    limit: Count = 50,
    quiet: Annotated[bool, FLAG, Parameter(name=("--quiet", "-q"), show_env_var=False)] = False,
    connect: Connect = DEFAULT_URL,
    as_json: Json = False,
) -> int:
    """List jobs, newest first.

    A filter is terms such as `state:failed,lost`, `task:mail.*`, `queue:bulk`, `worker:box/*`,
    `id:0193`, `error:timeout`, `submitted:-1h..`, `ended:2027-01-31`, `attempt:3..`; all of them
    hold for what is listed, and a minus before one means all others. Put it in single quotes.

    Args:
        state: Only jobs in this state; several words, or with commas: as `state:` in a filter.
        task: Only jobs of this task: as `task:`.
        queue: Only jobs of this queue: as `queue:`.
        limit: How many at the most.
        quiet: Print ids only.
    """
    wanted = read_filter(words, state=state, task=task, queue=queue)
    async with open_client(connect) as client:
        records = [record async for record in pages_of(client, wanted, limit)]
    if as_json:
        print_json({"jobs": records})
    elif quiet:
        for record in records:
            print(record["id"])
    else:
        print_table(_COLUMNS, records, empty="no jobs")
    return Exit.DONE


async def pages_of(
    client: Client, wanted: Filter, limit: int | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yield the jobs that *wanted* means, newest first, asked for page by page."""
    before_seq = None
    left = sys.maxsize if limit is None else limit
    while left:
        params = {"filter": wanted.text, "limit": min(PAGE, left), "before_seq": before_seq}
        answer = await client.ask("jobs", params)
        for record in answer["jobs"]:
            yield record
        left -= len(answer["jobs"])
        before_seq = answer["before_seq"]
        if before_seq is None:
            break
