"""The web application: one page, its data as JSON, and a stream of it.

Read-only, without credentials, for browsers on this machine. A page of another site must not read
it either: no CORS, and, where the page listens on loopback, only the machine's own names are
answered, so that a name that an attacker points to 127.0.0.1 leads nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType

import trio
from quart import Response, render_template, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from creche.channel.gate import host_name
from creche.dashboard.live import Live, Stream, StreamsFull

BEAT_S = 15.0
"""A stream that has nothing to say says so that often: proxies cut silent ones, and a send is how a
vanished reader is found."""

_RETRY = b"retry: 1000\n\n"
# A comment for proxies, an event for our script, which sees no comments.
_BEAT = b": beat\nevent: beat\ndata: {}\n\n"

_STATIC = Path(__file__).parent / "static"
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def make_app(live: Live, *, hosts: Collection[str] | None, beat_s: float = BEAT_S) -> QuartTrio:
    """Return the application that shows *live*.

    Args:
        live: run by the caller, beside the application.
        hosts: the names in a request's ``Host`` that are answered, in lower case and without a
            port; None: any.
        beat_s: seconds between a silent stream's heartbeats.
    """
    app = QuartTrio("creche.dashboard", static_folder=None)
    # Nothing here takes a body.
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    app.jinja_env.filters.update(duration=duration, clock=clock)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True

    @app.before_request
    async def know_the_host() -> Response | None:
        if hosts is None or host_name(request.headers.get("Host", "")) in hosts:
            return None
        return problem(421, "this page is not served under that host name")

    @app.after_request
    async def keep_strict(response: Response) -> Response:
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.errorhandler(HTTPException)
    async def explain(error: HTTPException) -> Response:
        return problem(error.code or 500, error.description or error.name)

    @app.get("/")
    async def page() -> str:
        overview = await live.newest()
        return await render_template(
            "index.html", o=overview, now=overview["at"], own_version=version()
        )

    @app.get("/api/v1/overview")
    async def overview() -> Response:
        return Response(
            json.dumps(await live.newest(), allow_nan=False), mimetype="application/json"
        )

    @app.get("/api/v1/stream")
    async def stream() -> Response:
        if not live.has_room:
            response = problem(503, "as many browsers look at this page as it serves at once")
            response.headers["Retry-After"] = "5"
            return response
        # A HEAD request has no use for a body that never ends.
        body = b"" if request.method == "HEAD" else _StreamBody(live, beat_s)
        response = Response(body, mimetype="text/event-stream")
        response.headers["X-Accel-Buffering"] = "no"
        # Quart ends a response after a minute unless told otherwise.
        response.timeout = None
        return response

    files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.is_file()}

    @app.get("/static/<filename>", endpoint="static")
    async def static(filename: str) -> Response:
        # From memory: no thread and no open file a request, and nothing outside of the folder.
        if filename not in files:
            return problem(404, f"there is no file {filename!r}")
        kind = _KINDS[filename.rpartition(".")[2]]
        response = Response(files[filename], mimetype=kind)
        response.headers["Cache-Control"] = "no-cache"
        await response.add_etag()
        await response.make_conditional(request)
        return response

    @app.get("/livez")
    async def livez() -> Response:
        return Response("ok\n", mimetype="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        overview = await live.newest()
        plane = overview["plane"]
        why = overview["why"] if not overview["reachable"] else plane.get("failing")
        if overview["reachable"] and plane["ready"] and not why:
            return Response("ok\n", mimetype="text/plain")
        return problem(503, why or "the plane is not ready")

    return app


class _StreamBody(ResponseBody):
    """A stream as a response's body. Quart enters and leaves it within the request's nursery, so a
    reader who leaves at any moment is dropped."""

    def __init__(self, live: Live, beat_s: float) -> None:
        self._live = live
        self._beat_s = beat_s
        self._stream: Stream | None = None
        self._is_begun = False

    async def __aenter__(self) -> _StreamBody:
        try:
            self._stream = self._live.open_stream()
        except StreamsFull:
            # Others came between the answer's head and its body: this one ends, and asks again.
            self._stream = None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._live.drop(self._stream)

    def __aiter__(self) -> _StreamBody:
        return self

    async def __anext__(self) -> bytes:
        if not self._is_begun:
            self._is_begun = True
            return _RETRY
        if self._stream is None:
            raise StopAsyncIteration
        with trio.move_on_after(self._beat_s):
            try:
                return await self._stream.next()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
        return _BEAT


def problem(status: int, detail: str) -> Response:
    """Return an error as problem details (RFC 9457)."""
    body = json.dumps({"status": status, "detail": detail})
    return Response(body, status, mimetype="application/problem+json")


def duration(seconds: float | None) -> str:
    """Return a duration as people read it; the page's script says the same."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def clock(moment: float | None) -> str:
    """Return a moment as the time of day in UTC."""
    if moment is None:
        return "–"
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S")


def version() -> str:
    """Return the installed version of this page's process."""
    try:
        return metadata.version("creche")
    except metadata.PackageNotFoundError:
        return "unknown"
