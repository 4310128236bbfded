"""`creche submit` and `result` while they wait: they end in time, and say what goes on."""

from __future__ import annotations

import json

import pytest
import trio

from creche import JobState
from creche.cli.exits import Exit
from creche.cli.submit import wait_and_print
from creche.cli.top import look
from creche.store.memory import MemoryStore
from creche.tasks.registry import Registry
from creche.tasks.task import task
from creche.testing.cluster import open_cluster

pytestmark = pytest.mark.trio


@task(registry=Registry())
async def long() -> None:
    await trio.sleep_forever()


@task(retries=3, backoff=60, jitter=0, registry=Registry())
async def flaky() -> None:
    raise ConnectionError("no route\nto there")


async def test_who_looks_on_looks_on_when_the_plane_is_back(autojump_clock):
    store = MemoryStore()
    async with (
        open_cluster([long], make_store=lambda: store) as cluster,
        cluster.client() as client,
    ):
        await client.submit(long)
        views = []

        def draw(seen, _, is_gone) -> None:
            views.append((seen.view["health"]["epoch"], len(seen.running), is_gone))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, client, 2.0, draw)
            await trio.sleep(10)
            assert views[-1] == (1, 1, False)
            await cluster.kill_plane()
            await trio.sleep(120)
            assert views[-1] == (1, 1, True)
            await cluster.start_plane()
            await trio.sleep(30)
            assert views[-1] == (2, 1, False)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("killed_after_s", [0.5, 1.9, 5.0])
async def test_a_wait_ends_when_it_is_to_though_the_plane_is_gone(
    autojump_clock, capsys, killed_after_s
):
    async with open_cluster([long]) as cluster, cluster.client() as client:
        job = await client.submit(long)

        async def kill() -> None:
            await trio.sleep(killed_after_s)
            await cluster.kill_plane()

        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            code = await wait_and_print(client, job, 8.0, as_json=True)
        assert trio.current_time() - began_at == pytest.approx(8.0)
        said = capsys.readouterr()
        assert code == Exit.WAITED_OUT
        assert json.loads(said.out) == {"v": 1, "id": job.id, "state": None}
        assert "not ended after 8 s, as far as is known: the plane is gone" in said.err
        await cluster.start_plane()


async def test_of_a_job_that_waits_for_its_next_attempt_it_is_not_said_that_it_has_not_begun(
    autojump_clock, capsys
):
    async with open_cluster([flaky]) as cluster, cluster.client() as client:
        job = await client.submit(flaky)
        assert await wait_and_print(client, job, 8.0, as_json=False) == Exit.WAITED_OUT
        assert await job.status() is JobState.DELAYED
        said = capsys.readouterr().err
        begun = "has begun, and waits for its next attempt, as the last one came to ConnectionError"
        note, error = said.splitlines()[:2]
        assert note.startswith(f"note: job {job.id} {begun}: no route ...")
        assert begun in error
        assert "has not begun" not in said
