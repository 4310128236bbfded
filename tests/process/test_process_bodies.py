"""Bodies in real processes: what they come to, how they are stopped, and what they leave behind."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.client.real_plane import real_plane
from tests.process import process_tasks as tasks
from tests.process.test_worker_process import is_alive
from tests.unit.worker.scripted import eventually

from creche import Client, JobCancelled, JobExpired, JobFailed, JobState
from creche.testing.cluster import Cluster, open_cluster, wall_clock
from creche.worker.settings import WorkerSettings

pytestmark = pytest.mark.trio


@asynccontextmanager
async def a_cluster(concurrency: int = 1, **settings: Any) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster with one worker, that is given fields of `WorkerSettings`."""
    with trio.fail_after(120):
        async with open_cluster(tasks.registry, workers=0) as cluster, cluster.client() as client:
            made = WorkerSettings(**settings)
            await cluster.add_worker(concurrency=concurrency, worker_settings=made)
            yield cluster, client


async def value_of(client: Client, task: Any, *args: Any) -> Any:
    return await (await client.submit(task, *args)).result()


async def failure_of(client: Client, task: Any, *args: Any) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await value_of(client, task, *args)
    return caught.value


async def written(where: Path) -> int:
    """Wait until a body has written its process id."""
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [where.read_text()] if where.exists() else []
        return bool(found and found[0])

    await eventually(is_there)
    return int(found[0])


async def test_arguments_results_and_failures_are_those_of_any_task() -> None:
    async with a_cluster(2) as (_, client):
        value = {"a": [1, None, b"x"], "b": {2, 3}}
        assert await value_of(client, tasks.echo, value) == value
        assert await value_of(client, tasks.echo, b"x" * 3_000_000) == b"x" * 3_000_000
        failure = await failure_of(client, tasks.raises, "nothing here")
        assert (failure.type, failure.message) == ("LookupError", "nothing here")
        assert "in raises" in failure.traceback
        assert "process_child" not in failure.traceback
        assert (await failure_of(client, tasks.raises, "exit")).type == "SystemExit"
        assert "cannot be sent" in (await failure_of(client, tasks.raises, "unsendable")).message
        with pytest.raises(JobFailed, match="InvalidArguments"):
            await (await client.delay("raises", 1, 2, 3)).result()


async def test_a_process_is_kept_for_the_next_job_and_is_not_the_workers() -> None:
    async with a_cluster() as (_, client):
        pids = {await value_of(client, tasks.pid) for _ in range(5)}
        assert len(pids) == 1
        assert os.getpid() not in pids


async def test_as_many_bodies_run_at_a_time_as_there_are_slots(tmp_path: Path) -> None:
    async with a_cluster(3) as (_, client):
        jobs = [await client.submit(tasks.sleeps, str(tmp_path / str(n))) for n in range(3)]
        pids = {await written(tmp_path / str(n)) for n in range(3)}
        assert len(pids) == 3
        for job in jobs:
            await job.cancel()


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGKILL", "exit code 3"])
async def test_a_process_that_dies_fails_its_job_alone_and_says_of_what(
    how: str, tmp_path: Path
) -> None:
    async with a_cluster(2) as (_, client):
        beside = await client.submit(tasks.sleeps, str(tmp_path / "beside"))
        other = await written(tmp_path / "beside")
        failure = await failure_of(client, tasks.dies, how)
        assert failure.type == "creche.errors.ProcessDied"
        assert how in failure.message
        assert is_alive(other)
        assert await value_of(client, tasks.echo, 1) == 1
        await beside.cancel()


async def test_a_job_whose_process_died_is_tried_again(tmp_path: Path) -> None:
    async with a_cluster() as (_, client):
        assert await value_of(client, tasks.dies_twice, str(tmp_path / "tries")) == 3
        assert await value_of(client, tasks.asks_for_more) == 3


async def test_what_a_dead_body_has_left_behind_neither_holds_its_slot_nor_lives_on(
    tmp_path: Path,
) -> None:
    async with a_cluster() as (_, client):
        assert "exit code 5" in str(
            await failure_of(client, tasks.leaves_a_child, str(tmp_path / "pid"))
        )
        left = int((tmp_path / "pid").read_text())
        await eventually(lambda: not is_alive(left))
        assert await value_of(client, tasks.echo, 1) == 1


