"""Figures of demo and bench: percentiles, costs, and where a bench works."""

from __future__ import annotations

import ast
import os
import sysconfig
from pathlib import Path

import pytest

from creche.cli import cost
from creche.cli.bench import _place_of
from creche.cli.bench_load import _per_job
from creche.cli.demo import source_files, total
from creche.cli.demo_tasks import count
from creche.cli.statistics import percentile, percentiles_ms


def test_percentiles_are_between_the_values_by_a_line() -> None:
    values = [0.003, 0.001, 0.002, 0.004, 0.005]
    assert percentile(values, 0) == 0.001
    assert percentile(values, 0.5) == 0.003
    assert percentile(values, 1) == 0.005
    assert percentile([0.001, 0.002], 0.5) == pytest.approx(0.0015)
    assert percentiles_ms([0.0015]) == {"p50": 1.5, "p95": 1.5, "p99": 1.5}


def test_cpu_and_memory_of_a_process_are_told_where_the_system_tells_them() -> None:
    if not Path("/proc/self/stat").exists():
        assert cost.cpu_s(os.getpid()) is None
        return
    used, memory = cost.cpu_s(os.getpid()), cost.rss_bytes(os.getpid())
    assert used is not None
    # Another way to the same figure; a tick of the clock apart at most, and some for the call.
    assert used == pytest.approx(sum(os.times()[:2]), abs=0.1)
    assert memory is not None
    assert memory > 1024 * 1024


def test_a_process_that_is_gone_costs_nothing_that_is_known() -> None:
    assert cost.cpu_s(2**30) is None
    assert cost.rss_bytes(2**30) is None


def test_cost_a_job_is_of_the_difference_and_unknown_if_a_part_is() -> None:
    before = {"plane": 1.0, "client": 0.5}
    assert _per_job(before, {"plane": 1.5, "client": 1.5}, 1000) == {
        "plane": 500.0,
        "client": 1000.0,
        "total": 1500.0,
    }
    unknown = _per_job(before, {"plane": None, "client": 1.5}, 1000)
    assert unknown == {"plane": None, "client": 1000.0, "total": None}


def test_a_bench_never_uses_a_store_that_is_there(tmp_path: Path) -> None:
    assert _place_of("sqlite:bench.db") == (None, "sqlite:bench.db")
    assert _place_of("memory:") == (None, "memory:")
    assert _place_of(f"sqlite:{tmp_path}/mine.db") == (str(tmp_path), "sqlite:mine.db")


def test_the_demo_counts_what_is_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    source = "class A:\n  def b(self):\n    async def c(): ...\n    return lambda: 0\n\nx = 1\n"
    file.write_text(source)
    assert count(str(file)) == [6, 2, 1]
    assert total(iter([[6, 2, 1], [1, 0, 0]])) == {"lines": 7, "functions": 2, "classes": 1}


def test_the_demo_finds_the_standard_library_without_its_tests() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    found = list(source_files(root))
    assert Path(ast.__file__) in found
    assert len(found) > 300
    assert not any(
        {"test", "tests", "site-packages"} & set(path.parts[len(root.parts) :]) for path in found
    )
