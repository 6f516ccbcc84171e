"""Runs that end, against a step-by-step count of who is in flight."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.perf_model.finite_run import in_flight


def counted(requests: int, most: int, isl: int, osl: int, budget: int) -> tuple[float, float]:
    """Mean in flight and share of steps with prompts, one step after the other; prompts may come in parts."""
    left, ends = float(requests), []
    steps, total, with_prompts, running = 0, 0.0, 0, 0.0
    while left > 1e-9 or running > 1e-9:
        running -= sum(number for end, number in ends if end == steps)
        ends = [(end, number) for end, number in ends if end > steps]
        coming = min(left, most - running, max(budget - running, 0) / isl)
        if coming > 1e-9:
            ends.append((steps + osl, coming))
            with_prompts += 1
        left, running = left - coming, running + coming
        total, steps = total + running, steps + 1
    return total / steps, with_prompts / steps


def test_a_budget_without_limit_fills_at_once():
    # 3000 requests, 2000 at a time: a round of 2000 and one of 1000.
    found = in_flight(3000, 2000, 100, 1000, budget=1e12)
    assert found.mean == pytest.approx(1500)
    assert found.taking_in == pytest.approx(0, abs=1e-6)


def test_the_budget_paces_what_comes_in():
    # Steps of 2000 tokens hold 1000 that decode and 10 prompts of 100: 69.3 steps until 1000 run.
    found = in_flight(1000, 1000, 100, 1000, budget=2000)
    fill = 100 * math.log(2)
    assert found.mean == pytest.approx(1000 * 1000 / (1000 + fill))
    assert found.taking_in == pytest.approx(fill / (1000 + fill))


@pytest.mark.parametrize(
    ("requests", "most", "isl", "osl", "budget"),
    [
        (3000, 1500, 1000, 1000, 3000),
        (3000, 2048, 128, 2048, 2176),
        (1500, 340, 1024, 8192, 2048),
        (300, 500, 2048, 128, 9000),
        (40, 7, 500, 100, 2048),
    ],
)
def test_as_counted_step_by_step(requests: int, most: int, isl: int, osl: int, budget: int):
    found = in_flight(requests, most, isl, osl, budget)
    mean, taking_in = counted(requests, most, isl, osl, budget)
    # Later rounds are taken to come in like the first; in truth each is more spread out than the one before.
    assert found.mean == pytest.approx(mean, rel=0.07)
    assert found.taking_in == pytest.approx(taking_in, abs=0.1)


@given(st.floats(1, 1e6), st.floats(1, 4096), st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1, 1e5))
def test_no_more_in_flight_than_there_are_or_fit(requests, most, isl, osl, budget):
    found = in_flight(requests, most, isl, osl, budget)
    assert 0 < found.mean <= min(requests, most) * (1 + 1e-9)
    assert 0 <= found.taking_in <= 1
    assert in_flight(requests * 1000, most, isl, osl, budget).mean >= found.mean * (1 - 1e-6) or requests < most
