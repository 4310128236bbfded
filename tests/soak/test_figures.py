"""The verdict of a soak: what grows is found, and what only moves is not blamed."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.soak.figures import Line, Sample, as_text, judge, slope_per_s, thinned

LINES = {"memory": Line(600.0, "KiB")}


def series(
    per_min: float, *, noise: float = 0.0, minutes: float = 10, seed: int = 1
) -> list[Sample]:
    """A figure that grows so, with noise of both signs, every two seconds."""
    rng = Random(1)
    return [
        Sample(at, 40_000 + per_min * at / 60 + rng.uniform(-noise, noise))
        for at in range(0, int(minutes * 60), 2)
    ]


def is_flat(samples: list[Sample], warm_at: float = 0.0) -> bool:
    (verdict,) = judge({"memory": samples}, LINES, warm_at=warm_at)
    return verdict.is_flat


@pytest.mark.parametrize("noise", [0, 500, 3000])
def test_a_leak_is_found_in_noise_and_what_is_level_is_not_blamed(noise: float) -> None:
    assert not is_flat(series(1500, noise=noise))
    assert is_flat(series(0, noise=noise))
    assert is_flat(series(-2000, noise=noise))


def test_what_is_collected_now_and_then_does_not_grow() -> None:
    saw = [Sample(s.at, s.value + 5000 * ((s.at % 47) / 47)) for s in series(0, noise=100)]
    assert is_flat(saw)
    leaking = [Sample(s.at, s.value + 5000 * ((s.at % 47) / 47)) for s in series(1500)]
    assert not is_flat(leaking)


def test_a_few_wild_samples_say_nothing() -> None:
    rng = Random(2)
    wild = [
        Sample(s.at, s.value + 200_000) if rng.random() < 0.15 else s for s in series(0, noise=50)
    ]
    assert is_flat(wild)


def test_what_grows_while_it_warms_up_is_not_counted() -> None:
    warming = [Sample(s.at, s.value + 20_000 * (1 - math.exp(-s.at / 40))) for s in series(0)]
    assert is_flat(warming, warm_at=240)
    assert not is_flat([s for s in warming if s.at < 240])


def test_one_descriptor_more_each_minute_is_found() -> None:
    steps = [Sample(at, 20.0 + at // 60) for at in range(0, 600, 2)]
    (verdict,) = judge({"descriptors": steps}, {"descriptors": Line(0.5)}, warm_at=0)
    assert not verdict.is_flat
    (verdict,) = judge({"descriptors": steps}, {"descriptors": Line(1.5)}, warm_at=0)
    assert verdict.is_flat


@pytest.mark.parametrize("samples", [[], series(0)[:3]])
def test_what_was_not_measured_is_not_flat(samples: list[Sample]) -> None:
    assert not is_flat(samples)
    (verdict,) = judge({"memory": samples}, LINES, warm_at=0)
    assert "UNKNOWN" in as_text([verdict])


@given(
    slope=st.floats(-1e4, 1e4),
    level=st.floats(-1e6, 1e6),
    size=st.integers(2, 2000),
)
def test_the_slope_of_a_line_is_its_slope(slope: float, level: float, size: int) -> None:
    points = [Sample(2.0 * n, level + slope * 2.0 * n) for n in range(size)]
    assert slope_per_s(points) == pytest.approx(slope, abs=1e-6, rel=1e-6)


@given(size=st.integers(0, 3000), most=st.integers(1, 500))
def test_thinned_samples_are_few_and_span_the_same_time(size: int, most: int) -> None:
    samples = [Sample(float(n), float(n)) for n in range(size)]
    few = thinned(samples, most)
    assert len(few) <= most
    assert [s.at for s in few] == sorted(s.at for s in few)
    assert bool(few) == bool(samples)


def test_the_report_says_slope_and_bound_of_each_figure() -> None:
    verdicts = judge({"memory": series(1500)}, LINES, warm_at=0)
    line = as_text(verdicts).splitlines()[1]
    assert line.split() == ["memory", "(KiB)", *line.split()[2:4], "+1,500.000", "600.000", "GROWS"]
