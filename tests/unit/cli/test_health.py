"""What `creche health` makes of the plane's answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from creche.cli.app import run

ANSWER = {
    "v": 1, "ready": True, "stopping": False, "failing": None, "epoch": 1, "durability": "disk",
    "started_at": 0.0, "jobs": {"queued": 3},
}  # fmt: skip


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the plane answers."""
    told = dict(ANSWER)

    async def ask(*_: Any) -> dict[str, Any]:
        return told

    monkeypatch.setattr("creche.cli.health.ask", ask)
    return told


def test_a_store_that_takes_nothing_is_told_and_not_ready(
    answer: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answer["failing"] = "database or disk is full (SQLITE_FULL)"
    assert run(["health"]) == 0
    assert run(["health", "--ready"]) == 1
    assert run(["health", "--ready", "--json"]) == 1
    out, err = capsys.readouterr()
    first, second, document = out.splitlines()
    assert first == second
    assert first.startswith("takes no new jobs (database or disk is full (SQLITE_FULL)), epoch 1 ")
    assert json.loads(document)["failing"] == answer["failing"]
    assert err == ""


@pytest.mark.parametrize(
    ("is_ready", "word", "code"), [(True, "ready", 0), (False, "not ready", 1)]
)
def test_a_plane_is_ready_once_it_has_recovered(
    answer: dict[str, Any], capsys: pytest.CaptureFixture[str], is_ready: bool, word: str, code: int
) -> None:
    answer["ready"] = is_ready
    assert run(["health", "--ready"]) == code
    assert run(["health"]) == 0
    assert capsys.readouterr().out.startswith(f"{word}, epoch 1 ")
