"""`creche schedules`: look at schedules, and make, change, pause, resume, run and delete them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from cyclopts import App, Parameter, Token

from creche.cli.connection import SUBMIT_S, open_client
from creche.cli.exits import Exit
from creche.cli.job import call_text, options_text
from creche.cli.job import read_call as read_payload
from creche.cli.options import (
    FLAG,
    HERE,
    Address,
    Connect,
    Count,
    Json,
    Moment,
    Names,
    PriorityOption,
    Seconds,
    SecondsOrNone,
)
from creche.cli.output import moment_text, print_facts, print_json, say
from creche.cli.spelling import names_of, spelled_as
from creche.cli.submit import read_call
from creche.cli.table import Column, Narrow, Row, cell, moment_cell, print_table
from creche.cli.values import as_json_data
from creche.client.client import Client
from creche.errors import CrecheError, Refused, SettingsError
from creche.model.cron import find_zone
from creche.model.priority import Priority
from creche.model.schedule import Missed, Overlap, Rule
from creche.tasks.schedules import Schedule

app = App(name="schedules", help="Have jobs submitted at their times.")

T = TypeVar("T")

_HERE = Parameter(show_env_var=False)
_Words = Parameter(consume_multiple=True, negative=(), show_env_var=False)

Name: TypeAlias = Annotated[str, _HERE]
Cron: TypeAlias = Annotated[str | None, Parameter(show_env_var=False, metavar="EXPR")]
Zone: TypeAlias = Annotated[str | None, Parameter(show_env_var=False, metavar="ZONE")]
Every: TypeAlias = Annotated[Seconds | None, _HERE]
At: TypeAlias = Annotated[Moment | None, _HERE]
MissedOption: TypeAlias = Annotated[Missed | None, _HERE]
OverlapOption: TypeAlias = Annotated[Overlap | None, _HERE]

_NOTHING = ("", "none", "null", "never", "off", "no")


def _or_without(kind: Any) -> Parameter:
    """Take what *kind* takes; of a word for nothing, say what takes the option out of a rule."""
    convert = next((part.converter for part in get_args(kind)[1:]), None)

    def converted(type_: Any, tokens: Sequence[Token]) -> Any:
        text, option = tokens[0].value, tokens[0].keyword or ""
        if text.strip().lower() in _NOTHING:
            without = f"`--without {option.lstrip('-')}`"
            raise ValueError(f"it takes no {text!r}: {without} takes it out of the rule")
        return text if convert is None else convert(type_, tokens)

    return Parameter(converter=converted)


# --- looking -------------------------------------------------------------------------------------


def _when(row: Row) -> str:
    return str(row.get("words") or row.get("problem") or "-")


_COLUMNS = (
    Column("NAME", cell("name"), narrow=Narrow.FOLDED),
    Column("STATE", cell("state")),
    Column("TASK", cell("task"), 2, Narrow.CUT),
    Column("WHEN", _when, 1, Narrow.FOLDED),
    Column("NEXT", moment_cell("next_due_at")),
    Column("LAST", moment_cell("last_fired_at"), 3),
    Column("FIRED", cell("fired"), 4, is_number=True),
    Column("MISSED", cell("missed"), 5, is_number=True),
    Column("FROM", cell("source"), 6),
)


@app.command(name="ls")
async def ls(*, connect: Connect = HERE, as_json: Json = False) -> int:
    """List schedules, by name.

    A schedule is active, paused, ended (nothing is left to fire), undeclared (its task's code has
    it no more) or broken. It is from code, where its task declares it, or made by api.
    """
    found: list[dict[str, Any]] = []
    async with open_client(connect) as client:
        left_out = 1
        while left_out:
            answer = await client.ask("schedules", {"after": found[-1]["name"] if found else ""})
            found += answer["schedules"]
            left_out = answer["left_out"]
    if as_json:
        print_json({"schedules": found})
    else:
        print_table(_COLUMNS, found, empty="no schedules")
    return Exit.DONE


@app.command(name="show")
async def show(name: Name, /, *, connect: Connect = HERE, as_json: Json = False) -> int:
    """Show one schedule: its rule, what it has fired, and when it fires next.

    The exit code is 3 for a name that the plane does not know; near names are told.

    Args:
        name: The schedule's name.
    """
    async with open_client(connect) as client:
        info = await client.ask("schedule", {"name": name})
    _print(info, as_json=as_json)
    return Exit.DONE


@app.command(name="next", usage="Usage: creche schedules next [OPTIONS] [NAME]")
async def next_(
    name: Annotated[str | None, _HERE] = None,
    /,
    *,
    cron: Cron = None,
    every: Every = None,
    tz: Zone = None,
    number: Annotated[Count, Parameter(name=("--number", "-n"), show_env_var=False)] = 10,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Print the next moments of a schedule, in its zone and in UTC; or those of a rule that is
    given here, for which no plane is needed.

    Args:
        name: The schedule's name.
        cron: A cron expression instead: "30 2 * * *", "@daily".
        every: An interval in seconds instead.
        tz: The time zone of the expression, as Europe/Paris; UTC when not given.
        number: How many.
    """
    said = {"NAME": name, "--cron": cron, "--every": every}
    given = [word for word, value in said.items() if value is not None]
    if not given:
        raise SettingsError(
            "of which schedule? `creche schedules next NAME`, or a rule: --cron '30 2 * * *'"
        )
    if len(given) > 1:
        raise SettingsError(f"{' and '.join(given)} each say when: give one of them")
    now, state = time.time(), None
    if name is None:
        moments = _rule({"cron": cron, "every": every, "tz": tz}).moments(now, now)
        zone = tz
    else:
        if tz is not None:
            raise SettingsError("--tz is for --cron: a schedule has its own")
        async with open_client(connect) as client:
            info = await client.ask("schedule", {"name": name})
        moments = _moments_of(info, now)
        zone = (info["rule"] or {}).get("tz")
        state = info["state"]
        if state == "paused":
            say("note", f"schedule {name!r} is paused, and fires at none of its moments")
            say("hint", f"`creche schedules resume {name}` has it fire at those that come then")
        elif state != "active":
            say("note", f"schedule {name!r} is {state}")
    _print_moments(islice(moments, number), zone, state, as_json=as_json)
    return Exit.DONE