@pytest.mark.slow
async def test_a_body_in_c_code_is_killed_at_its_limit_and_the_next_job_runs() -> None:
    async with a_cluster() as (_, client):
        for n in range(5):
            failure = await failure_of(client, tasks.spin_in_c)
            assert failure.type == "creche.errors.JobTimedOut"
            assert failure.__notes__ == ["its process was killed, as its body did not leave"]
            assert await value_of(client, tasks.echo, n) == n


async def test_a_body_at_its_limit_may_tidy_up_for_a_moment(tmp_path: Path) -> None:
    async with a_cluster(notice_s=60) as (_, client):
        first = await value_of(client, tasks.pid)
        failure = await failure_of(client, tasks.tidies_in_time, str(tmp_path / "tidy"))
        assert failure.type == "creche.errors.JobTimedOut"
        assert "as long as it may" in str(failure)
        assert (tmp_path / "tidy").read_text() == "tidied up"
        assert await value_of(client, tasks.pid) == first


@pytest.mark.slow
async def test_a_body_at_its_jobs_deadline_is_told_that_it_was_the_deadline(tmp_path: Path) -> None:
    async with a_cluster(notice_s=60) as (_, client):
        failure: JobExpired | JobFailed | None = None
        for seconds in (1, 4, 16, 64):  # on a busy machine the first may pass before it has begun
            by = datetime.fromtimestamp(wall_clock(), UTC) + timedelta(seconds=seconds)
            hurried = tasks.tidies_in_time.with_options(deadline=by, timeout=1000)
            try:
                await value_of(client, hurried, str(tmp_path / "tidy"))
            except (JobExpired, JobFailed) as error:
                failure = error
            if isinstance(failure, JobFailed):
                break
        assert "until the job's deadline" in str(failure)


async def test_cancelling_comes_out_of_the_body_which_tidies_up_and_keeps_its_process(
    tmp_path: Path,
) -> None:
    async with a_cluster(kill_after_s=60) as (_, client):
        job = await client.submit(tasks.sleeps, str(tmp_path / "pid"))
        process = await written(tmp_path / "pid")
        assert await job.cancel("enough") is JobState.CANCELLING
        with pytest.raises(JobCancelled, match="enough") as caught:
            await job.result()
        assert caught.value.__notes__ == ["its process was interrupted, and its body left"]
        assert (tmp_path / "pid.tidy").read_text() == "tidied up"
        assert await value_of(client, tasks.pid) == process


async def test_a_body_that_catches_the_interruption_and_returns_is_cancelled(
    tmp_path: Path,
) -> None:
    async with a_cluster(kill_after_s=60) as (_, client):
        job = await client.submit(tasks.catches, str(tmp_path / "pid"))
        await written(tmp_path / "pid")
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()


@pytest.mark.parametrize("task", [tasks.ignores, tasks.spin_for_ever])
async def test_a_body_that_ignores_cancelling_is_killed_and_its_slot_is_free_then(
    task: Any, tmp_path: Path
) -> None:
    async with a_cluster(kill_after_s=0.2) as (_, client):
        job = await client.submit(task, str(tmp_path / "pid"))
        process = await written(tmp_path / "pid")
        await job.cancel("enough")
        with pytest.raises(JobCancelled, match="enough") as caught:
            await job.result()
        assert caught.value.__notes__ == ["its process was killed, as its body did not leave"]
        assert not is_alive(process)
        assert await value_of(client, tasks.echo, 1) == 1


async def test_stopping_one_never_hits_the_next_on_its_process() -> None:
    async with a_cluster() as (_, client):
        for n in range(30):
            job = await client.submit(tasks.echo, n)
            await job.cancel()
            assert await value_of(client, tasks.echo, n) == n


