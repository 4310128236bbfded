"""What a filter means to SQLite is what it means to `Filter.matches`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from creche.model.filter import Filter, Term
from creche.model.job import Fate, JobState
from creche.model.priority import Priority
from creche.store.base import Batch, JobRecord, LaneRow, Verdict
from creche.store.filters import ended_with
from creche.store.sqlite import SqliteStore
from creche.store.sqlite_file import open_to_read
from creche.store.sqlite_history import History
from creche.testing.store_rows import KEEP_NONE, NOW, change, end, job_id, new_job
from creche.wire.payload import encode_value

JOBS = 60
ENDED = [s for s in JobState if s.has_ended and s is not JobState.FORGOTTEN]
TASKS = ("mail.send", "mail.[x]", "Mail.send", "größe", "resize")
HOLDERS = ("box/1/aa", "box//bb", "w1", "größe/cc", None)
MESSAGES = ("No route", "größe STRASSE", 'in "quotes"', "a\0b", "")


def outcome(n: int) -> bytes | None:
    if n % 7 == 0:
        return (None, b"\xff", b"")[n % 3]
    return encode_value({"type": "builtins.OSError", "message": MESSAGES[n % 5]})


async def fill(path: Path) -> list[tuple[JobRecord, str]]:
    """Make a store of jobs of all kinds; return each with what it ended with."""
    store = SqliteStore(path)
    await store.open(NOW)
    lanes = [
        LaneRow(1, "mail", 0, ""),
        LaneRow(2, "mail.[x]", 3, "paused"),
        LaneRow(3, None, None, ""),
    ]
    seqs = range(1, JOBS + 1)
    ends = [
        end(
            n,
            state=ENDED[n % len(ENDED)],
            attempt=n % 4,
            losses=n % 3,
            holder=HOLDERS[n % 5],
            started_at=None if n % 6 == 0 else NOW + n / 8,
            outcome=outcome(n),
        )
        for n in seqs
        if n % 5
    ]
    await store.commit(
        Batch(
            lanes=lanes,
            jobs=[new_job(n, task=TASKS[n % 5], lane=n % 5) for n in seqs],
            ends=ends[:8],
        )
    )
    await store.prune(NOW, KEEP_NONE, ())
    await store.commit(
        Batch(
            ends=ends[8:], changes=[change(n, holder=HOLDERS[n % 4]) for n in seqs if n % 10 == 0]
        )
    )
    fates = [Fate.RETRIED, Fate.DISCARDED]
    verdicts = [Verdict(n, fates[n % 2], NOW) for n in seqs if n % 4 == 0]
    await store.commit(Batch(verdicts=verdicts))
    page = await store.jobs(limit=1000)
    whole = [await store.job(record.id) for record in page.records]
    await store.aclose()
    assert len(whole) == JOBS
    return [
        (record, ended_with(one.state, one.outcome))
        for record, one in zip(page.records, whole, strict=True)
        if one is not None
    ]


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[History, list[tuple[JobRecord, str]]]]:
    path = tmp_path_factory.mktemp("filters") / "creche.db"
    jobs = trio.run(fill, path)
    with closing(open_to_read(str(path))) as connection:
        yield History(connection, str(path), 60.0), jobs


def some(*values: str) -> st.SearchStrategy[str]:
    """Values that occur, with parts of them changed into stars and marks, and others."""
    exact = st.sampled_from(values)
    cut = st.tuples(exact, st.integers(0, 6), st.sampled_from("*?[x")).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
    return exact | cut | st.text("*?[]a/", min_size=1, max_size=4)


def spans(
    first: float, last: float, step: float
) -> st.SearchStrategy[tuple[float | None, float | None]]:
    moment = st.integers(0, int((last - first) / step)).map(lambda k: first + k * step)
    return st.tuples(st.none() | moment, st.none() | moment).filter(
        lambda r: r != (None, None) and (None in r or r[0] < r[1])  # type: ignore[operator]
    )


TERMS = {
    "state": st.sampled_from(JobState),
    "priority": st.sampled_from(Priority),
    "fate": st.sampled_from(Fate),
    "task": some(*TASKS),
    "queue": some("mail", "mail.[x]"),
    "worker": some("box/1", "box/", "größe"),
    "id": st.tuples(st.integers(1, JOBS), st.integers(1, 32)).map(
        lambda t: job_id(t[0]).hex()[: t[1]]
    ),
    "error": some("no route", "größe", "oserror: ", '"quotes"', "strasse", "ss"),
    "submitted": spans(NOW, NOW + JOBS, 0.5),
    "started": spans(NOW, NOW + 110, 0.5),
    "ended": spans(NOW + 195, NOW + 265, 0.5),
    "attempt": spans(1, 5, 1),
    "losses": spans(1, 4, 1),
}


def term(key: str) -> st.SearchStrategy[Term]:
    values = st.lists(TERMS[key], min_size=1, max_size=3).map(tuple)
    return st.builds(partial(Term, key), values, st.booleans())


@given(
    st.lists(st.sampled_from(sorted(TERMS)).flatmap(term), min_size=1, max_size=3),
    st.none() | st.integers(1, JOBS + 5),
    st.integers(1, JOBS),
)
def test_sqlite_means_by_a_filter_what_the_predicate_does(
    filled: tuple[History, list[tuple[JobRecord, str]]],
    terms: list[Term],
    before_seq: int | None,
    limit: int,
) -> None:
    history, jobs = filled
    wanted = Filter.parse(Filter(tuple(terms)).text)
    meant = [
        record.seq
        for record, error in jobs
        if (before_seq is None or record.seq < before_seq)
        and wanted.matches(record, lambda error=error: error)  # type: ignore[misc]
    ]
    rows, next_seq = history.jobs(wanted.text, before_seq, limit)
    assert [row[0] for row in rows] == meant[:limit]
    if next_seq is None:
        assert len(meant) <= limit
    else:
        assert next_seq == rows[-1][0]