def _moments_of(info: dict[str, Any], now: float) -> Iterator[float]:
    """Return the moments at which a schedule will fire, as far as can be told now; of a paused one,
    those at which it would if it were resumed now."""
    # What is due and has not been decided yet comes first.
    next_at = now if info["state"] == "paused" else info["next_at"]
    if next_at is None or info["rule"] is None:
        return iter(())
    rule = _rule(info["rule"])
    since = min(now, next_at - 0.001)
    moments = rule.moments(since, info["made_at"])
    return moments if rule.count is None else islice(moments, rule.count - info["fired"])


def _print_moments(
    moments: Iterator[float], tz: str | None, state: str | None, *, as_json: bool
) -> None:
    zone = _zone(tz or "UTC")
    found = [
        {
            "moment": at,
            "local": datetime.fromtimestamp(at, zone).isoformat(" ", "seconds"),
            "utc": datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds"),
        }
        for at in moments
    ]
    if as_json:
        of = {} if state is None else {"state": state}
        print_json({"tz": tz or "UTC", **of, "moments": found})
    else:
        columns = [Column(tz or "UTC", cell("local"))]
        if tz not in (None, "UTC"):
            columns.append(Column("UTC", cell("utc")))
        print_table(columns, found, empty="it does not fire any more")


# --- making and changing -------------------------------------------------------------------------


