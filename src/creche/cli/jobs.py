"""`creche status`, `result`, `cancel`, and `creche jobs`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from creche.cli import dead
from creche.cli.asking import All, DryRun, Yes, ids_or_filter, is_sure
from creche.cli.connection import ASK_S, open_client
from creche.cli.exits import Exit, blamed
from creche.cli.exporting import CsvLines, JsonLines
from creche.cli.filters import FilterWords, IdsOrFilter, read_filter
from creche.cli.job import facts_of, list_jobs, show_job, why_no_result
from creche.cli.options import FLAG, HERE, Connect, Count, JobId, Json, Names, Seconds
from creche.cli.output import print_facts, print_json, say
from creche.cli.submit import GONE, say_if_interrupted, state_of, wait_and_print
from creche.cli.table import Column, Narrow, cell, moment_cell
from creche.cli.waiting import say_remedies
from creche.client.client import Client
from creche.errors import JobEnded, SettingsError, UnknownJob
from creche.model.filter import Filter, Term
from creche.model.job import JobState
from creche.peer.dead import pages
from creche.peer.handle import JobHandle, to_id

app = App(name="jobs", help="List jobs, look at them, and act on many.")


async def status(job_id: JobId, *, connect: Connect = HERE, as_json: Json = False) -> int:
    """Show one job: its state, when and where it ran, and why it has no result if it ended so.

    The exit code is 0 whatever the state is, and 3 for an id that the plane does not know.
    """
    async with open_client(connect) as client:
        record = await client.ask("job", {"id": to_id(job_id)})
        if record is None:
            raise UnknownJob(job_id)
        record["why"], record["notes"] = await why_no_result(client, record)
    if as_json:
        print_json({"job": record})
    else:
        print_facts(facts_of(record))
        say_remedies(record)
    return Exit.DONE


async def result(
    job_id: JobId,
    *,
    timeout: Seconds = 60.0,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Wait for a job's end and print its result, as `creche submit` does.

    Args:
        timeout: How many seconds to wait; connecting takes no longer than that either. The job
            goes on when they run out.
    """
    try:
        async with open_client(connect, min(timeout, ASK_S), tells_of_loss=True) as client:
            return await wait_and_print(client, client.job(job_id), timeout, as_json=as_json)
    except BaseException as error:
        say_if_interrupted(error, job_id)
        raise


async def cancel(
    job_id: JobId,
    *,
    reason: Annotated[str, Parameter(show_env_var=False, show_default=False)] = "",
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Cancel a job, and print the state it is in then.

    One that waits is `cancelled` at once. One that runs is `cancelling`: its body is told to leave,
    and it is over when that has left. The exit code is 0 for both, also for one that was cancelled
    before, and 1 if it had ended otherwise.

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
    Column("ATTEMPT", cell("attempt"), 4, is_number=True),
    Column("WORKER", cell("worker"), 5, Narrow.CUT),
    Column("SUBMITTED", moment_cell("submitted_at"), 2),
)


