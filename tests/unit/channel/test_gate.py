"""Web pages are kept out, and peers are not."""

from __future__ import annotations

import pytest

from creche.channel.gate import LOOPBACK_NAMES, Gate, host_name


def headers(origin: str | None) -> list[tuple[bytes, bytes]]:
    found = [(b"user-agent", b"x")]
    return found if origin is None else [*found, (b"Origin", origin.encode())]


def test_who_is_no_browser_comes_in() -> None:
    assert Gate().why_shut(headers(None), "anything:5570") is None


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:8080"])
def test_no_page_comes_in_wherever_it_is_from(origin: str) -> None:
    why = Gate().why_shut(headers(origin), "127.0.0.1:5570")
    assert why is not None
    assert f"this comes from one at {origin!r}" in why
    assert "--allow-origin" in why


def test_a_page_that_is_let_in_is_the_only_one() -> None:
    gate = Gate({"https://shop.example:8443"})
    assert gate.why_shut(headers("https://Shop.example:8443"), "x") is None
    for other in (
        "https://shop.example",
        "http://shop.example:8443",
        "https://shop.example:8443.x",
    ):
        assert gate.why_shut(headers(other), "x") is not None


def test_one_of_two_origins_is_enough_to_be_kept_out() -> None:
    gate = Gate({"https://shop.example"})
    both = [*headers("https://shop.example"), *headers("https://evil.example")]
    assert gate.why_shut(both, "x") is not None


@pytest.mark.parametrize("host", ["127.0.0.1:5570", "localhost", "LOCALHOST:1", "[::1]:5570"])
def test_the_names_of_the_loopback_are_known(host: str) -> None:
    assert Gate(hosts=LOOPBACK_NAMES).why_shut(headers(None), host) is None


@pytest.mark.parametrize(
    "host", ["rebound.evil.example:5570", "127.0.0.1.evil.example", "", "::1", "10.0.0.7:5570"]
)
def test_another_name_that_leads_here_is_refused_with_the_way_to_add_it(host: str) -> None:
    why = Gate(hosts=LOOPBACK_NAMES).why_shut(headers(None), host)
    assert why is not None
    assert why == f"it is not called {host_name(host)!r} (--allow-host gives it another name)"
    assert Gate(hosts={*LOOPBACK_NAMES, host_name(host)}).why_shut(headers(None), host) is None
