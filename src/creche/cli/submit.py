"""`creche submit`: run a task by name, and print its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Any

import trio
from cyclopts import Parameter, Token

from creche.cli.connection import SUBMIT_S, open_client
from creche.cli.exits import Exit, blamed, exit_of
from creche.cli.options import (
    FLAG,
    HERE,
    Connect,
    Json,
    Moment,
    PriorityOption,
    Seconds,
    SecondsOrNone,
)
from creche.cli.output import print_json, say
from creche.cli.spelling import names_of, spelled_as
from creche.cli.values import (
    parse_arguments,
    parse_json_arguments,
    parse_pairs,
    result_text,
    signature_of,
)
from creche.cli.waiting import NOT_BEGUN, held_up_lines, progress_text, say_remedies
from creche.client.client import Client
from creche.errors import (
    DuplicateJob,
    JobEnded,
    JobFailed,
    PlaneUnreachable,
    ResultTimeout,
    SettingsError,
)
from creche.model.job import JobState
from creche.model.retry import FOREVER, MAX_RETRIES
from creche.peer.handle import JobHandle
from creche.tasks.options import Retries, ViewOptions, submission_options


def _retries(type_: Any, tokens: list[Token]) -> Retries:
    text = tokens[0].value.strip().lower()
    if text == FOREVER:
        return "forever"
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_RETRIES):
        raise ValueError(f"it takes a number, from 0 on, or {FOREVER}, and not {text!r}")
    return int(text)


_Words = Parameter(consume_multiple=True, negative=(), show_env_var=False)

_SPELLED = names_of(
    *("countdown", "eta", "expires", "deadline", "retries", "backoff", "idempotency_key"),
    timeout="time-limit",
    soft_timeout="soft-time-limit",
)


async def submit(
    task: Annotated[str | None, Parameter(show_env_var=False)] = None,
    /,
    *words: Annotated[str, Parameter(name="ARGS", show_env_var=False)],
    kwargs: Annotated[list[str] | None, _Words, Parameter(metavar="K=V")] = None,
    json_args: Annotated[str | None, Parameter(show_env_var=False, metavar="JSON")] = None,
    priority: PriorityOption = None,
    queue: Annotated[str | None, Parameter(metavar="NAME")] = None,
    countdown: Annotated[SecondsOrNone | None, Parameter(show_env_var=False)] = None,
    eta: Annotated[Moment | None, Parameter(show_env_var=False)] = None,
    time_limit: Annotated[Seconds | None, Parameter(show_env_var=False)] = None,
    soft_time_limit: Annotated[Seconds | None, Parameter(show_env_var=False)] = None,
    expires: Annotated[Seconds | None, Parameter(show_env_var=False)] = None,
    deadline: Annotated[Moment | None, Parameter(show_env_var=False)] = None,
    retries: Annotated[
        Retries | None,
        Parameter(converter=_retries, show_env_var=False, show_choices=False, metavar="N"),
    ] = None,
    backoff: Annotated[SecondsOrNone | None, Parameter(show_env_var=False)] = None,
    idempotency_key: Annotated[str | None, Parameter(show_env_var=False, metavar="KEY")] = None,
    header: Annotated[list[str] | None, _Words, Parameter(metavar="K=V")] = None,
    non_blocking: Annotated[bool, FLAG, Parameter(show_env_var=False)] = False,
    timeout: Seconds = 60.0,
    connect: Connect = HERE,
    as_json: Json = False,
    task_name: Annotated[str | None, Parameter(show=False, show_env_var=False)] = None,
    args: Annotated[list[str] | None, _Words, Parameter(show=False)] = None,
) -> int:
    """Run a task and print its result.

    ARGS become true or false, an int, a float, or else text; a parameter that the task declares as
    `str` keeps its text. The result alone goes to stdout: text bare, everything else as JSON.
    What a failed job raised goes to stderr.

    Args:
        task: The task's name, as `creche list` shows it.
        words: Its positional arguments.
        kwargs: Keyword arguments, as key=value; repeated, or several in a row.
        json_args: All arguments as JSON: a list, or an object of keyword arguments.
        queue: Where the job goes; the task's own queue when not given.
        countdown: Run it so many seconds from now, and not before.
        eta: Run it at this moment, and not before: 2027-01-31T18:30, local time, or with an offset.
        time_limit: How many seconds an attempt may run: it is stopped then.
        soft_time_limit: After how many seconds it is told to come to an end.
        expires: Within how many seconds the job must have begun.
        deadline: When all of it must be over, written as --eta.
        retries: How often it is tried again when it fails: a number, or `forever`.
        backoff: The seconds before the second attempt; they double with each further one.
        idempotency_key: A text of your own: while a job of this task is known that was submitted
            with the same, it is that job.
        header: What travels with the job beside its arguments, as key=value: its text is what
            `current_job().headers` has. Repeated, or several in a row.
        non_blocking: Print the job's id and leave; nobody waits for the result.
        timeout: How many seconds to wait for the result; connecting and submitting take no longer
            than that either. The job goes on when they run out.
        task_name: The task's name (FastWorker's spelling).
        args: Its positional arguments (FastWorker's spelling).
    """
    name, texts = _told(task, words, task_name, args)
    options = ViewOptions(
        queue=queue,
        priority=priority,
        countdown=countdown,
        eta=eta,
        timeout=time_limit,
        soft_timeout=soft_time_limit,
        expires=expires,
        deadline=deadline,
        retries=retries,
        backoff=backoff,
        idempotency_key=idempotency_key,
        headers=parse_pairs(header or (), "--header"),
    )
    with spelled_as(_SPELLED):  # before anything is dialled
        submission_options("creche submit", options, time.time())
    handle: JobHandle[Any] | None = None
    try:
        async with open_client(
            connect, min(timeout, SUBMIT_S), tells_of_loss=not non_blocking
        ) as client:
            declaration = await client.ask("task", {"name": name})
            call_args, call_kwargs = read_call(declaration, texts, kwargs or (), json_args)
            with spelled_as(_SPELLED):
                handle = await client.send(name, call_args, call_kwargs, **options)
            if handle.is_existing:
                say("", f"job {handle.id} was there already: this is no other one")
            if non_blocking:
                document = {"id": handle.id, "existing": handle.is_existing}
                print_json(document) if as_json else print(handle.id)
                return Exit.DONE
            known = {"existing": handle.is_existing}
            return await wait_and_print(client, handle, timeout, known, as_json=as_json)
    except DuplicateJob as duplicate:
        if as_json:
            refused = {"code": duplicate.code, "why": duplicate.why}
            print_json({"id": None, "job_id": duplicate.job_id, "refused": refused})
        raise
    except BaseException as error:
        if handle is not None:
            say_if_interrupted(error, handle.id)
        raise


def say_if_interrupted(error: BaseException, job_id: str) -> None:
    """If *error* is a Ctrl-C that has ended a wait for a job, say that the job goes on."""
    # It is raised in whichever of our tasks it meets.
    if isinstance(blamed(error), KeyboardInterrupt):
        say("", f"job {job_id} goes on")
        say("hint", f"`creche result {job_id}` waits for it again")


def _told(
    task: str | None,
    words: tuple[str, ...],
    task_name: str | None,
    args: list[str] | None,
) -> tuple[str, tuple[str, ...]]:
    """Return the task's name and its positional arguments, by whichever spelling they came."""
    if task_name is not None:
        # With the name as an option, the first word is an argument as all others.
        words = words if task is None else (task, *words)
        task = task_name
    if task is None:
        raise SettingsError("which task? `creche submit TASK [ARGS...]`; `creche list` names them")
    if args is not None and words:
        raise SettingsError("--args is another spelling of ARGS: give the arguments once")
    return task, words if args is None else tuple(args)


def read_call(
    declaration: Any, words: tuple[str, ...], kwargs: list[str] | tuple[()], json_args: str | None
) -> tuple[list[Any], dict[str, Any]]:
    """Return the call's arguments, checked if its signature is known: nothing is sent before."""
    signature = signature_of(declaration)
    values, named = parse_arguments(words, kwargs, signature)
    if json_args is not None:
        given = parse_json_arguments(json_args)
        if isinstance(given, list):
            if values:
                raise SettingsError("--json-args holds a list: leave ARGS out")
            values = given
        else:
            both = sorted(named.keys() & given.keys())
            if both:
                raise SettingsError(f"--json-args and --kwargs both give {both[0]!r}")
            named |= given
    if signature is not None:
        signature.check(values, named)
    return values, named


_NOTHING: Mapping[str, Any] = MappingProxyType({})


async def wait_and_print(
    client: Client,
    handle: JobHandle[Any],
    timeout: float,
    known: Mapping[str, Any] = _NOTHING,
    *,
    as_json: bool,
) -> int:
    """Wait for a job's end and print it; return the exit code. What holds it up is said on stderr
    as soon as that takes long. What is *known* of it is in its document.

    Without ``--json`` how a job ended otherwise is raised, so that it is reported like any error.
    """
    try:
        value = await _wait(client, handle, timeout)
    except ResultTimeout as late:
        job = await _look(client, handle, LAST_LOOK_S)
        if as_json:
            print_json({"id": handle.id, **known, "state": None if job is None else job["state"]})
        how = GONE if job is None and not client.is_connected else _how_it_is(job)
        say("error", f"job {late.job_id} has not ended after {timeout:g} s{how}")
        say_remedies(job or {})
        say("hint", f"`creche result {handle.id}` waits again")
        return Exit.WAITED_OUT
    except JobEnded as ended:
        if not as_json:
            raise
        print_json({**known, **_ended(handle.id, ended)})
        return exit_of(ended)
    if as_json:
        state = JobState.SUCCEEDED.word
        print_json({"id": handle.id, **known, "state": state, "result": value})
    else:
        print(result_text(value))
    return Exit.DONE


LOOK_S = 2.0
"""When a command that waits for a job looks what holds it up."""

LAST_LOOK_S = 1.0
"""How long it may take to ask how a job is doing when the wait for it has run out."""

GONE = ", as far as is known: the plane is gone"


async def _wait(client: Client, handle: JobHandle[Any], timeout: float) -> Any:
    if timeout > LOOK_S:
        with suppress(ResultTimeout):
            return await handle.result(LOOK_S)
        ends_at = trio.current_time() + timeout - LOOK_S
        job = await _look(client, handle, timeout - LOOK_S) or {}
        for line in held_up_lines(job):
            say("note", f"job {handle.id} {progress_text(job)}: {line}")
        timeout = max(ends_at - trio.current_time(), 0.0)
    return await handle.result(timeout)


async def _look(client: Client, handle: JobHandle[Any], within_s: float) -> dict[str, Any] | None:
    """Return the job as it is now; None if the plane cannot say in time."""
    job: dict[str, Any] | None = None
    if client.is_connected:
        with trio.move_on_after(within_s), suppress(PlaneUnreachable):
            job = await client.ask("job", {"id": handle.id_bytes})
    return job


def _how_it_is(job: dict[str, Any] | None) -> str:
    if job is None:
        return "; it goes on"
    state = JobState.parse(job["state"])
    if state.has_ended:  # between the two
        return f", and has now: it is {state.word}"
    if held_up := held_up_lines(job):
        begun = "" if (progress := progress_text(job)) == NOT_BEGUN else f"{progress}, "
        return f": it is {state.word}, {begun}and held up: {'; '.join(held_up)}"
    if state.is_waiting:
        return f": it is {state.word}, and {progress_text(job)}"
    return f": it is {state.word}, and it goes on"


def state_of(ended: JobEnded) -> JobState:
    """Return the state of a job that ended so."""
    return _STATES.get(type(ended).__name__, JobState.EXPIRED)


def _ended(job_id: str, ended: JobEnded) -> dict[str, Any]:
    document: dict[str, Any] = {"id": job_id, "state": state_of(ended).word, "why": ended.why}
    if isinstance(ended, JobFailed):
        document["error"] = {
            "type": ended.type,
            "message": ended.message,
            "notes": list(getattr(ended, "__notes__", ())),
            "traceback": ended.traceback,
        }
    return document


_STATES = {
    "JobFailed": JobState.FAILED,
    "JobCancelled": JobState.CANCELLED,
    "JobLost": JobState.LOST,
}
