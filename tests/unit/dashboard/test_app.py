"""The page and its stream, asked by Quart's own client, of a plane over memory channels."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.cluster.scripted import House, open_house

from creche.channel.gate import host_name
from creche.dashboard.app import duration, make_app
from creche.dashboard.live import Live, Stream
from creche.wire import messages as m

pytestmark = pytest.mark.trio

HOSTS = {"127.0.0.1", "localhost", "[::1]"}
HOSTILE = "<script>alert('x')</script>\"&\u2028"


class Page:
    """The application on a plane in memory."""

    def __init__(self, house: House, **options: Any) -> None:
        self.house = house
        self.live = Live("memory:plane", dial=lambda: house.listener.dial("page"), **options)
        self.app = make_app(self.live, hosts=HOSTS)

    async def get(self, path: str, **headers: str) -> Any:
        with trio.fail_after(30):
            return await self.app.test_client().get(path, headers={"Host": "localhost", **headers})

    @asynccontextmanager
    async def stream(self, *headers: tuple[bytes, bytes]) -> AsyncIterator[Events]:
        """Look at the page as a browser with its script does, and leave without a word.

        Spoken to as ASGI: Quart's test client does not come back from a stream without an end.
        """
        scope = {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/api/v1/stream",
            "raw_path": b"/api/v1/stream",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), *headers],
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8080),
            "extensions": {},
        }
        leave = trio.Event()
        said = [{"type": "http.request", "body": b"", "more_body": False}]
        sent, received = trio.open_memory_channel[dict[str, Any]](0)

        async def receive() -> dict[str, Any]:
            if said:
                return said.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        app: Any = self.app
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app, scope, receive, sent.send)
                assert (await received.receive())["status"] == 200
                yield Events(received)
                leave.set()

    async def nobody_looks(self) -> None:
        with trio.fail_after(30):
            while self.live.streams or self.live.is_following:
                await trio.sleep(0.01)

    def lose_plane(self) -> None:
        """Cut the page's connection, and refuse the next."""
        self.house.listener.refuse = True
        for channel in list(self.house.listener.connections):
            if channel.name == "page":
                channel.cut("gone")


class Events:
    """What a stream brings: (event, data) one after the other."""

    def __init__(self, received: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        self._received = received
        self._buffer = b""

    async def next(self) -> tuple[str, Any]:
        with trio.fail_after(30):
            while True:
                while b"\n\n" not in self._buffer:
                    self._buffer += (await self._received.receive())["body"]
                block, _, self._buffer = self._buffer.partition(b"\n\n")
                fields = dict(
                    line.split(": ", 1) for line in block.decode().splitlines() if line[0] != ":"
                )
                if "event" in fields:
                    return fields["event"], json.loads(fields["data"])

    async def snapshot_where(self, key: str, value: object) -> Any:
        while True:
            event, data = await self.next()
            assert event == "snapshot"
            if data[key] == value:
                return data


@asynccontextmanager
async def open_page(**options: Any) -> AsyncIterator[Page]:
    async with open_house() as house, trio.open_nursery() as nursery:
        page = Page(house, **options)
        nursery.start_soon(page.live.run)
        yield page
        nursery.cancel_scope.cancel()


async def overview_when_reachable(page: Page) -> Any:
    with trio.fail_after(30):
        while True:
            overview = json.loads(await (await page.get("/api/v1/overview")).get_data())
            if overview["reachable"]:
                return overview
            await trio.sleep(0.01)


async def test_the_first_paint_has_lanes_workers_and_jobs(autojump_clock: object) -> None:
    async with open_page() as page:
        worker, client = page.house.worker("mail-1"), page.house.client()
        async with worker.connected(queues=["default"]), client.connected():
            await worker.ready("echo", slots=3)
            first = await client.submitted(1)
            await worker.finish(await worker.hear(m.Offer))
            await client.submitted(2, task="unknown", priority=1)
            overview = await overview_when_reachable(page)
            response = await page.get("/")
            html = await response.get_data(as_text=True)
            assert response.status_code == 200
            assert [job["task"] for job in overview["jobs"]] == ["unknown", "echo"]
            for text in ("mail-1", "echo", "…" + overview["jobs"][1]["id"][-8:], "0 of 3"):
                assert text in html
            assert "for a worker that knows unknown" in html
            assert overview["plane"]["epoch"] == 1
            assert overview["plane"]["durability"] == "memory"
            assert first.n == 1


async def test_a_hostile_task_name_is_text_and_nothing_else(autojump_clock: object) -> None:
    async with open_page() as page, page.stream() as events:
        client = page.house.client()
        async with client.connected():
            await client.submitted(1, task=HOSTILE)
            await overview_when_reachable(page)
            html = await (await page.get("/")).get_data(as_text=True)
            assert "<script>alert" not in html
            assert "&lt;script&gt;alert(&#39;x&#39;)" in html
            while True:
                event, data = await events.next()
                if event == "snapshot" and data["jobs"]:
                    break
            assert data["jobs"][0]["task"] == HOSTILE.replace("\u2028", "�")


async def test_every_answer_has_the_strict_headers(autojump_clock: object) -> None:
    async with open_page() as page:
        for path in ("/", "/livez", "/nothing", "/static/live.js", "/static/page.css"):
            headers = (await page.get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self';")
            assert "frame-ancestors 'none'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"


async def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_code(
    autojump_clock: object,
) -> None:
    async with open_page() as page:
        html = await (await page.get("/")).get_data(as_text=True)
        assert "http:" not in html
        assert "https:" not in html
        assert "style=" not in html
        assert "onclick" not in html
        assert html.count("<script") == 1
        for name in ("live.js", "page.css", "mark.svg", "icons.svg"):
            assert f"/static/{name}" in html
            assert (await page.get(f"/static/{name}")).status_code == 200


async def test_it_is_ready_when_its_plane_takes_jobs(autojump_clock: object) -> None:
    async with open_page() as page:
        with trio.fail_after(30):
            while (ready := await page.get("/readyz")).status_code != 200:
                await trio.sleep(0.1)
        assert (ready.status_code, await ready.get_data(as_text=True)) == (200, "ok\n")
        page.lose_plane()
        await trio.sleep(1)
        answer = await page.get("/readyz")
        assert answer.status_code == 503
        assert json.loads(await answer.get_data(as_text=True))["detail"]
        assert (await page.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "LOCALHOST:1", "[::1]", "[::1]:8080"]
)
async def test_the_machines_own_names_are_answered(host: str) -> None:
    async with open_page() as page:
        assert (await page.get("/livez", Host=host)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "a:b:80", ""])