@app.command(name="add")
async def add(
    name: Name,
    task: Name,
    /,
    *words: Annotated[str, Parameter(name="ARGS", show_env_var=False)],
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    tz: Zone = None,
    start: At = None,
    end: At = None,
    count: Annotated[Count | None, _HERE] = None,
    jitter: Annotated[SecondsOrNone | None, _HERE] = None,
    missed: MissedOption = None,
    missed_within: Annotated[SecondsOrNone | None, _HERE] = None,
    overlap: OverlapOption = None,
    kwargs: Annotated[list[str] | None, _Words, Parameter(metavar="K=V")] = None,
    json_args: Annotated[str | None, Parameter(show_env_var=False, metavar="JSON")] = None,
    queue: Annotated[str | None, Parameter(metavar="NAME")] = None,
    priority: PriorityOption = None,
    if_exists: Annotated[Literal["refuse", "keep", "replace"], _HERE] = "refuse",
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Make a schedule: jobs of TASK with ARGS, submitted by the plane.

    Args:
        name: What the schedule is called.
        task: The task's name, as `creche list` shows it.
        words: Its positional arguments, as `creche submit` takes them.
        cron: When: "30 2 * * *", or "@daily".
        every: Or: how many seconds from one to the next.
        at: Or: once, at this moment: 2027-01-31T18:30, local time, or with an offset.
        tz: The time zone of the expression, as Europe/Paris; UTC when not given.
        start: It does not fire before this moment.
        end: It does not fire after this moment.
        count: How often it fires.
        jitter: Each firing is put off by up to so many seconds, by chance; less than there are
            between two moments.
        missed: What becomes of moments at which nobody could fire: one firing for all of them
            (once), nothing (skip), or each that is at most --missed-within seconds ago (all).
        missed_within: How many seconds ago such a moment may be.
        overlap: What becomes of a firing while the last job is unfinished: nothing (skip), it waits
            for its end (queue), that job is cancelled (replace), or both run (allow).
        kwargs: Keyword arguments, as key=value; repeated, or several in a row.
        json_args: All arguments as JSON: a list, or an object of keyword arguments.
        queue: Where its jobs go; the task's own queue when not given.
        if_exists: What to do if there is a schedule of that name.
    """
    given = _given(cron, every, at, tz, start, end, count, jitter, missed, missed_within, overlap)
    rule = _rule(given)
    with spelled_as(_SPELLED, ValueError):
        rule.check_new()
    async with open_client(connect, SUBMIT_S) as client:
        declaration = await client.ask("task", {"name": task})
        if declaration is None:
            say("warning", f"no worker has announced task {task!r}: its jobs wait until one does")
        args, named = read_call(declaration, words, kwargs or (), json_args)
        with spelled_as(_SPELLED):
            await client.create_schedule(
                name,
                task,
                _schedule(rule, args, named),
                queue=queue,
                priority=priority,
                if_exists=if_exists,
            )
        info = await client.ask("schedule", {"name": name})
    _print(info, as_json=as_json)
    return Exit.DONE


@app.command(name="set")
async def set_(
    name: Name,
    /,
    *,
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    tz: Annotated[Zone, _or_without(str)] = None,
    start: Annotated[At, _or_without(Moment)] = None,
    end: Annotated[At, _or_without(Moment)] = None,
    count: Annotated[Count | None, _HERE, _or_without(Count)] = None,
    jitter: Annotated[SecondsOrNone | None, _HERE, _or_without(SecondsOrNone)] = None,
    missed: MissedOption = None,
    missed_within: Annotated[SecondsOrNone | None, _HERE, _or_without(SecondsOrNone)] = None,
    overlap: OverlapOption = None,
    without: Annotated[Names | None, _HERE] = None,
    task: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    queue: Annotated[str | None, Parameter(show_env_var=False, metavar="NAME")] = None,
    priority: Annotated[PriorityOption, _HERE] = None,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Change a schedule that was made at run time. What is not given stays as it is, and so does
    what it has fired, and whether it is paused.

    Args:
        name: The schedule's name.
        cron: A cron expression, in the place of whatever said when.
        every: An interval in seconds, likewise.
        at: One moment, likewise.
        tz: The time zone of the expression, as Europe/Paris.
        start: It does not fire before this moment.
        end: It does not fire after this moment.
        count: How often it fires, counted from when it was made.
        jitter: Each firing is put off by up to so many seconds, by chance; less than there are
            between two moments.
        missed: What becomes of moments at which nobody could fire: one firing for all of them
            (once), nothing (skip), or each that is at most --missed-within seconds ago (all).
        missed_within: How many seconds ago such a moment may be.
        overlap: What becomes of a firing while the last job is unfinished: nothing (skip), it waits
            for its end (queue), that job is cancelled (replace), or both run (allow).
        without: What its rule is not to say any more: tz, start, end, count, jitter, missed,
            missed-within, overlap.
        task: Submit jobs of this task, with the same arguments.
        queue: Where its jobs go.
    """
    given = _given(cron, every, at, tz, start, end, count, jitter, missed, missed_within, overlap)
    changes: dict[str, Any] = {"task": task, "queue": queue}
    changes["priority"] = None if priority is None else int(priority)
    changes = {key: value for key, value in changes.items() if value is not None}
    async with open_client(connect, SUBMIT_S) as client:
        info = await client.ask("schedule", {"name": name})
        if given or without:
            rule = _changed(info["rule"] or {}, given, without or ())
            changes["rule"] = _rule(rule).as_data()
        if not changes:
            raise SettingsError("what is to be another? `creche schedules set --help` lists it")
        with spelled_as(_SPELLED):
            await client.ask("change-schedule", {"name": name, **changes})
        info = await client.ask("schedule", {"name": name})
    _print(info, as_json=as_json)
    return Exit.DONE


@app.command(name="pause", usage="Usage: creche schedules pause [OPTIONS] NAME...")
async def pause(*names: Name, connect: Connect = HERE, as_json: Json = False) -> int:
    """Have schedules not fire until they are resumed. Jobs that they have submitted go on.

    Args:
        names: What they are called. If one is not known, nothing is done to the others.
    """
    return await _each("pause-schedule", names, connect, as_json=as_json)


@app.command(name="resume", usage="Usage: creche schedules resume [OPTIONS] NAME...")
async def resume(*names: Name, connect: Connect = HERE, as_json: Json = False) -> int:
    """Have paused schedules fire from now on: what came meanwhile is not made up for.

    Args:
        names: What they are called. If one is not known, nothing is done to the others.
    """
    return await _each("resume-schedule", names, connect, as_json=as_json)


@app.command(name="run")
async def run(name: Name, /, *, connect: Connect = HERE, as_json: Json = False) -> int:
    """Submit a schedule's job now, and print its id.

    It is run also if the schedule is paused, or its last job unfinished.

    Args:
        name: The schedule's name.
    """
    async with open_client(connect, SUBMIT_S) as client:
        job = await client.run_schedule(name)
    if as_json:
        print_json({"id": job.id})
    else:
        print(job.id)
    return Exit.DONE


@app.command(name="rm", usage="Usage: creche schedules rm [OPTIONS] NAME...")
async def rm(
    *names: Name,
    missing_ok: Annotated[bool, FLAG, _HERE] = False,
    connect: Connect = HERE,
    as_json: Json = False,
) -> int:
    """Delete schedules. Jobs that they have submitted go on.

    Args:
        names: What they are called. If one is not known, nothing is done to the others.
        missing_ok: It is no mistake if there is none of that name.
    """
    _check_named(names)
    async with open_client(connect) as client:
        if missing_ok:
            there = {info.name for info in await client.schedules()}
            names = tuple(name for name in names if name in there)
        elif not await _are_there(client, names):
            return Exit.UNKNOWN_ID
        names = tuple(dict.fromkeys(names))
        await _in_turn(names, client.delete_schedule)
    if as_json:
        print_json({"deleted": list(names)})
    return Exit.DONE


async def _each(command: str, names: Sequence[str], connect: Address, *, as_json: bool) -> int:
    _check_named(names)
    async with open_client(connect) as client:
        if not await _are_there(client, names):
            return Exit.UNKNOWN_ID
        found = await _in_turn(names, lambda name: client.ask(command, {"name": name}))
    if as_json:
        print_json({"schedules": found})
    else:
        for info in found:
            print(f"{info['name']}: {info['state']}")
    return Exit.DONE


async def _are_there(client: Client, names: Sequence[str]) -> bool:
    """Return whether all of them are known, before anything is done to one; else say which are
    not."""
    others = []
    for name in dict.fromkeys(names):
        try:
            await client.ask("schedule", {"name": name})
            others.append(name)
        except Refused as refused:
            if refused.code != "unknown-schedule":
                raise
            say("error", refused.why)
    is_whole = len(others) == len(set(names))
    if others and not is_whole:
        say("note", f"nothing is done to the others: {', '.join(others)}")
    return is_whole


async def _in_turn(names: Sequence[str], do: Callable[[str], Awaitable[T]]) -> list[T]:
    """Do something to one after another; where that is refused, say how far it came."""
    done: list[T] = []
    for name in names:
        try:
            done.append(await do(name))
        except CrecheError:
            n = len(done)
            if len(names) > 1:
                to = f"done to {', '.join(names[:n])}; not" if n else "not done"
                say("note", f"{to} to {', '.join(names[n:])}")
            raise
    return done


def _check_named(names: Sequence[str]) -> None:
    if not names:
        raise SettingsError("which schedule? `creche schedules ls` lists them")


# --- rules ---------------------------------------------------------------------------------------

_TITLES = ("cron", "every", "at", "tz", "start", "end", "count", "jitter", "missed",
           "missed_within", "overlap")  # fmt: skip
_WHEN = ("cron", "every", "at")
_SPELLED = names_of(*_TITLES)


def _given(*values: Any) -> dict[str, Any]:
    """Return what of a rule was given on the command line, moments as UTC seconds."""
    return {
        name: value.timestamp() if isinstance(value, datetime) else value
        for name, value in zip(_TITLES, values, strict=True)
        if value is not None
    }


def _rule(data: dict[str, Any]) -> Rule:
    with spelled_as(_SPELLED, ValueError):
        return Rule.from_data({key: value for key, value in data.items() if value is not None})


def _changed(data: dict[str, Any], given: dict[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """Return a rule with what was *given* over it, and less what it is to be *without*."""
    left = dict(data)
    for word in without:
        key = word.replace("-", "_")
        if key not in _TITLES or key in _WHEN:
            words = ", ".join(name.replace("_", "-") for name in _TITLES if name not in _WHEN)
            raise SettingsError(f"--without: a rule can be without {words}, and not {word!r}")
        if key in given:
            raise SettingsError(f"--{word} and --without {word} contradict: give one of them")
        left.pop(key, None)
    if any(key in given for key in _WHEN):
        for key in _WHEN:
            left.pop(key, None)
        if "cron" not in given:
            left.pop("tz", None)
    if given.get("missed", "all") != "all":
        left.pop("missed_within", None)
    return left | given


def _schedule(rule: Rule, args: list[Any], kwargs: dict[str, Any]) -> Schedule:
    moments: dict[str, Any] = {
        name: datetime.fromtimestamp(at, UTC)
        for name in ("at", "start", "end")
        if (at := getattr(rule, name)) is not None
    }
    said = {key: value for key, value in rule.as_data().items() if key not in moments}
    return Schedule(**said, **moments, args=args, kwargs=kwargs)


def _zone(name: str) -> Any:
    with spelled_as(_SPELLED, ValueError):
        return find_zone(name)


# --- one schedule --------------------------------------------------------------------------------


def _print(info: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        call = read_payload(info["payload"])
        told = {key: info[key] for key in info if key != "payload"}
        told["args"], told["kwargs"] = (None, None) if call is None else call
        print_json({"schedule": as_json_data(told)})
    else:
        print_facts(_facts(info))


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    queue = info["queue"] or "the task's queue"
    priority = info["priority"]
    urgency = "the task's priority" if priority is None else Priority(priority).word
    facts = [
        ("name", str(info["name"])),
        ("state", str(info["state"])),
        ("call", call_text(info["task"], info["payload"], read_payload(info["payload"]))),
        ("queue", f"{queue} ({urgency})"),
        ("when", _when(info)),
    ]
    facts[4:4] = [("submits with", text) for text in options_text(info["options"] or {})]
    if info["problem"]:
        facts.append(("problem", str(info["problem"])))
    rule = info["rule"] or {}
    if "jitter" in rule:
        facts.append(("jitter", f"up to {rule['jitter']:g} s"))
    facts.append(("missed", _missed_text(rule)))
    facts.append(("overlap", str(rule.get("overlap", "skip"))))
    facts.append(("next", _next_text(info, rule)))
    facts.append(("last", moment_text(info["last_fired_at"])))
    if info["last_job"]:
        facts.append(("last job", str(info["last_job"])))
    if info["waits_for"]:
        facts.append(("waits for", f"job {info['waits_for']}"))
    counts = (f"{info[word]:,} {word}" for word in ("fired", "missed", "overlapped"))
    facts.append(("so far", ", ".join(counts)))
    declared = f"code, module {info['module']}" if info["source"] == "code" else "made at run time"
    facts.append(("from", declared))
    return facts


def _missed_text(rule: dict[str, Any]) -> str:
    missed = str(rule.get("missed", "once"))
    return f"{missed} within {rule['missed_within']:g} s" if "missed_within" in rule else missed


def _next_text(info: dict[str, Any], rule: dict[str, Any]) -> str:
    at = info["next_due_at"]
    if at is None:
        return "-"
    zone = _zone(rule.get("tz", "UTC"))
    local = datetime.fromtimestamp(at, zone).isoformat(" ", "seconds")
    return f"{local} {rule['tz']}" if "tz" in rule else local
