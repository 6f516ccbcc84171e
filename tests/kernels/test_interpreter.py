"""The repaired interpreter rounds as a GPU does."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def report(run_interpreted):
    return run_interpreted("casts.py")


def test_fp32_becomes_float8_by_rounding_to_nearest_even(report):
    # 127 numbers from 0 to 448, 126 ties and as many on either side, 4096 random ones, each with both signs:
    # 2 * (127 + 3 * 126 + 4096) = 9202. None differs from the nearest number, none from torch's cast.
    assert report["float8"] == [9202, [], []]


def test_float8_ends_at_448_and_keeps_nan(report):
    assert report["float8 beyond its range"] == [448.0] * 5 + [-448.0] * 5
    assert report["float8 of nan"] == [True]


def test_fp32_becomes_bfloat16_by_rounding_to_nearest_even(report):
    # 255 exponents of 128 numbers: 32,640. With the ties: 2 * (32640 + 3 * 32639 + 4096) = 269,306.
    assert report["bfloat16"] == [269_306, [], []]
    assert report["bfloat16 of infinity and nan"] == [False, False]


def test_narrow_numbers_become_wide_ones_exactly(report):
    for wide in ("float32", "float16", "bfloat16"):
        assert report[f"float8 to {wide}"] == [127, []]
    assert report["bfloat16 to float32"] == [32_640, []]
