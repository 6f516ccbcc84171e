"""Board power: bounded by what a board can draw, and found again from rows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.perf_model.board_power import FEATURES, fit_power, power_w
from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.fit import fit_rows, shipped_fit
from tokenwatt.perf_model.predictions import QUANTITIES

TRUE = np.array([0.4, 1.0, 1.5, -0.05])


def rows(count: int) -> np.ndarray:
    """Features of about the size that served models have."""
    random = np.random.default_rng(3)
    columns = (
        np.ones(count),
        random.uniform(0, 0.2, count),
        random.uniform(0, 0.1, count),
        random.uniform(2, 5, count),
    )
    return np.stack(columns, axis=1)


def test_far_below_the_limit_it_is_what_is_asked():
    # 0.5 of the limit and no more.
    found = power_w(np.array([0.5, 0, 0, 0]), rows(1), np.array([700.0]))
    assert found[0] == pytest.approx(350, rel=0.001)


@given(st.lists(st.floats(-50, 50), min_size=len(FEATURES), max_size=len(FEATURES)), st.floats(10, 5000))
def test_never_above_the_board_s_limit_nor_below_nothing(coefficients, limit):
    found = power_w(np.array(coefficients), rows(50), np.full(50, limit))
    assert (found > 0).all()
    assert (found < limit).all()


@given(st.floats(0, 3), st.floats(0, 3))
def test_who_asks_for_more_gets_no_less(one, other):
    low, high = sorted((one, other))
    table = np.zeros((2, len(FEATURES)))
    table[:, 0] = low, high
    found = power_w(np.array([1.0, 0, 0, 0]), table, np.full(2, 700.0))
    assert found[0] <= found[1]


def test_coefficients_are_found_again_beside_outliers():
    table, limit = rows(400), np.full(400, 700.0)
    watts = power_w(TRUE, table, limit)
    watts[::10] *= 2  # a tenth is wrong
    watts[1::10] = np.nan  # and a tenth was not measured
    found = fit_power(table, limit, watts, np.full(400, 1.0))
    assert found is not None
    np.testing.assert_allclose(power_w(found, table, limit), power_w(TRUE, table, limit), rtol=0.03)


def test_fewer_rows_than_coefficients_fit_nothing():
    assert fit_power(rows(3), np.full(3, 700.0), np.full(3, 100.0), np.ones(3)) is None
    assert fit_power(rows(9), np.full(9, 700.0), np.full(9, np.nan), np.ones(9)) is None
    assert fit_power(rows(9), np.full(9, 700.0), np.full(9, 100.0), np.ones(9)) is not None


def test_rows_without_power_take_the_shipped_coefficients():
    table = pd.DataFrame([{"model": "Qwen3-8B", "gpu": "H100", "concurrency": "8", "engine": "vllm"}], dtype="object")
    known = check_cases(table).valid.assign(**dict.fromkeys(QUANTITIES, math.nan)).assign(tpot_s=0.01)
    assert fit_rows(known).power == shipped_fit().power
