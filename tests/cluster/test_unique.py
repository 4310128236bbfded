"""Unique jobs, from a client's call to the body: which submissions are one, and what becomes of
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.lowlevel
from tests.cluster.test_windows import DiskLike

from creche import (
    Client,
    Debounce,
    DuplicateJob,
    InvalidArguments,
    JobCancelled,
    JobFailed,
    JobState,
    Refused,
    ResultForgotten,
    SubmissionRefused,
    Throttle,
    Unique,
    current_job,
)
from creche.engine.settings import PlaneSettings
from creche.store.base import Retention
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.schedules import Schedule
from creche.tasks.task import Task, task
from creche.testing.cluster import open_cluster

pytestmark = [
    pytest.mark.trio,
    pytest.mark.parametrize("make_store", [MemoryStore, DiskLike], ids=["memory", "disk"]),
]

began: list[tuple[float, Any]] = []
ended: list[Any] = []
gate = trio.Event()


@pytest.fixture(autouse=True)
def _as_it_was() -> None:
    global gate
    began.clear()
    ended.clear()
    gate = trio.Event()


def work(**options: Any) -> Task[..., Any]:
    """Return a task that runs until the gate is opened."""

    async def run(what: Any = None, other: Any = None) -> Any:
        began.append((trio.current_time(), what))
        await gate.wait()
        ended.append(what)
        return what

    return task("work", registry=Registry(), **options)(run)


async def states(client: Client, *jobs: Any) -> list[str]:
    return [(await job.status()).word for job in jobs]


async def test_while_a_job_waits_or_runs_a_further_submission_is_that_job(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=True)
    store = make_store()
    async with open_cluster(workers=0, make_store=lambda: store) as cluster, cluster.client() as c:
        waiting = await c.submit(one, 7)
        again = await c.submit(one, 7)
        other = await c.submit(one, 8)
        assert (again.id, again.is_existing) == (waiting.id, True)
        assert (other.is_existing, waiting.is_existing) == (False, False)
        assert other.id != waiting.id
        await cluster.add_worker(tasks=[one])
        await trio.sleep(1)
        running = await c.submit(one, 7)
        assert running.id == waiting.id
        gate.set()
        assert [await job.result() for job in (waiting, again, running, other)] == [7, 7, 7, 8]
        assert len(began) == 2
        after = await c.submit(one, 7)
        assert after.id != waiting.id
        assert await after.result() == 7


async def test_many_at_once_are_one(autojump_clock: object, make_store: Callable[[], Any]) -> None:
    one = work(unique="what")
    async with (
        open_cluster([one], make_store=make_store) as cluster,
        cluster.client(name="a") as a,
        cluster.client(name="b") as b,
    ):
        handles: list[Any] = []

        async def submit(client: Client, what: int) -> None:
            handles.append(await client.submit(one, what, other=len(handles)))

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(submit, (a, b)[number % 2], number % 3)
        many = await a.submit_many(one, [(number % 3, number) for number in range(3000)])
        assert len({handle.id for handle in [*handles, *many]}) == 3
        assert sum(not handle.is_existing for handle in handles) == 3
        gate.set()
        assert [await handle.result() for handle in many] == [n % 3 for n in range(3000)]
        assert len(began) == 3


async def test_a_task_may_refuse_what_is_there_already(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=Unique("what", on_duplicate="reject"))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one, 7)
        with pytest.raises(DuplicateJob, match=f"'work' is unique, and job {first.id}") as caught:
            await client.submit(one, 7, other=1)
        assert (caught.value.job_id, caught.value.code) == (first.id, "duplicate")
        with pytest.raises(SubmissionRefused, match="this one was not stored") as caught_of_many:
            await client.submit_many(one, [(8,), (7,), (9,)])
        assert caught_of_many.value.__notes__ == ["of 3 calls the others may have been stored"]
        gate.set()
        await first.result()
        await trio.sleep(1)
        assert {what for _, what in began} == {7, 8, 9}
        assert not (await client.submit(one, 7)).is_existing


async def test_what_waits_is_replaced_and_what_runs_goes_on(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=Unique((), on_duplicate="replace"))
    async with (
        open_cluster([one], concurrency=1, make_store=make_store) as cluster,
        cluster.client() as client,
    ):
        running = await client.submit(one, 1)
        await trio.sleep(1)
        second = await client.submit(one, 2)
        third = await client.submit(one, 3)
        with pytest.raises(JobCancelled, match=f"replaced by job {third.id}"):
            await second.result()
        assert await states(client, running, second, third) == ["running", "cancelled", "queued"]
        gate.set()
        assert [await running.result(), await third.result()] == [1, 3]
        assert ended == [1, 3]


async def test_what_runs_is_cancelled_where_the_task_says_so(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=Unique((), on_duplicate="cancel"))
    async with (
        open_cluster([one], concurrency=1, make_store=make_store) as cluster,
        cluster.client() as client,
    ):
        running = await client.submit(one, 1)
        await trio.sleep(1)
        second = await client.submit(one, 2)
        third = await client.submit(one, 3)
        for replaced, by in ((running, second), (second, third)):
            with pytest.raises(JobCancelled, match=f"replaced by job {by.id}"):
                await replaced.result()
        gate.set()
        assert await third.result() == 3
        assert ended == [3]


async def test_of_many_that_replace_each_other_at_once_the_last_one_runs(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=Unique((), on_duplicate="replace"))
    settings = PlaneSettings(window=20)
    async with (
        open_cluster(workers=0, settings=settings, make_store=make_store) as cluster,
        cluster.client() as client,
    ):
        for _ in range(2):
            jobs = await client.submit_many(one, [(number,) for number in range(500)])
        await trio.sleep(1)
        counts = (await client.ask("health"))["jobs"]
        assert counts == {"parked": 1, "cancelled": 999}
        await cluster.add_worker(tasks=[one])
        gate.set()
        assert await jobs[-1].result() == 499
        assert ended == [499]


async def test_what_is_stored_beyond_the_window_is_replaced_too(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=Unique("what", on_duplicate="replace"))
    settings = PlaneSettings(window=5)
    async with (
        open_cluster(workers=0, settings=settings, make_store=make_store) as cluster,
        cluster.client() as client,
    ):
        count = 5 if make_store is MemoryStore else 400
        first = await client.submit_many(one, [(number, "old") for number in range(count)])
        if make_store is DiskLike:
            second = await client.submit_many(one, [(number, "new") for number in range(count)])
            # At once: what was replaced is not to begin while it is looked up to be cancelled.
            await cluster.add_worker(tasks=[one])
            gate.set()
            assert [await job.result() for job in second] == list(range(count))
            assert await states(client, *first) == ["cancelled"] * count
        else:
            await cluster.add_worker(tasks=[one])
            gate.set()
            assert [await job.result() for job in first] == list(range(count))
        assert sorted(ended) == list(range(count))


async def test_for_a_period_one_job_is_enough_unless_it_failed(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    is_broken = True

    async def fetch(host: str) -> str:
        if is_broken:
            raise ConnectionError(host)
        return host

    one = task("fetch", registry=Registry(), unique=Unique("host", period=3600))(fetch)
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        failed = await client.submit(one, "a")
        with pytest.raises(JobFailed):
            await failed.result()
        is_broken = False
        first = await client.submit(one, "a")
        assert first.id != failed.id
        assert await first.result() == "a"
        await trio.sleep(3590)
        second = await client.submit(one, "a")
        assert second.id == first.id
        assert await second.result() == "a"
        await trio.sleep(11)
        assert (await client.submit(one, "a")).id != first.id


async def test_a_throttled_task_runs_once_in_a_while_whatever_became_of_it(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(throttle=Throttle(60, by="what"))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one, 7)
        await first.cancel()
        await trio.sleep(59)
        assert (await client.submit(one, 7)).id == first.id
        assert (await client.submit(one, 8)).id != first.id
        await trio.sleep(2)
        assert (await client.submit(one, 7)).id != first.id


async def test_a_debounced_task_runs_once_it_has_been_quiet(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    gate.set()
    one = work(debounce=Debounce(5, by=()))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        started_at = trio.current_time()
        jobs = []
        for number in range(10):
            jobs.append(await client.submit(one, number))
            await trio.sleep(3)
        assert await jobs[-1].result() == 9
        assert [(round(at - started_at), what) for at, what in began] == [(32, 9)]
        assert await states(client, *jobs) == ["cancelled"] * 9 + ["succeeded"]
        # The next one begins anew.
        later = await client.submit(one, 10)
        assert await later.result() == 10
        assert round(began[-1][0] - started_at) == 37


async def test_a_row_of_submissions_puts_a_job_off_for_a_while_only(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    gate.set()
    one = work(debounce=Debounce(5, by=(), most=20))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        started_at = trio.current_time()
        for number in range(20):
            await client.submit(one, number)
            await trio.sleep(3)
        await trio.sleep(10)
        at = [(round(at - started_at), what) for at, what in began]
        assert at == [(20, 6), (41, 13), (62, 19)]


async def test_one_idempotency_key_is_one_job_and_one_result(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    gate.set()
    plain = work()
    store = make_store()
    async with open_cluster([plain], make_store=lambda: store) as cluster:
        async with cluster.client() as client:
            order = plain.with_options(idempotency_key="order 17")
            first = await client.submit(order, 1)
            assert await first.result() == 1
            assert await (await client.submit(order, 2)).result() == 1
            sent = await client.send("work", (3,), idempotency_key="order 17")
            assert (sent.id, sent.is_existing) == (first.id, True)
            assert (await client.submit(plain, 4)).id != first.id
            other = await client.submit(plain.with_options(idempotency_key="order 18"), 5)
            assert other.id != first.id
            nobody = await client.send("nobody's", (3,), idempotency_key="order 17")
            assert nobody.id != first.id
        await cluster.kill_plane()
        await cluster.start_plane()
        async with cluster.client() as client:
            again = await client.submit(order, 9)
            assert (again.id, await again.result()) == (first.id, 1)


async def test_an_idempotency_key_is_kept_by_whichever_job_its_submission_is_one_with(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique="what")
    store = make_store()
    async with open_cluster([one], make_store=lambda: store) as cluster:
        async with cluster.client() as client:
            others = await client.submit(one, 7)
            order = one.with_options(idempotency_key="order 17")
            mine = await client.submit(order, 7)
            assert mine.id == others.id
            again = [(await client.submit(order, what)).id for what in (7, 8)]
            assert again == [others.id] * 2
            gate.set()
            await others.result()
            assert (await client.submit(order, 7)).id == others.id
        await cluster.kill_plane()
        await cluster.start_plane()
        async with cluster.client() as client:
            assert (await client.submit(order, 7)).id == others.id
            assert (await client.submit(one, 7)).id != others.id
            # And of very many at once, of which none is on disk when they come.
            keys = [one.with_options(idempotency_key=f"order {n % 5}") for n in range(100)]
            gate_was, before = gate, len(began)
            handles: list[Any] = []

            async def submit(n: int) -> None:
                handles.append((n % 5, await client.submit(keys[n], "many")))

            async with trio.open_nursery() as nursery:
                for n in range(100):
                    nursery.start_soon(submit, n)
            assert gate is gate_was
            await trio.sleep(5)
            for n in range(5):
                ids = {handle.id for m, handle in handles if m == n}
                assert {(await client.submit(keys[n], "many")).id} == ids
            assert len(began) - before <= 5


async def test_an_idempotency_key_outlives_the_result(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    gate.set()
    plain = work()
    settings = PlaneSettings(retention=Retention(None, None, 10.0, tombstone_s=100.0))
    async with (
        open_cluster([plain], settings=settings, make_store=make_store) as cluster,
        cluster.client() as client,
    ):
        order = plain.with_options(idempotency_key="order 17")
        with pytest.raises(InvalidArguments, match="one idempotency key is one job"):
            await client.submit_many(order, [(1,), (2,)])
        with pytest.raises(InvalidArguments, match="a schedule has its own rule"):
            await client.create_schedule("x", order, Schedule(every=60))
        first = await client.submit(order, 1)
        await first.result()
        await trio.sleep(70)
        again = await client.submit(order, 1)
        assert again.id == first.id
        with pytest.raises(ResultForgotten):
            await again.result()
        await trio.sleep(140)
        assert (await client.submit(order, 1)).id != first.id


async def test_a_submission_by_name_is_unique_as_its_task_says(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=("what.id", "other"))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one, {"id": 1, "at": 5}, other=2)
        same = await client.delay("work", {"at": 6, "id": 1}, 2)
        assert same.id == first.id
        default = await client.delay("work", {"id": 1})
        assert default.id != first.id
        assert (await client.submit(one, {"id": 1}, None)).id == default.id
        with pytest.raises(SubmissionRefused, match="looks into no more than 65,536 bytes"):
            await client.delay("work", {"id": 1, "text": "x" * 70_000})
        big = {"id": 1, "text": "x" * 70_000}
        assert (await client.submit(one, big, other=2)).id == first.id


async def test_a_call_that_has_nothing_where_its_key_should_be_is_a_job_of_its_own(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    """Of three orders, none may be lost for having no customer."""
    one = work(unique="what.customer.id")
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        jobs = [
            await client.submit(one, {"sku": "apple"}),
            await client.submit(one, {"sku": "pear", "customer": 5}),
            await client.delay("work", {"sku": "plum"}),
            await client.send("work", [{"sku": "fig"}]),
            *await client.submit_many("work", [({"sku": "nut"},)]),
        ]
        assert len(set(jobs)) == 5
        assert not any(job.is_existing for job in jobs)
        named = await client.submit(one, {"customer": {"id": None}})
        assert (await client.delay("work", {"customer": {"id": None}})).id == named.id


async def test_a_key_of_code_needs_the_task(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=lambda what, other=None: what // 10)
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one, 71)
        assert (await client.submit(one, 79)).id == first.id
        assert (await client.submit(one, 80)).id != first.id
        with pytest.raises(SubmissionRefused, match="computes its unique key in code"):
            await client.delay("work", 71)
        with pytest.raises(InvalidArguments, match="its unique key cannot be told: TypeError"):
            await client.submit(one, "a")


async def test_a_schedule_of_a_task_with_a_key_of_code_is_refused_and_does_not_run_without_one(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=lambda what, other=None: what // 10)
    rule = Schedule(every=60, args=(71,))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        with pytest.raises(Refused, match=r"computes its unique key in code.*name parameters"):
            await client.create_schedule("by name", "work", rule)
        for view in (one, one.with_options(priority="high"), work(limit=1, key=lambda what: what)):
            with pytest.raises(InvalidArguments, match=r"computes a key in code.*name parameters"):
                await client.create_schedule("by task", view, rule)
        assert await client.schedules() == []


async def test_a_view_can_say_otherwise(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=True)
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one, 7)
        beside = await client.submit(one.with_options(unique=False), 7)
        assert beside.id != first.id
        refusing = one.with_options(unique=Unique(on_duplicate="reject"))
        with pytest.raises(DuplicateJob):
            await client.submit(refusing, 7)
        assert not (await client.submit(work().with_options(unique="what"), 9)).is_existing
        assert (await client.submit(one, 9)).is_existing is False
        gate.set()


async def test_a_job_that_is_being_cancelled_is_no_obstacle(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await gate.wait()

    one = task("stubborn", registry=Registry(), unique=True)(stubborn)
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one)
        await trio.sleep(1)
        assert await first.cancel() is JobState.CANCELLING
        second = await client.submit(one)
        assert second.id != first.id
        assert (await client.submit(one)).id == second.id
        gate.set()


async def test_a_retry_that_waits_counts(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    async def fail() -> None:
        began.append((trio.current_time(), None))
        raise ConnectionError

    one = task("fail", registry=Registry(), unique=True, retries=3, backoff=60)(fail)
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one)
        await trio.sleep(10)
        assert (await first.status()) is JobState.DELAYED
        assert (await client.submit(one)).id == first.id
        with pytest.raises(JobFailed):
            await first.result()
        assert len(began) == 4


async def test_what_a_schedule_or_a_retry_of_the_dead_submits_has_its_key(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique="what", schedule=Schedule(every=100, args=[7]))
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        await trio.sleep(101)
        (row,) = await client.jobs("state:running")
        met = await client.submit(one, 7)
        assert met.id == row["id"]
        await met.cancel()
        await trio.sleep(1)
        retried = await client.retry(met)
        assert (await client.submit(one, 7)).id == retried.id
        gate.set()


async def test_what_is_retried_at_a_rate_has_its_keys_though_its_task_waits_to_be_quiet(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    async def fail(what: int) -> None:
        raise ValueError(what)

    quiet = task("quiet", registry=Registry(), debounce=Debounce(5, by=()))(fail)
    said = quiet.with_options(idempotency_key="K")
    async with open_cluster([quiet], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(said, 7)
        await trio.sleep(10)
        assert await client.retry_dead(rate=1.0) == 1
        await trio.sleep(10)
        met = await client.submit(said, 7)
        retried, dead = await client.jobs("task:quiet")
        assert (met.id, first.id) == (retried["id"], dead["id"])


async def test_a_job_that_is_retried_with_other_arguments_has_their_key(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=lambda what, other=None: what // 10)
    async with open_cluster([one], make_store=make_store) as cluster, cluster.client() as client:
        first = await client.submit(one, 71)
        await first.cancel()
        await trio.sleep(1)
        retried = await client.retry(first, args=[85], task=one)
        assert (await client.submit(one, 87)).id == retried.id
        assert (await client.submit(one, 71)).id not in (first.id, retried.id)
        gate.set()
        assert await retried.result() == 85


async def test_a_running_job_may_submit_what_is_unique(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=True)

    async def parent() -> list[Any]:
        jobs = [await current_job().client.submit(one, 7) for _ in range(3)]
        gate.set()
        return [(job.id, await job.result()) for job in jobs]

    outer = task("outer", registry=Registry())(parent)
    async with (
        open_cluster([one, outer], concurrency=2, make_store=make_store) as cluster,
        cluster.client() as client,
    ):
        found = await (await client.submit(outer)).result()
        assert len({job_id for job_id, _ in found}) == 1
        assert [value for _, value in found] == [7, 7, 7]
        assert len(began) == 1


async def test_a_running_job_never_waits_for_room(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    """Not for that of somebody else's submission that it is one with either."""
    one = work(unique="what")

    async def parent() -> Any:
        return await (await current_job().client.submit(one, 7)).result()

    outer = task("outer", registry=Registry())(parent)
    settings = PlaneSettings(window=1)
    async with (
        open_cluster(workers=0, settings=settings, make_store=make_store) as cluster,
        cluster.client() as client,
        trio.open_nursery() as nursery,
    ):
        job = await client.submit(outer)
        await cluster.add_worker(tasks=[one, outer], concurrency=1)
        gate.set()
        await trio.lowlevel.checkpoint()
        for what in (1, 7):
            nursery.start_soon(client.submit, one, what)
        assert await job.result(20) == 7


async def test_keys_hold_over_a_restart_of_the_plane(
    autojump_clock: object, make_store: Callable[[], Any]
) -> None:
    one = work(unique=True)
    store = make_store()
    async with open_cluster([one], workers=0, make_store=lambda: store) as cluster:
        async with cluster.client() as client:
            first = await client.submit(one, 7)
        await cluster.kill_plane()
        await cluster.start_plane()
        async with cluster.client() as client:
            assert (await client.submit(one, 7)).id == first.id
            await cluster.add_worker(tasks=[one])
            gate.set()
            assert await client.job(first.id).result() == 7
            assert ended == [7]