async def test_a_foreign_host_name_is_refused_with_problem_details(host: str) -> None:
    async with open_page() as page:
        for path in ("/", "/api/v1/overview", "/api/v1/stream", "/static/live.js"):
            response = await page.get(path, Host=host)
            assert response.status_code == 421
            assert response.mimetype == "application/problem+json"
            assert (await response.get_json(force=True))["status"] == 421


async def test_what_is_not_there_is_a_problem_as_json() -> None:
    async with open_page() as page:
        response = await page.get("/api/v1/nothing")
        assert response.status_code == 404
        assert response.mimetype == "application/problem+json"


async def test_the_plane_makes_views_only_while_somebody_looks(autojump_clock: object) -> None:
    async with open_page() as page:
        await overview_when_reachable(page)
        assert not page.live.is_following
        async with page.stream() as one, page.stream() as two:
            await one.snapshot_where("reachable", True)
            await two.snapshot_where("reachable", True)
            assert page.live.is_following
        await page.nobody_looks()
        # And again: the first stream was not the last.
        async with page.stream() as three:
            await three.snapshot_where("reachable", True)


async def test_a_slow_reader_skips_to_the_newest(autojump_clock: object) -> None:
    async with open_page() as page:
        slow = page.live.open_stream()
        async with page.stream() as events:
            client = page.house.client()
            async with client.connected():
                for number in range(1, 6):
                    await client.submitted(number)
                    while True:
                        _, data = await events.next()
                        if data["jobs"] and len(data["jobs"]) == number:
                            break
            frame = await slow.next()
            newest = json.loads(frame.split(b"data: ")[1])
            assert len(newest["jobs"]) == 5
            page.live.drop(slow)


async def test_a_stream_holds_one_frame_the_newest_and_ends_with_goodbye() -> None:
    stream = Stream()
    for number in range(5):
        stream.offer(b"%d" % number)
    assert await stream.next() == b"4"
    stream.offer(b"5")
    stream.end()
    assert b"event: bye" in await stream.next()
    with pytest.raises(trio.EndOfChannel):
        await stream.next()


async def test_streams_beyond_the_limit_are_refused_and_the_others_go_on(
    autojump_clock: object,
) -> None:
    async with open_page(max_streams=1) as page:
        async with page.stream() as events:
            await events.snapshot_where("reachable", True)
            response = await page.get("/api/v1/stream")
            assert response.status_code == 503
            assert response.mimetype == "application/problem+json"
            assert int(response.headers["Retry-After"]) > 0
        await page.nobody_looks()
        async with page.stream() as events:
            await events.snapshot_where("reachable", True)


