"""Jobs as lists, and the dead among them: listed by a filter, submitted again, let be.

Whatever is meant by a filter is looked after piece by piece, so that no command is long and other
work goes on between. A piece that is sent again after a cut changes nothing: the plane knows what
became of each job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from creche.errors import (
    BadFilter,
    InvalidArguments,
    JobNotDead,
    ResultForgotten,
    SubmissionRefused,
    UnknownJob,
)
from creche.model.filter import Filter, Term
from creche.model.flow import Rate
from creche.model.ids import id_from_text, id_to_text
from creche.model.job import Fate
from creche.model.maps import is_number

Ask: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

PAGE = 500
"""Jobs that are asked for, and looked after, at a time."""

_DEAD = Term("fate", (Fate.DEAD,))


def filter_of(text: str | Filter) -> Filter:
    """Return the filter that *text* is: its moments are of this machine's clock and zone, and the
    same on every page.

    Raises:
        BadFilter: it is none.
    """
    return text if isinstance(text, Filter) else Filter.parse(text, time.time(), None)


def meant_dead(wanted: str | Filter | None) -> Filter:
    """Return the filter of what is *wanted* by a verb that changes what it means; None for all. A
    blank text is refused: it comes of a variable that is not set, and would mean all.

    Raises:
        BadFilter: it is blank, or no filter.
    """
    if isinstance(wanted, str) and not wanted.strip():
        why = "it is blank, and would mean every dead job: leave it out if all are meant"
        raise BadFilter(wanted, 1, why)
    return Filter() if wanted is None else filter_of(wanted)


def per_second(rate: object) -> float | None:
    """Return how many jobs a second are meant by a number of them, or by a text as ``50/s``.

    Raises:
        InvalidArguments: it is neither.
    """
    if rate is None or is_number(rate):
        return rate
    try:
        said = Rate.parse(rate)
    except ValueError as error:
        raise InvalidArguments(f"rate: {error}") from None
    return said.count / said.per_s


def dead_ones(wanted: str | Filter) -> Filter:
    """Return the filter of the dead jobs among those that are *wanted*."""
    return Filter((_DEAD, *filter_of(wanted).terms))


async def pages(
    ask: Ask, wanted: Filter, limit: int | None = None
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Yield the jobs that are *wanted*, newest first, page by page; no page is empty."""
    before_seq: int | None = None
    left = sys.maxsize if limit is None else limit
    while left > 0:
        params = {"filter": wanted.text, "limit": min(PAGE, left), "before_seq": before_seq}
        answer = await ask("jobs", params)
        if answer["jobs"]:
            yield answer["jobs"]
        left -= len(answer["jobs"])
        before_seq = answer["before_seq"]
        if before_seq is None:
            break


class Piece(NamedTuple):
    """What one piece of a command came to."""

    jobs: list[tuple[str, str]]
    """The ids of the jobs that were looked after; of retried ones with the new id."""
    skipped: int
    """How many were not: somebody else was quicker, or they are forgotten by now."""


async def retry(
    ask: Ask,
    job_id: bytes,
    payload: bytes | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Submit an ended job again, with other arguments if *payload* is given, and what its task says
    of these (`Task.facts_of`) in *facts*; return the new id.

    Raises:
        UnknownJob: the plane does not know it; a `ResultForgotten` if its arguments are gone.
        JobNotDead: it has not ended, has a result, or was retried with other arguments.
        SubmissionRefused: the plane takes no new jobs.
    """
    params: dict[str, Any] = {"ids": [job_id], **(facts or {})}
    if payload is not None:
        params["payload"] = payload
    (answer,) = (await ask("retry", params))["jobs"]
    if "why" in answer:
        raise _not_retried(id_to_text(job_id), answer["why"], answer)
    new_id: str = answer["retried_as"]
    return new_id


async def retry_all(
    ask: Ask, wanted: Filter, rate: float | None = None
) -> AsyncGenerator[Piece, None]:
    """Submit again the dead jobs that are *wanted*, so many a second from now on.

    Raises:
        SubmissionRefused: the plane takes no new jobs; what was yielded before is done.
    """
    done = 0
    async for page in pages(ask, dead_ones(wanted)):
        params: dict[str, Any] = {"ids": [id_from_text(job["id"]) for job in page]}
        if rate is not None:
            params |= {"rate": rate, "after_s": done / rate}
        answers = (await ask("retry", params))["jobs"]
        told = list(zip(page, answers, strict=True))
        piece = [(job["id"], answer["retried_as"]) for job, answer in told if "why" not in answer]
        done += len(piece)
        yield Piece(piece, len(page) - len(piece))
        for answer in answers:
            if answer.get("why") in _REFUSALS:
                raise SubmissionRefused(answer["why"], _REFUSALS[answer["why"]])


async def discard(ask: Ask, job_id: bytes) -> None:
    """Take a job out of the set of dead ones.

    Raises:
        UnknownJob: the plane does not know it; a `ResultForgotten` if it is forgotten anyway.
        JobNotDead: it is not one of them.
    """
    (word,) = (await ask("discard", {"ids": [job_id]}))["jobs"]
    text = id_to_text(job_id)
    if word in _ERRORS:
        raise _ERRORS[word](text)
    if word != "discarded":
        raise JobNotDead(text, "it is not one of the dead jobs")


async def discard_all(ask: Ask, wanted: Filter) -> AsyncGenerator[Piece, None]:
    """Take the dead jobs that are *wanted* out of the set."""
    async for page in pages(ask, dead_ones(wanted)):
        words: Sequence[str] = (
            await ask("discard", {"ids": [id_from_text(job["id"]) for job in page]})
        )["jobs"]
        told = zip(page, words, strict=True)
        piece = [(job["id"], "") for job, word in told if word == "discarded"]
        yield Piece(piece, len(page) - len(piece))


_ERRORS: Mapping[str, type[UnknownJob]] = {"unknown": UnknownJob, "forgotten": ResultForgotten}

_DAMAGED = "what it was submitted with cannot be read any more: submit it anew, or discard it"

_REFUSALS = {
    "store-full": "the plane's store takes no new jobs: nothing of it was lost, try again later",
    "stopping": "the plane is stopping: try again when it is back",
    "bad-key": "its task computes a key in code, which other arguments need: give the task object "
    "with them, as in client.retry(job, args=[5], task=resize)",
    "lanes": "the plane has as many lanes in use as it may: try again when queues are empty",
}

_NOT_DEAD = {
    "unfinished": "it has not ended",
    "succeeded": "it has a result: submit it again if it is to run again",
}


def _not_retried(job_id: str, why: str, answer: Mapping[str, Any]) -> Exception:
    if why in _ERRORS:
        return _ERRORS[why](job_id)
    if why == "retried":
        return JobNotDead(job_id, f"it was retried with other arguments, as {answer['retried_as']}")
    if why == "damaged":
        return SubmissionRefused(why, _DAMAGED)
    if why in _NOT_DEAD:
        return JobNotDead(job_id, _NOT_DEAD[why])
    return SubmissionRefused(why, _REFUSALS.get(why, f"the plane refuses: {why}"))