async def test_a_process_is_replaced_after_so_many_jobs() -> None:
    async with a_cluster(max_jobs_per_process=3) as (_, client):
        pids = [await value_of(client, tasks.pid) for _ in range(7)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


async def test_a_process_is_replaced_when_it_holds_too_much_memory() -> None:
    async with a_cluster(max_memory_per_process_bytes=400 * 1024**2) as (_, client):
        first = await value_of(client, tasks.holds, 1)
        assert await value_of(client, tasks.holds, 400) == first
        second = await value_of(client, tasks.holds, 1)
        assert second != first
        await eventually(lambda: not is_alive(first))
        assert await value_of(client, tasks.holds, 1) == second


@pytest.mark.slow
async def test_a_used_up_process_that_does_not_end_is_killed() -> None:
    async with a_cluster(max_jobs_per_process=1, leave_lifespans_s=0.0) as (_, client):
        await value_of(client, tasks.leaves_a_thread)
        assert await value_of(client, tasks.echo, 1) == 1


async def test_the_body_knows_its_job() -> None:
    async with a_cluster() as (_, client):
        job = await client.submit(tasks.about_the_job)
        assert await job.result() == [str(job), "about_the_job", 1, "worker", False, False]
        failure = await failure_of(client, tasks.uses_the_worker)
        assert "use `with BlockingClient() as client`" in failure.message


async def test_a_body_that_forks_is_no_second_answer() -> None:
    async with a_cluster() as (_, client):
        assert await value_of(client, tasks.forks) == 0
        assert await value_of(client, tasks.echo, 1) == 1


async def test_jobs_that_wait_for_their_own_jobs_lend_their_slots() -> None:
    with real_plane(tasks.registry, concurrency=1) as plane, trio.fail_after(120):
        async with Client(plane.url) as client:
            assert await value_of(client, tasks.recurse, plane.url, 3) == 3


async def test_a_worker_that_leaves_waits_for_them_and_then_interrupts_them(
    tmp_path: Path,
) -> None:
    with trio.fail_after(120):
        async with open_cluster(tasks.registry, workers=0) as cluster, cluster.client() as client:
            worker = await cluster.add_worker("leaving", concurrency=2)
            job = await client.submit(tasks.sleeps, str(tmp_path / "pid"))
            process = await written(tmp_path / "pid")
            assert await value_of(client, tasks.echo, 1) == 1
            worker.begin_drain("enough")
            assert is_alive(process)
            worker.begin_drain("at once")
            await worker.has_left.wait()
            assert (tmp_path / "pid.tidy").read_text() == "tidied up"
            await eventually(lambda: not is_alive(process))
            assert not (await job.status()).has_ended


async def test_a_plane_that_is_gone_for_a_while_disturbs_no_body(tmp_path: Path) -> None:
    async with a_cluster() as (cluster, client):
        job = await client.submit(tasks.sleeps, str(tmp_path / "pid"))
        process = await written(tmp_path / "pid")
        cluster.listener.cut_all()
        assert await job.status() is JobState.RUNNING
        assert is_alive(process)
        await job.cancel()


async def test_modules_that_a_process_cannot_import_fail_the_job_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.path", [])
    async with a_cluster() as (_, client):
        failure = await failure_of(client, tasks.echo, 1)
        assert failure.type == "creche.errors.TaskLoadError"
        assert "tests" in failure.message
        monkeypatch.undo()
        assert await value_of(client, tasks.echo, 1) == 1


async def test_the_signal_that_stops_a_service_is_the_workers_affair(tmp_path: Path) -> None:
    async with a_cluster() as (_, client):
        job = await client.submit(tasks.sleeps, str(tmp_path / "pid"))
        process = await written(tmp_path / "pid")
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGINT)
        await client.ask("job", {"id": job.id_bytes})
        assert await job.status() is JobState.RUNNING
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()


async def test_each_process_enters_the_lifespans_and_leaves_them(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with a_cluster() as (_, client):
        answers = [await value_of(client, tasks.asks_the_model, n) for n in ("a", "b")]
        assert [answer[:2] for answer in answers] == [["a", True], ["b", True]]
        assert answers[0][2] == answers[1][2]
        assert await value_of(client, tasks.asks_in_a_thread)
        assert "put away" not in capfd.readouterr().out
    # Once by the process, and once by the worker.
    assert capfd.readouterr().out.count("the model was put away") == 2


async def test_hooks_are_called_in_the_process_or_by_the_worker_if_that_is_gone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with a_cluster() as (_, client):
        assert await value_of(client, tasks.has_hooks, "work") == "work"
        assert "JobTimedOut" in (await failure_of(client, tasks.has_hooks, "spin")).type
        assert "ProcessDied" in (await failure_of(client, tasks.has_hooks, "die")).type
        assert await value_of(client, tasks.echo, 1) == 1
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("hook")]
    assert said == [
        *["hook before has_hooks", "hook after has_hooks work"],
        *["hook before has_hooks", "hook on_error has_hooks JobTimedOut"],
        *["hook before has_hooks", "hook on_error has_hooks ProcessDied"],
    ]
