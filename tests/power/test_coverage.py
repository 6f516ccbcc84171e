"""How near the measured energy is to the truth, and how often its interval holds it, over 500 virtual machines."""

from __future__ import annotations

import pytest

from tokenwatt.power.virtual import coverage


@pytest.mark.parametrize(("window_s", "median", "worst"), [(5.0, 0.001, 0.005), (20.0, 0.0002, 0.002)])
def test_five_hundred_machines(window_s: float, median: float, worst: float):
    """Loads like an LLM's and ramps, counters of 20 to 100 ms at any phase, the same seeds in every run."""
    found = coverage(trials=500, window_s=window_s)
    assert found.refused == 0
    assert found.median_error <= median
    assert found.worst_error <= worst
    assert 0.92 <= found.covered <= 0.98
    # The interval says something: it is not there by being wide.
    assert found.half_width <= 4 * found.median_error + 1e-3