@app.command(name="ls", usage="Usage: creche jobs ls [OPTIONS] [FILTER]")
async def ls(
    *words: FilterWords,
    state: Annotated[Names | None, Parameter(show_env_var=False)] = None,
    task: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    queue: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    limit: Count = 50,
    quiet: Annotated[bool, FLAG, Parameter(name=("--quiet", "-q"), show_env_var=False)] = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """List jobs, newest first.

    A filter is terms such as `state:failed,lost`, `task:mail.*`, `queue:bulk`, `worker:box/*`,
    `id:0193`, `error:timeout`, `submitted:-1h..`, `ended:2027-01-31`, `attempt:3..`; all of them
    hold for what is listed, and a minus before one means all others. Put it in single quotes, and
    behind `--` if it begins with a minus: `creche jobs ls -- '-task:mail.*'`.

    Args:
        state: Only jobs in this state; several words, or with commas: as `state:` in a filter.
        task: Only jobs of this task: as `task:`.
        queue: Only jobs of this queue: as `queue:`.
        limit: How many at the most.
        quiet: Print ids only.
    """
    wanted = read_filter(words, state=state, task=task, queue=queue)
    return await list_jobs(
        *(wanted, _COLUMNS, limit, connect), empty="no jobs", quiet=quiet, as_json=as_json
    )


@app.command(name="show")
async def show(job_id: JobId, *, connect: Connect = HERE, as_json: Json = False) -> int:
    """Show one job whole: its call, what it was submitted with, its attempts, and its result or the
    traceback of what it raised."""
    return await show_job(job_id, connect, as_json=as_json)


app.command(result, name="result")
app.command(dead.retry, name="retry", usage="Usage: creche jobs retry [OPTIONS] ID... | FILTER")


@app.command(name="wait", usage="Usage: creche jobs wait [OPTIONS] ID... | FILTER")
async def wait(
    *words: IdsOrFilter,
    timeout: Seconds = 60.0,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Wait until jobs have ended: those of these ids, or those that a filter means by now. Prints
    the id and the state of each when it has ended.

    The exit code is 0 if all of them have succeeded, 1 if not, and 6 if the wait ran out.

    Args:
        timeout: How many seconds to wait. The jobs go on when they run out.
    """
    chosen = ids_or_filter(words, is_all=False, what="wait for")
    states: dict[str, str] = {}
    handles: list[JobHandle[Any]] = []
    try:
        async with open_client(connect, min(timeout, ASK_S), tells_of_loss=True) as client:
            ids = chosen if isinstance(chosen, list) else await _ids(client, chosen)
            handles += [client.job(job_id) for job_id in ids]
            is_over = await _wait_for(client, handles, timeout, states, is_told=not as_json)
            is_gone = not client.is_connected
    except BaseException as error:
        if handles and isinstance(blamed(error), KeyboardInterrupt):
            say("", f"{_left(handles, states)} not ended, and {_go(handles)} on")
            say("hint", "the same command waits for them again")
        raise
    if as_json:
        print_json({"jobs": [{"id": job.id, "state": states.get(job.id)} for job in handles]})
    if not is_over:
        left = f"{_left(handles, states)} not ended after {timeout:g} s"
        say("error", left + (GONE if is_gone else ""))
        return Exit.WAITED_OUT
    return Exit.DONE if set(states.values()) <= {JobState.SUCCEEDED.word} else Exit.FAILED


def _go(handles: Sequence[JobHandle[Any]]) -> str:
    return "goes" if len(handles) == 1 else "go"


def _left(handles: Sequence[JobHandle[Any]], states: Mapping[str, str]) -> str:
    if len(handles) == 1:
        return "the job has"
    return f"{len(handles) - len(states):,} of {len(handles):,} jobs have"


async def _ids(client: Client, wanted: Filter) -> list[str]:
    return [job["id"] async for page in pages(client.ask, wanted) for job in page]


async def _wait_for(
    client: Client,
    handles: Sequence[JobHandle[Any]],
    timeout: float,
    states: dict[str, str],
    *,
    is_told: bool,
) -> bool:
    """Fill *states* as jobs end; return whether all of them have."""
    try:
        async with aclosing(client.as_completed(handles, timeout=timeout)) as ended:
            async for handle in ended:
                try:
                    await handle.result()
                    state = JobState.SUCCEEDED
                except JobEnded as error:
                    state = state_of(error)
                states[handle.id] = state.word
                if is_told:
                    print(f"{handle.id}  {state.word}")
    except TimeoutError:
        return False
    return True


@app.command(name="cancel", usage="Usage: creche jobs cancel [OPTIONS] ID... | FILTER")
async def cancel_jobs(
    *words: IdsOrFilter,
    is_all: All = False,
    reason: Annotated[str, Parameter(show_env_var=False, show_default=False)] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Cancel jobs that have not ended: by their ids, by a filter, or all. What waits is cancelled
    at once, and what runs is told to leave.

    Args:
        reason: Kept with each job, for whoever asks why.
    """
    chosen = ids_or_filter(words, is_all=is_all, what="cancel")
    async with open_client(connect) as client:
        if isinstance(chosen, list):
            return await _cancel_ids(client, chosen, reason, as_json=as_json)
        wanted = Filter((_UNFINISHED, *chosen.terms))
        count = len(await _ids(client, wanted))
        if dry_run:
            print_json({"cancelled": 0, "matched": count}) if as_json else print(_jobs(count))
            return Exit.DONE
        if count and not is_sure(f"cancel {_jobs(count)}?", yes):
            return Exit.FAILED
        done = 0
        async for page in pages(client.ask, wanted):
            states = await client.cancel_many([job["id"] for job in page], reason)
            done += sum(state in _CANCELLED for state in states)
    print_json({"cancelled": done}) if as_json else print(f"{done:,} cancelled")
    return Exit.DONE


_UNFINISHED = Term("state", (JobState.QUEUED, JobState.PARKED, JobState.DELAYED, JobState.RUNNING))
_CANCELLED = (JobState.CANCELLED, JobState.CANCELLING)


async def _cancel_ids(client: Client, ids: list[str], reason: str, *, as_json: bool) -> int:
    states = await client.cancel_many(ids, reason)
    told = list(zip(ids, states, strict=True))
    if as_json:
        print_json({"jobs": [{"id": i, "state": None if s is None else s.word} for i, s in told]})
    for job_id, state in told:
        if state is None:
            say("error", str(UnknownJob(job_id)))
        elif not as_json:
            print(f"{job_id}  {state.word}")
    if None in states:
        return Exit.UNKNOWN_ID
    return Exit.DONE if all(state in _CANCELLED for state in states) else Exit.FAILED


def _jobs(count: int) -> str:
    return f"{count:,} {'job' if count == 1 else 'jobs'}"


@app.command(name="export", usage="Usage: creche jobs export [OPTIONS] [FILTER]")
async def export(
    *words: FilterWords,
    format: Annotated[Literal["jsonl", "csv"], Parameter(show_env_var=False)] = "jsonl",
    output: Annotated[Path | None, Parameter(show_env_var=False, metavar="FILE")] = None,
    limit: Annotated[Count | None, Parameter(show_env_var=False)] = None,
    connect: Connect = HERE,
) -> int:
    """Write jobs, newest first, a line each: all of them, or those that a filter means.

    Args:
        format: A JSON document a line, with moments in seconds since 1970, or CSV with a first
            line of names and moments as ISO 8601 has them.
        output: A new file; stdout when not given.
        limit: How many at the most; all of them when not given.
    """
    wanted = read_filter(words)
    with ExitStack() as files:
        target = sys.stdout
        if output is not None:
            try:
                target = files.enter_context(output.open("x", encoding="utf-8", newline=""))
            except FileExistsError:
                raise SettingsError(f"{output} is there already: name a new file") from None
        write = JsonLines(target) if format == "jsonl" else CsvLines(target)
        async with open_client(connect) as client:
            async for page in pages(client.ask, wanted, limit):
                for record in page:
                    write(record)
    return Exit.DONE
