"""URLs, and the words for what goes wrong before there is a channel."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from creche.channel.handshake import (
    Target,
    parse_url,
    why_closed,
    why_not_connected,
    why_not_listening,
    why_rejected,
)
from creche.errors import SettingsError


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


def test_a_rejection_is_quoted_unless_it_is_a_page() -> None:
    assert why_rejected(400, b"wrong version\nmore") == "it refused: HTTP 400: wrong version"
    assert why_rejected(404, b"<!doctype html>") == "it refused: HTTP 404"
    assert why_rejected(500, None) == "it refused: HTTP 500"
    assert "something else" in why_rejected(200, b"hello")


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
