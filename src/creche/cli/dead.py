"""`creche dead`: jobs that ended without a result, until somebody has looked after them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from cyclopts import App, Parameter, Token

from creche.cli.asking import All, DryRun, Yes, ids_or_filter, is_sure
from creche.cli.connection import open_client
from creche.cli.exits import Exit
from creche.cli.filters import FilterWords, IdsOrFilter, read_filter
from creche.cli.job import list_jobs, show_job
from creche.cli.options import FLAG, HERE, Address, Connect, Count, JobId, Json
from creche.cli.output import print_json, say
from creche.cli.retrying import new_arguments
from creche.cli.table import Column, Narrow, cell, moment_cell
from creche.client.client import Client
from creche.engine.dead import MAX_RATE, MIN_RATE
from creche.errors import SettingsError
from creche.model.filter import Filter
from creche.model.flow import Rate
from creche.peer.dead import Piece, dead_ones, discard_all, pages, retry_all

app = App(name="dead", help="Look after jobs that ended without a result.")

_Words = Parameter(consume_multiple=True, negative=(), show_env_var=False)


def _rate(type_: Any, tokens: list[Token]) -> float:
    rate = Rate.parse(tokens[0].value)
    per_s = rate.count / rate.per_s
    if not MIN_RATE <= per_s <= MAX_RATE:
        raise ValueError(f"{rate} is not from {MIN_RATE:g} to {MAX_RATE:,.0f} jobs a second")
    return per_s


PerSecond = Annotated[
    float, Parameter(converter=_rate, show_env_var=False, metavar="N/TIME", show_default=False)
]

_COLUMNS = (
    Column("ID", cell("id")),
    Column("STATE", cell("state")),
    Column("TASK", cell("task"), 0, Narrow.CUT),
    Column("ATTEMPT", cell("attempt"), 2, is_number=True),
    Column("ENDED", moment_cell("ended_at"), 1),
    Column("WHY", cell("error"), 0, Narrow.SENTENCE),
)


@app.command(name="ls", usage="Usage: creche dead ls [OPTIONS] [FILTER]")
async def ls(
    *words: FilterWords,
    limit: Count = 50,
    quiet: Annotated[bool, FLAG, Parameter(name=("--quiet", "-q"), show_env_var=False)] = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """List dead jobs, newest first: those that have failed, were lost or have expired, and that
    nobody has retried or discarded.

    Args:
        limit: How many at the most.
        quiet: Print ids only.
    """
    wanted = dead_ones(read_filter(words))
    return await list_jobs(
        *(wanted, _COLUMNS, limit, connect), empty="no dead jobs", quiet=quiet, as_json=as_json
    )


@app.command(name="show")
async def show(job_id: JobId, *, connect: Connect = HERE, as_json: Json = False) -> int:
    """Show one job whole: its arguments, its attempts, and what it ended with; as `jobs show`."""
    return await show_job(job_id, connect, as_json=as_json)


@app.command(name="retry", usage="Usage: creche dead retry [OPTIONS] ID... | FILTER")
async def retry(
    *words: IdsOrFilter,
    is_all: All = False,
    rate: PerSecond | None = None,
    args: Annotated[list[str] | None, _Words] = None,
    kwargs: Annotated[list[str] | None, _Words, Parameter(metavar="K=V")] = None,
    changes: Annotated[
        list[str] | None, _Words, Parameter(name="--set", metavar="NAME=VALUE")
    ] = None,
    json_args: Annotated[str | None, Parameter(show_env_var=False, metavar="JSON")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Submit dead jobs again: by their ids, by a filter, or all. Each runs as a new job, whose id
    is printed; the old one stays as it ended. Doing so twice makes no second job.

    Args:
        rate: Let so many of them be due in a time: 50/s, 100/30s, 5000/d.
        args: Other positional arguments, for one job.
        kwargs: Other keyword arguments, for one job.
        changes: Change single arguments by name, for one job, and keep the others.
        json_args: All arguments as JSON, for one job, as `creche submit` has it.
    """
    chosen = ids_or_filter(words, is_all=is_all, what="retry")
    has_changes = not (args is None and kwargs is None and changes is None and json_args is None)
    if isinstance(chosen, list):
        if rate is not None:
            raise SettingsError("--rate is for a filter or --all: ids are retried at once")
        if has_changes and len(chosen) > 1:
            raise SettingsError("other arguments are for one job: name one id")
        return await _retry_ids(
            chosen, (args, kwargs, changes, json_args) if has_changes else None, connect, as_json
        )
    if has_changes:
        raise SettingsError("other arguments are for one job: name its id")
    async with open_client(connect) as client:
        return await _in_bulk(
            client,
            chosen,
            "retry",
            lambda: retry_all(client.ask, chosen, rate),
            dry_run=dry_run,
            yes=yes,
            as_json=as_json,
        )


async def _retry_ids(
    ids: list[str],
    changes: tuple[Any, Any, Any, Any] | None,
    connect: Address,
    as_json: bool,
) -> int:
    made: list[tuple[str, str]] = []
    async with open_client(connect) as client:
        for job_id in ids:
            more = {} if changes is None else await new_arguments(client, job_id, *changes)
            new = await client.retry(job_id, **more)
            made.append((job_id, new.id))
            if not as_json:
                print(new.id)
    if as_json:
        print_json({"jobs": [{"id": old, "retried_as": new} for old, new in made]})
    return Exit.DONE


@app.command(name="discard", usage="Usage: creche dead discard [OPTIONS] ID... | FILTER")
async def discard(
    *words: IdsOrFilter,
    is_all: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Take jobs out of the set of dead ones: by their ids, by a filter, or all. What is known of
    them is kept as long as of other ended jobs."""
    chosen = ids_or_filter(words, is_all=is_all, what="discard")
    async with open_client(connect) as client:
        if isinstance(chosen, list):
            for job_id in chosen:
                await client.discard(job_id)
            if as_json:
                print_json({"jobs": chosen})
            return Exit.DONE
        return await _in_bulk(
            client,
            chosen,
            "discard",
            lambda: discard_all(client.ask, chosen),
            dry_run=dry_run,
            yes=yes,
            as_json=as_json,
        )


async def _in_bulk(
    client: Client,
    wanted: Filter,
    verb: str,
    work: Any,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Count first, ask, and then work piece by piece."""
    count = sum([len(page) async for page in pages(client.ask, dead_ones(wanted))])
    if dry_run or not count:
        return _tell(verb, 0, 0, as_json, matched=count)
    if not is_sure(f"{verb} {count:,} dead {'job' if count == 1 else 'jobs'}?", yes):
        return Exit.FAILED
    done = skipped = 0
    pieces: AsyncIterator[Piece] = work()
    async for piece in pieces:
        done += len(piece.jobs)
        skipped += piece.skipped
        if done < count:
            say("", f"{done:,} of {count:,}")
    return _tell(verb, done, skipped, as_json)


def _tell(verb: str, done: int, skipped: int, as_json: bool, matched: int | None = None) -> int:
    word = {"retry": "retried", "discard": "discarded"}[verb]
    if as_json:
        facts: dict[str, Any] = {word: done, "skipped": skipped}
        print_json(facts if matched is None else {word: 0, "matched": matched})
    elif matched is not None:
        print(f"{matched:,} dead {'job' if matched == 1 else 'jobs'}")
    else:
        print(f"{done:,} {word}")
        if skipped:
            say("note", f"{skipped:,} were skipped: somebody else was quicker")
    return Exit.DONE
