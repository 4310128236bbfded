"""URLs, and the words for what goes wrong before there is a channel."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from creche.channel.handshake import (
    Target,
    parse_url,
    rejected,
    why_closed,
    why_not_connected,
    why_not_listening,
)
from creche.errors import NotAPlane, PlaneUnreachable, SettingsError


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("ws://127.0.0.1:5570", Target("127.0.0.1", 5570, False, "/"), "127.0.0.1:5570"),
        ("wss://Plane.Example", Target("plane.example", 443, True, "/"), "plane.example:443"),
        ("ws://[::1]:5570/", Target("::1", 5570, False, "/"), "[::1]:5570"),
        ("ws://h/a/b?c=d", Target("h", 80, False, "/a/b?c=d"), "h:80"),
    ],
)
def test_a_url_says_where_to_connect(url: str, target: Target, authority: str) -> None:
    assert parse_url(url) == target
    assert parse_url(url).authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:5570",
        "http://127.0.0.1:5570",
        "ws://",
        "ws://:5570",
        "ws://h:port",
        "ws://h:70000",
        "ws://[::1",
        "ws://" + "a" * 70,
        "ws://a..b",
        "ws://h/ö",
        "ws://h/a b",
    ],
)
def test_what_is_no_url_of_a_plane_is_a_settings_error_that_shows_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ws://me:hush@plane:5570",
        "ws://hush@plane",
        "ws://me:hush@",
        "http://me:hush@plane",
        "me:hush@plane:5570",
    ],
)
def test_a_url_with_a_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)
    assert "Client(token=...)" in str(caught.value)


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_each_reason_for_not_connecting_is_named_once() -> None:
    refused = os_error(errno.ECONNREFUSED)
    assert why_not_connected(refused) == "connection refused"
    tried = OSError("all attempts failed")
    tried.__cause__ = ExceptionGroup("", [refused, os_error(errno.ECONNREFUSED)])
    assert why_not_connected(tried) == "connection refused"
    tried.__cause__ = ExceptionGroup("", [refused, os_error(errno.ENETUNREACH)])
    assert why_not_connected(tried) == "connection refused; network is unreachable"
    assert why_not_connected(socket.gaierror(-2, "x")) == "its host name is unknown"
    assert why_not_connected(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EADDRINUSE, "in use"),
        (errno.EACCES, "privileges"),
        (errno.EADDRNOTAVAIL, "no such address"),
        (errno.EMFILE, "too many open files"),
    ],
)
def test_not_listening_names_the_place_and_a_hint(number: int, hint: str) -> None:
    why = why_not_listening("::1", 5570, os_error(number))
    assert why.startswith("cannot listen on [::1]:5570: ")
    assert hint in why


NO_PLANE = "something answers there, but it is not a Creche plane: "


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (400, b"no upgrade\nmore", NO_PLANE + "HTTP 400"),
        (404, b"<!doctype html>", NO_PLANE + "HTTP 404"),
        (200, b"hello", NO_PLANE + "HTTP 200"),
        (301, None, NO_PLANE + "HTTP 301"),
        (400, b"this is a Creche plane: it speaks x\n", "this is a Creche plane: it speaks x"),
    ],
)
def test_an_answer_that_will_not_change_says_that_this_is_no_plane(
    status: int, body: bytes | None, why: str
) -> None:
    error = rejected(status, body).at("ws://h")
    assert isinstance(error, NotAPlane)
    assert error.why == why
    assert str(error) == f"no plane answers at ws://h: {why}; is the address right?"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_answer_that_may_change_is_a_plane_out_of_reach_for_now(status: int) -> None:
    error = rejected(status, b"come back later").at("ws://h")
    assert type(error) is PlaneUnreachable
    assert error.why == f"it refused: HTTP {status}: come back later"
    assert rejected(status, b"<!doctype html>").why == f"it refused: HTTP {status}"


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (None, None, "the connection to p was lost"),
        (1006, None, "the connection to p was lost"),
        (1000, None, "p closed the connection"),
        (1001, "bye", "p closed the connection: bye"),
        (1009, "too long", "the connection to p ended (too big): too long"),
        (4000, None, "the connection to p ended (code 4000)"),
    ],
)
def test_the_end_of_a_connection_has_words(
    code: int | None, reason: str | None, words: str
) -> None:
    assert why_closed("p", code, reason) == words