async def test_a_browser_that_comes_back_with_a_last_event_id_gets_the_newest(
    autojump_clock: object,
) -> None:
    async with open_page() as page:
        async with page.stream((b"last-event-id", b"x\t999999999999")) as events:
            await events.snapshot_where("reachable", True)


async def test_a_silent_stream_beats(autojump_clock: object) -> None:
    async with open_page() as page, page.stream() as events:
        await events.snapshot_where("reachable", True)
        started = trio.current_time()
        while (await events.next())[0] != "beat":
            pass
        assert trio.current_time() - started <= 16


async def test_a_stream_outlives_quarts_minute(autojump_clock: object) -> None:
    async with open_page() as page, page.stream() as events:
        started = trio.current_time()
        while trio.current_time() - started < 200:
            assert (await events.next())[0] in ("snapshot", "beat")


async def test_the_page_says_when_the_plane_goes_and_goes_on_when_it_is_back(
    autojump_clock: object,
) -> None:
    async with open_page() as page, page.stream() as events:
        await events.snapshot_where("reachable", True)
        page.lose_plane()
        away = await events.snapshot_where("reachable", False)
        assert away["plane"]["epoch"] == 1, "what was seen last stays"
        refused = await events.snapshot_where("why", "connection refused")
        assert not refused["reachable"]
        html = await (await page.get("/")).get_data(as_text=True)
        assert "Plane not reachable, trying again." in html
        assert 'id="away" hidden' not in html
        page.house.listener.refuse = False
        await events.snapshot_where("reachable", True)
        html = await (await page.get("/")).get_data(as_text=True)
        assert 'id="away" hidden' in html


async def test_a_page_that_is_there_before_its_plane_waits_for_it(autojump_clock: object) -> None:
    async with open_house() as house, trio.open_nursery() as nursery:
        house.listener.refuse = True
        page = Page(house)
        nursery.start_soon(page.live.run)
        async with page.stream() as events:
            await events.snapshot_where("why", "connection refused")
            response = await page.get("/")
            assert response.status_code == 200
            assert "Plane not reachable" in await response.get_data(as_text=True)
            house.listener.refuse = False
            await events.snapshot_where("reachable", True)
        nursery.cancel_scope.cancel()


async def test_the_page_of_a_plane_that_was_never_reached_claims_nothing() -> None:
    async with open_house() as house:
        html = await (await Page(house).get("/")).get_data(as_text=True)
    counts, _, tables = html.partition("</ul>")
    assert counts.count("<b>–</b>") == 10
    assert "<b>0</b>" not in counts
    for name in ("no-lanes", "no-workers", "no-jobs"):
        assert f'id="{name}" hidden>' in tables


async def test_the_log_says_when_the_plane_is_waited_for_and_found(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="creche.dashboard")

    def told() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    async with open_page() as page, trio.open_nursery() as nursery:
        page.house.listener.refuse = True
        nursery.start_soon(page.live.tell)
        # From here on at moments at which `tell` does not look: who is first then is not said.
        await trio.sleep(60.1)
        (line,) = told()
        assert line.startswith("waiting for the plane at memory:plane (")
        page.house.listener.refuse = False
        await trio.sleep(10)
        assert told() == ["the page is connected to memory:plane"]
        page.lose_plane()
        await trio.sleep(1)
        page.house.listener.refuse = False
        await trio.sleep(1)
        assert "waiting" not in "".join(told())  # it was away for a moment only
        page.lose_plane()
        await trio.sleep(10)
        assert [line.partition(" at ")[0] for line in told()] == ["waiting for the plane"]
        nursery.cancel_scope.cancel()


async def test_closing_says_goodbye_and_opens_no_more_streams(autojump_clock: object) -> None:
    async with open_page() as page, page.stream() as events:
        await events.snapshot_where("reachable", True)
        page.live.close()
        while (await events.next())[0] != "bye":
            pass
        assert (await page.get("/api/v1/stream")).status_code == 503
        await page.nobody_looks()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (1.25, "1.2 s"),
        (63, "1 min 03 s"),
        (7500, "2 h 05 min"),
        (200_000, "2 d 7 h"),
    ],
    ids=str,
)
async def test_a_duration_reads_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


async def test_a_host_without_a_port_keeps_its_colons() -> None:
    assert host_name("[::1]") == "[::1]"
    assert host_name("Localhost:80") == "localhost"
